"""How often canaries that keep errors, latencies and agreement are rolled back though looked at all the time, and how soon harm is found; seeded.

All three guards stand together, as one line has them: each may be wrong with a third of the probability that the canary promises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from mlops_nb import guards, sequential
from mlops_nb.canary import Terms
from mlops_nb.telemetry.copies import BIN_RATIO

from .canaries import BEFORE, STEP_REQUESTS, STEPS

GUARDS = [guards.parse(text) for text in ("error_rate<=+0.5pp", "p95<=+10%", "agreement>=0.95")]
LOOKS_EVERY = 500
COPIES = 0.2
SPREAD = 0.4
"""Of the logarithm of a latency, whose distribution is normal."""
_BINS = np.arange(-130, 171)
Array = np.ndarray


class Case(NamedTuple):
    """What a candidate does."""

    errors: float = 0.02
    """Its rate; that of the others is 2 %."""
    slower: float = 1.0
    """The factor of its latencies."""
    agrees: float = 0.97


CASES = {
    "A/A, 97 % of the answers agree": Case(),
    "each just what its guard allows: 2 → 2.5 %, 10 % slower, 95 % agree": Case(0.025, 1.1, 0.95),
    "10 % slower alone": Case(slower=1.1),
    "30 % slower": Case(slower=1.3),
    "95 % agree alone": Case(agrees=0.95),
    "90 % agree": Case(agrees=0.9),
}


def lines(count: int = 200) -> Iterator[tuple[str, str]]:
    """What was drawn, and how often it was rolled back."""
    random = np.random.default_rng(2026)
    for words, case in CASES.items():
        answered = rolled_back(random, case, count)
        found = np.isfinite(answered)
        delay = f", half of them by {np.median(answered[found]):,.0f} requests of the candidate" if found.any() else ""
        yield words, f"{found.mean():.1%} of {count:,} rolled back{delay}"


def rolled_back(random: np.random.Generator, case: Case, count: int) -> Array:
    """Of each canary by how many requests of the candidate it was rolled back; infinite where it never was."""
    priors = [guards.Expected(requests=BEFORE, errors=int(seen)).priors for seen in random.binomial(BEFORE, 0.02, count)]
    prior, prior_before = (tuple(np.array(side).T) for side in zip(*priors, strict=True))
    level = sequential.threshold(Terms(guards=GUARDS).alpha / len(GUARDS))
    steps = math.ceil(math.log1p(GUARDS[1].bound) / math.log(BIN_RATIO))
    quick, slow = _latencies(1.0), _latencies(case.slower)
    answered, ended = np.zeros(count), np.full(count, np.inf)
    stages = np.zeros((len(STEPS), len(GUARDS), count))
    for stage, percent in enumerate(STEPS):
        wrong, mine, wrong_before, others, alike, pairs = (np.zeros(count) for _ in range(6))
        latencies, before = np.zeros((count, len(_BINS))), np.zeros((count, len(_BINS)))
        for _ in range(STEP_REQUESTS // LOOKS_EVERY):
            taken, copied = random.binomial(LOOKS_EVERY, percent / 100, count), random.binomial(LOOKS_EVERY, COPIES, count)
            mine, others, pairs, answered = mine + taken, others + LOOKS_EVERY - taken, pairs + copied, answered + taken
            wrong, wrong_before = wrong + random.binomial(taken, case.errors), wrong_before + random.binomial(LOOKS_EVERY - taken, 0.02)
            latencies, before = latencies + random.multinomial(taken, slow), before + random.multinomial(LOOKS_EVERY - taken, quick)
            alike += random.binomial(copied, case.agrees)
            stages[stage, 0] = sequential.evidence_of_more(wrong, mine, wrong_before, others, GUARDS[0].bound, prior=prior, prior_before=prior_before)
            stages[stage, 1] = [
                sequential.evidence_of_slower(one, other, quantile=GUARDS[1].quantile, steps=steps) for one, other in zip(latencies, before, strict=True)
            ]
            stages[stage, 2] = sequential.evidence_below(alike, pairs, GUARDS[2].bound)
            now = _violated(stages, level) & np.isinf(ended)
            ended[now] = answered[now]
    return ended


def _violated(stages: Array, level: float) -> Array:
    """In which canaries a guard's evidence, all stages together, reaches *level*."""
    return np.array([any(sequential.combined(list(one), planned=len(STEPS)) >= level for one in canary) for canary in stages.transpose(2, 1, 0)])


def _latencies(slower: float) -> Array:
    """How probable each bin of 1 % is, counted from the median of the others."""
    edges = (_BINS * math.log(BIN_RATIO) - math.log(slower)) / SPREAD
    below = np.array([NormalDist().cdf(edge) for edge in edges])
    below[-1] = 1.0
    return np.diff(below, prepend=0.0)
