"""Each kind of model answers in the server what it answers where it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from mlops_nb import signature
from mlops_nb.serving import engines, score
from mlops_nb.serving.spec import ServerSpec

FRAME = pd.DataFrame({"kind": pd.Categorical(["a", "b", "c", "a"] * 30), "size": np.tile([1.0, 2.0, np.nan, 4.0], 30), "count": [1, 2, 3, 4] * 30})
TARGET = np.array([0, 1, 1, 0] * 30)
NUMBERS = FRAME[["count"]].assign(other=range(120)).astype("float64")


def loaded(folder: Path, data: Any, *, flavor: str) -> engines.Engine:
    """The engine of a folder, as a server would load it."""
    spec = ServerSpec(
        endpoint="e", deployment="1", model="m", version=1, folder=str(folder), flavor=flavor, engine="python", port=1, token_file="",
        run_folder="", capture_folder="", signature=signature.infer(data).as_json(), trusted=True,
    )  # fmt: skip
    return engines.load(spec)


def asked(engine: engines.Engine, data: Any) -> dict[str, np.ndarray]:
    """What the engine answers to *data* after its way through JSON."""
    assert engine.signature
    body = msgspec.json.decode(msgspec.json.encode(signature.as_lists(signature.to_columns(data))))
    return engines.predict(engine, engine.signature.check(body))


@pytest.fixture
def lightgbm() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=4, min_child_samples=2, verbose=-1, n_jobs=1).fit(FRAME, TARGET)


@pytest.fixture
def xgboost() -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=4, enable_categorical=True, n_jobs=1).fit(FRAME, TARGET)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_boosted_trees_with_categories_and_gaps(library: str, pickled: Callable[[Any], Path], request: pytest.FixtureRequest):
    model = request.getfixturevalue(library)
    one_kind_only = FRAME.head(1)

    answer = asked(loaded(pickled(model), FRAME, flavor=library), one_kind_only)

    assert answer["label"].tolist() == model.predict(one_kind_only).tolist()
    np.testing.assert_array_equal(answer["probabilities"], model.predict_proba(one_kind_only))


def test_a_bare_lightgbm_booster(lightgbm: Any, tmp_path: Path):
    lightgbm.booster_.save_model(tmp_path / "model.txt")

    answer = asked(loaded(tmp_path, FRAME, flavor="lightgbm"), FRAME)

    np.testing.assert_allclose(answer["prediction"], lightgbm.predict_proba(FRAME)[:, 1])


def test_a_bare_xgboost_booster(tmp_path: Path):
    import xgboost

    booster = xgboost.train({"max_depth": 2}, xgboost.DMatrix(NUMBERS, TARGET), 3)
    booster.save_model(tmp_path / "model.ubj")

    answer = asked(loaded(tmp_path, NUMBERS, flavor="xgboost"), NUMBERS)

    np.testing.assert_array_equal(answer["prediction"], booster.predict(xgboost.DMatrix(NUMBERS)))


NAMED = {
    "a regressor": (LinearRegression(), ["prediction"]),
    "a classifier without probabilities": (LinearSVC(), ["label"]),
    "clusters": (KMeans(2, n_init=1, random_state=0), ["output"]),
    "outliers": (IsolationForest(n_estimators=5, random_state=0), ["output"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_outputs_are_named_by_what_the_model_is(kind: str, pickled: Callable[[Any], Path]):
    model, names = NAMED[kind]
    model.fit(NUMBERS, TARGET)

    answer = asked(loaded(pickled(model), NUMBERS, flavor="sklearn"), NUMBERS)

    assert list(answer) == names
    np.testing.assert_array_equal(answer[names[0]], model.predict(NUMBERS))


def test_several_targets_keep_their_columns(pickled: Callable[[Any], Path]):
    model = LinearRegression().fit(NUMBERS, np.column_stack([TARGET, TARGET * 2]))

    assert asked(loaded(pickled(model), NUMBERS, flavor="sklearn"), NUMBERS)["prediction"].shape == (120, 2)


def test_text_labels_stay_text(pickled: Callable[[Any], Path]):
    model = LinearSVC().fit(NUMBERS, np.where(TARGET, "late", "on time"))

    assert set(asked(loaded(pickled(model), NUMBERS, flavor="sklearn"), NUMBERS)["label"].tolist()) <= {"late", "on time"}


def test_a_frame_answered_is_one_output_per_column(pickled: Callable[[Any], Path]):
    class Ranges:
        def predict(self, frame):
            return pd.DataFrame({"low": frame["count"] - 1, "high": frame["count"] + 1})

    answer = asked(loaded(pickled(Ranges()), NUMBERS, flavor="python"), NUMBERS.head(2))

    assert {name: values.tolist() for name, values in answer.items()} == {"low": [0, 1], "high": [2, 3]}


def scored(engine: engines.Engine, body: Any) -> dict[str, np.ndarray]:
    """What the engine answers to the body of POST /score."""
    assert engine.signature
    return engines.predict(engine, engine.signature.check(score.columns(body, engine.signature)))


def test_null_and_an_absent_key_are_missing_values_where_the_training_data_had_some(pickled: Callable[[Any], Path]):
    frame = pd.DataFrame({"a": [1.0, None, 3.0, 4.0] * 20, "b": pd.array([1, None, 0, 2] * 20, dtype="Int64")})
    model = HistGradientBoostingClassifier(max_iter=3).fit(frame, [0, 1, 0, 1] * 20)

    answer = scored(loaded(pickled(model), frame, flavor="sklearn"), [{"a": None, "b": 1}, {"a": 3, "b": None}, {"a": 1}])

    missing = pd.DataFrame({"a": [None, 3.0, 1.0], "b": pd.array([1, None, None], dtype="Int64")})
    np.testing.assert_array_equal(answer["probabilities"], model.predict_proba(missing))


def test_a_model_of_texts_gets_a_series(pickled: Callable[[Any], Path]):
    texts = pd.Series(["good flight", "bad delay", "good crew", "bad seat"], name="review")
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, ["yes", "no", "yes", "no"])

    answer = scored(loaded(pickled(model), texts, flavor="sklearn"), [{"review": "bad bad"}, {"review": "good"}])

    assert answer["label"].tolist() == ["no", "yes"]
