"""What the pages ask for.  Each question is one visit to the store; telemetry is read from its files afterwards."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import msgspec
import parts

from mlops_nb import hardware, monitoring, store, targets, telemetry
from mlops_nb import performance as judging
from mlops_nb.errors import MlopsError, NotFound, NothingToCompare
from mlops_nb.hardware import Hardware
from mlops_nb.monitoring import DriftMap, DriftReport, Part, causes, pages
from mlops_nb.overview import NEEDS_A_LOOK
from mlops_nb.reference import DeploymentRef, ModelRef
from mlops_nb.store import alerts as rules
from mlops_nb.store import checks, datasets, deployments, environments, events, models, runs, silences
from mlops_nb.store.alerts import Rule
from mlops_nb.store.checks import DriftCheck, Profile
from mlops_nb.store.datasets import DatasetVersion
from mlops_nb.store.deployments import Deployment, TrafficChange
from mlops_nb.store.environments import Environment
from mlops_nb.store.events import Event
from mlops_nb.store.models import ModelVersion
from mlops_nb.store.runs import Run
from mlops_nb.store.silences import Silence
from mlops_nb.targets import Usage

Shares = dict[str, dict[str, int]]
"""Endpoint → deployment → percent wanted."""


# ── overview ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that wants a look, why in one line, and the page that tells more."""

    status: str
    subject: str
    line: str
    time: datetime
    page: str
    params: dict[str, str]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The workspace at a glance."""

    models: int
    versions: int
    datasets: int
    deployments: list[Deployment]
    untried: set[str]
    """Those that nothing was ever asked of."""
    restarts: dict[str, int]
    """How often each was started again since it was deployed."""
    shares: Shares
    drift: list[DriftCheck]
    silences: list[Silence]
    """Who wants to hear no more of which drift now."""
    events: list[Event]
    rules: list[Rule]
    """What is watched, the alerts that fire first."""

    @property
    def live(self) -> list[Deployment]:
        """Deployments that should run."""
        return [d for d in self.deployments if d.wanted == "running"]


def overview() -> Overview:
    """Counts, deployments, the newest drift checks and the latest events."""
    with store.reading() as tx:
        count, versions = models.count(tx)
        return Overview(
            models=count, versions=versions, datasets=len(datasets.names(tx)), deployments=deployments.of(tx), untried=_untried(tx, deployments.of(tx)),
            restarts=deployments.restarts(tx), shares=_shares(tx),
            drift=checks.latest_drift(tx), silences=silences.standing(tx), events=events.latest(tx, most=8),
            rules=rules.of(tx),
        )  # fmt: skip


def alerts(found: Overview) -> list[Alert]:
    """Deployments that are not well, endpoints whose last check found drift and rules that fire, newest first; those somebody silenced are left out."""
    told = rules.telling_of_drift(found.rules)
    sick = [_sick(d) for d in found.live if d.status in NEEDS_A_LOOK]
    drifted = [_drifted(check, loud) for check in found.drift if check.endpoint not in told and (loud := silences.loud(check, found.silences))]
    fired = [_fired(rule) for rule in found.rules if rule.firing and not rule.quiet]
    return sorted([*sick, *drifted, *fired], key=lambda alert: alert.time, reverse=True)


def _fired(rule: Rule) -> Alert:
    line, time = f"{rule.condition}: {rule.value}", rule.since or rule.created_at
    page = "views/drift.py" if rule.condition == "drift" else "views/rollout.py"
    return Alert(status="alert", subject=rule.endpoint, line=line, time=time, page=page, params={"endpoint": rule.endpoint})


def _sick(d: Deployment) -> Alert:
    line = parts.one_line(d.reason) or f"it is {d.status}"
    return Alert(status=d.status, subject=d.ref, line=line, time=d.changed_at, page="views/deployments.py", params={"deployment": d.ref})


def _drifted(check: DriftCheck, names: Sequence[str]) -> Alert:
    if any(feature.is_together and feature.is_drift for feature in report_of(check).features):
        line = f"requests differ from {check.dataset} in all features together"
    else:
        line = f"requests differ from {check.dataset} in {len(names)} feature{'s' * (len(names) != 1)}: {', '.join(names[:5])}{' …' * (len(names) > 5)}"
    line += f"; {check.cost}" * bool(check.cost)
    params = {"endpoint": check.endpoint, "check": check.id}
    return Alert(status="drift", subject=check.subject, line=line, time=check.time, page="views/drift.py", params=params)


def standing(d: Deployment, untried: Set[str]) -> str:
    """Its status in words, such as `healthy, untried`."""
    return f"{d.status}, untried" if d.ref in untried else d.status


def _untried(tx: store.Transaction, every: Sequence[Deployment]) -> set[str]:
    from mlops_nb import rollout

    return {d.ref for d in every if rollout.untried(tx, d)}


def _shares(tx: store.Transaction) -> Shares:
    return {endpoint.name: deployments.traffic(tx, endpoint.name) for endpoint in deployments.endpoints(tx)}


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A model version with what made it and where it runs."""

    version: ModelVersion
    dataset: DatasetVersion | None
    environment: Environment | None
    run: Run | None
    deployments: list[Deployment]


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the versions that fit, and the two that are looked at."""

    total: int
    skip: int
    versions: list[ModelVersion]
    siblings: list[str]
    """Every version of the chosen one's model, newest first."""
    card: Card | None
    other: Card | None


