"""Processes: one of ours is found again by its pid and the words it was started with, and one can end with whoever started it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    import psutil

_LOOK_SECONDS = 0.5
_children: dict[int, subprocess.Popen[bytes]] = {}


def ours(child: subprocess.Popen[bytes]) -> int:
    """The pid of a process just started that may outlive us; it is reaped here if it ends before."""
    _children[child.pid] = child
    return child.pid


def exit_code(pid: int) -> int | None:
    """What a process of `ours` ended with, a signal as its number below zero; None while it runs, and when somebody else started it."""
    child = _children.get(pid)
    return child.poll() if child else None


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

    for process in psutil.process_iter(["cmdline", "status"]):
        told = (process.info["cmdline"] or [])[1 : len(words) + 1]
        if told == list(words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            yield process


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
