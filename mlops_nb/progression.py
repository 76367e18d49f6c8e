"""Splits that change by themselves: what the agent does when a step of a rollout is due.

A step and the note that it was taken are one transaction, so an agent may be killed anywhere: the next one finds either both or neither.
"""

from __future__ import annotations

from datetime import timedelta

from . import splits, store
from .store import deployments as table
from .store import events, rollouts
from .store.rollouts import Rollout

HELD_SECONDS = 5.0
"""A rollout that cannot go on looks again after this."""


def advance(rollout: Rollout) -> None:
    """Take the step that is due, or hold and say why."""
    with store.writing() as tx:
        current = rollouts.as_it_was(tx, rollout)
        if current is None:
            return
        if missing := _missing(tx, current):
            _end(tx, current, "cancelled", missing)
        elif troubled := _troubled(tx, current):
            _hold(tx, current, troubled)
        elif current.kind == "schedule":
            _set(tx, current, current.settings["weights"])
            _end(tx, current, "done", "the split was set as scheduled")
        else:
            _next_share(tx, current)


def give(tx: store.Transaction, rollout: Rollout, percent: int, *, why: str) -> None:
    """Give the rollout's deployment *percent* of the requests; the others share the rest as they did."""
    weights = splits.shifted(table.traffic(tx, rollout.endpoint), rollout.deployment, percent)
    _set(tx, rollout, weights, why=why)


def end(tx: store.Transaction, rollout: Rollout, status: rollouts.Status, reason: str) -> None:
    """Note how a rollout ended, and tell it as an event."""
    _end(tx, rollout, status, reason)


def _next_share(tx: store.Transaction, rollout: Rollout) -> None:
    percent = rollout.steps[rollout.step]
    give(tx, rollout, percent, why=f"step {rollout.step + 1} of {len(rollout.steps)} of a ramp{f': {rollout.why}' if rollout.why else ''}")
    taken = rollouts.change(tx, rollout, step=rollout.step + 1, status="running", reason="", next_time=store.now() + timedelta(seconds=rollout.every_seconds))
    if taken.step == len(taken.steps):
        _end(tx, taken, "done", f"{rollout.endpoint}/{rollout.deployment} has {percent} % of the requests")


def _set(tx: store.Transaction, rollout: Rollout, weights: dict[str, int], *, why: str = "") -> None:
    table.set_traffic(tx, rollout.endpoint, weights, author=rollout.author, why=why or rollout.why or "as scheduled", sticky=rollout.settings.get("sticky"))
    events.record(tx, "TrafficChanged", subject=rollout.endpoint, data={"weights": weights, "why": why or rollout.why, "rollout": rollout.id})


def _takers(rollout: Rollout) -> list[str]:
    """The deployments that are to have a share after the step that is due."""
    return [name for name, share in rollout.settings["weights"].items() if share] if rollout.kind == "schedule" else [rollout.deployment]


def _missing(tx: store.Transaction, rollout: Rollout) -> str:
    there = {d.name for d in table.of(tx, rollout.endpoint) if d.wanted == "running" and d.status != "failed"}
    gone = [name for name in _takers(rollout) if name not in there]
    return f"{rollout.endpoint}/{gone[0]} was withdrawn or failed" if gone else ""


def _troubled(tx: store.Transaction, rollout: Rollout) -> str:
    unfit = [d for d in table.of(tx, rollout.endpoint) if d.name in _takers(rollout) and d.status != "healthy"]
    return f"{unfit[0].ref} is {unfit[0].status}" if unfit else ""


def _hold(tx: store.Transaction, rollout: Rollout, reason: str) -> None:
    if rollout.status != "held":
        events.record(tx, "RolloutHeld", subject=rollout.endpoint, data={"rollout": rollout.id, "deployment": rollout.deployment, "reason": reason})
    rollouts.change(tx, rollout, status="held", reason=reason, next_time=store.now() + timedelta(seconds=HELD_SECONDS))


def _end(tx: store.Transaction, rollout: Rollout, status: rollouts.Status, reason: str) -> None:
    rollouts.change(tx, rollout, status=status, reason=reason)
    what = {"done": "RolloutCompleted", "rolled back": "RolloutRolledBack"}.get(status, "RolloutCancelled")
    events.record(tx, what, subject=rollout.endpoint, data={"rollout": rollout.id, "deployment": rollout.deployment, "reason": reason})
