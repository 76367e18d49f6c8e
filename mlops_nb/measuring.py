"""Measures of what a deployment answered, where labels have come."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from . import measures
from .errors import BadOption, closest, listed
from .measures import Array, Figure
from .telemetry.labels import Answers

METRICS = ("accuracy", "precision", "recall", "f1", "auc", "log_loss", "brier", "ece", "rmse", "mae", "r2", "bias")


def checked(metric: str) -> str:
    """*metric*, when it is one.  Raises BadOption."""
    if metric not in METRICS:
        raise BadOption(f"{metric[:60]!r} is no measure. Measures: {', '.join(METRICS)}.", hint=f"--metric {closest(metric, METRICS) or 'auc'}")
    return metric


def of_answers(answers: Answers) -> list[Figure]:
    """The measures of those answers whose truth is known."""
    known = answers.where(answers.labelled)
    if known.label is None:
        truth, numeric = numbers(known.truth)
        said = known.prediction[numeric]
        answered = ~np.isnan(said)  # an answer of null is left out, and the count says so
        return measures.of_numbers(truth[answered], said[answered])
    probabilities, told = told_of(known)
    if probabilities is None:
        return measures.of_classes(known.truth, known.label)
    classes = classes_of(answers)
    figures = measures.of_classes(known.truth, known.label, classes=classes)
    return [*figures, *measures.of_classes(known.truth[told], known.label[told], probabilities, classes=classes)[len(figures) :]]


def classes_of(answers: Answers) -> list[str]:
    """Which label each column of the probabilities is of: in order, as scikit-learn has them, unless the answers tell otherwise.

    Labels that are numbers stand by size, as they do where they were trained on as numbers; as text they stand by letter ('10' before '9'), which
    is told by the likeliest column being the label that was given, nine times of ten.
    A label that neither was given nor came true is not known; such a column is called `?`.
    """
    probabilities, told = told_of(answers)
    count = probabilities.shape[1] if probabilities is not None else 0
    known = in_order({*answers.label.tolist(), *answers.truth.tolist()} - {None})
    if probabilities is None:
        return known
    best = probabilities.argmax(axis=1)
    if len(known) == count:
        as_text = np.array(sorted(known))[best] == answers.label[told].astype(str)
        return sorted(known) if as_text.mean() >= 0.9 else known
    found: dict[int, str] = {}
    for column in range(count):
        given, times = np.unique(answers.label[told][best == column].astype(str), return_counts=True)
        if len(given):
            found[column] = str(given[times.argmax()])
    left = [name for name in known if name not in found.values()]
    return [found.get(column) or (left.pop(0) if left else f"?{column}") for column in range(count)]


def told_of(answers: Answers) -> tuple[Array | None, Array]:
    """The rows of probabilities that are there, and which those are."""
    if answers.probabilities is None:
        return None, np.zeros(len(answers), bool)
    told = ~np.isnan(answers.probabilities).any(axis=1)
    return (answers.probabilities[told] if told.any() else None), told


def unlike(answers: Answers, given: Collection[str]) -> str:
    """In words, why no label in *given* can ever be what these answers say; empty where one may be.

    Labels that were not answered yet are no reason while answers and labels together are no more than the classes (two, where no probabilities
    count them), unless the ones are numbers and the others words.
    """
    if not len(answers) or not given:
        return ""
    if answers.label is None:
        return "" if any(map(_is_number, given)) else f"labels are {_some(given)}, answers are numbers"
    said = {*answers.label.tolist()} - {None}
    classes = answers.probabilities.shape[1] if answers.probabilities is not None else 2
    of_one_kind = any(map(_is_number, said)) == any(map(_is_number, given))
    if not said or said & {*given} or (of_one_kind and len(said | {*given}) <= classes):
        return ""
    return f"labels are {_some(given)}, answers are {_some(said)}"


def numbers(truth: Array) -> tuple[Array, Array]:
    """Labels as numbers, and which of them are some."""
    values = np.full(len(truth), np.nan)
    for place, word in enumerate(truth):
        try:
            values[place] = float(word)
        except ValueError:
            continue  # no number: it is left out, and the count says so
    return values[~np.isnan(values)], ~np.isnan(values)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _some(words: Collection[str]) -> str:
    return listed([word[:40] for word in in_order({*words})], most=6)


def in_order(words: set[str]) -> list[str]:
    """Numbers by size, words by letter."""

    def key(word: str) -> tuple[int, float, str]:
        try:
            return (0, float(word), word)
        except ValueError:
            return (1, 0.0, word)

    return sorted(words, key=key)
