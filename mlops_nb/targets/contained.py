"""An edge device as a container of this machine's engine: the image brings module and packages, the device's folder all else.

It calls out and listens nowhere.  To a broker on this machine's loopback leads only this machine's network, which it then shares; for any other
it has the engine's usual one.  Its queue and its models are in a folder of this machine, so that the next container goes on where one was killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from .. import engine, packaging
from ..edge.broker import Broker
from ..errors import BadOption, EngineElsewhere, MlopsError
from ..fleet import keys, provisioning
from ..settings import Workspace
from ..store.deployments import Deployment, Reason
from . import Observed, Usage, attempts, containers, cores, local
from .attempts import Attempt
from .containers import Container, Watch

if TYPE_CHECKING:
    from pathlib import Path

    import docker

    from ..progress import Reporter
    from ..store.deployments import DeploymentSpec
    from ..store.environments import Environment
    from ..store.models import ModelVersion

_HOME = PurePosixPath(packaging.CONTENTS["edge"].spec).parent
_STOP_SECONDS = 8
_MADE = "org.mlops-nb.made"
"""Label with the hash of what a container was asked for, by which one of other settings is known."""
_attempts: dict[str, Attempt] = {}  # of this process to bring a device's container up, by its name


# ── before anything is wanted ────────────────────────────────────────────────────────────────────────────────────────


def check(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Raises NoContainerEngine, EngineElsewhere for one of another machine, BadOption."""
    if not engine.is_local():
        raise EngineElsewhere(engine.address(), why="a device's folder would be there, not here")
    facts = engine.facts()
    if spec.cpus and spec.cpus > facts.cores:
        raise BadOption(f"--cpus {spec.cpus:g} is more than the {facts.cores} cores of the container engine.", hint=f"--cpus {facts.cores}")
    if version.engine != "onnxruntime" and environment is None:
        raise BadOption(f"{version.ref} was registered without an environment, from which its image would be made.", hint="--run process")


def prepare(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec, *, report: Reporter) -> dict[str, Any]:
    """Have the module's image in the engine, built unless it is there, and return which one it is.  Raises what `packaging.image_of` raises."""
    facts = engine.facts()
    image = packaging.image_of(version, environment, base=spec.options.get("base"), platform=facts.platform, target="edge", report=report)
    return {"image_id": image.digest, "engine": facts.address}


# ── in the agent ─────────────────────────────────────────────────────────────────────────────────────────────────────


def start(deployment: Deployment) -> str:
    """Have the device's container brought up beside this, unless it runs as it should; the container's name."""
    name = _name(deployment)
    attempts.remember(_address(deployment))
    _attempts[name] = Attempt(partial(_up, deployment, request(deployment)))
    return name


def request(deployment: Deployment) -> dict[str, Any]:
    """What the engine is asked for, all but the user it runs as."""
    from docker.types import Mount

    device, options = _device(deployment), deployment.spec.options
    broker = Broker.of(Workspace.current())
    network = "host" if broker.here else "bridge"
    made = [options["image_id"], network, msgspec.to_builtins(broker), deployment.spec.cpus]
    return attempts.bounds() | {
        "image": options["image_id"],
        "name": _name(deployment),
        "environment": {"HOME": "/tmp"},
        "labels": {
            containers.WORKSPACE: containers.workspace_mark(_address(deployment)),
            containers.DEPLOYMENT: deployment.ref,
            containers.DEVICE: device,
            _MADE: hashlib.sha256(msgspec.json.encode(made)).hexdigest()[:16],
        },
        "mounts": [
            Mount(str(_HOME), str(_settings(device)), type="bind", read_only=True),
            Mount(str(_HOME / "state"), str(keys.folder(device) / "state"), type="bind"),
        ],
        "network_mode": network,
        "nano_cpus": int(deployment.spec.cpus * 1e9) if deployment.spec.cpus else None,
    }


def _up(deployment: Deployment, asked: dict[str, Any]) -> Reason | None:
    """None once it runs as asked, else why it does not.  Raises NoContainerEngine, and what `provisioning.lay_out` raises."""
    found = _watch(deployment).look().get(asked["name"])
    if found and found.state == "running" and found.labels.get(_MADE) == asked["labels"][_MADE]:
        return None
    device = _device(deployment)
    settings, state = _settings(device), keys.folder(device) / "state"
    for folder in (settings, settings / "state", state):  # the last is mounted over the one before
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    provisioning.lay_out(device, settings)
    room = partial(_make_room, deployment=deployment)
    return attempts.ran(deployment, asked, at=_address(deployment), first=room, give=partial(attempts.own, folders=(settings, state)))


def _make_room(client: docker.DockerClient, *, deployment: Deployment) -> None:
    _clear(client, deployment)
    (keys.folder(_device(deployment)) / "state" / "state.json").unlink(missing_ok=True)  # what the former one said last


