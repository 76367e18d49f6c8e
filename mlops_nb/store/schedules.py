"""Drift checks that are made by the clock, and how the latest of each went."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ..errors import ScheduleNotFound
from .database import Transaction, now


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """One check that the agent makes again and again."""

    id: str
    """`delays-1`: the endpoint, and which of its schedules."""
    endpoint: str
    words: str
    """When, as it was said: `0 6 * * *` (in UTC), `0 6 * * * Europe/Berlin`, or `1h`."""
    every_seconds: float
    """How far apart the checks are, on average."""
    options: dict[str, Any] = {}
    """What is checked: the options of `monitoring.check_drift` by name."""
    next_time: datetime
    """When the next check is due; in the past while one was missed or is under way."""
    last_time: datetime | None = None
    outcome: str = ""
    """Of the latest check, in words."""
    author: str = ""
    created_at: datetime


def add(tx: Transaction, endpoint: str, *, words: str, every_seconds: float, options: dict[str, Any], next_time: datetime, author: str) -> Schedule:
    """Have a check made from now on."""
    numbers = [int(one.id.rpartition("-")[2]) for one in of(tx, endpoint)]
    schedule = Schedule(
        id=f"{endpoint}-{max(numbers, default=0) + 1}", endpoint=endpoint, words=words, every_seconds=every_seconds, options=options, next_time=next_time,
        author=author, created_at=now(),
    )  # fmt: skip
    tx.insert("schedules", schedule)
    return schedule


def of(tx: Transaction, endpoint: str | None = None) -> list[Schedule]:
    """Every schedule (of *endpoint*), the next one due first."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM schedules {where} ORDER BY next_time, id", values, as_=Schedule)


def get(tx: Transaction, id: str) -> Schedule:
    """One schedule.  Raises ScheduleNotFound."""
    found = maybe(tx, id)
    if not found:
        raise ScheduleNotFound(id, known=[one.id for one in of(tx)])
    return found


def maybe(tx: Transaction, id: str) -> Schedule | None:
    """One schedule, or None."""
    return tx.maybe("SELECT * FROM schedules WHERE id = ?", [id], as_=Schedule)


def ran(tx: Transaction, id: str, *, outcome: str, next_time: datetime) -> None:
    """Note how a check went, and when the next one is due."""
    tx.execute("UPDATE schedules SET last_time = ?, outcome = ?, next_time = ? WHERE id = ?", [now(), outcome, next_time, id])


def delete(tx: Transaction, id: str) -> None:
    """Have it made no longer."""
    tx.execute("DELETE FROM schedules WHERE id = ?", [id])


def delete_of(tx: Transaction, endpoint: str) -> None:
    """Have those of an endpoint be made no longer."""
    tx.execute("DELETE FROM schedules WHERE endpoint = ?", [endpoint])
