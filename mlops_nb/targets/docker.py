"""The Docker target: each deployment is a container, published on 127.0.0.1 of the machine its engine is on.

An engine of another machine is reached over ssh (`remote`): everything else holds for it as for one that is here.

The agent restarts it, not the engine: what a container died of is told before the next one takes its place, and the pauses between attempts are
those of every other deployment.  An engine that does not answer holds nobody up: what is known of it comes from `containers`, and bringing a
container up takes place beside the agent's loop.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from .. import engine, hardware, packaging, ports, ssh
from ..errors import BadOption, EngineElsewhere, HardwareMissing, ImageMissing, ImageOfAnother, MlopsError, PortInUse
from ..packaging import images
from ..safety import path_inside
from ..settings import Workspace
from ..store.deployments import Deployment, Reason
from . import Observed, Usage, attempts, containers, cores, local, remote
from .attempts import Attempt
from .containers import Container, Watch

if TYPE_CHECKING:
    import docker

    from ..progress import Reporter
    from ..store.deployments import DeploymentSpec
    from ..store.environments import Environment
    from ..store.models import ModelVersion

ABILITIES = frozenset({"traffic", "invoke", "logs", "usage", "capture", "cpus", "memory", "gpus", "port", "variables", "isolated"})
OPTIONS = frozenset({"image", "base", "image_id", "engine"})
TRAFFIC = "gateway"
_STOP_SECONDS = 8
_PULL_SECONDS = 600.0
_PORT = 8080
_VOLUME = "/run/mlops"
_RUN, _CAPTURE = f"{_VOLUME}/own", f"{_VOLUME}/telemetry"
_MODEL_LABEL, _HASH_LABEL = "org.mlops-nb.model", "org.mlops-nb.model-hash"
_fetchers: dict[str, remote.Fetcher] = {}  # of this process, by the container's name
_attempts: dict[str, Attempt] = {}  # of this process to bring a container up, by its name


# ── before anything is wanted ────────────────────────────────────────────────────────────────────────────────────────


def check(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Raises NoContainerEngine, EngineElsewhere for one of another machine that is not reached over ssh, BadOption, HardwareMissing."""
    if not engine.is_local() and not ssh.is_meant(engine.address()):
        raise EngineElsewhere(engine.address(), why="a deployment's port is led here over ssh, and this is no ssh:// address")
    facts = engine.facts()
    if spec.cpus and spec.cpus > facts.cores:
        raise BadOption(f"--cpus {spec.cpus:g} is more than the {facts.cores} cores of the container engine.", hint=f"--cpus {facts.cores}")
    if spec.memory_mb and spec.memory_mb > facts.memory_mb:
        most = int(facts.memory_mb)
        raise BadOption(f"--memory {spec.memory_mb}m is more than the {most:,} MB of the container engine.", hint=f"--memory {most}m")
    if spec.gpus and not facts.gpus:
        raise HardwareMissing("gpu", reason=f"the container engine at {facts.address} has no NVIDIA runtime", available=["cpu"])
    if spec.gpus and version.engine == "onnxruntime":
        raise BadOption(f"--gpus {spec.gpus}: {version.ref} runs on the CPU in a container, and would use none.", hint="--to local --hardware cuda")
    if version.engine != "onnxruntime" and environment is None and "image" not in spec.options:
        raise BadOption(f"{version.ref} was registered without an environment, from which its image would be made.", hint="--environment NAME, or --image REF")


def prepare(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec, *, ref: str, report: Reporter) -> dict[str, Any]:
    """Have the image in the engine, built or pulled, and return which one it is.

    Raises what `packaging.image_of` raises; ImageMissing, ImageOfAnother for an image the user named.
    """
    facts = engine.facts()
    if named := spec.options.get("image"):
        image = _named(named, version, report)
    else:
        image = packaging.image_of(version, environment, base=spec.options.get("base"), platform=facts.platform, report=report).digest
    return {"image_id": image, "engine": facts.address}


