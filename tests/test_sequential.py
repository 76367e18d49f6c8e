"""Tests that may be looked at whenever one likes keep their promise, and find what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb import errors, guards, sequential
from mlops_nb.telemetry import Agreed, Counted
from mlops_nb.telemetry.copies import BIN_RATIO, BINS

LEVEL = sequential.threshold(0.05)


def test_the_beta_function_is_that_of_scipy() -> None:
    from scipy.special import betaln

    a, b = np.geomspace(0.3, 1e6, 60), np.geomspace(1e5, 0.5, 60)
    assert np.allclose(sequential._ln_beta(a, b), betaln(a, b), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3, 0.95])
def test_an_interval_looked_at_after_every_answer_hardly_ever_loses_the_rate(rate: float) -> None:
    rng = np.random.default_rng(7)
    yes = np.cumsum(rng.random((400, 1500)) < rate, axis=1)
    evidence = sequential.evidence_against_rate(yes, np.arange(1, 1501), rate)
    assert (evidence.max(axis=1) >= LEVEL).mean() <= 0.05
    low, high = sequential.interval(yes[:, -1], 1500)
    assert np.all((low <= high) & (low >= 0) & (high <= 1))


@pytest.mark.parametrize("flat", [True, False])
def test_equal_rates_are_seldom_told_apart_even_at_the_margin_and_a_harmful_one_nearly_always(flat: bool) -> None:
    rng = np.random.default_rng(11)
    expected = guards.Expected() if flat else guards.Expected(requests=20_000, errors=400)
    prior, before = expected.priors

    def found(rate: float, looks: int = 100, each: int = 100) -> float:
        mine = np.cumsum(rng.binomial(each, rate, (200, looks)), axis=1)
        others = np.cumsum(rng.binomial(each, 0.02, (200, looks)), axis=1)
        count = np.arange(1, looks + 1) * each
        evidence = sequential.evidence_of_more(mine, count, others, count, 0.005, prior=prior, prior_before=before)
        return float((evidence.max(axis=1) >= LEVEL).mean())

    assert found(0.02) <= 0.05
    assert found(0.025) <= 0.05
    assert found(0.045) >= (0.9 if flat else 0.99)


def test_a_difference_is_bounded_by_where_its_evidence_ends() -> None:
    low, high = sequential.difference(60, 1000, 10, 1000)
    assert 0 < low < 0.05 < high < 0.1
    assert sequential.difference(0, 0, 0, 0) == pytest.approx((-1, 1), abs=0.01)
    assert float(sequential.evidence_of_more(60, 1000, 10, 1000, low - 1e-4)) >= LEVEL > float(sequential.evidence_of_more(60, 1000, 10, 1000, low + 1e-4))


def histogram(milliseconds: np.ndarray) -> list[int]:
    places = np.ceil(np.log(milliseconds / 0.001) / math.log(BIN_RATIO)).astype(int).clip(0, BINS - 1)
    return np.bincount(places, minlength=BINS).tolist()


def test_latencies_that_are_alike_are_seldom_called_slower_and_slower_ones_are() -> None:
    rng = np.random.default_rng(3)
    wrong = found = 0
    for _ in range(60):
        base, same, slow = (rng.lognormal(1.0, 0.4, 3000) for _ in range(3))
        looks = range(200, 3001, 200)
        wrong += any(sequential.evidence_of_slower(histogram(same[:n] * 1.1), histogram(base[:n]), quantile=0.95, steps=10) >= LEVEL for n in looks)
        found += any(sequential.evidence_of_slower(histogram(slow[:n] * 1.6), histogram(base[:n]), quantile=0.95, steps=10) >= LEVEL for n in looks)
    assert wrong <= 6
    assert found >= 55


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=6))
def test_stages_combine_to_no_more_than_their_best_run_and_no_less_than_its_share(stages: list[float]) -> None:
    best = max(sum(stages[k:]) for k in range(len(stages)))
    assert best - math.log(len(stages)) - 1e-9 <= sequential.combined(stages) <= best + 1e-9


@given(st.lists(st.floats(-20, 20), max_size=6), st.integers(1, 12))
def test_a_stage_that_begins_changes_nothing_by_beginning(stages: list[float], more: int) -> None:
    planned = len(stages) + more
    assert sequential.combined([*stages, 0.0], planned=planned) == pytest.approx(sequential.combined(stages, planned=planned))


def test_many_stages_keep_the_promise_of_one() -> None:
    """Each stage's evidence grows by chance to just what refutes, one time in as much, and else is lost: the worst that chance may do."""
    planned, kept = 12, 1.0
    for stage in range(planned):
        lost = [math.log(1e-9)] * stage
        growth = next(e for e in range(2, 40 * planned) if sequential.combined([*lost, math.log(e)], planned=planned) >= LEVEL)
        kept *= 1 - 1 / growth
    assert 1 - kept <= 0.05


@pytest.mark.parametrize("text", ["error_rate<=+0.5pp", "error_rate<=2%", "p95<=+10%", "p99<=50ms", "agreement>=0.95"])
def test_guards_are_read_and_said_alike(text: str) -> None:
    assert str(guards.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "error_rate", "error_rate<=0.5pp", "error_rate>=+1pp", "p95>=10ms", "p95<=10%", "agreement<=0.9", "auc>=7", "p95<=+0%", "error_rate<=200%"]
)
def test_what_is_no_guard_is_refused(text: str) -> None:
    with pytest.raises(errors.BadOption):
        guards.parse(text)


@settings(max_examples=40)
@given(st.sampled_from(["error_rate<=+0.5pp", "error_rate<=2%", "p95<=+10%", "p95<=5ms", "agreement>=0.9"]))
def test_nothing_seen_is_no_evidence(text: str) -> None:
    assert guards.evidence(guards.parse(text), Counted(), Counted(), Agreed(), guards.Expected()) <= 0


def test_what_lies_beyond_its_bound_is_waited_for_even_where_it_proves_nothing() -> None:
    slow, quick = Counted(requests=30, errors=1, latencies={1200: 30}), Counted(requests=30, latencies={900: 30})
    for text, is_beyond in {"p95<=+10%": True, "p95<=1ms": True, "p95<=500ms": False, "error_rate<=+0.5pp": True, "error_rate<=5%": False}.items():
        guard = guards.parse(text)
        assert guards.beyond(guard, slow, quick, Agreed()) is is_beyond, text
        assert not guards.beyond(guard, Counted(), quick, Agreed())
    assert not guards.beyond(guards.parse("p95<=+10%"), quick, slow, Agreed())
