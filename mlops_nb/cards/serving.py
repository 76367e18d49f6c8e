"""Cards of what serves: endpoints, deployments, rollouts, answers, the workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .card import Card, Link, Mark, Share, Table, ago, brief, status_mark, those_given


def dashboard(dashboard: Any) -> Card:
    """Where the dashboard is."""
    return Card(title="dashboard", mark=Mark("good", "running"), facts=[("url", Link(dashboard.url))])


def key(key: Any) -> Card:
    """An endpoint's key, which is shown because it was asked for."""
    return Card(title=key.endpoint, kind="endpoint key", note="Its .key is left out here, because a notebook is saved with what it shows.")


def _place(deployment: Any) -> str:
    """Where it runs, and on what where that is not the CPU alone; an emulation is named as one."""
    return deployment.target if deployment.hardware == "cpu" else f"{deployment.target}, {deployment.hardware}"


def answering(deployment: Any) -> Mark:
    """Its status, and that nothing was asked of it yet."""
    return Mark("warn", f"{deployment.status}, untried") if deployment.untried else status_mark(deployment.status)


_UNTRIED = "Nothing was asked of it yet: it came without rows to try it on, so nobody knows whether it answers."


def deployed(deployed: Any) -> Card:
    """What a deploy led to, or the reason it failed with its own line."""
    return Card(
        title=deployed.deployment,
        kind="deployment",
        mark=answering(deployed),
        note=_UNTRIED if deployed.untried else "",
        facts=those_given(
            ("model", deployed.model),
            ("target", _place(deployed)),
            ("limits", deployed.limits),
            ("traffic", Share(deployed.traffic)),
            ("url", deployed.url),
        ),
        line="edge devices" if deployed.target == "edge" else f"invoke {deployed.endpoint if deployed.traffic else deployed.deployment} --data DATA",
    )


def device(view: Any) -> Card:
    """An edge device: what it runs beside what it should, its link, its queue, and whether what it is asked drifted."""
    behind = view.wanted and view.wanted != view.model
    return Card(
        title=view.name,
        kind="edge device",
        mark=Mark("good", "online") if view.online else Mark("bad", "offline"),
        facts=those_given(
            ("runs", view.model or "nothing"),
            ("wanted", view.wanted if behind else ""),
            ("state", view.state),
            ("deployment", view.deployment),
            ("module", view.module),
            ("last seen", ago(view.seen_at) if view.seen_at else "never"),
            ("requests", f"{view.requests:,} ({view.rows:,} rows), {view.errors:,} refused or failed"),
            ("latency", f"p50 {view.p50_ms:g} ms, p95 {view.p95_ms:g} ms" if view.p50_ms is not None and view.p95_ms is not None else ""),
            ("queue", f"{view.queued:,} answers wait for the link, {view.dropped:,} were dropped"),
            ("telemetry", f"{view.telemetry_waiting:,} lines wait for the link, {view.telemetry_dropped:,} were dropped"),
            ("drift", drift_of(view)),
            ("checked", ago(view.drift_checked_at) if view.drift_checked_at else ""),
        ),
        log=view.reason,
        line=f"edge drift {view.name}" if view.deployment else "",
    )


def drift_of(view: Any) -> Mark | str:
    """What a device's latest check said, and of which features."""
    if not view.drifted:
        return Mark("good" if view.drift == "no drift" else "idle", view.drift) if view.drift else ""
    rest = len(view.drifted) - 3
    return Mark("warn", f"{view.drift} in {', '.join(view.drifted[:3])}" + (f" and {rest} more" if rest > 0 else ""))


def endpoint(view: Any) -> Card:
    """An endpoint: its deployments, their shares, health and load."""
    rows = [[d.name, d.model, answering(d), _taken(d), _place(d), ago(d.since)] for d in view.deployments]
    troubled = min((d for d in view.deployments if d.reason), key=lambda d: d.status == "healthy", default=None)
    return Card(
        title=view.name,
        kind="endpoint",
        facts=those_given(("url", view.url), ("callers known by", view.sticky)),
        tables=[Table(["deployment", "model", "status", "traffic", "target", "since"], rows), *_loads(view.deployments)],
        log=_reason(troubled) if troubled else "",
        note="" if rows else "It has no deployment.",
        line=f"logs {view.name}/{troubled.name}" if troubled else "" if rows else f"deploy MODEL --endpoint {view.name}",
    )


def _loads(deployments: Sequence[Any]) -> list[Table]:
    """What each has to carry now, and had to in the last five minutes; nothing where nobody looked."""
    rows = [[d.name, *_load(d.load)] for d in deployments if d.load]
    columns = ["deployment", "#in flight", "#waiting", "#answered in 5 min", "#refused (429)", "#p99.9", "#cores", "#memory"]
    return [Table(columns, rows)] if rows else []


def _load(load: Any) -> list[Any]:
    in_flight = "" if load.in_flight is None else f"{load.in_flight} of {load.most}"
    waiting = "" if load.waiting is None else str(load.waiting)
    latency = "" if load.p999_ms is None else f"{load.p999_ms:,.3g} ms"
    cores = "" if load.cpus is None else f"{load.cpus:.2f}{f' of {load.cpus_limit:g} ({load.cpu_share:.0%})' if load.cpus_limit else ''}"
    of_limit = f" of {load.memory_limit_mb:,.0f} ({load.memory_share:.0%})" if load.memory_share is not None else ""
    memory = "" if load.memory_mb is None else f"{load.memory_mb:,.0f}{of_limit} MB"
    return [in_flight, waiting, f"{load.window.requests:,}", f"{load.window.refused:,}", latency, cores, memory]


