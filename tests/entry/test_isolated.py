"""A version runs with exactly the packages it was made with, in an environment that uv builds and keeps."""

from __future__ import annotations

import gzip
import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import iniconfig
import numpy as np
import onnx
import pandas as pd
import pytest
from living import deployment, wait_for

from mlops_nb import cards, datasets, environments, hardware, keys, profiling, rebuilding, registry, rollout, store, telemetry
from mlops_nb.errors import DeploymentFailed, EnvironmentMismatch, HardwareMissing
from mlops_nb.settings import Workspace
from mlops_nb.store import environments as table
from mlops_nb.store.deployments import DeploymentSpec
from mlops_nb.store.environments import Environment, Package

OLD = "1.1.1"
SCRIPT = """
import sys
from importlib.metadata import version
import iniconfig

def run(raw_data):
    return [version("iniconfig"), sys.prefix, "pandas" in sys.modules]
"""


@pytest.fixture
def environments_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLOPS_ENVIRONMENTS", str(tmp_path / "environments"))
    return tmp_path / "environments"


@pytest.fixture
def version_made_elsewhere(live_workspace: Workspace, tmp_path: Path, environments_folder: Path) -> Iterator[str]:
    """A script that was registered where another iniconfig was installed."""
    assert iniconfig.__file__ and environments.installed()["iniconfig"].version != OLD
    (tmp_path / "score.py").write_text(SCRIPT)
    version = registry.register(None, name="ini", entry=tmp_path / "score.py").version
    recorded(OLD)
    with store.writing() as tx:
        tx.execute("UPDATE model_versions SET environment = 'elsewhere:1' WHERE model = 'ini'")
    return version.ref


def recorded(pinned: str, *, name: str = "elsewhere") -> Environment:
    """An environment with this iniconfig."""
    return recorded_with("iniconfig", pinned, name=name)


def recorded_with(package: str, pinned: str, *, name: str) -> Environment:
    """An environment with this one package."""
    environment = Environment(
        name=name, version=1, hash=name, python=platform.python_version(), platform="any", interpreter=sys.executable,
        packages=[Package(name=package, version=pinned, direct=True)], created_at=store.now(),
    )  # fmt: skip
    with store.writing() as tx:
        table.add(tx, environment)
    return environment


def test_a_version_whose_packages_differ_here_is_deployed_with_its_own(version_made_elsewhere: str, environments_folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(EnvironmentMismatch) as refused:
        rollout.deploy(version_made_elsewhere)
    assert "--isolated" in refused.value.hint

    rollout.deploy(version_made_elsewhere, spec=DeploymentSpec(isolated=True))

    version, prefix, pandas = rollout.invoke("ini", {}).outputs
    assert version == OLD and Path(prefix).parent == environments_folder and not pandas
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    deployed = rollout.deploy(version_made_elsewhere, name="again", spec=DeploymentSpec(isolated=True))
    assert deployed.status == "healthy" and len(list(environments_folder.iterdir())) == 1


def test_it_is_measured_in_its_own_too_unless_told_not_to(version_made_elsewhere: str):
    datasets.register("rows", pd.DataFrame({"x": [1.0, 2.0]}))
    with store.writing() as tx:
        tx.execute("UPDATE model_versions SET dataset = 'rows:1' WHERE model = 'ini'")
    quickly = {"cpus": [1], "batches": [1], "objective": "p95=400ms", "seconds": 1.5}

    its_own = profiling.profile(version_made_elsewhere, **quickly)
    here = profiling.profile(version_made_elsewhere, **quickly, allow_mismatch=True, resume=True)

    assert (its_own.settings["environment"], its_own.settings["other_packages"]) == ("elsewhere:1", [])
    assert "environment elsewhere:1" in its_own.advice["measured"] and cards.as_text(its_own).rstrip().endswith("--isolated")
    assert here.id != its_own.id and here.settings["environment"] is None
    assert here.settings["other_packages"] == [f"iniconfig {environments.installed()['iniconfig'].version} here, {OLD} when the model was made"]


def test_an_environment_that_cannot_be_built_tells_in_uvs_words(live_workspace: Workspace, tmp_path: Path, environments_folder: Path):
    (tmp_path / "score.py").write_text("def run(raw_data):\n    return 1\n")
    registry.register(None, name="ini", entry=tmp_path / "score.py")
    recorded("0.0.0.dev99", name="impossible")

    with pytest.raises(DeploymentFailed, match="impossible:1 could not be built") as failed:
        rollout.deploy("ini", spec=DeploymentSpec(isolated=True, environment="impossible:1"))

    assert "iniconfig==0.0.0.dev99" in failed.value.detail
    assert not list(environments_folder.iterdir()) and not rollout.endpoints()


def test_the_same_packages_are_one_environment_whatever_it_is_called(workspace: Workspace, environments_folder: Path):
    one, other, different = recorded(OLD, name="one"), recorded(OLD, name="other"), recorded("2.0.0", name="different")

    homes = {name: rebuilding._home(environment, None) for name, environment in [("one", one), ("other", other), ("different", different)]}

    assert homes["one"] == homes["other"] != homes["different"]


# ── on other hardware ────────────────────────────────────────────────────────────────────────────────────────────────


def onnx_version(name: str, *operators: onnx.NodeProto) -> str:
    """Registers a graph of these operators from `x` to `y`, made where nothing but numpy was needed."""
    ends = [onnx.helper.make_tensor_value_info(place, onnx.TensorProto.FLOAT, ["rows", 2]) for place in ("x", "y")]
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    graph = onnx.helper.make_model(onnx.helper.make_graph(list(operators), name, ends[:1], ends[1:]), opset_imports=opsets, ir_version=9)
    version = registry.register(graph.SerializeToString(), name=name, sample=np.ones((3, 2), "float32")).version
    recorded_with("numpy", np.__version__, name=f"of-{name}")
    with store.writing() as tx:
        tx.execute("UPDATE model_versions SET environment = ? WHERE model = ?", [f"of-{name}:1", name])
    return version.ref


ABSOLUTE = onnx.helper.make_node("Abs", ["x"], ["y"])
SCALED = onnx.helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0, 1.0], scale=[2.0, 2.0])


