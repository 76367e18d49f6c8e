"""Models of many kinds, split for an FPGA: the parts in floats answer as the whole, and the emulation nearly so."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from lightgbm import LGBMClassifier
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from mlops_nb import commands, conversion, settings, signature, store
from mlops_nb.cli import Terminal
from mlops_nb.conversion.comparing import agreement
from mlops_nb.conversion.reasons import NotConvertible
from mlops_nb.fpga import Precision, comparing, emulation, estimates, graphs, projects
from mlops_nb.fpga.graphs import CORE_IN, CORE_OUT
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments
from mlops_nb.store.deployments import Deployment, DeploymentSpec

from .conftest import NUMBERS

pytestmark = pytest.mark.xdist_group("fpga")

MODELS = {
    "two classes": lambda: make_pipeline(StandardScaler(), MLPClassifier((6,), max_iter=50, random_state=0)),
    "three classes, sigmoids": lambda: make_pipeline(StandardScaler(), MLPClassifier((6, 5), activation="logistic", max_iter=600, random_state=0)),
    "a regression, tanh": lambda: make_pipeline(SimpleImputer(), StandardScaler(), MLPRegressor(hidden_layer_sizes=(6,), activation="tanh", max_iter=50)),
    "a forest of two classes": lambda: RandomForestClassifier(5, max_depth=3, random_state=0),
    "a forest of three classes": lambda: RandomForestClassifier(5, max_depth=3, random_state=0),
    "boosted regression": lambda: GradientBoostingRegressor(n_estimators=5, random_state=0),
    "XGBoost": lambda: XGBClassifier(n_estimators=5, max_depth=3),
    "LightGBM of three classes": lambda: LGBMClassifier(n_estimators=4, num_leaves=6, verbose=-1),
}


def answer_of(name, flights):
    if "three" in name:
        return np.digitize(flights.delay, [-0.5, 0.5])
    return flights.delay * 40 + flights.hour if "regression" in name else flights.late


@pytest.fixture(scope="module")
def converted(flights):
    """Each model as ONNX, and the columns it is tried on."""
    described = signature.infer(flights[NUMBERS])
    columns = described.check(described.table_of(flights[NUMBERS]))

    def of(name):
        model = MODELS[name]().fit(flights[NUMBERS], answer_of(name, flights))
        return conversion.to_onnx(model, described, flights[NUMBERS]).onnx, columns

    return of


@pytest.mark.parametrize("name", MODELS)
def test_the_three_parts_in_floats_answer_as_the_whole(converted, name):
    content, columns = converted(name)
    parts = graphs.split(content)
    going_in = emulation.Part(parts.before)(columns)[CORE_IN]
    answers = emulation.Part(parts.after)({CORE_OUT: parts.core(going_in)})

    assert agreement(answers, emulation.Part(content)(columns), 1e-4).equal


@pytest.mark.parametrize("name", ["three classes, sigmoids", "a forest of two classes"])
def test_the_emulation_answers_nearly_as_the_whole(converted, tmp_path: Path, name):
    content, columns = converted(name)
    archive = tmp_path / "project.tar.gz"
    archive.write_bytes(projects.written(graphs.split(content), Precision.parse("fixed<18,6>"), projects.Settings(part="xcu250-figd2104-2L-e"), tmp_path))
    found = comparing.compared(emulation.Emulated(emulation.library(archive))(columns), emulation.Part(content)(columns), None)

    assert found.agreement > 0.95 and found.max_error < 0.05


def network(*middle: onnx.NodeProto, extra: tuple = ()) -> bytes:
    """A graph of two dense layers, with nodes that lead from `h` to `m` between them."""
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.normal(size=(4, 4)).astype(np.float32), name) for name in ("w1", "w2")]
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), *middle, helper.make_node("MatMul", ["m", "w2"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [x], [y], [*weights, *extra])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.mark.parametrize(
    ("middle", "said"),
    [
        ([helper.make_node("Erf", ["h"], ["m"], name="gelu")], r"Erf \(gelu\) stands after"),
        ([helper.make_node("Softmax", ["h"], ["m"], name="attention")], "MatMul.* stands after"),
        ([helper.make_node("Add", ["h", "x"], ["m"], name="skip")], r"(MatMul|Add \(skip\))"),
    ],
)
def test_what_stands_between_the_layers_and_is_none_is_refused_by_name(middle, said):
    with pytest.raises(NotConvertible, match=said):
        graphs.split(network(*middle))


def test_a_normalisation_is_taken_into_the_layer_before_it():
    random = np.random.default_rng(1)
    extra = [numpy_helper.from_array(random.uniform(0.5, 2, 4).astype(np.float32), name) for name in ("scale", "shift", "mean", "variance")]
    norm = helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "variance"], ["n"])
    content = network(norm, helper.make_node("Relu", ["n"], ["m"]), extra=tuple(extra))
    rows = random.normal(size=(20, 4)).astype(np.float32)
    parts = graphs.split(content)

    assert [getattr(layer, "kind", "dense") for layer in parts.core.layers] == ["dense", "relu", "dense"]
    np.testing.assert_allclose(parts.core(rows), emulation.Part(content)({"x": rows})["y"], rtol=1e-3, atol=1e-4)


def test_an_emulation_that_no_deployment_runs_is_cleaned_away_once_it_is_an_hour_old(tmp_path: Path):
    place = Workspace(tmp_path / "another")
    used, unused, new = "a" * 64, "b" * 64, "c" * 64
    homes = {sha256: place.run / "fpga" / sha256[:32] for sha256 in (used, unused, new)}
    for home in homes.values():
        home.mkdir(parents=True)
        (home / "emulation.so").write_bytes(b"1234")
    for sha256 in (used, unused):
        os.utime(homes[sha256], (0, 0))
    wanted = Deployment(
        endpoint="net", name="1", model="net", version=1, target="fpga", spec=DeploymentSpec(options={"project": {"sha256": used}}), wanted="running",
        generation=1, status="healthy", created_at=store.now(), changed_at=store.now(), author="",
    )  # fmt: skip

    with settings.using(place.root):
        with store.writing() as tx:
            deployments.put(tx, wanted)
        freed = commands.run(["clean"], Terminal(quiet=True))

    assert freed == {"freed_bytes": 4} and [home.exists() for home in homes.values()] == [True, False, True]


def test_an_estimate_grows_with_the_bits_and_shrinks_with_reuse():
    core = graphs.split(network(helper.make_node("Relu", ["h"], ["m"]))).core
    settings = (("fixed<8,4>", 1), ("fixed<16,6>", 1), ("fixed<16,6>", 4))
    narrow, wide, shared = (estimates.estimated(core, Precision.parse(each), reuse=reuse, part="xc7z020clg400-1") for each, reuse in settings)

    assert narrow.dsp == 0 < shared.dsp < wide.dsp
    assert shared.latency_cycles > wide.latency_cycles and (shared.interval_cycles, wide.interval_cycles) == (4, 1)


def test_the_area_under_the_curve_counts_ties_half():
    assert comparing.area(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])) == pytest.approx(0.875)


def test_a_graph_as_pytorch_exports_it_is_read_with_its_transposed_weights():
    random = np.random.default_rng(2)
    shapes = (("w1", (8, 4)), ("b1", (8,)), ("w2", (3, 8)), ("b2", (3,)))
    weights = [numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name) for name, shape in shapes]
    nodes = [
        helper.make_node("Gemm", ["input", "w1", "b1"], ["h"], transB=1), helper.make_node("Elu", ["h"], ["e"], alpha=0.5),
        helper.make_node("Gemm", ["e", "w2", "b2"], ["output"], transB=1),
    ]  # fmt: skip
    given, answer = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", wide]) for name, wide in (("input", 4), ("output", 3)))
    model = helper.make_model(helper.make_graph(nodes, "main_graph", [given], [answer], weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    rows = random.normal(size=(20, 4)).astype(np.float32)
    parts = graphs.split(model.SerializeToString())

    assert parts.core.widths == (4, 3)
    np.testing.assert_allclose(parts.core(rows), emulation.Part(model.SerializeToString())({"input": rows})["output"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exporter", ["dynamo", "script"])
def test_a_network_that_pytorch_exported_becomes_logic_that_answers_nearly_as_it(tmp_path: Path, exporter):
    """The files are what PyTorch 2.13 made of Linear(3, 8), ReLU, Linear(8, 4), Tanh, Linear(4, 1), Sigmoid by each of its exporters."""
    content = (Path(__file__).parent / f"torch_{exporter}.onnx").read_bytes()
    rows = {"x": np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32)}
    parts = graphs.split(content)
    archive = tmp_path / "project.tar.gz"
    archive.write_bytes(projects.written(parts, Precision.parse("fixed<18,6>"), projects.Settings(part="xcu250-figd2104-2L-e"), tmp_path))

    answers, wanted = emulation.Emulated(emulation.library(archive))(rows)["y"], emulation.Part(content)(rows)["y"]

    assert parts.core.widths == (3, 1)
    assert 0 < np.abs(answers - wanted).max() < 0.01
