"""What labels say of a canary's answers: losses between 0 and 1, of which a mean is promised, in the order in which labels came.

A wrong label is a loss of 1 (precision asks those called positive, recall those that are).  The area under the ROC curve is the probability that
a positive row has a higher score than a negative one.  So the n-th positive row that came is compared with the n-th negative one, each row in one pair only:
lost is 1 where its score is lower, one half where it is the same.  Such losses are independent and of mean 1 - AUC, whatever the share of positives
is and however late labels come, as long as they come in an order that does not depend on the answers.  All pairs at once, as an AUC is
usually computed, are not independent, and no bound holds of them that may be looked at at any time.

Losses of 0, one half and 1 are tested as rates (see `sequential`): a ratio of likelihoods is convex in the loss, so its expectation is no larger than
for yes and no of the same mean.  Brier scores and errors of numbers are means (see `bets`).  An error of a number counts at most as *cap*, which is set
before the first is seen: without that no test of a mean holds at any size (Bahadur and Savage, Annals of Mathematical Statistics 1956).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from . import bets, measuring, sequential
from .bets import Bets
from .measures import Array
from .telemetry.labels import Answers

RATES = ("accuracy", "precision", "recall", "auc")
METRICS = (*RATES, "brier", "rmse", "mae")
OF_CLASSES = (*RATES, "brier")
OF_PROBABILITIES = ("auc", "brier")
OF_TWO_CLASSES = ("precision", "recall", *OF_PROBABILITIES)
CAP = 4.0
"""Errors beyond so many times what is usual count as so many."""
LEAST_BEFORE = 30
"""Labels that tell what is usual."""
_FOUND = 3.0
"""What lies beyond a bound by so many times its margin is to be found before a promotion."""
_LEAST_GAP = 0.02
"""Of a bound without a margin."""


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What the labels say of one side by one measure."""

    rows: int = 0
    """Rows whose label has come."""
    count: int = 0
    """Losses: of rows, of those that the measure is about, or of pairs."""
    lost: float = 0.0
    squares: float = 0.0
    bets: Bets = Bets()

    def __add__(self, other: Truth) -> Truth:
        return Truth(
            rows=self.rows + other.rows, count=self.count + other.count, lost=self.lost + other.lost, squares=self.squares + other.squares,
            bets=self.bets + other.bets,
        )  # fmt: skip

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.lost / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Of a loss; as large as it can be while few are known."""
        return max(self.squares / self.count - self.loss**2, 1e-4) if self.count >= 20 else 0.25


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """What a mean loss may be: at most *limit*, or *factor* times the others' and *margin* more."""

    limit: float | None = None
    factor: float = 1.0
    margin: float = 0.0

    def bound(self, others: Truth) -> float:
        """Where it ends, beside what the others lose."""
        return self.limit if self.limit is not None else self.factor * others.loss + self.margin


Sides = tuple[Truth, Truth]
"""The candidate's and the others'."""


def of(metric: str, answers: Sequence[Answers], *, cap: float = 1.0) -> Truth:
    """What labels say of these deployments by *metric*; rows with their truth, in the order in which it came."""
    found = Truth()
    for one in answers:
        losses = _losses(metric, one, cap)
        told = bets.on(losses) if metric not in RATES else Bets()
        found += Truth(rows=len(one), count=len(losses), lost=float(losses.sum()), squares=float((losses**2).sum()), bets=told)
    return found


def evidence(metric: str, allowed: Allowed, mine: Truth, others: Truth) -> float:
    """The logarithm of the evidence that the candidate loses more than is allowed; 0 while a side is unknown."""
    if not mine.count or (allowed.limit is None and not others.count):
        return 0.0
    if metric in RATES:
        if allowed.limit is not None:
            return float(sequential.evidence_above(mine.lost, mine.count, allowed.limit))
        return float(sequential.evidence_of_more(mine.lost, mine.count, others.lost, others.count, allowed.margin))
    if allowed.limit is not None:
        return float(bets.evidence_above(mine.bets, allowed.limit))
    return float(bets.evidence_of_more(mine.bets, others.bets, factor=allowed.factor, margin=allowed.margin))


def beyond(allowed: Allowed, stages: Sequence[Sides]) -> bool:
    """Whether the candidate lost more than is allowed by what was seen, proven or not: each stage beside the others in the same time."""
    told = [(mine, others) for mine, others in stages if mine.count and (allowed.limit is not None or others.count)]
    return sum(mine.count * (mine.loss - allowed.bound(others)) for mine, others in told) > 1e-9


def needed(allowed: Allowed, usual: Allowed, mine: Truth, others: Truth, *, share: float, alpha: float, power: float) -> int:
    """How many losses of the candidate find one that lies beyond the bound by three times its margin, about; by that of *usual* where it
    is a limit.

    *share* is what the candidate has of the requests, 0–1, for as long as labels do not tell.
    """
    relative, base = (allowed, others) if allowed.limit is None else (usual, mine)
    gap = _FOUND * (relative.bound(base) - base.loss) or _LEAST_GAP
    if allowed.limit is not None:
        return sequential.values_needed(base.variance, gap, alpha=alpha, power=power)
    if mine.count and others.count:
        share = mine.count / (mine.count + others.count)
    spread = base.variance * (1 / max(share, 1e-3) + 1 / max(1 - share, 1e-3))
    return int(np.ceil(sequential.values_needed(spread, gap, alpha=alpha, power=power) * share))


def value(metric: str, found: Truth, *, cap: float = 1.0) -> float:
    """The measure as people know it: an area, a share that was right, an error in the label's unit."""
    if metric in RATES:
        return 1 - found.loss
    return {"brier": found.loss, "mae": found.loss * cap, "rmse": float(np.sqrt(found.loss)) * cap}[metric]


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _losses(metric: str, answers: Answers, cap: float) -> Array:
    if metric not in OF_CLASSES:
        return _errors(metric, answers, cap)
    if answers.label is None:
        return np.zeros(0)
    if metric == "accuracy":
        return np.asarray(answers.label != answers.truth, float)
    if metric in OF_PROBABILITIES:
        probabilities, told = measuring.told_of(answers)
        answers = answers.where(told)
        if probabilities is None or probabilities.shape[1] != 2:
            return np.zeros(0)
    classes = measuring.classes_of(answers)
    if len(classes) != 2:
        return np.zeros(0)
    positive = np.asarray(answers.truth == classes[1], bool)
    if metric in OF_PROBABILITIES:
        assert probabilities is not None
        return _pairs(probabilities[:, 1], positive) if metric == "auc" else (probabilities[:, 1] - positive) ** 2
    said = np.asarray(answers.label == classes[1], bool)
    return np.asarray(~positive[said] if metric == "precision" else ~said[positive], float)


def _pairs(score: Array, positive: Array) -> Array:
    """Of the n-th positive row and the n-th negative one: 1 where the score is lower, one half where it is the same."""
    above, below = score[positive], score[~positive]
    count = min(len(above), len(below))
    apart = above[:count] - below[:count]
    return np.where(apart < 0, 1.0, np.where(apart == 0, 0.5, 0.0))


def _errors(metric: str, answers: Answers, cap: float) -> Array:
    if answers.prediction is None:
        return np.zeros(0)
    truth, numeric = measuring.numbers(answers.truth)
    share = np.minimum(np.abs(answers.prediction[numeric] - truth), cap) / cap
    share = share[~np.isnan(share)]
    return share**2 if metric == "rmse" else share
