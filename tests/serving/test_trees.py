"""Trees in ONNX are answered by compiled code to the last bit as ONNX Runtime answers them, or by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import ensemble, tree
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlops_nb import conversion, signature, trees
from mlops_nb.trees import compiled, compiling, ensembles, layout, onnx_file

from .scoring_servers import Start

RNG = np.random.default_rng(5)
NUMBERS = RNG.normal(size=(900, 6)).astype(np.float32)
TWO = (NUMBERS[:, 0] + NUMBERS[:, 1] * NUMBERS[:, 2] > 0).astype(int)
THREE = TWO + (NUMBERS[:, 3] > 1)
AMOUNT = NUMBERS @ RNG.normal(size=6) + NUMBERS[:, 0] ** 2


def boosted(name: str, **more: Any) -> Any:
    import lightgbm
    import xgboost

    kind = getattr(xgboost if name.startswith("XGB") else lightgbm, name)
    return kind(n_estimators=12, n_jobs=1, **({} if name.startswith("XGB") else {"verbose": -1}), **more)


def with_gaps(rows: np.ndarray) -> np.ndarray:
    found = rows.copy()
    found[np.random.default_rng(3).random(rows.shape) < 0.15] = np.nan
    return found


MODELS: dict[str, Any] = {
    "forest of two labels": lambda: ensemble.RandomForestClassifier(30, random_state=0).fit(NUMBERS, TWO),
    "forest of three labels": lambda: ensemble.RandomForestClassifier(17, max_depth=5, random_state=0).fit(NUMBERS, THREE),
    "forest of text labels": lambda: ensemble.RandomForestClassifier(9, random_state=0).fit(NUMBERS, np.array(["no", "yes"])[TWO]),
    "forest trained with gaps": lambda: ensemble.RandomForestClassifier(20, random_state=0).fit(with_gaps(NUMBERS), TWO),
    "forest of amounts": lambda: ensemble.RandomForestRegressor(25, random_state=0).fit(NUMBERS, AMOUNT),
    "extra trees": lambda: ensemble.ExtraTreesClassifier(15, random_state=0).fit(NUMBERS, THREE),
    "one tree": lambda: tree.DecisionTreeClassifier(random_state=0).fit(NUMBERS, TWO),
    "one tree of three labels": lambda: tree.DecisionTreeClassifier(random_state=0).fit(NUMBERS, THREE),
    "one tree of amounts": lambda: tree.DecisionTreeRegressor(random_state=0).fit(NUMBERS, AMOUNT),
    "a stump without a branch": lambda: tree.DecisionTreeRegressor().fit(NUMBERS, np.ones(len(NUMBERS))),
    "boosting of two labels": lambda: ensemble.GradientBoostingClassifier(n_estimators=12, random_state=0).fit(NUMBERS, TWO),
    "boosting of three labels": lambda: ensemble.GradientBoostingClassifier(n_estimators=12, random_state=0).fit(NUMBERS, THREE),
    "boosting of amounts": lambda: ensemble.GradientBoostingRegressor(n_estimators=12, random_state=0).fit(NUMBERS, AMOUNT),
    "XGBoost of two labels": lambda: boosted("XGBClassifier").fit(with_gaps(NUMBERS), TWO),
    "XGBoost of three labels": lambda: boosted("XGBClassifier").fit(NUMBERS, THREE),
    "XGBoost of amounts": lambda: boosted("XGBRegressor").fit(with_gaps(NUMBERS), AMOUNT),
    "LightGBM of two labels": lambda: boosted("LGBMClassifier").fit(with_gaps(NUMBERS), TWO),
    "LightGBM of three labels": lambda: boosted("LGBMClassifier").fit(NUMBERS, THREE),
    "LightGBM of amounts": lambda: boosted("LGBMRegressor").fit(NUMBERS, AMOUNT),
}


def as_onnx(model: Any, rows: np.ndarray) -> bytes:
    """As a registration converts it."""
    done = conversion.to_onnx(model, signature.infer(rows), rows[:200])
    assert done.onnx, done.report
    return done.onnx


def session_of(content: bytes, *, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def assert_same(session: onnxruntime.InferenceSession, run: trees.Run, rows: np.ndarray) -> None:
    """Every output, its type, its shape and every bit of it."""
    names = [output.name for output in session.get_outputs()]
    asked = {session.get_inputs()[0].name: rows}
    for name, theirs, ours in zip(names, session.run(names, asked), run(names, asked), strict=True):
        theirs = np.asarray(theirs, dtype=ours.dtype) if ours.dtype == object else theirs
        assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape), name
        assert theirs.tolist() == ours.tolist() if ours.dtype == object else theirs.tobytes() == ours.tobytes(), name


@pytest.fixture(scope="module")
def forest() -> bytes:
    return as_onnx(MODELS["forest of two labels"](), NUMBERS)


@pytest.fixture(scope="module")
def small() -> bytes:
    """A file in which damage often meets how its lists are written, not only their numbers."""
    return as_onnx(ensemble.RandomForestClassifier(3, max_depth=2, random_state=0).fit(NUMBERS, TWO), NUMBERS)


@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_onnx_runtime_to_the_last_bit(name: str, wide: bool):
    rows = NUMBERS.astype(np.float64) * (1 + 1e-10) if wide else NUMBERS
    content = as_onnx(MODELS[name](), rows)
    session = session_of(content)

    walk = trees.of(session, content)

    assert walk.run, walk.told
    assert walk.told.startswith("compiled: ")
    rows = rows.astype(np.float32 if "(float)" in session.get_inputs()[0].type else np.float64)
    odd = with_gaps(rows)
    odd[0], odd[1], odd[2, ::2] = np.inf, -np.inf, np.float32(1e-40)
    for asked in (rows, odd):
        for count in (1, 2, 15, 16, 17, 255, 257, 900):
            assert_same(session, walk.run, asked[:count])
            assert_same(session, walk.run, asked[-count:])


def test_rows_on_a_threshold_and_just_beside_it(forest: bytes):
    session = session_of(forest)
    run = trees.of(session, forest).run
    nodes = layout.laid_out(onnx_file.read(forest), np.dtype("<f4")).ensemble.nodes
    nodes = nodes[np.isfinite(nodes["above"])]
    rows = np.repeat(NUMBERS[:1], len(nodes), axis=0)
    rows[np.arange(len(nodes)), nodes["feature"]] = nodes["above"]

    assert run
    for asked in (rows, np.nextafter(rows, np.float32(np.inf)), np.nextafter(rows, np.float32(-np.inf))):
        assert_same(session, run, asked)


def test_several_threads_change_no_answer(forest: bytes):
    rows = np.tile(NUMBERS, (20, 1))
    run = trees.of(session_of(forest, threads=2), forest, threads=2).run

    assert run
    assert_same(session_of(forest), run, rows)


def test_a_matrix_that_does_not_fit_gets_onnx_runtimes_own_answer(forest: bytes):
    session = session_of(forest)
    run = trees.of(session, forest).run
    assert run

    assert_same(session, run, np.asfortranarray(NUMBERS[:40]))
    frozen = NUMBERS[:40].copy()
    frozen.flags.writeable = False
    assert_same(session, run, frozen)
    for wrong in (NUMBERS[:, :5], NUMBERS[0], NUMBERS.astype(np.float64)):
        with pytest.raises(Exception, match=r"INVALID_ARGUMENT|Invalid"):
            run(["label"], {session.get_inputs()[0].name: wrong})


@pytest.mark.parametrize(
    ("name", "model"),
    {
        "a scaler before it": make_pipeline(StandardScaler(), ensemble.RandomForestClassifier(5)).fit(NUMBERS, TWO),
        "another ensemble": ensemble.IsolationForest(n_estimators=5).fit(NUMBERS),
        "boosting of trees by weights": ensemble.AdaBoostClassifier(n_estimators=3).fit(NUMBERS, TWO),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_more_than_trees_is_left_to_onnx_runtime_with_the_reason(name: str, model: Any):
    from skl2onnx import to_onnx

    content = to_onnx(model, NUMBERS[:1], target_opset={"": 14, "ai.onnx.ml": 3}).SerializeToString()

    walk = trees.of(session_of(content), content)

    assert walk.run is None
    assert walk.told.startswith("ONNX Runtime: ")


def test_a_model_without_trees_is_told_nothing_of_them():
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    content = to_onnx(LogisticRegression().fit(NUMBERS, TWO), NUMBERS[:1]).SerializeToString()

    assert trees.of(session_of(content), content) == trees.Walk(None, "")


def test_another_answer_in_the_trial_leaves_them_to_onnx_runtime(forest: bytes):
    """The file on disk is not the one that was opened: their answers differ."""
    other = as_onnx(ensemble.RandomForestClassifier(30, random_state=1).fit(NUMBERS, TWO), NUMBERS)

    walk = trees.of(session_of(other), forest)

    assert walk.run is None
    assert "compiled code gave another" in walk.told


def test_an_error_in_the_trial_leaves_them_to_onnx_runtime(forest: bytes, monkeypatch: pytest.MonkeyPatch):
    class Trouble(Exception):
        """As ONNX Runtime's own are: of no other class."""

    def run(*_: Any) -> None:
        raise Trouble("Non-zero status code returned")

    session = session_of(forest)
    monkeypatch.setattr(session, "run", run)

    assert trees.of(session, forest) == trees.Walk(None, "ONNX Runtime: it answers 256 rows beside the thresholds with Trouble")


