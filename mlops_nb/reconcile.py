"""One look at the world, and the step from what is to what should be.  Level-triggered, as Kubernetes controllers are."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import msgspec

from . import canary, progression, splits, store, targets
from .errors import MlopsError
from .gateway.keeping import Keeper
from .reference import ModelRef
from .settings import Workspace
from .store import deployments as table
from .store import environments, events, models, rollouts, runs, state
from .store.deployments import Deployment, Reason

log = logging.getLogger("mlops_nb.agent")

HEALTH_SECONDS = 1.0
UNHEALTHY_SECONDS = 10.0
STEADY_SECONDS = 60.0
STRAYS_SECONDS = 60.0
"""How often it is looked for what nobody knows of, which means every process of the machine; an agent's first step does it too."""
REREAD_SECONDS = 1.0
LONG_REREAD_SECONDS = 20.0
"""How often the store is read again though it seems the same: once a second after a change, then this seldom."""
ON_THEIR_WAY_SECONDS = 0.5
"""So long after the gateway leads no more requests to a server, those it had led there have come."""
_LONGEST_BACKOFF_SECONDS = 30.0
_LOOP_RESTARTS = 3
"""So many falls without a steady minute between them are a crash loop."""
_KINDS = {"PortInUse": "port taken", "FileMissing": "wrong path"}


