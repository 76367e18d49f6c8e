"""The highest rate that keeps an objective, by bisection."""

from __future__ import annotations

from collections.abc import Callable

from .advice import Step

STEPS = 6
_CLOSE_ENOUGH = 0.04


def highest_rate(tried: Callable[[float], Step], *, most: float, steps: int = STEPS) -> list[Step]:
    """Try rates below *most* requests a second, at most *steps* of them, and return them from the lowest.

    Each halves what is unknown: above the highest rate that kept the objective, below the lowest that did not.  It ends early
    when the two are within 4 % of each other.
    """
    seen: list[Step] = []
    low, high = 0.0, most
    while len(seen) < steps and high - low > _CLOSE_ENOUGH * high:
        step = tried((low + high) / 2)
        seen.append(step)
        low, high = (step.rate, high) if step.kept else (low, step.rate)
    return sorted(seen, key=lambda step: step.rate)


def best(steps: list[Step]) -> Step | None:
    """The highest rate that kept the objective, if any did."""
    return max((step for step in steps if step.kept), key=lambda step: step.rate, default=None)
