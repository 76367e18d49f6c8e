"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_nb.settings import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A fresh workspace, current for this test and the processes it starts."""
    root = tmp_path / "workspace"
    monkeypatch.setenv("MLOPS_HOME", str(root))
    return Workspace(root)


@pytest.fixture
def live_workspace(workspace: Workspace) -> Iterator[Workspace]:
    """A fresh workspace whose processes end with the test."""
    from mlops_nb import rollout

    yield workspace
    rollout.down()
