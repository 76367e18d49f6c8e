"""How good answers were beside the truth: measures with a 95 % confidence interval and the count behind each.

Of shares (accuracy; precision and recall of two classes) the interval is Wilson's ("Probable inference, the law of succession, and statistical
inference", JASA 1927); of two classes' F1 it is Wilson's too, for F1 rises with hits / (hits + wrong ones) alone.  Of means (log loss, Brier score,
mean absolute error, bias) it is normal, by the central limit theorem.  Of everything that is a smooth function of means (R², RMSE, macro averages)
and of the area under the ROC curve it is normal too, with the variance of the influence function (the delta method: van der Vaart, "Asymptotic
Statistics", 1998, ch. 3 and 20); for the area this is DeLong, DeLong and Clarke-Pearson (Biometrics 1988), up to the factor n/(n-1), and with few rows
of a kind, of which that knows too little, the fifth method of Newcombe (Statistics in Medicine 2006, part 2).  Where the value is bounded the interval is
clipped; where no row tells of another, there is none.  Of the calibration error it holds the gaps, grown or shrunk together, beside which chance (a
bootstrap of the bins' counts) makes one as seen: chance only adds to it.  Rows count as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Z = 1.959963984540054
"""Of a normal 95 % interval."""
BINS = 10
"""Equally wide bins of a calibration curve."""
_DRAWS = 500
_FEW = 100
"""Rows of a kind below which an area's interval is Newcombe's: where few rows differ, or none does, DeLong's is too narrow."""
_MOST_GROWN = 4.0
_HALVINGS = 20
_LEAST_PROBABILITY = 1e-15


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measure: its value, where it lies with 95 % confidence, and how many rows it rests on.  None: it has none for these rows."""

    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: int

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        return f"{self.value:.3g}" if self.low is None else f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """One bin of a calibration curve: the probability that was said, the share that came true with its 95 % interval, and the rows."""

    said: float
    true: float
    low: float
    high: float
    count: int


def of_classes(truth: Sequence[str] | Array, label: Sequence[str] | Array, probabilities: Array | None = None, *, classes: Sequence[str] = ()) -> list[Figure]:
    """Accuracy, precision, recall and F1, and with *probabilities* (rows × *classes*) AUC, log loss, Brier score and calibration error.

    Of two classes the second counts as positive; of more, precision, recall, F1 and AUC are the plain mean over the classes, one against the rest
    (of AUC those that are there), the Brier score is the sum over classes (Brier, 1950), and calibration is that of the label given (Guo, Pleiss,
    Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017).  A class that the model does not know counts as wrong,
    and so does a label of None, which is no answer.
    """
    truth, label = np.asarray(truth, dtype=object), np.asarray(label, dtype=object)
    known = list(classes) or sorted({*truth.tolist(), *label.tolist()} - {None})
    figures = [share("accuracy", int((truth == label).sum()), len(truth)), *_of_labels(truth, label, known)]
    return figures if probabilities is None else [*figures, *_of_probabilities(truth, label, np.asarray(probabilities, float), known)]


def of_numbers(truth: Any, prediction: Any) -> list[Figure]:
    """RMSE, MAE, R² and bias (the mean of prediction less truth)."""
    truth, prediction = np.asarray(truth, float), np.asarray(prediction, float)
    error, count = prediction - truth, len(truth)
    if not count:
        return [Figure(metric=name, count=0) for name in ("rmse", "mae", "r2", "bias")]
    square = _normal("mse", float(np.mean(error**2)), error**2 - np.mean(error**2), low=0.0)
    rmse = Figure(metric="rmse", value=_root(square.value), low=_root(square.low), high=_root(square.high), count=count)
    return [rmse, mean("mae", np.abs(error), low=0.0), _r2(truth, error), mean("bias", error)]


def share(metric: str, yes: int, count: int) -> Figure:
    """A share with Wilson's interval."""
    if not count:
        return Figure(metric=metric, count=0)
    low, high = wilson(yes, count)
    return Figure(metric=metric, value=float(yes / count), low=float(low), high=float(high), count=int(count))


def wilson(yes: float, count: float, *, z: float = Z) -> tuple[float, float]:
    """Wilson's interval of a share, 95 % unless *z* says otherwise; all of 0 to 1 when nothing was counted."""
    if not count:
        return 0.0, 1.0
    rate, spread = yes / count, z**2 / count
    centre = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * float(np.sqrt(rate * (1 - rate) / count + spread / (4 * count)))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean(metric: str, values: Array, *, low: float | None = None) -> Figure:
    """A mean with its normal interval."""
    return _normal(metric, float(values.mean()), values - values.mean(), low=low) if len(values) else Figure(metric=metric, count=0)


