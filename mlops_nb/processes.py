"""Processes: one of ours is found again by its pid and the words it was started with, and one can end with whoever started it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    import psutil

    from .progress import Reporter

_LOOK_SECONDS = 0.5
_BEHIND = 10
_LAST_LINES = 20
_children: dict[int, subprocess.Popen[bytes]] = {}


def ours(child: subprocess.Popen[bytes]) -> int:
    """The pid of a process just started that may outlive us; it is reaped here if it ends before."""
    _children[child.pid] = child
    return child.pid


def exit_code(pid: int, *, patience_seconds: float = 0.0) -> int | None:
    """What a process of `ours` ended with, a signal as its number below zero; None while it runs, and when somebody else started it.

    One that is seen to end may take a moment until it has: *patience_seconds* waits for that.
    """
    child, deadline = _children.get(pid), time.monotonic() + patience_seconds
    while child and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return child.returncode if child else None


def again(pid: int | None, words: Sequence[str]) -> psutil.Process | None:
    """The process *pid*, while it lives, if *words* are the first it was started with after its program's name.

    None when it ended, or when the pid is by now somebody else's: of a copy of this workspace, or since the machine was started again.
    """
    import psutil

    if not pid or exit_code(pid) is not None:
        return None
    try:
        process = psutil.Process(pid)
        told = process.cmdline()[1:]  # raises for a zombie; still empty in the first instant of a process
    except psutil.Error:
        return None
    return process if not told or told[: len(words)] == list(words) else None


def started_with(words: Sequence[str]) -> Iterator[psutil.Process]:
    """Every living process of this machine that was started so, also one whose pid nobody wrote down."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[1 : len(words) + 1] == list(words):  # a zombie has none
            yield process


def lives(process: psutil.Process) -> bool:
    """Whether it still runs: a zombie whose parent (a kernel, a Jupyter server) never asks for it has ended."""
    import psutil

    try:
        return exit_code(process.pid) is None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(process: psutil.Process, *, patient_seconds: float) -> None:
    """Ask it to finish what it has and end; kill it, with what else is in a group that it leads, when that takes longer.  Returns once it ended."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process.terminate()
    deadline = time.monotonic() + patient_seconds
    while lives(process):
        if time.monotonic() > deadline:
            kill_group(process.pid)
        time.sleep(0.02)


@contextmanager
def scratch(root: Path, *, prefix: str) -> Iterator[Path]:
    """A new folder in *root* that is gone after the block, also where SIGTERM or SIGHUP ends it; those of processes that were killed go too."""
    import psutil

    for left in root.glob(f"{prefix}*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with in_order():
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def in_order() -> Iterator[None]:
    """Within the block, the first SIGTERM or SIGHUP unwinds it, as Ctrl-C does, and ends the process once that is done; a second one ends it at once.

    A signal that somebody handles or ignores is left to them; outside the main thread nothing can be done.
    """
    ours = [
        sign for sign in (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() and signal.getsignal(sign) is signal.SIG_DFL
    ]
    told: list[int] = []

    def unwind(sign: int, _frame: object) -> None:
        told.append(sign)
        for each in ours:
            signal.signal(each, signal.SIG_DFL)
        raise SystemExit(128 + sign)

    for sign in ours:
        signal.signal(sign, unwind)
    try:
        yield
    finally:
        for sign in ours:
            signal.signal(sign, signal.SIG_DFL)
        if told:
            os.kill(os.getpid(), told[0])


def put_in_place(scratch: Path, home: Path, *, mark: str = ".") -> None:
    """Have the folder *scratch* become *home*; where another process was faster its folder is as good, if it holds *mark*."""
    try:
        scratch.rename(home)
    except OSError:
        if not (home / mark).exists():
            raise


def reported(command: Sequence[str], report: Reporter, *, env: Mapping[str, str] | None = None) -> tuple[int, list[str]]:
    """Run a command, its lines reported as they come; what it ended with, and its last lines.  Whatever interrupts us, Ctrl-C too, kills it."""
    import subprocess

    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env
    ) as process:  # fmt: skip
        assert process.stdout
        try:
            for line in process.stdout:
                last.append(line.rstrip())
                report.log(last[-1])
        except BaseException:
            process.kill()
            raise
    return process.returncode, list(last)


class Ends:
    """Tells at once when one of some processes ends: Linux has a descriptor for each that can be waited for (pidfd_open(2))."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}
        self._ended: set[int] = set()

    @property
    def descriptors(self) -> list[int]:
        """Each is readable once its process has ended."""
        return list(self._open.values())

    def watch(self, pids: Collection[int]) -> bool:
        """Watch these processes and no others; False where the system cannot."""
        if not hasattr(os, "pidfd_open"):
            return False
        self._ended &= set(pids)
        for pid in self._open.keys() - set(pids):
            os.close(self._open.pop(pid))
        for pid in set(pids) - self._open.keys() - self._ended:
            try:
                self._open[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                self._ended.add(pid)
            except OSError:  # a kernel without it, or too many open files
                return False
        return True

    def forget_ended(self) -> None:
        """Stop telling of those that have ended."""
        ready, _, _ = select.select(self.descriptors, [], [], 0)
        for pid in [pid for pid, descriptor in self._open.items() if descriptor in ready]:
            os.close(self._open.pop(pid))
            self._ended.add(pid)


def kill_group(pid: int) -> None:
    """Kill a process that leads a session of its own, with all it started; nothing happens when it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def end_with(parent: int) -> None:
    """From now on end this process, with what it started, within a second of the end of *parent*, which started it.

    It looks who its parent is: that changes however the parent ended, and on every system.
    """
    threading.Thread(target=_end_after, args=(parent,), name="end-with-parent", daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    if os.getpgrp() == os.getpid():
        kill_group(os.getpid())
    os._exit(1)


def stand_back() -> None:
    """Let whatever else wants a core have it before this thread, and before those it starts; only Linux can tell threads apart."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BEHIND)
