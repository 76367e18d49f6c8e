"""The local target: each deployment is a scoring server in a process of its own on 127.0.0.1."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from .. import environments, gpus, hardware, processes, rebuilding, registry
from ..errors import BadOption, DeploymentFailed, EnvironmentMismatch, EnvironmentNotBuilt, PortInUse
from ..ports import free_port, taken
from ..safety import names_a_secret, path_inside
from ..serving.spec import ServerSpec
from ..settings import Workspace
from ..store.deployments import Deployment, Reason
from . import Observed, Usage, cores

if TYPE_CHECKING:
    from ..progress import Reporter
    from ..store.deployments import DeploymentSpec
    from ..store.environments import Environment
    from ..store.models import ModelVersion

ABILITIES = frozenset({"traffic", "invoke", "logs", "usage", "capture", "cpus", "memory", "gpus", "port", "variables", "hardware", "isolated"})
OPTIONS: frozenset[str] = frozenset({"gpu_memory"})
TRAFFIC = "gateway"
_DRAIN_SECONDS = 5.0
"""What those who asked may take for their answers where a server has to go for a fault of its own, or everything goes."""
_ENDING_SECONDS = 3.0
"""What a server may take to end once the last answer is out, or the time for it is over."""
_DYING_SECONDS = 0.3
"""How long a process that is seen to end may take until it can be asked what it ended with."""
_LOG_BYTES = 8_000_000
_COMMAND = ("-m", "mlops_nb.serving")


def check(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Raises EnvironmentMismatch when a package that the model needs differs here, HardwareMissing when the hardware is not here or too small."""
    alike = spec.isolated or spec.allow_mismatch or version.engine == "onnxruntime"
    if environment and not alike and (different := environments.differences(environment)):
        raise EnvironmentMismatch(version.ref, different)
    hardware.check_for(version.engine, spec.hardware, isolated=spec.isolated)
    _check_gpus(version, spec)


def _check_gpus(version: ModelVersion, spec: DeploymentSpec) -> None:
    """Raises BadOption for GPUs that nothing would use, HardwareMissing where they are not here or have too little free memory."""
    limit_mb, on_gpu = spec.options.get("gpu_memory"), _on_nvidia(spec)
    if spec.gpus and not on_gpu and version.engine == "onnxruntime":
        raise BadOption(f"--gpus {spec.gpus}: {version.ref} runs on {spec.hardware}, and would use none.", hint=f"--hardware cuda --gpus {spec.gpus}")
    if limit_mb and not on_gpu:
        raise BadOption("--gpu-memory limits what ONNX Runtime takes of a GPU.", hint="--hardware cuda --gpu-memory 4g")
    if spec.gpus or on_gpu:
        weights = sum(file.bytes for file in version.files if file.path.startswith("model.onnx"))  # and the data beside it
        gpus.handed_over(spec.gpus, model_bytes=weights, limit_mb=limit_mb)


def prepare(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec, *, ref: str, report: Reporter) -> None:
    """Have the environment of an isolated one ready before anything is wanted of it.  Raises DeploymentFailed with uv's last lines."""
    if not (spec.isolated and environment):
        return
    try:
        rebuilding.build(environment, report, runtime=_runtime(version, spec))
    except EnvironmentNotBuilt as error:
        raise DeploymentFailed(ref, message=str(error), log=error.detail, hint=error.hint) from error


def start(deployment: Deployment, version: ModelVersion, *, context: dict[str, Any]) -> dict[str, Any]:
    """Start the scoring server and return its handle: pid, port, token_file.  Raises PortInUse for a fixed port, FileMissing."""
    if deployment.spec.port and taken(deployment.spec.port):
        raise PortInUse(deployment.spec.port)
    folder = run_folder(deployment)
    for leftover in ("failure.json", "request_error.json"):
        (folder / leftover).unlink(missing_ok=True)
    token_file = token(folder)
    port = deployment.spec.port or free_port()
    held_to = context.get("cores") or cores.least_taken(deployment.spec.cpus, _servers())
    spec = _spec(deployment, version, folder, port=port, token_file=token_file, held_to=held_to, context=context)
    write_private(_spec_file(deployment), msgspec.json.encode(spec))
    python, variables = _interpreter(context.get("environment") if deployment.spec.isolated else None, folder, _runtime(version, deployment.spec))
    ours = {"PYTHONUNBUFFERED": "1", "MLOPS_HOME": str(Workspace.current().root)}
    with open_log(folder) as log:
        process = subprocess.Popen(
            [python, *_COMMAND, str(_spec_file(deployment))], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=variables | _visible(deployment.spec) | deployment.spec.variables | ours,
        )  # fmt: skip
    return {"pid": processes.ours(process), "port": port, "token_file": str(token_file), "cores": held_to}


def _on_nvidia(spec: DeploymentSpec) -> bool:
    """Whether ONNX Runtime is to run it on NVIDIA's hardware."""
    return spec.hardware != "cpu" and hardware.asked(spec.hardware, isolated=spec.isolated).name in ("cuda", "tensorrt")


