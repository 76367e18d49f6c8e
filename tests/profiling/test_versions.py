"""Profiles of real servers, started and ended for them, and of a deployment that runs."""

from __future__ import annotations

import msgspec
import pytest

from mlops_nb import cards, hardware, profiling
from mlops_nb.errors import BadOption, HardwareMissing
from mlops_nb.settings import Workspace
from mlops_nb.store.checks import Profile

from .measured import EASY, QUICK, Told, points, servers_of, stored

# ── a version on servers of its own ──────────────────────────────────────────────────────────────────────────────────


def test_there_is_a_point_for_every_batch_in_order(profiled: Profile) -> None:
    assert [(point.hardware, point.cpus, point.batch) for point in points(profiled)] == [("cpu", 1, 1), ("cpu", 1, 16)]
    assert profiled.complete


def test_a_rate_was_found_that_keeps_the_objective(profiled: Profile) -> None:
    for point in points(profiled):
        assert 0 < point.rate == max(step.rate for step in point.curve if step.kept)
        assert all(step.p95_ms <= EASY.ms for step in point.curve if step.kept)


def test_the_figures_hang_together(profiled: Profile) -> None:
    for point in points(profiled):
        assert 0 < point.p50_ms <= point.p95_ms <= point.p99_ms
        assert 0 < point.alone_p50_ms <= point.alone_p95_ms
        assert 10 < point.memory_mb <= point.peak_memory_mb + 1
        assert point.rows_per_second == pytest.approx(point.rate * point.batch)
        assert point.cold_start_seconds and point.cpu_percent > 0


def test_a_server_held_to_one_core_takes_no_more_than_one(profiled: Profile) -> None:
    assert profiled.settings["limits"] == "cores by CPU affinity; memory is measured, not limited"
    assert all(point.cpu_percent < 115 for point in points(profiled))


def test_the_advice_is_the_one_its_points_give(profiled: Profile) -> None:
    advice = profiling.advise(points(profiled), EASY, rps=20, price=0.05, measured=profiled.advice["measured"])

    assert msgspec.to_builtins(advice) == profiled.advice
    assert (advice.possible, advice.cpus, advice.batch, advice.hardware) == (True, 1, 1, "cpu")
    assert "rows of customers:1" in advice.measured and hardware.cpu_model() in advice.measured


def test_it_is_stored_as_it_was_returned(profiled: Profile) -> None:
    assert next(kept for kept in stored() if kept.id == profiled.id) == profiled


def test_nothing_of_it_is_left_running_nor_in_the_telemetry(profiled: Profile) -> None:
    workspace = Workspace.current()

    assert servers_of(workspace) == []
    assert list((workspace.run / "profiles").iterdir()) == []
    assert not workspace.telemetry.exists()


def test_its_card_names_the_setting_to_deploy_with(profiled: Profile) -> None:
    text = cards.as_text(profiled)

    assert f"deploy churn:1 --cpus 1 --memory {profiled.advice['memory_mb']}m" in text
    assert "1 instance on cpu with 1 core" in text and "for a million predictions" in text


def test_resuming_a_whole_profile_measures_nothing_again(profiled: Profile) -> None:
    told = Told()

    again = profiling.profile("churn:1", cpus=[1], batches=[1, 16], objective=EASY, rps=20, seconds=6, resume=True, report=told)

    assert told.steps == []
    assert (again.id, again.points) == (profiled.id, profiled.points)


def test_resuming_with_one_batch_more_measures_only_that(profiled: Profile) -> None:
    told = Told()

    more = profiling.profile("churn:1", cpus=[1], batches=[1, 4, 16], objective=EASY, seconds=4.5, resume=True, report=told)

    assert {step.split(": ")[1] for step in told.steps if ": " in step} == {"cpu, 1 core, 4 rows a request"}
    assert [point.batch for point in points(more)] == [1, 4, 16]
    assert [point for point in more.points if point["batch"] != 4] == profiled.points


def test_resuming_with_other_batches_counts_what_is_asked_for(profiled: Profile) -> None:
    told = Told()

    profiling.profile("churn:1", cpus=[1], batches=[2], objective=EASY, seconds=1.5, resume=True, report=told)

    assert {step.split(": ")[0] for step in told.steps if " of " in step} == {"1 of 1"}


def test_another_objective_is_another_profile(profiled: Profile) -> None:
    other = profiling.profile("churn:1", **QUICK | {"objective": "p95=0.0001ms"}, resume=True)

    assert other.id != profiled.id


def test_an_impossible_objective_is_said_to_be_impossible_and_no_rate_is_tried(profiled: Profile) -> None:
    profile = profiling.profile("churn:1", **QUICK | {"objective": "p99=0.0001ms"})

    assert not profile.advice["possible"] and "even one request at a time" in profile.advice["why"]
    assert points(profile)[0].curve == [] and points(profile)[0].rate == 0
    assert "p99 ≤ 0.0001 ms cannot be kept" in cards.as_text(profile)


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hardware_that_is_not_here_is_refused_with_the_reason_before_anything_starts(profiled: Profile) -> None:
    told = Told()

    with pytest.raises(HardwareMissing, match=r"'coreml' cannot be used here: only on macOS\. Available: cpu"):
        profiling.profile("churn:1", hardware=["coreml"], report=told)

    assert told.steps == []


def test_hardware_that_is_not_here_is_listed_beside_what_is(profiled: Profile) -> None:
    profile = profiling.profile("churn:1", **QUICK, hardware=["cpu", "coreml"])

    assert profile.settings["unavailable"] == {"coreml": "only on macOS"}
    assert {point.hardware for point in points(profile)} == {"cpu"}
    assert "coreml is not here  only on macOS" in cards.as_text(profile)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cpus": [0.5]}, "held to whole cores"),
        ({"cpus": [100_000]}, "this machine has"),
        ({"rps": 0.0}, "--rps 0 is not a number above 0"),
        ({"seconds": -1.0}, "--seconds -1 is not a number above 0"),
        ({"hardware": ["gpx"]}, "No hardware 'gpx'"),
    ],
)
def test_options_that_cannot_be_are_refused(profiled: Profile, options: dict[str, object], why: str) -> None:
    with pytest.raises(BadOption, match=why):
        profiling.profile("churn:1", **options)  # type: ignore[arg-type]
