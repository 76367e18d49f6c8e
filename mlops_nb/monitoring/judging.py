"""Whether a window differs from the reference by more than an effect that matters, with false alarms kept within a budget.

The null hypothesis is not "nothing changed", which enough rows refute of any two samples, but "no more than the stated share of the rows
lies elsewhere": a minimum-effect test (Murphy and Myors, "Testing the hypothesis that treatments have negligible effects", Journal of
Applied Psychology 84, 1999).  Both sides are samples of independent rows, and the error of both is counted.  With n rows of reference, m of window and
N = nm/(n+m), and effect δ:

- Numbers: D is the largest gap between the cumulative distributions at the bins' edges.  D - δ is at most the largest error of either, so
  its p-value is 2 exp(-2 N (D - δ)²), by the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant (Annals of Probability 18,
  1990; for two samples Wei and Dudley, Statistics and Probability Letters 82, 2012).  Ties and atoms only make it smaller.
- Categories: V is the total variation distance.  Chance alone makes it positive; no more than b = Σ s_k / √(2π) on average, s_k being the standard
  error of the difference in category k, and V exceeds its average by t with probability exp(-2 N t²) (McDiarmid 1989).  Beside it
  each category's own share is tested, and the better of both counts twice.
- Missing values, and values beyond the range or of no category that the reference had, are shares: a likelihood ratio test of |q - p| <= δ.

A shift of a normal distribution by s standard deviations moves 2Φ(s/2) - 1 of the rows: 0.03 is 0.075 σ, 0.08 is 0.2 σ.

A budget of A alarms in a period with L looks leaves each look A/L, shared out among all features, kinds of tests and spans of windows by
Holm's weighted procedure (Scandinavian Journal of Statistics 6, 1979), which needs no independence.  Expectations add up however the looks
depend on each other, so unchanged data give at most A false alarms in a period on average, whatever rows are shared by overlapping spans.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .. import summaries
from ..errors import BadOption
from ..summaries import ColumnSummary

if TYPE_CHECKING:
    import numpy as np

EFFECT = 0.03
FEWEST_ROWS = 30
_MOST_ALPHA = 0.05
"""However large the budget and however seldom the looks: what chance does more often than that is no evidence."""
SPANS = {1: 0.25, 2: 0.25, 5: 0.5}
"""How many of the newest windows are tested together, and what part of the budget each test gets."""
_KINDS = {"values": 0.8, "missing": 0.1, "new": 0.1}
_MOST_CELLS = 50
_DAY = 86_400.0
_UNITS = {"h": 3600.0, "d": _DAY, "w": 7 * _DAY}


class Budget(msgspec.Struct, frozen=True):
    """How many false alarms are allowed in how long, with a look so often."""

    alarms: float = 1.0
    period_seconds: float = 30 * _DAY
    every_seconds: float = _DAY

    @property
    def alpha(self) -> float:
        """The chance of a false alarm that one look has."""
        return min(self.alarms * self.every_seconds / self.period_seconds, _MOST_ALPHA)

    def promise(self, features: int, spans: int) -> str:
        """What it keeps, in words."""
        alarms = "one false alarm" if self.alarms == 1 else f"{self.alarms:g} false alarms"
        looks = {3600.0: "hourly", _DAY: "daily", 7 * _DAY: "weekly"}.get(self.every_seconds, f"{max(1, round(self.period_seconds / self.every_seconds)):,}")
        rest = f" and {spans} spans of windows" if spans > 1 else ""
        return f"keeps at most {alarms} in {_long(self.period_seconds)} of {looks} checks of {features} feature{'s' * (features != 1)}{rest}"


def budget(text: str, *, every_seconds: float | None = None) -> Budget:
    """`1/30d`: one false alarm in thirty days, with a look every so many seconds (a day unless given).  Raises BadOption."""
    alarms, length, unit = _budget(text)
    return Budget(alarms, length * _UNITS[unit], every_seconds or _DAY)


def shared_out(text: str, *, among: int) -> str:
    """The budget of each of so many that are looked at beside each other, so that all of them together keep *text*.  Raises BadOption."""
    alarms, length, unit = _budget(text)
    return f"{alarms:f}/{length * among:f}{unit}"


def _budget(text: str) -> tuple[float, float, str]:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)([hdw])", text.strip())
    if not found or not float(found[1]) or not float(found[2]):
        raise BadOption(f"{text[:40]!r} is no budget of false alarms.", hint="--budget 1/30d")
    return float(found[1]), float(found[2]), found[3]


def _long(seconds: float) -> str:
    for unit, length in (("day", _DAY), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}{'s' * (seconds != length)}"
    return f"{seconds:g} seconds"


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """One hypothesis about one feature."""

    kind: str
    """`values`, `missing` or `new`."""
    span: int
    """How many windows were put together."""
    test: str
    effect: float
    """Share of the rows, 0–1, that lies elsewhere."""
    p_value: float
    p_adjusted: float = 1.0
    """Corrected for all tests of the check; below the look's alpha it is an alarm."""
    p_any: float = 1.0
    """Of `values`: that nothing changed at all, corrected for all tests of values; a change may be certain and yet too small to count."""


