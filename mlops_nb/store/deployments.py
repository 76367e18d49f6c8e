"""Endpoints, the deployments behind them, and how traffic is split.  `wanted` is what should be, `status` what is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from .. import splits
from ..errors import DeploymentNotFound, EndpointNotFound
from . import state
from .database import Transaction, now

Status = Literal["pending", "starting", "healthy", "unhealthy", "restarting", "failed", "stopped"]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where callers find a model, whichever versions answer."""

    name: str
    created_at: datetime
    author: str = ""


class DeploymentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a deployment wants to run."""

    cpus: float | None = None
    """Cores it may use; None means all."""
    memory_mb: int | None = None
    """Memory it may take before it is stopped; None means no limit."""
    hardware: str = "cpu"
    port: int | None = None
    """A fixed port on 127.0.0.1; None picks a free one."""
    gpus: str | None = None
    """GPUs handed over to it: `all`, or how many."""
    variables: dict[str, str] = {}
    """Environment variables; never secrets."""
    allow_mismatch: bool = False
    """Run although the packages differ from those the model was made with."""
    isolated: bool = False
    """Run with an interpreter of its own, and exactly the packages that were locked when the version was registered."""
    environment: str | None = None
    """`name:version` of the environment to run in when isolated; None means the version's own."""
    options: dict[str, Any] = {}
    """What only its target understands: an image, a namespace, a device …"""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a deployment is not healthy, told once."""

    kind: str
    """`missing package`, `wrong path`, `exception while loading`, `exception in a request`, `port taken`, `out of memory`, `exited`."""
    message: str
    """One line: the exception's type and text."""
    where: str = ""
    """File and line in the user's own code, or `cell [12], line 3`."""
    traceback: str = ""
    log: str = ""
    """The log's last lines."""
    hint: str = ""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One running (or wanted) model version behind an endpoint."""

    endpoint: str
    name: str
    model: str
    version: int
    target: str
    spec: DeploymentSpec
    wanted: Literal["running", "stopped"]
    generation: int
    """Counts the user's changes; a status older than the newest generation says nothing about it."""
    status: Status
    reason: Reason | None = None
    handle: dict[str, Any] = {}
    """What the target needs to find it again: pid, port, started, token file …"""
    restarts: int = 0
    """How often it fell since it last ran well for a minute."""
    created_at: datetime
    changed_at: datetime
    author: str = ""

    @property
    def ref(self) -> str:
        """`churn/3`."""
        return f"{self.endpoint}/{self.name}"

    @property
    def model_ref(self) -> str:
        """`churn:3`."""
        return f"{self.model}:{self.version}"


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that is no more, and how it ran."""

    name: str
    model: str
    version: int
    target: str
    spec: DeploymentSpec


class TrafficChange(msgspec.Struct, frozen=True, kw_only=True):
    """Who set which split when, and why; everything that says who answers whom.  Rows are only ever added."""

    endpoint: str
    sequence: int
    weights: dict[str, int]
    time: datetime
    author: str = ""
    why: str = ""
    slots: list[tuple[str, int]] = []
    """The hundred slots that callers are hashed onto, as runs of (deployment, how many)."""
    sticky: str = ""
    """By what callers are known, such as `header:x-user`; empty: each request goes by chance."""
    mirrors: dict[str, int] = {}
    """Shadow deployments → percent of the requests that they are sent copies of."""


def ensure_endpoint(tx: Transaction, name: str, *, author: str) -> None:
    """Make the endpoint if it is not there."""
    tx.execute("INSERT INTO endpoints VALUES (?, ?, ?) ON CONFLICT DO NOTHING", [name, now(), author])


def endpoints(tx: Transaction) -> list[Endpoint]:
    """Every endpoint by name."""
    return tx.rows("SELECT * FROM endpoints ORDER BY name", as_=Endpoint)


def endpoint(tx: Transaction, name: str) -> Endpoint:
    """One endpoint.  Raises EndpointNotFound."""
    found = tx.maybe("SELECT * FROM endpoints WHERE name = ?", [name], as_=Endpoint)
    if not found:
        raise EndpointNotFound(name, known=[e.name for e in endpoints(tx)])
    return found


def delete_endpoint(tx: Transaction, name: str) -> None:
    """Forget an endpoint and its deployments; history and traffic rows stay."""
    tx.execute("DELETE FROM deployments WHERE endpoint = ?", [name])
    tx.execute("DELETE FROM endpoints WHERE name = ?", [name])


def put(tx: Transaction, deployment: Deployment) -> None:
    """Record *deployment*, in place of an earlier one of its name, and note it in the history."""
    tx.execute("DELETE FROM deployments WHERE endpoint = ? AND name = ?", [deployment.endpoint, deployment.name])
    tx.insert("deployments", deployment)
    _remember(tx, deployment, author=deployment.author)


def observe(
    tx: Transaction,
    deployment: Deployment,
    *,
    status: Status,
    reason: Reason | None = None,
    handle: Mapping[str, Any] | None = None,
    restarts: int | None = None,
) -> bool:
    """Record what is, and say whether that was done: nothing is said about a newer generation than *deployment*'s."""
    same = status == deployment.status and handle in (None, deployment.handle)
    values = [
        status, reason, dict(deployment.handle if handle is None else handle), deployment.restarts if restarts is None else restarts,
        deployment.changed_at if same else now(),
    ]  # fmt: skip
    where = [deployment.endpoint, deployment.name, deployment.generation]
    changes = "status = ?, reason = ?, handle = ?, restarts = ?, changed_at = ?"
    current = bool(tx.rows(f"UPDATE deployments SET {changes} WHERE endpoint = ? AND name = ? AND generation = ? RETURNING name", [*values, *where]))
    if current and status != deployment.status:
        _remember(tx, msgspec.structs.replace(deployment, status=status, reason=reason))
    return current


