"""The edge target: a device that scores over MQTT, told by its twin what to run.

A device fetches a version when it can and goes on with the one it has until then.  One that runs on this machine, as a process (`--run process`)
or in a container (`--run container`, see `contained`), is started and ended here; any other only listens to the broker.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from .. import artifacts, environments, processes, store
from ..edge import broker as brokers
from ..edge import twin
from ..edge.broker import Broker
from ..edge.link import publish_once
from ..edge.module import State
from ..edge.spec import DeviceSpec
from ..edge.twin import Desired, Reported
from ..errors import BadOption, DeviceTaken, EnvironmentMismatch, TargetCannot
from ..fleet import keys
from ..fleet.listening import Fleet
from ..safety import checked_name, names_a_secret
from ..settings import Workspace
from ..store import deployments as table
from ..store import devices
from ..store.deployments import Deployment, Reason
from ..telemetry import files
from . import Observed, Usage, contained, cores, local

if TYPE_CHECKING:
    from pathlib import Path

    from ..progress import Reporter
    from ..store.deployments import DeploymentSpec
    from ..store.environments import Environment
    from ..store.models import ModelVersion, StoredFile

ABILITIES = frozenset({"logs", "usage", "capture", "cpus", "replace"})
OPTIONS = frozenset({"device", "run", "topic_in", "topic_out", "base", "image_id", "engine"})
TRAFFIC = "none"
RUNS = ("process", "container")
"""How a device may run on this machine."""
_COMMAND = ("-m", "mlops_nb.edge")
_FAILED = "module.failed "
_STOP_SECONDS = 8.0
_LOG_BYTES = 8_000_000
_fleet: Fleet | None = None  # the agent's


# ── before anything is wanted ────────────────────────────────────────────────────────────────────────────────────────


def check(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Raises BadOption, BrokerNotSet, MissingExtra, TargetCannot for an entry script, EnvironmentMismatch for Python code run in a process here.

    Of a container also NoContainerEngine, EngineElsewhere.
    """
    _check_device(version, spec.options)
    _check_topics(spec.options)
    _check_run(spec.options)
    if spec.options.get("run") == "process":
        _check_loads_here(version, environment, spec)
    brokers.paho()
    Broker.of(Workspace.current())
    if spec.options.get("run") == "container":
        contained.check(version, environment, spec)


def _check_device(version: ModelVersion, options: Mapping[str, Any]) -> None:
    if not options.get("device"):
        raise BadOption("An edge deployment names its device.", hint=f"--to edge --device {version.model}-1")
    checked_name(options["device"], what="device")
    if version.engine == "script":
        raise TargetCannot("edge", "run an entry script", able=["local", "docker", "kubernetes"])


def _check_topics(options: Mapping[str, Any]) -> None:
    for name, what in (("topic_in", "the topic of requests"), ("topic_out", "the topic of answers")):
        twin.checked_topic(options.get(name) or "a", what=what)
    if options.get("topic_in") and options.get("topic_in") == options.get("topic_out"):
        raise BadOption(f"Requests and answers cannot share the topic {options['topic_in']}.", hint="another --topic-out")


def _check_run(options: Mapping[str, Any]) -> None:
    run = options.get("run")
    if run and run not in RUNS:
        raise BadOption(f"A device cannot run as {run!r} here.", hint="--run process or --run container")
    if options.get("base") and run != "container":
        raise BadOption("--base names what a container's image is built upon, and this device runs in none.", hint="--run container")


