"""The highest rate that keeps an objective is found by bisection."""

from __future__ import annotations

import pytest

from mlops_nb.profiling import Step
from mlops_nb.profiling.search import best, highest_rate


def server_that_keeps(limit: float):
    def tried(rate: float) -> Step:
        return Step(rate=rate, p50_ms=1, p95_ms=1, p99_ms=1, kept=rate <= limit)

    return tried


@pytest.mark.parametrize("limit", [30.0, 400.0, 777.0, 990.0])
def test_the_rate_found_is_kept_and_near_the_highest(limit: float) -> None:
    found = best(highest_rate(server_that_keeps(limit), most=1000.0, steps=10))

    assert found and 0.0 < limit - found.rate <= 40.0


def test_every_rate_kept_is_below_every_rate_that_was_not() -> None:
    steps = highest_rate(server_that_keeps(420.0), most=1000.0)

    assert [step.kept for step in steps] == sorted((step.kept for step in steps), reverse=True)
    assert [step.rate for step in steps] == sorted(step.rate for step in steps)


def test_a_server_that_keeps_no_rate_has_no_best_one() -> None:
    assert best(highest_rate(server_that_keeps(0.0), most=1000.0)) is None


def test_no_more_steps_are_taken_than_allowed() -> None:
    assert len(highest_rate(server_that_keeps(1.0), most=1000.0, steps=3)) == 3