def auc(score: Any, positive: Any) -> float | None:
    """The area under the ROC curve; None unless both kinds are there.  *positive* may be probabilities of being so."""
    found = _auc_with_influence(np.asarray(score, float), np.asarray(positive, float))
    return found[0] if found else None


def positive_side(probabilities: Array, label: Array, classes: Sequence[str]) -> tuple[Array, Array]:
    """What a calibration curve is about: of two classes the second's probability, of more that of the label given; and which class that is, as a column."""
    if len(classes) == 2:
        return probabilities[:, 1], np.ones(len(label), int)
    place = {name: column for column, name in enumerate(classes)}
    given = np.array([place.get(name, 0) for name in label], int)
    return probabilities[np.arange(len(label)), given], given


def calibration(said: Any, true: Any) -> list[Bin]:
    """The calibration curve over ten equally wide bins, those that are empty left out."""
    said, true = np.asarray(said, float), np.asarray(true, float)
    places = np.minimum((said * BINS).astype(int), BINS - 1)
    return [_bin(said[places == place], true[places == place]) for place in range(BINS) if (places == place).any()]


def _bin(said: Array, true: Array) -> Bin:
    low, high = wilson(float(true.sum()), len(true))
    return Bin(said=float(said.mean()), true=float(true.mean()), low=low, high=high, count=len(true))


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_labels(truth: Array, label: Array, classes: Sequence[str]) -> list[Figure]:
    if len(classes) == 2:
        is_it, said = truth == classes[1], label == classes[1]
        hit, given, there = int((is_it & said).sum()), int(said.sum()), int(is_it.sum())
        return [share("precision", hit, given), share("recall", hit, there), _f1(hit, given + there - hit, len(truth))]
    sides = [(truth == name, label == name) for name in classes]
    precision = [(1.0 * (is_it & said), 1.0 * said) for is_it, said in sides]
    recall = [(1.0 * (is_it & said), 1.0 * is_it) for is_it, said in sides]
    both = [(2.0 * (is_it & said), 1.0 * is_it + said) for is_it, said in sides]
    return [_ratios("precision", precision), _ratios("recall", recall), _ratios("f1", both)]


def _f1(hit: int, concerned: int, count: int) -> Figure:
    """F1 of one class, with Wilson's interval of the share of hits among the *concerned* rows, those that are or are said to be of it."""
    if not concerned:
        return Figure(metric="f1", count=count)
    value, low, high = (2 * part / (1 + part) for part in (hit / concerned, *wilson(hit, concerned)))
    return Figure(metric="f1", value=value, low=low, high=high, count=count)


def _ratios(metric: str, parts: Sequence[tuple[Array, Array]]) -> Figure:
    """The mean of ratios of sums, 0 where there is nothing to divide by."""
    count = len(parts[0][0]) if parts else 0
    if not count:
        return Figure(metric=metric, count=0)
    value, influence = 0.0, np.zeros(count)
    for above, below in parts:
        if total := below.sum():
            ratio = above.sum() / total
            value += ratio / len(parts)
            influence += (above - ratio * below) / (total / count) / len(parts)
    return _normal(metric, value, influence, low=0.0, high=1.0)


# ── probabilities ────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_probabilities(truth: Array, label: Array, probabilities: Array, classes: Sequence[str]) -> list[Figure]:
    count = len(truth)
    if not count:
        return [Figure(metric=name, count=0) for name in ("auc", "log_loss", "brier", "ece")]
    is_it = np.stack([truth == name for name in classes], axis=1).astype(float)
    spread = probabilities / np.maximum(probabilities.sum(axis=1, keepdims=True), _LEAST_PROBABILITY)
    loss = -np.log(np.clip((spread * is_it).sum(axis=1), _LEAST_PROBABILITY, 1.0))
    squares = (probabilities[:, 1] - is_it[:, 1]) ** 2 if len(classes) == 2 else ((probabilities - is_it) ** 2).sum(axis=1)
    said, column = positive_side(probabilities, label, classes)
    true = is_it[np.arange(count), column]
    return [_macro_auc(probabilities, is_it), mean("log_loss", loss, low=0.0), mean("brier", squares, low=0.0), _ece(said, true)]


def _macro_auc(probabilities: Array, is_it: Array) -> Figure:
    columns = [1] if is_it.shape[1] == 2 else range(is_it.shape[1])
    found = [area for column in columns if (area := _auc_with_influence(probabilities[:, column], is_it[:, column]))]
    if not found:
        return Figure(metric="auc", count=len(is_it))
    value, influence = float(np.mean([area for area, _ in found])), np.mean([part for _, part in found], axis=0)
    positives = int(is_it[:, 1].sum())
    if len(columns) == 1 and min(positives, len(is_it) - positives) < _FEW:
        low, high = _newcombe(value, positives, len(is_it) - positives)
        return Figure(metric="auc", value=value, low=low, high=high, count=len(is_it))
    return _normal("auc", value, influence, low=0.0, high=1.0)


