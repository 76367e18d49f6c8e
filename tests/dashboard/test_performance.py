"""The Performance page: measures where labels came, estimates where they did not, and the line to paste where there is nothing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mlops_nb import labels, telemetry


@pytest.fixture
def labelled(busy):
    """The busy workspace's `delays`, whose requests have labels."""
    random = np.random.default_rng(0)
    rows = [(row["id"], place) for row in telemetry.requests("delays", most=5000) if row["status"] < 400 for place in range(row["rows"])]
    ids, places = zip(*rows, strict=True)
    labels.record("delays", pd.DataFrame({"request_id": ids, "row": places, "late": random.integers(0, 2, len(rows))}))
    return busy


def test_an_empty_workspace_shows_the_line_to_paste(open_page):
    assert "%mlops labels delays --data df" in open_page("performance").code[0].value


def test_answers_without_labels_show_the_line_that_brings_them(open_page, busy):
    page = open_page("performance", endpoint="delays")

    assert not page.exception
    assert page.code[0].value.startswith("%mlops labels delays")


def test_measures_stand_in_the_table_with_their_counts(open_page, labelled):
    page = open_page("performance", endpoint="delays", by="all")

    rows = page.dataframe[0].value
    assert not page.exception
    assert {"deployment", "labelled", "answered", "accuracy"} <= set(rows.columns)
    assert rows["labelled"].sum() > 0


@pytest.mark.parametrize("by", ["day", "month", "hour"])
def test_a_link_may_name_how_time_is_parted(open_page, labelled, by):
    page = open_page("performance", endpoint="delays", by=by)

    assert not page.exception
    assert all(page.dataframe[0].value["from"])


def test_a_single_month_is_the_one_mark_on_its_axis(open_page, labelled):
    """On the first day of a month there are two, and no mark is set."""
    page = open_page("performance", endpoint="delays", by="month")

    axes = [json.loads(chart.proto.spec)["layout"].get("xaxis", {}) for chart in page.get("plotly_chart")]
    months = sorted({text.split()[0] for text in page.dataframe[0].value["from"]})
    assert [axis.get("ticktext") for axis in axes if axis.get("ticktext")] == ([months] * 2 if len(months) == 1 else [])


def test_a_link_that_names_nothing_opens_the_page_all_the_same(open_page, labelled):
    assert not open_page("performance", endpoint="<no>", by="<no>", segment="<no>", metric="<no>").exception


def test_performance_can_be_narrowed_to_a_target_and_hardware(open_page, labelled):
    assert set(open_page("performance", endpoint="delays", by="all", target="local").dataframe[0].value["deployment"]) == {"1", "2"}
    assert open_page("performance", endpoint="delays", by="all", hardware="gpu").code[0].value == "%mlops performance delays"


def test_how_far_labels_are_behind_is_told(open_page, busy):
    rows = sorted((row["time"], row["id"]) for row in telemetry.requests("delays", most=5000) if row["status"] < 400)
    early = pd.DataFrame({"request_id": [id for _, id in rows[:200]], "late": np.arange(200) % 2})
    labels.record("delays", early)

    page = open_page("performance", endpoint="delays", by="hour")

    assert any(caption.value.startswith(("Labels reach to the hour from", "Labels reach to the newest hour")) for caption in page.caption)
    assert page.text[0].value.startswith("200 of ")
