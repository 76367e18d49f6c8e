"""The agent: one process per workspace that makes what is match what should be.

It reconciles: it reads what is wanted from the store, looks at what runs, takes the step between, writes down what it saw.
It keeps nothing of its own, so it may be killed at any instant and the next one goes on.  `python -m mlops_nb.agent` is the agent;
`ensure` and `wake` are how others reach it.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from .errors import AgentDown
from .settings import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("mlops_nb.agent")

IDLE_SECONDS = 0.2
BUSY_SECONDS = 0.03
COMPACT_SECONDS = 15.0
_START_SECONDS = 10.0


# ── for everybody else ───────────────────────────────────────────────────────────────────────────────────────────────


def ensure() -> None:
    """Have the agent look at the store now, starting it if it is not there.  Raises AgentDown when it does not come up."""
    if wake():
        return
    workspace = Workspace.current()
    workspace.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_file = workspace.run / "agent.log"
    with log_file.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlops_nb.agent"], cwd=workspace.root, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, env=os.environ | {"MLOPS_HOME": str(workspace.root)},
        )  # fmt: skip
    deadline = time.monotonic() + _START_SECONDS
    while not wake():
        if time.monotonic() > deadline or process.poll() not in (None, 0):
            raise AgentDown(log_file, _tail(log_file))
        time.sleep(0.02)


def wake() -> bool:
    """Have a running agent look at the store now; False when none runs."""
    try:
        descriptor = os.open(_pipe(), os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        os.write(descriptor, b"!")
    except BlockingIOError:
        pass  # it has more than enough reasons to wake already
    finally:
        os.close(descriptor)
    return True


def running() -> bool:
    """Whether an agent listens."""
    try:
        os.close(os.open(_pipe(), os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _pipe() -> Path:
    return Workspace.current().run / "agent.wake"


def _tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-8:])
    except FileNotFoundError:
        return ""


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Be the workspace's agent until told to end; return at once when there is one already."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with _only_one() as alone, _woken() as pipe:
        if not alone:
            return
        ended = threading.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, lambda *_: ended.set())
        log.info("agent.started pid=%s workspace=%s", os.getpid(), Workspace.current().root)
        threading.Thread(target=_keep_compacting, args=(ended,), daemon=True, name="compaction").start()
        _reconcile_until(ended, pipe)
        log.info("agent.ended pid=%s", os.getpid())


def _reconcile_until(ended: threading.Event, pipe: int) -> None:
    from . import reconcile

    world = reconcile.World()
    while not ended.is_set():
        try:
            unsettled = world.step()
        except Exception:  # whatever it was, the next look at the world starts afresh
            log.exception("agent.step_failed")
            unsettled = False
        if _asked_to_stop():
            world.stop_all()
            return
        _sleep(pipe, BUSY_SECONDS if unsettled else IDLE_SECONDS)


def _asked_to_stop() -> bool:
    return (Workspace.current().run / "agent.stop").exists()


def _sleep(pipe: int, seconds: float) -> None:
    try:
        ready, _, _ = select.select([pipe], [], [], seconds)
        if ready:
            os.read(pipe, 4096)
    except InterruptedError:
        pass  # a signal: the loop looks at once


def _keep_compacting(ended: threading.Event) -> None:
    from . import telemetry

    while not ended.wait(COMPACT_SECONDS):
        try:
            telemetry.compact()
        except Exception:  # a full disk today must not end compaction for good
            log.exception("agent.compaction_failed")


@contextmanager
def _only_one() -> Iterator[bool]:
    import fcntl

    run = Workspace.current().run
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(run / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    yield True
    os.close(descriptor)


@contextmanager
def _woken() -> Iterator[int]:
    """A named pipe others write to; open for reading and writing, so that it never reports an end."""
    pipe = _pipe()
    try:
        os.mkfifo(pipe, 0o600)
    except FileExistsError:
        pass
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def stop(*, timeout_seconds: float = 30.0) -> None:
    """Have the agent stop everything it runs and end; without one, stop it from here.  What is wanted stays wanted."""
    from . import reconcile

    flag = Workspace.current().run / "agent.stop"
    if not Workspace.current().run.exists():
        return
    flag.touch()
    try:
        _end_agent(timeout_seconds)
        reconcile.World().stop_all()
    finally:
        flag.unlink(missing_ok=True)


def _end_agent(timeout_seconds: float) -> None:
    """Wait for the agent to stop everything and go; kill it when it does not."""
    process = _agent_process()
    if process is None:
        return
    wake()
    try:
        process.wait(timeout_seconds)
    except psutil.TimeoutExpired:
        process.kill()


def _agent_process() -> psutil.Process | None:
    """The process whose pid is in the lock file, if it is an agent still."""
    try:
        process = psutil.Process(int((Workspace.current().run / "agent.lock").read_text()))
        return process if "mlops_nb.agent" in process.cmdline() else None
    except (ValueError, OSError, psutil.Error):
        return None


if __name__ == "__main__":
    main()
