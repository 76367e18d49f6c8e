"""Whether what edge devices are asked drifted: a check of each, and one budget of false alarms for all of them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from .. import store
from ..errors import DeviceNotFound, NothingToCompare
from ..fleet import devices
from ..fleet.devices import DeviceView
from ..progress import SILENT, Reporter
from ..settings import Workspace
from ..store import deployments
from . import engines, judging
from .drift import check_drift


def check(
    names: Collection[str] = (),
    *,
    endpoint: str | None = None,
    since: datetime | None = None,
    window: str | None = None,
    budget: str | None = None,
    every_seconds: float | None = None,
    report: Reporter = SILENT,
) -> list[DeviceView]:
    """Check what each device was asked — those of *names*, those of *endpoint*, else all on which a deployment is — and return them with their drift.

    *budget* (the settings' unless given) is shared out among them: a fleet raises no more false alarms than one of its devices would.  A device of
    which no request is kept is passed over.  The other words are those of `check_drift`, which says what is raised; also DeviceNotFound.
    """
    asked = _asked(names, endpoint)
    shared = _shared(budget, among=len(asked))
    for place, view in enumerate(asked, start=1):
        report.step(f"checking {view.name}, {place} of {len(asked)}")
        try:
            name = view.deployment.partition("/")[2]
            check_drift(view.endpoint, deployment=name, since=since, window=window, budget=shared, every_seconds=every_seconds)
        except NothingToCompare as nothing:
            report.step(f"{view.name} is passed over: {nothing}")
    checked = {view.name for view in asked}
    return [view for view in devices.every() if view.name in checked]


def _asked(names: Collection[str], endpoint: str | None) -> list[DeviceView]:
    there = {view.name: view for view in devices.every() if view.deployment}
    if unknown := [name for name in names if name not in there]:
        raise DeviceNotFound(unknown[0], known=there)
    if endpoint:
        with store.reading() as tx:
            deployments.endpoint(tx, endpoint)
    return [view for view in there.values() if (not names or view.name in names) and endpoint in (None, view.endpoint)]


def _shared(budget: str | None, *, among: int) -> str | None:
    """Each device's part of the budget; None of an engine that keeps none, unless the caller named one."""
    settings = Workspace.current().settings()
    counted = engines.choose(settings.drift_engine).name == "histograms"
    return judging.shared_out(budget or settings.drift_budget, among=max(1, among)) if counted or budget else None
