"""Models to measure in a real workspace, and one profile that several tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from living import ROWS, churn_model

from mlops_nb import datasets, profiling, registry, settings
from mlops_nb.store.checks import Profile
from mlops_nb.store.models import ModelVersion


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Profile]:
    """`churn:1` measured on one core with 1 and 16 rows a request, in the workspace that is current for the module."""
    root = tmp_path_factory.mktemp("profiled") / "workspace"
    with pytest.MonkeyPatch.context() as patch, settings.using(root):
        patch.setenv("MLOPS_HOME", str(root))
        churn_model()
        yield profiling.profile("churn:1", cpus=[1], batches=[16, 1], objective="p95=400ms", rps=20, price=0.05, seconds=6)


@pytest.fixture
def script(workspace, tmp_path: Path) -> Callable[[str], ModelVersion]:
    """Registers an entry script with this source, trained (so it says) on `customers`."""

    def register(source: str) -> ModelVersion:
        folder = tmp_path / "script"
        folder.mkdir()
        (folder / "score.py").write_text(source)
        datasets.register("customers", ROWS)
        return registry.register(folder, name="scripted", entry="score.py", data="customers").version

    return register
