"""Verdicts by counts: how often they alarm for nothing, what they find, and that counting loses nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from mlops_nb import datasets, monitoring, store, summaries
from mlops_nb.errors import BadOption
from mlops_nb.monitoring import counting, judging
from mlops_nb.summaries import ColumnSummary

from .conftest import flights

RANDOM = np.random.default_rng(5)


def reference(rows: int = 10_000) -> ColumnSummary:
    values = np.sort(RANDOM.normal(size=rows))
    edges = [values[0] - 1e-9, *values[np.arange(1, 256) * rows // 256], values[-1]]
    counts = np.diff(np.searchsorted(values, edges, side="right"), prepend=0, append=rows)
    return ColumnSummary(name="f", kind="number", count=rows, edges=[float(edge) for edge in edges], counts=counts.tolist())


def drawn(before: ColumnSummary, rows: int, shift: float = 0.0) -> ColumnSummary:
    upto = [NormalDist(shift).cdf(edge) for edge in before.edges]
    return ColumnSummary(name="f", kind="number", count=rows, edges=before.edges, counts=RANDOM.multinomial(rows, np.diff(upto, prepend=0, append=1)).tolist())


def alarms(rows: int, looks: int, shift: float = 0.0) -> bool:
    """Whether any of so many looks at 20 features alarms, one having moved by *shift* σ."""
    before = [reference() for _ in range(20)]
    windows: list[list[ColumnSummary]] = []
    for _ in range(looks):
        windows = [[drawn(one, rows, shift if n == 0 else 0) for n, one in enumerate(before)], *windows[:4]]
        if any(test.p_adjusted < judging.Budget().alpha for one in judging.judge(before, windows) for test in one.tests):
            return True
    return False


@pytest.mark.parametrize("rows", [1000, 100_000, 1_000_000])
def test_a_hundred_unchanged_windows_of_twenty_features_are_quiet(rows):
    assert sum(alarms(rows, 1) for _ in range(100)) <= 5


def test_unchanged_months_of_daily_looks_are_quiet():
    assert sum(alarms(1000, 30) for _ in range(10)) <= 1


def test_an_unchanged_month_of_hourly_looks_is_quiet_and_a_real_change_is_still_found():
    hourly = judging.Budget(every_seconds=3600.0)
    before = [reference() for _ in range(2)]
    windows: list[list[ColumnSummary]] = []
    quiet = 0
    for _ in range(720):
        windows = [[drawn(one, 1000) for one in before], *windows[:4]]
        quiet += all(test.p_adjusted >= hourly.alpha for one in judging.judge(before, windows) for test in one.tests)
    moved = [[drawn(one, 1000, 0.3) for one in before] for _ in range(5)]

    assert quiet >= 719
    assert any(test.p_adjusted < hourly.alpha for one in judging.judge(before, moved) for test in one.tests)


def test_a_fifth_of_a_sigma_in_one_of_twenty_features_is_found_within_five_windows():
    assert sum(alarms(1000, 5, 0.2) for _ in range(60)) >= 57


def test_a_fiftieth_of_a_sigma_in_a_million_rows_is_silent():
    assert not any(alarms(1_000_000, 1, 0.02) for _ in range(20))


def test_unchanged_shares_of_many_categories_are_quiet_though_the_reference_is_small():
    def counted(rows: int) -> ColumnSummary:
        counts = RANDOM.multinomial(rows, np.full(40, 1 / 40)).tolist()
        return ColumnSummary(name="c", kind="category", count=rows, categories={f"L{n}": count for n, count in enumerate(counts)})

    tests = [judging.judge([counted(1000)], [[counted(1000)]])[0].tests[0] for _ in range(300)]

    assert sum(test.p_adjusted < 1 / 30 for test in tests) <= 15


def test_a_share_just_within_the_effect_is_refuted_as_seldom_as_promised():
    found = [judging.share_test(RANDOM.binomial(2000, 0.1), 2000, RANDOM.binomial(2000, 0.13), 2000, 0.03)[1] < 0.05 for _ in range(2000)]

    assert np.mean(found) <= 0.05


def test_holm_spends_by_weight():
    assert judging.holm([0.01, 0.01], [0.8, 0.2]) == pytest.approx([0.0125, 0.0125])
    assert judging.holm([], []) == []


def test_a_budget_shared_out_among_many_is_kept_by_all_of_them_together():
    assert judging.budget(judging.shared_out("1/30d", among=20)).alpha == pytest.approx(judging.budget("1/30d").alpha / 20)
    assert judging.shared_out("0.5/2w", among=1) == "0.500000/2.000000w"


@pytest.mark.parametrize("text", ["", "1", "0/30d", "1/0d", "1/30", "-1/30d", "1/30d; DROP"])
def test_what_is_no_budget_is_told(text):
    with pytest.raises(BadOption):
        judging.budget(text)


@pytest.mark.parametrize("text", ["", "0", "d", "0d", "-5", "1.5d", "٣"])
def test_what_is_no_window_is_told(text):
    with pytest.raises(BadOption):
        counting.window(text)


def test_the_promise_is_said_in_words():
    assert judging.Budget().promise(20, 1) == "keeps at most one false alarm in 30 days of daily checks of 20 features"


# ── counts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "values", [RANDOM.normal(size=20_000), RANDOM.poisson(30, 20_000), np.where(RANDOM.random(20_000) < 0.4, 0.0, RANDOM.normal(size=20_000))]
)
def test_counts_are_exact_at_every_edge_and_no_bin_hides_much(workspace, values):
    [column] = datasets.summary(datasets.register("x", pd.DataFrame({"f": values})))
    upto = np.cumsum(column.counts)

    assert upto.tolist() == [*(int((values <= edge).sum()) for edge in column.edges), len(values)]
    alone = [np.unique(values[(values > low) & (values <= high)]).size == 1 for low, high in zip(column.edges, column.edges[1:], strict=False)]
    assert all(count <= 2 * len(values) / 256 or one for count, one in zip(column.counts[1:], alone, strict=False))


def test_windows_counted_apart_add_up_to_the_whole():
    before = reference()
    one, other = drawn(before, 1000), drawn(before, 500)

    both = summaries.merged(one, other)

    assert both.count == 1500 and sum(both.counts) == 1500
    with pytest.raises(ValueError, match="same bins"):
        summaries.merged(one, reference())


def test_a_data_set_without_counts_gets_them_at_its_first_check(delays):
    with store.writing() as tx:
        tx.execute("DELETE FROM summaries")
    delays.ask(flights(500, seed=1))

    assert not monitoring.check_drift("delays").is_drift
    with store.reading() as tx:
        assert tx.value("SELECT count(*) FROM summaries") == 1


def test_a_small_shift_is_found_by_windows_together(delays):
    now = datetime.now(UTC)
    for day in range(5):
        delays.ask(flights(1000, seed=10 + day, dep_delay=np.random.default_rng(day).normal(14, 8, 1000)), at=now - timedelta(days=day, hours=1))

    check = monitoring.check_drift("delays", window="1d")

    assert check.report["spans"] == [1, 2, 5]
    assert [f["name"] for f in check.report["features"] if f["is_drift"]] == ["dep_delay"]
    assert check.report["promise"].endswith("of daily checks of 4 features and 3 spans of windows")


def test_windows_of_rows_are_the_newest_ones(delays):
    now = datetime.now(UTC)
    delays.ask(flights(1000, seed=1, dep_delay=500.0), at=now - timedelta(hours=2))
    delays.ask(flights(1000, seed=2), at=now - timedelta(hours=1))

    assert monitoring.check_drift("delays", window="1000").report["window"]["rows"] == 2000
    assert monitoring.check_drift("delays", window="1000", until=now - timedelta(minutes=90)).is_drift


def test_a_sensor_that_is_stuck_is_told(delays):
    delays.ask(flights(1000, seed=1, dep_delay=12.0))

    [found] = [f for f in monitoring.check_drift("delays").report["features"] if f["name"] == "dep_delay"]

    assert found["is_drift"] and "stuck at 12" in found["summary"]
