"""What drift checks find in windows that did not change, and in windows that did; drawn with seeds.

A window is drawn as what a check sees of it: counts per bin or category of the reference, multinomial with the true probabilities, which is
the distribution of counting drawn rows.  The rows themselves are drawn for the checks of others (`drift_peers.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from mlops_nb import summaries
from mlops_nb.monitoring import judging
from mlops_nb.summaries import ColumnSummary

from .drift_peers import CATEGORIES, DAYS, NUMBERS, shares

REFERENCE = 10_000
_POOL = 400
"""Different samples of the reference; each check takes some of them."""
NORMAL = NormalDist()


def lines() -> Iterator[tuple[str, str]]:
    """What was drawn, and how often ours alarms."""
    random = np.random.default_rng(2026)
    alarms = functools.partial(_alarms, random)
    for rows in (1000, 100_000, 1_000_000):
        yield f"unchanged, windows of {rows:,} rows", share(alarms(rows, 1) for _ in range(1000))
    yield f"unchanged, months of {DAYS} daily looks at 1,000 rows", share(alarms(1000, DAYS) for _ in range(100))
    shift = 2 * NORMAL.inv_cdf((1 + judging.EFFECT) / 2)
    yield f"moved by just the stated effect ({shift:.3f} σ in one feature), such months", share(alarms(1000, DAYS, shift) for _ in range(100))
    yield "moved by a meaningless 0.02 σ in one feature, windows of 1,000,000 rows", share(alarms(1_000_000, 1, 0.02) for _ in range(1000))
    yield "moved by 0.2 σ in one feature, found within five windows of 1,000 rows", share(alarms(1000, 5, 0.2) for _ in range(1000))


def share(answers: Iterator[bool]) -> str:
    """The share of answers that are yes."""
    found = list(answers)
    return f"{sum(found) / len(found):.1%} of {len(found):,}"


def _alarms(random: np.random.Generator, rows: int, looks: int, shift: float = 0.0) -> bool:
    """Whether any of so many looks alarms, one feature having moved by *shift*."""
    references = [_number(int(n)) for n in random.integers(0, _POOL, NUMBERS)] + [_category(int(random.integers(0, _POOL)), many) for many in CATEGORIES]
    windows: list[list[ColumnSummary]] = []
    for _ in range(looks):
        windows = [[_window(random, r, rows, shift if n == 0 else 0.0) for n, r in enumerate(references)], *windows[: max(judging.SPANS) - 1]]
        judged = judging.judge(references, windows)
        if any(test.p_adjusted < judging.Budget().alpha for one in judged for test in one.tests):
            return True
    return False


@functools.cache
def _number(number: int) -> ColumnSummary:
    """A sample of a number."""
    values = np.sort(np.random.default_rng([1, number]).normal(size=REFERENCE))
    inner = values[np.arange(1, summaries.BINS) * REFERENCE // summaries.BINS]
    edges = [float(np.nextafter(values[0], -np.inf)), *inner.tolist(), float(values[-1])]
    counts = np.diff(np.searchsorted(values, edges, side="right"), prepend=0, append=REFERENCE)
    return ColumnSummary(name=str(number), kind="number", count=REFERENCE, edges=edges, counts=counts.tolist())


@functools.cache
def _category(number: int, many: int) -> ColumnSummary:
    """A sample of a category."""
    counts = np.random.default_rng([2, number, many]).multinomial(REFERENCE, shares(many)).tolist()
    return ColumnSummary(name=f"{number}/{many}", kind="category", count=REFERENCE, categories={str(n): count for n, count in enumerate(counts)}, distinct=many)


def _window(random: np.random.Generator, reference: ColumnSummary, rows: int, shift: float) -> ColumnSummary:
    if reference.kind == "category":
        drawn = random.multinomial(rows, shares(len(reference.categories))).tolist()
        return ColumnSummary(name=reference.name, kind="category", count=rows, categories=dict(zip(reference.categories, drawn, strict=True)))
    drawn = random.multinomial(rows, _probabilities(reference.name, shift)).tolist()
    return ColumnSummary(name=reference.name, kind="number", count=rows, edges=reference.edges, counts=drawn)


@functools.cache
def _probabilities(name: str, shift: float) -> np.ndarray:
    upto = [NORMAL.cdf(edge - shift) for edge in _number(int(name)).edges]
    return np.diff(upto, prepend=0, append=1)
