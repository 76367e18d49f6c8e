"""Splits that change by themselves: what the agent does when a step of a rollout is due.

A step and the note that it was taken are one transaction, so an agent may be killed anywhere: the next one finds either both or neither.
"""

from __future__ import annotations

from collections.abc import Mapping
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
            end(tx, current, "cancelled", missing)
        elif unfit := troubled(tx, current):
            hold(tx, current, unfit)
        elif current.kind == "schedule":
            weights = current.settings["weights"]
            _set(tx, current, weights, mirrors={name: 0 for name, share in weights.items() if share})
            end(tx, current, "done", "the split was set as scheduled")
        else:
            _next_share(tx, current)


def give(tx: store.Transaction, rollout: Rollout, percent: int, *, why: str, mirrors: Mapping[str, int] | None = None) -> None:
    """Give the rollout's deployment *percent* of the requests, the others sharing the rest as they did; *mirrors* changes who is sent copies."""
    weights = splits.shifted(table.traffic(tx, rollout.endpoint), rollout.deployment, percent)
    _set(tx, rollout, weights, why=f"{why}{f': {rollout.why}' if rollout.why else ''}", mirrors=mirrors)


def restore(tx: store.Transaction, rollout: Rollout, before: Mapping[str, int], *, why: str, mirrors: Mapping[str, int] | None = None) -> bool:
    """Divide the requests as *before*, among those of it that are still there; False, and nothing is moved, when none is."""
    there = {d.name for d in table.of(tx, rollout.endpoint) if d.wanted == "running" and d.status != "failed"}
    kept = {name: share for name, share in before.items() if share and name in there}
    if kept:
        _set(tx, rollout, splits.shared_out(kept, 100), why=why, mirrors=mirrors)
    return bool(kept)


def _next_share(tx: store.Transaction, rollout: Rollout) -> None:
    percent = rollout.steps[rollout.step]
    give(tx, rollout, percent, why=f"step {rollout.step + 1} of {len(rollout.steps)} of a ramp", mirrors={rollout.deployment: 0})
    taken = rollouts.change(tx, rollout, step=rollout.step + 1, status="running", reason="", next_time=store.now() + timedelta(seconds=rollout.every_seconds))
    if taken.step == len(taken.steps):
        end(tx, taken, "done", f"{rollout.endpoint}/{rollout.deployment} has {percent} % of the requests")


def _set(tx: store.Transaction, rollout: Rollout, weights: dict[str, int], *, why: str = "", mirrors: Mapping[str, int] | None = None) -> None:
    before = table.split(tx, rollout.endpoint)
    copied = {name: share for name, share in {**(before.mirrors if before else {}), **(mirrors or {})}.items() if share}
    table.set_traffic(
        tx, rollout.endpoint, weights, author=rollout.author, why=why or rollout.why or "as scheduled", sticky=rollout.settings.get("sticky"),
        mirrors=copied,
    )  # fmt: skip
    events.record(tx, "TrafficChanged", subject=rollout.endpoint, data={"weights": weights, "why": why or rollout.why, "rollout": rollout.id})


def _takers(rollout: Rollout) -> list[str]:
    """The deployments that are to have a share after the step that is due."""
    return [name for name, share in rollout.settings["weights"].items() if share] if rollout.kind == "schedule" else [rollout.deployment]


def _missing(tx: store.Transaction, rollout: Rollout) -> str:
    """Why nothing can come of it: who is to have a share is no more, or of a ramp another by now, to whom none was promised."""
    there = {d.name: d for d in table.of(tx, rollout.endpoint) if d.wanted == "running" and d.status != "failed"}
    if gone := [name for name in _takers(rollout) if name not in there]:
        return f"{rollout.endpoint}/{gone[0]} was withdrawn or failed"
    if rollout.kind == "ramp" and there[rollout.deployment].created_at > rollout.created_at:
        return f"{rollout.endpoint}/{rollout.deployment} was deployed anew"
    return ""


def troubled(tx: store.Transaction, rollout: Rollout) -> str:
    """Which of those that are to have a share cannot take it now, and why; nothing when all can."""
    unfit = [d for d in table.of(tx, rollout.endpoint) if d.name in _takers(rollout) and d.status != "healthy"]
    return f"{unfit[0].ref} is {unfit[0].status}" if unfit else ""


def hold(tx: store.Transaction, rollout: Rollout, reason: str) -> None:
    """Look again a little later; the first time tell it as an event."""
    if rollout.status != "held":
        events.record(tx, "RolloutHeld", subject=rollout.endpoint, data={"rollout": rollout.id, "deployment": rollout.deployment, "reason": reason})
    rollouts.change(tx, rollout, status="held", reason=reason, next_time=store.now() + timedelta(seconds=HELD_SECONDS))


def end(tx: store.Transaction, rollout: Rollout, status: rollouts.Status, reason: str) -> Rollout:
    """Note how a rollout ended, and tell it as an event; returns it as it is then."""
    ended = rollouts.change(tx, rollout, status=status, reason=reason)
    what = {"done": "RolloutCompleted", "rolled back": "RolloutRolledBack"}.get(status, "RolloutCancelled")
    events.record(tx, what, subject=rollout.endpoint, data={"rollout": rollout.id, "deployment": rollout.deployment, "reason": reason})
    return ended
