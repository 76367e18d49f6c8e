"""The Docker target: each deployment is a container on this machine's engine, published on 127.0.0.1.

The agent restarts it, not the engine: what a container died of is told before the next one takes its place, and the pauses between attempts are
those of every other deployment.  An engine that does not answer holds nobody up: what is known of it comes from `containers`, and bringing a
container up takes place beside the agent's loop.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .. import engine, hardware, packaging
from ..errors import BadOption, EngineElsewhere, HardwareMissing, ImageMissing, ImageOfAnother, MlopsError, NoContainerEngine, PortInUse
from ..safety import path_inside
from ..settings import Workspace
from ..store.deployments import Deployment, Reason
from . import Observed, Usage, containers, cores, local
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
_PATIENT_SECONDS = 30.0
_PULL_SECONDS = 600.0
_KEPT_LINES = 2000
_PORT = 8080
_RUN, _CAPTURE = "/run/mlops", "/var/lib/mlops/telemetry"
_SCRATCH = {"/tmp": "size=256m,mode=1777"}
_MOST_PROCESSES = 4096
_MODEL_LABEL = "org.mlops-nb.model"
_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="docker")
_attempts: dict[str, _Attempt] = {}  # of this process to bring a container up, by its name


# ── before anything is wanted ────────────────────────────────────────────────────────────────────────────────────────


def check(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Raises NoContainerEngine, EngineElsewhere for one of another machine, BadOption, HardwareMissing."""
    if not engine.is_local():
        raise EngineElsewhere(engine.address())
    facts = engine.facts()
    if spec.cpus and spec.cpus > facts.cores:
        raise BadOption(f"--cpus {spec.cpus:g} is more than the {facts.cores} cores of the container engine.", hint=f"--cpus {facts.cores}")
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
        image = client.images.get(reference)
    except docker.errors.NotFound:
        report.step(f"pulling {reference}")
        try:
            image = client.images.pull(reference) if ":" in reference.rpartition("/")[2] or "@" in reference else client.images.pull(reference, tag="latest")
        except (docker.errors.APIError, requests.RequestException) as error:
            raise ImageMissing(reference, why=_explained(error)) from error
    holds = image.labels.get(_MODEL_LABEL)
    if holds != version.ref:
        raise ImageOfAnother(reference, holds=holds, wanted=version.ref)
    return str(image.id)


# ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def start(deployment: Deployment, version: ModelVersion, *, context: dict[str, Any]) -> dict[str, Any]:
    """Have its container brought up beside this, and return its handle: container, port, token_file.  Raises PortInUse for a fixed port."""
    if deployment.spec.port and local.taken(deployment.spec.port):
        raise PortInUse(deployment.spec.port)
    folder = local.run_folder(deployment)
    for leftover in ("failure.json", "request_error.json"):
        (folder / leftover).unlink(missing_ok=True)
    token_file = local.token(folder)
    local.write_private(folder / "deployment.json", msgspec.json.encode(_told(deployment, context)))
    _capture(deployment).mkdir(parents=True, exist_ok=True, mode=0o700)
    _remember(_address(deployment))
    port = deployment.spec.port or local.free_port()
    _attempts[_name(deployment)] = _Attempt(deployment, request(deployment, port), folder)
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
    from docker.types import DeviceRequest, LogConfig, Mount

    spec = deployment.spec
    ours = {"MLOPS_DEPLOYMENT_FILE": f"{_RUN}/deployment.json", "MLOPS_TOKEN_FILE": f"{_RUN}/token", "MLOPS_CAPTURE_FOLDER": _CAPTURE, "MLOPS_PORT": str(_PORT)}
    memory = spec.memory_mb and spec.memory_mb * 1_000_000
    count = {"count": -1} if spec.gpus == "all" else {"count": int(spec.gpus or 0)}
    return {
        "image": spec.options["image_id"],
        "name": _name(deployment),
        "environment": {"HOME": "/tmp"} | spec.variables | ours,
        "labels": {
            containers.WORKSPACE: containers.workspace_mark(),
            containers.DEPLOYMENT: deployment.ref,
            containers.GENERATION: str(deployment.generation),
        },
        "ports": {f"{_PORT}/tcp": ("127.0.0.1", port)},
        "mounts": [Mount(_RUN, str(local.run_folder(deployment)), type="bind"), Mount(_CAPTURE, str(_capture(deployment)), type="bind")],
        "nano_cpus": int(spec.cpus * 1e9) if spec.cpus else None,
        "mem_limit": memory,
        "memswap_limit": memory,  # no swap beyond it
        "device_requests": [DeviceRequest(**count, capabilities=[["gpu"]])] if spec.gpus else None,
        "read_only": True,
        "tmpfs": _SCRATCH,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": _MOST_PROCESSES,
        "restart_policy": {"Name": "no"},
        "healthcheck": {"test": ["NONE"]},  # the agent asks, more often and without a process for each question
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "8m", "max-file": "2"}),
        "stop_signal": "SIGTERM",
        "detach": True,
    }


