"""Servers to measure: one of our own for each setting, far from anybody's requests, or a deployment that runs already."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import psutil

from .. import hardware, settings, store, targets
from ..errors import DeploymentFailed
from ..progress import Reporter
from ..settings import Workspace
from ..store import runs
from ..store.deployments import Deployment, DeploymentSpec, Reason
from ..store.environments import Environment
from ..store.models import ModelVersion

_SAMPLE_SECONDS, _SAMPLE_ELSEWHERE_SECONDS = 0.05, 1.0


class Taken(NamedTuple):
    """What a server has taken."""

    cpu_seconds: float
    """So far."""
    memory_mb: float
    """Resident now, in millions of bytes."""


class Server(NamedTuple):
    """A scoring server that answers."""

    subject: str
    pid: int
    """Its first process; 0 where that is of another machine."""
    port: int
    token_file: str
    cold_start_seconds: float | None
    """From its start until it was ready; None when it ran before."""
    own: bool
    """Started here and to be ended here."""
    why_gone: Callable[[], Reason | None]
    """What it died of, if it did."""
    worded: Callable[[str], str] = str
    """What it says, with the paths that stay."""
    workspace: Path = Path()
    """The workspace it lives in, where its telemetry is."""
    trouble: Callable[[], Reason | None] = lambda: None
    """The latest exception of the model's code."""
    taken: Callable[[], Taken] = lambda: Taken(0.0, 0.0)
    """What it has taken; nothing once it is gone."""


@contextmanager
def started(version: ModelVersion, spec: DeploymentSpec, environment: Environment | None, *, on: Sequence[int], report: Reporter) -> Iterator[Server]:
    """A server of *version* of our own on the cores *on*, ended with the block; an isolated one in *environment*, which is built first.

    It lives in a scratch workspace inside the workspace, so that neither the agent nor the telemetry ever sees it.
    Raises DeploymentFailed with the model's own error, or uv's.
    """
    workspace, local = Workspace.current(), targets.get("local")
    local.prepare(version, environment, spec, ref=version.ref, report=report)
    patience, cells = workspace.settings().start_timeout_seconds, _cells(version)
    scratch = _scratch(workspace)
    deployment = _deployment(version, spec)
    began = time.monotonic()
    try:
        with settings.using_here(scratch):
            context = {"cells": cells, "environment": environment, "ends_with": os.getpid(), "cores": list(on)}
            deployment = msgspec.structs.replace(deployment, handle=local.start(deployment, version, context=context))
            _until_ready(deployment, patience)
        server = _server(deployment, version.ref, scratch, seconds=time.monotonic() - began, own=True)
        yield server._replace(worded=lambda text: text.replace(str(scratch.resolve()), str(workspace.root)).replace(str(scratch), str(workspace.root)))
    finally:
        with settings.using_here(scratch):
            local.stop(deployment)
        _clear(scratch)


def _scratch(workspace: Workspace) -> Path:
    """A workspace that has this one's files and nothing else of it; what killed profiles left is cleared away."""
    for left in (workspace.run / "profiles").glob("*-*"):
        if not psutil.pid_exists(int(left.name.partition("-")[0])):
            _clear(left)
    folder = workspace.run / "profiles" / f"{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "artifacts").symlink_to(workspace.artifacts.resolve(), target_is_directory=True)
    models = workspace.run.resolve() / "models"
    models.mkdir(exist_ok=True, mode=0o700)
    (folder / "run").mkdir(mode=0o700)
    (folder / "config.toml").write_text("capture_payload_percent = 100\n", encoding="utf-8")  # of a request that is captured, all is
    (folder / "run" / "models").symlink_to(models, target_is_directory=True)
    return folder


def _clear(scratch: Path) -> None:
    """End whatever runs there, and remove it."""
    with settings.using_here(scratch):
        targets.get("local").end_strays(())
    shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def running(deployment: Deployment) -> Iterator[Server]:
    """The server of a deployment that runs; it is left as it is."""
    yield _server(deployment, deployment.ref, Workspace.current().root, seconds=None, own=False)


def cores_for(count: int) -> tuple[list[int], list[int]]:
    """The *count* last cores of those there are, for the server, and the rest for the load; all for the load when none is left."""
    cores = hardware.cores()
    return cores[-count:], cores[:-count] or cores


def limits() -> str:
    """What holds a server to the cores it is measured with here, in words."""
    held = "CPU affinity" if hasattr(os, "sched_setaffinity") or hasattr(psutil.Process, "cpu_affinity") else "as many threads; this system has no CPU affinity"
    return f"cores by {held}; memory is measured, not limited"