def _visible(spec: DeploymentSpec) -> dict[str, str]:
    """The variables that show the server its GPUs and no others; nothing where it asks for none, or they went since it was deployed."""
    if not (spec.gpus or _on_nvidia(spec)) or gpus.driver().lacking:
        return {}
    return gpus.variables(gpus.handed_over(spec.gpus))


def observe(deployment: Deployment) -> Observed:
    """Whether the process lives and answers its health check; else why not."""
    process = _process(deployment)
    if process is None:
        return Observed(state="gone", reason=_why(deployment))
    if too_much := _over_limit(process, deployment):
        stop(deployment)
        return Observed(state="gone", reason=too_much)
    if (run_folder(deployment) / "failure.json").exists():
        stop(deployment)
        return Observed(state="gone", reason=_why(deployment))
    answer = probed(deployment.handle["port"])
    if not answer:
        return Observed(state="healthy", reason=_request_error(deployment))
    if deployment.status in ("pending", "starting", "restarting"):
        return Observed(state="starting", answer=answer)
    return Observed(state="unhealthy", reason=_silent(deployment, answer))


def alive(deployment: Deployment) -> bool:
    """Whether the process is there at all; costs microseconds."""
    return _process(deployment) is not None


def usage(deployment: Deployment) -> Usage:
    """CPU and memory of its process, children counted."""
    process = _process(deployment)
    if process is None:
        return Usage()
    cpus = cores.in_use(f"process {process.pid}", lambda: cores.spent_by(process))
    try:
        memory = sum(member.memory_info().rss for member in (process, *process.children(recursive=True)))
    except psutil.Error:  # it ended meanwhile
        return Usage()
    proven = ", ".join(hardware.proven(deployment.handle, deployment.endpoint))
    return Usage(cpus=cpus, memory_mb=memory / 1e6, where=f"process {process.pid}", pid=process.pid, hardware=proven)


def limits(deployment: Deployment) -> str:
    """The cores that its process is held to, by number, and the memory beyond which it is ended."""
    spec, held_to = deployment.spec, cores.in_words(deployment.handle.get("cores", []))
    threads = f"{max(1, int(spec.cpus))} thread{'s' if spec.cpus >= 2 else ''}, for this system holds no process to cores" if spec.cpus else ""
    memory = f"ended beyond {spec.memory_mb} MB" if spec.memory_mb else ""
    return "; ".join(filter(None, [f"held to {held_to}" if held_to else threads, memory]))


def share(endpoint: str, deployments: Sequence[Deployment], weights: Mapping[str, int]) -> None:
    """Nothing: the gateway divides the requests."""


def stop(deployment: Deployment) -> None:
    """Ask the server to finish what it has and end; kill it when it does not: one that is withdrawn has as long as the gateway waits for an answer."""
    process = _process(deployment)
    if process:
        drain = _drain_seconds(deployment) if deployment.wanted == "stopped" else _DRAIN_SECONDS
        processes.end(process, patient_seconds=drain + _ENDING_SECONDS)


def _drain_seconds(deployment: Deployment) -> float:
    """As its server was told; the workspace's folder may be gone by now."""
    try:
        return msgspec.json.decode(_spec_file(deployment).read_bytes(), type=ServerSpec).drain_seconds
    except (OSError, msgspec.MsgspecError):
        return 0.0


def end_strays(known: Iterable[Deployment]) -> None:
    """End this workspace's servers that no handle leads to: the agent was killed between starting one and noting it down."""
    expected = {deployment.handle.get("pid") for deployment in known}
    for process in _servers():
        if process.pid not in expected:
            processes.kill_group(process.pid)


def logs(deployment: Deployment, *, lines: int) -> list[str]:
    """The last lines of the server's log."""
    return tail(_place(deployment), lines=lines)


def tail(folder: Path, *, lines: int) -> list[str]:
    """The last lines of the log below *folder*; none where there is no log."""
    try:
        with (folder / "log").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 400 * lines - 4096))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def run_folder(deployment: Deployment) -> Path:
    """Where this deployment's spec, token, log and failures are."""
    folder = _place(deployment)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _place(deployment: Deployment) -> Path:
    return path_inside(Workspace.current().run, "deployments", deployment.endpoint, deployment.name)


def _runtime(version: ModelVersion, spec: DeploymentSpec) -> str | None:
    """The package that brings ONNX Runtime for it into an environment of its own; None for a model that runs as Python."""
    return hardware.runtime_for(spec.hardware) if version.engine == "onnxruntime" else None


def _interpreter(environment: Environment | None, folder: Path, runtime: str | None) -> tuple[str, dict[str, str]]:
    """The Python to start the server with, and the variables to start it with: this one, or the environment's own.  Raises EnvironmentMissing."""
    if environment is None:
        return sys.executable, {name: value for name, value in os.environ.items() if not names_a_secret(name)}
    python = rebuilding.interpreter(environment, runtime=runtime)
    return str(python), rebuilding.variables() | {"PYTHONPATH": str(rebuilding.ourselves(folder))}


def _spec_file(deployment: Deployment) -> Path:
    return _place(deployment) / "spec.json"