class _Attempt:
    """Bringing one container up, beside everything else; an engine that does not answer is waited for."""

    def __init__(self, deployment: Deployment, asked: dict[str, Any], folder: Path) -> None:
        self.ended_at = float("inf")
        self.failed: Reason | None = None
        self._given_up = threading.Event()
        self._patience = Workspace.current().settings().start_timeout_seconds
        self._future = _pool.submit(self._go_on, deployment, asked, folder)

    @property
    def under_way(self) -> bool:
        """Whether it is not over yet."""
        return not self._future.done()

    def give_up(self) -> None:
        """Try no more, and return once nothing is being tried."""
        self._given_up.set()
        if not self._future.cancel():
            self._future.result()

    def _go_on(self, deployment: Deployment, asked: dict[str, Any], folder: Path) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self.failed = _ran(deployment, asked, folder)
            except NoContainerEngine as error:
                self.failed = _silence(error)
                if time.monotonic() < deadline and not self._given_up.wait(1):
                    continue
            except (MlopsError, OSError) as error:
                self.failed = Reason(kind="cannot start", message=f"{type(error).__name__}: {error}", hint=getattr(error, "hint", ""))
            self.ended_at = time.monotonic()
            return


def _ran(deployment: Deployment, asked: dict[str, Any], folder: Path) -> Reason | None:
    """None once it runs, else why the engine does not run it.  Raises NoContainerEngine."""
    import docker.errors
    import requests

    client = engine.client(timeout_seconds=_PATIENT_SECONDS, at=_address(deployment))
    try:
        _clear(client, deployment, folder)
        user = _user(client)
        _give(user, folder, _capture(deployment))
        container = client.containers.create(**asked, user=user)
        try:
            container.start()
        except docker.errors.APIError:
            container.remove(force=True)
            raise
    except docker.errors.APIError as error:
        return _refused(error, deployment)
    except requests.RequestException as error:
        raise engine.silent(error, at=_address(deployment)) from error
    return None


def _user(client: docker.DockerClient) -> str:
    """Whoever runs this, so that what the server writes is theirs and they can read it; never root of this machine."""
    if any("rootless" in option for option in client.info().get("SecurityOptions") or ()):
        return "0:0"  # which is us, outside
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{packaging.USER}:{packaging.USER}"


def _give(user: str, *folders: Path) -> None:
    """Where root runs this, the folders it shares with a container belong to the container's user; root reads them anyway."""
    if os.getuid() or user == "0:0":
        return
    owner = int(user.partition(":")[0])
    for path in [*folders, *(file for folder in folders for file in folder.iterdir() if file.is_file())]:
        os.chown(path, owner, owner)


def _refused(error: docker.errors.APIError, deployment: Deployment) -> Reason:
    """The engine's own words as a reason."""
    said = _explained(error)
    if error.response is not None and error.response.status_code == 404 and "image" in said.lower():
        image = deployment.spec.options.get("image") or deployment.spec.options["image_id"][:19]
        message = f"The image {image} is not in the container engine any more."
        return Reason(kind="image missing", message=message, hint=f"%mlops deploy {deployment.model_ref} --endpoint {deployment.endpoint} --to docker")
    if "port is already allocated" in said or "address already in use" in said:
        return Reason(kind="port taken", message="The port it was to be published on is taken.", hint="another --port, or leave it out to get a free one")
    if "device driver" in said:
        return Reason(kind="hardware missing", message="The container engine has no GPU to hand over.", log=said, hint="%mlops hardware")
    return Reason(kind="cannot start", message=f"The container engine refused: {said}", hint=f"%mlops logs {deployment.ref}")


