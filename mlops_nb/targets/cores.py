"""Cores in use, from CPU time that only ever grows."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

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
