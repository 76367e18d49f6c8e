"""Where a change is concentrated: the value of another feature, or the part of its range, among whose rows it happened.

A change moves rows into some cells of the feature.  Which cells is told from every second row; on the others it is asked, for each segment, whether
more rows moved there than among all others: a test of the difference of two differences of shares, corrected for every segment that was looked at
(Bonferroni), for looking at hundreds finds something by chance.  A segment that the reference had no rows of is compared with all of the reference.
Where instead every segment is as it was and only their mix changed, the mix explains the change: shares are weighed anew with the window's mix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

Array = np.ndarray[Any, Any]

FEWEST_ROWS = 30
_ALPHA = 0.01
_FURTHER = 0.05
"""A segment must have moved by so much more of its rows than the others."""
_MIX_EXPLAINS = 0.6


class Coded(msgspec.Struct, frozen=True):
    """A feature as the numbers of cells on both sides, and the cells' words."""

    name: str
    reference: Array
    window: Array
    words: list[str]

    @property
    def counts(self) -> tuple[Array, Array]:
        """Rows per cell on both sides."""
        before, now = (np.bincount(side, minlength=len(self.words)).astype(float) for side in (self.reference, self.window))
        return before, now


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Where the change of a feature is concentrated."""

    feature: str
    segment: str
    """`carrier = HA`, `distance 300 to 800`; of a mix the column."""
    kind: Literal["moved", "new", "mix"]
    """Its rows moved; it was not there before; or only how many rows each segment has changed."""
    rows: float
    """Its share of the window's rows, 0–1."""
    inside: float
    """Share of its rows that moved; of a mix the share of the change that it explains."""
    outside: float
    """Share of all other rows that moved."""
    p_adjusted: float | None = None


def segments(changed: Sequence[Coded], by: Sequence[Coded]) -> list[Segment]:
    """For each changed feature the segment its change is concentrated in, where there is one; *by* are all features, finely enough parted."""
    looked = sum(len(one.words) for feature in changed for one in by if one.name != feature.name)
    found = []
    for feature in changed:
        told = [segment for one in by if one.name != feature.name for segment in _of(feature, one, looked)]
        if told:
            found.append(min(told, key=lambda segment: (segment.kind == "mix", segment.p_adjusted or 0.0, -segment.inside)))
    return found


def moved_cells(before: Array, now: Array) -> Array:
    """Which cells have a larger share now, by more than one standard error."""
    n, m = max(before.sum(), 1), max(now.sum(), 1)
    return now / m - before / n > np.sqrt(before / n**2 + now / m**2)


def _of(feature: Coded, by: Coded, looked: int) -> list[Segment]:
    chosen = moved_cells(np.bincount(feature.reference[::2], minlength=len(feature.words)), np.bincount(feature.window[::2], minlength=len(feature.words)))
    count = len(by.words)
    before, hit_before = _counted(by.reference[1::2], chosen[feature.reference[1::2]], count)
    now, hit_now = _counted(by.window[1::2], chosen[feature.window[1::2]], count)
    if min(before.sum(), now.sum()) < FEWEST_ROWS:
        return []
    told = [segment for place in range(count) if (segment := _one(feature.name, by, place, (before, hit_before, now, hit_now), looked))]
    return told or _mix(feature.name, by, before, hit_before, now, hit_now)


def _counted(segment: Array, hit: Array, count: int) -> tuple[Array, Array]:
    return np.bincount(segment, minlength=count).astype(float), np.bincount(segment, weights=hit, minlength=count)


def _one(feature: str, by: Coded, place: int, counts: tuple[Array, Array, Array, Array], looked: int) -> Segment | None:
    before, hit_before, now, hit_now = counts
    if now[place] < FEWEST_ROWS or now.sum() - now[place] < FEWEST_ROWS:
        return None
    new = before[place] < FEWEST_ROWS
    n, x = (before.sum(), hit_before.sum()) if new else (before[place], hit_before[place])
    others, hit_others = before.sum() - (0.0 if new else before[place]), hit_before.sum() - (0.0 if new else hit_before[place])
    if others < FEWEST_ROWS:
        return None
    inside, error = _difference(x, n, hit_now[place], now[place])
    outside, error_outside = _difference(hit_others, others, hit_now.sum() - hit_now[place], now.sum() - now[place])
    z = (inside - outside) / math.hypot(error, error_outside)
    p_adjusted = min(1.0, looked * math.erfc(z / math.sqrt(2)) / 2)
    if inside - outside < _FURTHER or p_adjusted >= _ALPHA:
        return None
    return Segment(
        feature=feature, segment=_worded(by, place), kind="new" if new else "moved", rows=float(now[place] / now.sum()), inside=float(inside),
        outside=float(outside), p_adjusted=p_adjusted,
    )  # fmt: skip


def _difference(x: float, n: float, y: float, m: float) -> tuple[float, float]:
    """How much larger y/m is than x/n, and its standard error, with half a row more of either kind (Agresti and Coull's way)."""
    p, q = (x + 0.5) / (n + 1), (y + 0.5) / (m + 1)
    return y / m - x / n, math.sqrt(p * (1 - p) / n + q * (1 - q) / m)


def _mix(feature: str, by: Coded, before: Array, hit_before: Array, now: Array, hit_now: Array) -> list[Segment]:
    """The mix of segments, where that explains most of the change."""
    share, share_now = hit_before.sum() / before.sum(), hit_now.sum() / now.sum()
    within = np.where(before > 0, hit_before / np.maximum(before, 1), share)
    expected = float(np.sum(now / now.sum() * within))
    change = share_now - share
    explained = (expected - share) / change if change > _FURTHER else 0.0
    if explained < _MIX_EXPLAINS:
        return []
    return [Segment(feature=feature, segment=by.name, kind="mix", rows=1.0, inside=min(explained, 1.0), outside=0.0)]


def _worded(by: Coded, place: int) -> str:
    word = by.words[place]
    return f"{by.name} {word}" if word.startswith(("≤", ">")) or " to " in word else f"{by.name} = {word}"