def _named(reference: str, version: ModelVersion, report: Reporter) -> str:
    """The id of an image in the engine, pulled unless it is there.  Raises ImageMissing, ImageOfAnother."""
    import docker.errors
    import requests

    client = engine.client(timeout_seconds=_PULL_SECONDS)
    try:
        image = client.images.get(_ours(client, reference, version))
    except docker.errors.NotFound:
        try:
            images.pull(client, reference, platform=engine.facts().platform, report=report)
            image = client.images.get(reference)
        except (docker.errors.APIError, requests.RequestException) as error:
            raise ImageMissing(reference, why=images.not_had(error)) from error
    holds = image.labels.get(_MODEL_LABEL)
    if holds != version.ref:
        raise ImageOfAnother(reference, holds=holds, wanted=version.ref)
    if image.labels.get(_HASH_LABEL) != version.hash:
        raise ImageOfAnother(reference, holds=f"{holds} of another workspace", wanted=f"this one's {version.ref}")
    return str(image.id)


def _ours(client: docker.DockerClient, reference: str, version: ModelVersion) -> str:
    """The name that leads to this workspace's image where *reference* is a version's short name, which in a shared engine may be another's."""
    import docker.errors

    if reference != packaging.default_tag(version, "docker"):
        return reference
    try:
        return str(client.images.get(packaging.own_tag(reference)).id)
    except docker.errors.NotFound:
        return reference


# ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def start(deployment: Deployment, version: ModelVersion, *, context: dict[str, Any]) -> dict[str, Any]:
    """Have its container brought up beside this, and return its handle: container, port, token_file.  Raises PortInUse for a fixed port."""
    folder = local.run_folder(deployment)
    ssh.end(folder)  # it holds the port that is asked for
    if deployment.spec.port and ports.taken(deployment.spec.port):
        raise PortInUse(deployment.spec.port)
    for leftover in ("failure.json", "request_error.json"):
        (folder / leftover).unlink(missing_ok=True)
    token_file = local.token(folder)
    local.write_private(folder / "deployment.json", msgspec.json.encode(_told(deployment, context)))
    _capture(deployment).mkdir(parents=True, exist_ok=True, mode=0o700)
    attempts.remember(_address(deployment))
    port = deployment.spec.port or ports.free_port()
    _attempts[_name(deployment)] = Attempt(partial(_ran, deployment, request(deployment, port), folder))
    return {"container": _name(deployment), "port": port, "token_file": str(token_file)}


def _told(deployment: Deployment, context: Mapping[str, Any]) -> dict[str, Any]:
    """What its server is told besides what stands in the image."""
    settings = Workspace.current().settings()
    return {
        "endpoint": deployment.endpoint,
        "deployment": deployment.name,
        "run_folder": _RUN,
        "capture_folder": _CAPTURE,
        "capture_payload_percent": settings.capture_payload_percent,
        "memory_mb": deployment.spec.memory_mb,
        "cpus": deployment.spec.cpus,
        "hardware": deployment.spec.hardware,
        "timeout_seconds": local.just_less(settings.request_timeout_seconds),
        "cells": context.get("cells", []),
    }


def request(deployment: Deployment, port: int) -> dict[str, Any]:
    """What the engine is asked for, all but the user it runs as: limits, no rights, a file system to read, and two folders to write."""
    from docker.types import DeviceRequest

    spec = deployment.spec
    ours = {"MLOPS_DEPLOYMENT_FILE": f"{_RUN}/deployment.json", "MLOPS_TOKEN_FILE": f"{_RUN}/token", "MLOPS_CAPTURE_FOLDER": _CAPTURE, "MLOPS_PORT": str(_PORT)}
    memory = spec.memory_mb and spec.memory_mb * 1_000_000
    count = {"count": -1} if spec.gpus == "all" else {"count": int(spec.gpus or 0)}
    return attempts.bounds() | {
        "image": spec.options["image_id"],
        "name": _name(deployment),
        "environment": {"HOME": "/tmp"} | spec.variables | ours,
        "labels": {
            containers.WORKSPACE: containers.workspace_mark(_address(deployment)),
            containers.DEPLOYMENT: deployment.ref,
            containers.GENERATION: str(deployment.generation),
        },
        "ports": {f"{_PORT}/tcp": ("127.0.0.1", port) if _here(deployment) else ("127.0.0.1",)},
        "mounts": _mounts(deployment),
        "nano_cpus": int(spec.cpus * 1e9) if spec.cpus else None,
        "mem_limit": memory,
        "memswap_limit": memory,  # no swap beyond it
        "device_requests": [DeviceRequest(**count, capabilities=[["gpu"]])] if spec.gpus else None,
    }


