"""PyTorch modules, registered where PyTorch is and served where it is not: it has an environment of its own beside the tests' packages."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import CACHE

from mlops_nb import converting, flavors, registry
from mlops_nb.conversion import Options
from mlops_nb.settings import Workspace

PACKAGES = ("torch==2.13.0", "onnxscript==0.7.2")
REGISTERING = """
import json, sys
import numpy as np, pandas as pd, torch
from torch import nn
from mlops_nb import datasets, registry
from mlops_nb.errors import MlopsError

torch.manual_seed(0)
random = np.random.default_rng(0)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 2), nn.Softmax(dim=1))

    def forward(self, x):
        return self.layers(x)


class TwoInputs(nn.Module):
    def forward(self, left, right):
        return {"sum": left + right, "product": left * right}


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


rows = random.normal(size=(300, 4)).astype("float32")
frame = pd.DataFrame(rows, columns=list("abcd"))
wide = Wide()
datasets.register("rows", rows)
datasets.register("frame", frame)
registry.register(wide, name="wide", data="rows")
registry.register(wide, name="framed", data="frame")
registry.register(TwoInputs(), name="two", sample={"left": rows, "right": rows + 1})
try:
    registry.register(Branching(), name="branching", data="rows")
except MlopsError as error:
    refused = str(error)
with torch.no_grad():
    asked = random.normal(size=(7, 4)).astype("float32")
    print(json.dumps({"asked": asked.tolist(), "answers": wide(torch.from_numpy(asked)).tolist(), "refused": refused}))
"""


@pytest.fixture(scope="session")
def python_with_torch() -> Path:
    """An interpreter with the tests' packages and PyTorch, kept in this user's cache.

    PyTorch's build for the CPU is taken, 190 MB: uv knows where those are; where it cannot be reached, pip's own indexes are asked, which on Linux may
    have but the build for CUDA, of 3 GB.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = CACHE / "-".join(["py", version, *PACKAGES])
    python = folder / "bin" / "python"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "torch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        (folder / "lib" / f"python{version}" / "site-packages" / "beside.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--python", str(python), "--torch-backend", "cpu"]
        if subprocess.run([*uv, *PACKAGES], capture_output=True, check=False).returncode:
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--only-binary", ":all:", "--no-compile"]
            subprocess.run([*pip, "--disable-pip-version-check", *PACKAGES], check=True)
    return python


@pytest.fixture(scope="module")
def done(python_with_torch: Path, workspace_of_module: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Modules registered in this workspace by a script of a user who has PyTorch; what one answered there."""
    folder = tmp_path_factory.mktemp("with_torch")
    (folder / "train.py").write_text(REGISTERING)
    environment = os.environ | {"MLOPS_HOME": str(workspace_of_module.root), "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([str(python_with_torch), "train.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def answers(name: str, rows: Any) -> Any:
    return flavors.OnnxModel(registry.laid_out(registry.get(name)) / "model.onnx").predict(rows)


def test_a_module_answers_here_without_pytorch_what_it_answered_there(done: dict[str, Any]):
    assert "torch" not in sys.modules
    assert answers("wide", np.array(done["asked"], dtype="float32"))["output"] == pytest.approx(np.array(done["answers"]), abs=1e-5)


@pytest.mark.parametrize("name", ["wide", "framed", "two"])
def test_how_it_was_proved_equal_and_how_much_faster_it_is_is_kept_with_the_version(done: dict[str, Any], name: str):
    report = registry.get(name).conversion

    assert (report["equal"], report["rows"], report["labels_differ"]) == (True, 300, 0)
    assert report["max_difference"] < 1e-5
    assert {figure["rows"] for figure in report["speed"]} == {1, 1_000, 100_000}


def test_two_inputs_and_two_outputs_keep_their_names(done: dict[str, Any]):
    given = {"left": np.ones((2, 4), "float32"), "right": np.full((2, 4), 3, "float32")}

    assert {name: array[0, 0] for name, array in answers("two", given).items()} == {"sum": 4, "product": 3}


def test_a_module_that_looks_at_its_numbers_is_refused_with_the_reason(done: dict[str, Any]):
    assert done["refused"].startswith("A Branching could not be exported to ONNX")


@pytest.mark.parametrize("name", ["wide", "framed"])
def test_its_graph_is_optimised_and_compared_on_its_data(done: dict[str, Any], name: str):
    report = converting.convert(name, options=Options(optimize="basic")).version.conversion

    assert (report["equal"], report["optimized"], report["rows"]) == (True, "basic", 300)
