"""Measure a model version on servers of its own, or a running deployment, and say what to deploy it with."""

from __future__ import annotations

import math
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, Self

import msgspec
import psutil

from .. import environments, hardware, ssh, store, targets
from ..errors import BadOption, DeploymentNotFound, HardwareMissing, ModelFailedUnderLoad, UsageError
from ..progress import SILENT, Reporter
from ..reference import DeploymentRef, ModelRef
from ..store import checks, events, models
from ..store import deployments as table
from ..store import environments as environment_table
from ..store.checks import Profile
from ..store.database import Transaction
from ..store.deployments import Deployment, DeploymentSpec, Reason
from ..store.environments import Environment
from ..store.models import ModelVersion
from . import advice, search, servers
from .advice import Objective, Point, Step
from .load import Job, Loaded
from .rows import bodies
from .servers import Server, Watch

BATCHES = (1, 32, 256)
SECONDS_OF_A_VERSION, SECONDS_OF_A_DEPLOYMENT = 75.0, 7.0
_LEAST_SECONDS_EACH = 1.5
_START_SECONDS = 1.5
_MOST_CONNECTIONS = 64
_ENOUGH_REQUESTS = 20
_DYING_SECONDS = 3.0


class Setting(NamedTuple):
    """One server to measure: what it runs on, and how many cores it gets (None: as it runs)."""

    hardware: str
    cpus: int | None


class Plan(NamedTuple):
    """All that one profile is to measure."""

    subject: str
    version: ModelVersion
    deployment: Deployment | None
    grid: list[Setting]
    batches: list[int]
    objective: Objective
    rps: float | None
    price: float | None
    seconds: float
    unavailable: dict[str, str]
    environment: Environment | None
    """That its servers run in; None for the interpreter here."""

    @property
    def wanted(self) -> list[tuple[Setting, int]]:
        """Every point, in the order of measuring."""
        return [(setting, batch) for setting in self.grid for batch in self.batches]


def profile(
    ref: ModelRef | DeploymentRef | str,
    *,
    hardware: Sequence[str] = (),
    cpus: Sequence[float] = (),
    batches: Sequence[int] = (),
    objective: Objective | str | None = None,
    rps: float | None = None,
    price: float | None = None,
    seconds: float | None = None,
    isolated: bool = False,
    allow_mismatch: bool = False,
    resume: bool = False,
    report: Reporter = SILENT,
) -> Profile:
    """Send rows of the model's own data set at it, find the highest rate that keeps *objective*, and advise what to deploy it with.

    A model version (`churn:3`) is measured on servers of its own, one for each of *hardware* (the CPU unless given) and *cpus* (one
    core and two), held to those cores.  A deployment (`churn/3`) is measured as it runs, beside its callers, who will notice the
    load.  For every batch size (1, 32 and 256), on a schedule that does not wait for answers (see `load`), rates are tried by bisection.

    A version whose packages differ from those here, and any with *isolated*, is measured in an environment of its own, built when it is not
    there yet; *allow_mismatch* measures it here all the same.

    *rps* is what all callers together send, in requests of the smallest batch; *price* is that of one core for an hour; *seconds* is
    how long the whole may take, about (75 for a version, 7 for a deployment).  Every point is stored as it is measured; *resume* goes
    on with an earlier profile of the same version, objective and machine; what is not given is then as the last interrupted one had it.
    The requests are kept out of the telemetry.

    Raises ModelNotFound, DeploymentNotFound and their kin, BadOption, HardwareMissing when nothing that was asked for is here,
    DeploymentFailed when the model does not start or its environment cannot be built, and ModelFailedUnderLoad with its own error;
    KeyboardInterrupt leaves what was measured.
    """
    version, deployment = _subject(ref)
    given = {
        "hardware": list(hardware), "cpus": list(cpus), "batches": list(batches), "objective": objective, "rps": rps, "price": price, "seconds": seconds,
    }  # fmt: skip
    told = _unfinished(version, deployment) if resume else {}
    plan = _plan(
        version, deployment, told | {name: value for name, value in given.items() if value not in (None, "", [])},
        isolated=isolated or bool(told.get("environment") and not allow_mismatch), allow_mismatch=allow_mismatch,
    )  # fmt: skip
    return _finished(plan, _measured(plan, _earlier(plan) if resume else _new(plan), report))