def test_without_compiled_code_the_answer_is_onnx_runtimes(forest: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "walk.so").write_bytes(b"of another machine")
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "walk.so")
    compiled.library.cache_clear()
    try:
        walk = trees.of(session_of(forest), forest)
    finally:
        compiled.library.cache_clear()

    assert walk.run is None
    assert "C compiler" in walk.told


@given(st.data())
def test_damaged_files_are_refused_or_walked_but_never_beyond_their_arrays(small: bytes, data: st.DataObject):
    damaged = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    content = bytes(damaged)

    walk = trees.of(session_of(small), content)
    assert walk.told or not any(node.kind in trees.KINDS for node in onnx_file.read(content).nodes)

    try:
        laid = layout.laid_out(onnx_file.read(content), np.dtype("<f4"))
        walk = compiled.walker(laid, NUMBERS.shape[1])
    except (ensembles.Unfit, *trees.UNREADABLE):
        return
    assert walk
    nodes, kept = laid.ensemble.nodes, laid.ensemble
    assert (nodes["left"] + (nodes["left"] != np.arange(len(nodes))) < len(nodes)).all()
    assert (kept.trees["target"] + kept.trees["targets"] <= kept.targets).all()
    walk(NUMBERS.copy())


@pytest.mark.parametrize(("written", "read"), {b"\x38\x00": None, b"\x3d\x00\x00\x80\x3f": [1.0], b"\x4a\x01a\x40\x05": [5], b"\x42\x01\x07": [7]}.items())
def test_a_list_in_a_form_that_it_does_not_have_is_passed_over(written: bytes, read: Any):
    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    attribute = field(1, b"a") + written
    graph = field(1, field(4, b"Kind") + field(5, attribute))

    (node,) = onnx_file.read(field(7, graph)).nodes

    assert (node.kind, plain(node.attributes["a"])) == ("Kind", read)


