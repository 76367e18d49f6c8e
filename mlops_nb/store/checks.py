"""Results of drift checks and of profiles."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from .database import Transaction


class DriftCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of an endpoint's requests with its model's training data; `report` is a `monitoring.DriftReport` as JSON."""

    id: str
    endpoint: str
    deployment: str | None = None
    dataset: str
    engine: str
    is_drift: bool
    report: dict[str, Any]
    time: datetime


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Latency, CPU and memory of one deployment: one point per batch size."""

    id: str
    endpoint: str
    deployment: str
    model: str
    version: int
    hardware: str
    points: list[dict[str, Any]]
    """`batch`, `requests`, `p50_ms`, `p95_ms`, `p99_ms`, `rows_per_second`, `cpu_percent`, `memory_mb`."""
    time: datetime


def add_drift_check(tx: Transaction, check: DriftCheck) -> None:
    """Record *check*."""
    tx.insert("drift_checks", check)


def drift_checks(tx: Transaction, endpoint: str | None = None, *, most: int = 100) -> list[DriftCheck]:
    """Checks (of *endpoint*), newest first."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM drift_checks {where} ORDER BY time DESC LIMIT ?", [*values, most], as_=DriftCheck)


def latest_drift(tx: Transaction) -> list[DriftCheck]:
    """The newest check of every endpoint there is."""
    sql = "SELECT * FROM drift_checks WHERE endpoint IN (SELECT name FROM endpoints) QUALIFY row_number() OVER (PARTITION BY endpoint ORDER BY time DESC) = 1"
    return tx.rows(f"{sql} ORDER BY endpoint", as_=DriftCheck)


def add_profile(tx: Transaction, profile: Profile) -> None:
    """Record *profile*."""
    tx.insert("profiles", profile)


def profiles(tx: Transaction, endpoint: str | None = None, *, most: int = 100) -> list[Profile]:
    """Profiles (of *endpoint*), newest first."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM profiles {where} ORDER BY time DESC LIMIT ?", [*values, most], as_=Profile)
