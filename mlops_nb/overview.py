"""The workspace at a glance, for the JupyterLab panel: read in one visit, bounded in size, names and texts as plain strings."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from . import store
from .settings import Workspace
from .store import alerts, checks, deployments, events, models, silences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .store.alerts import Rule
    from .store.checks import DriftCheck
    from .store.deployments import Deployment, Endpoint
    from .store.models import Headline
    from .store.silences import Silence

NEEDS_A_LOOK = frozenset({"failed", "unhealthy", "restarting"})
"""Statuses of a wanted deployment that raise an alert."""


def summary(*, most_events: int = 20) -> dict[str, Any]:
    """Models, endpoints with their deployments, alerts and recent events of the current workspace, ready for JSON.

    `models` holds those registered last of `model_count`; `live` counts healthy deployments.
    A folder that has no store yet gets an empty answer and stays without one.
    """
    workspace = Workspace.current()
    if not workspace.store.exists():
        return {"workspace": str(workspace.root), "models": [], "model_count": 0, "endpoints": [], "live": 0, "alerts": [], "events": []}
    with store.reading() as tx:
        headlines, (model_count, _) = models.headlines(tx), models.count(tx)
        endpoints, running, drift = deployments.endpoints(tx), deployments.of(tx), checks.latest_drift(tx)
        shares = {endpoint.name: deployments.traffic(tx, endpoint.name) for endpoint in endpoints}
        untried = _untried(tx, running)
        latest, rules, standing = events.latest(tx, most=most_events), alerts.of(tx), silences.standing(tx)
    watched = alerts.telling_of_drift(rules)
    return {
        "workspace": str(workspace.root),
        "models": [_model(name, list(versions)) for name, versions in groupby(headlines, key=lambda headline: headline.model)],
        "model_count": model_count,
        "endpoints": [_endpoint(endpoint, [d for d in running if d.endpoint == endpoint.name], shares[endpoint.name], untried) for endpoint in endpoints],
        "live": sum(deployment.status == "healthy" for deployment in running),
        "alerts": _alerts(
            running, [check for check in drift if check.endpoint not in watched], standing, [rule for rule in rules if rule.firing and not rule.quiet]
        ),
        "events": [{"type": event.type, "subject": event.subject, "time": event.time.isoformat()} for event in latest],
    }


def _model(name: str, shown: Sequence[Headline]) -> dict[str, Any]:
    newest = shown[0]
    return {
        "name": name,
        "newest": newest.version,
        "created_at": newest.created_at.isoformat(),
        "count": newest.versions,
        "versions": [_version(version) for version in shown],
    }


def _version(headline: Headline) -> dict[str, Any]:
    return {
        "version": headline.version,
        "ref": headline.ref,
        "aliases": headline.aliases,
        "tags": headline.tags,
        "flavor": headline.flavor,
        "description": headline.description,
        "created_at": headline.created_at.isoformat(),
    }


def _untried(tx: store.Transaction, running: Sequence[Deployment]) -> set[str]:
    """Those that nothing was ever asked of, by reference."""
    from . import rollout

    return {deployment.ref for deployment in running if rollout.untried(tx, deployment)}


def _endpoint(endpoint: Endpoint, behind: Sequence[Deployment], shares: dict[str, int], untried: set[str]) -> dict[str, Any]:
    return {"name": endpoint.name, "deployments": [_deployment(one, shares.get(one.name, 0), untried=one.ref in untried) for one in behind]}


def _deployment(deployment: Deployment, share: int, *, untried: bool) -> dict[str, Any]:
    return {
        "name": deployment.name,
        "ref": deployment.ref,
        "model": deployment.model_ref,
        "target": _place(deployment),
        "status": deployment.status,
        "untried": untried,
        "wanted": deployment.wanted,
        "reason": _reason(deployment),
        "share": share,
        "restarts": deployment.restarts,
        "changed_at": deployment.changed_at.isoformat(),
    }


def _place(deployment: Deployment) -> str:
    """Where it runs, and on what where that is not the CPU alone: an emulation is named as one."""
    from . import targets

    hardware = targets.hardware(deployment) if deployment.target in targets.NAMES else "cpu"
    return deployment.target if hardware == "cpu" else f"{deployment.target}, {hardware}"


def _reason(deployment: Deployment) -> str:
    """Its cause on one line, with the user's own file and line; empty while it is well."""
    if not deployment.reason or deployment.status == "healthy":
        return ""
    first = next(iter(deployment.reason.message.splitlines()), deployment.reason.kind)
    return f"{first} ({deployment.reason.where})" if deployment.reason.where else first


def _alerts(running: Sequence[Deployment], drift: Sequence[DriftCheck], standing: Sequence[Silence], fired: Sequence[Rule]) -> list[dict[str, Any]]:
    """Newest first."""
    sick = [_sick(deployment) for deployment in running if deployment.wanted == "running" and deployment.status in NEEDS_A_LOOK]
    drifted = [_drifted(check, loud) for check in drift if (loud := silences.loud(check, standing))]
    return sorted([*sick, *drifted, *map(_fired, fired)], key=lambda alert: alert["time"], reverse=True)


def _fired(rule: Rule) -> dict[str, Any]:
    time = (rule.since or rule.created_at).isoformat()
    told = {"condition": rule.condition, "value": rule.value, "endpoint": rule.endpoint}
    return {"kind": "rule", "status": "alert", "subject": rule.id, "text": f"{rule.condition}: {rule.value}", "time": time, **told}


def _sick(deployment: Deployment) -> dict[str, Any]:
    told = {"kind": "deployment", "status": deployment.status, "subject": deployment.ref, "text": _reason(deployment)}
    return told | {"time": deployment.changed_at.isoformat()}


def _drifted(check: DriftCheck, features: list[str]) -> dict[str, Any]:
    text = "; ".join(filter(None, (", ".join(features), check.cost)))
    return {"kind": "drift", "status": "drift", "subject": check.subject, "features": features, "text": text, "time": check.time.isoformat()}
