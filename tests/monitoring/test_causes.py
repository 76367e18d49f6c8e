"""Why something drifted: planted causes are found, and nothing is made up."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from mlops_nb import alerts, cards, labels, monitoring, store
from mlops_nb.errors import FileMissing, NothingToCompare
from mlops_nb.monitoring import causes, change_point, concentration, detectors, schedules
from mlops_nb.store import checks, events
from mlops_nb.store import schedules as planned

from .conftest import Watched, flights

FIRST = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=20)


def ask_by_day(delays: Watched, days: int, change, *, rows: int = 300) -> None:
    """Requests of twenty rows each for so many days; *change* gets the day's flights and its number."""
    for day in range(days):
        frame = change(flights(rows, seed=100 + day), day)
        delays.ask(frame, at=FIRST + timedelta(days=day), batch=20, every=timedelta(hours=1), ids=f"{day}-")


def late_from_day_12(frame: pd.DataFrame, day: int) -> pd.DataFrame:
    """Flights of B6 depart fifteen minutes later from the twelfth day on; nothing else changes."""
    late = (frame.carrier == "B6") & (day >= 12)
    return frame.assign(dep_delay=frame.dep_delay + 15 * late)


@pytest.fixture
def explained(delays: Watched) -> causes.Causes:
    ask_by_day(delays, 20, late_from_day_12)
    assert monitoring.check_drift("delays", engine="histograms", since=FIRST + timedelta(days=10)).is_drift
    return causes.of("delays")


def test_a_planted_cause_is_found_by_feature_segment_day_and_request(explained: causes.Causes):
    assert [changed.feature for changed in explained.features] == ["dep_delay"]

    began = explained.began
    assert began and began.low <= FIRST + timedelta(days=12) <= began.high
    assert abs(began.time - (FIRST + timedelta(days=12))) <= timedelta(days=1)
    assert began.high - began.low <= timedelta(days=2)
    assert not began.from_first

    [segment] = explained.segments
    assert (segment.feature, segment.segment, segment.kind) == ("dep_delay", "carrier = B6", "moved")
    assert segment.inside > 0.4 and segment.outside < 0.05
    assert 0.25 < segment.rows < 0.35

    assert len(explained.examples) == 5 and len({example.request for example in explained.examples}) == 5
    assert all(example.time >= FIRST + timedelta(days=11) and example.values["dep_delay"] > 20 for example in explained.examples)


def test_causes_are_kept_with_the_check(explained: causes.Causes):
    with store.reading() as tx:
        [check] = checks.drift_checks(tx, "delays")

    assert check.report["causes"]["features"][0]["feature"] == "dep_delay"


def test_a_change_of_everybody_is_concentrated_nowhere(delays: Watched):
    ask_by_day(delays, 4, lambda frame, day: frame.assign(dep_delay=frame.dep_delay + 6))
    monitoring.check_drift("delays")

    found = causes.of("delays")

    assert [changed.feature for changed in found.features] == ["dep_delay"]
    assert found.segments == []
    assert found.began and found.began.from_first


def test_a_new_category_that_brings_other_values_is_named_as_new(delays: Watched):
    def with_a_newcomer(frame: pd.DataFrame, day: int) -> pd.DataFrame:
        newcomer = np.arange(len(frame)) % 5 == 0
        return frame.assign(carrier=np.where(newcomer, "HA", frame.carrier), distance=np.where(newcomer, 4983.0, frame.distance))

    ask_by_day(delays, 4, with_a_newcomer)
    monitoring.check_drift("delays")

    found = {segment.feature: segment for segment in causes.of("delays").segments}

    assert (found["distance"].segment, found["distance"].kind) == ("carrier = HA", "new")