class Judged(msgspec.Struct, frozen=True):
    """All that was tested of one feature, what alarms most first."""

    reference: ColumnSummary
    window: ColumnSummary
    """Of the span that was decisive."""
    tests: list[Tested]
    spans: dict[int, ColumnSummary] = {}
    """Every span's windows, put together."""

    def first(self, kind: str) -> Tested | None:
        """The decisive test of a kind."""
        return next((test for test in self.tests if test.kind == kind), None)

    def seen(self, kind: str) -> ColumnSummary:
        """The window that decided a kind of test, which need not be the one that was decisive of all."""
        test = self.first(kind)
        return self.spans.get(test.span, self.window) if test else self.window


def judge(references: Sequence[ColumnSummary], windows: Sequence[Sequence[ColumnSummary]], *, effect: float = EFFECT) -> list[Judged]:
    """Every feature of *references* against the windows, the newest first, each with the same features in the same order."""
    spans = [span for span in SPANS if span <= len(windows)] or [1]
    pooled = {span: [summaries.together(many) for many in zip(*windows[:span], strict=True)] for span in spans}
    tests = [[_tested(kind, span, r, pooled[span][n], effect) for span in spans for kind in _KINDS] for n, r in enumerate(references)]
    flat = [test for of_one in tests for test in of_one]
    of_values = sum(test.kind == "values" for test in flat)
    adjusted = iter(holm([test.p_value for test in flat], [SPANS[test.span] * _KINDS[test.kind] for test in flat]))
    corrected = [
        sorted((msgspec.structs.replace(t, p_adjusted=next(adjusted), p_any=min(1.0, t.p_any * of_values)) for t in one), key=lambda t: (t.p_adjusted, t.span))
        for one in tests
    ]
    together = [{span: many[n] for span, many in pooled.items()} for n in range(len(references))]
    return [Judged(r, many[of_one[0].span], of_one, many) for r, of_one, many in zip(references, corrected, together, strict=True)]


