"""Drift by feature and time: windows beside the training data."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from mlops_nb import datasets, monitoring, telemetry
from mlops_nb.errors import NothingToCompare, UnknownColumn
from mlops_nb.monitoring import Part, drift_map, over_time, window_check

from .conftest import Watched, flights

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def hours(count: int, *, before: datetime = NOON) -> list[datetime]:
    return [before - timedelta(hours=number) + timedelta(minutes=30) for number in range(count, 0, -1)]


def asked_hourly(delays, count: int = 6, *, late_from: int | None = None, deployment: str = "1") -> None:
    """A thousand flights in each hour; from one of them on they are late."""
    for number, moment in enumerate(hours(count)):
        rows = flights(1000, seed=100 + number)
        if late_from is not None and number >= late_from:
            rows = rows.assign(dep_delay=rows["dep_delay"] + 8)
        delays.ask(rows, deployment=deployment, at=moment)


def of(count: int = 6, **how):
    return drift_map("delays", seconds=3600, since=NOON - timedelta(hours=count), until=NOON, **how)


def test_each_window_has_every_feature_with_its_effect(delays):
    asked_hourly(delays)

    found = of()

    assert [slot.begin for slot in found.slots] == [NOON - timedelta(hours=number) for number in range(6, 0, -1)]
    assert {slot.rows for slot in found.slots} == {1000}
    assert set(found.features) == {"distance", "dep_delay", "carrier", "wet"}
    assert max(cell.effect for slot in found.slots for cell in slot.cells) < 0.08


def test_unchanged_windows_raise_no_alarm(delays):
    asked_hourly(delays)

    found = of()

    assert {cell.alarm for slot in found.slots for cell in slot.cells} == {False}


def test_a_change_alarms_in_the_window_it_began_in_and_stands_first(delays):
    asked_hourly(delays, late_from=4)

    found = of()

    alarms = [(cell.feature, slot.begin) for slot in found.slots for cell in slot.cells if cell.alarm]
    assert alarms == [("dep_delay", NOON - timedelta(hours=2)), ("dep_delay", NOON - timedelta(hours=1))]
    assert found.features[0] == "dep_delay"
    assert found.cell("dep_delay", NOON - timedelta(hours=2)).effect > 0.3


def test_what_chance_explains_is_told_apart_from_what_moved(delays):
    delays.ask(flights(100, seed=1), at=NOON - timedelta(minutes=20))
    delays.ask(flights(3000, seed=2, carrier="AA"), at=NOON - timedelta(hours=1, minutes=20))

    found = of(2)

    assert all(cell.at_least < 0.01 for cell in found.slots[1].cells)
    assert max(cell.effect for cell in found.slots[1].cells) > 0.05
    assert 0.5 < found.cell("carrier", NOON - timedelta(hours=2)).at_least < found.cell("carrier", NOON - timedelta(hours=2)).effect


def test_hours_in_which_nobody_asked_are_left_out(delays):
    delays.ask(flights(1000, seed=1), at=NOON - timedelta(minutes=30))
    delays.ask(flights(1000, seed=2), at=NOON - timedelta(hours=4, minutes=30))

    assert [NOON - slot.begin for slot in of().slots] == [timedelta(hours=5), timedelta(hours=1)]


def test_the_counts_are_those_of_a_check_of_the_same_window(delays):
    asked_hourly(delays, late_from=5)
    check = monitoring.check_drift("delays", since=NOON - timedelta(hours=1), until=NOON, engine="histograms")

    told = {feature["name"]: feature for feature in check.report["features"]}
    cells = {cell.feature: cell for cell in of().slots[-1].cells}

    assert {name: cell.effect for name, cell in cells.items() if name == "dep_delay"} == {"dep_delay": told["dep_delay"]["effect"]}
    shown = {feature["name"]: feature for feature in window_check(of(), NOON - timedelta(hours=1)).report["features"]}
    assert {name: feature["histogram"] for name, feature in shown.items()} == {name: feature["histogram"] for name, feature in told.items()}


def test_a_window_draws_its_distribution_beside_the_training_data(delays):
    asked_hourly(delays, late_from=5)

    check = window_check(of(), NOON - timedelta(hours=1))
    figure = monitoring.distribution_figure(check, "dep_delay")

    assert {trace.name for trace in figure.data} == {"training data flights:1", "requests"}
    assert check.is_drift
    assert window_check(of(), NOON - timedelta(days=40)) is None


def test_windows_that_did_not_change_are_not_read_again(delays, monkeypatch):
    asked_hourly(delays)
    of()
    read = []
    counting = telemetry.histograms
    monkeypatch.setattr(telemetry, "histograms", lambda *args, **how: read.append((how["since"], how["until"])) or counting(*args, **how))

    of()
    assert read == []

    delays.ask(flights(500, seed=9), at=NOON - timedelta(minutes=5))
    assert of().slots[-1].rows == 1500
    assert [since for since, _ in read] == [NOON - timedelta(hours=1)]


def test_only_some_deployments_are_looked_at(delays):
    delays.deploy("2")
    delays.split(d1=50, d2=50)
    asked_hourly(delays, 2)
    delays.ask(flights(300, seed=5), deployment="2", at=NOON - timedelta(minutes=20))

    assert of(2).slots[-1].rows == 1300
    assert of(2, among=["2"]).slots[-1].rows == 300
    assert [slot.rows for slot in of(2, among=["1", "2"]).slots] == [1000, 1300]


def test_a_column_that_no_request_has_is_named_and_left_out(delays):
    for number, moment in enumerate(hours(2)):
        delays.ask(flights(100, seed=number).drop(columns="wet"), at=moment)

    found = of(2)

    assert found.skipped == {"not in the requests": ["wet"]}
    assert "wet" not in found.features


def test_of_a_column_without_a_value_in_the_training_data_no_share_is_new(workspace):
    watched = Watched(flights(1000, seed=0, distance=math.nan))
    watched.deploy()
    asked_hourly(watched, 1)

    cell = of(1).cell("distance", NOON - timedelta(hours=1))

    assert (cell.alarm, cell.kind, cell.missing, cell.new) == (True, "missing", 0.0, 0.0)


def test_an_endpoint_without_training_data_says_so(delays):
    delays.deploy("9", version=9, dataset=None)

    with pytest.raises(NothingToCompare, match="late:9"):
        of(2, among=["9"])


def test_no_more_windows_than_can_be_seen_are_looked_at(delays):
    asked_hourly(delays, 4)

    found = drift_map("delays", seconds=60, since=NOON - timedelta(days=400), until=NOON)

    assert [NOON - slot.begin for slot in found.slots] == [timedelta(minutes=90), timedelta(minutes=30)]


def test_a_part_of_the_rows_is_compared_with_the_same_part_of_the_training_data(delays):
    rows = flights(4000, seed=3)
    rows.loc[rows["carrier"] == "UA", "dep_delay"] += 8
    delays.ask(rows, at=NOON - timedelta(minutes=20))

    ua, aa = (of(1, part=Part("carrier", value)) for value in ("UA", "AA"))

    assert ua.slots[0].rows == (rows["carrier"] == "UA").sum()
    assert {cell.feature for cell in ua.slots[0].cells if cell.alarm} == {"dep_delay"}
    assert ua.cell("carrier", NOON - timedelta(hours=1)).effect == 0
    assert not any(cell.alarm for cell in aa.slots[0].cells)
    assert ua.parts == {"carrier": ["AA", "B6", "UA", "WN"], "wet": ["false", "true"]}


def test_a_part_that_the_training_data_has_not_is_shown_without_a_verdict(delays):
    delays.ask(flights(500, seed=3, carrier="ZZ"), at=NOON - timedelta(minutes=20))

    found = of(1, part=Part("carrier", "ZZ"))

    assert found.slots[0].rows == 500
    assert {cell.effect for cell in found.slots[0].cells} == {None}


def test_a_part_by_a_column_of_many_numbers_is_refused(delays):
    with pytest.raises(UnknownColumn, match="carrier, wet"):
        of(1, part=Part("dep_delay", "3"))


def test_a_part_says_that_predictions_and_labels_are_told_of_all_rows_alone(delays):
    delays.ask(flights(500, seed=3), at=NOON - timedelta(minutes=20))

    assert of(1, part=Part("carrier", "AA")).skipped == {"told of all rows alone": ["predictions", "labels"]}


@pytest.mark.parametrize("compacted", [False, True], ids=["as lines", "as Parquet"])
def test_of_many_rows_a_sample_is_counted_and_the_map_says_so(delays, workspace, monkeypatch, compacted):
    workspace.root.joinpath("config.toml").write_text("capture_days = 36500\n")
    monkeypatch.setattr(over_time, "MOST_ROWS", 10_000)
    for number, moment in enumerate(hours(6)):
        rows = flights(3000, seed=100 + number)
        delays.ask(rows.assign(dep_delay=rows["dep_delay"] + (8 if number >= 4 else 0)), at=moment, batch=1, ids=f"{number}-")
    if compacted:
        telemetry.compact()

    found = of()
    check = window_check(found, NOON - timedelta(hours=1))

    alarms = {(cell.feature, slot.begin) for slot in found.slots for cell in slot.cells if cell.alarm}
    compared = check.report["window"]["compared"]
    assert found.share == 1 / 16
    assert alarms == {("dep_delay", NOON - timedelta(hours=2)), ("dep_delay", NOON - timedelta(hours=1))}
    assert all(slot.rows == pytest.approx(3000, rel=0.3) for slot in found.slots)
    assert compared == found.slots[-1].rows / 16 < 300
    assert check.report["window"]["rows"] == found.slots[-1].rows


def test_a_share_of_the_requests_is_the_same_before_and_after_they_are_compacted(delays, workspace):
    workspace.root.joinpath("config.toml").write_text("capture_days = 36500\n")
    delays.ask(flights(4000, seed=1), at=NOON - timedelta(hours=1), batch=1)
    asked = [telemetry.Asked(shape.name, shape) for shape in datasets.summary(delays.dataset)]

    [before] = telemetry.histograms("delays", asked, share=1 / 32)
    telemetry.compact()
    [after] = telemetry.histograms("delays", asked, share=1 / 32)

    assert before.rows == pytest.approx(4000 / 32, rel=0.4)
    assert after.rows == before.rows
    assert [(one.counts, one.categories, one.missing) for one in after.columns] == [(one.counts, one.categories, one.missing) for one in before.columns]
