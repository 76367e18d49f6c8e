"""The emulation's answers beside those of the model in floats."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

Arrays = dict[str, np.ndarray]
NEAR = 0.01
"""Answers that are numbers agree when they differ by less than this share of the spread of the model's own."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How an emulation answers the rows of the data set."""

    rows: int
    max_error: float
    """The largest difference of a number: of a probability where there are any, else of a prediction or output."""
    mean_error: float
    agreement: float
    """Share of rows with the same label; of the same largest output, or numbers that are near, where there are no labels."""
    accuracy: float | None = None
    """Share of right labels, where the data set has the column that the model predicts."""
    float_accuracy: float | None = None
    auc: float | None = None
    """Area under the ROC curve, of two classes."""
    float_auc: float | None = None
    r2: float | None = None
    float_r2: float | None = None


def compared(answers: Arrays, wanted: Arrays, truth: np.ndarray | None) -> Agreement:
    """How *answers* agree with those *wanted*, and both with what was true."""
    numbers = next((name for name in wanted if wanted[name].dtype.kind == "f"), None)
    errors = np.abs(_flat(answers[numbers]) - _flat(wanted[numbers])).max(axis=1) if numbers else np.zeros(1)
    label = next((name for name in wanted if "label" in name), None)
    right = _right(answers, wanted, truth, label=label, numbers=numbers) if truth is not None else {}
    same = answers[label] == wanted[label] if label else _same(_flat(answers[numbers]), _flat(wanted[numbers])) if numbers else np.ones(1)
    rows = len(next(iter(wanted.values())))
    return Agreement(rows=rows, max_error=float(errors.max(initial=0)), mean_error=float(errors.mean()), agreement=float(np.mean(same)), **right)


def _flat(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


def _same(answers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if wanted.shape[1] > 1:
        return answers.argmax(axis=1) == wanted.argmax(axis=1)
    return (np.abs(answers - wanted) <= NEAR * max(float(np.ptp(wanted)), 1e-12)).all(axis=1)


def _right(answers: Arrays, wanted: Arrays, truth: np.ndarray, *, label: str | None, numbers: str | None) -> dict[str, Any]:
    if label:
        right = {"accuracy": _accuracy(answers[label], truth), "float_accuracy": _accuracy(wanted[label], truth)}
        return right | (_areas(answers[numbers], wanted[numbers], truth) if numbers else {})
    if numbers and truth.dtype.kind in "iufb" and _flat(wanted[numbers]).shape[1] == 1:
        return {"r2": _r2(_flat(answers[numbers])[:, 0], truth), "float_r2": _r2(_flat(wanted[numbers])[:, 0], truth)}
    return {}


def _accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    if labels.dtype.kind in "iuf" and truth.dtype.kind in "iufb":
        return float(np.mean(labels == truth))
    return float(np.mean([str(a) == str(b) for a, b in zip(labels.tolist(), truth.tolist(), strict=True)]))


def _areas(answers: np.ndarray, wanted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    classes = sorted(set(truth.tolist()))
    if _flat(wanted).shape[1] != 2 or len(classes) != 2:
        return {}
    positive = truth == classes[1]
    return {"auc": area(_flat(answers)[:, 1], positive), "float_auc": area(_flat(wanted)[:, 1], positive)}


def area(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve by ranks, equal scores sharing theirs (Mann and Whitney's U)."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    right = int(positive.sum())
    return float((ranks[positive].sum() - right * (right + 1) / 2) / (right * (len(scores) - right)))


def _r2(answers: np.ndarray, truth: np.ndarray) -> float:
    truth = truth.astype(np.float64)
    spread = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((answers - truth) ** 2).sum() / spread) if spread else 0.0