def _check_loads_here(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Raises EnvironmentMismatch where the model is Python code that was made with other packages than this interpreter has."""
    if version.engine == "onnxruntime" or environment is None or spec.allow_mismatch:
        return
    if different := environments.differences(environment):
        raise EnvironmentMismatch(version.ref, different)


def prepare(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec, *, ref: str, report: Reporter) -> dict[str, Any]:
    """Give the broker the version's files, from which the device fetches what it lacks; build the image where it runs in a container here.

    Raises DeviceTaken, BadOption for a device that runs here another way, BrokerUnreachable, and what `packaging.image_of` raises.
    """
    _check_free(spec.options, ref)
    prepared = contained.prepare(version, environment, spec, report=report) if spec.options.get("run") == "container" else {}
    broker = Broker.of(Workspace.current())
    for file in version.files:
        report.step(f"giving {file.path} ({file.bytes / 1e6:.1f} MB) to the broker")
        publish_once(broker, _chunks(file), seconds=60)
    if not spec.options.get("run") and not _online(spec.options["device"]):
        report.step(f"{spec.options['device']} is not online; it fetches {version.ref} when it comes")
    return prepared


def _check_free(options: Mapping[str, Any], ref: str) -> None:
    """Raises DeviceTaken where another deployment is on the device, BadOption where this one runs here another way."""
    device, run = options["device"], options.get("run")
    with store.reading() as tx:
        on_it = [d for d in table.of(tx) if d.target == "edge" and d.spec.options.get("device") == device]
    if other := next((d for d in on_it if d.ref != ref and d.status != "failed"), None):
        raise DeviceTaken(device, by=other.ref)
    if before := next((d for d in on_it if d.ref == ref and d.spec.options.get("run") not in (None, run)), None):
        raise BadOption(f"{device} runs here as a {before.spec.options['run']}; it changes that only once it ended.", hint=f"%mlops undeploy {ref}")


def _online(device: str) -> bool:
    with store.reading() as tx:
        known = devices.get(tx, device)
    return known is not None and known.online


def _chunks(file: StoredFile) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    with artifacts.address(file.sha256).open("rb") as content:
        for number in range(-(-file.bytes // twin.CHUNK_BYTES)):
            yield twin.chunk_topic(file.sha256, number), content.read(twin.CHUNK_BYTES), {}


# ── in the agent ─────────────────────────────────────────────────────────────────────────────────────────────────────


def start(deployment: Deployment, version: ModelVersion, *, context: dict[str, Any]) -> dict[str, Any]:
    """Tell the device what to run, and start it where it runs here; the handle has `device`, `generation`, `url`, and `pid` or `container`."""
    device = deployment.spec.options["device"]
    desired = _desired(deployment, version)
    _write_signature(deployment, version)
    body = msgspec.json.encode(desired)
    mac = twin.sign(body, keys.twin_key(device), device=device)
    _listening().publish(twin.desired_topic(device), body, UserProperty=[("mac", mac)], ContentType="application/json")
    handle = {"device": device, "generation": desired.generation, "url": f"{Broker.of(Workspace.current()).url}/{desired.topic_in}"}
    return handle | _started_here(deployment)


def _started_here(deployment: Deployment) -> dict[str, Any]:
    run = deployment.spec.options.get("run")
    if run == "container":
        return {"container": contained.start(deployment)}
    return {"pid": _ensured(deployment.spec.options["device"])} if run else {}


def observe(deployment: Deployment) -> Observed:
    """What the device says of itself; of one that runs here also whether it lives."""
    device, here = deployment.spec.options["device"], bool(deployment.spec.options.get("run"))
    seen = _ended_here(deployment)
    if seen and not seen.unreachable:
        return seen
    fleet = _listening()
    state = _state_here(device) if here else None
    heard = fleet.heard.get(device)
    reported = state.reported if state else heard.reported if heard else None
    if seen and not (heard and heard.online):  # a container runs on without its engine, and may tell so itself
        return seen
    trouble = (state.link if state else "") or fleet.trouble
    if trouble:
        return _waiting(deployment, f"The broker at {fleet.broker.url} cannot be used: {trouble}.")
    if not here and not (heard and heard.online):
        return _waiting(deployment, f"The device {device} is not online; it runs {deployment.model_ref} once it is.")
    return _as_reported(deployment, reported)


def _ended_here(deployment: Deployment) -> Observed | None:
    """What there is instead of a device that should run here; None while it runs."""
    run = deployment.spec.options.get("run")
    if run == "container":
        return contained.trouble(deployment)
    if not run or _process(deployment.spec.options["device"]):
        return None
    log = logs(deployment, lines=20)
    why = next((line.partition(_FAILED)[2] for line in reversed(log) if line.startswith(_FAILED)), "")
    message = f"The module ended: {why}" if why else "The module ended."
    return Observed(state="gone", reason=Reason(kind="exited", message=message, log="\n".join(log), hint=f"%mlops logs {deployment.ref}"))


def _as_reported(deployment: Deployment, reported: Reported | None) -> Observed:
    if reported is None or reported.generation != deployment.handle.get("generation"):
        return _waiting(deployment, f"The device {deployment.spec.options['device']} has not said yet that it got {deployment.model_ref}.")
    if reported.state == "running":
        return Observed(state="healthy")
    if reported.state == "failed":
        still = f"; it goes on with {reported.model}" if reported.model else ""
        reason = Reason(kind="refused by the device", message=f"{reported.device} could not run {deployment.model_ref}: {reported.reason}{still}.")
        return Observed(state="gone" if deployment.status in ("starting", "restarting") else "unhealthy", reason=reason, mending=True)
    return _waiting(deployment, f"The device {reported.device} fetches the files of {deployment.model_ref}.")


def _waiting(deployment: Deployment, why: str) -> Observed:
    """A device out of reach, or on its way, does what it did: nothing is to be done but wait."""
    reason = Reason(kind="waits for the device", message=why, hint="%mlops edge devices")
    return Observed(state="starting" if deployment.status in ("starting", "restarting") else "unhealthy", reason=reason, mending=True, away=True)


def alive(deployment: Deployment) -> bool:
    """Whether its process or container lives; of a device elsewhere nothing else can be known quickly than that it was wanted."""
    if deployment.spec.options.get("run") == "container":
        return contained.alive(deployment)
    return not deployment.spec.options.get("run") or _process(deployment.spec.options["device"]) is not None


def asked_instead(deployment: Deployment) -> str:
    """How it is asked although nothing leads to it over HTTP."""
    device = deployment.spec.options.get("device") or deployment.name
    topic = deployment.spec.options.get("topic_in") or f"{deployment.endpoint}/{device}/in"
    return f'publish {{"data": …}} to {topic} with any MQTT client, or mlops_nb.edge.requester.Requester(broker, {topic!r}, take)'


def usage(deployment: Deployment) -> Usage:
    """CPU and memory of a device that runs here; of any, what executes the model as it reported."""
    device = deployment.spec.options["device"]
    with store.reading() as tx:
        known = devices.get(tx, device)
    hardware = ", ".join((known.reported if known else {}).get("providers", []))
    if deployment.spec.options.get("run") == "container":
        return msgspec.structs.replace(contained.usage(deployment), hardware=hardware)
    process = _process(device)
    try:
        if process:
            return Usage(
                cpus=cores.in_use(f"process {process.pid}", lambda: cores.spent_by(process)),
                memory_mb=process.memory_info().rss / 1e6,
                where=f"device {device}",
                hardware=hardware,
            )
    except psutil.Error:
        pass  # it ended meanwhile
    return Usage(where=f"device {device}", hardware=hardware)


def share(endpoint: str, deployments: Sequence[Deployment], weights: Mapping[str, int]) -> None:
    """Nothing: each device has its own topics."""


def stop(deployment: Deployment) -> None:
    """End the process or container that runs here; one that is withdrawn is told so by its twin, and the broker forgets its files."""
    device = deployment.spec.options["device"]
    if deployment.wanted == "stopped":
        _withdraw(deployment)
    run = deployment.spec.options.get("run")
    if run == "container":
        contained.stop(deployment)
    elif run and (process := _process(device)):
        processes.end(process, patient_seconds=_STOP_SECONDS)


def _withdraw(deployment: Deployment) -> None:
    with store.reading() as tx:
        others = [d for d in table.of(tx) if d.target == "edge" and d.ref != deployment.ref]
        needed = {file.sha256 for d in others for file in _files(tx, d)}
        gone = [file for file in _files(tx, deployment) if file.sha256 not in needed]
    fleet = _listening()
    fleet.publish(twin.desired_topic(deployment.spec.options["device"]), b"")
    for file in gone:
        for topic, _, _ in _chunks(file):
            fleet.publish(topic, b"")


def _files(tx: store.Transaction, deployment: Deployment) -> list[StoredFile]:
    from ..errors import NotFound
    from ..reference import ModelRef
    from ..store import models

    try:
        return models.get(tx, ModelRef(deployment.model, version=deployment.version)).files
    except NotFound:
        return []


def end_strays(known: Iterable[Deployment]) -> None:
    """Listen while there are edge deployments; end devices of this workspace that none of them is on."""
    global _fleet
    known = list(known)
    if known:
        _listening()
    elif _fleet:
        _fleet.stop()
        _fleet = None
    if keys.root().is_dir():
        contained.end_strays(d for d in known if d.spec.options.get("run") == "container")
        expected = {str(_spec_file(d.spec.options["device"])) for d in known if d.spec.options.get("run") == "process"}
        for process in processes.started_with(_COMMAND):
            spec = process.info["cmdline"][-1]
            if spec.startswith(f"{keys.root()}{os.sep}") and spec not in expected:
                processes.end(process, patient_seconds=_STOP_SECONDS)


def logs(deployment: Deployment, *, lines: int) -> list[str]:
    """The log of a device that runs here; of another what it reported last."""
    device = deployment.spec.options["device"]
    run = deployment.spec.options.get("run")
    if run:
        return contained.logs(deployment, lines=lines) if run == "container" else local.tail(keys.folder(device), lines=lines)
    with store.reading() as tx:
        known = devices.get(tx, device)
    told = known.reported if known else {}
    return [f"{told['time']} state={told['state']} model={told.get('model', '')} {told.get('reason', '')}".rstrip()] if told else []


# ── a device's files here ────────────────────────────────────────────────────────────────────────────────────────────


def device_spec(device: str) -> DeviceSpec:
    """How the module runs for *device* on this machine.  Raises what `Broker.of` raises."""
    folder = keys.folder(device)
    return DeviceSpec(device=device, broker=Broker.of(Workspace.current()), folder=str(folder / "state"), twin_key_file=str(folder / "twin.key"))


def _spec_file(device: str) -> Path:
    return keys.folder(device) / "spec.json"


def _desired(deployment: Deployment, version: ModelVersion) -> Desired:
    device, options = deployment.spec.options["device"], deployment.spec.options
    return Desired(
        generation=f"{deployment.ref}#{deployment.generation}-{deployment.created_at.timestamp():.6f}", endpoint=deployment.endpoint,
        deployment=deployment.name, model=version.model, version=version.version, hash=version.hash, flavor=version.flavor, engine=version.engine,  # type: ignore[arg-type]
        files=version.files, signature=version.signature, trusted=version.trusted, topic_in=options.get("topic_in") or f"{deployment.endpoint}/{device}/in",
        topic_out=options.get("topic_out") or f"{deployment.endpoint}/{device}/out",
        capture_percent=Workspace.current().settings().capture_payload_percent, cpus=deployment.spec.cpus,
    )  # fmt: skip


def _write_signature(deployment: Deployment, version: ModelVersion) -> None:
    """Beside the telemetry that will come, so that its columns have their types."""
    folder = files.folder(deployment.endpoint, deployment.name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "signature.json").write_bytes(msgspec.json.encode(version.signature))


def _listening() -> Fleet:
    """The agent's ear at the broker, begun on first use, and anew when the settings name another."""
    global _fleet
    broker = Broker.of(Workspace.current())
    if _fleet and _fleet.broker != broker:
        _fleet.stop()
        _fleet = None
    if _fleet is None:
        _fleet = Fleet(broker)
        _fleet.start()
    return _fleet


def _state_here(device: str) -> State | None:
    try:
        return msgspec.json.decode((keys.folder(device) / "state" / "state.json").read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _ensured(device: str) -> int:
    """The pid of the device's process, which is started unless it runs."""
    keys.twin_key(device)
    keys.write_private(_spec_file(device), msgspec.json.encode(device_spec(device)))
    if process := _process(device):
        return process.pid
    log_file = keys.folder(device) / "log"
    if log_file.exists() and log_file.stat().st_size > _LOG_BYTES:
        log_file.replace(log_file.with_suffix(".1"))
    (keys.folder(device) / "state" / "state.json").unlink(missing_ok=True)
    variables = {name: value for name, value in os.environ.items() if not names_a_secret(name)}
    with log_file.open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, *_COMMAND, str(_spec_file(device))], cwd=keys.folder(device), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=variables | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    (keys.folder(device) / "pid").write_text(str(started.pid))
    return processes.ours(started)


def _process(device: str) -> psutil.Process | None:
    """The device's process on this machine, unless it ended or the pid is somebody else's by now."""
    try:
        pid = int((keys.folder(device) / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return processes.again(pid, [*_COMMAND, str(_spec_file(device))])
