"""Drift of predictions and of labels, as lines of the same report, at an endpoint that really answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from living import wait_for
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

from mlops_nb import alerts, client, commands, datasets, labels, monitoring, registry, rollout, settings, store, telemetry
from mlops_nb.cli import Terminal
from mlops_nb.monitoring import DriftMap, DriftReport, FeatureDrift, answers, references, schedules
from mlops_nb.progress import SILENT
from mlops_nb.store import checks
from mlops_nb.store import schedules as table
from mlops_nb.store.models import ModelVersion

from .conftest import Watched, flights

pytestmark = pytest.mark.xdist_group("predictions")


def trips(rows: int, *, seed: int) -> pd.DataFrame:
    """Flights that are late when they leave late, mostly."""
    frame = flights(rows, seed=seed)[["distance", "dep_delay"]]
    noise = np.random.default_rng(seed + 1000).normal(0, 4, rows)
    return frame.assign(late=(frame.dep_delay + noise > 15).astype(int))


def checked(**options) -> DriftReport:
    return msgspec.convert(monitoring.check_drift("delays", **options).report, DriftReport)


def lines(report: DriftReport) -> dict[str, FeatureDrift]:
    return {found.name: found for found in report.features if found.type != "not compared"}


def ask(rows: pd.DataFrame) -> list[str]:
    """The ids of the requests, 500 rows each, once they are kept."""
    before = telemetry.captured("delays").rows
    ids = [client.invoke("delays", rows.iloc[start : start + 500][["distance", "dep_delay"]]).request_id for start in range(0, len(rows), 500)]
    wait_for(lambda: telemetry.captured("delays").rows >= before + len(rows), what="the telemetry")
    return ids


def by_the_agent() -> DriftReport:
    """What the agent finds by a schedule whose time has come; it is running, for it keeps the deployment."""
    schedule = commands.run(["drift", "delays", "--schedule", "1h", "--window", "2h"], Terminal(quiet=True))
    with store.writing() as tx:
        table.ran(tx, schedule.id, outcome="", next_time=store.now() - timedelta(hours=5))
    wait_for(lambda: schedules.of("delays")[0].outcome, what="the agent's check")
    assert schedules.of("delays")[0].outcome.startswith("drift in ")
    wait_for(lambda: alerts.of("delays")[0].firing, what="the alert")
    rollout.delete_endpoint("delays")
    assert schedules.of() == []
    with store.reading() as tx:
        return msgspec.convert(checks.drift_checks(tx, "delays", most=1)[0].report, DriftReport)


def hourly_map() -> DriftMap:
    """Of the last three hours."""
    return monitoring.drift_map("delays", seconds=3600, since=store.now() - timedelta(hours=3), until=store.now())


def read_by(look: Callable[[], object]) -> int:
    """How often it reads answers with their labels."""
    with pytest.MonkeyPatch.context() as patch:
        read: list[object] = []
        reading = telemetry.labels.answers
        patch.setattr(telemetry.labels, "answers", lambda *args, **how: read.append(args) or reading(*args, **how))
        look()
    return len(read)


def window_of(found: DriftMap) -> DriftReport:
    """Its newest window."""
    check = monitoring.window_check(found, found.slots[-1].begin)
    assert check
    return msgspec.convert(check.report, DriftReport)


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> dict[str, Any]:
    """A forest that is asked what it was trained on, then of later and later flights, and told what was true."""
    with settings.using(tmp_path_factory.mktemp("predictions")):
        training = trips(5000, seed=0)
        datasets.register("flights", training)
        forest = RandomForestClassifier(20, max_depth=4, random_state=0).fit(training[["distance", "dep_delay"]], training.late)
        registry.register(forest, name="delays", data="flights", target="late")
        rollout.deploy("delays:1")
        try:
            told = {}
            rows = trips(3000, seed=1)
            ids = ask(rows)
            told["map before a check"] = hourly_map()
            told["unchanged"] = checked()
            told["map"] = hourly_map()
            truth = pd.DataFrame({"request_id": np.repeat(ids, 500), "row": np.tile(np.arange(500), len(ids)), "label": rows.late})
            labels.record("delays", truth)
            told["labelled"] = checked()
            told["map with labels"] = hourly_map()
            told["answers read by another look"] = read_by(hourly_map)
            labels.record("delays", truth.assign(label=1))
            told["all late"] = checked()
            told["map, all late"], told["window, all late"] = hourly_map(), window_of(hourly_map())
            began = datetime.now(UTC)
            moved = trips(3000, seed=2)
            ask(moved.assign(dep_delay=moved.dep_delay + 12))
            told["moved"] = checked(since=began)
            told["against the first"] = checked(since=began, reference=f"{began - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}..{began:%Y-%m-%dT%H:%M:%S.%f}")
            told["by the agent"] = by_the_agent()
            return told
        finally:
            rollout.down()


def test_predictions_are_lines_of_the_report_and_do_not_drift_when_nothing_changed(story):
    found = lines(story["unchanged"])

    assert {name: one.side for name, one in found.items()} == {
        "distance": "input", "dep_delay": "input", "prediction label": "prediction", "prediction probabilities[1]": "prediction",
    }  # fmt: skip
    assert not any(one.is_drift or one.is_small_change for one in found.values())
    assert "of 4 features" in story["unchanged"].promise


def test_the_map_has_predictions_once_a_check_has_asked_the_model_and_labels_once_they_came(story):
    before, checked_once, labelled = (story[name] for name in ("map before a check", "map", "map with labels"))

    assert set(before.features) == {"distance", "dep_delay"} and list(before.skipped.values()) == [["predictions"]]
    assert checked_once.sides == {"prediction label": "prediction", "prediction probabilities[1]": "prediction"}
    assert set(checked_once.features) == {"distance", "dep_delay", *checked_once.sides} and checked_once.skipped == {}
    assert set(labelled.features) == {*checked_once.features, "label late"} and labelled.sides["label late"] == "label"
    assert not any(cell.alarm for found in (checked_once, labelled) for slot in found.slots for cell in slot.cells)
    assert "of 5 features" in labelled.promise
    assert story["answers read by another look"] == 0


def test_labels_that_changed_alarm_in_their_window_of_the_map(story):
    alarms = {cell.feature for slot in story["map, all late"].slots for cell in slot.cells if cell.alarm}
    assert alarms == {"label late"}

    [late] = [one for one in story["window, all late"].features if one.is_drift]
    assert (late.name, late.side) == ("label late", "label") and late.histogram


def test_predictions_drift_when_what_is_asked_moves(story):
    found = lines(story["moved"])

    assert [name for name, one in found.items() if one.is_drift] == ["dep_delay", "prediction probabilities[1]", "prediction label"]
    assert "'1' 38 % → 8" in found["prediction label"].summary


def test_predictions_are_compared_with_a_past_window_too(story):
    found = lines(story["against the first"])

    assert found["prediction label"].is_drift and story["against the first"].reference.kind == "past requests"
    assert not any(name.startswith("label ") for name in found)


def test_labels_that_are_as_in_training_do_not_drift_and_others_do(story):
    found, others = lines(story["labelled"])["label late"], lines(story["all late"])["label late"]

    assert found.side == "label" and not found.is_drift and abs(found.histogram["window"][1] - found.histogram["reference"][1]) < 0.03
    assert others.is_drift and "'0' " in others.summary and "gone" in others.summary
    assert any(note.startswith("3,000 of 3,000 rows have a label") for note in story["labelled"].notes)


def test_the_agent_makes_the_checks_that_are_due_and_raises_the_alert(story):
    assert "of hourly checks" in story["by the agent"].promise and story["by the agent"].is_drift


# ── references of predictions ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def fares(workspace) -> ModelVersion:
    """A regressor that loads in a process of its own."""
    rows = flights(3000, seed=0)[["distance", "dep_delay"]]
    datasets.register("fares", rows.assign(fare=rows.distance * 0.1))
    return registry.register(LinearRegression().fit(rows, rows.distance * 0.1), name="fares", data="fares", target="fare").version


def predicted(version: ModelVersion) -> answers.Outputs:
    now = store.now()
    return answers.predictions("fares", None, version, references.training(version, None, "fares"), references.Extent(None, now), SILENT)


def test_the_training_data_are_scored_once(fares: ModelVersion, monkeypatch):
    first = predicted(fares)
    monkeypatch.setattr(answers, "_answers", lambda *_: pytest.fail("scored again"))

    assert predicted(fares) == first
    [one] = first.asked
    assert (one.shape.name, one.shape.kind, one.shape.count) == ("prediction", "number", 3000)
    assert one.shape.mean == pytest.approx(flights(3000, seed=0).distance.mean() * 0.1, rel=1e-3)


def test_a_season_is_scored_by_each_column_of_time_that_tells_it(workspace):
    when = pd.date_range("2025-01-01", periods=3000, freq="h", tz="UTC")
    rows = flights(3000, seed=0)[["distance"]].assign(distance=np.where(when.month == 1, 100.0, 900.0), left=when, landed=when[::-1])
    datasets.register("fares", rows)
    version = registry.register(LinearRegression().fit(rows[["distance"]], rows.distance * 0.1), name="fares", data="fares", sample=rows[["distance"]]).version

    def mean_by(column: str) -> float:
        reach = references.Extent(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 8, tzinfo=UTC))
        against = references.chosen("same-month", reach, version, "fares", dataset=None, time=column)
        return answers.predictions("fares", None, version, against, reach, SILENT).asked[0].shape.mean

    assert (mean_by("left"), mean_by("landed")) == (pytest.approx(10), pytest.approx(90))


def test_a_model_that_cannot_be_asked_says_why(fares: ModelVersion):
    broken = msgspec.structs.replace(fares, hash="other", signature={**(fares.signature or {}), "inputs": [{"name": "distance", "type": "bool"}]})

    found = predicted(broken)

    assert found.asked == [] and found.note.startswith("Predictions are not compared: fares:1 could not be asked rows of fares:1 (")


def test_where_nothing_can_be_asked_the_first_answers_are_the_reference_and_that_is_said(delays: Watched):
    now = store.now()
    for days in (9, 0):
        delays.ask(flights(500, seed=days), at=now - timedelta(days=days, minutes=5))
    version = monitoring.drift._asked("delays", "1").version
    version = msgspec.structs.replace(version, signature={**(version.signature or {}), "outputs": [{"name": "label", "type": "int64", "shape": [None]}]})
    against = references.training(version, None, "delays")

    found = answers.predictions("delays", None, version, against, references.Extent(now - timedelta(days=1), now), SILENT)
    at_once = answers.predictions("delays", None, version, against, references.Extent(None, now), SILENT)

    assert [(one.shape.name, one.shape.count) for one in found.asked] == [("prediction label", 500)]
    assert found.note.startswith("Predictions are compared with the first answers that were given (")
    assert at_once.asked == [] and at_once.note.endswith("late:1 cannot be asked rows of flights:1, and there are no earlier answers.")


def test_a_secret_of_the_environment_is_not_handed_on(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "x")

    assert "SOME_TOKEN" not in answers._environment() and "SOME_TOKEN" in os.environ