def restarts(tx: Transaction) -> dict[str, int]:
    """How often each was started again since it was deployed, by its reference, steady minutes between or not; those that never were are missing."""
    rows = tx.rows(
        "SELECT subject, count(*) AS times FROM events JOIN deployments ON subject = endpoint || '/' || name"
        " WHERE type = 'mlops.DeploymentRestarting' AND time >= created_at GROUP BY subject"
    )
    return {row["subject"]: row["times"] for row in rows}


def want(tx: Transaction, deployment: Deployment, wanted: Literal["running", "stopped"], *, author: str) -> None:
    """Record what should be, and by whose hand."""
    where = [deployment.endpoint, deployment.name]
    tx.execute("UPDATE deployments SET wanted = ?, author = ?, generation = generation + 1 WHERE endpoint = ? AND name = ?", [wanted, author, *where])


def remove(tx: Transaction, deployment: Deployment) -> None:
    """Forget a stopped deployment, unless it is wanted anew meanwhile; its history stays."""
    where = [deployment.endpoint, deployment.name, deployment.generation]
    if tx.rows("DELETE FROM deployments WHERE endpoint = ? AND name = ? AND generation = ? RETURNING name", where):
        _remember(tx, deployment, status="withdrawn", author=deployment.author)


def of(tx: Transaction, endpoint: str | None = None) -> list[Deployment]:
    """Deployments (of *endpoint*) by endpoint and age."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM deployments {where} ORDER BY endpoint, created_at", values, as_=Deployment)


def get(tx: Transaction, endpoint_name: str, name: str) -> Deployment:
    """One deployment.  Raises EndpointNotFound, DeploymentNotFound."""
    endpoint(tx, endpoint_name)
    found = tx.maybe("SELECT * FROM deployments WHERE endpoint = ? AND name = ?", [endpoint_name, name], as_=Deployment)
    if not found:
        raise DeploymentNotFound(endpoint_name, name, known=[d.name for d in of(tx, endpoint_name)])
    return found


def withdrawn(tx: Transaction, endpoint: str) -> dict[str, Withdrawn]:
    """By name, the endpoint's deployments that are withdrawn, as they ran last; those of a store older than its memory of that are missing."""
    sql = """
        SELECT name, model, version, target, spec FROM deployment_history WHERE endpoint = ?
        QUALIFY row_number() OVER (PARTITION BY name ORDER BY time DESC) = 1 AND status = 'withdrawn' AND spec IS NOT NULL
    """
    return {gone.name: gone for gone in tx.rows(sql, [endpoint], as_=Withdrawn)}


