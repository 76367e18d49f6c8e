"""A workspace that lives for one measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from mlops_nb import rollout, settings


@contextmanager
def fresh() -> Iterator[settings.Workspace]:
    """Within the block, a new workspace is the current one; whatever it started is stopped and its folder deleted."""
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder, settings.using(f"{folder}/.mlops") as workspace:
        try:
            yield workspace
        finally:
            if workspace.run.exists():
                rollout.down()