def _measured(plan: Plan, measured: Profile, report: Reporter) -> Profile:
    """*measured* with every point that it lacked, each stored as soon as it is there: one server after the other, with all its batches."""
    missing, of = _missing(plan, measured), len(plan.wanted)
    each = max(_LEAST_SECONDS_EACH, (plan.seconds - _START_SECONDS * len(plan.grid) * (plan.deployment is None)) / of)
    number = of - len(missing)
    try:
        for setting in dict.fromkeys(setting for setting, _ in missing):
            with _server(plan, setting, report) as server, _Generator(server, setting.cpus) as generator, Watch(server) as watch:
                for batch in [batch for wanted, batch in missing if wanted == setting]:
                    number += 1
                    point = _Cell(plan, setting, batch, server, generator, watch, each, report, f"{number} of {of}: ").measured()
                    measured = _kept(plan, measured, point)
    except (KeyboardInterrupt, ModelFailedUnderLoad) as error:
        _tell_what_is_kept(plan, measured, error, report)
        raise
    return measured


def _tell_what_is_kept(plan: Plan, measured: Profile, error: BaseException, report: Reporter) -> None:
    word = "interrupted" if isinstance(error, KeyboardInterrupt) else "the model failed"
    kept = len(plan.wanted) - len(_missing(plan, measured))
    rest = f"{kept} of {len(plan.wanted)} points are kept, --resume measures the rest"
    report.step(f"{word}; {rest}" if kept else f"{word} before anything was measured")


# ── what is to be measured ───────────────────────────────────────────────────────────────────────────────────────────


def _plan(version: ModelVersion, deployment: Deployment | None, told: Mapping[str, Any], *, isolated: bool, allow_mismatch: bool) -> Plan:
    kinds, cpus, batches = told.get("hardware", []), told.get("cpus", []), told.get("batches", list(BATCHES))
    rps, price, seconds = told.get("rps"), told.get("price"), told.get("seconds")
    for name, value in (("--rps", rps), ("--price", price), ("--seconds", seconds), *(("--batch", batch) for batch in batches)):
        if value is not None and not 0 < value < 1e9:
            raise BadOption(f"{name} {value:g} is not a number above 0.", hint="--rps 200, --price 0.05, --seconds 60, --batch 1,32")
    if deployment and (kinds or cpus or isolated or allow_mismatch):
        raise UsageError(f"{deployment.ref} is measured as it runs.", hint=f"%mlops profile {version.ref} --hardware cpu --cpus 1,2")
    environment = None if deployment else environment_for(version, isolated=isolated, allow_mismatch=allow_mismatch)
    usable, unavailable = _usable(version, kinds or ["cpu"], isolated=environment is not None)
    grid = [_as_it_runs(deployment)] if deployment else [Setting(kind, count) for kind in usable for count in _checked_cpus(cpus)]
    subject = deployment.ref if deployment else version.ref
    seconds = seconds or (SECONDS_OF_A_DEPLOYMENT if deployment else SECONDS_OF_A_VERSION)
    return Plan(
        subject, version, deployment, grid, sorted(set(batches)) or [1], _objective(told.get("objective")), rps, price, seconds, unavailable, environment
    )


def _objective(told: Objective | str | None) -> Objective:
    return Objective.parse(told) if isinstance(told, str) else told or Objective()


