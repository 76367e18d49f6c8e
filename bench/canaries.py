"""How often canaries that nothing is wrong with are rolled back though looked at all the time, and how soon harm is found; drawn with seeds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mlops_nb import guards, sequential
from mlops_nb.canary import Terms

STEPS = (5, 25, 50)
STEP_REQUESTS = 10_000
LOOKS_EVERY = 250
BEFORE = 20_000
"""Requests that were seen before the canary began, from which it knows what to expect."""
GUARD = guards.parse("error_rate<=+0.5pp")
CASES = {
    "A/A, errors 2 %": (0.02, 0.02),
    "A/A, errors 0.1 %": (0.001, 0.001),
    "worse by just what the guard allows, 2 → 2.5 %": (0.02, 0.025),
    "2 points worse, 1 → 3 %": (0.01, 0.03),
    "2 points worse, 2 → 4 %": (0.02, 0.04),
}


def lines(count: int = 1000) -> Iterator[tuple[str, str]]:
    """What was drawn, and how often it was rolled back."""
    random = np.random.default_rng(2026)
    for words, (before, now) in CASES.items():
        requests, of_candidate = _rolled_back(random, before, now, count)
        found = np.isfinite(requests)
        delay = f", half of them by {np.median(requests[found]):,.0f} requests ({np.median(of_candidate[found]):,.0f} of the candidate)" if found.any() else ""
        yield words, f"{found.mean():.1%} of {count:,} rolled back{delay}"


def _rolled_back(random: np.random.Generator, before: float, now: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each canary after how many requests it was rolled back, in all and of the candidate; infinite where it never was."""
    priors = [guards.Expected(requests=BEFORE, errors=int(seen)).priors for seen in random.binomial(BEFORE, before, count)]
    prior, prior_before = (tuple(np.array(side).T) for side in zip(*priors, strict=True))
    requests, of_candidate = np.full(count, np.inf), np.full(count, np.inf)
    looked, answered, stages = 0, np.zeros(count), np.zeros((len(STEPS), count))
    for stage, percent in enumerate(STEPS):
        wrong, mine, wrong_before, others = (np.zeros(count) for _ in range(4))
        for _ in range(STEP_REQUESTS // LOOKS_EVERY):
            taken = random.binomial(LOOKS_EVERY, percent / 100, count)
            wrong, mine = wrong + random.binomial(taken, now), mine + taken
            wrong_before, others = wrong_before + random.binomial(LOOKS_EVERY - taken, before), others + LOOKS_EVERY - taken
            looked, answered = looked + LOOKS_EVERY, answered + taken
            stages[stage] = sequential.evidence_of_more(wrong, mine, wrong_before, others, GUARD.bound, prior=prior, prior_before=prior_before)
            alarm = _combined(stages) >= sequential.threshold(Terms(guards=[GUARD]).alpha)
            of_candidate[alarm & np.isinf(requests)] = answered[alarm & np.isinf(requests)]
            requests[alarm & np.isinf(requests)] = looked
    return requests, of_candidate


def _combined(stages: np.ndarray) -> np.ndarray:
    """`sequential.combined` of many canaries at once."""
    return np.array([sequential.combined(list(one), planned=len(STEPS)) for one in stages.T])
