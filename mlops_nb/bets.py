"""Means of values between 0 and 1, tested at any moment: what `sequential` does for counts of yes and no, for losses that are neither.

Before each value x a stake L is chosen by those before it, and for every mean m

    exp(L (x - m) - (x - guess)^2 (-ln(1 - L) - L))

has an expectation of 1 at most where m is the true one, *guess* being the mean so far (the predictable plug-in empirical-Bernstein process:
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2023, theorem 2).  The product of all is a
supermartingale, so is that of the other direction, and half of each together is M(m) = exp(-cost) cosh(gains - m staked), whose logarithm is convex
in m.  So three sums say all, and evidence is read off as in `sequential`: it ever reaches 1/alpha with probability alpha at most.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from . import sequential

Array = np.ndarray[Any, np.dtype[Any]]
_TINY = 1e-12
_MOST_STAKE = 0.5
_TUNED_FOR = 0.02
"""The level for which stakes are largest when they should be; any other holds as well, a little later."""


class Bets(msgspec.Struct, frozen=True, kw_only=True):
    """What a row of values amounts to, whatever mean is asked about; each sum may be an array, of many rows, and so is the evidence then."""

    gains: Any = 0.0
    """The sum of stakes times values."""
    staked: Any = 0.0
    cost: Any = 0.0

    def __add__(self, other: Bets) -> Bets:
        return Bets(gains=self.gains + other.gains, staked=self.staked + other.staked, cost=self.cost + other.cost)

    @property
    def mean(self) -> Any:
        """The mean that they speak least against."""
        return self.gains / np.maximum(self.staked, _TINY)


def on(values: Any) -> Bets:
    """The bets on *values*, each between 0 and 1, in the order in which they came: one more value leaves the bets on those before as they were."""
    gains, staked, cost = (sums[-1] if len(sums) else 0.0 for sums in running(values))
    return Bets(gains=float(gains), staked=float(staked), cost=float(cost))


def running(values: Any) -> tuple[Array, Array, Array]:
    """The sums of `on` after each of the values: gains, staked, cost."""
    x = np.asarray(values, float)
    number = np.arange(1, len(x) + 1)
    guess = (0.5 + np.cumsum(x)) / (number + 1)
    before = np.concatenate([[0.5], guess])[:-1]
    spread = np.concatenate([[0.25], (0.25 + np.cumsum((x - guess) ** 2)) / (number + 1)])[:-1]
    stake = np.minimum(_MOST_STAKE, np.sqrt(2 * np.log(2 / _TUNED_FOR) / (spread * number * np.log1p(number))))
    cost = (x - before) ** 2 * (-np.log1p(-stake) - stake)
    return np.cumsum(stake * x), np.cumsum(stake), np.cumsum(cost)


def evidence_against(bets: Bets, mean: Any) -> Array:
    """ln M(mean)."""
    apart = np.abs(bets.gains - mean * bets.staked)
    return apart + np.log1p(np.exp(-2 * apart)) - np.log(2) - bets.cost


def evidence_above(bets: Bets, mean: float) -> Array:
    """The evidence that the true mean is above *mean*."""
    return evidence_against(bets, np.where(bets.mean > mean, mean, bets.mean))


def evidence_of_more(bets: Bets, before: Bets, *, factor: float = 1.0, margin: float = 0.0) -> Array:
    """The evidence that a mean is above *factor* times another and *margin*: the smallest product of both M over all pairs that are not."""
    inside = evidence_against(bets, bets.mean) + evidence_against(before, before.mean)
    low, high = np.zeros_like(inside), np.ones_like(inside)
    on_the_line = sequential.least(lambda base: evidence_against(bets, factor * base + margin) + evidence_against(before, base), low, high)
    return np.where(bets.mean > factor * before.mean + margin, on_the_line, inside)
