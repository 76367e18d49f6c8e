"""Canaries as the agent stores them, without an agent: looks that a real one would have taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import msgspec
import numpy as np

from mlops_nb import canary, guards, sequential, store
from mlops_nb.canary import Evidence, Look, Stage
from mlops_nb.settings import Workspace
from mlops_nb.store import rollouts
from mlops_nb.store.rollouts import Rollout
from mlops_nb.telemetry import Agreed, Counted

GUARDS = ("error_rate<=+0.5pp", "p95<=+10%")
LOOKS = 40


def a_canary(
    endpoint: str = "delays", deployment: str = "2", *, error_rate: float = 0.004, status: rollouts.Status = "running", reason: str = "", why: str = ""
) -> Rollout:
    """A canary at its second step of 5, 25, 50, 100, whose candidate failed so often; stored."""
    begun = store.now() - timedelta(minutes=2 * LOOKS / 6)
    terms = canary.Terms(guards=[guards.parse(text) for text in GUARDS], before={"1": 100})
    plan = Rollout(
        id=f"canary-{endpoint}-{deployment}-{status}".replace(" ", "-"), endpoint=endpoint, kind="canary", deployment=deployment, steps=[5, 25, 50, 100],
        every_seconds=400.0, step=2, status=status, settings=canary.settings(terms), evidence=msgspec.to_builtins(_evidence(begun, error_rate)),
        reason=reason, next_time=store.now() + timedelta(seconds=1), author="ada", why=why, created_at=begun, changed_at=store.now(),
    )  # fmt: skip
    with store.writing() as tx:
        rollouts.add(tx, plan)
    return plan


@contextmanager
def listened_to() -> Iterator[None]:
    """While somebody listens where the agent would, so that nothing counts as stopped."""
    pipe = Workspace.current().run / "agent.wake"
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe, 0o600)
    ear = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    yield
    os.close(ear)
    pipe.unlink()


def _evidence(begun: datetime, error_rate: float) -> Evidence:
    stages, trail = [], []
    for number, percent in enumerate((5, 25)):
        since = begun + timedelta(minutes=number * LOOKS / 6)
        asked = [np.arange(1, LOOKS + 1) * share for share in (percent, 100 - percent)]
        failed = [np.round(count * rate) for count, rate in zip(asked, (error_rate, 0.004), strict=True)]
        against = sequential.evidence_of_more(failed[0], asked[0], failed[1], asked[1], 0.005)
        ends = [end for errors, count in zip(failed, asked, strict=True) for end in sequential.interval(errors, count)]
        found = [{GUARDS[0]: float(one), GUARDS[1]: -0.2 - look / 100} for look, one in enumerate(against, start=1)]
        trail += [
            Look(time=since + timedelta(seconds=10 * look + 10), percent=percent, requests=int(asked[0][look]), evidence=found[look],
                 rates=[float(end[look]) for end in ends])
            for look in range(LOOKS)
        ]  # fmt: skip
        mine, others = (
            Counted(requests=int(count[-1]), errors=int(errors[-1]), latencies={700: int(count[-1])}) for count, errors in zip(asked, failed, strict=True)
        )
        stages.append(Stage(percent=percent, since=since, until=trail[-1].time, candidate=mine, others=others, evidence=found[-1]))
    verdict = "; ".join(guards.words(guards.parse(text), mine, others, Agreed()) for text in GUARDS)
    return Evidence(stages=stages, trail=trail, level=sequential.threshold(0.025), needed=3000, verdict=verdict)