def _explained(error: BaseException) -> str:
    return " ".join(str(getattr(error, "explanation", "") or error).split())[:500]


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def observe(deployment: Deployment) -> Observed:
    """Whether its container runs and answers its health check; else why not."""
    attempt = _attempts.get(_name(deployment))
    watch = _watch(deployment)
    silence = watch.silence()
    if attempt and attempt.under_way:
        return Observed(state="starting", reason=_silence(silence) if silence else None, unreachable=silence is not None)
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
    if local.ready(deployment.handle["port"]):
        return Observed(state="healthy", reason=_in_our_words(local.reason_in(local.run_folder(deployment) / "request_error.json")))
    if deployment.status in ("pending", "starting", "restarting"):
        return Observed(state="starting")
    message = "Its container is paused." if container.state == "paused" else f"It does not answer its health check: {_probed(deployment.handle['port'])}."
    return Observed(state="unhealthy", reason=Reason(kind="unhealthy", message=message, log=_tail(deployment, 10), hint=f"%mlops logs {deployment.ref}"))


def _without_engine(deployment: Deployment, error: MlopsError) -> Observed:
    """What can be told while the engine says nothing: containers run on without it."""
    if local.ready(deployment.handle.get("port", 0)):
        return Observed(state="healthy", reason=deployment.reason)
    state = "starting" if deployment.status in ("pending", "starting", "restarting") else "unhealthy"
    return Observed(state=state, reason=_silence(error), unreachable=True)  # type: ignore[arg-type]


def _why(deployment: Deployment, container: Container) -> Reason:
    """What the server said when it ended, else what its end looks like from outside."""
    log = _tail(deployment, 20)
    limit = deployment.spec.memory_mb
    if container.out_of_memory:
        hint = f"%mlops deploy {deployment.model_ref} --endpoint {deployment.endpoint} --to docker --memory {2 * (limit or 512)}m"
        took = f"the {limit} MB it may take" if limit else "the memory there is"
        return Reason(kind="out of memory", message=f"It took more than {took} and was killed (exit code 137).", log=log, hint=hint)
    if told := _in_our_words(local.reason_in(local.run_folder(deployment) / "failure.json")):
        return msgspec.structs.replace(told, log=told.log or log)
    if container.error:
        return Reason(kind="cannot start", message=f"The container engine could not run it: {container.error}", log=log, hint=f"%mlops logs {deployment.ref}")
    killed = " (killed from outside)" if container.exit_code == 137 else ""
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "") if container.exit_code not in (0, 137, 143) else ""
    message = f"Its container ended with exit code {container.exit_code}{killed}{f': {last.strip()[:300]}' if last else '.'}"
    return Reason(kind="exited", message=message, log=log, hint=f"%mlops logs {deployment.ref}")


def _in_our_words(reason: Reason | None) -> Reason | None:
    """A reason with the places of the model's files as they were registered, not as they stand in an image."""
    if reason is None:
        return None
    inside = f"{packaging.MODEL_FOLDER}/"
    return msgspec.structs.replace(reason, where=reason.where.replace(inside, ""), traceback=reason.traceback.replace(inside, ""))


