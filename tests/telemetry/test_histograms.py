"""What was asked and answered, as counts over the bins of a reference."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
import pytest

from mlops_nb import datasets, telemetry
from mlops_nb.summaries import ColumnSummary
from mlops_nb.telemetry import Asked, Segment, Sought

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)  # a Monday
AGE = ColumnSummary(name="age", kind="number", edges=[0.0, 1.0, 2.0])
LABEL = ColumnSummary(name="label", kind="category", categories={"0": 0, "1": 0}, integers=True)


def test_answers_are_counted_as_what_was_asked_is(recorded):
    recorded.append(recorded.lines(3))

    [window] = telemetry.histograms("delays", [Asked("age", AGE), Asked("label", LABEL, side="outputs")])

    assert window.rows == 6
    assert (window.columns[0].counts, window.columns[0].missing) == ([1, 1, 1, 0], 3)
    assert window.columns[1].categories == {"0": 3, "1": 3}


def test_the_columns_of_answers_are_told_apart_from_those_asked(recorded):
    recorded.append(recorded.lines(1))

    assert telemetry.columns("delays") == {"age", "code", "when"}
    assert telemetry.columns("delays", side="outputs") == {"label", "probabilities"}


def test_a_part_of_an_answer_is_counted_by_its_place(recorded):
    recorded.append(recorded.lines(2))
    shape = ColumnSummary(name="p", kind="number", edges=[0.25, 0.5, 0.75])

    [window] = telemetry.histograms("delays", [Asked("probabilities", shape, (1,), "outputs")])

    assert window.columns[0].counts == [0, 2, 2, 0]


@pytest.mark.parametrize(("chosen", "expected"), [({"months": {6}}, 8), ({"weekdays": {0}}, 4), ({"months": {6}, "weekdays": {1}}, 2), ({"months": {2}}, 0)])
def test_only_the_months_and_weekdays_asked_for_are_counted(recorded, chosen, expected):
    for days in (0, 1, 5, 7, 30):
        recorded.append([recorded.line(time=NOON + timedelta(days=days))])

    found = telemetry.histograms("delays", [Asked("age", AGE)], **chosen)

    assert sum(window.rows for window in found) == expected


def test_what_is_no_category_is_named_for_each_window_in_one_pass_over_all(recorded, monkeypatch):
    for hours in range(6):
        recorded.append([recorded.line(time=NOON - timedelta(hours=hours), inputs={"code": ["x" if hours % 2 else "new", f"new {hours}"]})])
    module, passes = sys.modules["mlops_nb.telemetry.histograms"], []
    read = module._rows_of
    monkeypatch.setattr(module, "_rows_of", lambda *how: passes.append(how) or read(*how))
    shape = ColumnSummary(name="code", kind="category", categories={"x": 0})

    found = telemetry.histograms("delays", [Asked("code", shape)], until=NOON + timedelta(minutes=1), seconds=3600, most=6)

    assert [window.columns[0].new for window in found] == [{f"new {hours}": 1} if hours % 2 else {"new": 1, f"new {hours}": 1} for hours in range(6)]
    assert len(passes) == 2


def test_a_past_window_is_summed_up_as_a_data_set_of_the_same_rows_is(recorded):
    values = np.random.default_rng(1).normal(size=400).round(2)
    recorded.append([recorded.line(time=NOON, inputs={"age": [a, b], "code": ["x", "y"]}) for a, b in values.reshape(-1, 2).tolist()])
    expected = datasets.summary(datasets.register("x", pd.DataFrame({"age": values, "code": ["x", "y"] * 200})))
    sought = [Sought("age", "float64", "age"), Sought("code", "string", "code"), Sought("label", "int64", "label", side="outputs")]

    found = telemetry.shapes("delays", sought, since=NOON - timedelta(hours=1), until=NOON + timedelta(hours=1))

    assert [msgspec.to_builtins(one) for one in found[:2]] == [msgspec.to_builtins(one) for one in expected]
    assert (found[2].name, found[2].categories) == ("label", {"0": 200, "1": 200})


def test_a_time_without_requests_is_no_reference(recorded):
    recorded.append([recorded.line(time=NOON)])

    sought = [Sought("age", "float64", "age")]

    assert telemetry.shapes("delays", sought, since=NOON + timedelta(days=1)) == []
    assert telemetry.shapes("elsewhere", sought) == []


def test_part_of_a_year_is_a_reference_of_its_own(recorded):
    recorded.append([recorded.line(time=NOON + timedelta(days=days), inputs={"age": [float(days)]}, rows=1) for days in range(60)])

    [june] = telemetry.shapes("delays", [Sought("age", "float64", "age")], months={6})

    assert (june.rows, june.edges[-1]) == (30, 29.0)


def test_only_the_rows_of_a_segment_are_counted_whatever_else_is_in_their_requests(recorded):
    recorded.append([recorded.line(time=NOON, inputs={"age": [0.5, 1.5, 1.5], "code": ["x", "y", "x"]})])
    recorded.append([recorded.line(time=NOON + timedelta(hours=1), inputs={"age": [0.5, 0.5], "code": ["y", "y"]})])
    code = Asked("code", ColumnSummary(name="code", kind="category", categories={"x": 0, "y": 0}))

    found = telemetry.histograms("delays", [Asked("age", AGE)], until=NOON + timedelta(hours=2), seconds=3600, most=3, segment=Segment(code, "x"))

    assert [(window.rows, window.columns[0].counts) for window in found] == [(2, [0, 1, 1, 0])]


def test_windows_of_rows_end_between_requests_and_no_row_is_in_two(recorded):
    times = [NOON + timedelta(minutes=n // 4) for n in range(100)]  # four requests each moment, which their ids tell apart
    recorded.append([recorded.line(time=time, inputs={"age": [float(n), float(n)]}) for n, time in enumerate(times)])
    shape = ColumnSummary(name="age", kind="number", edges=[float(n) for n in range(100)])

    windows = telemetry.histograms("delays", [Asked("age", shape)], size=30, most=5)

    assert [(window.number, window.rows) for window in windows] == [(n, 30) for n in range(5)]
    seen = [[n for n, count in enumerate(window.columns[0].counts) if count] for window in windows]
    assert all(len(one) == 15 for one in seen) and len({n for one in seen for n in one}) == 75
    assert [window.first for window in windows] == [min(times[n] for n in one) for one in seen]


def test_requests_of_a_clock_that_is_ahead_count_in_the_newest_window(recorded):
    recorded.append([recorded.line(time=datetime.now(UTC) + timedelta(minutes=5))])

    assert [window.rows for window in telemetry.histograms("delays", [Asked("age", AGE)])] == [2]
    assert [window.number for window in telemetry.histograms("delays", [Asked("age", AGE)], seconds=60, most=3)] == [0]


def test_a_column_that_was_text_or_a_fraction_before_is_counted_as_the_numbers_that_it_is(recorded):
    for number, values in enumerate((["1", "2"], [1, 2], [0.5, 1.5], ["many", "2"])):
        recorded.append([recorded.line(time=NOON, inputs={f"x{number}": values, "y": values})])

    text, whole, halves, mixed = (telemetry.shapes("delays", [Sought(f"x{number}", "int64", f"x{number}")])[0] for number in range(4))
    [every] = telemetry.shapes("delays", [Sought("y", "int64", "y")])

    assert text.categories == whole.categories == {"1": 1, "2": 1}
    assert not halves.categories and halves.mean == 1.0
    assert not mixed.categories and not every.categories
