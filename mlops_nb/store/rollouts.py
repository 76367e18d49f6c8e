"""Rollouts: plans by which an endpoint's split changes by itself, step by step, and how far they are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from .database import Transaction, now

Status = Literal["running", "held", "paused", "done", "rolled back", "cancelled"]
"""`held` by what it saw; `paused` is never kept: it is what one under way is while no agent takes its steps."""
_GOING = "status IN ('running', 'held')"


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One plan, and how far it is.  The agent carries it out; it keeps nothing but this row."""

    id: str
    endpoint: str
    kind: Literal["schedule", "ramp", "canary"]
    deployment: str
    """Whose share grows; empty for a split that is set at a moment."""
    steps: list[int]
    """The percentages it is given one after another."""
    every_seconds: float
    """How long each lasts at least."""
    step: int
    """How many of the steps were taken."""
    status: Status
    settings: dict[str, Any] = {}
    """Of a schedule the split; of a canary what guards it and what it was compared with."""
    evidence: dict[str, Any] = {}
    """Of a canary the numbers behind its latest verdict."""
    reason: str = ""
    """Why it is held, or how it ended."""
    next_time: datetime
    """When the next step is due."""
    author: str = ""
    why: str = ""
    created_at: datetime
    changed_at: datetime

    @property
    def going(self) -> bool:
        """Whether it is still under way."""
        return self.status in ("running", "held", "paused")

    @property
    def percent(self) -> int:
        """The share that its deployment has by the latest step taken."""
        return self.steps[self.step - 1] if self.step else 0


def add(tx: Transaction, rollout: Rollout) -> None:
    """Record a new plan."""
    tx.insert("rollouts", rollout)


def going(tx: Transaction, endpoint: str | None = None) -> list[Rollout]:
    """The plans under way (of *endpoint*), oldest first."""
    where, values = (" AND endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM rollouts WHERE {_GOING}{where} ORDER BY created_at", values, as_=Rollout)


def of(tx: Transaction, endpoint: str | None = None, *, most: int = 50) -> list[Rollout]:
    """Plans (of *endpoint*), newest first."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM rollouts {where} ORDER BY created_at DESC LIMIT ?", [*values, most], as_=Rollout)


def as_it_was(tx: Transaction, rollout: Rollout) -> Rollout | None:
    """The row, while it still says what *rollout* says; None once somebody took a step with it meanwhile."""
    sql = f"SELECT * FROM rollouts WHERE id = ? AND step = ? AND {_GOING}"
    return tx.maybe(sql, [rollout.id, rollout.step], as_=Rollout)


def change(tx: Transaction, rollout: Rollout, **values: Any) -> Rollout:
    """Note what became of it: any of its fields, by name."""
    values["changed_at"] = now()
    names = ", ".join(f"{name} = ?" for name in values)
    plain = [dict(value) if isinstance(value, Mapping) else value for value in values.values()]
    tx.execute(f"UPDATE rollouts SET {names} WHERE id = ?", [*plain, rollout.id])
    return msgspec.structs.replace(rollout, **values)
