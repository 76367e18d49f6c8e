"""Rows just beside trees' thresholds, and what is written so that they fall to the same side."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlops_nb import conversion, signature
from mlops_nb.conversion import thresholds

NUMBERS = ["delay", "hour"]


def stump(kind):
    if kind == "xgboost":
        return xgboost.XGBClassifier(n_estimators=1, max_depth=1)
    if kind == "lightgbm":
        return lightgbm.LGBMClassifier(n_estimators=1, num_leaves=2, verbose=-1, learning_rate=1.0)
    return DecisionTreeClassifier(max_depth=1) if kind == "tree" else HistGradientBoostingClassifier(max_iter=1, max_leaf_nodes=2, learning_rate=1.0)


@pytest.mark.parametrize("kind", ["tree", "histogram", "xgboost", "lightgbm"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_rows_beside_a_threshold_fall_to_both_sides(flights, kind, scaled):
    rows = flights[["delay"]]
    target = (flights.delay > 0.3).astype(int)
    model = (make_pipeline(StandardScaler(), stump(kind)) if scaled else stump(kind)).fit(rows, target)
    beside = thresholds.rows_beside(model, rows, most=1)

    assert np.ptp(beside["delay"].to_numpy()) < 1e-5
    assert set(model.predict(beside)) == {0, 1}


def test_a_model_without_trees_has_no_thresholds(flights):
    from sklearn.linear_model import LogisticRegression

    assert thresholds.rows_beside(LogisticRegression().fit(flights[NUMBERS], flights.late), flights[NUMBERS], most=10) is None


def test_a_column_of_whole_numbers_that_misses_some_stays_as_it_is(flights):
    rows = flights[["delay"]].assign(gate=flights.hour.astype(int).astype("Int64").mask(flights.index % 5 == 0))
    model = HistGradientBoostingClassifier(max_iter=5).fit(rows, (flights.delay + flights.hour > 3).astype(int))

    assert conversion.to_onnx(model, signature.infer(rows), rows).report["equal"]


def test_numbers_that_32_bits_do_not_hold_are_no_rows_beside(flights):
    rows = flights[["delay"]] * 1e300
    model = HistGradientBoostingClassifier(max_iter=5).fit(rows, (flights.delay > 0).astype(int))

    assert np.isfinite(thresholds.rows_beside(model, rows, most=50).to_numpy()).all()


def test_the_types_of_the_columns_stay(flights):
    rows = flights[NUMBERS].astype("float32")
    beside = thresholds.rows_beside(DecisionTreeClassifier().fit(rows, flights.late), rows, most=10)

    assert beside.dtypes.tolist() == rows.dtypes.tolist()


@pytest.mark.parametrize("labels", [[0, 1], ["late", "on time"], [3, 5, 9]], ids=["numbers", "texts", "three"])
def test_an_even_vote_gives_the_label_that_scikit_learn_gives(flights, labels):
    target = np.array(labels)[np.arange(len(flights)) * 7919 % len(labels)]  # as good as random: half the votes are even
    model = RandomForestClassifier(10, max_depth=3, max_samples=20, random_state=0).fit(flights[NUMBERS], target)

    assert conversion.to_onnx(model, signature.infer(flights[NUMBERS]), flights[NUMBERS]).report["labels_differ"] == 0


def test_a_scaled_forest_is_written_with_64_bits_when_32_are_too_few(flights):
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(flights[NUMBERS], flights.late)
    report = conversion.to_onnx(model, signature.infer(flights[NUMBERS]), flights[NUMBERS]).report

    assert (report["equal"], report["bits"]) == (True, 64)


TREES = {
    "forest": lambda: RandomForestClassifier(10, max_depth=6, random_state=0),
    "forest that regresses": lambda: RandomForestRegressor(10, max_depth=6, random_state=0),
    "extra trees that regress": lambda: ExtraTreesRegressor(10, max_depth=6, random_state=0),
    "tree": lambda: DecisionTreeClassifier(max_depth=6),
    "tree that regresses": lambda: DecisionTreeRegressor(max_depth=6),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=10),
    "boosting that regresses": lambda: GradientBoostingRegressor(n_estimators=10),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=10),
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=10),
    "xgboost that regresses": lambda: xgboost.XGBRegressor(n_estimators=10),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=10, verbose=-1),
}


@pytest.mark.parametrize("trees", TREES)
def test_trees_behind_an_imputer_a_scaler_and_an_encoder_answer_the_same(flights, trees):
    rows = flights.assign(delay=flights.delay.mask(flights.index % 9 == 0), carrier=np.array(["AA", "B6", "UA"])[flights.index % 3])[
        ["delay", "hour", "carrier"]
    ]
    numbers, texts = (
        make_pipeline(SimpleImputer(), StandardScaler()),
        make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False)),
    )
    model = make_pipeline(make_column_transformer((numbers, NUMBERS), (texts, ["carrier"])), TREES[trees]()).fit(rows, flights.late)
    report = conversion.to_onnx(model, signature.infer(rows), rows).report

    assert report["equal"], report
    assert report["beside"]["labels_differ"] == 0


def test_what_serves_is_onnx_runtime_only_where_it_is_not_slower_for_one_row():
    from mlops_nb.conversion import speed

    figures = [{"rows": 1, "threads": 2, "ratio": 0.8}, {"rows": 1000, "threads": 2, "ratio": 3.0}, {"rows": 1, "threads": 1, "ratio": 9.0}]
    found = speed.verdict(figures)

    assert (found["engine"], found["batch_engine"], found["fastest"]) == ("python", "onnxruntime", {"1": "python", "1000": "onnxruntime"})