def _newcombe(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """The areas from which this one is no further than chance takes one, its variance being Hanley and McNeil's (1982) with equal numbers of both kinds."""

    def near(other: float) -> bool:
        ties = (1 - other) / (2 - other) + other / (1 + other)
        variance = other * (1 - other) * (1 + ((positives + negatives) / 2 - 1) * ties) / (positives * negatives)
        return abs(other - area) <= Z * float(np.sqrt(variance))

    return _edge(near, area, 0.0), _edge(near, area, 1.0)


def _edge(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where on the way from *inside* to *outside* it ceases to hold."""
    if holds(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside


def _auc_with_influence(score: Array, positive: Array) -> tuple[float, Array] | None:
    """The area, and what each row adds to its error: its place among those of the other kind (DeLong's structural components).

    Weights between 0 and 1 in *positive* count a row as so much of each kind.
    """
    negative = 1 - positive
    positives, negatives = positive.sum(), negative.sum()
    if not positives or not negatives:
        return None
    below = _weight_below(score, negative) / negatives  # the share of negatives below, ties by half
    above = 1 - _weight_below(score, positive) / positives
    area = float((positive * below).sum() / positives)
    rate = positives / len(score)
    return area, positive * (below - area) / rate + negative * (above - area) / (1 - rate)


def _weight_below(score: Array, weight: Array) -> Array:
    """Of each row, the weight of rows with a lower score and half of those with the same."""
    values, place = np.unique(score, return_inverse=True)
    weights = np.bincount(place, weights=weight, minlength=len(values))
    return (np.cumsum(weights) - weights / 2)[place]


def _ece(said: Array, true: Array) -> Figure:
    """The expected calibration error over ten equally wide bins (Naeini, Cooper and Hauskrecht, AAAI 2015)."""
    places = np.minimum((said * BINS).astype(int), BINS - 1)
    cells = places * 2 + (true > 0.5)
    counts, sums = np.bincount(cells, minlength=2 * BINS), np.bincount(cells, weights=said, minlength=2 * BINS)
    each = np.divide(sums, counts, out=np.zeros(2 * BINS), where=counts > 0)
    count = len(said)
    gaps = _gaps(counts[None, :], each)[0] / count
    chance = _gaps(np.random.default_rng(0).multinomial(count, counts / count, size=_DRAWS), each) / count - gaps
    value = float(np.abs(gaps).sum())
    low, high = (value * _grown(gaps, chance, value, level) for level in (0.975, 0.025))
    return Figure(metric="ece", value=value, low=min(low, value), high=max(high, value), count=count)


def _gaps(counts: Array, each: Array) -> Array:
    """Of each bin what was said less what is true, counts of (bin, not true) and (bin, true) side by side."""
    said = (counts * each).reshape(len(counts), BINS, 2).sum(axis=2)
    return np.asarray(said - counts.reshape(len(counts), BINS, 2)[:, :, 1])


def _grown(gaps: Array, chance: Array, value: float, level: float) -> float:
    """How many times as large true gaps must be for *chance* to give less than *value* in just *level* of all cases."""

    def less(times: float) -> bool:
        return bool(np.quantile(np.abs(times * gaps + chance).sum(axis=1), level) < value)

    return _edge(less, 0.0, _MOST_GROWN) if less(0.0) else 0.0


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _r2(truth: Array, error: Array) -> Figure:
    count, apart = len(truth), (truth - truth.mean()) ** 2
    total = apart.mean()
    if not total:
        return Figure(metric="r2", count=count)
    unexplained = float(np.mean(error**2) / total)
    return _normal("r2", 1 - unexplained, -(error**2 - unexplained * apart) / total, high=1.0)


def _normal(metric: str, value: float, influence: Array, *, low: float | None = None, high: float | None = None) -> Figure:
    if not influence.any():
        return Figure(metric=metric, value=float(value), count=len(influence))
    half = Z * float(np.sqrt(np.mean(influence**2) / len(influence)))
    ends = np.clip([value - half, value + half], low, high) if low is not None or high is not None else [value - half, value + half]
    return Figure(metric=metric, value=float(value), low=float(ends[0]), high=float(ends[1]), count=len(influence))


def _root(square: float | None) -> float | None:
    return None if square is None else float(np.sqrt(square))
