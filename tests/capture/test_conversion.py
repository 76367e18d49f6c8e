"""ONNX answers as the original does, or is not used."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, SplineTransformer, StandardScaler
from sklearn.svm import LinearSVC

from mlops_nb import conversion, flavors, signature

ROWS = 200


@pytest.fixture(scope="module")
def frame():
    random = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "delay in min": random.normal(size=ROWS),
            "hour": random.integers(0, 24, ROWS),
            "carrier": random.choice(["UA", "DL", "Zürich"], ROWS),
            "unused": random.random(ROWS),
        }
    )


@pytest.fixture(scope="module")
def late(frame):
    return ((frame["delay in min"] + frame.hour / 24) > 0.5).astype(int).to_numpy()


def converted(model, data):
    return conversion.to_onnx(model, signature.infer(data), data)


def mixed(*, dense=False):
    return make_column_transformer((OneHotEncoder(sparse_output=not dense), ["carrier"]), (StandardScaler(), ["delay in min", "hour"]))


NUMBERS = ["delay in min", "hour"]


def test_a_pipeline_of_text_and_numbers_answers_the_same(frame, late):
    assert converted(make_pipeline(mixed(), LogisticRegression()).fit(frame, late), frame).report["equal"]


def test_text_labels_stay_text(frame, late):
    result = converted(make_pipeline(mixed(), LogisticRegression()).fit(frame, np.array(["on time", "late"])[late]), frame)

    assert set(flavors.OnnxModel(result.onnx).predict(frame)["label"]) == {"on time", "late"}


def test_the_columns_keep_their_names_and_those_not_looked_at_stay(frame, late):
    result = converted(make_pipeline(mixed(), LogisticRegression()).fit(frame, late), frame)

    assert [arg.name for arg in flavors.OnnxModel(result.onnx).session.get_inputs()] == list(frame.columns)


def test_a_classifier_gives_label_and_probabilities(frame, late):
    result = converted(LogisticRegression().fit(frame[NUMBERS], late), frame[NUMBERS])

    assert list(flavors.OnnxModel(result.onnx).predict(frame[NUMBERS])) == ["label", "probabilities"]


def test_a_regressor_gives_prediction(frame):
    result = converted(Ridge().fit(frame[NUMBERS], frame.unused), frame[NUMBERS])

    assert list(flavors.OnnxModel(result.onnx).predict(frame[NUMBERS])) == ["prediction"]


@pytest.mark.parametrize("make", [lambda: RandomForestClassifier(5), LogisticRegression], ids=["forest", "logistic"])
@pytest.mark.parametrize("as_array", [True, False], ids=["array", "table"])
def test_estimators_on_tables_and_arrays_answer_the_same(frame, late, make, as_array):
    data = frame[NUMBERS].to_numpy() if as_array else frame[NUMBERS]

    assert converted(make().fit(data, late), data).report["equal"]


def test_missing_numbers_are_imputed_the_same(frame, late):
    data = frame[NUMBERS].astype(float).mask(np.random.default_rng(1).random((ROWS, 2)) < 0.2)

    assert converted(make_pipeline(SimpleImputer(), LogisticRegression()).fit(data, late), data).report["equal"]


def test_a_forest_that_regresses_answers_the_same(frame):
    assert converted(RandomForestRegressor(5).fit(frame[NUMBERS], frame.unused * 1000), frame[NUMBERS]).report["equal"]


@pytest.mark.parametrize("kind", ["classifier", "regressor", "in a pipeline"])
def test_xgboost_answers_the_same(frame, late, kind):
    import xgboost

    if kind == "in a pipeline":
        model, data, target = make_pipeline(mixed(dense=True), xgboost.XGBClassifier(n_estimators=5, max_depth=2)), frame, late
    else:
        model, data, target = {"classifier": xgboost.XGBClassifier, "regressor": xgboost.XGBRegressor}[kind](n_estimators=5), frame[NUMBERS], late

    assert converted(model.fit(data, target), data).report["equal"]


def test_xgboost_keeps_its_columns_names_after_conversion(frame, late):
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=2).fit(frame[NUMBERS], late)
    converted(model, frame[NUMBERS])

    assert model.get_booster().feature_names == NUMBERS


@pytest.mark.parametrize("kind", ["classifier", "regressor", "in a pipeline"])
def test_lightgbm_answers_the_same(frame, late, kind):
    import lightgbm

    if kind == "in a pipeline":
        model, data = make_pipeline(mixed(), lightgbm.LGBMClassifier(n_estimators=5, verbose=-1)), frame
    else:
        model, data = {"classifier": lightgbm.LGBMClassifier, "regressor": lightgbm.LGBMRegressor}[kind](n_estimators=5, verbose=-1), frame[NUMBERS]

    assert converted(model.fit(data, late), data).report["equal"]


def stays(result):
    return result.onnx is None and result.report.get("reason", "")


@pytest.mark.parametrize("kind", [HistGradientBoostingClassifier, HistGradientBoostingRegressor], ids=["classifier", "regressor"])
def test_histogram_boosting_answers_the_same(frame, late, kind):
    assert converted(kind(max_iter=5).fit(frame[NUMBERS], late), frame[NUMBERS]).report["equal"]


def test_a_step_without_a_converter_is_named(frame, late):
    model = Pipeline([("curves", SplineTransformer()), ("line", LogisticRegression())]).fit(frame[["hour"]], late)

    assert stays(converted(model, frame[["hour"]])) == "SplineTransformer in step 'curves' has no ONNX converter"


def test_a_function_without_a_converter_is_named_in_one_line(frame, late):
    reason = stays(converted(make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()).fit(frame[["hour"]], late), frame[["hour"]]))

    assert reason.startswith("FunctionTransformer(log1p) in step 'functiontransformer'")
    assert len(reason) < 250 and "\n" not in reason


def test_a_support_vector_machine_in_a_pipeline_answers_the_same(frame, late):
    assert converted(make_pipeline(StandardScaler(), LinearSVC()).fit(frame[NUMBERS], late), frame[NUMBERS]).report["equal"]


def test_missing_text_stays_with_the_original(frame, late):
    data = frame.assign(carrier=frame.carrier.where(frame.hour > 3, None))
    model = make_pipeline(mixed(), LogisticRegression()).fit(data, late)

    assert "'carrier' misses values" in stays(converted(model, data))


def test_labels_that_are_truth_values_stay_with_the_original(frame, late):
    assert "truth values" in stays(converted(LogisticRegression().fit(frame[NUMBERS], late.astype(bool)), frame[NUMBERS]))


def test_numbers_coded_by_pandas_stay_with_the_original(frame, late):
    import lightgbm

    data = frame[["hour"]].astype("category")
    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(data, late)

    assert "categorical" in stays(converted(model, data))


def test_a_column_named_as_the_answer_stays_with_the_original(frame, late):
    data = frame[NUMBERS].rename(columns={"hour": "label"})

    assert "label" in stays(converted(LogisticRegression().fit(data, late), data))


def test_without_rows_nothing_is_claimed(late):
    assert "no sample rows" in stays(conversion.to_onnx(LogisticRegression(), None, None))


def test_an_object_that_is_no_estimator_has_no_converter(frame):
    class Model:
        def predict(self, X):
            return X

    assert stays(converted(Model(), frame)) == "there is no converter for Model"


def test_a_threshold_that_32_bits_blur_is_kept_by_reckoning_with_64(frame, late):
    import xgboost

    data = pd.DataFrame({"x": 1e6 + frame["delay in min"], "carrier": frame.carrier})
    columns = make_column_transformer((OneHotEncoder(sparse_output=False), ["carrier"]), (StandardScaler(), ["x"]))

    assert converted(make_pipeline(columns, xgboost.XGBClassifier(n_estimators=5)).fit(data, late), data).report["equal"]


def test_lightgbm_compares_with_64_bits_in_onnx_too():
    import lightgbm

    data = pd.DataFrame({"x": 1 + np.arange(ROWS) * 1e-9})
    result = converted(lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(data, (np.arange(ROWS) >= ROWS // 2).astype(int)), data)

    assert (result.report["equal"], result.report["bits"]) == (True, 64)


def test_an_unequal_conversion_is_reported_and_not_used(frame, late):
    model = LogisticRegression().fit(frame[NUMBERS], late)
    model.predict = lambda rows: 1 - LogisticRegression.predict(model, rows)  # mended by hand, which no converter can see
    result = converted(model, frame[NUMBERS])

    assert (result.onnx, result.report["equal"], result.report["labels_differ"], result.engine) == (None, False, ROWS, "python")


def test_a_conversion_leaves_the_users_own_converter_as_it_was():
    from skl2onnx import to_onnx

    rows = np.random.default_rng(0).normal(size=(50, 3))
    forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(rows, rows[:, 0] > 0)
    before = to_onnx(forest, rows[:1]).SerializeToString()

    conversion.to_onnx(forest, signature.infer(rows), rows)

    assert to_onnx(forest, rows[:1]).SerializeToString() == before
