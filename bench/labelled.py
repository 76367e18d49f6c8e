"""How often canaries judged by labels are rolled back, wrongly and rightly, though looked at whenever labels come; drawn with seeds.

Labels come late: of every request after a time of its own, half of them when its step is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from mlops_nb import bets, guards, sequential, truth
from mlops_nb.bets import Bets
from mlops_nb.canary import Terms

from .canaries import STEPS

STEP_REQUESTS = 30_000
LOOKS = 60
"""Of the whole canary and the wait for its last labels."""
POSITIVE = 0.25
Array = np.ndarray


class Known(NamedTuple):
    """What the first so many labels say, in the order in which they came: sums, from none on."""

    lost: Array
    count: Array
    bets: Bets

    def by(self, known: Array) -> Known:
        """After so many labels each."""
        sums = Bets(gains=self.bets.gains[known], staked=self.bets.staked[known], cost=self.bets.cost[known])
        return Known(self.lost[known], self.count[known], sums)


Draw = Callable[[np.random.Generator, int, float], Known]
"""So many labels of a model so good."""


def areas(random: np.random.Generator, count: int, auc: float) -> Known:
    """Scores of both kinds of rows, a normal distribution's width apart as that area takes."""
    positive = random.random(count) < POSITIVE
    score = random.normal(size=count) + positive * NormalDist().inv_cdf(auc) * 2**0.5
    pairs = np.concatenate([[0], np.minimum(np.cumsum(positive), np.cumsum(~positive))])
    lost = np.concatenate([[0.0], np.cumsum(truth._pairs(score, positive))])
    return Known(lost[pairs], pairs, Bets(gains=pairs, staked=pairs, cost=pairs))


def briers(random: np.random.Generator, count: int, blur: float) -> Known:
    """Squares of a probability's distance from what came true, of a model that knows the odds but for *blur*."""
    odds = random.uniform(0.35, 0.65, count)
    return _means((odds + random.uniform(-blur, blur, count) - (random.random(count) < odds)) ** 2)


def errors(random: np.random.Generator, count: int, size: float) -> Known:
    """Squares of normal errors of that size, beside a cap of four."""
    return _means(np.minimum(np.abs(random.normal(0, size, count)) / truth.CAP, 1) ** 2)


def _means(losses: Array) -> Known:
    gains, staked, cost = (np.concatenate([[0.0], sums]) for sums in bets.running(losses))
    return Known(np.concatenate([[0.0], np.cumsum(losses)]), np.arange(len(losses) + 1), Bets(gains=gains, staked=staked, cost=cost))


CASES: dict[str, tuple[str, Draw, float, float]] = {
    "`auc>=-0.02`, A/A, 0.72": ("auc>=-0.02", areas, 0.72, 0.72),
    "worse by just what the guard allows, 0.72 → 0.70": ("auc>=-0.02", areas, 0.72, 0.70),
    "worse by four times that, 0.72 → 0.64": ("auc>=-0.02", areas, 0.72, 0.64),
    "`brier<=+0.01`, A/A, 0.24": ("brier<=+0.01", briers, 0.0, 0.0),
    "worse by just what the guard allows, 0.24 → 0.25": ("brier<=+0.01", briers, 0.0, 0.03**0.5),
    "worse by four times that, 0.24 → 0.28": ("brier<=+0.01", briers, 0.0, 0.12**0.5),
    "`rmse<=+10%`, A/A": ("rmse<=+10%", errors, 1.0, 1.0),
    "worse by just what the guard allows, by 10 %": ("rmse<=+10%", errors, 1.0, 1.1),
    "worse by four times that, by 40 %": ("rmse<=+10%", errors, 1.0, 1.4),
}


def lines(count: int = 1000) -> Iterator[tuple[str, str]]:
    """What was drawn, and how often it was rolled back."""
    random = np.random.default_rng(2026)
    for words, (guard, draw, before, now) in CASES.items():
        labels = rolled_back(random, guards.parse(guard), draw, before, now, count)
        found = np.isfinite(labels)
        delay = f", half of them by {np.median(labels[found]):,.0f} labels of the candidate's" if found.any() else ""
        yield words, f"{found.mean():.1%} of {count:,} rolled back{delay}"


def rolled_back(random: np.random.Generator, guard: guards.Guard, draw: Draw, before: float, now: float, count: int) -> Array:
    """Of each canary by how many labels of its answers it was rolled back; infinite where it never was."""
    looks = np.linspace(0, len(STEPS) + 1, LOOKS + 1)[1:]
    known, stages = np.zeros((count, LOOKS)), np.zeros((len(STEPS), count, LOOKS))
    for stage, percent in enumerate(STEPS):
        mine, labels = _answered(random, stage, percent / 100, looks, draw, now, count)
        others, _ = _answered(random, stage, 1 - percent / 100, looks, draw, before, count)
        known += labels
        stages[stage] = np.where((mine.count > 0) & (others.count > 0), _evidence(guard, mine, others), 0.0)
    together = np.array([[sequential.combined(list(one), planned=len(STEPS)) for one in canary.T] for canary in stages.transpose(1, 0, 2)])
    alarms = together >= sequential.threshold(Terms(guards=[guard]).alpha)
    return np.where(alarms.any(axis=1), known[np.arange(count), alarms.argmax(axis=1)], np.inf)


def _evidence(guard: guards.Guard, mine: Known, others: Known) -> Array:
    """`truth.evidence` of many looks at once."""
    allowed = guard.allowed
    if guard.metric in truth.RATES:
        return sequential.evidence_of_more(mine.lost, mine.count, others.lost, others.count, allowed.margin)
    return bets.evidence_of_more(mine.bets, others.bets, factor=allowed.factor, margin=allowed.margin)


def _answered(random: np.random.Generator, stage: int, share: float, looks: Array, draw: Draw, good: float, count: int) -> tuple[Known, Array]:
    """What the labels of one side's answers in one step say in each canary, and how many of them had come by each look."""
    answered = round(STEP_REQUESTS * share)
    labels = [np.searchsorted(np.sort(stage + random.random(answered) + random.exponential(0.6, answered)), looks, side="right") for _ in range(count)]
    found = [draw(random, answered, good).by(one) for one in labels]
    sums = Bets(**{name: np.array([getattr(one.bets, name) for one in found]) for name in Bets.__struct_fields__})
    return Known(np.array([one.lost for one in found]), np.array([one.count for one in found]), sums), np.array(labels)