def test_hardware_whose_runtime_is_not_here_is_brought_into_the_environment_and_proved(live_workspace: Workspace, environments_folder: Path):
    version = onnx_version("absolute", ABSOLUTE)
    with pytest.raises(HardwareMissing, match=r"onnxruntime-openvino is not installed .*--isolated brings it"):
        rollout.deploy(version, spec=DeploymentSpec(hardware="openvino"))

    rollout.deploy(version, spec=DeploymentSpec(hardware="openvino", isolated=True))

    assert hardware.proven(deployment("absolute/1").handle, "absolute")[0] == "OpenVINOExecutionProvider (1 of 1 operators)"
    assert rollout.invoke("absolute", np.array([[-1, 2]], "float32")).outputs == {"y": [[1.0, 2.0]]}

    version = onnx_version("scaled", SCALED)
    with pytest.raises(DeploymentFailed, match="can execute none of this model's 1 operators"):
        rollout.deploy(version, spec=DeploymentSpec(hardware="openvino", isolated=True))


def test_hardware_that_no_package_could_bring_is_refused_before_anything_is_built(live_workspace: Workspace, environments_folder: Path):
    version = onnx_version("absolute", ABSOLUTE)

    with pytest.raises(HardwareMissing, match="only on macOS"):
        rollout.deploy(version, spec=DeploymentSpec(hardware="coreml", isolated=True))

    assert not environments_folder.exists()


# ── what the server itself needs ─────────────────────────────────────────────────────────────────────────────────────

DOUBLER = """
class Doubler:
    def predict(self, rows):
        return rows * 2
"""


def test_a_server_needs_nothing_but_what_is_listed(live_workspace: Workspace, environments_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In an environment that holds only that, a Python model answers in every form of body, and is written down; what it gains by may be missing."""
    (tmp_path / "doubling.py").write_text(DOUBLER)
    monkeypatch.syspath_prepend(tmp_path)
    registry.register(importlib.import_module("doubling").Doubler(), name="double", sample=np.ones((3, 2)))
    recorded_with("numpy", np.__version__, name="bare")

    bare = DeploymentSpec(environment="bare:1", isolated=True)
    rollout.deploy("double", spec=bare)

    home = next(environments_folder.glob("*/lib/*/site-packages"))
    installed = {path.name.partition("-")[0] for path in home.glob("*.dist-info")}
    assert installed == {*rebuilding.SERVER_NEEDS, *rebuilding.SERVER_GAINS}
    answers_all("double")
    assert wait_for(lambda: telemetry.requests("double"), what="the requests are written down")

    command = [rebuilding.uv(), "pip", "uninstall", "--no-config", "--python", str(home.parents[2] / "bin" / "python"), *rebuilding.SERVER_GAINS]
    subprocess.run(command, check=True, capture_output=True)
    rollout.deploy("double", endpoint="without", spec=bare)
    answers_all("without")


def answers_all(endpoint: str) -> None:
    """Bodies of every form."""
    with httpx.Client(base_url=rollout.url_of(endpoint), headers={"Authorization": f"Bearer {keys.key(endpoint)}"}) as client:
        tensor = {"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}
        asked = {"inputs": [tensor], "outputs": [{"name": "output", "parameters": {"binary_data": True}}]}
        binary = client.post("/v2/models/double/infer", json=asked)
        assert np.frombuffer(binary.content[int(binary.headers["inference-header-content-length"]) :]).tolist() == [2.0, 4.0]
        zipped = gzip.compress(json.dumps({"inputs": [tensor]}).encode())
        answer = client.post("/v2/models/double/infer", content=zipped, headers={"content-encoding": "gzip"})
        assert answer.json()["outputs"][0]["data"] == [2.0, 4.0]
        long = client.post("/v2/models/double/infer", json={"inputs": [tensor | {"shape": [1000, 2], "data": [0.1, 1.5] * 1000}]})
        assert long.json()["outputs"][0]["data"] == [0.2, 3.0] * 1000
        assert client.post("/score", json={"data": [[1.0, 2.0]]}).json() == {"output": [[2.0, 4.0]]}
        arrow = client.post("/score", content=b"", headers={"content-type": "application/vnd.apache.arrow.stream"})
        assert arrow.status_code < 500 and "pyarrow" in arrow.json()["error"]
        assert [client.get(path).status_code for path in ("/swagger.json", "/metrics", "/v2/models/double")] == [200] * 3