class World:
    """What this agent remembers between two looks; losing it costs nothing but a second look."""

    def __init__(self) -> None:
        self._seen: tuple[float, ...] = ()
        self._read_at = self._changed_at = self._swept_at = float("-inf")
        self._deployments: list[Deployment] = []
        self._weights: dict[str, dict[str, int]] = {}
        self._splits: dict[str, table.TrafficChange] = {}
        self._endpoints: list[str] = []
        self._rollouts: list[rollouts.Rollout] = []
        self._looked_at: dict[str, float] = {}
        self._stopping: dict[tuple[str, int], Future[None]] = {}
        self._looking: dict[str, Future[Exception | None]] = {}
        self._look_due: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="beside")
        self._gateway = Keeper()
        self._shared: dict[str, Any] = {}

    def step(self) -> bool:
        """Take one step towards what is wanted; True while something is on its way.

        Trouble with one deployment is raised once all others and the gateway had their turn.
        """
        self._read_if_changed()
        self._end_strays()
        troubles = [self._trouble_settling(deployment) for deployment in self._deployments]
        troubles += [self._trouble_with(plan) for plan in self._rollouts if plan.next_time <= store.now()]
        self._read_if_changed()
        self._gateway.step(self._endpoints, self._deployments, self._splits)
        troubles += [self._trouble_sharing(endpoint) for endpoint in self._endpoints]
        for trouble in filter(None, troubles):
            raise trouble
        return any(self._on_its_way(d) for d in self._deployments)

    def quiet(self) -> set[int] | None:
        """The processes of which nothing but their end, or a change of the store, must be seen sooner than in a second; None where there is more to see."""
        steady = all(d.status == "failed" or (d.status == "healthy" and d.handle.get("pid")) for d in self._deployments if d.wanted == "running")
        soon = store.now() + timedelta(seconds=HEALTH_SECONDS)
        if not steady or any(d.wanted == "stopped" for d in self._deployments) or any(plan.next_time <= soon for plan in self._rollouts):
            return None
        return {d.handle["pid"] for d in self._deployments if d.handle.get("pid")} | self._gateway.pids

    def changed(self) -> bool:
        """Whether the store is another than it was read; costs microseconds."""
        return _fingerprint() != self._seen

    def stop_all(self) -> None:
        """End everything that runs, even where the store cannot be read; what is wanted stays wanted."""
        try:
            self._read_if_changed()
        finally:
            left = self.end_known()
            for name in targets.NAMES:
                targets.get(name).end_strays(())
        with store.writing() as tx:
            state.put(tx, "stops", (state.get(tx, "stops") or 0) + 1)  # whoever waits for a deployment sees that it must not wait on
            for deployment in self._deployments:
                if deployment.status != "failed" and deployment.ref not in left:
                    table.observe(tx, deployment, status="stopped", handle={})
        for trouble in left.values():
            raise trouble

    def end_known(self) -> dict[str, BaseException]:
        """End what this world has seen running; asks nothing of the workspace, which may be gone.  Returns what could not be ended, and why."""
        self._gateway.stop()
        ending = {d.ref: self._pool.submit(_stop, d) for d in self._deployments if d.handle}
        return {ref: trouble for ref, ended in ending.items() if (trouble := ended.exception())}

    def _end_strays(self) -> None:
        if time.monotonic() - self._swept_at >= STRAYS_SECONDS:
            self._swept_at = time.monotonic()
            for name in targets.NAMES:
                targets.get(name).end_strays([d for d in self._deployments if targets.runs_as(d.target) == name])

    def _trouble_settling(self, deployment: Deployment) -> Exception | None:
        try:
            self._settle(deployment)
        except Exception as error:  # told by the agent; one deployment must not keep it from the others
            error.add_note(deployment.ref)
            return error
        return None

    def _trouble_with(self, plan: rollouts.Rollout) -> Exception | None:
        """Take the step that a plan is due.  A canary reads what was captured, which takes its time: it does so beside the loop."""
        if plan.kind != "canary":
            return _trouble_advancing(plan)
        looking = self._looking.get(plan.id)
        if (looking and not looking.done()) or time.monotonic() < self._look_due.get(plan.id, 0.0):
            return None
        self._look_due[plan.id] = time.monotonic() + canary.LOOK_SECONDS
        self._looking[plan.id] = self._pool.submit(_trouble_advancing, plan)
        return looking.result() if looking else None

    def _trouble_sharing(self, endpoint: str) -> Exception | None:
        """Have a target that divides requests by its own means do so; again only when something changed."""
        here = [d for d in self._deployments if d.endpoint == endpoint and d.wanted == "running" and d.target in targets.NAMES]
        own = [d for d in here if targets.get(d.target).TRAFFIC == "own"]
        wanted = (self._weights.get(endpoint, {}), [(d.name, d.status, d.handle) for d in own])
        if not own or self._shared.get(endpoint) == wanted:
            return None
        try:
            targets.get(own[0].target).share(endpoint, own, wanted[0])
        except Exception as error:  # told by the agent, and tried again at the next step
            return error
        self._shared[endpoint] = wanted
        return None

    def _read_if_changed(self) -> None:
        seen = _fingerprint()
        now = time.monotonic()
        if seen != self._seen:
            self._changed_at = now
        elif now - self._read_at < (LONG_REREAD_SECONDS if self._read_at - self._changed_at > REREAD_SECONDS else REREAD_SECONDS):
            return  # a file's time is coarse: what is written in the moment of a reading is seen by the next, a second later
        self._read_at = now
        with store.reading() as tx:
            self._deployments = table.of(tx)
            self._endpoints = [endpoint.name for endpoint in table.endpoints(tx)]
            self._rollouts = rollouts.going(tx)
            self._splits = {name: split for name in self._endpoints if (split := table.split(tx, name))}
        self._weights = {name: split.weights for name, split in self._splits.items()}
        self._seen = seen

    def _on_its_way(self, deployment: Deployment) -> bool:
        begun = deployment.status == "restarting" and bool(deployment.handle)
        return begun or deployment.wanted == "stopped" or deployment.status in ("pending", "stopped", "starting")

    def _settle(self, deployment: Deployment) -> None:
        if deployment.wanted == "stopped":
            self._retire(deployment)
        elif deployment.status in ("pending", "stopped"):
            _begin(deployment, status="starting")
        elif deployment.status == "restarting" and not deployment.handle:
            if _age(deployment) >= _backoff(deployment.restarts):
                _begin(deployment, status="restarting")
        elif deployment.status in ("starting", "restarting"):
            _watch_start(deployment)
        elif deployment.status in ("healthy", "unhealthy"):
            self._watch(deployment)

    def _retire(self, deployment: Deployment) -> None:
        """Stop it beside the loop: draining takes its time, and the gateway sends it nothing any more."""
        key = deployment.ref, deployment.generation
        stopping = self._stopping.get(key)
        if stopping is None:
            self._gateway.step(self._endpoints, self._deployments, self._splits)
            self._stopping[key] = self._pool.submit(_stop_when_asked_no_more, deployment)
        elif stopping.done():
            del self._stopping[key]
            stopping.result()
            with store.writing() as tx:
                if table.observe(tx, deployment, status="stopped", handle={}):
                    table.remove(tx, deployment)
                    events.record(tx, "DeploymentRemoved", subject=deployment.ref, data={"model": deployment.model_ref})

    def _watch(self, deployment: Deployment) -> None:
        target = targets.get(deployment.target)
        due = time.monotonic() - self._looked_at.get(deployment.ref, 0.0) >= HEALTH_SECONDS
        if not due and target.alive(deployment):
            return
        self._looked_at[deployment.ref] = time.monotonic()
        _heed(deployment, target.observe(deployment))


