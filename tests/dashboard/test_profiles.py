"""The Profiling page compares versions by hardware and batch and shows what is advised; the Hardware page what is here."""

from __future__ import annotations

import json
from datetime import timedelta

import msgspec
import pytest

from mlops_nb import hardware, profiling, store
from mlops_nb.profiling import Objective, Point, Step
from mlops_nb.store import checks


@pytest.fixture
def measured(busy) -> None:
    """Two versions of `delays` measured with one core and two."""
    for version, factor in ((2, 1.0), (3, 0.6)):
        points = [point(cpus, batch, factor) for cpus in (1, 2) for batch in (1, 32)]
        advice = profiling.advise(points, Objective(95, 20), rps=300, price=0.05, measured="delays on a test machine")
        profile = checks.Profile(
            id=f"own-{version}", model="delays", version=version, hardware="cpu, 1 and 2 cores", points=msgspec.to_builtins(points),
            advice=msgspec.to_builtins(advice), time=store.now(),
            settings={"limits": "cores by CPU affinity; memory is measured, not limited", "environment": "made-elsewhere:1" if version == 3 else None},
        )  # fmt: skip
        with store.writing() as tx:
            checks.add_profile(tx, profile)


def point(cpus: int, batch: int, factor: float) -> Point:
    rate = 200.0 * factor * cpus / (1 + batch / 40)
    steps = [
        Step(rate=rate * share, p50_ms=3 * share, p95_ms=9 * share, p99_ms=12 * share, kept=share <= 1) for share in (0.5, 1.0, 1.5)
    ]  # fmt: skip
    return Point(
        hardware="cpu", cpus=cpus, batch=batch, rate=rate, rows_per_second=rate * batch, requests=90, p50_ms=3, p95_ms=9, p99_ms=12, cpu_percent=90,
        memory_mb=90, peak_memory_mb=110, cold_start_seconds=0.8, curve=steps,
    )  # fmt: skip


def test_versions_are_compared_by_hardware_and_batch(open_page, measured):
    rows = open_page("profiling", target="own server").dataframe[1].value

    assert set(zip(rows["measured"], rows["hardware"], rows["batch"], strict=True)) == {
        (f"delays:{version}", f"cpu, {cores}", batch) for version in (2, 3) for cores in ("1 core", "2 cores") for batch in (1, 32)
    }


def test_the_advised_point_is_marked_once_for_each_version(open_page, measured):
    rows = open_page("profiling", target="own server").dataframe[1].value

    assert list(rows[rows["advised"] == "★"]["measured"]) == ["delays:3", "delays:2"]


def test_a_measurement_says_what_held_its_server_and_in_which_environment_it_ran(open_page, measured):
    rows = open_page("profiling", target="own server").dataframe[1].value

    assert set(zip(rows["measured"], rows["environment"], rows["limits"], strict=True)) == {
        ("delays:2", "as here", "cores by CPU affinity; memory is measured, not limited"),
        ("delays:3", "made-elsewhere:1", "cores by CPU affinity; memory is measured, not limited"),
    }


def test_each_line_of_the_frontier_has_a_name_of_its_own_and_is_hollow_where_nothing_keeps_the_objective(open_page, measured):
    slow = msgspec.structs.replace(point(1, 32, 1.0), rate=0.0, curve=[])
    points, earlier = msgspec.to_builtins([point(1, 1, 1.0), slow]), store.now() - timedelta(hours=1)
    again = checks.Profile(id="again", model="delays", version=2, hardware="cpu, 1 core", points=points, time=earlier)
    with store.writing() as tx:
        checks.add_profile(tx, again)

    drawn = json.loads(open_page("profiling", target="own server").get("plotly_chart")[0].proto.spec)["data"]

    names = [line["name"] for line in drawn]
    assert len(set(names)) == len(names) and sum(name.startswith("delays:2 · cpu, 1 core") for name in names) == 2
    last = next(line for line in drawn if line["name"] == f"delays:2 · cpu, 1 core · {again.time:%d %b %H:%M:%S}")
    assert [symbol.endswith("-open") for symbol in last["marker"]["symbol"]] == [False, True]
    assert "no rate kept the objective" in last["customdata"][1]


def test_the_advice_stands_in_words(open_page, measured):
    rows = open_page("profiling", target="own server").dataframe[0].value.set_index("measured")

    assert "300 requests/s take" in rows.loc["delays:2", "why"]
    assert rows.loc["delays:2", "memory MB"] == 192


def test_the_hardware_page_lists_what_is_here_and_why_the_rest_is_not(open_page, busy):
    rows = open_page("hardware").dataframe[0].value.set_index("hardware")

    assert rows.loc["cpu", "here"] == "✓ here"
    assert all(rows.loc[one.name, "why not"] == one.reason for one in hardware.found())


def test_a_server_that_does_not_answer_is_not_said_to_run_on_anything(open_page, busy):
    rows = open_page("hardware").dataframe[1].value.set_index("deployment")

    assert list(rows.loc["churn/1", ["asked for", "runs on"]]) == ["gpu", "it does not say"]