def holm(p_values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's weighted step-down procedure."""
    adjusted, highest, rest = [1.0] * len(p_values), 0.0, sum(weights)
    for place in sorted(range(len(p_values)), key=lambda n: p_values[n] / weights[n]):
        highest = max(highest, min(1.0, p_values[place] * rest / weights[place]))
        adjusted[place] = highest
        rest -= weights[place]
    return adjusted


# ── tests ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tested(kind: str, span: int, reference: ColumnSummary, window: ColumnSummary, effect: float) -> Tested:
    name, found = {"values": _values, "missing": _missing, "new": _new}[kind](reference, window, effect)
    any_change = _any_change(reference, window, found[0]) if kind == "values" and name != "none" and found[0] < effect else 1.0
    return Tested(kind=kind, span=span, test=name, effect=found[0], p_value=found[1], p_any=any_change)


def _any_change(reference: ColumnSummary, window: ColumnSummary, gap: float) -> float:
    """The p-value of there being no change at all, of what lies within the effect that counts."""
    if reference.kind == "number":
        return min(1.0, 2 * _tail(gap, reference.count, window.count))
    return _categories(reference, window, 0.0)[1]


def _values(reference: ColumnSummary, window: ColumnSummary, effect: float) -> tuple[str, tuple[float, float]]:
    if min(reference.count, window.count) < FEWEST_ROWS:
        return "none", (0.0, 1.0)
    if reference.kind == "number":
        return "Kolmogorov–Smirnov", _numbers(reference, window, effect)
    return "total variation", _categories(reference, window, effect)


def _missing(reference: ColumnSummary, window: ColumnSummary, effect: float) -> tuple[str, tuple[float, float]]:
    return "likelihood ratio", share_test(reference.missing, reference.rows, window.missing, window.rows, effect)


def _new(reference: ColumnSummary, window: ColumnSummary, effect: float) -> tuple[str, tuple[float, float]]:
    if min(reference.count, window.count) < FEWEST_ROWS or (reference.kind == "category" and reference.other):
        return "none", (0.0, 1.0)
    return "likelihood ratio", share_test(0, reference.count, outside(reference, window), window.count, effect)


def outside(reference: ColumnSummary, window: ColumnSummary) -> int:
    """Values of the window beyond the reference's range, where it had a finite value, or of no category it had."""
    if reference.kind == "category":
        return window.other
    if not reference.edges:
        return 0
    return (0 if reference.counts[0] else window.counts[0]) + (0 if reference.counts[-1] else window.counts[-1])


def _numbers(reference: ColumnSummary, window: ColumnSummary, effect: float) -> tuple[float, float]:
    import numpy as np

    gap = float(np.abs(np.cumsum(reference.counts) / reference.count - np.cumsum(window.counts) / window.count).max())
    return gap, min(1.0, 2 * _tail(gap - effect, reference.count, window.count))


def _categories(reference: ColumnSummary, window: ColumnSummary, effect: float) -> tuple[float, float]:
    import numpy as np

    before, now = cells(reference, window)
    n, m = before.sum(), now.sum()
    p, q, pooled = before / n, now / m, (before + now) / (n + m)
    distance = float(np.abs(p - q).sum() / 2)
    by_chance = float(np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)).sum() / math.sqrt(2 * math.pi))
    places = np.argsort(-np.abs(p - q))[: 1 if len(p) == 2 else 3]
    single = min((share_test(int(before[k]), int(n), int(now[k]), int(m), effect)[1] for k in places), default=1.0)
    if len(p) <= 2:
        return distance, single
    return distance, min(1.0, 2 * min(_tail(distance - by_chance - effect, int(n), int(m)), len(p) * single))


def cells(reference: ColumnSummary, window: ColumnSummary) -> tuple[np.ndarray, np.ndarray]:
    """Rows per category on either side; those expected fewer than five times, told from both sides' sum, and all beyond fifty together."""
    import numpy as np

    before, now = (np.array([*side.categories.values(), side.other], float) for side in (reference, window))
    total = before + now
    expected = total * min(before.sum(), now.sum()) / total.sum()
    order = np.argsort(-total, kind="stable")[:_MOST_CELLS]
    own = order[expected[order] >= 5]
    rest = [side.sum() - side[own].sum() for side in (before, now)]
    keep = bool(sum(rest))
    return np.append(before[own], rest[:1] if keep else []), np.append(now[own], rest[1:] if keep else [])


def _tail(excess: float, n: int, m: int) -> float:
    return math.exp(-2 * n * m / (n + m) * excess**2) if excess > 0 else 1.0


def share_test(yes: int, count: int, yes_now: int, count_now: int, effect: float) -> tuple[float, float]:
    """How far two shares are apart, and the p-value of their being no further apart than *effect*, by the signed root of the likelihood ratio."""
    if min(count, count_now) < FEWEST_ROWS:
        return 0.0, 1.0
    p, q = yes / count, yes_now / count_now
    if abs(q - p) <= effect:
        return abs(q - p), 1.0
    if q < p:
        return share_test(count - yes, count, count_now - yes_now, count_now, effect)
    best = _likelihood(yes, count, p) + _likelihood(yes_now, count_now, q)
    within = _highest(lambda base: _likelihood(yes, count, base) + _likelihood(yes_now, count_now, base + effect), 0.0, 1 - effect)
    return q - p, math.erfc(math.sqrt(max(best - within, 0.0)))


def _likelihood(yes: int, count: int, rate: float) -> float:
    rate = min(max(rate, 1e-12), 1 - 1e-12)
    return yes * math.log(rate) + (count - yes) * math.log1p(-rate)


def _highest(of: Any, low: float, high: float) -> float:
    """The highest value of a concave function between *low* and *high*."""
    golden = (5**0.5 - 1) / 2
    for _ in range(50):
        one, other = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, other) if of(one) > of(other) else (one, high)
    return of((low + high) / 2)