def _taken(deployment: Any) -> Any:
    """Its share of the requests; of a shadow, that it is sent copies."""
    return f"{deployment.traffic} % and copies of {deployment.copies} %" if deployment.copies else Share(deployment.traffic)


def rollout(plan: Any) -> Card:
    """A split that changes by itself: its steps, and a canary's evidence."""
    given = [("steps", steps(plan)), ("each lasts", f"{plan.every_seconds:,.0f} s" if plan.steps else ""), ("why", plan.why), ("", plan.reason)]
    due = [("next", f"{plan.next_time:%Y-%m-%d %H:%M:%S} UTC")] if plan.going and plan.status != "paused" else []
    rates, rows = _evidence(plan)
    return Card(
        title=f"{plan.endpoint}/{plan.deployment}" if plan.deployment else plan.endpoint, kind=plan.kind, mark=status_mark(plan.status),
        facts=those_given(*given, *due, *rates), tables=[Table(["guard", "kept", "seen", "#evidence against it", "#rolls back at"], rows)],
        line="up" if plan.status == "paused" else f"rollouts cancel {plan.endpoint}" if plan.going else "",
    )  # fmt: skip


def _evidence(plan: Any) -> tuple[list[tuple[str, str]], list[list[Any]]]:
    """Of a canary that has looked: the error rates in words, and a row for each guard."""
    if plan.kind != "canary" or not plan.evidence.get("trail"):
        return [], []
    from .. import canary_figures

    rows = []
    for one in canary_figures.judged(plan):
        against, level = one.words.split(" of ")
        rows.append([one.guard, _verdict(one, going=plan.going), one.seen, against, level])
    return [("error rates", canary_figures.rates_told(canary_figures.evidence_of(plan)))], rows


def _verdict(one: Any, *, going: bool) -> Mark:
    if one.verdict == "kept":
        return Mark("good", "so far" if going else "yes")
    return Mark("bad" if one.violated else "warn" if one.beyond else "idle", one.verdict)


def steps(plan: Any) -> str:
    """`1 5 [25] 50 100`: the step reached is in brackets."""
    if plan.kind == "schedule":
        return " ".join(f"{name}={share}" for name, share in plan.settings["weights"].items())
    return " ".join(f"[{percent}]" if place == plan.step else str(percent) for place, percent in enumerate(plan.steps, start=1))


def _reason(deployment: Any) -> str:
    reason = deployment.reason
    which = "its last error was " if deployment.status == "healthy" else ""
    return f"{deployment.name}: {which}{reason.message}{f' ({reason.where})' if reason.where else ''}"


def answer(answer: Any) -> Card:
    """What a model answered, and which deployment it was."""
    return Card(
        title=answer.endpoint,
        kind="answer",
        facts=those_given(("answered by", answer.deployment), ("took", f"{answer.latency_ms:.1f} ms"), ("request_id", answer.request_id)),
        tables=_outputs(answer.outputs),
        note="" if isinstance(answer.outputs, Mapping) else brief(answer.outputs),
    )


def _outputs(outputs: Any) -> list[Table]:
    """One row per scored row, where the answer is columns."""
    columns = outputs.get("outputs", outputs) if isinstance(outputs, Mapping) else None
    if not isinstance(columns, Mapping) or not columns or not all(isinstance(values, list) for values in columns.values()):
        return [Table(["output", "value"], [[name, brief(value)] for name, value in columns.items()])] if isinstance(columns, Mapping) else []
    rows = [[brief(value) for value in row] for row in zip(*columns.values(), strict=False)]
    return [Table([f"#{name}" for name in columns], rows)]


def serving(serving: Any) -> Card:
    """What served at a moment, and by whose hand."""
    rows = [[d.deployment, d.model, status_mark(d.status), Share(d.traffic), d.target] for d in serving.deployments]
    since = f"{serving.since:%Y-%m-%d %H:%M:%S} UTC" if serving.since else ""
    return Card(
        title=serving.endpoint,
        kind=f"as it was on {serving.time:%Y-%m-%d at %H:%M:%S} UTC",
        facts=those_given(("divided so by", serving.author), ("why", serving.why), ("since", since)),
        tables=[Table(["deployment", "model", "status", "traffic", "target"], rows)],
        note="" if rows else "Nothing served it then.",
        line=f"history {serving.endpoint}",
    )


def workspace(status: Any) -> Card:
    """What runs in the workspace, and where."""
    rows = [[f"{e.name}/{d.name}", d.model, status_mark(d.status), Share(d.traffic), e.url] for e in status.endpoints for d in e.deployments]
    return Card(
        title=status.workspace,
        kind="workspace",
        facts=those_given(
            ("agent", Mark("good", "running") if status.agent else Mark("idle", "not running")),
            ("gateway", _gateway(status)),
            ("dashboard", Link(status.dashboard) if status.dashboard else Mark("idle", "not running")),
            ("models", str(status.models)),
            ("deployments", str(len(rows))),
        ),
        tables=[Table(["deployment", "model", "status", "traffic", "url"], rows)],
        line=("" if status.agent else "up") if rows else "deploy MODEL:VERSION" if status.models else "register MODEL --name NAME",
    )


def _gateway(status: Any) -> str | Mark:
    if status.gateway_trouble:
        return Mark("bad", status.gateway_trouble)
    answering = any(d.status in ("healthy", "unhealthy", "restarting") for e in status.endpoints for d in e.deployments)
    return "" if status.gateway.endswith(":0") else status.gateway if status.agent or answering else Mark("idle", f"not running ({status.gateway})")
