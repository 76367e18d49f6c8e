"""The fleet at a glance: which devices there are, what each runs, and whether its requests drifted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from .. import store
from ..errors import DeviceNotFound
from ..store import checks, devices, silences
from ..store import deployments as table
from ..store.checks import DriftCheck
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
    """The verdict of its latest check, such as `drift` or `no drift`; nothing before one."""
    drifted: list[str] = []
    """What of its requests drifted then."""
    drift_checked_at: datetime | None = None
    drift_check: str = ""
    """That check's id."""

    @property
    def endpoint(self) -> str:
        """Whose deployment is wanted on it."""
        return self.deployment.partition("/")[0]


def every() -> list[DeviceView]:
    """All devices that were heard, or that something is wanted of, by name."""
    with store.reading() as tx:
        heard = {device.name: device for device in devices.every(tx)}
        there = table.of(tx)
        latest = checks.latest_by_deployment(tx)
    wanted = {str(d.spec.options.get("device")): d for d in there if d.target == "edge"}
    alone = {endpoint for endpoint, count in Counter(d.endpoint for d in there).items() if count == 1}
    checked = {name: _check(d, latest, alone=d.endpoint in alone) for name, d in wanted.items()}
    return [_view(heard.get(name) or Device(name=name), wanted.get(name), checked.get(name)) for name in sorted({*heard, *wanted})]


def one(name: str) -> DeviceView:
    """The device called *name*.  Raises DeviceNotFound."""
    found = {view.name: view for view in every()}
    if name not in found:
        raise DeviceNotFound(name, known=found)
    return found[name]


_AS_REPORTED = ("module", "requests", "rows", "errors", "p50_ms", "p95_ms", "queued", "dropped", "telemetry_waiting", "telemetry_dropped")


def _view(device: Device, wanted: Deployment | None, check: DriftCheck | None) -> DeviceView:
    told = device.reported
    same = {name: told[name] for name in _AS_REPORTED if name in told}
    return DeviceView(
        name=device.name, online=device.online, deployment=wanted.ref if wanted else "", wanted=wanted.model_ref if wanted else "",
        model=told.get("model", ""), state=told.get("state", "unseen"), reason=told.get("reason", ""), seen_at=device.seen_at, **same, **_drift(check),
    )  # fmt: skip


def _check(deployment: Deployment, latest: Mapping[tuple[str, str | None], DriftCheck], *, alone: bool) -> DriftCheck | None:
    """The newest check of what a device was asked; one of the whole endpoint counts where nothing else answers for it."""
    found = [latest.get((deployment.endpoint, name)) for name in (deployment.name, *([None] if alone else []))]
    return max(filter(None, found), key=lambda check: check.time, default=None)


def _drift(check: DriftCheck | None) -> dict[str, Any]:
    if check is None:
        return {}
    found = {"drifted": silences.drifting(check), "drift_checked_at": check.time, "drift_check": check.id}
    return found | {"drift": check.verdict}
