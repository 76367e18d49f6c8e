"""How good answers are while their truth is not known: confidence-based performance estimation.

A probability that means what it says tells how often the answer is right.  So probabilities are calibrated on a reference whose truth is known, and
measures are computed with their expected value in place of the truth: CBPE, as NannyML's documentation describes it ("Confidence-based Performance
Estimation").  It holds while

- the calibrated probabilities are right, on average, for each score: **no concept drift**, the relation of inputs to truth stays as it was;
- what is asked lies where the reference had rows, for a calibration cannot speak of scores it never saw.

Inputs may drift.  The interval holds the measure that the truth would give for these very rows, with 95 % probability: it counts what the
reference's size leaves unknown (each bin's rate is drawn from its Beta posterior with Jeffreys' prior) and the chance in the rows themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from .measures import Array, Figure, auc

LEAST_REFERENCE = 200
"""Rows with a known truth below which nothing is estimated."""
_BINS = 20
_LEAST_IN_BIN = 25
_DRAWS = 200
_MOST_DRAWN = 20_000_000


class Calibration(msgspec.Struct, frozen=True):
    """What scores turned out to mean: bins of equally many reference rows, each with its mean score, how many were true, and how many there were."""

    score: Any
    true: Any
    count: Any

    def __call__(self, score: Array) -> Array:
        """The calibrated probabilities of scores: straight lines through the bins, whose rates never fall."""
        return np.interp(score, self.score, _rising(self.true / self.count, self.count))

    def drawn(self, random: np.random.Generator) -> Callable[[Array], Array]:
        """A calibration as it may be in truth, given how few rows it was seen in."""
        rates = _rising(random.beta(self.true + 0.5, self.count - self.true + 0.5), self.count)
        return lambda score: np.interp(score, self.score, rates)


def calibrated(score: Any, true: Any) -> Calibration:
    """The calibration of *score* by a reference in which *true* is known: isotonic over twenty bins of equally many rows at most."""
    score, true = np.asarray(score, float), np.asarray(true, float)
    order = np.argsort(score, kind="stable")
    parts = np.array_split(order, max(1, min(_BINS, len(order) // _LEAST_IN_BIN)))
    means = np.array([score[part].mean() for part in parts])
    places = np.unique(means, return_inverse=True)[1]  # bins of one and the same score are one
    counts, trues = np.array([float(len(part)) for part in parts]), np.array([true[part].sum() for part in parts])
    return Calibration(np.unique(means), np.bincount(places, trues), np.bincount(places, counts))


def of_two_classes(score: Any, said: Any, calibration: Calibration) -> list[Figure]:
    """Expected accuracy, precision, recall, F1, AUC, log loss and Brier score; *score* is the second class's probability, *said* whether it was given."""
    score, said = np.asarray(score, float), np.asarray(said, float)
    return _with_intervals(lambda true: _measures(score, said, true), score, calibration)


def of_many_classes(confidence: Any, calibration: Calibration) -> list[Figure]:
    """Expected accuracy; *confidence* is the probability of the label given, *calibration* how often that label was right."""
    return _with_intervals(lambda right: {"accuracy": float(right.mean())}, np.asarray(confidence, float), calibration)


def _with_intervals(measures: Callable[[Array], dict[str, float | None]], score: Array, calibration: Calibration) -> list[Figure]:
    random, count = np.random.default_rng(0), len(score)
    draws: dict[str, list[float]] = {}
    for _ in range(min(_DRAWS, max(40, _MOST_DRAWN // max(count, 1)))):
        true = (random.random(count) < calibration.drawn(random)(score)).astype(float)
        for name, value in measures(true).items():
            if value is not None:
                draws.setdefault(name, []).append(value)
    expected = measures(calibration(score))
    return [_figure(name, value, draws.get(name, []), count) for name, value in expected.items()]


def _figure(name: str, value: float | None, draws: Sequence[float], count: int) -> Figure:
    if value is None or not draws:
        return Figure(metric=name, count=count)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Figure(metric=name, value=value, low=min(float(low), value), high=max(float(high), value), count=count)


def _measures(score: Array, said: Array, true: Array) -> dict[str, float | None]:
    """With *true* as the truth, or the probability of it."""
    hit, given, there = float((true * said).sum()), float(said.sum()), float(true.sum())
    clipped = np.clip(score, 1e-15, 1 - 1e-15)
    return {
        "accuracy": float(np.mean(true * said + (1 - true) * (1 - said))),
        "precision": hit / given if given else None,
        "recall": hit / there if there else None,
        "f1": 2 * hit / (given + there) if given + there else None,
        "auc": auc(score, true),
        "log_loss": float(-np.mean(true * np.log(clipped) + (1 - true) * np.log1p(-clipped))),
        "brier": float(np.mean(true * (1 - score) ** 2 + (1 - true) * score**2)),
    }


def _rising(rates: Array, weights: Array) -> Array:
    """The rates nearest to these that never fall: pool adjacent violators (Ayer, Brunk, Ewing, Reid and Silverman, 1955)."""
    pools: list[tuple[float, float, int]] = []
    for rate, weight in zip(rates, weights, strict=True):
        pools.append((float(rate), float(weight), 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (rate_before, weight_before, many), (rate_after, weight_after, more) = pools[-2:]
            whole = weight_before + weight_after
            pools[-2:] = [((rate_before * weight_before + rate_after * weight_after) / whole, whole, many + more)]
    return np.concatenate([np.full(many, rate) for rate, _, many in pools])
