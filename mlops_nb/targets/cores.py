"""Cores: how many are in use, from CPU time that only ever grows, and which a server is held to."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable

import psutil

from .. import hardware

_FIRST_SECONDS = 0.1
_counted: dict[str, tuple[float, float]] = {}  # when it was last looked at, and the CPU time it had spent


def in_use(key: str, spent_seconds: Callable[[], float | None]) -> float | None:
    """How many cores what is called *key* used since this process last asked, or for a tenth of a second when it never did; None when it ended."""
    if key not in _counted:
        if (spent := spent_seconds()) is None:
            return None
        _counted[key] = (time.monotonic(), spent)
        time.sleep(_FIRST_SECONDS)
    if (spent := spent_seconds()) is None:
        return None
    then, before = _counted[key]
    _counted[key] = (now := time.monotonic(), spent)
    return max(0.0, (spent - before) / max(now - then, 1e-6))


def spent_by(process: psutil.Process) -> float | None:
    """CPU time of a process and its children in seconds; None once it ended."""
    try:
        times = [member.cpu_times() for member in (process, *process.children(recursive=True))]
    except psutil.Error:
        return None
    return sum(spent.user + spent.system for spent in times)


def least_taken(count: float | None, servers: Iterable[psutil.Process]) -> list[int]:
    """As many whole cores as *count* asks for, those that the fewest of *servers* are held to.

    None at all, which lets a server use every core, where *count* asks for that, or the system cannot hold a process to cores (macOS).
    """
    there = hardware.cores()
    if not count or not hasattr(os, "sched_setaffinity"):
        return []
    taken = Counter(core for server in servers for core in _held_to(server, there))
    return sorted(sorted(there, key=lambda core: taken[core])[: math.ceil(count)])


def _held_to(server: psutil.Process, there: list[int]) -> list[int]:
    """The cores that a process is held to; none when it may use all of those there are."""
    try:
        held = os.sched_getaffinity(server.pid)
    except OSError:
        return []  # it ended meanwhile
    return [] if held >= set(there) else sorted(held)


def in_words(held_to: list[int]) -> str:
    """`core 1`, `cores 0, 1`; nothing for none."""
    return f"core{'s' if len(held_to) > 1 else ''} {', '.join(map(str, held_to))}" if held_to else ""
