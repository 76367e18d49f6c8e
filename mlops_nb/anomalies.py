"""Whether an hour is as the same hour of earlier days or weeks promises, with a stated budget of false alarms.

Each earlier hour becomes a number that is about normal however many requests it had: a count of requests by its square root and a share of
errors by its arcsine (Anscombe, "The transformation of Poisson, binomial and negative-binomial data", Biometrika 35, 1948), a latency by its
logarithm.  What the transformed numbers vary by chance alone is known; what they vary more, from day to day, is estimated with them (for shares by
the moments of DerSimonian and Laird, "Meta-analysis in clinical trials", Controlled Clinical Trials 7, 1986).  An hour alarms outside the
prediction interval of Student's t for one more such number.  Its level for counts is one in 720, the hours of a month; for shares and latencies,
whose days are seldom normal on any scale, a third of it.  Simulated, a month of hours that are as before raises one alarm or fewer, and up to two
where a fifth of all answers fails and days differ by 30 % (tests/service/test_anomalies.py).  Days that are unlike each other, as a weekly rhythm has
it, widen the interval rather than raise alarms, and a trend does raise them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import msgspec

LOOKS_A_MONTH = 720
LEAST = 7
"""Of fewer earlier hours nothing is said."""
LEAST_COUNT = 20
"""An hour of fewer requests is never too many: where nearly nobody asks, a few come at once."""
_SKEWED = 3 * LOOKS_A_MONTH


class Expected(msgspec.Struct, frozen=True):
    """What one more hour is expected to be between."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether *value* lies within."""
        return self.low <= value <= self.high


def of_counts(before: Sequence[int]) -> Expected:
    """The next count of requests, on both sides: too few alarm as too many do."""
    roots = [2 * math.sqrt(count + 0.375) for count in before]
    mean, spread = _mean(roots), max(1.0, _variance(roots))  # by chance alone a count's spread is 1 on this scale
    reach = student_quantile(1 - 0.5 / LOOKS_A_MONTH, len(roots) - 1) * math.sqrt(spread * (1 + 1 / len(roots)))
    low, high = ((max(0.0, mean + side) / 2) ** 2 - 0.375 for side in (-reach, reach))
    return Expected(max(0.0, low), max(high, LEAST_COUNT))


def of_shares(before: Sequence[tuple[int, int]], count: int) -> Expected:
    """The next share of errors among *count* answers, by pairs of errors and answers; only more than before alarms."""
    angles = [_angle(errors, answers) for errors, answers in before]
    weights = [4 * answers + 2 for _, answers in before]  # by chance alone an angle's spread is one by this
    total = sum(weights)
    mean = sum(weight * angle for weight, angle in zip(weights, angles, strict=True)) / total
    excess = sum(weight * (angle - mean) ** 2 for weight, angle in zip(weights, angles, strict=True))
    degrees, own = len(before) - 1, 1 / (4 * count + 2)
    between = max(0.0, (excess - degrees) / (total - sum(weight**2 for weight in weights) / total))
    of_mean = sum(weight**2 * (between + 1 / weight) for weight in weights) / total**2
    spread = max(between + own + of_mean, excess / degrees * (own + 1 / total))
    reach = student_quantile(1 - 1 / _SKEWED, degrees) * math.sqrt(spread)
    return Expected(0.0, math.sin(min(mean + reach, math.pi / 2)) ** 2)


def of_latencies(before: Sequence[float]) -> Expected:
    """The next quantile of the latency, in the unit of those before; only more than before alarms."""
    logarithms = [math.log(value) for value in before]
    reach = student_quantile(1 - 1 / _SKEWED, len(before) - 1) * math.sqrt(_variance(logarithms) * (1 + 1 / len(before)))
    return Expected(0.0, math.exp(_mean(logarithms) + reach))


def _angle(errors: int, answers: int) -> float:
    return math.asin(math.sqrt((errors + 0.375) / (answers + 0.75)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


@lru_cache
def student_quantile(probability: float, degrees: int) -> float:
    """Student's t: the value that is not passed with this probability (above 0.5), by integrating its density over the angle."""
    import numpy as np

    angles = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
    mass = np.cumsum(np.cos(angles) ** (degrees - 1))
    angle = float(np.interp(probability, mass / mass[-1], angles))
    return math.sqrt(degrees) * math.tan(angle)