def test_a_mix_that_changed_is_told_from_rows_that_did(workspace):
    def of_two_fleets(rows: int, seed: int, share: float) -> pd.DataFrame:
        random = np.random.default_rng(seed)
        long = random.random(rows) < share
        return pd.DataFrame({"fleet": np.where(long, "wide", "narrow"), "distance": np.where(long, 3000.0, 600.0) + random.normal(0, 100, rows)})

    watched = Watched(of_two_fleets(5000, 0, 0.2))
    watched.deploy()
    watched.ask(of_two_fleets(2000, 1, 0.6), batch=20)
    monitoring.check_drift("delays")

    found = {segment.feature: segment for segment in causes.of("delays").segments}

    assert (found["distance"].segment, found["distance"].kind) == ("fleet", "mix")
    assert found["distance"].inside > 0.9


def test_missing_values_of_one_segment_are_found(delays: Watched):
    ask_by_day(delays, 4, lambda frame, day: frame.assign(dep_delay=frame.dep_delay.where(frame.carrier != "UA")))
    monitoring.check_drift("delays")

    [segment] = causes.of("delays").segments

    assert (segment.feature, segment.segment) == ("dep_delay", "carrier = UA")
    assert segment.inside > 0.95 and segment.outside < 0.03


def test_what_a_change_costs_is_told_by_the_labels(delays: Watched):
    """Every answer was 0; from the twelfth day on the flights of B6, three in ten, were late after all."""
    ask_by_day(delays, 20, late_from_day_12)
    truth = [
        {"request_id": f"1-{day}-{row - row % 20}", "row": row % 20, "late": int(late)}
        for day in range(20)
        for row, late in enumerate((flights(300, seed=100 + day).carrier == "B6") & (day >= 12))
    ]
    labels.record("delays", pd.DataFrame(truth))
    monitoring.check_drift("delays", since=FIRST + timedelta(days=10))

    [loss] = causes.of("delays").losses

    assert loss.metric == "accuracy" and loss.how == "measured on 2,400 labels"
    assert loss.before == pytest.approx(1.0) and 0.65 < loss.since < 0.75
    assert loss.low and loss.high and loss.low < loss.since < loss.high


def test_an_alarm_is_told_as_accuracy_lost(delays: Watched):
    ask_by_day(delays, 20, late_from_day_12)
    truth = [{"request_id": f"1-{day}-{row - row % 20}", "row": row % 20, "late": int(day >= 12 and row % 3 == 0)} for day in range(20) for row in range(300)]
    labels.record("delays", pd.DataFrame(truth))
    schedule = schedules.add("delays", "1h", window="8d")
    with store.writing() as tx:
        planned.ran(tx, schedule.id, outcome="", next_time=store.now() - timedelta(seconds=1))

    schedules.run(schedule.id)

    cost = re.compile(r"drift in dep_delay.*accuracy 1 before, 0\.6\d+ since \(measured on 2,400 labels\)")
    assert [bool(cost.search(rule.value)) for rule in alerts.judge()] == [True]
    assert cost.search(schedules.of()[0].outcome)
    with store.reading() as tx:
        assert "accuracy 1 before" in events.latest(tx, what="DatasetDriftDetected")[0].data["cost"]
        [check] = checks.drift_checks(tx, "delays")
    assert "accuracy 1 before" in cards.as_text(check)


def test_an_alarm_whose_causes_cannot_be_told_is_an_alarm(delays: Watched, monkeypatch: pytest.MonkeyPatch):
    def gone(*_: object, **__: object) -> None:
        raise FileMissing("training.parquet")

    ask_by_day(delays, 20, late_from_day_12)
    monkeypatch.setattr(causes, "explained", gone)

    check = monitoring.check_drift("delays", since=FIRST + timedelta(days=10), explain=causes.told_of)

    assert check.is_drift and not check.report["causes"] and check.cost == ""


def test_what_drifted_from_the_first_request_on_is_told_beside_the_registered_measure(workspace):
    watched = Watched(flights(5000, seed=0))
    watched.deploy(metrics={"accuracy": 0.91})
    watched.ask(flights(600, seed=1, dep_delay=9000.0), batch=1)
    labels.record("delays", pd.DataFrame({"request_id": [f"1-{row}" for row in range(600)], "late": [0, 1] * 300}))
    monitoring.check_drift("delays")

    [loss] = causes.of("delays").losses

    assert (loss.before, loss.since, loss.how) == (0.91, 0.5, "measured on 600 labels; before as registered")


