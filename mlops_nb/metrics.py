"""The workspace in Prometheus' text format: rates, errors, latencies and saturation of each deployment, and of each kind of hardware.

Counters come from the scoring servers and begin anew with them, as Prometheus expects.  The quantiles are those of the last five minutes,
from what was captured: counted in bins that grow by 1 %, so that a quantile, p99.9 included, is told at most 1 % too high and never too low.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
"""

from __future__ import annotations

import http.client
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec

from . import store, targets, telemetry
from .safety import text_for
from .serving.spec import ServerSpec
from .store import alerts, checks, models, rollouts
from .store import deployments as table
from .store.checks import DriftCheck
from .store.deployments import Deployment, TrafficChange
from .store.rollouts import Rollout
from .targets import Usage
from .telemetry import Counted
from .telemetry.copies import bin_end_ms
from .version import __version__

WINDOW = timedelta(minutes=5)
"""What the quantiles and the window's counts are about."""
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\{(?P<labels>.*)\} (?P<value>\S+)")
_COMMENT = re.compile(r"# (?P<kind>HELP|TYPE) (?P<name>\S+) (?P<said>.*)")
_OWN = ("_bucket", "_sum", "_count")

HELP: Mapping[str, tuple[str, str]] = {
    "mlops_build_info": ("gauge", "The version of mlops_nb; always 1."),
    "mlops_model_versions": ("gauge", "Registered model versions."),
    "mlops_deployment_info": ("gauge", "A deployment with its model, target and hardware; always 1."),
    "mlops_deployment_up": ("gauge", "1 while the deployment is healthy."),
    "mlops_deployment_restarts_total": ("counter", "How often it was started again after it had failed."),
    "mlops_deployment_changed_time_seconds": ("gauge", "When its status last changed (Unix time)."),
    "mlops_traffic_percent": ("gauge", "The share of its endpoint's requests that it should have."),
    "mlops_mirror_percent": ("gauge", "The share of its endpoint's requests of which it is sent copies."),
    "mlops_window_requests": ("gauge", "Requests of callers in the last five minutes."),
    "mlops_window_errors": ("gauge", "Those of the last five minutes answered with 4xx or 5xx."),
    "mlops_window_refused": ("gauge", "Those of the last five minutes answered with 429: more came than may wait."),
    "mlops_window_latency_seconds": ("gauge", "Quantile of the latency in the last five minutes, at most 1 % too high."),
    "mlops_requests_in_flight_limit": ("gauge", "Requests beyond which its server refuses more."),
    "mlops_cpu_cores": ("gauge", "Cores in use."),
    "mlops_cpu_limit_cores": ("gauge", "Cores it may use, where it is limited."),
    "mlops_cpu_share": ("gauge", "Cores in use by those it may use."),
    "mlops_memory_bytes": ("gauge", "Memory in use."),
    "mlops_memory_limit_bytes": ("gauge", "Memory it may take, where it is limited."),
    "mlops_memory_share": ("gauge", "Memory in use by what it may take."),
    "mlops_hardware_deployments": ("gauge", "Deployments that should run on this hardware of this target."),
    "mlops_hardware_window_requests": ("gauge", "Requests of callers in the last five minutes, of all deployments on it."),
    "mlops_hardware_window_errors": ("gauge", "Those answered with 4xx or 5xx."),
    "mlops_hardware_window_refused": ("gauge", "Those answered with 429."),
    "mlops_hardware_window_latency_seconds": ("gauge", "Quantile of the latency of all deployments on it, at most 1 % too high."),
    "mlops_hardware_requests_in_flight": ("gauge", "Requests being answered on it."),
    "mlops_hardware_requests_waiting": ("gauge", "Those of them that wait for a model."),
    "mlops_hardware_cpu_cores": ("gauge", "Cores in use by all deployments on it."),
    "mlops_hardware_memory_bytes": ("gauge", "Memory in use by all deployments on it."),
    "mlops_drift": ("gauge", "1 when the last check (of a deployment; empty: of all) found drift, 0 when none; missing where it could not tell."),
    "mlops_drift_features": ("gauge", "How many features differed at the last check, where each was judged by itself."),
    "mlops_drift_check_time_seconds": ("gauge", "When the last check was (Unix time)."),
    "mlops_rollout_percent": ("gauge", "The share reached by the rollout under way."),
    "mlops_rollout_held": ("gauge", "1 while the rollout under way holds."),
    "mlops_canary_evidence": ("gauge", "Evidence that a guard is violated, as a share of what rolls back (logarithms, 0 to 1)."),
    "mlops_alert_firing": ("gauge", "1 while a rule's alert fires."),
}
"""Every family of this page by name: its type and what it says.  The servers' own stand beside them."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one visit to the store found."""

    versions: int
    deployments: list[Deployment]
    splits: dict[str, TrafficChange]
    restarts: dict[str, int]
    """How often each was started again since it was deployed; a deployment's own count begins anew after a steady minute."""
    drift: list[DriftCheck]
    rollouts: list[Rollout]
    rules: list[alerts.Rule]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one deployment has to carry now; None is what its place does not tell or does not limit."""

    deployment: str
    target: str = ""
    hardware: str = ""
    in_flight: int | None = None
    """Requests being answered; those that wait are among them."""
    waiting: int | None = None
    """Requests that wait for the model."""
    most: int | None = None
    """Requests in flight beyond which its server refuses more."""
    window: Counted = Counted()
    """What it answered callers in the last five minutes."""
    cpus: float | None = None
    cpus_limit: float | None = None
    memory_mb: float | None = None
    memory_limit_mb: float | None = None

    @property
    def cpu_share(self) -> float | None:
        """Cores in use by those it may use (0–1)."""
        return self.cpus / self.cpus_limit if self.cpus is not None and self.cpus_limit else None

    @property
    def memory_share(self) -> float | None:
        """Memory in use by what it may take (0–1)."""
        return self.memory_mb / self.memory_limit_mb if self.memory_mb is not None and self.memory_limit_mb else None

    @property
    def p999_ms(self) -> float | None:
        """The latency that one of a thousand callers passed."""
        return quantile_ms(self.window, 0.999)


class Page:
    """Families in order, each with its samples."""

    def __init__(self) -> None:
        self._help: dict[str, tuple[str, str]] = dict(HELP)
        self._samples: dict[str, list[str]] = {}

    def add(self, name: str, value: float | None, **labels: str) -> None:
        """One sample of a family; none where there is no value."""
        if value is not None:
            said = ",".join(f"{label}={text_for('prometheus', text)}" for label, text in labels.items())
            self._samples.setdefault(name, []).append(f"{name}{{{said}}} {_number(value)}")

    def merge(self, text: str, **labels: str) -> None:
        """Another page's samples, with these labels besides its own."""
        more = ",".join(f"{label}={text_for('prometheus', said)}" for label, said in labels.items())
        for line in text.splitlines():
            if comment := _COMMENT.fullmatch(line):
                kind, said = self._help.get(comment["name"], ("", ""))
                self._help[comment["name"]] = (comment["said"], said) if comment["kind"] == "TYPE" else (kind, comment["said"])
            elif sample := _SAMPLE.fullmatch(line):
                line = f"{sample['name']}{{{sample['labels']},{more}}} {sample['value']}"
                self._samples.setdefault(self._family(sample["name"]), []).append(line)

    def _family(self, name: str) -> str:
        stem = next((name.removesuffix(end) for end in _OWN if name.endswith(end)), name)
        return stem if stem in self._help else name

    def text(self) -> str:
        """The page as it is scraped."""
        lines: list[str] = []
        for name, samples in self._samples.items():
            kind, said = self._help.get(name, ("untyped", ""))
            lines += [f"# HELP {name} {said}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"


def exposition(endpoint: str | None = None) -> str:
    """The page, of every endpoint or of one.  Raises EndpointNotFound."""
    seen, page = _seen(endpoint), Page()
    if endpoint is None:
        page.add("mlops_build_info", 1, version=__version__)
        page.add("mlops_model_versions", seen.versions)
    carried = _loads(seen.deployments)
    for deployment, (load, text) in zip(seen.deployments, carried, strict=True):
        _add_deployment(page, deployment, seen.splits.get(deployment.endpoint), restarts=seen.restarts.get(deployment.ref, 0))
        _add_window(page, load.window, "mlops_window", **_labels(deployment))
        _add_saturation(page, load, **_labels(deployment))
        page.merge(text, target=deployment.target, hardware=targets.hardware(deployment))
    _add_hardware(page, seen.deployments, [load for load, _ in carried])
    _add_drift(page, seen.drift)
    _add_rollouts(page, seen.rollouts)
    for rule in seen.rules:
        page.add("mlops_alert_firing", rule.firing, endpoint=rule.endpoint, rule=rule.id, condition=rule.condition)
    return page.text()


def loads(endpoint: str) -> list[Load]:
    """What each deployment of an endpoint that should run has to carry now.  Raises EndpointNotFound."""
    return [load for load, _ in _loads(_seen(endpoint).deployments)]


def quantile_ms(counted: Counted, quantile: float) -> float | None:
    """A quantile of the latencies in milliseconds: the end of its bin, so at most 1 % too high; None where nobody asked."""
    wanted, seen = max(1, math.ceil(quantile * counted.requests)), 0
    for place in sorted(counted.latencies):
        seen += counted.latencies[place]
        if seen >= wanted:
            return bin_end_ms(place)
    return None


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _seen(endpoint: str | None) -> Seen:
    with store.reading() as tx:
        if endpoint is not None:
            table.endpoint(tx, endpoint)
        names = [endpoint] if endpoint else [one.name for one in table.endpoints(tx)]
        splits = {name: change for name in names if (change := table.split(tx, name))}
        return Seen(
            versions=models.count(tx)[1], deployments=[d for d in table.of(tx, endpoint) if d.wanted == "running"], splits=splits,
            restarts=table.restarts(tx), drift=checks.latest_drift(tx, endpoint),
            rollouts=rollouts.going(tx, endpoint), rules=alerts.of(tx, endpoint),
        )  # fmt: skip


def _labels(deployment: Deployment) -> dict[str, str]:
    return {"endpoint": deployment.endpoint, "deployment": deployment.name, "target": deployment.target, "hardware": targets.hardware(deployment)}


def _add_deployment(page: Page, deployment: Deployment, split: TrafficChange | None, *, restarts: int) -> None:
    labels = _labels(deployment)
    page.add("mlops_deployment_info", 1, **labels, model=deployment.model, version=str(deployment.version))
    page.add("mlops_deployment_up", deployment.status == "healthy", **labels)
    page.add("mlops_deployment_restarts_total", restarts, **labels)
    page.add("mlops_deployment_changed_time_seconds", deployment.changed_at.timestamp(), **labels)
    page.add("mlops_traffic_percent", split.weights.get(deployment.name, 0) if split else 0, **labels)
    page.add("mlops_mirror_percent", split.mirrors.get(deployment.name, 0) if split else 0, **labels)


def _add_window(page: Page, counted: Counted, family: str, **labels: str) -> None:
    page.add(f"{family}_requests", counted.requests, **labels)
    page.add(f"{family}_errors", counted.errors, **labels)
    page.add(f"{family}_refused", counted.refused, **labels)
    for quantile in QUANTILES:
        milliseconds = quantile_ms(counted, quantile)
        page.add(f"{family}_latency_seconds", None if milliseconds is None else milliseconds / 1000, **labels, quantile=f"{quantile:g}")


def _add_saturation(page: Page, load: Load, **labels: str) -> None:
    """In flight and waiting are told by the servers' own pages."""
    page.add("mlops_requests_in_flight_limit", load.most, **labels)
    page.add("mlops_cpu_cores", load.cpus, **labels)
    page.add("mlops_cpu_limit_cores", load.cpus_limit, **labels)
    page.add("mlops_cpu_share", load.cpu_share, **labels)
    page.add("mlops_memory_bytes", _bytes(load.memory_mb), **labels)
    page.add("mlops_memory_limit_bytes", _bytes(load.memory_limit_mb), **labels)
    page.add("mlops_memory_share", load.memory_share, **labels)


def _add_hardware(page: Page, deployments: Sequence[Deployment], found: Sequence[Load]) -> None:
    """The sums over all deployments of a target that run on the same."""
    by_place: dict[tuple[str, str], list[Load]] = {}
    for deployment, load in zip(deployments, found, strict=True):
        by_place.setdefault((deployment.target, targets.hardware(deployment)), []).append(load)
    for (target, hardware), many in sorted(by_place.items()):
        labels = {"target": target, "hardware": hardware}
        page.add("mlops_hardware_deployments", len(many), **labels)
        _add_window(page, telemetry.together(load.window for load in many), "mlops_hardware_window", **labels)
        page.add("mlops_hardware_requests_in_flight", _sum(load.in_flight for load in many), **labels)
        page.add("mlops_hardware_requests_waiting", _sum(load.waiting for load in many), **labels)
        page.add("mlops_hardware_cpu_cores", _sum(load.cpus for load in many), **labels)
        page.add("mlops_hardware_memory_bytes", _bytes(_sum(load.memory_mb for load in many)), **labels)


def _sum(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _bytes(megabytes: float | None) -> float | None:
    return None if megabytes is None else megabytes * 1e6


def _add_drift(page: Page, found: Iterable[DriftCheck]) -> None:
    for check in found:
        told, features = check.verdict in ("drift", "no drift"), check.report.get("features", [])
        each = told and not any(f.get("type") == "together" for f in features)
        labels = {"endpoint": check.endpoint, "deployment": check.deployment or ""}
        page.add("mlops_drift", check.is_drift if told else None, **labels)
        page.add("mlops_drift_features", sum(bool(f.get("is_drift")) for f in features) if each else None, **labels)
        page.add("mlops_drift_check_time_seconds", check.time.timestamp(), **labels)


def _add_rollouts(page: Page, under_way: Iterable[Rollout]) -> None:
    from . import canary  # brings numpy along

    for plan in under_way:
        labels = {"endpoint": plan.endpoint, "deployment": plan.deployment, "kind": plan.kind}
        page.add("mlops_rollout_percent", plan.percent, **labels)
        page.add("mlops_rollout_held", plan.status == "held", **labels)
        found = canary.evidence_of(plan)
        for guard, evidence in (found.trail[-1].evidence if found.trail else {}).items():
            page.add("mlops_canary_evidence", min(1.0, max(0.0, evidence / found.level)), endpoint=plan.endpoint, deployment=plan.deployment, guard=guard)


# ── whom is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def _loads(deployments: Sequence[Deployment]) -> list[tuple[Load, str]]:
    """What each has to carry, and its server's own page; all are asked at once."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        used, pages = list(pool.map(targets.usage, deployments)), list(pool.map(_server_page, deployments))
    since = store.now() - WINDOW
    counted = {name: telemetry.counted(name, since=since) for name in {d.endpoint for d in deployments}}
    return [
        (_load(deployment, usage, text, counted[deployment.endpoint].get(deployment.name, Counted())), text)
        for deployment, usage, text in zip(deployments, used, pages, strict=True)
    ]


def _load(deployment: Deployment, usage: Usage, text: str, window: Counted) -> Load:
    spec = deployment.spec
    in_flight, waiting = _gauge(text, "mlops_requests_in_flight"), _gauge(text, "mlops_requests_waiting")
    return Load(
        deployment=deployment.name, target=deployment.target, hardware=targets.hardware(deployment), in_flight=in_flight, waiting=waiting,
        most=_limit() if text else None, window=window, cpus=usage.cpus, cpus_limit=spec.cpus, memory_mb=usage.memory_mb, memory_limit_mb=spec.memory_mb,
    )  # fmt: skip


def _gauge(text: str, name: str) -> int | None:
    """A server's count; None where it does not tell, as one of an earlier version."""
    found = re.search(rf"^{name}\{{.*\}} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _server_page(deployment: Deployment) -> str:
    """What the deployment's own server tells; nothing where it has none on this machine or does not answer within a second."""
    handle = deployment.handle
    if not handle.get("port") or not handle.get("token_file"):
        return ""
    connection = http.client.HTTPConnection("127.0.0.1", handle["port"], timeout=1)
    try:
        connection.request("GET", "/metrics", headers={"x-mlops-token": Path(handle["token_file"]).read_text(encoding="utf-8").strip()})
        answer = connection.getresponse()
        return answer.read().decode() if answer.status == 200 else ""
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return ""
    finally:
        connection.close()


def _limit() -> int:
    return next(int(field.default) for field in msgspec.structs.fields(ServerSpec) if field.name == "most_waiting")


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, bool) or float(value).is_integer() else repr(round(float(value), 9))