def pin(pid: int, cores: Sequence[int]) -> None:
    """Hold a process and the threads it has to these cores, where the system can do that (not macOS)."""
    if hasattr(os, "sched_setaffinity"):
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores)
    elif hasattr(psutil.Process, "cpu_affinity"):
        psutil.Process(pid).cpu_affinity(list(cores))


def _server(deployment: Deployment, subject: str, workspace: Path, *, seconds: float | None, own: bool) -> Server:
    handle = deployment.handle
    pid = handle.get("pid") or targets.get(deployment.target).usage(deployment).pid or 0
    return Server(
        subject, pid, handle["port"], handle["token_file"], seconds, own, lambda: _why_gone(deployment, workspace), workspace=workspace,
        trouble=lambda: _seen(deployment, workspace).reason, taken=_of_processes(pid) if pid else lambda: _of_its_place(deployment),
    )  # fmt: skip


def _why_gone(deployment: Deployment, workspace: Path) -> Reason | None:
    seen = _seen(deployment, workspace)
    return seen.reason if seen.state == "gone" else None


def _seen(deployment: Deployment, workspace: Path) -> targets.Observed:
    with settings.using_here(workspace):
        return targets.get(deployment.target).observe(deployment)


def _deployment(version: ModelVersion, spec: DeploymentSpec) -> Deployment:
    """A deployment that no store knows."""
    return Deployment(
        endpoint=version.model, name="profiled", model=version.model, version=version.version, target="local", spec=spec, wanted="running", generation=1,
        status="starting", created_at=store.now(), changed_at=store.now(),
    )  # fmt: skip


def _until_ready(deployment: Deployment, patience: float) -> None:
    """Raises DeploymentFailed when it ends before, or takes longer than *patience* seconds."""
    local, deadline = targets.get("local"), time.monotonic() + patience
    while (seen := local.observe(deployment)).state != "healthy":
        if seen.state == "gone":
            reason = seen.reason or Reason(kind="exited", message="it ended without a word")
            raise DeploymentFailed(deployment.model_ref, message=reason.message, where=reason.where, log=reason.traceback or reason.log, hint=_hint(reason))
        if time.monotonic() > deadline:
            log = "\n".join(local.logs(deployment, lines=20))
            message = f"it was not ready within {patience:.0f} s"
            raise DeploymentFailed(deployment.model_ref, message=message, log=log, hint="start_timeout_seconds in [tool.mlops] gives it longer")
        time.sleep(0.01)


def _hint(reason: Reason) -> str:
    """Its own, but for the log, which goes with the scratch workspace and stands below the error anyway."""
    return reason.hint if reason.hint and "logs" not in reason.hint.split() else "mend the model, and register it again"


def _cells(version: ModelVersion) -> list[dict]:
    with store.reading() as tx:
        run = runs.get(tx, version.run) if version.run else None
    return [{"number": cell.number, "filename": cell.filename, "source": cell.source} for cell in (run.cells if run else [])]


# ── what it takes ────────────────────────────────────────────────────────────────────────────────────────────────────


class Watch:
    """Samples a server: memory twenty times a second (once, where another machine is asked), CPU time when asked."""

    def __init__(self, server: Server) -> None:
        self.peak_mb = 0.0
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def memory_mb(self) -> float:
        """Resident now, in millions of bytes; 0 when it is gone."""
        now = self._server.taken().memory_mb
        self.peak_mb = max(self.peak_mb, now)
        return now

    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        return self._server.taken().cpu_seconds

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS if self._server.pid else _SAMPLE_ELSEWHERE_SECONDS):
            self.memory_mb()


def _of_processes(pid: int) -> Callable[[], Taken]:
    """What a process of this machine and its children take."""
    family = _family(pid)

    def taken() -> Taken:
        spent = sum(_asked(process, lambda p: p.cpu_times().user + p.cpu_times().system) for process in family)
        return Taken(spent, sum(_asked(process, lambda p: p.memory_info().rss) for process in family) / 1e6)

    return taken


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _of_its_place(deployment: Deployment) -> Taken:
    """What the place it runs in says that it takes."""
    usage = targets.get(deployment.target).usage(deployment)
    return Taken(usage.cpu_seconds or 0.0, usage.memory_mb or 0.0)


def _asked(process: psutil.Process, question: Callable[[psutil.Process], float]) -> float:
    try:
        return question(process)
    except psutil.Error:
        return 0.0  # it is gone; the load tells


def peak_until_now(pid: int) -> float:
    """The most that was ever resident, in millions of bytes, where the system keeps it (Linux); else what is resident now."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    kept = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(kept.split()[1]) * 1024 / 1e6