def trouble(deployment: Deployment) -> Observed | None:
    """None while its container runs, so that the device's own word counts; else what there is instead."""
    attempt, watch = _attempts.get(_name(deployment)), _watch(deployment)
    silence = watch.silence()
    coming = deployment.status in ("pending", "starting", "restarting")
    if attempt and attempt.failed:
        return Observed(state="gone", reason=attempt.failed)
    if silence:
        return Observed(state="starting" if coming else "unhealthy", reason=attempts.silence(silence), unreachable=True)
    if attempt and (attempt.under_way or watch.looked_at <= attempt.ended_at):
        return Observed(state="starting")
    return _seen(deployment, watch.containers().get(_name(deployment)), begun_here=attempt is not None)


def _seen(deployment: Deployment, container: Container | None, *, begun_here: bool) -> Observed | None:
    """What is to be said of a container as the engine shows it."""
    hint = f"%mlops logs {deployment.ref}"
    if container and container.state == "created":
        return Observed(state="gone")  # whoever created it was killed before starting it
    if container is None or container.labels.get(_MADE) != request(deployment)["labels"][_MADE]:
        message = "Its container was made with other settings." if container else "Its container is not there any more: somebody removed it."
        interrupted = deployment.status == "starting" and not begun_here  # by the end of the agent that began it
        return Observed(state="gone", reason=None if interrupted else Reason(kind="exited", message=message, hint=hint))
    if container.state == "paused":
        return Observed(state="unhealthy", reason=Reason(kind="unhealthy", message="Its container is paused.", hint=hint))
    if container.state != "running":
        log = "\n".join(attempts.said(container, at=_address(deployment), lines=20))
        return Observed(state="gone", reason=attempts.ended(deployment, container, log=log))
    return None


def alive(deployment: Deployment) -> bool:
    """Whether its container runs, as of a moment ago; True while the engine does not tell."""
    attempt, watch = _attempts.get(_name(deployment)), _watch(deployment)
    if (attempt and attempt.under_way) or watch.silence() or (attempt and watch.looked_at <= attempt.ended_at):
        return True
    container = watch.containers().get(_name(deployment))
    return container is not None and container.state in ("running", "paused")


def usage(deployment: Deployment) -> Usage:
    """CPU and memory of its container, as the engine counts them."""
    container = _container_now(deployment)
    where = f"device {_device(deployment)}"
    if container is None or container.state != "running":
        return Usage(image=deployment.spec.options.get("image_id", ""), where=where)
    address = _address(deployment)
    cpus = cores.in_use(container.id, lambda: attempts.counters(container, at=address)[0])
    memory_mb = attempts.counters(container, at=address)[1]
    return Usage(cpus=cpus, memory_mb=memory_mb, image=container.image, where=f"{where}, container {container.id[:12]}", pid=container.pid)


def logs(deployment: Deployment, *, lines: int) -> list[str]:
    """The last lines of its container, and before them of those it had before."""
    current = attempts.said(_container_now(deployment), at=_address(deployment), lines=lines)
    if len(current) >= lines:
        return current
    return [*local.tail(keys.folder(_device(deployment)), lines=lines), *current][-lines:]


def stop(deployment: Deployment) -> None:
    """Have the device finish what it has, and remove its container; its log's last lines are kept.  Raises NoContainerEngine."""
    import docker.errors
    import requests

    attempt = _attempts.pop(_name(deployment), None)
    if attempt:
        attempt.give_up()
    silence = _watch(deployment).silence(patience_seconds=attempts.PATIENT_SECONDS)
    if silence and not deployment.handle:
        return  # nothing of it is known to run; what may be there after all is a stray once the engine answers
    if silence:
        raise silence
    try:
        _clear(engine.client(timeout_seconds=attempts.PATIENT_SECONDS, at=_address(deployment)), deployment)
    except (docker.errors.APIError, requests.RequestException) as error:
        raise engine.silent(error, at=_address(deployment)) from error


def _clear(client: docker.DockerClient, deployment: Deployment) -> None:
    attempts.cleared(client, _name(deployment), log_folder=keys.folder(_device(deployment)), seconds=_STOP_SECONDS)


def end_strays(known: Iterable[Deployment]) -> None:
    """Remove this workspace's devices in containers that no deployment is on."""
    attempts.end_strays(lambda container: containers.DEVICE in container.labels, {_name(deployment) for deployment in known})


# ── where things are ─────────────────────────────────────────────────────────────────────────────────────────────────


def _device(deployment: Deployment) -> str:
    return str(deployment.spec.options["device"])


def _name(deployment: Deployment) -> str:
    """The container's name; the mark at its end keeps copies of a workspace apart."""
    device = _device(deployment)
    mark = hashlib.sha256(f"{containers.workspace_mark(_address(deployment))}/{device}".encode()).hexdigest()[:10]
    return f"mlops-device-{device}-{mark}"


def _settings(device: str) -> Path:
    """What the container reads: its specification, and the secrets that names."""
    return keys.folder(device) / "container"


def _address(deployment: Deployment) -> str:
    return deployment.spec.options.get("engine") or engine.address()


def _watch(deployment: Deployment) -> Watch:
    return containers.watch(_address(deployment))


def _container_now(deployment: Deployment) -> Container | None:
    """Its container as of now; None too where the engine does not answer."""
    try:
        return _watch(deployment).look().get(_name(deployment))
    except MlopsError:
        return None
