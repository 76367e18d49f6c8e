"""What served an endpoint, when, by whose hand and why: read from rows that are only ever added."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from . import store
from .errors import BadOption
from .store import deployments as table


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that changed: the split, or a deployment's status."""

    time: datetime
    endpoint: str
    deployment: str
    """Empty for a change of the split."""
    model: str
    what: str
    """The new status, or the new split as `1=50 2=50`."""
    author: str = ""
    why: str = ""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment as it was at some moment."""

    deployment: str
    model: str
    target: str
    status: str
    traffic: int
    """Its percentage of the requests."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint was at some moment."""

    endpoint: str
    time: datetime
    deployments: list[Served]
    """Those that were there, the largest share first; a withdrawn one is not."""
    author: str = ""
    """By whose hand the split was as it was; empty before there was one."""
    why: str = ""
    since: datetime | None = None
    """When it was divided so."""


def of(endpoint: str, *, most: int = 200) -> list[Change]:
    """Every change of *endpoint*, newest first; also of one that was deleted since.  Raises EndpointNotFound when there never was one."""
    with store.reading() as tx:
        splits = table.traffic_changes(tx, endpoint, most=most)
        statuses = table.history(tx, endpoint, most=most)
        if not splits and not statuses:
            table.endpoint(tx, endpoint)
    changes = [_split(change) for change in splits] + [_status(row) for row in statuses]
    return sorted(changes, key=lambda change: change.time, reverse=True)[:most]


def at(endpoint: str, time: datetime) -> Serving:
    """What served *endpoint* at *time* (with a time zone).  Raises EndpointNotFound when there never was one, BadOption for a moment to come."""
    if time > store.now():
        raise BadOption(
            f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC is yet to come.",
            hint=f"%mlops endpoints {endpoint} for now, %mlops rollouts {endpoint} for what is planned",
        )
    with store.reading() as tx:
        last = table.statuses_at(tx, endpoint, time)
        split = table.split_at(tx, endpoint, time)
        if not last and not table.history(tx, endpoint, most=1):
            table.endpoint(tx, endpoint)
    shares = split.weights if split else {}
    there = [
        Served(deployment=row["name"], model=f"{row['model']}:{row['version']}", target=row["target"], status=row["status"], traffic=shares.get(row["name"], 0))
        for row in last
        if row["status"] != "withdrawn"
    ]
    there.sort(key=lambda served: (-served.traffic, served.deployment))
    if not split:
        return Serving(endpoint=endpoint, time=time, deployments=there)
    return Serving(endpoint=endpoint, time=time, deployments=there, author=split.author, why=split.why, since=split.time)


def _split(change: table.TrafficChange) -> Change:
    said = " ".join(f"{name}={share}" for name, share in change.weights.items()) or "nobody"
    return Change(time=change.time, endpoint=change.endpoint, deployment="", model="", what=said, author=change.author, why=change.why)


def _status(row: dict[str, Any]) -> Change:
    why = (row["reason"] or {}).get("message", "")
    model, author = f"{row['model']}:{row['version']}", row["author"] or ""
    return Change(time=row["time"], endpoint=row["endpoint"], deployment=row["name"], model=model, what=row["status"], author=author, why=why)