def _trouble_advancing(plan: rollouts.Rollout) -> Exception | None:
    try:
        canary.advance(plan) if plan.kind == "canary" else progression.advance(plan)
    except Exception as error:  # told by the agent, and tried again at the next step
        return error
    return None


def _begin(deployment: Deployment, *, status: table.Status) -> None:
    try:
        handle = _started(deployment)
    except (MlopsError, OSError) as error:
        reason = Reason(kind=_KINDS.get(type(error).__name__, "cannot start"), message=f"{type(error).__name__}: {error}", hint=getattr(error, "hint", ""))
        _record(deployment, "failed", reason=reason, event="DeploymentFailed")
        return
    log.info("deployment.starting ref=%s pid=%s port=%s", deployment.ref, handle.get("pid"), handle.get("port"))
    if not _record(deployment, status, handle=handle, reason=deployment.reason):  # withdrawn meanwhile: nobody else will know of this process
        _stop(msgspec.structs.replace(deployment, handle=handle))


def _started(deployment: Deployment) -> dict[str, Any]:
    with store.reading() as tx:
        version = models.get(tx, ModelRef(deployment.model, version=deployment.version))
        run = runs.get(tx, version.run) if version.run else None
        named = deployment.spec.environment or version.environment
        environment = environments.get(tx, ModelRef.parse(named)) if named else None
    cells = [{"number": c.number, "filename": c.filename, "source": c.source} for c in (run.cells if run else [])]
    return targets.get(deployment.target).start(deployment, version, context={"cells": cells, "environment": environment})


def _watch_start(deployment: Deployment) -> None:
    seen = targets.get(deployment.target).observe(deployment)
    timeout = Workspace.current().settings().start_timeout_seconds
    if seen.state == "healthy":
        _came_up(deployment)
    elif seen.state == "gone" and seen.reason is None:
        _record(deployment, "pending", handle={})  # the agent that was starting it was killed before anything ran
    elif seen.state == "gone" and seen.reason and seen.reason.kind == "port taken" and not deployment.spec.port:
        _record(deployment, "pending", handle={})  # somebody took the port that was free a moment ago: another one will do
    elif seen.state == "gone" and deployment.status == "starting":
        _record(deployment, "failed", reason=seen.reason, handle={}, event="DeploymentFailed")
    elif seen.state == "gone":
        _fell(deployment, seen.reason)
    elif seen.away:
        _note_waiting(deployment, seen.reason)
    elif _age(deployment) > timeout and seen.unreachable:
        _record(deployment, "failed", reason=seen.reason, handle={}, event="DeploymentFailed")
    elif _age(deployment) > timeout:
        _stop(deployment)
        late = "\n".join(targets.get(deployment.target).logs(deployment, lines=20))
        message = f"It did not answer its health check within {timeout:.0f} s{f': {seen.answer}' if seen.answer else ''}."
        reason = Reason(kind="too slow", message=message, log=late, hint="set start_timeout_seconds in [tool.mlops]")
        _record(deployment, "failed", reason=seen.reason or reason, handle={}, event="DeploymentFailed")


def _note_waiting(deployment: Deployment, reason: Reason | None) -> None:
    """Say once what it waits for."""
    if reason != deployment.reason:
        _record(deployment, deployment.status, reason=reason)


def _heed(deployment: Deployment, seen: targets.Observed) -> None:
    """Act on what was seen of a deployment that had come up."""
    if seen.state == "gone":
        _fell(deployment, seen.reason)
    elif seen.state == "healthy":
        _heed_health(deployment, seen.reason)
    elif seen.state == "unhealthy":
        _heed_illness(deployment, seen)


def _heed_health(deployment: Deployment, reason: Reason | None) -> None:
    if deployment.status == "unhealthy":
        _record(deployment, "healthy", event="DeploymentRecovered")
    elif reason and reason != deployment.reason:
        _record(deployment, "healthy", reason=reason, event="RequestFailed")
    elif deployment.restarts and _age(deployment) > STEADY_SECONDS:
        _record(deployment, "healthy", reason=deployment.reason, restarts=0)


def _heed_illness(deployment: Deployment, seen: targets.Observed) -> None:
    """Tell it; where nobody else mends it, end it after a while, so that it is started again."""
    left_alone = seen.unreachable or seen.mending
    if deployment.status == "healthy":
        _record(deployment, "unhealthy", reason=seen.reason, event="DeploymentUnhealthy")
    elif left_alone and seen.reason and seen.reason != deployment.reason:
        _record(deployment, "unhealthy", reason=seen.reason)
    elif not left_alone and _age(deployment) > UNHEALTHY_SECONDS:
        _stop(deployment)
        _fell(deployment, seen.reason)