def _mounts(deployment: Deployment) -> list[docker.types.Mount]:
    """The folders it writes to: those of this machine, or a volume of the other one."""
    from docker.types import Mount

    if not _here(deployment):
        return [Mount(_VOLUME, None)]
    return [Mount(_RUN, str(local.run_folder(deployment)), type="bind"), Mount(_CAPTURE, str(_capture(deployment)), type="bind")]


def _ran(deployment: Deployment, asked: dict[str, Any], folder: Path) -> Reason | None:
    """None once it runs, else why the engine does not run it.  Raises NoContainerEngine."""
    room = partial(_clear, deployment=deployment, folder=folder)
    if _here(deployment):
        give = partial(attempts.own, folders=(folder, _capture(deployment)))
    else:
        give = partial(_hand_over, folder=folder)
    return attempts.ran(deployment, asked, at=_address(deployment), first=room, give=give)


def _hand_over(container: Any, user: str, *, folder: Path) -> None:
    own, capture = (PurePosixPath(place).name for place in (_RUN, _CAPTURE))
    files = {f"{own}/{name}": (folder / name).read_bytes() for name in ("deployment.json", "token")}
    remote.hand_over(container, user, place=_VOLUME, files=files, folders=(own, capture))


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def observe(deployment: Deployment) -> Observed:
    """Whether its container runs and answers its health check; else why not."""
    attempt = _attempts.get(_name(deployment))
    watch = _watch(deployment)
    silence = watch.silence()
    if attempt and attempt.under_way:
        return Observed(state="starting", reason=attempts.silence(silence) if silence else None, unreachable=silence is not None)
    if attempt and attempt.failed:
        return Observed(state="gone", reason=attempt.failed)
    if silence:
        return _without_engine(deployment, silence)
    if attempt and watch.looked_at <= attempt.ended_at:
        return Observed(state="starting")  # nobody looked since
    container = _container(deployment, watch)
    if container is None:
        removed = Reason(kind="exited", message="Its container is not there any more: somebody removed it.", hint=f"%mlops logs {deployment.ref}")
        return Observed(state="gone", reason=None if deployment.status == "starting" and not attempt else removed)
    return _observed(deployment, container)


def _observed(deployment: Deployment, container: Container) -> Observed:
    """How a deployment is whose container the engine shows."""
    if container.state == "created":
        return Observed(state="gone")  # whoever created it was killed before starting it
    if container.state not in ("running", "paused", "restarting"):
        return Observed(state="gone", reason=_why(deployment, container))
    lost = None if _here(deployment) else _led(deployment, container)
    answer = local.probed(deployment.handle["port"])
    if not answer:
        return Observed(state="healthy", reason=_in_our_words(local.reason_in(local.run_folder(deployment) / "request_error.json")))
    if deployment.status in ("pending", "starting", "restarting"):
        return Observed(state="starting", answer=answer)
    if lost is not None and container.state == "running":
        return Observed(state="unhealthy", reason=lost)
    message = "Its container is paused." if container.state == "paused" else f"It does not answer its health check: {answer}."
    return Observed(state="unhealthy", reason=Reason(kind="unhealthy", message=message, log=_tail(deployment, 10), hint=f"%mlops logs {deployment.ref}"))


