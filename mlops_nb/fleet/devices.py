"""The fleet at a glance: which devices there are, what each runs, and whether its requests drifted."""

from __future__ import annotations

from datetime import datetime

import msgspec

from .. import store
from ..errors import DeviceNotFound
from ..store import checks, devices
from ..store import deployments as table
from ..store.deployments import Deployment
from ..store.devices import Device


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """One device as it was last heard, and as it is wanted."""

    name: str
    online: bool
    deployment: str
    """`churn/gate-1`, or nothing when nothing is wanted of it."""
    wanted: str
    """`churn:3`: what it should run."""
    model: str
    """`churn:2`: what it says it runs."""
    state: str
    reason: str = ""
    module: str = ""
    """The version of this package on it."""
    seen_at: datetime | None = None
    requests: int = 0
    rows: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    queued: int = 0
    """Answers that wait on it for the link."""
    dropped: int = 0
    telemetry_waiting: int = 0
    telemetry_dropped: int = 0
    drift: str = ""
    """`drift` or `no drift` as of its latest check; nothing before one."""


def every() -> list[DeviceView]:
    """All devices that were heard, or that something is wanted of, by name."""
    with store.reading() as tx:
        heard = {device.name: device for device in devices.every(tx)}
        wanted = {str(d.spec.options.get("device")): d for d in table.of(tx) if d.target == "edge"}
        return [_view(tx, heard.get(name) or Device(name=name), wanted.get(name)) for name in sorted({*heard, *wanted})]


def one(name: str) -> DeviceView:
    """The device called *name*.  Raises DeviceNotFound."""
    found = {view.name: view for view in every()}
    if name not in found:
        raise DeviceNotFound(name, known=found)
    return found[name]


_AS_REPORTED = ("module", "requests", "rows", "errors", "p50_ms", "p95_ms", "queued", "dropped", "telemetry_waiting", "telemetry_dropped")


def _view(tx: store.Transaction, device: Device, wanted: Deployment | None) -> DeviceView:
    told = device.reported
    same = {name: told[name] for name in _AS_REPORTED if name in told}
    return DeviceView(
        name=device.name, online=device.online, deployment=wanted.ref if wanted else "", wanted=wanted.model_ref if wanted else "",
        model=told.get("model", ""), state=told.get("state", "unseen"), reason=told.get("reason", ""), seen_at=device.seen_at,
        drift=_drift(tx, wanted) if wanted else "", **same,
    )  # fmt: skip


def _drift(tx: store.Transaction, deployment: Deployment) -> str:
    latest = next((check for check in checks.drift_checks(tx, deployment.endpoint) if check.deployment == deployment.name), None)
    return "" if latest is None else "drift" if latest.is_drift else "no drift"
