"""Tests that may be looked at at any moment: the promised error rate holds however often and whenever one looks.

All rest on one fact.  Of n independent yes-or-no answers with true rate p, of which s are yes, the ratio

    M(p) = B(a + s, b + n - s) / (B(a, b) p^s (1 - p)^(n - s))

is a non-negative martingale that starts at 1 (a Beta(a, b) mixture of likelihood ratios: Robbins 1970; Howard, Ramdas, McAuliffe and
Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021, section 3).  By Ville's inequality
it ever reaches 1/alpha with probability alpha at most.  So the rates p with M(p) < 1/alpha are a confidence sequence, and the smallest
M over all rates that a hypothesis allows is evidence against it (an e-process): 20 or more refutes it at 5 %.  Quantiles are rates too:
the answers no slower than the true p-quantile are yes with rate p (Howard and Ramdas, "Sequential estimation of quantiles", Bernoulli 2022).
Nothing here is asymptotic.  Evidence is given as its natural logarithm; counts may be arrays, and the answer has their shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
FLAT = (0.5, 0.5)
"""The prior that expects nothing (Jeffreys)."""
_TINY = 1e-12
_GOLDEN = (5**0.5 - 1) / 2


def threshold(alpha: float) -> float:
    """The logarithm of evidence that refutes a hypothesis at level *alpha*, whenever it is reached."""
    return float(-np.log(alpha))


def evidence_against_rate(yes: Any, count: Any, rate: Any, *, prior: tuple[float, float] = FLAT) -> Array:
    """ln M(rate): the evidence of *yes* among *count* against that true *rate*."""
    a, b = prior
    yes, no = np.asarray(yes, float), np.asarray(count, float) - np.asarray(yes, float)
    rate = np.clip(rate, _TINY, 1 - _TINY)
    return _ln_beta(a + yes, b + no) - _ln_beta(np.asarray(a), np.asarray(b)) - yes * np.log(rate) - no * np.log1p(-rate)


def _against(yes: Any, count: Any, rate: Any, prior: tuple[float, float]) -> Array:
    return evidence_against_rate(yes, count, rate, prior=prior)


def evidence_above(yes: Any, count: Any, rate: float) -> Array:
    """The evidence that the true rate is above *rate*."""
    return np.where(_share(yes, count) > rate, evidence_against_rate(yes, count, rate), np.minimum(0.0, evidence_against_rate(yes, count, _share(yes, count))))


def evidence_below(yes: Any, count: Any, rate: float) -> Array:
    """The evidence that the true rate is below *rate*."""
    return evidence_above(np.asarray(count) - np.asarray(yes), count, 1 - rate)


def interval(yes: Any, count: Any, *, alpha: float = 0.05) -> tuple[Array, Array]:
    """The confidence sequence for a rate: it holds the true rate at all times at once with probability 1 - *alpha*."""
    yes, count = np.asarray(yes, float), np.asarray(count, float)
    best, level = _share(yes, count), threshold(alpha)
    low = _edge(yes, count, best, np.zeros_like(best), level)
    high = _edge(yes, count, best, np.ones_like(best), level)
    return low, high


def evidence_of_more(
    yes: Any,
    count: Any,
    yes_before: Any,
    count_before: Any,
    margin: float,
    *,
    prior: tuple[float, float] = FLAT,
    prior_before: tuple[float, float] = FLAT,
) -> Array:
    """The evidence that a rate is above another by more than *margin*: the smallest product of both M over all pairs that are not.

    The priors (a, b) may say what is expected, from what was seen before the first count; a wrong one costs power, never the error rate.
    """
    yes, count, yes_before, count_before = (np.asarray(value, float) for value in (yes, count, yes_before, count_before))
    mine, other = _share(yes, count), _share(yes_before, count_before)

    def against(base: Array) -> Array:
        return _against(yes, count, base + margin, prior) + _against(yes_before, count_before, base, prior_before)

    low, high = max(0.0, -margin), min(1.0, 1.0 - margin)
    on_the_line = least(against, np.full(mine.shape, low), np.full(mine.shape, high))
    inside = _against(yes, count, mine, prior) + _against(yes_before, count_before, other, prior_before)
    return np.where(mine - other > margin, on_the_line, np.minimum(0.0, inside))


def difference(yes: int, count: int, yes_before: int, count_before: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """The confidence sequence for a rate less another."""
    level = threshold(alpha)
    seen = float(_share(yes, count) - _share(yes_before, count_before))

    def more(margin: float) -> float:
        return float(evidence_of_more(yes, count, yes_before, count_before, margin))

    def less(margin: float) -> float:
        return float(evidence_of_more(count - yes, count, count_before - yes_before, count_before, -margin))

    return _bisect(more, -1.0, seen, level), -_bisect(lambda margin: less(-margin), -1.0, -seen, level)


def evidence_of_slower(histogram: Sequence[int], before: Sequence[int], *, quantile: float, steps: int) -> float:
    """The evidence that a quantile of what *histogram* counts is above the same one of *before* by more than *steps* bins.

    Both count latencies in the same bins, each wider than the last by a fixed factor, so that *steps* bins are a percentage.  Inside its bin
    a quantile may lie anywhere: of the two counts at the bin's edges the one that gives less evidence is taken.
    """
    counts, counts_before = np.asarray(histogram, float), np.asarray(before, float)
    total, total_before = counts.sum(), counts_before.sum()
    if not total or not total_before:
        return 0.0
    upto, upto_before = np.cumsum(counts), np.cumsum(counts_before)
    below_before = upto_before - counts_before
    base = _between(below_before, upto_before, total_before, quantile)
    # under the hypothesis mine lies no higher than `steps` bins above; where fewer of mine are below that edge than should be, it is refuted
    edge = np.concatenate([upto, np.full(steps, total)])[steps:]
    mine = np.where(edge < quantile * total, evidence_against_rate(edge, total, quantile), _floor(total, quantile))
    return float(np.min(base + mine))


def combined(by_stage: Sequence[float], *, planned: int = 0) -> float:
    """The evidence of several stages in a row, each counted from its own start: the mean over all stages that harm may begin with.

    A stage's evidence multiplies that of those before it; averaging over the beginnings keeps a stage without harm from
    using up what a later one finds.  *planned* says how many stages there will be, those to come included: each has its equal share
    from the start, 1 until it begins, for a mean over only those begun so far would grow at each beginning and break the promise.
    Each term is an e-process, and so is their mean.
    """
    whole = np.zeros(max(len(by_stage), planned, 1))
    whole[: len(by_stage)] = by_stage
    from_each = np.cumsum(whole[::-1])[::-1]
    top = from_each.max()
    return float(top + np.log(np.mean(np.exp(from_each - top))))


def requests_needed(rate: float, margin: float, harm: float, *, share: float, alpha: float, power: float = 0.8) -> int:
    """How many requests in all, of which *share* go to the candidate, find a rise of *harm* past *margin* with probability *power*, about.

    By the normal approximation of both rates, with the boundary that the mixture has at that count; planning needs no more.
    """
    variance, risen = max(rate * (1 - rate), 1e-4), min(1.0, rate + harm)
    spread = variance / max(1 - share, 1e-9) + max(risen * (1 - risen), 1e-4) / share
    return values_needed(spread, max(harm - margin, 1e-9), alpha=alpha, power=power)


def values_needed(spread: float, gap: float, *, alpha: float, power: float = 0.8) -> int:
    """How many values find a mean that lies *gap* beyond its bound with probability *power*, about; *spread* is the variance that one of them has.

    By the normal approximation with the boundary that the mixture has at that count, and 100 at least.
    """
    count, z = 100.0, _normal_quantile(power)
    for _ in range(60):
        boundary = np.sqrt(2 * (threshold(alpha) + np.log(count + 1)))
        wanted = spread * ((boundary + z) / gap) ** 2
        if abs(wanted - count) < 1:
            break
        count = wanted
    return int(np.ceil(max(count, 100.0)))


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _share(yes: Any, count: Any) -> Array:
    return np.asarray(yes, float) / np.maximum(np.asarray(count, float), 1.0)


def _edge(yes: Array, count: Array, inside: Array, outside: Array, level: float) -> Array:
    """Where the evidence reaches *level* on the way from *inside* to *outside*."""
    inside, outside = inside.astype(float), outside.astype(float)
    for _ in range(60):
        middle = (inside + outside) / 2
        within = evidence_against_rate(yes, count, middle) < level
        inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
    return outside


def least(of: Any, low: Array, high: Array) -> Array:
    """The least value of a convex function between *low* and *high*, by golden section."""
    for _ in range(32):
        one, other = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        left = of(one) < of(other)
        low, high = np.where(left, low, one), np.where(left, other, high)
    return of((low + high) / 2)


def _bisect(of: Any, low: float, high: float, level: float) -> float:
    """The largest margin up to *high* that *of* still refutes at *level*; *low* when there is none."""
    if of(low + 1e-9) < level:
        return low
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle) >= level else (low, middle)
    return low


def _between(below: Array, upto: Array, total: float, quantile: float) -> Array:
    """The evidence that the quantile is not in a bin with *below* answers under it and *upto* up to its end: none while it may be."""
    inside = (below <= quantile * total) & (upto >= quantile * total)
    nearest = np.where(upto < quantile * total, upto, below)
    return np.where(inside, _floor(total, quantile), evidence_against_rate(nearest, total, quantile))


def _floor(total: float, quantile: float) -> float:
    """The least evidence there can be against a quantile that fits best."""
    return float(evidence_against_rate(quantile * total, total, quantile))


def _ln_beta(a: Array, b: Array) -> Array:
    return _ln_gamma(a) + _ln_gamma(b) - _ln_gamma(a + b)


def _ln_gamma(x: Any) -> Array:
    """ln Γ by Stirling's series, arguments below 8 raised by the recurrence; good to 1e-10 for what is counted here."""
    x = np.array(x, float)
    shift = np.zeros_like(x)
    for _ in range(8):
        small = x < 8
        shift = shift + np.where(small, np.log(np.where(small, x, 1.0)), 0.0)
        x = np.where(small, x + 1, x)
    series = 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5) - 1 / (1680 * x**7)
    return (x - 0.5) * np.log(x) - x + 0.5 * np.log(2 * np.pi) + series - shift


def _normal_quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)
