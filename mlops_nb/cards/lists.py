"""Many of one noun: a line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .card import Card, Mark, Share, Table, ago, brief, paired, size, status_mark, worded
from .models import hardware
from .serving import answering, drift_of, endpoint, rollout, steps
from .watching import clock, stands, went


def listing(listing: Any) -> Card:
    """The card of many of one noun: a line each, in the columns that noun has."""
    count = len(listing)
    if not count:
        return Card(title=listing.empty, line=listing.line)
    name = f"{type(listing[0]).__module__}.{type(listing[0]).__qualname__}"
    columns, row = _ROWS.get(name, (None, None))
    if name == "mlops_nb.rollout.EndpointView":
        return _endpoints(listing)
    if name == "mlops_nb.store.rollouts.Rollout" and (shown := _foremost(listing)):
        latest = rollout(shown)
        table = Table(columns or [], [row(item) for item in listing] if row else [])
        return msgspec.structs.replace(latest, tables=[*latest.tables, table])
    if columns is None or row is None:
        fields = list(listing[0].__struct_fields__)
        columns, row = [worded(field) for field in fields], lambda item: [brief(getattr(item, field)) for field in fields]
    return Card(title=f"{count} {listing.what}{'s' if count > 1 else ''}", tables=[Table(columns, [row(item) for item in listing])])


def _foremost(rollouts: Sequence[Any]) -> Any | None:
    """What stands above the list of them: what is under way, else the newest where it is a canary that has looked."""
    return next((plan for plan in rollouts if plan.going), rollouts[0] if rollouts[0].evidence.get("trail") else None)


def _endpoints(listing: Sequence[Any]) -> Card:
    if len(listing) == 1:
        return endpoint(listing[0])
    rows = [[e.name, d.name, d.model, answering(d), Share(d.traffic), d.target] for e in listing for d in e.deployments]
    urls = [(e.name, e.url) for e in listing]
    return Card(title=f"{len(listing)} endpoints", facts=urls, tables=[Table(["endpoint", "deployment", "model", "status", "traffic", "target"], rows)])


_ROWS: dict[str, tuple[list[str], Callable[[Any], list[Any]]]] = {
    "mlops_nb.store.models.ModelVersion": (
        ["model", "aliases", "flavor", "metrics", "tags", "data", "registered"],
        lambda v: [v.ref, ", ".join(v.aliases), v.flavor, paired(v.metrics), paired(v.tags), v.dataset or "", ago(v.created_at)],
    ),
    "mlops_nb.store.datasets.DatasetVersion": (
        ["data set", "#rows", "#columns", "#size", "description", "registered"],
        lambda d: [d.ref, f"{d.rows:,}", str(len(d.schema)), size(d.bytes), d.description, ago(d.created_at)],
    ),
    "mlops_nb.store.environments.Environment": (
        ["environment", "python", "#packages", "imported", "captured"],
        lambda e: [e.ref, e.python, str(len(e.packages)), ", ".join(p.name for p in e.packages if p.direct), ago(e.created_at)],
    ),
    "mlops_nb.store.rehearsals.Rehearsal": (
        ["model", "rehearsal", "#rows", "#largest difference", "culprit", "time"],
        lambda r: [
            r.ref,
            Mark("good", "passed") if r.passed else Mark("bad", "failed"),
            f"{r.rows:,}",
            "" if r.max_difference is None else f"{r.max_difference:.2g}",
            str(r.culprit or ""),
            ago(r.time),
        ],
    ),
    "mlops_nb.store.replays.Replay": (
        ["candidate", "requests of", "#requests", "#agreement", "guards", "time"],
        lambda r: [
            r.ref,
            f"{r.endpoint}/{r.deployment}" if r.deployment else r.endpoint,
            f"{r.requests:,}",
            f"{1 - r.comparison['differ'] / r.comparison['rows']:.2%}",
            "" if not r.guards else Mark("good", "kept") if r.passed else Mark("bad", "violated"),
            ago(r.time),
        ],
    ),
    "mlops_nb.history.Change": (
        ["time (UTC)", "deployment", "model", "change", "by", "why"],
        lambda c: [f"{c.time:%Y-%m-%d %H:%M:%S}", c.deployment, c.model, f"split {c.what}" if not c.deployment else status_mark(c.what), c.author, c.why],
    ),
    "mlops_nb.store.rollouts.Rollout": (
        ["rollout", "endpoint", "deployment", "steps", "status", "why", "by", "started"],
        lambda r: [r.kind, r.endpoint, r.deployment, steps(r), status_mark(r.status), r.reason or r.why, r.author, ago(r.created_at)],
    ),
    "mlops_nb.store.alerts.Rule": (
        ["alert", "endpoint", "condition", "is", "seen", "since", "watched by"],
        lambda r: [r.id, r.endpoint, r.condition, stands(r), r.value, ago(r.since) if r.since else "", r.author],
    ),
    "mlops_nb.store.schedules.Schedule": (
        ["schedule", "endpoint", "when", "is", "latest", "checked", "next", "by"],
        lambda s: [s.id, s.endpoint, s.words, went(s), s.outcome, ago(s.last_time) if s.last_time else "", clock(s.next_time), s.author],
    ),
    "mlops_nb.store.packages.Package": (
        ["model", "image", "#on top of base", "base", "platform", "digest", "pushed", "made"],
        lambda p: [p.ref, p.image or "not built", size(p.bytes - p.base_bytes) if p.image else "", p.base, p.platform, p.digest[:19], p.pushed, ago(p.time)],
    ),
    "mlops_nb.fleet.devices.DeviceView": (
        ["device", "is", "runs", "state", "seen", "#requests", "#p95", "#queued", "#dropped", "drift", "why"],
        lambda d: [
            d.name,
            Mark("good", "online") if d.online else Mark("bad", "offline"),
            d.model,
            d.state,
            ago(d.seen_at) if d.seen_at else "never",
            f"{d.requests:,}",
            f"{d.p95_ms:.1f} ms" if d.p95_ms is not None else "",
            f"{d.queued:,}",
            f"{d.dropped:,}",
            drift_of(d),
            d.reason,
        ],
    ),
    "mlops_nb.hardware.Hardware": (["hardware", "is", "provider", "device", "limits", "why not"], hardware),
    "mlops_nb.monitoring.detectors.Listed": (
        ["detector", "is", "what", "takes", "looks at", "reads", "tells", "licence", "to have it"],
        lambda d: [
            d.detector.name,
            Mark("good", "ready") if d.ready else Mark("idle", "not here"),
            d.detector.what,
            d.detector.takes,
            d.detector.looks,
            d.detector.reads,
            d.detector.tells,
            d.licence,
            d.lacks,
        ],
    ),
    "mlops_nb.store.events.Event": (
        ["time", "event", "subject", "data"],
        lambda e: [ago(e.time), e.type.removeprefix("mlops."), e.subject, brief(e.data)[:80]],
    ),
}
