"""Drift checks that the agent makes by the clock; `python -m mlops_nb.monitoring.schedules ID` makes one."""

from __future__ import annotations

import getpass
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import store, timetable
from ..errors import MlopsError
from ..settings import Workspace
from ..store import alerts, schedules, silences
from ..store.checks import DriftCheck
from ..store.schedules import Schedule
from . import causes, drift, engines

RULE = "drift"
"""The condition of the alert that a schedule raises."""


def add(endpoint: str, words: str, **options: Any) -> Schedule:
    """Have the agent check *endpoint* whenever *words* (`0 6 * * *` in UTC, `0 6 * * * Europe/Berlin`, or `1h`) say; an alert tells of drift.

    What is checked is said by *options*, those of `check_drift`.
    Unless said otherwise a window is as long as checks are apart.  The budget of false alarms is shared out among the checks that the schedule makes.
    Raises EndpointNotFound, DeploymentNotFound, DatasetNotFound, BadOption, NothingToCompare, EngineMissing, before anything is kept.
    """
    every = timetable.every_seconds(words)
    due = timetable.next_time(words, store.now())
    by_counts = engines.choose(options.get("engine") or Workspace.current().settings().drift_engine).name == "histograms"
    given = ({"window": _as_long_as(every)} if by_counts else {}) | {name: value for name, value in options.items() if value is not None}
    drift.refuse_unfit(endpoint, every_seconds=every, **given)
    author = getpass.getuser()
    with store.writing() as tx:
        schedule = schedules.add(tx, endpoint, words=" ".join(words.split()), every_seconds=every, options=given, next_time=due, author=author)
        if not any(rule.condition == RULE for rule in alerts.of(tx, endpoint)):
            alerts.add(tx, endpoint, RULE, author=author)
    return schedule


def _as_long_as(seconds: float) -> str:
    """A window as long as checks are apart, on average where they are not evenly: what came before it lies in the earlier windows, which a check sees too."""
    for unit, length in (("d", 86_400.0), ("h", 3600.0)):
        if seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{math.ceil(seconds / 3600)}h" if seconds > 86_400 else f"{math.ceil(seconds / 60)}m"


def of(endpoint: str | None = None) -> list[Schedule]:
    """Every schedule (of *endpoint*), the next one due first."""
    with store.reading() as tx:
        return schedules.of(tx, endpoint)


def delete(id: str) -> Schedule:
    """Have the checks be made no longer; the alert stays, for checks by hand.  Raises ScheduleNotFound."""
    with store.writing() as tx:
        schedule = schedules.get(tx, id)
        schedules.delete(tx, id)
    return schedule


# ── the process of its own ───────────────────────────────────────────────────────────────────────────────────────────


def run(id: str) -> None:
    """Make the check if it is due and nobody else makes it; note how it went and when the next one is due."""
    with _alone(id) as alone:
        if not alone:
            return
        with store.reading() as tx:
            schedule = schedules.maybe(tx, id)
        if schedule is None or schedule.next_time > store.now():
            return
        outcome = _made(schedule)
        with store.writing() as tx:
            schedules.ran(tx, id, outcome=outcome, next_time=timetable.next_time(schedule.words, store.now()))


def _made(schedule: Schedule) -> str:
    try:
        check = drift.check_drift(schedule.endpoint, every_seconds=schedule.every_seconds, explain=causes.told_of, **schedule.options)
    except MlopsError as error:  # an endpoint that was not asked today is asked tomorrow
        return f"not made: {error}"
    return _told(check)


def _told(check: DriftCheck) -> str:
    found = silences.drifting(check)
    return "; ".join(filter(None, (f"drift in {', '.join(found)}", check.cost))) if found else check.verdict


@contextmanager
def _alone(id: str) -> Iterator[bool]:
    """Whether no other process makes this check, which is so until the block ends."""
    import fcntl

    folder = Workspace.current().run
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / f"check-{id}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    run(sys.argv[1])
