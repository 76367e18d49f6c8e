"""What the tests of profiles ask of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import psutil

from mlops_nb import store
from mlops_nb.profiling import Objective, Point
from mlops_nb.settings import Workspace
from mlops_nb.store import checks
from mlops_nb.store.checks import Profile
from mlops_nb.store.models import ModelVersion

EASY = Objective(95, 400.0)
QUICK = {"cpus": [1], "batches": [1], "objective": EASY, "seconds": 1.5}
Script = Callable[[str], ModelVersion]


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def log(self, line: str) -> None:
        """Nothing is asked of these."""


def points(profile: Profile) -> list[Point]:
    return msgspec.convert(profile.points, list[Point])


def stored() -> list[Profile]:
    with store.reading() as tx:
        return checks.profiles(tx)


def servers_of(workspace: Workspace) -> list[psutil.Process]:
    """Every process started with a file of this workspace."""
    return [process for process in psutil.process_iter(["cmdline"]) if str(workspace.root) in " ".join(process.info["cmdline"] or [])]