def model_versions(text: str, *, chosen: str, other: str, page: int) -> Models:
    """Versions with *text* in name, description or tags; the cards of *chosen* (else the newest that fits) and *other*.

    A reference that names nothing gives no card.
    """
    with store.reading() as tx:
        total = models.count(tx, text=text or None)[1]
        skip = parts.skipped(total, page)
        versions = models.search(tx, text=text or None, most=parts.ROWS, skip=skip)
        card = _card(tx, chosen) or (_card(tx, versions[0].ref) if versions else None)
        siblings = [version.ref for version in models.search(tx, card.version.model, most=1000)] if card else []
        return Models(total=total, skip=skip, versions=versions, siblings=siblings, card=card, other=_card(tx, other))


def _card(tx: store.Transaction, ref: str) -> Card | None:
    if not ref:
        return None
    try:
        version = models.get(tx, ModelRef.parse(ref))
    except MlopsError:
        return None
    return Card(
        version=version,
        dataset=_known(datasets.get, tx, version.dataset),
        environment=_known(environments.get, tx, version.environment),
        run=runs.get(tx, version.run) if version.run else None,
        deployments=[d for d in deployments.of(tx) if d.model_ref == version.ref],
    )


def _known(get: Callable[[store.Transaction, ModelRef], Any], tx: store.Transaction, ref: str | None) -> Any:
    try:
        return get(tx, ModelRef.parse(ref)) if ref else None
    except NotFound:
        return None


def differences(one: Card, two: Card) -> list[dict[str, str]]:
    """What is not the same in two versions, a row each: `part`, `name`, and the two refs' values."""
    before, after = _described(one), _described(two)
    names = list(dict.fromkeys([*before, *after]))
    return [
        {"part": part, "name": name, one.version.ref: before.get((part, name), "—"), two.version.ref: after.get((part, name), "—")}
        for part, name in names
        if before.get((part, name)) != after.get((part, name))
    ]


def code_difference(one: Card, two: Card) -> str:
    """The executed cells of two versions as a unified diff, empty when they are the same."""
    before, after = (code(card.run).splitlines() for card in (one, two))
    return "\n".join(difflib.unified_diff(before, after, one.version.ref, two.version.ref, lineterm=""))


def code(run: Run | None) -> str:
    """The executed cells of a run as one text."""
    return "\n\n".join(f"# In [{cell.number}]\n{cell.source}" for cell in run.cells) if run else ""


def _described(card: Card) -> dict[tuple[str, str], str]:
    version = card.version
    said: dict[tuple[str, str], Any] = {("model", "flavor"): version.flavor, ("model", "answered by"): version.engine, ("model", "dataset"): version.dataset}
    said |= {("model", "environment"): version.environment, ("model", "description"): version.description}
    said |= {("metric", name): value for name, value in version.metrics.items()}
    said |= {("tag", name): value for name, value in version.tags.items()}
    said |= {("input", column["name"]): column["type"] for column in (version.signature or {}).get("inputs", [])}
    said |= {("file", file.path): f"{file.sha256[:12]} · {file.bytes:,} bytes" for file in version.files}
    said |= {("package", package.name): package.version for package in (card.environment.packages if card.environment else [])}
    said |= {
        ("data", column["name"]): f"{column['type']}{', may be empty' * bool(column['nullable'])}" for column in (card.dataset.schema if card.dataset else [])
    }
    if card.run and card.run.git:
        said[("git", "commit")] = f"{card.run.git.commit[:12]}{' with uncommitted changes' * card.run.git.dirty}"
    return {name: parts.said(value) for name, value in said.items() if value not in (None, "")}


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Every deployment, the split wanted, and the history of the chosen one's endpoint."""

    deployments: list[Deployment]
    untried: set[str]
    """Those that nothing was ever asked of."""
    restarts: dict[str, int]
    """How often each was started again since it was deployed."""
    shares: Shares
    chosen: Deployment | None
    history: list[dict[str, Any]]


