"""Models that arrive as files: opened only with trust, never beyond their folder."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from mlops_nb import artifacts, conversion, converting, flavors, packing, pickles, registry, signature, store
from mlops_nb.errors import BadOption, CannotConvert, FileMissing, MissingPackage, NotAModel, NotAnEntryScript, TrustNeeded, UnsafePath
from mlops_nb.store import models

X = np.arange(20.0).reshape(10, 2)


class Canary:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.fixture
def regression():
    return LinearRegression().fit(X, X.sum(axis=1))


@pytest.fixture
def onnx_bytes(regression):
    return conversion.to_onnx(regression, signature.infer(X), X).onnx


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "the-pickle-was-opened"


@pytest.mark.parametrize("how", ["joblib", "joblib, compressed", "pickle", "pickle of protocol 2"])
def test_what_a_script_is_to_open_tells_the_packages_it_needs(workspace, tmp_path, regression, canary, how):
    """A script names only joblib; what its files were made with has to be in its environment too."""
    folder = tmp_path / "models"
    folder.mkdir()
    held = {"weights": np.arange(5000.0), "model": regression, "booster": xgboost.XGBRegressor(n_estimators=1).fit(X, X[:, 0]), "canary": Canary(canary)}
    if how.startswith("joblib"):
        joblib.dump(held, folder / "both.joblib", compress=3 if "compressed" in how else 0)
    else:
        (folder / "both.pkl").write_bytes(pickle.dumps(held, protocol=2 if "2" in how else None))
    (tmp_path / "score.py").write_text("import joblib\ndef run(raw_data):\n    return raw_data\n")

    assert {"joblib", "sklearn", "xgboost", "numpy"} <= packing.pack_path(folder, entry=tmp_path / "score.py").modules
    assert not canary.exists()


@pytest.mark.parametrize("name", ["m.pkl", "m.pickle", "m.joblib", "m.skops"])
def test_a_pickle_is_not_opened_without_trust(workspace, tmp_path, canary, name):
    (tmp_path / name).write_bytes(pickle.dumps(Canary(canary)))

    with pytest.raises(TrustNeeded):
        packing.pack_path(tmp_path / name)

    assert not canary.exists()


def test_looking_up_what_a_pickle_refers_to_runs_nothing(canary):
    found = pickles.references(pickle.dumps(Canary(canary)))

    assert (found.names, canary.exists()) == (frozenset({("posix", "mkdir")}), False)


def test_an_mlflow_folders_pickle_is_not_opened_without_trust(workspace, tmp_path, canary):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/model.bin").write_bytes(pickle.dumps(Canary(canary)))
    (tmp_path / "m/MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.bin\n")

    with pytest.raises(TrustNeeded):
        packing.pack_path(tmp_path / "m")

    assert not canary.exists()


def test_a_trusted_pickle_is_opened_and_kept_as_it_is(workspace, tmp_path, regression):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(regression))

    packed = packing.pack_path(tmp_path / "m.pkl", trust=True)

    assert (packed.flavor, packed.engine, packed.trusted, packed.files) == ("sklearn", "python", True, {"model.pkl": tmp_path / "m.pkl"})


def test_a_pickle_that_this_workspace_wrote_needs_no_trust(workspace, tmp_path, regression):
    content = packing.pack(regression).files["model.pkl"]
    with store.writing() as tx:
        kept = artifacts.keep(content, path="model.pkl")
        models.add(
            tx, models.ModelVersion(model="m", version=1, flavor="sklearn", engine="python", hash="h", files=[kept], trusted=True, created_at=store.now())
        )
    (tmp_path / "copy.pkl").write_bytes(content)

    assert packing.pack_path(tmp_path / "copy.pkl").trusted


def test_a_stranger_beside_a_pickle_of_ours_is_not_trusted_along(workspace, tmp_path, regression, canary):
    content = packing.pack(regression).files["model.pkl"]
    with store.writing() as tx:
        kept = artifacts.keep(content, path="model.pkl")
        models.add(
            tx, models.ModelVersion(model="m", version=1, flavor="sklearn", engine="python", hash="h", files=[kept], trusted=True, created_at=store.now())
        )
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.pkl").write_bytes(content)
    (folder / "other.pkl").write_bytes(pickle.dumps(Canary(canary)))

    with pytest.raises(TrustNeeded, match=r"other\.pkl"):
        packing.pack_path(folder)


def test_a_joblib_file_answers_the_same_after_a_journey(workspace, tmp_path, regression, lay_out):
    joblib.dump(regression, tmp_path / "m.joblib")

    folder = lay_out(packing.pack_path(tmp_path / "m.joblib", trust=True))

    assert np.array_equal(packing.load(folder, "sklearn").predict(X), regression.predict(X))


def test_skops_that_is_not_installed_is_named(workspace, tmp_path):
    (tmp_path / "m.skops").write_bytes(b"PK")

    with pytest.raises(MissingPackage, match="skops"):
        packing.pack_path(tmp_path / "m.skops", trust=True)


@pytest.mark.parametrize("suffix", ["ubj", "json"])
def test_xgboosts_own_format_gives_back_the_classifier_that_was_saved(workspace, tmp_path, suffix, lay_out):
    model = xgboost.XGBClassifier(n_estimators=3).fit(X, X[:, 0] > 9)
    model.save_model(tmp_path / f"m.{suffix}")

    folder = lay_out(packing.pack_path(tmp_path / f"m.{suffix}"))

    assert np.allclose(packing.load(folder, "xgboost").predict_proba(X), model.predict_proba(X))


def test_lightgbms_own_format_gives_back_the_booster(workspace, tmp_path, lay_out):
    import lightgbm

    booster = lightgbm.train({"verbose": -1, "min_data_in_leaf": 1}, lightgbm.Dataset(X, X[:, 0]), 3)
    booster.save_model(tmp_path / "m.txt")

    folder = lay_out(packing.pack_path(tmp_path / "m.txt"))

    assert np.allclose(packing.load(folder, "lightgbm").predict(X), booster.predict(X))


def test_an_onnx_file_needs_no_trust_and_answers_by_name(workspace, tmp_path, regression, onnx_bytes, lay_out):
    (tmp_path / "m.onnx").write_bytes(onnx_bytes)

    folder = lay_out(packing.pack_path(tmp_path / "m.onnx"))

    assert np.allclose(packing.load(folder, "onnx").predict(X)["prediction"].ravel(), regression.predict(X), atol=1e-4)


def test_a_model_proto_is_packed_as_its_bytes(onnx_bytes):
    import onnx

    assert packing.pack(onnx.load_model_from_string(onnx_bytes)).files["model.onnx"] == onnx_bytes


def test_bytes_that_are_no_onnx_model_are_refused():
    with pytest.raises(BadOption, match="no ONNX model"):
        packing.pack(b"not a model")


def test_a_folder_is_one_model_of_all_its_files(workspace, tmp_path, onnx_bytes):
    (tmp_path / "m/words").mkdir(parents=True)
    (tmp_path / "m/net.onnx").write_bytes(onnx_bytes)
    (tmp_path / "m/words/vocabulary.txt").write_text("a\nb\n")

    assert sorted(packing.pack_path(tmp_path / "m").files) == ["model.onnx", "net.onnx", "words/vocabulary.txt"]


def test_an_mlflow_folder_brings_its_own_code(workspace, tmp_path, lay_out, python):
    folder = tmp_path / "m"
    (folder / "code").mkdir(parents=True)
    (folder / "code/theirs.py").write_text("class M:\n    def predict(self, X):\n        return [x + 1 for x in X]\n")
    python(
        "import pickle, sys; sys.path.insert(0, 'code'); import theirs; pickle.dump(theirs.M(), open('model.pkl', 'wb'))",
        folder=folder,
    )
    (folder / "MLmodel").write_text("flavors:\n  python_function:\n    code: code\n  sklearn:\n    code: code\n    pickled_model: model.pkl\n")

    laid_out = lay_out(packing.pack_path(folder, trust=True))
    answered = python("import sys; from mlops_nb import packing; print(packing.load(sys.argv[1], 'python').predict([1]))", laid_out, folder=tmp_path)

    assert answered.stdout == "[2]\n", answered.stderr


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused(workspace, tmp_path, link):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("s3cret")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/innocent").symlink_to(tmp_path / ("outside/secret" if link == "file" else "outside"))

    with pytest.raises(UnsafePath):
        packing.pack_path(tmp_path / "m", entry="score.py")


def test_a_pipe_in_the_folder_is_refused(workspace, tmp_path):
    (tmp_path / "m").mkdir()
    os.mkfifo(tmp_path / "m/pipe")

    with pytest.raises(UnsafePath):
        packing.pack_path(tmp_path / "m")


def test_an_mlmodel_that_points_out_of_its_folder_is_refused(workspace, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "evil.pkl").write_bytes(b"")
    (tmp_path / "m/MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: ../evil.pkl\n")

    with pytest.raises(UnsafePath):
        packing.pack_path(tmp_path / "m", trust=True)


def test_a_wrong_path_says_so(workspace, tmp_path):
    with pytest.raises(FileMissing, match="nowhere"):
        packing.pack_path(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["notes.txt", "data.json", "data.csv"])
def test_a_file_that_holds_no_model_is_refused(workspace, tmp_path, name):
    (tmp_path / name).write_text('{"a": 1}')

    with pytest.raises(NotAModel):
        packing.pack_path(tmp_path / name)


def test_a_script_that_was_to_be_a_model_is_registered_by_the_line_that_is_told(workspace, tmp_path):
    script = tmp_path / "score.py"
    script.write_text("def run(raw_data):\n    return raw_data\n")

    with pytest.raises(NotAModel, match=r"score\.py holds code and no model") as caught:
        packing.pack_path(script)

    assert caught.value.hint.startswith("%mlops register score.py --name NAME --entry score.py")
    assert packing.pack_path(script, entry=script).engine == "script"


def test_two_models_in_a_folder_are_not_guessed_between(workspace, tmp_path, onnx_bytes):
    (tmp_path / "m").mkdir()
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / "m" / name).write_bytes(onnx_bytes)

    with pytest.raises(BadOption, match=r"a\.onnx, b\.onnx"):
        packing.pack_path(tmp_path / "m")


def test_an_entry_script_travels_with_the_modules_beside_it(workspace, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/weights.bin").write_bytes(b"1")
    (tmp_path / "m/score.py").write_text("import numpy\nimport cleaning\n\ndef run(raw_data):\n    return raw_data\n")
    (tmp_path / "m/cleaning.py").write_text("import scipy\n")

    packed = packing.pack_path(tmp_path / "m", entry="score.py")

    assert (packed.engine, sorted(packed.modules), "code/cleaning.py" in packed.files, "entry/score.py" in packed.files) == (
        "script", ["numpy", "scipy"], True, True,
    )  # fmt: skip


@pytest.mark.parametrize("source", ["def init():\n    pass\n", "class Model:\n    def run(self, raw_data):\n        return raw_data\n"])
def test_an_entry_script_that_cannot_answer_is_refused(workspace, tmp_path, source):
    (tmp_path / "score.py").write_text(source)

    with pytest.raises(NotAnEntryScript, match=r"run\(raw_data\)"):
        packing.pack({"a": 1}, entry=tmp_path / "score.py")


@pytest.mark.parametrize("source", ["from json import loads as run\n", "from os.path import *\n", "if True:\n    run = len\n"])
def test_an_entry_script_may_get_its_run_from_anywhere(workspace, tmp_path, source):
    (tmp_path / "score.py").write_text(source)

    assert packing.pack({"a": 1}, entry=tmp_path / "score.py").engine == "script"


def test_an_entry_script_that_is_no_python_is_told_with_its_line(workspace, tmp_path):
    (tmp_path / "score.py").write_text("x = 1\ndef run(raw_data:\n")

    with pytest.raises(BadOption, match=r"score\.py, line 2"):
        packing.pack({"a": 1}, entry=tmp_path / "score.py")


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib"])
def test_a_damaged_file_is_told_by_its_name(workspace, tmp_path, name):
    (tmp_path / name).write_bytes(b"not a pickle at all")

    with pytest.raises(BadOption, match=f"{name} cannot be opened"):
        packing.pack_path(tmp_path / name, trust=True)


def test_a_live_object_behind_an_entry_script_needs_no_predict(workspace, tmp_path):
    (tmp_path / "score.py").write_text("def run(raw_data):\n    return raw_data\n")

    packed = packing.pack({"a": 1}, entry=tmp_path / "score.py")

    assert (packed.flavor, sorted(packed.files)) == ("script", ["entry/score.py", "model.pkl"])


@pytest.mark.parametrize("thing", [object(), LinearRegression, {"a": 1}, len, 3])
def test_what_cannot_answer_is_no_model(thing):
    with pytest.raises(NotAModel):
        packing.pack(thing)


def test_a_model_that_cannot_travel_names_the_attribute():
    import threading

    from mlops_nb.errors import NotPicklable

    model = LinearRegression()
    model.extras_ = {"cache": [threading.Lock()]}

    with pytest.raises(NotPicklable, match=r"\.extras_\['cache'\]\[0\]"):
        packing.pack(model)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_plain_value_is_read_without_a_reference(value):
    assert pickles.references(pickle.dumps(value)).names == frozenset()


def test_what_a_pickle_holds_is_told_by_name_without_opening_it(regression):
    assert pickles.references(pickle.dumps(regression)).root == (("sklearn.linear_model._base", "LinearRegression"),)


def test_a_class_is_not_mistaken_for_a_model():
    assert flavors.of(LinearRegression) is None


def test_an_onnx_file_registered_without_data_tells_its_own_columns_and_outputs(workspace):
    frame = pd.DataFrame({"age": X[:, 0], "income": X[:, 1]})
    model = LinearRegression().fit(frame, X.sum(axis=1))
    version = registry.register(conversion.to_onnx(model, signature.infer(frame), frame).onnx, name="told").version

    told = signature.Signature.from_json(version.signature)
    assert (told.kind, [str(column) for column in told.inputs]) == ("table", ["age: float32?", "income: float32?"])
    assert [str(column) for column in told.outputs] == ["prediction: float32[any, 1]"]
    with pytest.raises(CannotConvert, match="registered without data"):
        converting.convert(version.ref, options=conversion.Options(optimize="basic"))


def test_an_onnx_file_of_one_array_tells_its_shape(workspace):
    import onnx

    ends = [onnx.helper.make_tensor_value_info(place, onnx.TensorProto.FLOAT, ["rows", 3, 4]) for place in ("image", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["image"], ["y"])], "g", ends[:1], ends[1:])
    content = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9).SerializeToString()

    told = signature.Signature.from_json(registry.register(content, name="image").version.signature)

    assert (told.kind, [str(column) for column in told.inputs]) == ("tensors", ["image: float32[any, 3, 4]"])
