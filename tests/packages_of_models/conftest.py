"""Model versions to be packaged, small ones: their packages are numpy at most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doubling import Doubler
from living import churn_model

from mlops_nb import registry
from mlops_nb.registry import Provenance
from mlops_nb.settings import Workspace

ENTRY = """
import json
from pathlib import Path

def init():
    global known
    known = json.loads(Path("lookup/cities.json").read_text()) if Path("lookup/cities.json").exists() else {}

def run(raw_data):
    return {"sum": sum(json.loads(raw_data)["data"]), "known": known}
"""


@pytest.fixture
def churn(workspace: Workspace) -> Provenance:
    """A model in ONNX, with its data set."""
    return registry.provenance(churn_model().ref)


@pytest.fixture
def doubler(workspace: Workspace) -> Provenance:
    """A Python object that takes an array."""
    made = registry.register(Doubler(), name="doubler", sample=np.ones((3, 2)), convert=False)
    return registry.provenance(made.version.ref)


@pytest.fixture
def adder(workspace: Workspace, tmp_path: Path) -> Provenance:
    """An entry script that reads a file of its working directory, when there is one."""
    folder = tmp_path / "adder"
    folder.mkdir()
    (folder / "score.py").write_text(ENTRY)
    return registry.provenance(registry.register(folder, name="adder", entry="score.py").version.ref)
