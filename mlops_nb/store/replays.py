"""Replays: what came of asking a candidate what an endpoint was asked before."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from .database import Transaction


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """Past requests, answered again by a candidate on a server of its own."""

    id: str
    endpoint: str
    deployment: str = ""
    """Whose requests; empty for those of all deployments."""
    model: str
    version: int
    since: datetime
    until: datetime
    """When the first and the last of the requests came."""
    speed: float | None = None
    """How many times the pace they came in; None for as fast as it goes."""
    requests: int
    left_out: int = 0
    """Requests that could not be asked again: nothing of them but the fact was kept."""
    late_ms: float = 0.0
    """By how much 95 % of the requests were sent later than they were due, at most."""
    first_error: str = ""
    """Of the candidate: its exception, with the file and line or the cell."""
    comparison: dict[str, Any]
    """An `agreement.Comparison` as JSON."""
    guards: dict[str, bool] = {}
    """Promise → whether it was kept."""
    words: list[str] = []
    """What was seen, a line each."""
    seconds: float
    author: str = ""
    time: datetime

    @property
    def ref(self) -> str:
        """`churn:3`."""
        return f"{self.model}:{self.version}"

    @property
    def passed(self) -> bool:
        """Whether all that was promised was kept."""
        return all(self.guards.values())

    @property
    def differing(self) -> list[dict[str, Any]]:
        """The rows whose answers differ, a thousand at most: `id`, `row`, inputs, `before`, `candidate`, `truth`."""
        return self.comparison["differing"]


def add(tx: Transaction, replay: Replay) -> None:
    """Record *replay*."""
    tx.insert("replays", replay)


def latest(tx: Transaction, model: str | None = None, version: int | None = None, *, endpoint: str | None = None, most: int = 100) -> list[Replay]:
    """Replays (to *model*, to its *version*, of *endpoint*), newest first."""
    given = {"model": model, "version": version, "endpoint": endpoint}
    where = " AND ".join(["true", *(f"{name} = ?" for name, value in given.items() if value is not None)])
    values = [value for value in given.values() if value is not None]
    return tx.rows(f"SELECT * FROM replays WHERE {where} ORDER BY time DESC LIMIT ?", [*values, most], as_=Replay)