def _came_up(deployment: Deployment) -> None:
    """Note it, and give it the traffic it was deployed for, in one transaction."""
    with store.writing() as tx:
        if not table.observe(tx, deployment, status="healthy", reason=None):
            return
        if deployment.status == "starting":
            events.record(tx, "ModelDeployed", subject=deployment.ref, data={"model": deployment.model_ref, "target": deployment.target})
            _give_first_traffic(tx, deployment)
        else:
            events.record(tx, "DeploymentRecovered", subject=deployment.ref, data={"restarts": deployment.restarts})


def _give_first_traffic(tx: store.Transaction, deployment: Deployment) -> None:
    if targets.get(deployment.target).TRAFFIC == "none":
        return
    present = {d.name for d in table.of(tx, deployment.endpoint) if d.wanted == "running"}
    weights = {name: weight for name, weight in table.traffic(tx, deployment.endpoint).items() if name in present}
    percent = table.share_to_come(tx, deployment.ref)
    if percent is None and any(weights.values()):
        return
    wanted = splits.shifted(weights, deployment.name, 100 if percent is None else percent)
    if wanted != weights:
        mirrors = table.mirrors(tx, deployment.endpoint, but=[deployment.name] if wanted.get(deployment.name) else ())
        table.set_traffic(tx, deployment.endpoint, wanted, author=deployment.author, why=f"{deployment.ref} was deployed", mirrors=mirrors)
        events.record(tx, "TrafficChanged", subject=deployment.endpoint, data={"weights": wanted})
    table.promise_share(tx, deployment.ref, None)


def _fell(deployment: Deployment, reason: Reason | None) -> None:
    """A deployment that had been healthy ended: try again, each time a little later."""
    log.info("deployment.fell ref=%s reason=%s", deployment.ref, reason.message if reason else "")
    restarts = deployment.restarts + 1
    _record(deployment, "restarting", reason=_told_as_a_loop(reason, restarts), handle={}, restarts=restarts, event="DeploymentRestarting")


def _told_as_a_loop(reason: Reason | None, restarts: int) -> Reason | None:
    """*reason*, and from the third fall on that this goes on and when it is tried again."""
    if reason is None or restarts < _LOOP_RESTARTS:
        return reason
    going_on = f"Crash loop: none of its last {restarts - 1} starts lasted a minute; the next one is in {_backoff(restarts):g} s."
    return msgspec.structs.replace(reason, message=f"{reason.message.rstrip('.')}. {going_on}")


def _record(
    deployment: Deployment,
    status: table.Status,
    *,
    reason: Reason | None = None,
    handle: dict[str, Any] | None = None,
    restarts: int | None = None,
    event: str = "",
) -> bool:
    """Write down what is, unless something newer is wanted; says whether it did."""
    with store.writing() as tx:
        current = table.observe(tx, deployment, status=status, reason=reason, handle=handle, restarts=restarts)
        if current and event:
            data = {"model": deployment.model_ref, "reason": reason.message if reason else "", "where": reason.where if reason else ""}
            events.record(tx, event, subject=deployment.ref, data=data)
    return current


def _stop_when_asked_no_more(deployment: Deployment) -> None:
    """Stop it once also those requests reached it that the gateway had led to it already, and of which it still awaited the body."""
    if deployment.status == "healthy" and targets.get(deployment.target).TRAFFIC == "gateway":
        time.sleep(ON_THEIR_WAY_SECONDS)
    _stop(deployment)


def _stop(deployment: Deployment) -> None:
    targets.get(deployment.target).stop(deployment)


def _age(deployment: Deployment) -> float:
    return (store.now() - deployment.changed_at).total_seconds()


def _backoff(restarts: int) -> float:
    """0 s, 0.5 s, 1 s, 2 s … at most 30 s: a lone crash is mended at once, a loop does not burn the machine."""
    return 0.0 if restarts <= 1 else min(_LONGEST_BACKOFF_SECONDS, 0.5 * 2 ** (restarts - 2))


def _fingerprint() -> tuple[float, ...]:
    """Changes with every write to the store, by whomever, at the price of two stats."""
    marks: list[float] = []
    path = Workspace.current().store
    for file in (path, path.with_name(path.name + ".wal")):
        try:
            stat = file.stat()
        except FileNotFoundError:
            continue
        marks += [stat.st_mtime_ns, stat.st_size, stat.st_ino]
    return tuple(marks)