def _subject(ref: ModelRef | DeploymentRef | str) -> tuple[ModelVersion, Deployment | None]:
    """The version to measure, and the deployment where one is meant: `churn/3`, or `churn` when an endpoint is called so."""
    with store.reading() as tx:
        if isinstance(ref, str):
            endpoints = [endpoint.name for endpoint in table.endpoints(tx)]
            ref = DeploymentRef.parse(ref) if "/" in ref or ref in endpoints else ModelRef.parse(ref)
        if isinstance(ref, ModelRef):
            return models.get(tx, ref), None
        table.endpoint(tx, ref.endpoint)
        known = table.of(tx, ref.endpoint)
        found = next((d for d in known if ref.name in (None, d.name)), None)
        if not found:
            raise DeploymentNotFound(ref.endpoint, ref.name or "", known=[d.name for d in known])
        version = models.get(tx, ModelRef(found.model, version=found.version))
    targets.require(found.target, "invoke")
    if found.status != "healthy":
        raise BadOption(f"{found.ref} is {found.status}; only a healthy deployment can be measured.", hint=f"%mlops logs {found.ref}")
    return version, found


def environment_for(version: ModelVersion, *, isolated: bool = False, allow_mismatch: bool = False) -> Environment | None:
    """The one its servers need for themselves.  Raises BadOption when one is asked for and none was recorded."""
    if not version.environment:
        if isolated:
            raise BadOption(f"{version.ref} was registered without an environment.", hint=f"%mlops profile {version.ref}")
        return None
    with store.reading() as tx:
        made_with = environment_table.get(tx, ModelRef.parse(version.environment))
    return made_with if isolated or (not allow_mismatch and _other_packages(version)) else None


def _usable(version: ModelVersion, kinds: Sequence[str], *, isolated: bool) -> tuple[list[str], dict[str, str]]:
    """Those of *kinds* that are here, and why the others are not.  Raises HardwareMissing when none is."""
    usable, unavailable, last = [], {}, None
    for kind in dict.fromkeys(kinds):
        try:
            hardware.check_for(version.engine, kind, isolated=isolated)
            usable.append(kind)
        except HardwareMissing as error:
            unavailable[kind], last = error.reason, error
    if last and not usable:
        raise last
    return usable, unavailable


def _checked_cpus(cpus: Sequence[float]) -> list[int]:
    there = len(hardware.cores())
    for count in cpus:
        if count != int(count) or count < 1:
            raise BadOption(f"--cpus {count:g}: a server is held to whole cores.", hint="--cpus 1,2")
        if count > there:
            raise BadOption(f"--cpus {count:g}: this machine has {there}.", hint=f"--cpus {there}")
    return sorted({int(count) for count in cpus}) or [count for count in (1, 2) if count <= there]


def _as_it_runs(deployment: Deployment) -> Setting:
    cpus = deployment.spec.cpus
    return Setting(deployment.spec.hardware, max(1, math.ceil(cpus)) if cpus else None)


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _new(plan: Plan) -> Profile:
    where = plan.deployment
    told: dict[str, Any] = {
        "objective": str(plan.objective), "hardware": list(dict.fromkeys(setting.hardware for setting in plan.grid)),
        "cpus": list(dict.fromkeys(setting.cpus for setting in plan.grid)), "batches": plan.batches, "seconds": plan.seconds, "rps": plan.rps,
        "price": plan.price, "machine": machine(), "unavailable": plan.unavailable, "other_packages": [] if plan.environment else _other_packages(plan.version),
        "environment": plan.environment.ref if plan.environment else None, "limits": "as it is deployed" if where else servers.limits(),
    }  # fmt: skip
    return Profile(
        id=str(uuid.uuid4()), endpoint=where.endpoint if where else "", deployment=where.name if where else "", model=plan.version.model,
        version=plan.version.version, hardware=_in_words(plan), points=[], settings=told, complete=False, time=store.now(),
    )  # fmt: skip


def _earlier(plan: Plan) -> Profile:
    """The newest profile of the same thing, objective, machine and environment, with what is asked now; a new one when there is none."""
    new = _new(plan)
    with store.reading() as tx:
        known = _known(tx, plan.version, plan.deployment)
    same = next((p for p in known if all(p.settings.get(name) == new.settings[name] for name in ("objective", "machine", "environment"))), None)
    return msgspec.structs.replace(same, settings=new.settings, hardware=new.hardware, complete=False) if same else new