def running(asked: str) -> Running:
    """Every deployment; the one called *asked*, else one that wants a look, else the first."""
    with store.reading() as tx:
        every = deployments.of(tx)
        sick = [d for d in every if d.wanted == "running" and d.status in NEEDS_A_LOOK]
        chosen = next((d for d in every if d.ref == asked), None) or next(iter([*sick, *every]), None)
        history = [row for row in deployments.history(tx, chosen.endpoint) if row["name"] == chosen.name] if chosen else []
        return Running(deployments=every, untried=_untried(tx, every), restarts=deployments.restarts(tx), shares=_shares(tx), chosen=chosen, history=history)


def log_lines(deployment: Deployment, *, most: int = 200) -> list[str]:
    """The last lines of its log; none when there is no log to read any more."""
    from mlops_nb import rollout

    try:
        return rollout.logs(DeploymentRef(deployment.endpoint, deployment.name), lines=most)
    except NotFound:
        return []


def usages(deployments: Sequence[Deployment]) -> dict[str, Usage]:
    """What each deployment uses now, by its reference; asked of all at once, because a target may be slow to tell."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip((d.ref for d in deployments), pool.map(targets.usage, deployments), strict=True))


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's deployments, and how its traffic was split over time."""

    endpoints: list[str]
    endpoint: str
    deployments: list[Deployment]
    untried: set[str]
    """Those that nothing was ever asked of."""
    changes: list[TrafficChange]
    """Newest first."""

    @property
    def wanted(self) -> dict[str, int]:
        """The split in force."""
        return self.changes[0].weights if self.changes else {}


def split(asked: str) -> Split:
    """The endpoint called *asked*, else the first; its name is empty when there is none."""
    with store.reading() as tx:
        names = [endpoint.name for endpoint in deployments.endpoints(tx)]
        name = _chosen(asked, names)
        behind = deployments.of(tx, name) if name else []
        changes = deployments.traffic_changes(tx, name) if name else []
        return Split(endpoints=names, endpoint=name, deployments=behind, untried=_untried(tx, behind), changes=changes)


def _chosen(asked: str, names: Sequence[str]) -> str:
    return asked if asked in names else next(iter(names), "")


# ── telemetry ────────────────────────────────────────────────────────────────────────────────────────────────────────


BUCKETS = {"15m": 10, "1h": 60, "6h": 300, "24h": 900, "7d": 7200}
"""Seconds that one point of a line covers."""


def traffic(endpoint: str, period: str) -> list[dict[str, Any]]:
    """Requests, errors and latency per deployment and bucket of time, by time; a bucket without requests is there with none.

    `requests_per_second` and `errors_per_second` are reckoned from the bucket's length; `asked` tells whether any deployment was.
    """
    seconds, since = BUCKETS[period], parts.since(period)
    whole = since - timedelta(seconds=since.timestamp() % seconds)  # of a bucket that is cut a rate would be too low
    found = telemetry.traffic(endpoint, since=whole, bucket_seconds=seconds)
    seen = {(row["time"], row["deployment"]): row for row in found}
    names = sorted({row["deployment"] for row in found})
    rows = [seen.get((time, name)) or _NOBODY_ASKED | {"time": time, "deployment": name} for time in _buckets(found, seconds) for name in names]
    asked = {row["time"] for row in found}
    rates = ({"requests_per_second": row["requests"] / seconds, "errors_per_second": row["errors"] / seconds, "asked": row["time"] in asked} for row in rows)
    return [row | rate for row, rate in zip(rows, rates, strict=True)]


_NOBODY_ASKED: dict[str, Any] = {"requests": 0, "errors": 0, "rows": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None}


def _buckets(found: Sequence[Mapping[str, Any]], seconds: int) -> list[datetime]:
    """Every whole bucket's beginning from the first request to now; the running one only while it is alone."""
    if not found:
        return []
    begin = min(row["time"] for row in found)
    whole = int((store.now() - begin).total_seconds()) // seconds
    return [begin + timedelta(seconds=seconds * number) for number in range(max(whole, 1))]


def totals(endpoint: str, period: str) -> dict[str, dict[str, Any]]:
    """Deployment → its share, rate, latency and errors over the period."""
    return {row["deployment"]: row for row in telemetry.totals(endpoint, since=parts.since(period))}


def pulses(endpoint: str, period: str) -> dict[str, list[float]]:
    """Deployment → its requests per second over the period, for a small line in a table."""
    lines: dict[str, list[float]] = defaultdict(list)
    for row in traffic(endpoint, period):
        lines[row["deployment"]].append(row["requests_per_second"])
    whole = int(parts.PERIODS[period].total_seconds()) // BUCKETS[period]
    return {name: [0.0] * (whole - len(line)) + line for name, line in lines.items()}


# ── evidence ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Profiles, newest first, and the deployments they may be of."""

    profiles: list[Profile]
    deployments: list[Deployment]


def measured() -> Measured:
    """Every profile."""
    with store.reading() as tx:
        return Measured(profiles=checks.profiles(tx), deployments=deployments.of(tx))


