"""Deploy, split, withdraw: what the user wants goes into the store, the agent makes it so, and we wait while it does."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from . import agent, client, metrics, progression, splits, store, targets, telemetry
from .client import Answer
from .errors import (
    BadOption,
    ComparedWith,
    DeploymentFailed,
    DeploymentNotFound,
    GatewayUnreachable,
    LastHealthy,
    NameTaken,
    RolloutUnderWay,
    SecretVariable,
    StillRunning,
    TargetCannot,
    WorkspaceStopped,
)
from .metrics import Load
from .progress import SILENT, Reporter
from .reference import DeploymentRef, ModelRef
from .safety import checked_name, names_a_secret
from .settings import Workspace
from .store import alerts, events, models, rollouts, schedules, state
from .store import deployments as table
from .store import environments as environment_table
from .store.deployments import Deployment, DeploymentSpec, Reason
from .store.environments import Environment

_STOP_SECONDS = 30.0
_TROUBLED_SECONDS = 3.0
"""How long the agent may fail at every step before whoever waits for it is told: it may be over at its next."""


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment as its endpoint shows it."""

    name: str
    model: str
    target: str
    hardware: str
    status: str
    traffic: int
    copies: int = 0
    """The percentage of requests that it is sent copies of, as a shadow."""
    wanted: Literal["running", "stopped"]
    reason: Reason | None = None
    restarts: int = 0
    since: datetime
    untried: bool = False
    """Whether nothing was ever asked of it: its version has no rows to try it on, and no request has come yet."""
    load: Load | None = None
    """What it has to carry now, where that was asked for."""


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint, where it answers and what answers."""

    name: str
    url: str
    deployments: list[DeploymentView]
    sticky: str = ""
    """By what callers are known; empty: each request goes by chance."""


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that was asked for, and where it answers."""

    endpoint: str
    deployment: str
    model: str
    target: str
    hardware: str = "cpu"
    """What it was asked to run on, or the emulation that stands in for it."""
    limits: str = ""
    """What holds it to its cores and memory, in words."""
    status: str
    traffic: int
    url: str
    untried: bool = False
    """Whether it is healthy without having been asked anything; see `DeploymentView`."""


class WorkspaceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What this workspace holds and runs now."""

    workspace: str
    agent: bool
    gateway: str
    gateway_trouble: str
    dashboard: str | None
    models: int
    endpoints: list[EndpointView]


def deploy(
    ref: ModelRef | str,
    *,
    endpoint: str | None = None,
    to: str = "local",
    traffic: int | None = None,
    name: str | None = None,
    spec: DeploymentSpec | None = None,
    wait: bool = True,
    report: Reporter = SILENT,
) -> Deployed:
    """Run a model version behind *endpoint* (the model's name unless given) and return once it answers its health check.

    The first deployment of an endpoint takes all its traffic; a later one takes *traffic* percent, none unless given.
    Raises ModelNotFound and its kin, NameTaken, EnvironmentMismatch, or DeploymentFailed with the user's own error and the
    log's last lines; then the endpoint's traffic is as it was.
    """
    ref = ref if isinstance(ref, ModelRef) else ModelRef.parse(ref)
    spec = spec or DeploymentSpec()
    _check_sayable(to, traffic, spec)
    report.step(f"looking up {ref}")
    version, environment = _with_environment(ref, spec)
    targets.check(to, version, environment, spec)
    called = _called(version, endpoint, name)
    _check_neighbours(called, to)
    spec = _prepared(called, version, environment, to=to, spec=spec, report=report)
    _until_gone(called.endpoint, {called.name})
    with store.writing() as tx:
        deployment = _wanted(tx, models.get(tx, ref), endpoint=called.endpoint, name=called.name, target=to, spec=spec, traffic=traffic)
        stops = state.get(tx, "stops") or 0
    agent.ensure(stops=stops)
    if wait:
        report.step(f"starting {deployment.ref} on {to}")
        _until_settled(deployment, report, stops=stops)
        _until_reachable(deployment, report, stops=stops)
    return _deployed(deployment)


def undeploy(ref: DeploymentRef | str) -> list[str]:
    """Withdraw one deployment, or all of an endpoint's, let them finish what they have, and return their names.

    Its share goes to the others in the proportions they have; where none has any, the endpoint answers nobody until `split`.
    Raises EndpointNotFound, DeploymentNotFound, StillRunning, LastHealthy; ComparedWith for the only one that a canary is compared with.
    """
    ref = ref if isinstance(ref, DeploymentRef) else DeploymentRef.parse(ref)
    with store.writing() as tx:
        table.endpoint(tx, ref.endpoint)
        gone = [table.get(tx, ref.endpoint, ref.name)] if ref.name else table.of(tx, ref.endpoint)
        if ref.name:
            _check_not_last(tx, gone[0])
            _check_not_compared_with(tx, gone[0])
        _hand_over(tx, ref.endpoint, {d.name for d in gone})
        for deployment in gone:
            table.want(tx, deployment, "stopped", author=getpass.getuser())
    _until_gone(ref.endpoint, {d.name for d in gone})
    return [d.ref for d in gone]


def delete_endpoint(name: str) -> list[str]:
    """Withdraw all deployments of an endpoint, then forget it, its alerts and its key; its history stays.  Raises EndpointNotFound."""
    from . import keys

    gone = undeploy(DeploymentRef(name))
    while not _forgotten(name):  # somebody deployed to it meanwhile
        gone += undeploy(DeploymentRef(name))
    keys.forget(name)
    agent.wake()
    return gone


def _forgotten(endpoint: str) -> bool:
    """Delete an endpoint, unless something runs behind it: a row that goes before its process would leave that running for ever."""
    with store.writing() as tx:
        if table.of(tx, endpoint):
            return False
        for plan in rollouts.going(tx, endpoint):
            progression.end(tx, plan, "cancelled", "the endpoint was deleted")
        table.set_traffic(tx, endpoint, {}, author=getpass.getuser(), why="the endpoint was deleted", sticky="", mirrors={})
        table.delete_endpoint(tx, endpoint)
        schedules.delete_of(tx, endpoint)
        alerts.delete_of(tx, endpoint)
        events.record(tx, "EndpointDeleted", subject=endpoint)
    return True


def endpoints(name: str | None = None) -> list[EndpointView]:
    """Every endpoint, or the one called *name*.  Raises EndpointNotFound."""
    with store.reading() as tx:
        chosen = [table.endpoint(tx, name)] if name else table.endpoints(tx)
        base = state.gateway_url(tx)
        return [_endpoint_view(tx, endpoint.name, base) for endpoint in chosen]


def endpoint_with_loads(name: str) -> EndpointView:
    """One endpoint, with what each of its deployments has to carry now, which takes a look at each.  Raises EndpointNotFound."""
    view, loads = endpoints(name)[0], {load.deployment: load for load in metrics.loads(name)}
    return msgspec.structs.replace(view, deployments=[msgspec.structs.replace(d, load=loads.get(d.name)) for d in view.deployments])


def logs(ref: DeploymentRef | str, *, lines: int = 100) -> list[str]:
    """The last lines of a deployment's log, or of each of an endpoint's.  Raises EndpointNotFound, DeploymentNotFound."""
    found = logs_of_each(ref, lines=lines)
    return [f"{name}: {line}" if len(found) > 1 else line for name, log in found.items() for line in log]


def logs_of_each(ref: DeploymentRef | str, *, lines: int) -> dict[str, list[str]]:
    """The same by the deployment's name."""
    ref = ref if isinstance(ref, DeploymentRef) else DeploymentRef.parse(ref)
    with store.reading() as tx:
        table.endpoint(tx, ref.endpoint)
        known = table.of(tx, ref.endpoint)
    found = [d for d in known if ref.name in (None, d.name)]
    if not found:
        raise DeploymentNotFound(ref.endpoint, ref.name or "", known=[d.name for d in known])
    return {d.name: targets.get(d.target).logs(d, lines=lines) for d in found}


def invoke(endpoint: str, data: Any, *, deployment: str | None = None) -> Answer:
    """Ask an endpoint; see `client.invoke`.  Raises TargetCannot where it is not asked over HTTP."""
    for other in _present(endpoint):
        targets.require_http(other)
    return client.invoke(endpoint, data, deployment=deployment)


def status() -> WorkspaceStatus:
    """What this workspace holds and runs now."""
    from . import dashboards

    views = endpoints()
    with store.reading() as tx:
        trouble = state.get(tx, "gateway_trouble")
        return WorkspaceStatus(
            workspace=str(Workspace.current().root), agent=agent.running(), gateway=state.gateway_url(tx), gateway_trouble=(trouble or {}).get("error", ""),
            dashboard=dashboards.address(), models=len(models.names(tx)), endpoints=views,
        )  # fmt: skip


def up() -> WorkspaceStatus:
    """Start what is wanted, as after a restart of the machine, and return once it settled and can be asked.  Raises GatewayUnreachable."""
    if _present():
        stops = agent.stopped_times()
        agent.ensure()
        until(lambda: all(_settled(d) for d in _present()), seconds=_patience_seconds())
        for deployment in _present():
            if deployment.status == "healthy":
                _until_reachable(deployment, SILENT, stops=stops)
    return status()


def down() -> WorkspaceStatus:
    """Stop everything this workspace started: agent, servers, gateway, dashboard.  `up` brings back what is wanted."""
    from . import dashboards

    dashboards.stop()
    agent.stop()
    return status()


def url_of(endpoint: str) -> str:
    """Where an endpoint answers; below it stand `/v2/…` and `/score`.  Raises EndpointNotFound."""
    with store.reading() as tx:
        table.endpoint(tx, endpoint)
        return f"{state.gateway_url(tx)}/{endpoint}"


class _Called(NamedTuple):
    """What a deployment is called, and behind which endpoint."""

    endpoint: str
    name: str


def _called(version: models.ModelVersion, endpoint: str | None, name: str | None) -> _Called:
    """As was said, else the model's name and the version's number.  Raises BadName."""
    where = checked_name(endpoint or version.model, what="endpoint")
    return _Called(where, checked_name(name or str(version.version), what="deployment"))


def _check_sayable(to: str, traffic: int | None, spec: DeploymentSpec) -> None:
    """Raises BadOption for a target or a share that cannot be, SecretVariable for a secret that would be kept."""
    targets.get(to)
    if secret := next((variable for variable in spec.variables if names_a_secret(variable)), None):
        raise SecretVariable(secret)
    if traffic is not None and not 0 <= traffic <= 100:
        raise BadOption(f"--traffic {traffic} is no percentage.", hint="a whole number from 0 to 100")


def _prepared(
    called: _Called, version: models.ModelVersion, environment: Environment | None, *, to: str, spec: DeploymentSpec, report: Reporter
) -> DeploymentSpec:
    """*spec* with what the target has to know of its preparations."""
    told = targets.get(to).prepare(version, environment, spec, ref=f"{called.endpoint}/{called.name}", report=report)
    return msgspec.structs.replace(spec, options={**spec.options, **(told or {})})


def _with_environment(ref: ModelRef, spec: DeploymentSpec) -> tuple[models.ModelVersion, Environment | None]:
    """The version, and the environment that was locked for it or that *spec* names."""
    with store.reading() as tx:
        version = models.get(tx, ref)
        named = spec.environment or version.environment
        environment = environment_table.get(tx, ModelRef.parse(named, what="environment")) if named else None
    if spec.isolated and not environment:
        raise BadOption(f"{version.ref} was registered without an environment.", hint=f"%mlops deploy {version.ref} --environment NAME")
    return version, environment


def _check_neighbours(called: _Called, to: str) -> None:
    """Raises TargetCannot when what already stands behind the endpoint cannot be divided with what runs on *to*."""
    for other in _present(called.endpoint):
        if other.name != called.name and not targets.may_share(to, other.target):
            able = [target for target in targets.NAMES if targets.may_share(target, other.target)]
            raise TargetCannot(to, f"share the endpoint {called.endpoint} with {other.ref}, which runs on {other.target}", able=able)


def _wanted(
    tx: store.Transaction, version: models.ModelVersion, *, endpoint: str, name: str, target: str, spec: DeploymentSpec, traffic: int | None
) -> Deployment:
    """The deployment as it should be: the one already there when it is the same, else a new generation."""
    author = getpass.getuser()
    table.ensure_endpoint(tx, endpoint, author=author)
    for plan in rollouts.going(tx, endpoint) if traffic is not None else ():
        raise RolloutUnderWay(endpoint, kind=plan.kind, since=plan.created_at)
    there = next((d for d in table.of(tx, endpoint) if d.name == name), None)
    if there and there.wanted == "running" and there.status not in ("failed", "stopped"):
        if (there.model_ref, there.target, there.spec) == (version.ref, target, spec):
            _share_again(tx, there, traffic)
            return there
        if there.target != target or "replace" not in targets.get(target).ABILITIES:
            by = f"{there.model_ref} with other settings" if there.model_ref == version.ref else there.model_ref
            raise NameTaken(there.ref, by=by, model=version.ref, endpoint=endpoint)
    deployment = Deployment(
        endpoint=endpoint, name=name, model=version.model, version=version.version, target=target, spec=spec, wanted="running",
        generation=there.generation + 1 if there else 1, status="pending", created_at=store.now(), changed_at=store.now(), author=author,
    )  # fmt: skip
    table.put(tx, deployment)
    table.promise_share(tx, deployment.ref, traffic)
    events.record(tx, "DeploymentRequested", subject=deployment.ref, data={"model": version.ref, "target": target, "traffic": traffic})
    return deployment


def _share_again(tx: store.Transaction, there: Deployment, traffic: int | None) -> None:
    """Give what is deployed already its share: now, or once it has come up; one that is restarted takes it when it is healthy again."""
    if traffic is None:
        return
    if there.status in ("pending", "starting"):
        table.promise_share(tx, there.ref, traffic)
        return
    weights, mirrors = splits.shifted(table.traffic(tx, there.endpoint), there.name, traffic), table.mirrors(tx, there.endpoint, but=[there.name])
    table.set_traffic(tx, there.endpoint, weights, author=getpass.getuser(), why=f"{there.ref} was deployed again", mirrors=mirrors)


def _settled(deployment: Deployment) -> bool:
    """Whether it is up, or will not be soon; the store may say healthy of one that ended with the machine, until the agent looks."""
    if deployment.status == "healthy":
        return targets.get(deployment.target).alive(deployment)
    return deployment.status == "failed" or (deployment.status == "restarting" and deployment.restarts > 1)


def _until_settled(deployment: Deployment, report: Reporter, *, stops: int) -> None:
    """Wait for healthy; show the log as it grows; raise what the deployment died of."""
    shown = 0
    deadline = time.monotonic() + _patience_seconds()
    while time.monotonic() < deadline:
        now = _still_wanted(deployment, stops=stops)
        lines = targets.get(now.target).logs(now, lines=200)
        for line in lines[shown:]:
            report.log(line)
        shown = max(shown, len(lines))
        if now.status == "healthy":
            return
        if now.status == "failed":
            raise _failure(now)
        _check_agent_able(now)
        with suppress(WorkspaceStopped):  # told as the deployment's own failure, at the next look
            agent.ensure(stops=stops)
        time.sleep(0.04)
    raise DeploymentFailed(deployment.ref, message=f"nothing was heard of it for {_patience_seconds():.0f} s", log=agent.log_tail())


def _check_agent_able(deployment: Deployment) -> None:
    """Raises DeploymentFailed with the end of the agent's log where its steps fail, of this deployment or of all."""
    trouble = agent.trouble(longer_than_seconds=_TROUBLED_SECONDS)
    if trouble and trouble.about in ("", deployment.ref):
        raise DeploymentFailed(
            deployment.ref,
            message=f"the agent, which would start it, fails: {trouble.message}",
            log=agent.log_tail(),
            hint=f"%mlops undeploy {deployment.ref}, which takes it back; else the agent goes on trying",
        )


def _still_wanted(deployment: Deployment, *, stops: int) -> Deployment:
    """The deployment as it is now.  Raises DeploymentFailed when somebody withdrew it or stopped the workspace: waiting on would start all of it again."""
    with store.reading() as tx:
        same = (d for d in table.of(tx, deployment.endpoint) if (d.name, d.generation) == (deployment.name, deployment.generation))
        now, stopped = next(same, None), (state.get(tx, "stops") or 0) != stops
    if now is None:
        raise DeploymentFailed(deployment.ref, message="it was withdrawn, or deployed anew, while it started")
    if stopped:
        raise DeploymentFailed(deployment.ref, message="the workspace was stopped while it started", hint="%mlops up")
    return now


def _failure(deployment: Deployment) -> DeploymentFailed:
    reason = deployment.reason or Reason(kind="exited", message="it ended without a word")
    return DeploymentFailed(deployment.ref, message=reason.message, where=reason.where, log=reason.traceback or reason.log, hint=reason.hint)


def _until_reachable(deployment: Deployment, report: Reporter, *, stops: int) -> None:
    """Wait until the gateway, where it is used, leads to it and shares requests out as wanted.  Raises GatewayUnreachable with the agent's reason."""
    if targets.get(deployment.target).TRAFFIC != "gateway":
        return
    report.step("opening the gateway")
    deadline = time.monotonic() + 15
    while why := _ways_missing(deployment):
        with store.reading() as tx:
            base, trouble = state.gateway_url(tx), state.get(tx, "gateway_trouble")
        if trouble or time.monotonic() > deadline:
            raise GatewayUnreachable(base, (trouble or {}).get("error") or why)
        agent.ensure(stops=stops)
        time.sleep(0.04)


def _ways_missing(deployment: Deployment) -> str:
    """Why requests do not reach it yet — picked by name, or by its share — or nothing."""
    with store.reading() as tx:
        url, shares = f"{state.gateway_url(tx)}/{deployment.endpoint}", table.traffic(tx, deployment.endpoint)
    picked = client.ready(url, deployment.endpoint, deployment=deployment.name)
    if picked or not shares.get(deployment.name):
        return picked
    return client.ready(url, deployment.endpoint)


def _deployed(deployment: Deployment) -> Deployed:
    with store.reading() as tx:
        now = table.get(tx, deployment.endpoint, deployment.name)
        share = table.traffic(tx, now.endpoint).get(now.name, 0)
        return Deployed(
            endpoint=now.endpoint, deployment=now.ref, model=now.model_ref, target=now.target, hardware=targets.hardware(now), limits=targets.limits(now),
            status=now.status, traffic=share, url=_url(state.gateway_url(tx), now.endpoint, [now]), untried=untried(tx, now),
        )  # fmt: skip


def _hand_over(tx: store.Transaction, endpoint: str, leaving: set[str]) -> None:
    weights, copied = table.traffic(tx, endpoint), table.mirrors(tx, endpoint)
    staying = {name: share for name, share in weights.items() if name not in leaving}
    if not any(weights.get(name) or copied.get(name) for name in leaving):
        return
    rest = splits.shared_out(staying, 100) if any(staying.values()) else {}
    why = f"{', '.join(sorted(leaving))} withdrawn"
    table.set_traffic(tx, endpoint, rest, author=getpass.getuser(), why=why, mirrors=table.mirrors(tx, endpoint, but=leaving))


def _check_not_last(tx: store.Transaction, leaving: Deployment) -> None:
    """Raises LastHealthy when *leaving* is the one that answers, whether others, which do not, would be left behind, or nobody."""
    there = {d.name: d for d in table.of(tx, leaving.endpoint) if d.wanted == "running"}
    others = [d for name, d in there.items() if name != leaving.name]
    asked = others or table.traffic(tx, leaving.endpoint).get(leaving.name)
    if leaving.status == "healthy" and asked and targets.get(leaving.target).TRAFFIC != "none" and not any(d.status == "healthy" for d in others):
        raise LastHealthy(leaving.ref, endpoint=leaving.endpoint)


def _check_not_compared_with(tx: store.Transaction, leaving: Deployment) -> None:
    """Raises ComparedWith when a canary under way has only *leaving* to be compared with."""
    there = {d.name for d in table.of(tx, leaving.endpoint) if d.wanted == "running"}
    for plan in rollouts.going(tx, leaving.endpoint):
        before = {name for name, share in plan.settings.get("before", {}).items() if share and name != plan.deployment}
        if plan.kind == "canary" and before & there == {leaving.name}:
            raise ComparedWith(leaving.ref, endpoint=leaving.endpoint, candidate=plan.deployment)


def _present(endpoint: str | None = None) -> list[Deployment]:
    with store.reading() as tx:
        return table.of(tx, endpoint)


def until(true: Callable[[], bool], *, seconds: float) -> bool:
    """Wait for *true*, keeping the agent at work, and say whether it came within *seconds*.  Raises WorkspaceStopped."""
    deadline, stops = time.monotonic() + seconds, agent.stopped_times()
    while not true():
        if time.monotonic() > deadline:
            return False
        agent.ensure(stops=stops)
        time.sleep(0.02)
    return True


def _until_gone(endpoint: str, names: Collection[str]) -> None:
    """Wait until those that are being withdrawn have ended.  Raises StillRunning when one does not."""
    leaving: list[str] = []

    def gone() -> bool:
        leaving[:] = [d.ref for d in _present(endpoint) if d.name in names and d.wanted == "stopped"]
        return not leaving

    patience = Workspace.current().settings().request_timeout_seconds + _STOP_SECONDS  # those who asked already are answered
    if not until(gone, seconds=patience):
        raise StillRunning(leaving[0], waited_seconds=patience)


def _patience_seconds() -> float:
    """The agent tells of a server that is too slow; this much later we tell of a silent agent."""
    return Workspace.current().settings().start_timeout_seconds + 30


def _endpoint_view(tx: store.Transaction, name: str, base: str) -> EndpointView:
    change = table.split(tx, name)
    shares, copies = (change.weights, change.mirrors) if change else ({}, {})
    deployments = table.of(tx, name)
    views = [_deployment_view(d, shares.get(d.name, 0), copies.get(d.name, 0), untried=untried(tx, d)) for d in deployments]
    return EndpointView(name=name, url=_url(base, name, deployments), deployments=views, sticky=change.sticky if change else "")


def _url(base: str, endpoint: str, deployments: Sequence[Deployment]) -> str:
    """Where the endpoint answers: where its target says, else at the gateway."""
    return next((d.handle["url"] for d in deployments if d.handle.get("url")), f"{base}/{endpoint}")


def untried(tx: store.Transaction, deployment: Deployment) -> bool:
    """Whether a healthy deployment was never asked anything.

    A server tries its model on the signature's sample; a script, and a version without rows, is first asked by whoever calls it.
    """
    if deployment.status != "healthy" or deployment.target not in targets.NAMES or "capture" not in targets.get(deployment.target).ABILITIES:
        return False
    version = models.get(tx, ModelRef(deployment.model, version=deployment.version))
    has_rows = version.engine != "script" and bool((version.signature or {}).get("sample"))
    return not has_rows and not telemetry.asked_since(deployment.endpoint, deployment.name, deployment.created_at)


def _deployment_view(deployment: Deployment, share: int, copies: int, *, untried: bool) -> DeploymentView:
    return DeploymentView(
        name=deployment.name, model=deployment.model_ref, target=deployment.target, hardware=targets.hardware(deployment), status=deployment.status,
        traffic=share, copies=copies, wanted=deployment.wanted, reason=deployment.reason, restarts=deployment.restarts, since=deployment.changed_at,
        untried=untried,
    )  # fmt: skip
