"""Guards of a canary: what it must not do, read from words such as `error_rate<=+0.5pp`, and the evidence that it does.

Every evidence may be looked at whenever one likes (see `sequential`).  A guard is violated when the evidence against it reaches its
share of the error rate that the canary promises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from . import sequential
from .errors import BadOption
from .telemetry.copies import BIN_RATIO, Counted, Pair, agreeing

_FORM = re.compile(r"(error_rate|agreement|accuracy|p50|p90|p95|p99)\s*(<=|>=)\s*([+-])?\s*(\d+(?:\.\d+)?)\s*(pp|%|ms|s)?")
_HINT = '--guard "error_rate<=+0.5pp", "error_rate<=2%", "p95<=+10%", "p95<=50ms", "agreement>=0.95" or "accuracy>=-1pp"'


class Guard(msgspec.Struct, frozen=True):
    """One promise: a rate or a quantile that must not pass a bound, absolute or beside the other deployments'."""

    metric: Literal["error_rate", "agreement", "accuracy", "p50", "p90", "p95", "p99"]
    bound: float
    """A rate (0–1), milliseconds, or with *relative* what it may be above the others': a rate's difference, a quantile's factor less one."""
    relative: bool

    def __str__(self) -> str:
        if self.metric == "error_rate":
            return f"error_rate<=+{self.bound * 100:g}pp" if self.relative else f"error_rate<={self.bound * 100:g}%"
        if self.metric == "agreement":
            return f"agreement>={self.bound:g}"
        if self.metric == "accuracy":
            return f"accuracy>={self.bound * 100:g}pp" if self.relative else f"accuracy>={self.bound:g}"
        return f"{self.metric}<=+{self.bound * 100:g}%" if self.relative else f"{self.metric}<={self.bound:g}ms"

    @property
    def quantile(self) -> float:
        """The quantile it is about, such as 0.95."""
        return int(self.metric[1:]) / 100


def parse(text: str) -> Guard:
    """The guard that *text* says.  Raises BadOption."""
    found = _FORM.fullmatch(text.strip())
    if not found:
        raise BadOption(f"{text[:60]!r} is no guard.", hint=_HINT)
    metric, sign, plus, number, unit = found[1], found[2], found[3] == "+", float(found[4]), found[5]
    guard = _of_accuracy(found[3] == "-", plus, number, unit) if metric == "accuracy" else None if found[3] == "-" else _guard(metric, plus, number, unit)
    if guard is None or (sign == ">=") != (metric in ("agreement", "accuracy")):
        raise BadOption(f"{text[:60]!r} is no guard.", hint=_HINT)
    return guard


def _guard(metric: str, plus: bool, number: float, unit: str | None) -> Guard | None:
    if metric == "error_rate" and (unit == "pp") == plus and (unit in ("pp", "%") or (unit is None and number < 1)):
        rate = number / 100 if unit else number
        return Guard("error_rate", rate, plus) if rate < 1 else None
    if metric == "agreement" and not plus and unit in (None, "%"):
        rate = number / 100 if unit else number
        return Guard("agreement", rate, False) if 0 < rate < 1 else None
    if metric.startswith("p") and plus and unit == "%" and number > 0:
        return Guard(metric, number / 100, True)  # type: ignore[arg-type]
    if metric.startswith("p") and not plus and unit in ("ms", "s") and number > 0:
        return Guard(metric, number * (1000 if unit == "s" else 1), False)  # type: ignore[arg-type]
    return None


def _of_accuracy(minus: bool, plus: bool, number: float, unit: str | None) -> Guard | None:
    """`accuracy>=-1pp` beside the others', `accuracy>=0.9` or `90%` by itself."""
    if unit == "pp" and (minus or not number) and not plus:
        return Guard("accuracy", -number / 100, True) if number < 100 else None
    rate = number / 100 if unit == "%" else number
    return Guard("accuracy", rate, False) if unit in (None, "%") and not minus and not plus and 0 < rate < 1 else None


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What was known before the canary began; it sharpens the test and cannot spoil it."""

    requests: int = 0
    errors: int = 0
    harm: float = 0.02
    """The rise of the error rate that is to be found, 0–1."""

    @property
    def priors(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """What the candidate, were it harmful, and the others are expected to do."""
        if not self.requests:
            return sequential.FLAT, sequential.FLAT
        rate, weight = self.errors / self.requests, min(self.requests, _MOST_PRIOR)
        harmed = min(0.9, rate + self.harm)
        return (harmed * 100 + 0.5, (1 - harmed) * 100 + 0.5), (rate * weight + 0.5, (1 - rate) * weight + 0.5)


_MOST_PRIOR = 5000


class Right(msgspec.Struct, frozen=True):
    """Of how many labelled rows a deployment's answers were right."""

    right: int = 0
    labelled: int = 0


