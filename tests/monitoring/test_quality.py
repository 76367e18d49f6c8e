"""What a check says of the data themselves, and of changes too small to count."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
import pytest

from mlops_nb import alerts, cards, monitoring, settings, signature
from mlops_nb.errors import SignatureMismatch
from mlops_nb.monitoring import DriftReport, quality, silences
from mlops_nb.monitoring.reports import Finding

from .conftest import Watched, flights


def checked(**options) -> DriftReport:
    return msgspec.convert(monitoring.check_drift("delays", **options).report, DriftReport)


def training() -> pd.DataFrame:
    frame = flights(5000, seed=0)
    return frame.assign(pressure=np.random.default_rng(4).normal(1013, 5, 5000), humidity=frame.dep_delay, gate=frame.carrier)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> DriftReport:
    """Of one check over columns each of which has one fault."""
    with settings.using(tmp_path_factory.mktemp("faults")):
        watched = Watched(training())
        watched.deploy()
        rows = training().sample(2000, random_state=1, ignore_index=True)
        every = np.arange(2000)
        rows = rows.assign(pressure=1013.25, carrier=rows.carrier.where(every % 8 != 0, "ZZ"), dep_delay=rows.dep_delay.where(every % 8 != 0, 9000.0))
        rows["humidity"] = rows.humidity.where(every % 5 != 0, np.nan)
        rows["distance"] = rows.distance.where(every % 200 != 0, np.nan)
        rows["gate"] = None
        watched.ask(rows)
        refuse(watched, "wheels", 300)
        return checked()


def refuse(watched: Watched, column: str, count: int) -> None:
    """Requests that the server refused, in its own words."""
    refuse_rows(watched, {**{name: [0.0] for name in watched.training}, column: [1.0]}, count)


def refuse_rows(watched: Watched, rows: dict[str, list], count: int = 1) -> None:
    """The same of any rows."""
    with pytest.raises(SignatureMismatch) as told:
        signature.infer(watched.training).check(rows)
    facts = {"status": 400, "latency_ms": 1.0, "rows": None, "inputs": None, "outputs": None, "error": told.value.whole}
    lines = [json.dumps({"time": datetime.now(UTC).isoformat(), "id": f"{time.time_ns()}-{n}", **facts}) + "\n" for n in range(count)]
    (watched._folder("1") / f"closed-{time.time_ns()}.jsonl").write_text("".join(lines))


def finding(report: DriftReport, column: str) -> Finding:
    return next(one for one in report.quality if one.feature == column)


def test_a_sensor_that_is_stuck_is_told_with_its_value(report):
    assert finding(report, "pressure").kind == "stuck" and finding(report, "pressure").is_alarm
    assert finding(report, "pressure").words == "always 1013 in the newest 2,000 rows; it varied before"


def test_what_is_always_the_same_is_known_though_its_sum_is_rounded(workspace):
    watched = Watched(flights(1000, seed=0, distance=0.1))
    watched.deploy()
    watched.ask(flights(999, seed=1, distance=0.1, dep_delay=21.7), batch=30)

    found = checked()

    assert [(one.feature, one.kind, one.is_alarm) for one in found.quality] == [("dep_delay", "stuck", True)]
    assert finding(found, "dep_delay").words == "always 21.7 in the newest 999 rows; it varied before"
    assert next(one.summary for one in found.features if one.name == "distance") == "always 0.1"


def test_categories_that_were_not_there_are_named_with_their_share(report):
    assert finding(report, "carrier") == Finding(
        feature="carrier", kind="new categories", share=0.125, threshold=0.03, is_alarm=True,
        words="12 % are of categories that it did not have: 'ZZ' 12 %",
    )  # fmt: skip


def test_values_beyond_the_range_are_told_with_how_far_they_reach(report):
    words = finding(report, "dep_delay").words

    assert finding(report, "dep_delay").is_alarm and finding(report, "dep_delay").share == 0.125
    assert words.startswith("12 % lie outside [-") and "as far as 9000 (" in words and words.endswith("times the range above it)")


def test_a_range_that_begins_at_zero_is_told_from_zero(workspace):
    rows = flights(1000, seed=0).assign(rain=np.linspace(0, 0.32, 1000))
    watched = Watched(rows)
    watched.deploy()
    watched.ask(rows.assign(rain=np.where(np.arange(1000) % 4, rows.rain, 5.0)))

    told = cards.as_text(monitoring.check_drift("delays"))

    assert "lie outside [0, 0.32]" in told and "25 % outside [0, 0.32]" in told


def test_gaps_alarm_beyond_the_effect_and_are_told_below_it(report):
    assert finding(report, "humidity").words == "missing in 20 % of the rows, 0 % before" and finding(report, "humidity").is_alarm
    assert finding(report, "distance").words == "missing in 0.5 % of the rows, 0 % before" and not finding(report, "distance").is_alarm


def test_gaps_of_earlier_windows_are_told_by_those_windows_whatever_else_the_newest_has(delays):
    now = datetime.now(UTC)
    for days in range(5):
        rows = flights(1000, seed=days + 1)
        rows["dep_delay"] = rows.dep_delay + 40 if days == 0 else rows.dep_delay.where(np.arange(1000) % 3 != 0)
        delays.ask(rows, at=now - timedelta(days=days, hours=1))

    [gaps] = [one for one in checked(window="1d").quality if one.kind == "missing"]

    assert (gaps.feature, gaps.is_alarm, gaps.words) == ("dep_delay", True, "missing in 27 % of the rows, 0 % before")


def test_gaps_that_are_no_more_are_told_by_the_share_below_which_they_count(workspace):
    rows = flights(1000, seed=0)
    watched = Watched(rows.assign(dep_delay=rows.dep_delay.where(np.arange(1000) % 2 == 0)))
    watched.deploy()
    watched.ask(flights(1000, seed=1))

    gaps = finding(checked(), "dep_delay")

    assert (gaps.is_alarm, gaps.share, gaps.threshold) == (True, 0.0, pytest.approx(0.47))


def test_a_column_that_is_empty_is_told_as_gone(report):
    assert finding(report, "gate").kind == "gone" and finding(report, "gate").is_alarm


def test_requests_refused_for_their_columns_are_facts_of_the_schema(report):
    refused = finding(report, "wheels")

    assert (refused.kind, refused.is_alarm, refused.by_chance) == ("refused", True, False)
    assert refused.words == "300 of 304 requests were refused: a column that the model does not know"


def test_a_drift_by_what_is_missing_or_new_is_told_with_the_test_that_found_it(report):
    told = {feature.name: feature for feature in report.features}

    assert (told["humidity"].test, told["carrier"].test) == ("likelihood ratio of missing values", "likelihood ratio of new values")
    assert all(feature.p_adjusted < report.alpha for feature in report.features if feature.is_drift)


def test_that_every_request_was_refused_is_told_and_raises_the_alert(delays):
    refuse(delays, "wheels", 30)
    alerts.add("delays", "drift")
    check = monitoring.check_drift("delays")

    assert "nothing was compared, but wheels: see data quality" in cards.as_text(check)
    assert "no request was answered" in cards.as_text(check) and "30 of 30 requests were refused" in cards.as_text(check)
    assert [rule.value for rule in alerts.judge()] == ["drift in wheels"]


def test_sound_data_have_no_findings(delays):
    delays.ask(flights(3000, seed=1))

    assert checked().quality == []


def test_a_refused_type_is_one_finding_whatever_the_values(delays):
    delays.ask(flights(3000, seed=1), batch=10)
    refuse_values(delays, ["late", "later"])

    [refused] = checked().quality

    assert refused.feature == "distance" and refused.words == "2 of 302 requests were refused: expected float64, got text"
    assert not refused.is_alarm


def refuse_values(watched: Watched, values: list[str], deployment: str = "1") -> None:
    """Requests whose last row brought such a value in place of a distance."""
    sound, lines = {name: column.tolist()[0] for name, column in watched.training.items()}, []
    for place, value in enumerate(values):
        rows = {name: [sound[name]] * (place % 7) + [value if name == "distance" else sound[name]] for name in watched.training}
        with pytest.raises(SignatureMismatch) as told:
            signature.infer(watched.training).check(rows)
        facts = {"status": 400, "latency_ms": 1.0, "rows": None, "inputs": {}, "outputs": None, "error": told.value.whole}
        lines.append(json.dumps({"time": datetime.now(UTC).isoformat(), "id": f"{deployment}-{value}", **facts}) + "\n")
    (watched._folder(deployment) / f"closed-{time.time_ns()}.jsonl").write_text("".join(lines))


def test_refused_requests_are_counted_whole_however_many_values_they_brought(delays):
    delays.ask(flights(3000, seed=1), batch=1)
    refuse_values(delays, [f"{n} minutes, got late" for n in range(500)])

    [refused] = checked().quality

    assert refused.words == "500 of 3,500 requests were refused: expected float64, got text" and refused.is_alarm


def test_refused_requests_are_a_share_of_what_their_own_deployment_was_asked(delays):
    delays.deploy("2", version=2)
    delays.split(d1=90, d2=10)
    now = datetime.now(UTC)
    delays.ask(flights(3000, seed=1), batch=1, at=now)
    delays.ask(flights(300, seed=2), batch=10, deployment="2", at=now)
    refuse_values(delays, [f"late {n}" for n in range(10)], deployment="2")

    [refused] = checked(deployment="2").quality

    assert refused.words == "10 of 40 requests were refused: expected float64, got text" and refused.is_alarm


def test_every_column_that_a_refused_request_lacks_is_told(workspace):
    watched = Watched(pd.DataFrame({f"it's {n}" if n % 2 else f"and missing column 'x{n}'": flights(500, seed=n).dep_delay for n in range(10)}))
    watched.deploy()
    watched.ask(watched.training)
    refuse_rows(watched, {"wheels": [1.0], "wings": [2.0]})

    words = {one.feature: one.words.rpartition(": ")[2] for one in checked().quality}

    assert words == dict.fromkeys(watched.training, "without it") | dict.fromkeys(["wheels", "wings"], "a column that the model does not know")


def test_the_name_of_a_series_sent_in_place_of_rows_is_no_column(delays):
    delays.ask(flights(3000, seed=1), batch=10)
    refuse_rows(delays, signature.to_columns(delays.training.dep_delay.rename(512)))

    assert {one.feature for one in checked().quality} == set(delays.training)


def test_what_came_is_told_whole_and_without_its_value(delays):
    delays.ask(flights(3000, seed=1), batch=10)
    sound = {name: [value] for name, value in delays.training.iloc[0].items()}
    refuse_rows(delays, sound | {"distance": [None]})
    refuse_rows(delays, sound | {"dep_delay": np.zeros((1, 2))})
    refuse_rows(delays, sound | {"dep_delay": np.zeros((1, 3))})

    words = {one.feature: one.words.rpartition("refused: ")[2] for one in checked().quality}

    assert words == {"distance": "expected float64, got a missing value", "dep_delay": "expected one value a row, got another"}


def test_a_fault_of_the_schema_raises_the_alert_until_it_is_snoozed(delays):
    delays.ask(flights(3000, seed=1))
    refuse(delays, "wheels", 30)
    alerts.add("delays", "drift")
    check = monitoring.check_drift("delays")

    assert [rule.value for rule in alerts.judge()] == ["drift in wheels"]
    assert "no drift, but wheels: see data quality" in cards.as_text(check)

    silences.snooze("delays", feature="wheels", seconds=60)
    assert [rule.value for rule in alerts.judge()] == ["no other drift; silenced: wheels"]


def test_an_alert_that_goes_on_names_what_drifts_by_the_newest_check(delays):
    delays.ask(flights(3000, seed=1))
    refuse(delays, "wheels", 30)
    [rule] = [alerts.add("delays", "drift")]
    monitoring.check_drift("delays")
    alerts.judge()
    delays.ask(flights(3000, seed=2, dep_delay=9000.0))
    monitoring.check_drift("delays")

    assert alerts.judge() == []
    assert [one.value for one in alerts.of("delays") if one.id == rule.id] == ["drift in dep_delay, wheels"]


def test_the_card_shows_the_findings(delays):
    delays.ask(flights(3000, seed=1, dep_delay=9000.0))

    shown = cards.as_text(monitoring.check_drift("delays"))

    assert "out of range" in shown and "within the budget" in shown


def test_a_change_that_is_certain_and_too_small_to_count_says_so(workspace):
    watched = Watched(flights(60_000, seed=0))
    watched.deploy()
    rows = flights(60_000, seed=1)
    watched.ask(rows.assign(dep_delay=rows.dep_delay + 0.4), batch=20_000)

    check = monitoring.check_drift("delays")
    small = next(one for one in check.report["features"] if one["name"] == "dep_delay")

    assert not check.is_drift and small["is_small_change"]
    assert "changed for certain, yet only" in small["summary"] and "and 3.0 % count (--effect)" in small["summary"]
    assert "same, small change" in cards.as_text(check)
    assert [one["is_small_change"] for one in check.report["features"] if one["name"] == "distance"] == [False]


def test_columns_that_came_and_went_are_facts_and_only_what_went_alarms(delays):
    found = quality.schema("delays", None, since=None, until=datetime.now(UTC), known=set(), new={"wheels"}, gone={"wings"}, effect=0.03)

    assert [(one.feature, one.kind, one.is_alarm, one.by_chance) for one in found] == [("wings", "gone", True, False), ("wheels", "new column", False, False)]