def _led(deployment: Deployment, container: Container) -> Reason | None:
    """Have the tunnel to its port there, and what it writes fetched; why there was none just now, unless there was."""
    _fetcher(deployment).go_on(container)
    if container.port is None:
        return None
    said = ssh.lead(local.run_folder(deployment), _address(deployment), here=deployment.handle["port"], there=container.port)
    if said is None:
        return None
    message = f"The ssh tunnel to {_address(deployment)} ended{f': {said}' if said else ''}; another one is being led."
    return Reason(kind="unhealthy", message=message, hint=f"%mlops logs {deployment.ref}")


def _without_engine(deployment: Deployment, error: MlopsError) -> Observed:
    """What can be told while the engine says nothing: containers run on without it."""
    if local.ready(deployment.handle.get("port", 0)):
        return Observed(state="healthy", reason=deployment.reason)
    state = "starting" if deployment.status in ("pending", "starting", "restarting") else "unhealthy"
    return Observed(state=state, reason=attempts.silence(error), unreachable=True)  # type: ignore[arg-type]


def _why(deployment: Deployment, container: Container) -> Reason:
    """What the server said when it ended, else what its end looks like from outside."""
    if not _here(deployment):
        _fetcher(deployment).fetch(container.id)
    log = _tail(deployment, 20)
    limit = deployment.spec.memory_mb
    if container.out_of_memory:
        hint = f"%mlops deploy {deployment.model_ref} --endpoint {deployment.endpoint} --to docker --memory {2 * (limit or 512)}m"
        took = f"the {limit} MB it may take" if limit else "the memory there is"
        return Reason(kind="out of memory", message=f"It took more than {took} and was killed (exit code 137).", log=log, hint=hint)
    if told := _in_our_words(local.reason_in(local.run_folder(deployment) / "failure.json")):
        return msgspec.structs.replace(told, log=told.log or log)
    return attempts.ended(deployment, container, log=log)


def _in_our_words(reason: Reason | None) -> Reason | None:
    """A reason with the places of the model's files as they were registered, not as they stand in an image."""
    if reason is None:
        return None
    inside = f"{packaging.MODEL_FOLDER}/"
    return msgspec.structs.replace(reason, where=reason.where.replace(inside, ""), traceback=reason.traceback.replace(inside, ""))


def alive(deployment: Deployment) -> bool:
    """Whether its container runs, as of a moment ago; True while the engine does not tell."""
    attempt = _attempts.get(_name(deployment))
    if attempt and attempt.under_way:
        return True
    watch = _watch(deployment)
    if watch.silence() or (attempt and watch.looked_at <= attempt.ended_at):
        return True
    container = _container(deployment, watch)
    return container is not None and container.state in ("running", "paused")


def usage(deployment: Deployment) -> Usage:
    """CPU and memory of its container, as the engine counts them."""
    container = _container_now(deployment)
    if container is None:
        return Usage(image=deployment.spec.options.get("image_id", ""))
    seen = Usage(image=container.image, where=f"container {container.id[:12]}")
    if container.state != "running":
        return seen
    counted: list[tuple[float | None, float | None]] = []

    def spent_seconds() -> float | None:
        counted.append(attempts.counters(container, at=_address(deployment)))
        return counted[-1][0]

    cpus = cores.in_use(container.id, spent_seconds)
    spent, memory_mb = counted[-1]
    proven = ", ".join(hardware.proven(deployment.handle, deployment.endpoint))
    return msgspec.structs.replace(seen, cpus=cpus, cpu_seconds=spent, memory_mb=memory_mb, pid=container.pid, hardware=proven)


def share(endpoint: str, deployments: Sequence[Deployment], weights: Mapping[str, int]) -> None:
    """Nothing: the gateway divides the requests."""


def logs(deployment: Deployment, *, lines: int) -> list[str]:
    """The last lines of its container, and before them of those it had before."""
    current = attempts.said(_container_now(deployment), at=_address(deployment), lines=lines)
    return current if len(current) >= lines else [*local.logs(deployment, lines=lines), *current][-lines:]


def _tail(deployment: Deployment, lines: int) -> str:
    return "\n".join(attempts.said(_container_now(deployment), at=_address(deployment), lines=lines))


# ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def stop(deployment: Deployment) -> None:
    """Have the server finish what it has, and remove its container; its log's last lines are kept.  Raises NoContainerEngine."""
    import docker.errors
    import requests

    attempt = _attempts.pop(_name(deployment), None)
    if attempt:
        attempt.give_up()
    if not deployment.handle and _watch(deployment).silence(patience_seconds=attempts.PATIENT_SECONDS):
        return  # nothing of it is known to run; what may be there after all is a stray once the engine answers
    if silence := _watch(deployment).silence(patience_seconds=attempts.PATIENT_SECONDS):
        raise silence
    try:
        client = engine.client(timeout_seconds=attempts.PATIENT_SECONDS, at=_address(deployment))
        _clear(client, deployment=deployment, folder=local.run_folder(deployment))
    except (docker.errors.APIError, requests.RequestException) as error:
        raise engine.silent(error, at=_address(deployment)) from error


def _clear(client: docker.DockerClient, *, deployment: Deployment, folder: Path) -> None:
    """Remove its container, if there is one, once that has finished what it had; keep its log and close the lines it wrote."""
    seconds = _STOP_SECONDS if deployment.status in ("healthy", "unhealthy") else 0  # one that only starts has nothing to finish
    last = None if _here(deployment) else _fetcher(deployment).fetch
    attempts.cleared(client, _name(deployment), log_folder=folder, seconds=seconds, last=last)
    ssh.end(folder)
    _close_lines(_capture(deployment))


def _close_lines(folder: Path) -> None:
    """A container's pid says nothing out here, so that nobody else could tell that its writer is gone."""
    for live in folder.glob("live-*.jsonl"):
        live.rename(folder / f"closed-{time.time_ns()}.jsonl")


def end_strays(known: Iterable[Deployment]) -> None:
    """Remove this workspace's containers that belong to no deployment: the agent was killed between removing one and noting it down."""
    known = list(known)
    attempts.end_strays(lambda container: containers.DEVICE not in container.labels, {_name(deployment) for deployment in known})
    ssh.end_strays(Workspace.current().run / "deployments", {local.run_folder(deployment) for deployment in known})


# ── where things are ─────────────────────────────────────────────────────────────────────────────────────────────────


def _name(deployment: Deployment) -> str:
    """The container's name; the mark at its end keeps `a-b/c` and `a/b-c`, and copies of a workspace, apart."""
    mark = hashlib.sha256(f"{containers.workspace_mark(_address(deployment))}/{deployment.ref}".encode()).hexdigest()[:10]
    return f"mlops-{deployment.endpoint}-{deployment.name}-{mark}"


def _here(deployment: Deployment) -> bool:
    """Whether its engine is on this machine."""
    return engine.is_local(_address(deployment))


def _fetcher(deployment: Deployment) -> remote.Fetcher:
    run, capture = (_RUN, local.run_folder(deployment)), (_CAPTURE, _capture(deployment))
    return _fetchers.setdefault(_name(deployment), remote.Fetcher(_address(deployment), run=run, capture=capture))


def _address(deployment: Deployment) -> str:
    return deployment.spec.options.get("engine") or engine.address()


def _watch(deployment: Deployment) -> Watch:
    return containers.watch(_address(deployment))


def _container(deployment: Deployment, watch: Watch) -> Container | None:
    """Its container as of a moment ago, unless that is an earlier generation's."""
    return _its(deployment, watch.containers())


def _container_now(deployment: Deployment) -> Container | None:
    """Its container as of now; None too where the engine does not answer."""
    try:
        return _its(deployment, _watch(deployment).look())
    except MlopsError:
        return None


def _its(deployment: Deployment, seen: Mapping[str, Container]) -> Container | None:
    found = seen.get(_name(deployment))
    return found if found and found.labels.get(containers.GENERATION) == str(deployment.generation) else None


def _capture(deployment: Deployment) -> Path:
    return path_inside(Workspace.current().telemetry, f"endpoint={deployment.endpoint}", f"deployment={deployment.name}")