def _spec(
    deployment: Deployment, version: ModelVersion, folder: Path, *, port: int, token_file: Path, held_to: list[int], context: dict[str, Any]
) -> ServerSpec:  # fmt: skip
    workspace = Workspace.current()
    capture = path_inside(workspace.telemetry, f"endpoint={deployment.endpoint}", f"deployment={deployment.name}")
    return ServerSpec(
        endpoint=deployment.endpoint, deployment=deployment.name, model=version.model, version=version.version, folder=str(registry.laid_out(version)),
        files=version.files, flavor=version.flavor, engine=context.get("engine", version.engine), signature=version.signature, port=port,
        token_file=str(token_file), form=context.get("form"), overlay=context.get("overlay", ""), gpu_memory_mb=deployment.spec.options.get("gpu_memory"),
        run_folder=str(folder), capture_folder=str(capture), capture_payload_percent=workspace.settings().capture_payload_percent,
        memory_mb=deployment.spec.memory_mb, cpus=deployment.spec.cpus, hardware=deployment.spec.hardware, cells=context.get("cells", []),
        timeout_seconds=just_less(workspace.settings().request_timeout_seconds), drain_seconds=workspace.settings().request_timeout_seconds,
        variables=deployment.spec.variables, trusted=version.trusted, ends_with=context.get("ends_with"), cores=held_to,
    )  # fmt: skip


def just_less(seconds: float) -> float:
    """So that the server tells why before the gateway, with the same limit, says only that time is up."""
    return seconds - min(1.0, seconds / 10)


def token(folder: Path) -> Path:
    """The file below *folder* with the word that a server wants of whoever asks; made unless it is there."""
    path = folder / "token"
    if not path.exists() or not path.stat().st_size:  # empty: somebody was killed here
        write_private(path, secrets.token_urlsafe(24).encode())
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def open_log(folder: Path) -> Any:
    """The log below *folder*, to be appended to; one that has grown large is put aside."""
    path = folder / "log"
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(folder / "log.1")
    return path.open("ab")


def _process(deployment: Deployment) -> psutil.Process | None:
    return processes.again(deployment.handle.get("pid"), [*_COMMAND, str(_spec_file(deployment))])


def _servers() -> Iterator[psutil.Process]:
    """Every scoring server that was started with a spec of this workspace."""
    specs = str(Workspace.current().run.resolve() / "deployments") + os.sep
    return (process for process in processes.started_with(_COMMAND) if process.info["cmdline"][-1].startswith(specs))


def ready(port: int) -> bool:
    """Whether a server on the port says, within half a second, that it can answer."""
    return not probed(port)


def probed(port: int) -> str:
    """What the health check of a server on the port came to within half a second, in a few words; nothing when it can answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
    try:
        connection.request("GET", "/v2/health/ready")
        answer = connection.getresponse()
        return "" if answer.status == 200 else f"it answered {answer.status} {answer.read(200).decode(errors='replace').strip()}".rstrip()
    except TimeoutError:
        return "nothing came in time"
    except (OSError, http.client.HTTPException) as error:
        return getattr(error, "strerror", "") or str(error) or type(error).__name__
    finally:
        connection.close()


def _over_limit(process: psutil.Process, deployment: Deployment) -> Reason | None:
    limit = deployment.spec.memory_mb
    try:
        used = process.memory_info().rss / 1e6
    except psutil.Error:
        return None
    if not limit or used <= limit:
        return None
    hint = f"%mlops deploy {deployment.model_ref} --memory {int(used * 1.5)}m"
    return Reason(kind="out of memory", message=f"It used {used:.0f} MB of the {limit} MB it may take.", hint=hint)


def _why(deployment: Deployment) -> Reason:
    """What the server said when it ended, else what its end looks like from outside."""
    log = "\n".join(logs(deployment, lines=20))
    if told := reason_in(run_folder(deployment) / "failure.json"):
        return msgspec.structs.replace(told, log=told.log or log)
    code = processes.exit_code(deployment.handle.get("pid", 0), patience_seconds=_DYING_SECONDS)
    if code == -signal.SIGKILL and deployment.spec.memory_mb:
        message = f"It was killed near its limit of {deployment.spec.memory_mb} MB."
        return Reason(kind="out of memory", message=message, log=log, hint="deploy it with more --memory")
    ended = "was ended from outside" if code is None else f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Reason(kind="exited", message=f"The scoring server {ended}.", log=log, hint=f"%mlops logs {deployment.ref}")


def _silent(deployment: Deployment, answer: str) -> Reason:
    log = "\n".join(logs(deployment, lines=10))
    return Reason(kind="unhealthy", message=f"It does not answer its health check: {answer}.", log=log, hint=f"%mlops logs {deployment.ref}")


def _request_error(deployment: Deployment) -> Reason | None:
    """The latest exception that a request raised in the user's own code, if any did."""
    return reason_in(run_folder(deployment) / "request_error.json")


def reason_in(path: Path) -> Reason | None:
    """What a server wrote down of its failure; None when it wrote nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Reason)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