def _unfinished(version: ModelVersion, deployment: Deployment | None) -> dict[str, Any]:
    """What the newest profile of the same thing that was interrupted here was told to measure."""
    with store.reading() as tx:
        known = _known(tx, version, deployment)
    told = next((profile.settings for profile in known if not profile.complete and profile.settings["machine"] == machine()), {})
    if deployment:  # as it runs
        return {name: value for name, value in told.items() if name not in ("hardware", "cpus", "environment")}
    return told | {"hardware": [*told.get("hardware", ()), *told.get("unavailable", ())]}


def _known(tx: Transaction, version: ModelVersion, deployment: Deployment | None) -> list[Profile]:
    endpoint, name = (deployment.endpoint, deployment.name) if deployment else ("", "")
    return checks.profiles_of(tx, version.model, version.version, endpoint=endpoint, deployment=name)


def _missing(plan: Plan, measured: Profile) -> list[tuple[Setting, int]]:
    """What of the plan is not measured yet."""
    known = {(p["hardware"], p["cpus"], p["batch"]) for p in measured.points}
    return [(setting, batch) for setting, batch in plan.wanted if (*setting, batch) not in known]


def _kept(plan: Plan, measured: Profile, point: Point) -> Profile:
    """*measured* with one point more, stored, with the advice so far."""
    more = [*measured.points, msgspec.to_builtins(point)]
    advised = msgspec.to_builtins(_advice(plan, more))
    measured = msgspec.structs.replace(measured, points=more, advice=advised, time=store.now())
    with store.writing() as tx:
        checks.put_profile(tx, measured)
    return measured


def _finished(plan: Plan, measured: Profile) -> Profile:
    order = {(*setting, batch): number for number, (setting, batch) in enumerate(plan.wanted)}
    points = sorted(measured.points, key=lambda p: order.get((p["hardware"], p["cpus"], p["batch"]), len(order)))
    advised = msgspec.to_builtins(_advice(plan, points))
    measured = msgspec.structs.replace(measured, points=points, advice=advised, complete=True)
    with store.writing() as tx:
        checks.put_profile(tx, measured)
        events.record(tx, "ModelProfiled", subject=plan.subject, data={"hardware": measured.hardware, "advice": advised["why"]})
    return measured


def _advice(plan: Plan, points: Sequence[dict[str, Any]]) -> advice.Advice:
    asked = {(*setting, batch) for setting, batch in plan.wanted}
    known = [point for point in msgspec.convert(list(points), list[Point]) if (point.hardware, point.cpus, point.batch) in asked]
    alone = f"servers of its own{f' in environment {plan.environment.ref}' if plan.environment else ''}, on cores of their own where there are enough"
    how = "the running deployment, beside its callers" if plan.deployment else alone
    engine = plan.deployment.spec.options.get("engine", "") if plan.deployment else ""
    where, way = (f"the machine of {engine}", "through an ssh tunnel") if ssh.is_meant(engine) else (machine(), "over loopback")
    told = f"{plan.subject} on {where}: {how}; rows of {plan.version.dataset or 'its sample'}, open-loop load {way}, without the gateway."
    return advice.advise(known, plan.objective, rps=plan.rps, price=plan.price, measured=told)


def _in_words(plan: Plan) -> str:
    """`cpu, 1 and 2 cores`; the deployment's own words for one that runs."""
    kinds = " and ".join(dict.fromkeys(setting.hardware for setting in plan.grid))
    counts = list(dict.fromkeys(setting.cpus for setting in plan.grid if setting.cpus))
    return f"{kinds}, {' and '.join(map(str, counts))} core{'s' if counts[-1] > 1 else ''}" if counts else kinds


def machine() -> str:
    """`AMD EPYC, 2 cores, 25 GB`: what figures of another machine are not to be mixed with."""
    cpu = hardware.asked("cpu")
    return f"{cpu.device}, {cpu.cores} core{'s' if cpu.cores != 1 else ''}, {round((cpu.memory_mb or 0) / 1000)} GB"


