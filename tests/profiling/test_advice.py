"""Advice is arithmetic on what was measured."""

from __future__ import annotations

import pytest

from mlops_nb.errors import BadOption
from mlops_nb.profiling import Objective, Point, advise
from mlops_nb.profiling.advice import instances_for, memory_for, price_per_million

P95 = Objective(95, 20)


def point(*, rate: float = 100.0, cpus: int | None = 1, batch: int = 1, **told: object) -> Point:
    measured = {
        "hardware": "cpu", "rows_per_second": rate * batch, "requests": 50, "p50_ms": 3.0, "p95_ms": 9.0, "p99_ms": 12.0, "cpu_percent": 80.0,
        "memory_mb": 90.0, "peak_memory_mb": 100.0, "alone_p50_ms": 2.0, "alone_p95_ms": 4.0,
    }  # fmt: skip
    return Point(rate=rate, cpus=cpus, batch=batch, **measured | told)  # type: ignore[arg-type]


@pytest.mark.parametrize(("peak", "allowed"), [(10, 64), (98.46, 128), (98.47, 192), (100, 192), (640, 832)])
def test_memory_is_the_peak_and_three_tenths_rounded_up_to_64(peak: float, allowed: int) -> None:
    assert memory_for(peak) == allowed


@pytest.mark.parametrize(("rps", "instances"), [(None, 1), (1, 1), (100, 1), (101, 2), (1000, 10)])
def test_there_are_as_many_instances_as_the_requests_take(rps: float | None, instances: int) -> None:
    assert instances_for(point(rate=100), rps) == instances


def test_a_million_predictions_cost_the_core_hours_they_take() -> None:
    assert price_per_million(point(rate=100, cpus=2), 0.09) == pytest.approx(0.09 * 2 / 3600 / 100 * 1e6)


def test_instances_that_are_not_full_cost_as_much_as_full_ones() -> None:
    full, half = point(rate=100), point(rate=100)

    assert price_per_million(half, 1.0, rps=50) == pytest.approx(2 * price_per_million(full, 1.0, rps=100))


def test_without_a_demand_the_setting_with_the_most_rows_for_each_core_is_advised() -> None:
    advice = advise([point(rate=100, cpus=1), point(rate=150, cpus=2), point(rate=20, cpus=1, batch=32)], P95)

    assert (advice.possible, advice.cpus, advice.batch, advice.rate) == (True, 1, 32, 20)
    assert "the most of the 3 settings" in advice.why


def test_with_a_demand_the_fewest_cores_are_advised_for_requests_as_they_come() -> None:
    advice = advise([point(rate=100, cpus=1), point(rate=350, cpus=2), point(rate=90, cpus=1, batch=32)], P95, rps=300)

    assert (advice.cpus, advice.batch, advice.instances) == (2, 1, 1)


def test_callers_learn_that_larger_requests_would_be_cheaper() -> None:
    advice = advise([point(rate=100), point(rate=90, batch=32)], P95, rps=50)

    assert any("32 rows a request need 29 times less CPU" in note for note in advice.notes)


def test_a_setting_that_never_kept_the_objective_is_not_advised() -> None:
    advice = advise([point(rate=0, batch=32, rows_per_second=1e6), point(rate=5)], P95)

    assert (advice.batch, advice.rate) == (1, 5)


def test_an_impossible_objective_is_said_to_be_impossible_and_what_comes_nearest() -> None:
    advice = advise([point(rate=0, alone_p95_ms=31.0), point(rate=0, batch=32, alone_p95_ms=55.0)], P95)

    assert not advice.possible
    assert "even one request at a time takes 31 ms at best (cpu, 1 core, 1 row a request)" in advice.why


def test_an_objective_for_the_99th_percentile_is_judged_by_that_of_one_request_at_a_time() -> None:
    why = advise([point(rate=0, alone_p95_ms=1.2, alone_p99_ms=3.1)], Objective(99, 2.0)).why

    assert "even one request at a time takes 3.1 ms at best" in why


def test_a_deployment_that_may_use_all_cores_is_advised_those_it_used() -> None:
    assert advise([point(cpus=None, cpu_percent=130.0)], P95).cpus == 2


def test_a_busy_machine_is_told() -> None:
    assert "Other programs took 40 %" in advise([point(elsewhere_percent=40.0)], P95).notes[0]


@pytest.mark.parametrize(("text", "percentile", "ms"), [("p95=20ms", 95, 20), ("p99=0.5s", 99, 500), ("p50 <= 3", 50, 3)])
def test_a_promise_is_read_as_people_write_it(text: str, percentile: int, ms: float) -> None:
    assert Objective.parse(text) == Objective(percentile, ms)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "p95", "p90=3ms", "p95=0ms", "p95=-3ms", "20ms"])
def test_a_promise_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="not a promise about latency"):
        Objective.parse(text)
