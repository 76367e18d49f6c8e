"""A stored check is drawn without any data."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from mlops_nb import monitoring, settings
from mlops_nb.errors import FeatureNotFound
from mlops_nb.store.checks import DriftCheck

from .conftest import Watched, flights

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def check(tmp_path_factory) -> DriftCheck:
    """One number that moved, one category that stayed, one column that is not compared, and a name full of markup."""
    moments = np.array(["2026-01-01"] * 1000, dtype="datetime64[us]")
    with settings.using(tmp_path_factory.mktemp("drawn")):
        watched = Watched(flights(1000, seed=0).assign(when=moments, **{MARKUP: 1.0}))
        watched.deploy()
        watched.ask(flights(1000, seed=1, dep_delay=40.0).assign(when=moments, **{MARKUP: 1.0}))
        return monitoring.check_drift("delays", engine="scipy")


def test_the_title_says_the_verdict(check):
    assert monitoring.figure(check).layout.title.text.startswith("◆ 1 of 5 features of delays drift")


def test_the_verdict_is_told_by_colour_and_by_symbol(check):
    by_verdict = {trace.name: trace for trace in monitoring.figure(check).data}

    assert set(by_verdict) == {"drift", "no drift", "not tested"}
    assert len({trace.marker.symbol for trace in by_verdict.values()}) == 3
    assert len({trace.marker.color for trace in by_verdict.values()}) == 3
    assert list(by_verdict["drift"].y) == ["dep_delay"]


def test_features_called_by_numbers_or_alike_have_a_line_each(check):
    names = ["3", "20", "100", f"{'reading ' * 6}north", f"{'reading ' * 6}south"]
    some = [{**check.report["features"][0], "name": name} for name in names]

    drawn = monitoring.figure(msgspec.structs.replace(check, report={**check.report, "features": some}))

    assert drawn.layout.yaxis.type == "category" and len(set(drawn.data[0].y)) == len(set(drawn.layout.yaxis.categoryarray)) == 5
    assert all(shape.y0 == 0 and shape.y1 == 1 for shape in drawn.layout.shapes)  # a shape's place on such an axis is a number, whatever a feature is called


def test_categories_that_begin_alike_have_a_bar_each(check):
    names = [f"https://shop.example.com/products/garden/{place}" for place in ("chairs", "tables")]
    feature = {**check.report["features"][0], "histogram": {"categories": [*names, None], "reference": [0.5, 0.4, 0.1], "window": [0.4, 0.5, 0.1]}}

    reference, _ = monitoring.distribution_figure(msgspec.structs.replace(check, report={**check.report, "features": [feature]}), feature["name"]).data

    assert len(set(reference.x)) == 3


def test_without_drift_the_title_says_so(check):
    report = {**check.report, "is_drift": False, "features": [f | {"is_drift": False} for f in check.report["features"]]}

    figure = monitoring.figure(msgspec.structs.replace(check, is_drift=False, report=report))

    assert figure.layout.title.text.startswith("● No drift in 5 features")


def test_without_a_tested_feature_there_is_no_verdict(check):
    report = {**check.report, "features": [f | {"is_drift": False, "test": "none"} for f in check.report["features"]]}

    assert monitoring.figure(msgspec.structs.replace(check, report=report)).layout.title.text == "○ No verdict for delays"


def test_a_number_is_drawn_before_and_now(check):
    reference, window = monitoring.distribution_figure(check, "dep_delay").data

    assert len(reference.x) == len(window.x) == 31
    assert reference.name == "training data flights:1"


def test_categories_are_drawn_as_bars(check):
    reference, window = monitoring.distribution_figure(check, "carrier").data

    assert (reference.type, window.type) == ("bar", "bar")
    assert sorted(reference.x) == ["AA", "B6", "UA", "WN"]


def test_a_feature_that_was_not_compared_is_drawn_empty_with_the_reason(check):
    figure = monitoring.distribution_figure(check, "when")

    assert not figure.data
    assert "moments" in figure.layout.title.text


def test_an_unknown_feature_is_told_with_the_nearest(check):
    with pytest.raises(FeatureNotFound) as told:
        monitoring.distribution_figure(check, "dep_delai")

    assert told.value.hint == "dep_delay"


def test_markup_in_a_name_is_inert(check):
    drawn = monitoring.figure(check).to_json() + monitoring.distribution_figure(check, MARKUP).to_json()

    assert "<img" not in drawn.replace("\\u003c", "<")


def test_a_figure_is_small(check):
    assert len(json.dumps(check.report)) < 20_000
