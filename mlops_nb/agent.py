"""The agent: one process per workspace that makes what is match what should be.

It reconciles: it reads what is wanted from the store, looks at what runs, takes the step between, writes down what it saw.
It keeps nothing of its own, so it may be killed at any instant and the next one goes on.  `python -m mlops_nb.agent` is the agent;
`ensure` and `wake` are how others reach it.  Whoever holds the lock on `run/agent.lock` is the agent, or is stopping everything in
its stead; its pid stands in the file.
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

import msgspec
import psutil

from . import processes, store, timetable
from .errors import AgentDown, WorkspaceStopped
from .safety import names_a_secret
from .settings import Workspace
from .store import migrations, state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from . import reconcile

log = logging.getLogger("mlops_nb.agent")

IDLE_SECONDS = 0.2
BUSY_SECONDS = 0.03
COMPACT_SECONDS = 15.0
JUDGE_SECONDS = 10.0
LOOK_SECONDS = 1.0
TROUBLED_SECONDS = 1.0
_START_SECONDS = 10.0
_LOG_BYTES = 8_000_000


# ── for everybody else ───────────────────────────────────────────────────────────────────────────────────────────────


def ensure(*, stops: int | None = None) -> None:
    """Have the agent look at the store now, starting it if it is not there, and another in place of one of an earlier version.

    *stops* is what `stopped_times` was when that was asked for which the agent is needed: nobody starts it for what came before a `down`.
    Raises WorkspaceStopped where everything was stopped since; AgentDown when it does not come up.
    """
    if wake() and not _outdated():
        return
    now = stopped_times()
    if stops not in (None, now):
        raise WorkspaceStopped()
    _end_outdated()
    _start(now)


def stopped_times() -> int:
    """How often everything of this workspace was stopped so far."""
    with store.reading() as tx:
        return state.get(tx, "stops") or 0


def _start(stops: int) -> None:
    workspace = Workspace.current()
    workspace.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_file = workspace.run / "agent.log"
    if log_file.exists() and log_file.stat().st_size > _LOG_BYTES:
        log_file.replace(workspace.run / "agent.log.1")
    with log_file.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlops_nb.agent", str(stops)], cwd=workspace.root, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, env=_plain_environment() | {"MLOPS_HOME": str(workspace.root)},
        )  # fmt: skip
    deadline = time.monotonic() + _START_SECONDS
    while not wake():
        ended = process.poll()
        if ended == 0 and stopped_times() != stops:
            raise WorkspaceStopped()
        if time.monotonic() > deadline or ended not in (None, 0):
            raise AgentDown(log_file, _tail(log_file))
        time.sleep(0.02)


def _outdated() -> bool:
    """Whether the agent that runs is of an earlier version, which cannot read a store that this one has migrated."""
    try:
        return int(_knows().read_text()) < len(migrations.STEPS)
    except (FileNotFoundError, ValueError):
        return True


def _end_outdated() -> None:
    """End such an agent, and nothing that it started: the next one goes on with that."""
    begun = time.monotonic()
    while running() and _outdated() and time.monotonic() - begun < _START_SECONDS:
        _end_agent(patient=time.monotonic() - begun < _START_SECONDS / 2)
        time.sleep(0.02)


def _knows() -> Path:
    """Where an agent says up to which step of the schema it can read a store."""
    return Workspace.current().run / "agent.schema"


def _plain_environment() -> dict[str, str]:
    """The variables of whoever starts the agent, less their secrets: it outlives them, and its servers inherit what it has."""
    return {name: value for name, value in os.environ.items() if not names_a_secret(name)}


def wake() -> bool:
    """Have a running agent look at the store now; False when none runs."""
    descriptor = _heard()
    if descriptor is None:
        return False
    try:
        os.write(descriptor, b"!")
    except BlockingIOError:
        pass  # it has more than enough reasons to wake already
    finally:
        os.close(descriptor)
    return True


def running() -> bool:
    """Whether an agent listens."""
    descriptor = _heard()
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


class Trouble(msgspec.Struct, frozen=True):
    """What each of the agent's steps fails of now."""

    message: str
    about: str
    """The deployment it is about; empty where nothing can be done for any."""


