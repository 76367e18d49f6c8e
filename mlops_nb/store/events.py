"""What happened, as CloudEvents 1.0 (https://cloudevents.io): one row per state change."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from .database import Transaction, now


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event.  `type` is `mlops.` and what happened, such as `mlops.ModelRegistered`; `subject` the thing, such as `churn:3`."""

    id: str
    type: str
    source: str
    subject: str
    time: datetime
    data: dict[str, Any]


def record(tx: Transaction, what: str, *, subject: str, source: str = "/mlops", data: Mapping[str, Any] | None = None) -> Event:
    """Add the event `mlops.`*what* within the same transaction as the change it tells of."""
    event = Event(id=str(uuid.uuid4()), type=f"mlops.{what}", source=source, subject=subject, time=now(), data=dict(data or {}))
    tx.insert("events", event)
    return event


def latest(tx: Transaction, *, subject: str | None = None, what: str | None = None, most: int = 100, skip: int = 0) -> list[Event]:
    """The latest events, newest first: about *subject* (or things below it), of type `mlops.`*what*."""
    where, values = _conditions(subject, what)
    return tx.rows(f"SELECT * FROM events WHERE {where} ORDER BY time DESC LIMIT ? OFFSET ?", [*values, most, skip], as_=Event)


def count(tx: Transaction, *, subject: str | None = None, what: str | None = None) -> int:
    """How many events `latest` could return."""
    where, values = _conditions(subject, what)
    return tx.value(f"SELECT count(*) FROM events WHERE {where}", values)


def kinds(tx: Transaction) -> list[str]:
    """What has happened so far, without the `mlops.` in front, by name."""
    return [row["type"].removeprefix("mlops.") for row in tx.rows("SELECT DISTINCT type FROM events ORDER BY type")]


def subjects(tx: Transaction) -> list[str]:
    """What events are about, by name."""
    return [row["subject"] for row in tx.rows("SELECT DISTINCT subject FROM events ORDER BY subject")]


def _conditions(subject: str | None, what: str | None) -> tuple[str, list[str]]:
    where, values = ["true"], []
    if subject:
        where.append("(subject = ? OR starts_with(subject, ? || '/') OR starts_with(subject, ? || ':'))")
        values += [subject] * 3
    if what:
        where.append("type = ?")
        values.append(f"mlops.{what}")
    return " AND ".join(where), values
