"""Drift checks by the clock: when they are due, and their processes.

A check runs in a process of its own (`python -m mlops_nb.monitoring.schedules ID`), so that neither the agent's loop nor its memory knows of
it.  That process notes how it went together with when the next one is due, so a check that a kill interrupted is still due, and one that was
missed while no agent ran is made once.

A cron line is read in UTC, or in the time zone named behind it as systemd has it (`0 6 * * * Europe/Berlin`): a time that the clocks skip in spring
comes at the next one there is, and one that they show twice in autumn comes once.
"""

from __future__ import annotations

import bisect
import itertools
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from . import store
from .errors import BadOption, MissingExtra, closest
from .settings import Workspace
from .store import schedules

if TYPE_CHECKING:
    from .store.schedules import Schedule

log = logging.getLogger("mlops_nb.agent")

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_NAMES_A_ZONE = re.compile(r"[A-Za-z][\w+-]*(/[\w+-]+)*$", re.ASCII)
_LEAST_SECONDS = 60.0
_MONTH = timedelta(days=30)
_MOST_TIMES = 100_000
_HINT = '--schedule "0 6 * * *" (in UTC, or with --tz Europe/Berlin), or --schedule 1h'


def every_seconds(words: str) -> float:
    """How far apart the checks of `1h` or `0 6 * * *` are: of a cron line on average over the thirty days that have most of them in a year.

    Raises BadOption, MissingExtra.
    """
    if plain := _plain(words):
        return plain
    now = store.now()
    times = list(itertools.takewhile(lambda time: time < now + timedelta(days=366), itertools.islice(_times(words, now), _MOST_TIMES)))
    most = max((bisect.bisect_left(times, time + _MONTH) - place for place, time in enumerate(times)), default=1)
    return _MONTH.total_seconds() / most


def next_time(words: str, after: datetime) -> datetime:
    """When a check is due for the first time after a moment.  Raises BadOption, MissingExtra."""
    if plain := _plain(words):
        return after + timedelta(seconds=plain)
    if not (found := next(_times(words, after), None)):
        raise BadOption(f"{words!r} never comes.", hint=_HINT)
    return found


def _plain(words: str) -> float:
    """The seconds of `90m` or `1d`; 0 of anything else.  Raises BadOption for less than a minute."""
    number, unit = words[:-1], words[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit()) or len(number) > 6:
        return 0.0
    seconds = int(number) * _UNITS[unit]
    if seconds < _LEAST_SECONDS:
        raise BadOption(f"{words!r} is less than a minute.", hint=_HINT)
    return seconds


def _times(words: str, after: datetime) -> Iterator[datetime]:
    fields = words.split()
    if len(fields) not in (5, 6) or (len(fields) == 6 and not _NAMES_A_ZONE.match(fields[5])):
        raise BadOption(f"{words[:40]!r} is no schedule.", hint=_HINT)
    zone = _zone(fields[5]) if len(fields) == 6 else UTC
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise MissingExtra("cronsim", extra="drift", doing="A cron schedule") from None
    try:
        return (time.astimezone(UTC) for time in CronSim(" ".join(fields[:5]), after.astimezone(zone)))
    except CronSimError as error:
        raise BadOption(f"{words[:40]!r} is no cron schedule ({error}).", hint=_HINT) from None


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, available_timezones

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a name that is a folder is no file
        known = sorted(available_timezones())
        raise BadOption(
            f"No time zone {name[:40]!r}{' is known here' if known else ', for this machine knows none'}.", hint=f"--tz {_near(name, known)}"
        ) from None


def _near(name: str, known: Sequence[str]) -> str:
    return next(iter(closest(name, known)), "Europe/Berlin")


# ── the agent's ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """Starts what is due, one check at a time."""

    def __init__(self) -> None:
        self._read = 0.0
        self._known: list[Schedule] = []
        self._running: tuple[str, subprocess.Popen[bytes]] | None = None

    def look(self) -> None:
        """Begin the check that is due longest, unless one runs; note one that died without a word of its own."""
        if self._running and not self._ended(*self._running):
            return
        changed = Workspace.current().store.stat().st_mtime
        if changed != self._read:
            with store.reading() as tx:
                self._known = schedules.of(tx)
            self._read = changed
        due = next((one for one in self._known if one.next_time <= store.now()), None)
        if due:
            command = [sys.executable, "-m", "mlops_nb.monitoring.schedules", due.id]
            self._running = due.id, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            log.info("schedule.begun %s", due.id)

    def end(self) -> None:
        """End the check that runs; it is made when the agent is there again."""
        if self._running:
            self._running[1].terminate()
            self._running[1].wait(10)

    def _ended(self, id: str, process: subprocess.Popen[bytes]) -> bool:
        status = process.poll()
        if status is None:
            return False
        self._running, self._read = None, 0.0
        log.info("schedule.ended %s status=%s", id, status)
        if status:
            with store.writing() as tx:
                if (schedule := schedules.maybe(tx, id)) and schedule.next_time <= store.now():
                    outcome = f"the check's process was killed by signal {-status}" if status < 0 else f"the check's process ended with {status}"
                    schedules.ran(tx, id, outcome=outcome, next_time=next_time(schedule.words, store.now()))
        return True


def keep(ended: threading.Event, *, every_seconds: float) -> None:
    """Look at the clock until *ended*."""
    clock = Clock()
    while not ended.wait(every_seconds):
        try:
            clock.look()
        except Exception:  # a store that is busy today must not end checking for good
            log.exception("agent.schedule_failed")
    clock.end()
