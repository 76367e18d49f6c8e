"""How long steps take, measured so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median


def interleaved(steps: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of every step: *rounds* rounds of one of each, after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number:
                taken[name].append(time.perf_counter() - began)
    return taken


def medians(steps: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """The median of every step's seconds."""
    return {name: median(seconds) for name, seconds in interleaved(steps, rounds=rounds).items()}