def hardware_here() -> list[Hardware]:
    """Every kind of hardware, here or not."""
    return hardware.found()


def running_on() -> list[tuple[Deployment, str, list[str]]]:
    """Deployments that should run, how each stands, and the execution providers that its server says it uses; none where it does not answer."""
    with store.reading() as tx:
        wanted = [d for d in deployments.of(tx) if d.wanted == "running"]
        untried = _untried(tx, wanted)
    return [(d, standing(d, untried), hardware.proven(d.handle, d.model)) for d in wanted]


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The checks of one endpoint, newest first."""

    endpoints: list[str]
    endpoint: str
    deployments: list[Deployment]
    checks: list[DriftCheck]


def drift(asked: str) -> Drift:
    """The checks of the endpoint called *asked*, else of the one checked last."""
    with store.reading() as tx:
        names = [endpoint.name for endpoint in deployments.endpoints(tx)]
        latest = max(checks.latest_drift(tx), key=lambda check: check.time, default=None)
        name = asked if asked in names else latest.endpoint if latest else _chosen("", names)
        return Drift(endpoints=names, endpoint=name, deployments=deployments.of(tx, name) if name else [], checks=checks.drift_checks(tx, name) if name else [])


def causes_of(check: DriftCheck) -> causes.Causes | None:
    """Why it drifted, where somebody asked."""
    found = check.report.get("causes")
    return msgspec.convert(found, causes.Causes) if found else None


def report_page(check: DriftCheck) -> bytes:
    """The check as one HTML file that needs no network."""
    return pages.as_page(check).encode()


def report_of(check: DriftCheck) -> DriftReport:
    """What a check found, as nouns."""
    return msgspec.convert(check.report, DriftReport)


def first_asked(endpoint: str) -> datetime | None:
    """About when the endpoint's first request came that is kept: to the minute within a day, else to the day."""
    year = telemetry.traffic(endpoint, since=store.now() - timedelta(days=400), bucket_seconds=86_400)
    day = min((row["time"] for row in year), default=None)
    if day is None or store.now() - day > timedelta(days=2):
        return day
    return min((row["time"] for row in telemetry.traffic(endpoint, since=day, bucket_seconds=60)), default=day)


def drift_map(endpoint: str, *, seconds: float, span: float, back: int, among: Sequence[str] | None, column: str, value: str) -> DriftMap:
    """So long a *span* of windows, *back* times earlier; of one *value* of a *column* where that is one to part rows by, else of all rows."""
    until = store.now() - timedelta(seconds=span * back)
    asked = {"seconds": seconds, "since": until - timedelta(seconds=span), "until": until, "among": among}
    values = monitoring.parts_of(endpoint, among=among).get(column)
    part = Part(column, value if value in values else values[0]) if values else None
    return monitoring.drift_map(endpoint, **asked, part=part)


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """One page of events, newest first."""

    total: int
    skip: int
    kinds: list[str]
    events: list[Event]


def happened(*, what: str, subject: str, page: int) -> Happened:
    """Events of one type (empty: all) about one subject or things below it (empty: all)."""
    with store.reading() as tx:
        asked = {"what": what or None, "subject": subject or None}
        total = events.count(tx, **asked)
        skip = parts.skipped(total, page)
        return Happened(total=total, skip=skip, kinds=events.kinds(tx), events=events.latest(tx, **asked, most=parts.ROWS, skip=skip))


def every_event(*, what: str, subject: str, most: int = 100_000) -> list[dict[str, Any]]:
    """The same events, all of them, as rows for a file."""
    with store.reading() as tx:
        return [event_row(event) for event in events.latest(tx, what=what or None, subject=subject or None, most=most)]


def event_row(event: Event) -> dict[str, Any]:
    """An event as a row."""
    return {"time": event.time, "type": event.type.removeprefix("mlops."), "subject": event.subject, "data": _as_text(event.data), "id": event.id}


def _as_text(data: Mapping[str, Any]) -> str:
    return msgspec.json.encode(data).decode() if data else ""


# ── truth ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def inputs(endpoint: str) -> list[str]:
    """The input columns of the versions that an endpoint runs."""
    return judging.inputs_of(endpoint)


MOST_JUDGED = 50_000
"""Rows of each deployment: more would not be seen in the lines, and no page waits for them."""


def performance(endpoint: str, *, by: str | None, segment: str | None) -> judging.Performance | None:
    """How good an endpoint's answers were; None when none is kept."""
    try:
        return judging.of(endpoint, by=by, segment=segment, most=MOST_JUDGED)
    except NothingToCompare:
        return None


def overall(endpoint: str) -> list[judging.Group]:
    """A group for each deployment, over all of the time."""
    found = performance(endpoint, by=None, segment=None)
    return found.groups if found else []
