"""Measures are those of scikit-learn, and their intervals hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from mlops_nb import estimates, measures
from mlops_nb.measures import Figure

NAMES = ["0", "1", "2"]


def two_classes(rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.beta(2, 3, rows).round(3)
    return (random.random(rows) < p).astype(int).astype(str).astype(object), (p > 0.5).astype(int).astype(str).astype(object), np.stack([1 - p, p], axis=1)


def three_classes(rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.dirichlet([2, 1, 1], rows)
    truth = np.array([random.choice(3, p=row) for row in p])
    return truth.astype(str).astype(object), p.argmax(axis=1).astype(str).astype(object), p


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.metric: figure for figure in figures}


def test_measures_of_two_classes_are_those_of_scikit_learn() -> None:
    truth, label, p = two_classes(3000)
    found = {name: figure.value for name, figure in by_name(measures.of_classes(truth, label, p, classes=NAMES[:2])).items()}
    y, said = truth.astype(int), label.astype(int)

    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, said))
    assert found["precision"] == pytest.approx(metrics.precision_score(y, said))
    assert found["recall"] == pytest.approx(metrics.recall_score(y, said))
    assert found["f1"] == pytest.approx(metrics.f1_score(y, said))
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(y, p[:, 1]))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(y, p))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(y, p[:, 1]))


def test_measures_of_many_classes_are_those_of_scikit_learn() -> None:
    truth, label, p = three_classes(3000)
    found = {name: figure.value for name, figure in by_name(measures.of_classes(truth, label, p, classes=NAMES)).items()}

    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, label))
    for name, score in (("precision", metrics.precision_score), ("recall", metrics.recall_score), ("f1", metrics.f1_score)):
        assert found[name] == pytest.approx(score(truth.astype(str), label.astype(str), average="macro"))
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth.astype(int), p, multi_class="ovr"))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth.astype(int), p))


def test_measures_of_numbers_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(10, 4, 2000)
    said = truth + random.normal(0.5, 2, 2000)
    found = {name: figure.value for name, figure in by_name(measures.of_numbers(truth, said)).items()}

    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, said))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, said))
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, said))
    assert found["bias"] == pytest.approx(np.mean(said - truth))


def test_the_calibration_curve_is_that_of_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve

    truth, _, p = two_classes(5000)
    true, said = calibration_curve(truth.astype(int), p[:, 1], n_bins=10)
    bins = measures.calibration(p[:, 1], truth == "1")

    assert [one.said for one in bins] == pytest.approx(list(said), abs=0.01)
    assert [one.true for one in bins] == pytest.approx(list(true), abs=0.05)  # a score on an edge goes into the bin above here


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    whole = by_name(measures.of_classes(*two_classes(400_000, seed=99), classes=NAMES[:2]))
    drawn = [by_name(measures.of_classes(*two_classes(300, seed=seed), classes=NAMES[:2])) for seed in range(300)]

    assert {name: share for name in whole if (share := held(name, whole, drawn)) < 0.91} == {}


@pytest.mark.parametrize("rows", [8, 30])
def test_intervals_of_a_sharp_model_hold_the_truth_also_with_few_rows(rows: int) -> None:
    def sharp(rows: int, seed: int) -> dict[str, Figure]:
        random = np.random.default_rng(seed)
        score = 1 / (1 + np.exp(-random.normal(np.where(truth := np.arange(rows) % 4 == 0, 1.3, -1.3), 1)))
        return by_name(measures.of_classes(words(truth), words(score > 0.5), np.stack([1 - score, score], axis=1), classes=NAMES[:2]))

    def words(yes: np.ndarray) -> np.ndarray:
        return yes.astype(int).astype(str).astype(object)

    whole, drawn = sharp(400_000, 99), [sharp(rows, seed) for seed in range(300)]

    assert {name: share for name in ("accuracy", "f1", "auc") if (share := held(name, whole, drawn)) < 0.91} == {}


def test_of_rows_that_do_not_differ_nothing_is_told_but_the_value() -> None:
    one = by_name(measures.of_classes(["1"], ["0"], np.array([[0.6, 0.4]]), classes=NAMES[:2]))

    assert (one["log_loss"].low, one["brier"].low, by_name(measures.of_numbers([3.0], [5.0]))["rmse"].low) == (None, None, None)
    assert one["f1"].high > 0.5  # type: ignore[operator]


def test_intervals_of_numbers_hold_the_truth_as_often_as_they_say() -> None:
    whole, drawn = numbers(400_000, 99), [numbers(300, seed) for seed in range(300)]

    assert {name: share for name in whole if (share := held(name, whole, drawn)) < 0.91} == {}


def held(name: str, whole: dict[str, Figure], drawn: list[dict[str, Figure]]) -> float:
    return float(np.mean([one[name].low <= whole[name].value <= one[name].high for one in drawn]))  # type: ignore[operator]


def numbers(rows: int, seed: int) -> dict[str, Figure]:
    random = np.random.default_rng(seed)
    truth = random.normal(10, 4, rows)
    return by_name(measures.of_numbers(truth, truth + random.normal(0.5, 2, rows)))


def test_probabilities_that_mean_what_they_say_have_a_small_calibration_error() -> None:
    truth, label, p = two_classes(20_000)

    assert by_name(measures.of_classes(truth, label, p, classes=NAMES[:2]))["ece"].value < 0.02  # type: ignore[operator]
    boasting = np.clip(np.stack([1 - 1.5 * p[:, 1], 1.5 * p[:, 1]], axis=1), 0, 1)
    assert by_name(measures.of_classes(truth, label, boasting, classes=NAMES[:2]))["ece"].low > 0.1  # type: ignore[operator]


def test_what_cannot_be_told_has_no_value() -> None:
    only_one = by_name(measures.of_classes(["1", "1"], ["1", "1"], np.array([[0.2, 0.8], [0.3, 0.7]]), classes=NAMES[:2]))

    assert only_one["auc"].value is None
    assert only_one["accuracy"].value == 1.0
    assert all(figure.value is None for figure in measures.of_classes([], []))
    assert by_name(measures.of_numbers([3.0, 3.0], [3.0, 2.0]))["r2"].value is None


def test_estimates_without_labels_are_near_the_truth_while_probabilities_mean_the_same() -> None:
    truth, _, p = two_classes(5000, seed=1)
    calibration = estimates.calibrated(p[:, 1], truth == "1")
    missed = []
    for seed in range(20):
        random = np.random.default_rng(1000 + seed)
        score = random.beta(4, 2, 1000)  # other inputs, the same relation
        true, said = random.random(1000) < score, score > 0.5
        real = by_name(measures.of_classes(true.astype(int).astype(str), said.astype(int).astype(str), np.stack([1 - score, score], 1), classes=NAMES[:2]))
        guessed = by_name(estimates.of_two_classes(score, said, calibration))
        missed += [name for name in ("accuracy", "f1", "auc", "precision", "recall") if not guessed[name].low <= real[name].value <= guessed[name].high]  # type: ignore[operator]

    assert len(missed) / (20 * 5) < 0.15


def test_estimates_do_not_see_that_the_relation_of_inputs_to_truth_changed() -> None:
    truth, _, p = two_classes(5000, seed=1)
    calibration = estimates.calibrated(p[:, 1], truth == "1")
    random = np.random.default_rng(5)
    score = random.beta(2, 3, 3000)
    turned, said = random.random(3000) < 1 - score, score > 0.5

    accuracy = by_name(estimates.of_two_classes(score, said, calibration))["accuracy"]

    assert accuracy.low > np.mean(turned == said) + 0.2  # type: ignore[operator]


def test_a_calibration_corrects_probabilities_that_boast() -> None:
    random = np.random.default_rng(0)
    real = random.beta(2, 3, 20_000)
    boasted = np.clip(0.5 + 1.8 * (real - 0.5), 0.001, 0.999)
    calibration = estimates.calibrated(boasted, random.random(20_000) < real)

    assert np.abs(calibration(boasted) - real).mean() < 0.03