@pytest.mark.parametrize("name", ["forest of text labels", "LightGBM of three labels", "XGBoost of amounts"])
def test_files_are_read_as_the_onnx_package_reads_them(name: str):
    content = as_onnx(MODELS[name](), NUMBERS)
    theirs, ours = onnx.load_from_string(content).graph, onnx_file.read(content)

    assert [output.name for output in theirs.output] == ours.outputs
    for node, read in zip(theirs.node, ours.nodes, strict=True):
        assert (node.op_type, list(node.input), list(node.output)) == (read.kind, read.inputs, read.outputs)
        for attribute in node.attribute:
            assert plain(onnx.helper.get_attribute_value(attribute)) == plain(read.attributes[attribute.name]), attribute.name
    assert {tensor.name: plain(tensor) for tensor in theirs.initializer} == {name: plain(values) for name, values in ours.constants.items()}


def plain(value: Any) -> Any:
    """Numbers and text, whoever read them."""
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value).ravel()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.decode() if isinstance(value, bytes) else value


def test_server_says_what_answers_and_both_answer_the_same(forest: bytes, start: Start, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(forest)
    told = signature.infer(NUMBERS).as_json()
    ours = start(tmp_path / "model", engine="onnxruntime", signature=told).until_ready()
    theirs = start(tmp_path / "model", engine="onnxruntime", signature=told, variables={"MLOPS_TREES": "off"}).until_ready()
    body = {"inputs": [{"name": "input", "shape": [900, 6], "datatype": "FP32", "data": NUMBERS.ravel().tolist()}], "id": "same"}

    says = [server.client.get("/v2/models/late").json()["parameters"] for server in (ours, theirs)]

    assert says[0]["trees"].startswith("compiled: 30 trees")
    assert says[1]["trees"] == "ONNX Runtime: MLOPS_TREES is off"
    assert [each["execution_providers"] for each in says] == [["CPUExecutionProvider"]] * 2
    assert ours.infer(body).content == theirs.infer(body).content


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_an_installation_without_a_compiler_goes_on(compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CC", compiler)

    assert compiler in compiling.compile_to(tmp_path / "walk.so")
    assert not list(tmp_path.iterdir())
