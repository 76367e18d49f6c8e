"""Guards of a canary: what it must not do, read from words such as `error_rate<=+0.5pp`, and the evidence that it does.

Every evidence may be looked at whenever one likes (see `sequential`).  A guard is violated when the evidence against it reaches its
share of the error rate that the canary promises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence, Set
from typing import Literal

import msgspec

from . import sequential, truth
from .errors import BadOption
from .telemetry.copies import BIN_RATIO, Agreed, Counted
from .truth import Sides, Truth

_FORM = re.compile(r"(error_rate|agreement|p50|p90|p95|p99|accuracy|precision|recall|auc|brier|rmse|mae)\s*(<=|>=)\s*([+-])?\s*(\d+(?:\.\d+)?)\s*(pp|%|ms|s)?")
_HINT = (
    '--guard "error_rate<=+0.5pp", "error_rate<=2%", "p95<=+10%", "p95<=50ms", "agreement>=0.95"; by labels "accuracy>=-1pp", "auc>=-0.02", "brier<=+0.01", '
    '"rmse<=+10%"'
)
_AT_LEAST = ("agreement", *truth.RATES)
_SHARES, _QUANTILES, _ERRORS = ("accuracy", "precision", "recall"), ("p50", "p90", "p95", "p99"), ("rmse", "mae")
_BELOW_ONE = ("error_rate", "agreement", *_SHARES, "auc", "brier")
_BOUNDS = {
    "error_rate": ("", "%", "+pp"), "agreement": ("", "%"), **dict.fromkeys(_QUANTILES, ("ms", "s", "+%")), **dict.fromkeys(_SHARES, ("", "%", "-pp")),
    "auc": ("", "-"), "brier": ("", "+"), **dict.fromkeys(_ERRORS, ("", "+%")),
}  # fmt: skip
"""The sign and the unit that a metric's bound may have."""
SHORT = {
    "auc": "auc>=-0.02", "accuracy": "accuracy>=-2pp", "precision": "precision>=-2pp", "recall": "recall>=-2pp", "brier": "brier<=+0.01",
    "rmse": "rmse<=+10%", "mae": "mae<=+10%",
}  # fmt: skip
"""What `--metric NAME` promises."""


class Guard(msgspec.Struct, frozen=True):
    """One promise: a rate, a quantile or a measure by labels that must not pass a bound, absolute or beside the other deployments'."""

    metric: Literal["error_rate", "agreement", "p50", "p90", "p95", "p99", "accuracy", "precision", "recall", "auc", "brier", "rmse", "mae"]
    bound: float
    """A rate (0–1), milliseconds, an error in the label's unit, or with *relative* what it may be above the others' (below, where more is better):
    a rate's difference, the factor of a quantile or of an error less one."""
    relative: bool
    cap: float = 1.0
    """Of a number's error: what larger ones count as, in the label's unit; see `truth`."""

    def __str__(self) -> str:
        if self.metric == "error_rate":
            return f"error_rate<=+{self.bound * 100:g}pp" if self.relative else f"error_rate<={self.bound * 100:g}%"
        if self.metric == "agreement":
            return f"agreement>={self.bound:g}"
        if self.metric in _SHARES:
            return f"{self.metric}>={self.bound * 100:g}pp" if self.relative else f"{self.metric}>={self.bound:g}"
        if self.metric == "auc":
            return f"auc>={self.bound:g}"
        if self.metric == "brier":
            return f"brier<={'+' * self.relative}{self.bound:g}"
        if self.metric in truth.METRICS:
            return f"{self.metric}<=+{self.bound * 100:g}%" if self.relative else f"{self.metric}<={self.bound:g}"
        return f"{self.metric}<=+{self.bound * 100:g}%" if self.relative else f"{self.metric}<={self.bound:g}ms"

    @property
    def quantile(self) -> float:
        """The quantile it is about, such as 0.95."""
        return int(self.metric[1:]) / 100

    @property
    def by_labels(self) -> bool:
        """Whether labels judge it."""
        return self.metric in truth.METRICS

    @property
    def allowed(self) -> truth.Allowed:
        """Of one by labels, what the candidate may lose."""
        if self.metric in truth.RATES:
            return truth.Allowed(margin=-self.bound) if self.relative else truth.Allowed(limit=1 - self.bound)
        if self.metric == "brier":
            return truth.Allowed(margin=self.bound) if self.relative else truth.Allowed(limit=self.bound)
        power = 2 if self.metric == "rmse" else 1
        return truth.Allowed(factor=(1 + self.bound) ** power) if self.relative else truth.Allowed(limit=(self.bound / self.cap) ** power)


def parse(text: str) -> Guard:
    """The guard that *text* says.  Raises BadOption."""
    found = _FORM.fullmatch(text.strip())
    guard = _guard(*found.groups(default="")) if found else None
    if guard is None:
        raise BadOption(f"{text[:60]!r} is no guard.", hint=_HINT)
    return guard


