"""What labels say of a canary's answers keeps its promise whenever it is looked at, however late labels come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
import pytest

from bench import labelled
from mlops_nb import bets, datasets, errors, guards, labels, registry, sequential, store, traffic, truth
from mlops_nb.store import deployments
from mlops_nb.telemetry import labels as kept
from mlops_nb.telemetry.labels import Answers

from .conftest import Answered

LEVEL = sequential.threshold(0.05)


def scored(score: np.ndarray, positive: np.ndarray) -> Answers:
    """Answers of two classes, with their truth."""
    places = np.arange(len(score))
    return Answers(
        deployment="1", time=places.astype("datetime64[us]"), id=places.astype(object), row=places, truth=positive.astype(int).astype(str).astype(object),
        label=(score > 0.5).astype(int).astype(str).astype(object), probabilities=np.stack([1 - score, score], axis=1),
    )  # fmt: skip


def predicted(prediction: np.ndarray, true: np.ndarray) -> Answers:
    places = np.arange(len(prediction))
    return Answers(
        deployment="1", time=places.astype("datetime64[us]"), id=places.astype(object), row=places, truth=true.astype(str).astype(object), prediction=prediction
    )


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.9])
def test_a_mean_looked_at_after_every_value_is_hardly_ever_lost(mean: float) -> None:
    rng = np.random.default_rng(5)
    lost = 0
    for _ in range(200):
        gains, staked, cost = bets.running(rng.beta(5 * mean, 5 * (1 - mean), 1500))
        lost += bets.evidence_against(bets.Bets(gains=gains, staked=staked, cost=cost), mean).max() >= LEVEL
    assert lost / 200 <= 0.05


def test_the_bets_on_some_values_stay_as_they_are_when_more_come() -> None:
    values = np.random.default_rng(1).random(300) ** 2
    for sums, longer in zip(bets.running(values[:100]), bets.running(values), strict=True):
        assert np.allclose(sums, longer[:100])
    assert bets.on([]) == bets.Bets()


def test_each_row_is_in_one_pair_and_later_rows_leave_earlier_pairs_as_they_were() -> None:
    rng = np.random.default_rng(2)
    score, positive = rng.random(500), rng.random(500) < 0.3
    early, all_of_it = truth.of("auc", [scored(score[:200], positive[:200])]), truth.of("auc", [scored(score, positive)])

    assert all_of_it.count == positive.sum()
    order = np.concatenate([np.arange(200), 200 + rng.permutation(300)])
    assert early == truth.of("auc", [scored(score[order][:200], positive[order][:200])])
    again = truth._losses("auc", scored(score[order], positive[order]), 1.0)
    assert np.array_equal(again[: early.count], truth._losses("auc", scored(score, positive), 1.0)[: early.count])


def test_the_area_of_pairs_is_the_area_and_the_rest_is_as_it_is_measured_elsewhere() -> None:
    from sklearn.metrics import brier_score_loss, precision_score, recall_score, roc_auc_score

    rng = np.random.default_rng(3)
    positive = rng.random(20_000) < 0.4
    score = np.clip(rng.normal(0.4 + 0.2 * positive, 0.2), 0, 1)
    answers = [scored(score, positive)]

    def value(metric: str) -> float:
        return truth.value(metric, truth.of(metric, answers))

    assert value("auc") == pytest.approx(roc_auc_score(positive, score), abs=0.02)
    assert value("brier") == pytest.approx(brier_score_loss(positive, score))
    assert value("precision") == pytest.approx(precision_score(positive, score > 0.5))
    assert value("recall") == pytest.approx(recall_score(positive, score > 0.5))
    assert value("accuracy") == pytest.approx(((score > 0.5) == positive).mean())


def test_an_answer_of_null_says_of_nothing_that_it_is_positive() -> None:
    answers = scored(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, False, True, False]))
    answers.label[0] = None
    answers = msgspec.structs.replace(answers, probabilities=None)

    found = {metric: truth.value(metric, truth.of(metric, [answers])) for metric in ("accuracy", "precision", "recall")}

    assert found == {"accuracy": 0.25, "precision": 0.0, "recall": 0.0}


def test_scores_that_tie_count_as_half() -> None:
    told = truth.of("auc", [scored(np.full(100, 0.3), np.arange(100) % 2 == 0)])
    assert (told.count, told.loss) == (50, 0.5)


def test_errors_of_numbers_count_up_to_the_cap_and_are_told_in_the_labels_unit() -> None:
    rng = np.random.default_rng(4)
    true, wide = rng.normal(0, 100, 4000), guards.parse("rmse<=10")
    near, far = predicted(true + rng.normal(0, 9, 4000), true), predicted(true + rng.normal(0, 14, 4000), true)

    kept_it, broke_it = (truth.of("rmse", [one], cap=wide.cap) for one in (near, far))

    assert truth.value("rmse", kept_it, cap=wide.cap) == pytest.approx(9, rel=0.05)
    assert truth.evidence("rmse", wide.allowed, kept_it, truth.Truth()) <= 0 and not truth.beyond(wide.allowed, [(kept_it, truth.Truth())])
    assert truth.evidence("rmse", wide.allowed, broke_it, truth.Truth()) >= LEVEL and truth.beyond(wide.allowed, [(broke_it, truth.Truth())])
    beside = truth.Allowed(factor=1.1**2)
    assert truth.evidence("rmse", beside, broke_it, kept_it) >= LEVEL > truth.evidence("rmse", beside, kept_it, kept_it)
    assert truth.of("rmse", [predicted(np.array([1e9, 1.0]), np.array([0.0, 1.0]))], cap=40.0).loss == 0.5


def test_as_many_labels_are_asked_for_as_find_what_is_beyond_a_guard() -> None:
    auc = guards.parse("auc>=-0.02")
    some = truth.Truth(rows=2000, count=1000, lost=280, squares=280)

    def asked(guard: guards.Guard, share: float) -> int:
        return truth.needed(guard.allowed, guards.parse(guards.SHORT["auc"]).allowed, truth.Truth(), some, share=share, alpha=0.05, power=0.8)

    assert 1000 < asked(auc, 0.5) < 6000
    assert asked(guards.parse("auc>=-0.05"), 0.5) < asked(auc, 0.5)
    assert asked(auc, 0.05) < asked(auc, 0.5)
    assert 100 <= asked(guards.parse("auc>=0.7"), 0.5) < 4000


@pytest.mark.parametrize("auc", [0.72, 0.70])
def test_canaries_looked_at_as_late_labels_come_are_seldom_rolled_back_though_as_bad_as_allowed(auc: float) -> None:
    rng = np.random.default_rng(2026)
    found = labelled.rolled_back(rng, guards.parse("auc>=-0.02"), labelled.areas, 0.72, auc, 60)
    assert np.isfinite(found).mean() <= 0.05


def test_canaries_whose_area_fell_are_found_by_labels_that_come_late() -> None:
    rng = np.random.default_rng(2026)
    found = labelled.rolled_back(rng, guards.parse("auc>=-0.02"), labelled.areas, 0.72, 0.64, 30)
    assert np.isfinite(found).mean() >= 0.8


def _tens(table: pd.DataFrame) -> list[pd.DataFrame]:
    return [table.iloc[place : place + 10] for place in range(0, len(table), 10)]


def test_labels_are_told_in_the_order_in_which_they_came_also_when_many_files_became_one(calls) -> None:
    began = datetime.now(UTC) - timedelta(hours=1)
    told = calls(300, at=began + timedelta(minutes=1)).sample(frac=1, random_state=0)[["request_id", "late"]]
    assert kept.judged("delays", since=began, by=datetime.now(UTC)) == [] and kept.newest("delays", by=datetime.now(UTC)) == 0
    seen = []
    for part in _tens(told):
        labels.record("delays", part)
        seen.append(datetime.now(UTC))

    whole = kept.judged("delays", since=began, by=seen[-1])[0].id.tolist()

    assert set(whole) == set(told["request_id"])
    for number, moment in enumerate(seen):
        assert kept.judged("delays", since=began, by=moment)[0].id.tolist() == whole[: 10 * (number + 1)]
        assert kept.newest("delays", by=moment) > (0 if not number else kept.newest("delays", by=seen[number - 1]))
    assert [set(whole[place : place + 10]) for place in range(0, 300, 10)] == [set(part["request_id"]) for part in _tens(told)]


def test_an_error_beside_the_others_is_capped_by_how_wrong_they_were_before_and_refused_where_that_is_not_known(answered: Answered) -> None:
    rng = np.random.default_rng(6)
    inputs, true = pd.DataFrame({"distance": rng.gamma(3, 350, 200)}), rng.normal(50, 20, 200)
    answered.by("1", inputs, {"prediction": true + rng.normal(0, 5, 200)})
    with store.reading() as tx:
        candidate = deployments.get(tx, "delays", "1")
    with pytest.raises(errors.BadOption, match="fewer than 30 labels tell that"):
        traffic._fitted(guards.parse("rmse<=+10%"), candidate, {"1": 100})
    with pytest.raises(errors.BadOption, match="it answers with numbers"):
        traffic._fitted(guards.parse("auc>=-0.02"), candidate, {"1": 100})

    labels.record("delays", {"request_id": [f"r{number}" for number in range(200)], "minutes": true})

    fitted = traffic._fitted(guards.parse("rmse<=+10%"), candidate, {"1": 100})
    assert fitted.cap == pytest.approx(4 * 5, rel=0.15) and str(fitted) == "rmse<=+10%"
    assert traffic._fitted(guards.parse("rmse<=12"), candidate, {"1": 100}).cap == 48


@pytest.mark.parametrize("promise", ["auc>=-0.02", "brier<=+0.01", "precision>=-2pp", "recall>=-2pp"])
def test_what_is_of_two_classes_is_refused_at_once_of_a_model_that_tells_more_apart(answered: Answered, promise: str) -> None:
    rng = np.random.default_rng(7)
    inputs = pd.DataFrame({"distance": rng.gamma(3, 350, 20)})
    answered.by("1", inputs, {"label": np.arange(20) % 3, "probabilities": rng.dirichlet([1, 1, 1], 20)})
    with store.reading() as tx:
        candidate = deployments.get(tx, "delays", "1")

    with pytest.raises(errors.BadOption, match=r"tells 3 classes apart, and a canary's .* is of two") as told:
        traffic._fitted(guards.parse(promise), candidate, {"1": 100})

    assert told.value.hint == "--metric accuracy"
    assert traffic._fitted(guards.parse("accuracy>=-2pp"), candidate, {"1": 100})


def test_the_classes_of_a_model_without_probabilities_are_those_it_answered_when_it_was_registered(workspace) -> None:
    from sklearn.svm import LinearSVC

    rng = np.random.default_rng(8)
    rows = pd.DataFrame(rng.normal(size=(90, 2)), columns=["warm", "wet"])
    for classes in (2, 3):
        model = LinearSVC().fit(rows, np.argsort(np.argsort(rows.warm)) * classes // 90)
        datasets.register(f"of_{classes}", rows)
        version = registry.register(model, name="weather", data=f"of_{classes}").version
        assert traffic._classes_of(version) == classes
