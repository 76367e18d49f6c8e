"""Distances between a window and its reference, computed from counts, and how large chance alone makes them.

With n rows of reference, m of window and N = nm/(n+m), two samples of one distribution over k cells are apart by about χ²/N (population
stability index: Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation 14, 2020),
χ²/8N (Jensen-Shannon divergence in nats, and the squared Hellinger distance: both agree with χ² to second order), χ² having k - 1 degrees of freedom.
The Wasserstein distance, in standard deviations of the reference, averages at most ∫√(2F(1-F)/πN) and exceeds that by t with a chance of at
most exp(-N t²/2), because a function that never rises faster than its argument varies no more than it (Borell-TIS inequality, for many rows).

Each distance has a size from which it counts by custom; it must reach that, and be more than chance explains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ..summaries import ColumnSummary
from . import judging

if TYPE_CHECKING:
    import numpy as np

_CELLS = 10


class Distance(msgspec.Struct, frozen=True):
    """A distance, the p-value of its being due to chance, and the size from which it counts."""

    value: float
    p_value: float
    threshold: float


def population_stability(reference: ColumnSummary, window: ColumnSummary) -> Distance:
    """Σ (q - p) ln(q/p) over tenths of the reference or categories, each with half a row more than it has, so that none is empty; counts from 0.2."""
    import numpy as np

    before, now = _cells(reference, window)
    p, q = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (before, now))
    value = float(np.sum((q - p) * np.log(q / p)))
    return Distance(value, _chi_squared_tail(value * _size(before, now), len(p) - 1), 0.2)


def jensen_shannon(reference: ColumnSummary, window: ColumnSummary) -> Distance:
    """The square root of the Jensen-Shannon divergence to base 2, from 0 to 1, over tenths or categories (Endres and Schindelin 2003); from 0.1."""
    import numpy as np

    before, now = _cells(reference, window)
    p, q = before / before.sum(), now / now.sum()
    middle = (p + q) / 2
    nats = float(sum(np.sum(side[side > 0] * np.log(side[side > 0] / middle[side > 0])) for side in (p, q)) / 2)
    return Distance(math.sqrt(max(nats, 0.0) / math.log(2)), _chi_squared_tail(8 * nats * _size(before, now), len(p) - 1), 0.1)


def hellinger(reference: ColumnSummary, window: ColumnSummary) -> Distance:
    """√(Σ (√p - √q)² / 2), from 0 to 1, over tenths or categories (Hellinger 1909); counts from 0.1."""
    import numpy as np

    before, now = _cells(reference, window)
    squared = float(np.sum((np.sqrt(before / before.sum()) - np.sqrt(now / now.sum())) ** 2) / 2)
    return Distance(math.sqrt(squared), _chi_squared_tail(8 * squared * _size(before, now), len(before) - 1), 0.1)


def wasserstein(reference: ColumnSummary, window: ColumnSummary) -> Distance:
    """How far a value moves on average, in standard deviations of the reference; values beyond its range count as at its ends; from 0.1."""
    import numpy as np

    edges, scale = np.array(reference.edges), reference.deviation or 1.0
    f, g = (np.cumsum(side.counts)[:-1] / max(side.count, 1) for side in (reference, window))
    f, g = np.where(np.isfinite(f), f, 0.0), np.where(np.isfinite(g), g, 0.0)
    widths, gaps = np.diff(edges), f - g
    value = float(np.sum(widths * _between(gaps[:-1], gaps[1:]))) / scale
    size = reference.count * window.count / (reference.count + window.count)
    spread = np.sqrt(f * (1 - f))
    by_chance = float(np.sum(widths * (spread[:-1] + spread[1:]) / 2)) * math.sqrt(2 / (math.pi * size)) / scale
    excess = value - by_chance
    return Distance(value, math.exp(-size * excess**2 / 2) if excess > 0 else 1.0, 0.1)


DISTANCES: dict[str, Callable[[ColumnSummary, ColumnSummary], Distance]] = {
    "psi": population_stability,
    "jensen-shannon": jensen_shannon,
    "hellinger": hellinger,
    "wasserstein": wasserstein,
}


def _cells(reference: ColumnSummary, window: ColumnSummary) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sides in the same few cells: about tenths of the reference, or its categories with the rare ones together."""
    import numpy as np

    if reference.kind == "category":
        return judging.cells(reference, window)
    place = tenths(reference)
    return tuple(np.bincount(place, side.counts, minlength=place[-1] + 1) for side in (reference, window))  # type: ignore[return-value]


def tenths(reference: ColumnSummary) -> np.ndarray:
    """Which of about ten equally full cells each bin of a number belongs to."""
    import numpy as np

    before = np.cumsum(reference.counts) - np.array(reference.counts) / 2
    cells = np.minimum((before / max(reference.count, 1) * _CELLS).astype(int), _CELLS - 1)
    return np.unique(cells, return_inverse=True)[1]


def _between(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The mean size of what goes straight from *left* to *right*."""
    import numpy as np

    a, b = np.abs(left), np.abs(right)
    crossing = (a**2 + b**2) / (2 * np.maximum(a + b, 1e-300))
    return np.where(left * right >= 0, (a + b) / 2, crossing)


def _size(before: np.ndarray, now: np.ndarray) -> float:
    n, m = float(before.sum()), float(now.sum())
    return n * m / (n + m)


def _chi_squared_tail(value: float, degrees: int) -> float:
    """The chance that a χ² exceeds *value*: its cube root is nearly normal (Wilson and Hilferty, PNAS 17, 1931)."""
    if degrees < 1 or value <= 0:
        return 1.0
    spread = 2 / (9 * degrees)
    return math.erfc((((value / degrees) ** (1 / 3)) - (1 - spread)) / math.sqrt(2 * spread)) / 2