def _other_packages(version: ModelVersion) -> list[str]:
    """How the packages here differ from those a Python model was made with: then something else is measured than was made."""
    if version.engine == "onnxruntime" or not version.environment:
        return []
    with store.reading() as tx:
        made_with = environment_table.get(tx, ModelRef.parse(version.environment))
    return environments.differences(made_with)


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _server(plan: Plan, setting: Setting, report: Reporter) -> AbstractContextManager[Server]:
    if plan.deployment:
        return servers.running(plan.deployment)
    assert setting.cpus
    report.step(f"starting {plan.subject} on {setting.hardware} with {setting.cpus} core{'s' if setting.cpus > 1 else ''}")
    on, _ = servers.cores_for(setting.cpus)
    spec = DeploymentSpec(hardware=setting.hardware, cpus=setting.cpus, isolated=plan.environment is not None)
    return servers.started(plan.version, spec, plan.environment, on=on, report=report)


class _Generator:
    """The load's process, on the cores that the server leaves."""

    def __init__(self, server: Server, cpus: int | None) -> None:
        self.server = server
        self._cpus = cpus

    def __enter__(self) -> Self:
        # a session of its own, so that Ctrl-C in a terminal is left to us
        self._process = subprocess.Popen([sys.executable, "-m", "mlops_nb.profiling"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        if self.server.own and self._cpus:
            servers.pin(self._process.pid, servers.cores_for(self._cpus)[1])
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._process.stdin
        if kind is not None:
            self._process.kill()
        with suppress(BrokenPipeError):  # it is gone already
            self._process.stdin.close()
        self._process.wait()

    def sends(self, sent: list[str], **how: Any) -> Loaded:
        """What came of one stretch of load."""
        server = self.server
        job = Job(port=server.port, token_file=server.token_file, bodies=sent, **how)
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Loaded)


class _Cell(msgspec.Struct):
    """One point being measured, within about *seconds*."""

    plan: Plan
    setting: Setting
    batch: int
    server: Server
    generator: _Generator
    watch: Watch
    seconds: float
    report: Reporter
    place: str
    own_cpu_seconds: float = 0.0
    """Taken by the server and the load so far."""

    def measured(self) -> Point:
        """Alone, then as much as it can, then the highest rate between that keeps the objective."""
        objective, sent = self.plan.objective, bodies(self.plan.version, self.batch)
        busy, began = _busy_seconds(), time.monotonic()
        self._say("one request at a time")
        self._load(sent, seconds=0.02 * self.seconds, connections=1, least=3)
        alone, alone_cpu = self._load(sent, seconds=0.12 * self.seconds, connections=1, least=5)
        self._say("as many as it takes")
        full, _ = self._load(sent, seconds=0.14 * self.seconds, connections=_within(200 / max(0.01, alone.p50_ms), 2, 16))
        can_be_kept = _percentile(alone, objective) <= objective.ms
        most = full.requests / full.seconds
        steps = search.highest_rate(lambda rate: self._tried(sent, rate), most=1.25 * most) if can_be_kept else []
        elsewhere = (_busy_seconds() - busy - self.own_cpu_seconds) / (time.monotonic() - began) / (psutil.cpu_count() or 1) * 100
        return self._point(alone, alone_cpu, most, full.limited, max(0.0, elsewhere), steps)

    def _point(self, alone: Loaded, alone_cpu: float, most: float, limited: bool, elsewhere: float, steps: list[Step]) -> Point:
        best = search.best(steps)
        at = best or alone
        return Point(
            hardware=self.setting.hardware, cpus=self.setting.cpus, batch=self.batch, rate=best.rate if best else 0.0, requests=at.requests,
            rows_per_second=(best.rate if best else alone.requests / alone.seconds) * self.batch, p50_ms=at.p50_ms, p95_ms=at.p95_ms, p99_ms=at.p99_ms,
            cpu_percent=best.cpu_percent if best else alone_cpu, memory_mb=self.watch.memory_mb(),
            peak_memory_mb=max(self.watch.peak_mb, servers.peak_until_now(self.server.pid)), cold_start_seconds=self.server.cold_start_seconds,
            alone_p50_ms=alone.p50_ms, alone_p95_ms=alone.p95_ms, alone_p99_ms=alone.p99_ms, most_rows_per_second=most * self.batch,
            most_requests_per_second=most, limited=limited or bool(best and best.limited), elsewhere_percent=elsewhere, curve=steps,
        )  # fmt: skip

    def _tried(self, sent: list[str], rate: float) -> Step:
        """One rate; once more when most of its requests were quick enough, for a hiccup of the machine is not the model's."""
        step = self._step(sent, rate)
        return self._step(sent, rate) if not step.kept and step.p50_ms <= self.plan.objective.ms / 2 else step

    def _step(self, sent: list[str], rate: float) -> Step:
        objective = self.plan.objective
        self._say(f"{rate:,.0f} requests/s" if rate >= 10 else f"{rate:.1f} requests/s")
        seconds = 0.11 * self.seconds
        loaded, cpu = self._load(
            sent, seconds=seconds, rate=rate, connections=_within(2 * rate * objective.ms / 1000, 8, _MOST_CONNECTIONS),
            least=_within(4 * rate * seconds, 2, _ENOUGH_REQUESTS), give_up_ms=objective.ms, give_up_share=1 - objective.percentile / 100,
        )  # fmt: skip
        kept = not loaded.gave_up and not loaded.refused and not loaded.unanswered and _percentile(loaded, objective) <= objective.ms
        return Step(
            rate=rate, p50_ms=loaded.p50_ms, p95_ms=loaded.p95_ms, p99_ms=loaded.p99_ms, kept=kept, limited=loaded.limited, requests=loaded.requests,
            cpu_percent=cpu,
        )  # fmt: skip

    def _load(self, sent: list[str], **how: Any) -> tuple[Loaded, float]:
        """What came of it, and the server's CPU in percent of one core meanwhile.  Raises ModelFailedUnderLoad."""
        before = self.watch.cpu_seconds()
        loaded = self.generator.sends(sent, **how)
        used = max(0.0, self.watch.cpu_seconds() - before)
        self.own_cpu_seconds += loaded.cpu_seconds + (used if self.server.pid else 0.0)
        if loaded.status:
            raise self._failure(loaded, how.get("rate"))
        return loaded, used / loaded.seconds * 100

    def _failure(self, loaded: Loaded, rate: float | None) -> ModelFailedUnderLoad:
        under = f"{self.batch:,} row{'s' if self.batch > 1 else ''} a request" + (f", {rate:,.0f} requests/s" if rate else "")
        subject, worded = self.server.subject, self.server.worded
        if loaded.status < 0 and (reason := self._last_words()):
            return ModelFailedUnderLoad(subject, worded(reason.message), under=under, where=worded(reason.where), detail=worded(reason.traceback or reason.log))
        return ModelFailedUnderLoad(subject, worded(_own_words(loaded)), under=under)

    def _last_words(self) -> Reason | None:
        """What a server died of that hung up on us; it takes a moment to be gone."""
        deadline = time.monotonic() + _DYING_SECONDS
        while not (reason := self.server.why_gone()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return reason

    def _say(self, doing: str) -> None:
        self.report.step(f"{self.place}{advice.setting_of(*self.setting, self.batch)}: {doing}")


def _own_words(loaded: Loaded) -> str:
    """What the model said: the error of the protocol's error shape, else the text itself."""
    try:
        said = msgspec.json.decode(loaded.error)
    except msgspec.DecodeError:
        said = loaded.error
    words = said.get("error", said) if isinstance(said, dict) else said
    return f"{words} (answered {loaded.status})" if loaded.status > 0 else str(words)


def _busy_seconds() -> float:
    """CPU time that all programs of this machine took so far."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)


def _percentile(loaded: Loaded, objective: Objective) -> float:
    return {50: loaded.p50_ms, 95: loaded.p95_ms, 99: loaded.p99_ms}[objective.percentile]


def _within(value: float, least: int, most: int) -> int:
    return max(least, min(most, math.ceil(value)))
