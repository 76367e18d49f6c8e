"""When a feature's distribution changed: the most likely moment, and how sure it is.

Rows are counted in cells.  For each moment at which it may have begun, the reference and the rows before are taken to come from one distribution and
the rows after from another; the likelihood ratio of these multinomials has its peak at the change (Horváth and Serbinowska, "Testing for changes in
multinomial observations: the Lindisfarne scribes problem", Scandinavian Journal of Statistics 22, 1995).  Its weights, taken as a posterior with
every moment as likely as any other beforehand, give the interval (Smith, "A Bayesian approach to inference about a change-point in a sequence of
random variables", Biometrika 62, 1975).  Days differ by more than chance, so the likelihood is divided by the overdispersion of the cells' counts
on either side (quasi-likelihood: McCullagh and Nelder, "Generalized Linear Models", 1989), which only widens the interval.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, Any]

FEWEST_AFTER = 20
_MOST_MOMENTS = 1000
_STRETCHES = 40


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """When a change began."""

    time: datetime
    low: datetime
    high: datetime
    """Between these with 95 % probability."""
    from_first: bool = False
    """Whether it was so from the first request that is kept, so that it may be older."""


def beginning(time: Array, cells: Array, reference: Array) -> Beginning | None:
    """The moment since when *cells* (a cell's number for each row, by *time*) are others; *reference* are counts per cell.  None where rows are too few."""
    moments = _moments(time)
    if len(time) < 2 * FEWEST_AFTER or not len(moments):
        return None
    upto = _counted_upto(cells, moments, len(reference))
    whole = np.bincount(cells, minlength=len(reference)).astype(float)
    before = upto + reference * min(1.0, len(cells) / max(reference.sum(), 1.0))
    likelihood = _log_likelihood(before) + _log_likelihood(whole - upto)
    best = int(likelihood.argmax())
    weight = np.exp((likelihood - likelihood[best]) / _overdispersion(cells, moments[best], len(reference)))
    chance = np.cumsum(weight) / weight.sum()
    low, high = (int(np.searchsorted(chance, edge)) for edge in (0.025, 0.975))
    earliest = time[max(moments[low] - 1, 0)] if moments[low] else time[0]
    return Beginning(
        time=_moment(time[moments[best]]), low=_moment(earliest), high=_moment(time[moments[min(high, len(moments) - 1)]]), from_first=bool(moments[best] == 0)
    )


def _moments(time: Array) -> Array:
    """The rows at which a change may begin: the first of a moment, enough rows before the end, at most a thousand."""
    firsts = np.flatnonzero(np.append(True, time[1:] != time[:-1]))
    firsts = firsts[firsts <= len(time) - FEWEST_AFTER]
    return firsts[:: -(-len(firsts) // _MOST_MOMENTS) or 1]


def _counted_upto(cells: Array, moments: Array, count: int) -> Array:
    """Rows per cell before each of the moments."""
    stretch = np.searchsorted(moments, np.arange(len(cells)), side="right")
    table = np.bincount(stretch * count + cells, minlength=(len(moments) + 1) * count).reshape(-1, count)
    return np.cumsum(table, axis=0)[: len(moments)].astype(float)


def _log_likelihood(counts: Array) -> Array:
    """Of multinomials with their own shares, a row each."""
    total = counts.sum(axis=-1)
    return np.sum(counts * np.log(np.maximum(counts, 1e-300)), axis=-1, where=counts > 0) - total * np.log(np.maximum(total, 1e-300))


def _overdispersion(cells: Array, change: int, count: int) -> float:
    """How much more stretches of time differ on either side of the change than chance explains; at least 1."""
    statistic, degrees = 0.0, 0
    for side in (cells[:change], cells[change:]):
        parts = [np.bincount(part, minlength=count) for part in np.array_split(side, _STRETCHES // 2) if len(part) >= 5 * 2]
        if len(parts) < 2:
            continue
        table = np.array(parts, float)
        table = table[:, table.sum(axis=0) >= 5 * len(parts)]
        if table.shape[1] < 2:
            continue
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
        statistic += float(np.sum((table - expected) ** 2 / expected))
        degrees += (table.shape[0] - 1) * (table.shape[1] - 1)
    return max(1.0, statistic / degrees) if degrees else 1.0


def _moment(time: Any) -> datetime:
    return time.astype("datetime64[us]").item().replace(tzinfo=UTC)