def evidence(
    guard: Guard, candidate: Counted, others: Counted, pairs: Sequence[Pair], expected: Expected, *, truth: tuple[Right, Right] = (Right(), Right())
) -> float:  # fmt: skip
    """The logarithm of the evidence that the guard is violated, from what one stage of a canary saw.

    *truth* is what the labels say of the candidate's answers and of the others'.  They may come in any order that does not depend on them.
    """
    if guard.metric == "accuracy":
        return _of_truth(guard, *truth)
    if guard.metric == "error_rate":
        return _of_errors(guard, candidate, others, expected)
    if guard.metric == "agreement":
        return float(sequential.evidence_below(sum(map(agreeing, pairs)), len(pairs), guard.bound)) if pairs else 0.0
    return _of_latency(guard, candidate, others)


def _of_errors(guard: Guard, candidate: Counted, others: Counted, expected: Expected) -> float:
    if not candidate.requests or (guard.relative and not others.requests):
        return 0.0
    if not guard.relative:
        return float(sequential.evidence_above(candidate.errors, candidate.requests, guard.bound))
    prior, prior_before = expected.priors
    found = sequential.evidence_of_more(
        candidate.errors, candidate.requests, others.errors, others.requests, guard.bound, prior=prior, prior_before=prior_before
    )
    return float(found)


def _of_truth(guard: Guard, mine: Right, others: Right) -> float:
    if not mine.labelled or (guard.relative and not others.labelled):
        return 0.0
    if not guard.relative:
        return float(sequential.evidence_below(mine.right, mine.labelled, guard.bound))
    wrong, wrong_before = mine.labelled - mine.right, others.labelled - others.right
    return float(sequential.evidence_of_more(wrong, mine.labelled, wrong_before, others.labelled, -guard.bound))


def _of_latency(guard: Guard, candidate: Counted, others: Counted) -> float:
    if guard.relative:
        steps = math.ceil(math.log1p(guard.bound) / math.log(BIN_RATIO))
        return sequential.evidence_of_slower(candidate.histogram(), others.histogram(), quantile=guard.quantile, steps=steps)
    last = math.ceil(math.log(guard.bound / 0.001) / math.log(BIN_RATIO))
    within = sum(count for place, count in candidate.latencies.items() if place <= last)
    return float(sequential.evidence_below(within, candidate.requests, guard.quantile)) if candidate.requests else 0.0


def beyond(guard: Guard, candidate: Counted, others: Counted, pairs: Sequence[Pair], *, truth: tuple[Right, Right] = (Right(), Right())) -> bool:
    """Whether what was seen lies beyond the bound, proven or not: reason enough to wait for more before a step is taken."""
    if guard.metric == "accuracy":
        mine, before = (one.right / one.labelled if one.labelled else None for one in truth)
        return mine is not None and (mine < (before if before is not None else mine) + guard.bound if guard.relative else mine < guard.bound)
    if guard.metric == "agreement":
        return bool(pairs) and sum(map(agreeing, pairs)) < guard.bound * len(pairs)
    if not candidate.requests or (guard.relative and not others.requests):
        return False
    if guard.metric == "error_rate":
        base = others.errors / others.requests if guard.relative else 0.0
        return candidate.errors / candidate.requests > base + guard.bound
    base_ms = quantile_ms(others, guard.quantile) * (1 + guard.bound) if guard.relative else guard.bound
    return quantile_ms(candidate, guard.quantile) > base_ms * BIN_RATIO  # a bin's width is not known better


def quantile_ms(counted: Counted, quantile: float) -> float:
    """The end of the bin that holds the quantile of the latencies, in milliseconds; 0 without requests."""
    from .telemetry.copies import bin_end_ms

    seen = 0
    for place in sorted(counted.latencies):
        seen += counted.latencies[place]
        if seen >= quantile * counted.requests:
            return bin_end_ms(place)
    return 0.0


def words(guard: Guard, candidate: Counted, others: Counted, pairs: Sequence[Pair], *, truth: tuple[Right, Right] = (Right(), Right())) -> str:
    """What was seen, in a person's words: `error_rate 4.1 % of 512, others 1.0 % of 9,802`."""
    if guard.metric == "accuracy":
        mine, before = (f"{one.right / one.labelled:.1%} of {one.labelled:,}" if one.labelled else "of no labels" for one in truth)
        return f"accuracy {mine}" + (f", the others {before}" if guard.relative else "")
    if guard.metric == "agreement":
        return f"{sum(map(agreeing, pairs)):,} of {len(pairs):,} answers agree"
    told = [_told(guard, one) for one in (candidate, others)]
    return f"{guard.metric} {told[0]}" + (f", the others {told[1]}" if guard.relative else "")


def _told(guard: Guard, counted: Counted) -> str:
    if guard.metric == "error_rate":
        return f"{counted.errors / counted.requests:.2%} of {counted.requests:,}" if counted.requests else "of no requests"
    return f"{quantile_ms(counted, guard.quantile):.3g} ms over {counted.requests:,}" if counted.requests else "of no requests"