def trouble(*, longer_than_seconds: float) -> Trouble | None:
    """What the agent's steps have been failing of for so long; None while they succeed, and when no agent runs."""
    try:
        lasted = time.time() - _word().stat().st_mtime
        return msgspec.json.decode(_word().read_bytes(), type=Trouble) if lasted > longer_than_seconds and running() else None
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def log_tail() -> str:
    """The last lines of the agent's log."""
    return _tail(Workspace.current().run / "agent.log")


def _word() -> Path:
    return Workspace.current().run / "agent.trouble"


def _heard() -> int | None:
    """The agent's pipe, open for writing; None when no agent reads it."""
    if not _pipe().is_fifo():
        return None
    try:
        return os.open(_pipe(), os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return None
        raise


def _pipe() -> Path:
    return Workspace.current().run / "agent.wake"


def _tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-8:])
    except FileNotFoundError:
        return ""


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Be the workspace's agent until told to end; return at once when there is one already, or all was stopped since somebody wanted an agent."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with _only_one() as lock:
        if lock is None or sys.argv[1:] not in ([], [str(stopped_times())]):
            return
        _knows().write_text(str(len(migrations.STEPS)), encoding="utf-8")
        with _woken() as pipe:
            _be_the_agent(lock, pipe)


def _be_the_agent(lock: int, pipe: int) -> None:
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ended.set())
    log.info("agent.started pid=%s workspace=%s", os.getpid(), Workspace.current().root)
    threading.Thread(target=_keep_compacting, args=(ended,), daemon=True, name="compaction").start()
    threading.Thread(target=_keep_watching, args=(ended,), daemon=True, name="watching").start()
    checking = threading.Thread(target=timetable.keep, args=(ended,), kwargs={"every_seconds": LOOK_SECONDS}, daemon=True, name="checking")
    checking.start()
    _reconcile_until(ended, lock, pipe)
    checking.join(LOOK_SECONDS)
    log.info("agent.ended pid=%s", os.getpid())


def _reconcile_until(ended: threading.Event, lock: int, pipe: int) -> None:
    from . import reconcile

    world, ends, told, left = reconcile.World(), processes.Ends(), None, None
    _leave_word(left)
    while not ended.is_set():
        if _deserted(lock):
            log.warning("agent.deserted the workspace is gone or has moved; stopping what ran in it")
            ended.set()
            world.end_known()
            return
        try:
            pause, trouble = (BUSY_SECONDS if world.step() else IDLE_SECONDS), None
        except Exception as error:  # whatever it was, the next look at the world starts afresh
            pause, trouble = TROUBLED_SECONDS, Trouble(repr(error), about="".join(getattr(error, "__notes__", ())))
            if trouble != told:  # a trouble that lasts must not fill the disk
                log.exception("agent.step_failed")
        if trouble == told and trouble != left:  # at its second step: the first may fail of a workspace that is just being deleted
            _leave_word(trouble)
            left = trouble
        told = trouble
        pids = None if trouble else world.quiet()
        if pids is not None and ends.watch(pids):
            _be_quiet(world, ends, ended, pipe)
        else:
            _sleep(pipe, [], pause)


def _leave_word(trouble: Trouble | None) -> None:
    """Leave word of what the steps fail of, for those who wait; a file, because it may be the store that fails."""
    try:
        if trouble is None:
            _word().unlink(missing_ok=True)
        else:
            scratch = _word().with_suffix(".new")
            scratch.write_bytes(msgspec.json.encode(trouble))
            scratch.replace(_word())
    except OSError:
        log.exception("agent.word_not_left")