def _probed(port: int) -> str:
    """What the health check came to, in a few words."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.3)
    try:
        connection.request("GET", "/v2/health/ready")
        answer = connection.getresponse()
        return f"it answered {answer.status} {answer.read(200).decode(errors='replace').strip()}".rstrip()
    except TimeoutError:
        return "nothing came in time"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


def _silence(error: MlopsError) -> Reason:
    return Reason(kind="no engine", message=str(error), hint=error.hint)


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
    address = _address(deployment)
    cpus = cores.in_use(container.id, lambda: _counters(address, container)[0])
    proven = ", ".join(hardware.proven(deployment.handle, deployment.endpoint))
    return msgspec.structs.replace(seen, cpus=cpus, memory_mb=_counters(address, container)[1], pid=container.pid, hardware=proven)


def _counters(address: str, container: Container) -> tuple[float | None, float | None]:
    """The CPU time so far in seconds and memory in MB, the file cache not counted; nothing of one that just ended."""
    import docker.errors
    import requests

    try:
        told = engine.client(at=address).api.stats(container.id, stream=False, one_shot=True)
        spent = told["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
    except (docker.errors.DockerException, requests.RequestException, NoContainerEngine, KeyError):
        return None, None
    memory = told.get("memory_stats") or {}
    details = memory.get("stats") or {}
    cached = details.get("total_inactive_file", details.get("inactive_file", 0))
    return spent, (memory.get("usage", 0) - cached) / 1e6


def share(endpoint: str, deployments: Sequence[Deployment], weights: Mapping[str, int]) -> None:
    """Nothing: the gateway divides the requests."""


def logs(deployment: Deployment, *, lines: int) -> list[str]:
    """The last lines of its container, and before them of those it had before."""
    current = _current_log(deployment, lines)
    return current if len(current) >= lines else [*local.logs(deployment, lines=lines), *current][-lines:]


def _current_log(deployment: Deployment, lines: int) -> list[str]:
    import docker.errors
    import requests

    container = _container_now(deployment)
    if container is None or container.state == "created":
        return []
    try:
        said: bytes = engine.client(at=_address(deployment)).api.logs(container.id, stdout=True, stderr=True, tail=lines)
    except (docker.errors.DockerException, requests.RequestException, NoContainerEngine):
        return []
    return said.decode(errors="replace").splitlines()


def _tail(deployment: Deployment, lines: int) -> str:
    return "\n".join(_current_log(deployment, lines))


# ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def stop(deployment: Deployment) -> None:
    """Have the server finish what it has, and remove its container; its log's last lines are kept.  Raises NoContainerEngine."""
    import docker.errors
    import requests

    attempt = _attempts.pop(_name(deployment), None)
    if attempt:
        attempt.give_up()
    if not deployment.handle and _watch(deployment).silence():
        return  # nothing of it is known to run; what may be there after all is a stray once the engine answers
    if silence := _watch(deployment).silence():
        raise silence
    try:
        _clear(engine.client(timeout_seconds=_PATIENT_SECONDS, at=_address(deployment)), deployment, local.run_folder(deployment))
    except (docker.errors.APIError, requests.RequestException) as error:
        raise engine.silent(error, at=_address(deployment)) from error


def _clear(client: docker.DockerClient, deployment: Deployment, folder: Path) -> None:
    """Remove its container, if there is one, once that has finished what it had; keep its log and close the lines it wrote."""
    import docker.errors

    try:
        container = client.containers.get(_name(deployment))
        if container.status in ("running", "paused", "restarting"):
            container.stop(timeout=_STOP_SECONDS if deployment.status in ("healthy", "unhealthy") else 0)  # one that only starts has nothing to finish
        if container.status != "created":
            _keep_log(container.logs(tail=_KEPT_LINES), folder)
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        pass
    _close_lines(_capture(deployment))


def _keep_log(said: bytes, folder: Path) -> None:
    with local.open_log(folder) as file:
        file.write(said)


def _close_lines(folder: Path) -> None:
    """A container's pid says nothing out here, so that nobody else could tell that its writer is gone."""
    for live in folder.glob("live-*.jsonl"):
        live.rename(folder / f"closed-{time.time_ns()}.jsonl")


def end_strays(known: Iterable[Deployment]) -> None:
    """Remove this workspace's containers that belong to no deployment: the agent was killed between removing one and noting it down."""
    names = {_name(deployment) for deployment in known}
    for address in _remembered():
        watch = containers.watch(address)
        if watch.silence():
            continue
        for name in set(watch.containers() if names else watch.look()) - names:
            _remove(address, name)


def _remove(address: str, name: str) -> None:
    import docker.errors
    import requests

    try:
        engine.client(at=address, timeout_seconds=_PATIENT_SECONDS).api.remove_container(name, force=True, v=True)
    except docker.errors.APIError:
        pass  # it is being removed already
    except requests.RequestException as error:
        raise engine.silent(error, at=address) from error


# ── where things are ─────────────────────────────────────────────────────────────────────────────────────────────────


def _name(deployment: Deployment) -> str:
    """The container's name; the mark at its end keeps `a-b/c` and `a/b-c`, and copies of a workspace, apart."""
    mark = hashlib.sha256(f"{containers.workspace_mark()}/{deployment.ref}".encode()).hexdigest()[:10]
    return f"mlops-{deployment.endpoint}-{deployment.name}-{mark}"


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


def _engines_file() -> Path:
    return Workspace.current().run / "engines"


def _remember(address: str) -> None:
    """Note an engine that may have containers of this workspace."""
    if address not in _remembered():
        with _engines_file().open("a", encoding="utf-8") as file:
            file.write(f"{address}\n")


def _remembered() -> list[str]:
    """Every engine that may have containers of this workspace; none where no container was ever wanted."""
    try:
        return _engines_file().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
