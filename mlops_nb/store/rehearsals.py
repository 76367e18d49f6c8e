"""Rehearsals: what came of serving a model version from nothing and asking it what it was asked in the notebook."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from .database import Transaction

Kind = Literal["package", "cell", "column", "file", "variable"]


class Culprit(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the answers depend on and that does not travel with the version."""

    kind: Kind
    name: str
    """The package, the cell as `cell [12]`, the column, the file, or the environment variable."""
    why: str
    """What is true of it, as a sentence without its full stop."""
    where: str = ""
    """The line of the user's code that needs it: `cell [12], line 3`, or a file and a line."""
    fix: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        line = self.where.removeprefix(f"{self.name}, ")
        return f"{'' if self.kind == 'cell' else f'{self.kind} '}{self.name}{f' ({line})' if line else ''}: {self.why}"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One way of asking, and how many answers came out otherwise."""

    name: str
    """`the notebook's answers`, `asked again`, `in another order` or `row by row`."""
    rows: int
    differ: int
    max_difference: float | None = None
    """The largest difference of two numbers; None when something else differs, or nothing could be compared."""
    example: str = ""
    """One row that differs, in words."""


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """How one rehearsal went."""

    id: str
    model: str
    version: int
    passed: bool
    environment: str | None = None
    """The environment that was rebuilt."""
    packages: int = 0
    """How many packages were installed and found to be those of the lock."""
    rows: int = 0
    compared_with: str = ""
    """Where the answers came from that it was to give: the registration, or the caller.  Empty when there were none."""
    max_difference: float | None = None
    checks: list[Check] = []
    culprit: Culprit | None = None
    seen: list[Culprit] = []
    """What else the answers depend on, though nothing differed for it this time."""
    seconds: float
    time: datetime

    @property
    def ref(self) -> str:
        """`churn:3`."""
        return f"{self.model}:{self.version}"


def add(tx: Transaction, rehearsal: Rehearsal) -> None:
    """Record *rehearsal*."""
    tx.insert("rehearsals", rehearsal)


def latest(tx: Transaction, model: str | None = None, version: int | None = None, *, most: int = 100) -> list[Rehearsal]:
    """Rehearsals (of *model*, of its *version*), newest first."""
    given = {"model": model, "version": version}
    where = " AND ".join(["true", *(f"{name} = ?" for name, value in given.items() if value is not None)])
    values = [value for value in given.values() if value is not None]
    return tx.rows(f"SELECT * FROM rehearsals WHERE {where} ORDER BY time DESC LIMIT ?", [*values, most], as_=Rehearsal)