def running_version(tx: Transaction, model: str, version: int) -> list[Deployment]:
    """Deployments that run this model version or are to; not one that failed."""
    sql = "SELECT * FROM deployments WHERE model = ? AND version = ? AND wanted = 'running' AND status <> 'failed'"
    return tx.rows(sql, [model, version], as_=Deployment)


def traffic(tx: Transaction, endpoint: str) -> dict[str, int]:
    """The split in force: deployment → percent."""
    now_in_force = split(tx, endpoint)
    return now_in_force.weights if now_in_force else {}


def mirrors(tx: Transaction, endpoint: str, *, but: Collection[str] = ()) -> dict[str, int]:
    """Who is sent copies, *but* these: deployment → percent."""
    now_in_force = split(tx, endpoint)
    return {name: percent for name, percent in (now_in_force.mirrors if now_in_force else {}).items() if name not in but}


def share_to_come(tx: Transaction, ref: str) -> int | None:
    """The percentage that a deployment is to have as soon as it is up; None where none was said."""
    value = state.get(tx, f"first_traffic/{ref}")
    return None if value is None else int(value)


def promise_share(tx: Transaction, ref: str, percent: int | None) -> None:
    """Have a deployment given *percent* of its endpoint's requests as soon as it is up; None for nothing said."""
    state.put(tx, f"first_traffic/{ref}", percent)


def split(tx: Transaction, endpoint: str) -> TrafficChange | None:
    """The latest change of *endpoint*'s split, which is in force; None where there never was one."""
    return tx.maybe("SELECT * FROM traffic WHERE endpoint = ? ORDER BY sequence DESC LIMIT 1", [endpoint], as_=TrafficChange)


def set_traffic(
    tx: Transaction,
    endpoint: str,
    weights: Mapping[str, int],
    *,
    author: str,
    why: str,
    sticky: str | None = None,
    mirrors: Mapping[str, int] | None = None,
) -> None:
    """Add a new split, on slots as near to the former ones as can be; None keeps what callers are known by, and who is sent copies."""
    before = split(tx, endpoint)
    change = TrafficChange(
        endpoint=endpoint, sequence=before.sequence + 1 if before else 1, weights=dict(weights), time=now(), author=author, why=why,
        slots=splits.slots(weights, before.slots if before else ()), sticky=(before.sticky if before else "") if sticky is None else sticky,
        mirrors=dict((before.mirrors if before else {}) if mirrors is None else mirrors),
    )  # fmt: skip
    tx.insert("traffic", change)


def traffic_changes(tx: Transaction, endpoint: str, *, most: int = 100) -> list[TrafficChange]:
    """Every split *endpoint* had, newest first."""
    return tx.rows("SELECT * FROM traffic WHERE endpoint = ? ORDER BY sequence DESC LIMIT ?", [endpoint, most], as_=TrafficChange)


def history(tx: Transaction, endpoint: str, *, most: int = 200) -> list[dict[str, Any]]:
    """Every change of status of the endpoint's deployments, newest first."""
    return tx.rows("SELECT * FROM deployment_history WHERE endpoint = ? ORDER BY time DESC LIMIT ?", [endpoint, most])


def split_at(tx: Transaction, endpoint: str, time: datetime) -> TrafficChange | None:
    """The change of the split that was in force at *time*; None where there was none yet."""
    return tx.maybe("SELECT * FROM traffic WHERE endpoint = ? AND time <= ? ORDER BY sequence DESC LIMIT 1", [endpoint, time], as_=TrafficChange)


def statuses_at(tx: Transaction, endpoint: str, time: datetime) -> list[dict[str, Any]]:
    """For each deployment the endpoint had until *time*, its latest change of status by then."""
    sql = """
        SELECT * FROM deployment_history WHERE endpoint = ? AND time <= ?
        QUALIFY row_number() OVER (PARTITION BY name ORDER BY time DESC) = 1 ORDER BY name
    """
    return tx.rows(sql, [endpoint, time])


def _remember(tx: Transaction, deployment: Deployment, *, status: str | None = None, author: str = "") -> None:
    """Note what became of it, by whose hand where it was not by itself."""
    identity = [deployment.endpoint, deployment.name, deployment.model, deployment.version, deployment.target]
    row = [*identity, status or deployment.status, deployment.reason, now(), deployment.spec, author]
    tx.execute("INSERT INTO deployment_history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