def _guard(metric: str, comparison: str, sign: str, digits: str, unit: str) -> Guard | None:
    """The guard of these words; None where they do not go together.  A sign says that the bound is beside the others'."""
    number, is_rate = float(digits), metric in _BELOW_ONE
    if metric in _SHARES and unit == "pp" and not number:
        sign = sign or "-"  # `accuracy>=0pp`: nothing may be lost
    if sign + unit not in _BOUNDS[metric] or (comparison == ">=") != (metric in _AT_LEAST):
        return None
    bound = number / 100 if unit in ("pp", "%") else number * 1000 if unit == "s" else number
    may_be_nought = metric == "error_rate" or (is_rate and sign)
    if (is_rate and bound >= 1) or not (bound or may_be_nought):
        return None
    cap = truth.CAP * bound if metric in _ERRORS and not sign else 1.0
    return Guard(metric, -bound if sign == "-" else bound, bool(sign), cap=cap)  # type: ignore[arg-type]


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


_NOTHING = (Truth(), Truth())


def evidence(guard: Guard, candidate: Counted, others: Counted, agreed: Agreed, expected: Expected, *, told: Sides = _NOTHING) -> float:
    """The logarithm of the evidence that the guard is violated, from what one stage of a canary saw.

    *told* is what the labels say of the candidate's answers and of the others'.
    """
    if guard.by_labels:
        return truth.evidence(guard.metric, guard.allowed, *told)
    if guard.metric == "error_rate":
        return _of_errors(guard, candidate, others, expected)
    if guard.metric == "agreement":
        return float(sequential.evidence_below(agreed.alike, agreed.pairs, guard.bound)) if agreed.pairs else 0.0
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


def _of_latency(guard: Guard, candidate: Counted, others: Counted) -> float:
    if guard.relative:
        steps = math.ceil(math.log1p(guard.bound) / math.log(BIN_RATIO))
        return sequential.evidence_of_slower(candidate.histogram(), others.histogram(), quantile=guard.quantile, steps=steps)
    last = math.ceil(math.log(guard.bound / 0.001) / math.log(BIN_RATIO))
    within = sum(count for place, count in candidate.latencies.items() if place <= last)
    return float(sequential.evidence_below(within, candidate.requests, guard.quantile)) if candidate.requests else 0.0


def beyond(guard: Guard, candidate: Counted, others: Counted, agreed: Agreed, *, told: Sequence[Sides] = ()) -> bool:
    """Whether what was seen lies beyond the bound, proven or not: reason enough to wait for more before a step is taken.

    *told* is what the labels say of each stage until now, for they come late.
    """
    if guard.by_labels:
        return truth.beyond(guard.allowed, told)
    if guard.metric == "agreement":
        return agreed.alike < guard.bound * agreed.pairs
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


def words(guard: Guard, candidate: Counted, others: Counted, agreed: Agreed, *, told: Sequence[Sides] = ()) -> str:
    """What was seen, in a person's words: `error_rate 4.1 % of 512, others 1.0 % of 9,802`."""
    if guard.by_labels:
        mine, before = (_labelled(guard, sum(side, start=Truth())) for side in zip(*(told or [_NOTHING]), strict=True))
        return f"{guard.metric} {mine}" + (f", the others {before}" if guard.relative else "")
    if guard.metric == "agreement":
        return f"{agreed.alike:,} of {agreed.pairs:,} answers agree"
    mine, before = (_told(guard, one) for one in (candidate, others))
    return f"{guard.metric} {mine}" + (f", the others {before}" if guard.relative else "")


def _labelled(guard: Guard, found: Truth) -> str:
    if not found.count:
        return "of no labels"
    value = truth.value(guard.metric, found, cap=guard.cap)
    return f"{f'{value:.1%}' if guard.metric in _SHARES else f'{value:.3g}'} of {found.count:,} {unit(guard)}"


def lacking(guard: Guard, outputs: Set[str], *, classes: int | None = None) -> str:
    """Why a model that gives *outputs*, and is known to tell so many *classes* apart, cannot be judged by a guard by labels.

    Nothing where it can, or gives none that is known.
    """
    if not outputs & {"label", "prediction"}:
        return ""
    if ("label" in outputs) != (guard.metric in truth.OF_CLASSES):
        return "it answers with labels" if "label" in outputs else "it answers with numbers"
    if guard.metric in truth.OF_PROBABILITIES and "probabilities" not in outputs:
        return "it gives no probabilities"
    return f"it tells {classes} classes apart, and a canary's {guard.metric} is of two" if guard.metric in truth.OF_TWO_CLASSES and (classes or 2) > 2 else ""


def unit(guard: Guard) -> str:
    """What one by labels counts."""
    return "pairs of labels" if guard.metric == "auc" else "labels"


def _told(guard: Guard, counted: Counted) -> str:
    if guard.metric == "error_rate":
        return f"{counted.errors / counted.requests:.2%} of {counted.requests:,}" if counted.requests else "of no requests"
    return f"{quantile_ms(counted, guard.quantile):.3g} ms over {counted.requests:,}" if counted.requests else "of no requests"
