"""Runs: the code that was executed before something was registered."""

from __future__ import annotations

from datetime import datetime

import msgspec

from .database import Transaction


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One executed cell, as it was sent to the kernel."""

    number: int
    """Its execution count, `In [number]`."""
    source: str
    filename: str = ""
    """What tracebacks call it."""


class GitState(msgspec.Struct, frozen=True, kw_only=True):
    """The repository around the notebook."""

    commit: str
    branch: str = ""
    dirty: bool = False
    diff: str = ""
    """Uncommitted changes of tracked Python files, cut at 100 kB."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What was executed, where and by whom."""

    id: str
    kind: str
    """`notebook`, `script` or `cli`."""
    notebook: str | None = None
    cells: list[Cell] = []
    git: GitState | None = None
    author: str = ""
    host: str = ""
    python: str = ""
    started_at: datetime


def add(tx: Transaction, run: Run) -> None:
    """Record *run*."""
    tx.insert("runs", run)


def get(tx: Transaction, id: str) -> Run | None:
    """The run with this id."""
    return tx.maybe("SELECT * FROM runs WHERE id = ?", [id], as_=Run)


def every(tx: Transaction, *, most: int = 200) -> list[Run]:
    """The latest runs, newest first."""
    return tx.rows("SELECT * FROM runs ORDER BY started_at DESC LIMIT ?", [most], as_=Run)
