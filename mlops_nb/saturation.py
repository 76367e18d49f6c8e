"""How near deployments are to what they can carry: looked at by the agent every ten seconds, for the rules of `alerts`.

Looks are kept in the agent's memory, for as long as its rules ask for.  An agent that begins anew says nothing until it has looked long enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any

import msgspec

from . import hardware, metrics
from .metrics import Load

_SLACK = timedelta(seconds=30)
"""A stretch counts as watched when the first look is no later than this after its beginning."""
_HERE = ("local", "fpga")
"""Targets whose deployments are processes of this machine."""


class Seen(msgspec.Struct, frozen=True):
    """What one deployment had to carry on average over a stretch of time, and out of what."""

    deployment: str
    value: float
    """A share (0–1); of `waiting`, requests."""
    words: str


class Looks:
    """What was seen of endpoints' deployments, the oldest first."""

    def __init__(self) -> None:
        self._of: dict[str, deque[tuple[datetime, dict[tuple[str, str], Seen]]]] = {}
        self.hours: dict[tuple[str, str], tuple[datetime, datetime, Any]] = {}
        """Endpoint and metric → the hour that was judged last, when, and the verdict."""

    def add(self, endpoint: str, at: datetime, *, keep: timedelta) -> None:
        """Look at the endpoint's deployments, and forget what was seen longer ago than *keep*.  Raises EndpointNotFound."""
        self.note(endpoint, at, metrics.loads(endpoint), keep=keep)

    def note(self, endpoint: str, at: datetime, loads: Sequence[Load], *, keep: timedelta) -> None:
        """The same of what somebody else has seen."""
        looks = self._of.setdefault(endpoint, deque())
        looks.append((at, {(metric, load.deployment): seen for load in loads for metric in METRICS if (seen := _seen(metric, load))}))
        while looks[0][0] < at - keep - _SLACK:
            looks.popleft()

    def only(self, endpoints: set[str]) -> None:
        """Forget all others."""
        self._of = {endpoint: looks for endpoint, looks in self._of.items() if endpoint in endpoints}

    def over(self, endpoint: str, metric: str, *, since: datetime, until: datetime) -> list[Seen] | None:
        """Each deployment's average from *since* to *until*, the highest first; of those that told it in all that time.  None where nobody looked so long."""
        looks = [look for look in self._of.get(endpoint, ()) if since <= look[0] <= until]
        if not looks or looks[0][0] > since + _SLACK:
            return None
        told: dict[str, list[tuple[datetime, Seen]]] = {}
        for at, look in looks:
            for (of, deployment), seen in look.items():
                if of == metric:
                    told.setdefault(deployment, []).append((at, seen))
        found = [_together([seen for _, seen in many]) for many in told.values() if many[0][0] <= since + _SLACK]
        return sorted(found, key=lambda seen: -seen.value)


def now(endpoint: str, metric: str) -> list[Seen]:
    """What each deployment carries at this moment, the most first; none where no place tells it.  Raises EndpointNotFound."""
    return sorted(filter(None, (_seen(metric, load) for load in metrics.loads(endpoint))), key=lambda seen: -seen.value)


def told(metric: str, seen: Seen) -> str:
    """In words."""
    return f"{seen.deployment}: {f'{seen.value:.3g}' if metric == 'waiting' else f'{seen.value:.0%}'} {seen.words}"


def _together(many: Sequence[Seen]) -> Seen:
    return msgspec.structs.replace(many[-1], value=fmean(seen.value for seen in many))


def _seen(metric: str, load: Load) -> Seen | None:
    found = _OF[metric](load)
    if found is None:
        return None
    place = ", ".join(filter(None, (load.target, load.hardware)))
    return Seen(f"{load.deployment} ({place})" if place else load.deployment, *found)


def _cpu(load: Load) -> tuple[float, str] | None:
    most = load.cpus_limit or (len(hardware.cores()) if load.target in _HERE else None)
    return (load.cpus / most, f"of {most:g} core{'s' * (most != 1)} in use") if load.cpus is not None and most else None


def _memory(load: Load) -> tuple[float, str] | None:
    import psutil

    most = load.memory_limit_mb or (psutil.virtual_memory().total / 1e6 if load.target in _HERE else None)
    return (load.memory_mb / most, f"of {most:,.0f} MB in use") if load.memory_mb is not None and most else None


def _in_flight(load: Load) -> tuple[float, str] | None:
    return (load.in_flight / load.most, f"of the {load.most} requests it takes in flight") if load.in_flight is not None and load.most else None


def _waiting(load: Load) -> tuple[float, str] | None:
    return None if load.waiting is None else (float(load.waiting), "requests waiting")


_OF: Mapping[str, Callable[[Load], tuple[float, str] | None]] = {"cpu": _cpu, "memory": _memory, "in_flight": _in_flight, "waiting": _waiting}
METRICS = tuple(_OF)