def _deserted(lock: int) -> bool:
    """Whether the workspace was deleted or moved under our feet: another agent may be where it is now."""
    workspace = Workspace.current()
    try:
        return not os.path.samestat(os.fstat(lock), (workspace.run / "agent.lock").stat()) or not workspace.store.exists()
    except FileNotFoundError:
        return True


def _be_quiet(world: reconcile.World, ends: processes.Ends, ended: threading.Event, pipe: int) -> None:
    """Wait a second, or until somebody calls, a process ends, or the store changes: a whole look takes what serves some milliseconds of a core."""
    until = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < until and not ended.is_set() and not world.changed():
        if _sleep(pipe, ends.descriptors, IDLE_SECONDS):
            ends.forget_ended()
            return


def _sleep(pipe: int, others: Sequence[int], seconds: float) -> bool:
    """Whether there was a reason to wake before these *seconds* were over."""
    ready, _, _ = select.select([pipe, *others], [], [], seconds)
    if pipe in ready:
        os.read(pipe, 4096)
    return bool(ready)


def _keep_compacting(ended: threading.Event) -> None:
    """Telemetry is tidied in the time that answers leave: what serves comes first."""
    from . import telemetry
    from .telemetry import rows

    processes.stand_back()
    rows.connection()  # whose threads inherit how this one stands
    while not ended.wait(COMPACT_SECONDS):
        try:
            telemetry.compact()
        except Exception:  # a full disk today must not end compaction for good
            log.exception("agent.compaction_failed")


def _keep_watching(ended: threading.Event) -> None:
    """Beside the loop, which must not wait for telemetry: judge the alerts' rules, and serve the metrics where that is wanted."""
    from . import alerts, saturation, scraping

    server, looks, read, judged = scraping.Server(), saturation.Looks(), 0.0, time.monotonic()
    while not ended.wait(LOOK_SECONDS):
        try:
            changed = Workspace.current().store.stat().st_mtime
            if changed != read:
                server.keep(scraping.wanted())
                read = changed
        except Exception:  # a port that somebody else has taken must not end judging
            log.exception("agent.metrics_failed")
        try:
            if time.monotonic() - judged >= JUDGE_SECONDS:
                judged = time.monotonic()
                alerts.judge(looks=looks)
        except Exception:  # telemetry that cannot be read today must not end watching for good
            log.exception("agent.watching_failed")


@contextmanager
def _only_one() -> Iterator[int | None]:
    """The lock, as an open file, for the duration of the block; None when somebody else has it."""
    import fcntl

    run = Workspace.current().run
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(run / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _woken() -> Iterator[int]:
    """A named pipe others write to; open for reading and writing, so that it never reports an end."""
    pipe = _pipe()
    if not pipe.is_fifo():  # a copy of the workspace may hold an empty file there
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe, 0o600)
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def stop(*, timeout_seconds: float = 30.0) -> None:
    """End the agent, and everything that runs; then the folder holds files alone, and can be copied.  What is wanted stays wanted.

    Raises AgentDown when it cannot be had out of the way.
    """
    from . import reconcile

    if not Workspace.current().run.exists():
        return
    deadline = time.monotonic() + timeout_seconds
    while True:
        with _only_one() as lock:
            if lock is not None:  # nobody else starts or mends anything while we hold it
                reconcile.World().stop_all()
                _pipe().unlink(missing_ok=True)
                return
        late = time.monotonic() - deadline
        if late > _START_SECONDS:
            raise AgentDown(Workspace.current().run / "agent.log", "", not_done="end")
        _end_agent(patient=late < 0)
        time.sleep(0.02)


def _end_agent(*, patient: bool) -> None:
    """Ask the agent to go; it leaves what runs to us.  Kill it when it was asked for long enough."""
    try:
        process = psutil.Process(int((Workspace.current().run / "agent.lock").read_text()))
        if "mlops_nb.agent" in process.cmdline():
            process.terminate() if patient else process.kill()
    except (ValueError, OSError, psutil.Error):
        pass  # it has just gone, or not yet written its pid


if __name__ == "__main__":
    main()
