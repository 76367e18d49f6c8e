"""How long steps take, measured so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

Timed = Callable[[], float]
"""A step that tells how many seconds of it count."""


def timed(step: Callable[[], object]) -> Timed:
    """*step*, all of which counts."""

    def run() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    return run


def medians(steps: Mapping[str, Timed], *, rounds: int) -> dict[str, float]:
    """Every step's median seconds over *rounds* rounds of one of each, after one round that does not count."""
    taken = [{name: step() for name, step in steps.items()} for _ in range(rounds + 1)][1:]
    return {name: median(each[name] for each in taken) for name in steps}
