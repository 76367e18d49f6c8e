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

    @property
    def subject(self) -> str:
        """`delays/2`, or `delays` where it was of all that callers asked."""
        return f"{self.endpoint}/{self.deployment}" if self.deployment else self.endpoint

    @property
    def cost(self) -> str:
        """`accuracy 0.91 before, 0.84 since (measured on 3,000 labels)`; empty where its causes were not asked for, or neither labels nor an estimate tell."""
        known = [loss for loss in (self.report.get("causes") or {}).get("losses", []) if loss.get("before") is not None]
        return f"{known[0]['metric']} {known[0]['before']:.3g} before, {known[0]['since']:.3g} since ({known[0]['how']})" if known else ""

    @property
    def verdict(self) -> str:
        """`drift`; `no drift` where a test looked for it; else why none could: `too few rows to tell`, or `nothing was compared`."""
        features = self.report.get("features", [])
        if self.is_drift:
            return "drift"
        if any(feature.get("test", "none") != "none" for feature in features):
            return "no drift"
        return "too few rows to tell" if any(feature.get("type") != "not compared" for feature in features) else "nothing was compared"


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Latency, CPU and memory of a model version on servers of its own, or of a running deployment: a point for each hardware, number of cores and batch."""

    id: str
    endpoint: str = ""
    deployment: str = ""
    """Empty, as is `endpoint`, for a model version measured on servers of its own."""
    model: str
    version: int
    hardware: str
    """What was measured on, in words."""
    points: list[dict[str, Any]]
    """Each a `profiling.Point` as JSON: `hardware`, `cpus`, `batch`, `rate`, `p50_ms`, `p95_ms`, `p99_ms`, `rows_per_second`, `memory_mb` …"""
    settings: dict[str, Any] = {}
    """What was asked: the objective, the grid, and the machine."""
    advice: dict[str, Any] = {}
    """A `profiling.Advice` as JSON."""
    complete: bool = True
    """False while points are missing: it goes on, was interrupted, or the model failed."""
    time: datetime

    @property
    def subject(self) -> str:
        """`churn/3` for a deployment, `churn:3` for a model version."""
        return f"{self.endpoint}/{self.deployment}" if self.endpoint else f"{self.model}:{self.version}"


def add_drift_check(tx: Transaction, check: DriftCheck) -> None:
    """Record *check*."""
    tx.insert("drift_checks", check)


def explain(tx: Transaction, id: str, causes: dict[str, Any]) -> None:
    """Keep the *causes* of what a check found with its report."""
    for check in tx.rows("SELECT * FROM drift_checks WHERE id = ?", [id], as_=DriftCheck):
        tx.execute("UPDATE drift_checks SET report = ? WHERE id = ?", [check.report | {"causes": causes}, id])


def drift_checks(tx: Transaction, endpoint: str | None = None, *, most: int = 100) -> list[DriftCheck]:
    """Checks (of *endpoint*), newest first."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM drift_checks {where} ORDER BY time DESC LIMIT ?", [*values, most], as_=DriftCheck)


def latest_drift(tx: Transaction, endpoint: str | None = None) -> list[DriftCheck]:
    """The newest check of every endpoint (of *endpoint*) as a whole, and of each of its deployments that runs, made since it was deployed."""
    which, values = ("AND endpoint = ?", [endpoint]) if endpoint else ("", [])
    runs = "EXISTS (FROM deployments d WHERE d.endpoint = c.endpoint AND d.name = c.deployment AND d.wanted = 'running' AND d.created_at <= c.time)"
    sql = f"""SELECT * FROM drift_checks c WHERE endpoint IN (SELECT name FROM endpoints) AND (deployment IS NULL OR {runs}) {which}
        QUALIFY row_number() OVER (PARTITION BY endpoint, deployment ORDER BY time DESC) = 1 ORDER BY endpoint, deployment NULLS FIRST"""
    return tx.rows(sql, values, as_=DriftCheck)


def latest_by_deployment(tx: Transaction) -> dict[tuple[str, str | None], DriftCheck]:
    """The newest check of each deployment by endpoint and name; under None as the name that of all deployments of an endpoint together."""
    newest = tx.rows("SELECT * FROM drift_checks QUALIFY row_number() OVER (PARTITION BY endpoint, deployment ORDER BY time DESC) = 1", as_=DriftCheck)
    return {(check.endpoint, check.deployment): check for check in newest}


def add_profile(tx: Transaction, profile: Profile) -> None:
    """Record *profile*."""
    tx.insert("profiles", profile)


def put_profile(tx: Transaction, profile: Profile) -> None:
    """Record *profile*, in place of what was known of it before."""
    values = [profile.points, profile.settings, profile.advice, profile.complete, profile.hardware, profile.time, profile.id]
    if tx.value("SELECT count(*) FROM profiles WHERE id = ?", [profile.id]):
        tx.execute("UPDATE profiles SET points = ?, settings = ?, advice = ?, complete = ?, hardware = ?, time = ? WHERE id = ?", values)
    else:
        add_profile(tx, profile)


def profiles(tx: Transaction, endpoint: str | None = None, *, most: int = 100) -> list[Profile]:
    """Profiles (of *endpoint*), newest first."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM profiles {where} ORDER BY time DESC LIMIT ?", [*values, most], as_=Profile)


def profiles_of(tx: Transaction, model: str, version: int, *, endpoint: str = "", deployment: str = "", most: int = 20) -> list[Profile]:
    """Profiles of this version, on servers of its own or (when given) as this deployment, newest first."""
    sql = "SELECT * FROM profiles WHERE model = ? AND version = ? AND endpoint = ? AND deployment = ? ORDER BY time DESC LIMIT ?"
    return tx.rows(sql, [model, version, endpoint, deployment, most], as_=Profile)
