"""Where a deployment can run: one protocol, one module per place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import msgspec

from ..errors import BadOption, closest, listed
from ..store.deployments import Deployment, Reason
from ..store.models import ModelVersion

NAMES = ("local",)
"""Every target this version of the package can run on."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What a target sees of a deployment now."""

    state: Literal["starting", "healthy", "unhealthy", "gone"]
    reason: Reason | None = None
    """Why it is not healthy; of a healthy one, the latest exception a request raised in the user's code."""


class Target(Protocol):
    """Where a deployment can run.  Every verb may be repeated: the agent calls it until what is matches what should be."""

    def start(self, deployment: Deployment, version: ModelVersion, *, context: dict[str, Any]) -> dict[str, Any]:
        """Begin running it and return the handle by which any process finds it again (with `port` and `token_file`)."""

    def observe(self, deployment: Deployment) -> Observed:
        """How it is, within half a second."""

    def alive(self, deployment: Deployment) -> bool:
        """Whether it is there at all; asked many times a second."""

    def stop(self, deployment: Deployment) -> None:
        """End it; nothing of it remains running when this returns."""

    def end_strays(self, known: Iterable[Deployment]) -> None:
        """End what runs there for this workspace and is none of the *known*."""

    def logs(self, deployment: Deployment, *, lines: int) -> list[str]:
        """Its log's last lines."""


def get(name: str) -> Target:
    """The target called *name*.  Raises BadOption when there is none."""
    from . import local

    if name == "local":
        return local
    near = closest(name, NAMES)
    raise BadOption(f"No target {name!r}. Targets: {listed(NAMES)}.", hint=f"--to {near or NAMES[0]}")
