"""Edge devices: what each told last, and up to where its telemetry is here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from .database import Transaction


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device as it was last heard."""

    name: str
    online: bool = False
    """Whether the broker has its link; false once its last will was heard."""
    reported: dict[str, Any] = {}
    """An `edge.twin.Reported` as JSON."""
    seen_at: datetime | None = None
    """When it was last heard."""
    stream: str = ""
    """Which run of its telemetry is being taken in: a device that lost its disk begins another."""
    ingested: int = 0
    """The last line of that stream that is here."""
    pending: list[str] = []
    """Files of telemetry that are counted by `ingested` and not yet in place."""


def every(tx: Transaction) -> list[Device]:
    """All of them by name."""
    return tx.rows("SELECT * FROM devices ORDER BY name", as_=Device)


def get(tx: Transaction, name: str) -> Device | None:
    """One of them, if it was ever heard."""
    return tx.maybe("SELECT * FROM devices WHERE name = ?", [name], as_=Device)


def note(tx: Transaction, name: str, *, seen_at: datetime | None, online: bool | None = None, reported: Mapping[str, Any] | None = None) -> None:
    """Record what was heard of a device; None leaves what is known."""
    before = get(tx, name) or Device(name=name)
    heard = msgspec.structs.replace(
        before, online=before.online if online is None else online, reported=before.reported if reported is None else dict(reported),
        seen_at=seen_at or before.seen_at,
    )  # fmt: skip
    _put(tx, heard)


def note_ingested(tx: Transaction, name: str, *, stream: str, ingested: int, pending: list[str]) -> None:
    """Record up to where its telemetry is here."""
    _put(tx, msgspec.structs.replace(get(tx, name) or Device(name=name), stream=stream, ingested=ingested, pending=pending))


def _put(tx: Transaction, device: Device) -> None:
    tx.execute("DELETE FROM devices WHERE name = ?", [device.name])
    tx.insert("devices", device)