def test_without_a_check_there_is_nothing_to_explain(delays: Watched):
    with pytest.raises(NothingToCompare) as told:
        causes.of("delays")

    assert told.value.hint == "%mlops drift delays"


def test_a_check_that_found_nothing_says_so(delays: Watched):
    delays.ask(flights(1000, seed=1))
    monitoring.check_drift("delays")

    found = causes.of("delays")

    assert not found.features and found.notes == ["This check found no drift, so there is nothing to explain."]


# ── change points ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_intervals_hold_the_change_as_often_as_they_say_also_where_days_differ():
    """200 series of 40 days whose shares wander from day to day, with a change at a random one."""
    random = np.random.default_rng(0)
    held = []
    for _ in range(200):
        day = int(random.integers(8, 32))
        shares = [np.clip(0.3 + 0.2 * (n >= day) + random.normal(0, 0.03), 0.01, 0.99) for n in range(40)]
        cells = np.concatenate([random.random(100) < share for share in shares]).astype(int)
        time = np.datetime64("2026-01-01", "us") + np.repeat(np.arange(40), 100).astype("timedelta64[D]")
        began = change_point.beginning(time, cells, np.array([700.0, 300.0]))
        assert began
        held.append(began.low <= datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day) <= began.high)

    assert np.mean(held) >= 0.93


def test_too_few_rows_have_no_beginning():
    assert change_point.beginning(np.array(["2026-01-01"] * 30, "datetime64[us]"), np.zeros(30, int), np.array([10.0, 10.0])) is None


# ── segments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def coded(name: str, reference: np.ndarray, window: np.ndarray, cells: int) -> concentration.Coded:
    return concentration.Coded(name, reference, window, [f"v{n}" for n in range(cells)])


def test_a_change_of_everybody_is_given_no_segment_however_many_are_looked_at():
    """100 changes that are the same in each of 120 segments of ten features."""
    random = np.random.default_rng(0)
    made_up = 0
    for _ in range(100):
        moved = coded("moved", random.integers(0, 10, 2000), np.minimum(random.integers(0, 13, 1000), 9), 10)
        others = [coded(f"f{n}", random.integers(0, 12, 2000), random.integers(0, 12, 1000), 12) for n in range(10)]
        made_up += bool(concentration.segments([moved], others))

    assert made_up <= 2


def test_a_change_of_one_segment_in_twelve_is_found_among_as_many():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        segment, window = random.integers(0, 12, 2000), random.integers(0, 12, 2000)
        now = np.where((window == 3) & (random.random(2000) < 0.7), 9, random.integers(0, 10, 2000))
        others = [coded(f"f{n}", random.integers(0, 12, 2000), random.integers(0, 12, 2000), 12) for n in range(9)]
        told = concentration.segments([coded("moved", random.integers(0, 10, 2000), now, 10)], [coded("where", segment, window, 12), *others])
        found += [one.segment for one in told] == ["where = v3"]

    assert found >= 48


def test_a_relation_that_changed_while_each_feature_stayed_is_told_as_that(workspace):
    def pairs(rows: int, seed: int, together: float) -> pd.DataFrame:
        random = np.random.default_rng(seed)
        first = random.normal(0, 1, rows)
        return pd.DataFrame({"first": first, "second": together * first + np.sqrt(1 - together**2) * random.normal(0, 1, rows)})

    watched = Watched(pairs(5000, 0, 0.9))
    watched.deploy()
    watched.ask(pairs(2000, 1, -0.9))
    assert detectors.detect("delays", "mmd").is_drift and not detectors.detect("delays", "ks").is_drift

    found = causes.explained(detectors.detect("delays", "energy"))

    assert found.is_drift and not found.features
    assert "No feature by itself moved by 5 % of its rows: how they go together did." in found.notes
