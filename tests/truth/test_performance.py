"""How good answers were is told per deployment, over time and by segment, and estimated where labels lack."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from mlops_nb import cards, labels, performance
from mlops_nb.errors import DeploymentNotFound, EndpointNotFound, NothingToCompare, UnknownColumn
from mlops_nb.performance import Group, Performance

from .conftest import Answered

Calls = Callable[..., pd.DataFrame]
NOW = datetime.now(UTC)


def label(given: pd.DataFrame) -> None:
    labels.record("delays", given[["request_id", "late"]])


def only(found: Performance) -> Group:
    assert len(found.groups) == 1
    return found.groups[0]


def value(group: Group, metric: str) -> float:
    figure = group.figure(metric)
    assert figure is not None and figure.value is not None
    return figure.value


def test_measures_are_those_of_the_rows_that_have_a_label(answered: Answered, calls: Calls) -> None:
    given = calls(1000)
    label(given.head(400))

    group = only(performance.of("delays"))

    said = performance.labels.answers("delays")[0].where(np.arange(1000) >= 0)
    known = said.where(said.labelled)
    assert (group.answered, group.labelled, group.model) == (1000, 400, "late:1")
    assert value(group, "auc") == pytest.approx(metrics.roc_auc_score(known.truth.astype(int), known.probabilities[:, 1]))
    assert value(group, "accuracy") == pytest.approx(np.mean(known.truth == known.label))
    assert sum(one.count for one in group.calibration) == 400


def test_each_deployment_has_figures_of_its_own(calls: Calls) -> None:
    label(calls(300))
    label(calls(300, deployment="2", seed=1, ids="s"))

    found = performance.of("delays")

    assert [(group.deployment, group.labelled) for group in found.groups] == [("1", 300), ("2", 300)]
    assert [group.deployment for group in performance.of("delays", deployment="2").groups] == ["2"]


@pytest.mark.parametrize(("by", "first"), [("day", "2026-03-02"), ("week", "2026-03-02"), ("month", "2026-03-01")])
def test_time_goes_by_days_weeks_or_months(calls: Calls, by: str, first: str) -> None:
    for number, day in enumerate(("2026-03-02", "2026-03-09", "2026-04-06")):  # Mondays
        label(calls(50, at=datetime.fromisoformat(day).replace(hour=13, tzinfo=UTC), seed=number, ids=f"d{number}-"))

    found = performance.of("delays", by=by)

    assert f"{found.groups[0].period:%Y-%m-%d}" == first
    assert sum(group.labelled for group in found.groups) == 150
    assert len(found.groups) == (2 if by == "month" else 3)


def test_a_moment_is_the_same_in_every_time_zone(calls: Calls) -> None:
    label(calls(600, at=NOW - timedelta(hours=3)))
    label(calls(300, at=NOW, seed=1, ids="s"))
    since = NOW - timedelta(hours=1)

    assert performance.of("delays", since=since.astimezone(timezone(timedelta(hours=14)))).groups == performance.of("delays", since=since).groups


def test_segments_are_told_apart(calls: Calls) -> None:
    given = calls(600)
    label(given)

    found = performance.of("delays", segment="carrier")

    assert {group.segment: group.labelled for group in found.groups} == {f"carrier={name}": n for name, n in given["carrier"].value_counts().items()}


def test_a_column_that_is_called_as_a_time_is_one_is_a_segment(answered: Answered) -> None:
    answered.by("1", pd.DataFrame({"month": [1, 2] * 20, "day": [20130101.0, 20130102.0] * 20}), {"label": ["a", "b"] * 20})
    labels.record("delays", pd.DataFrame({"request_id": [f"r{n}" for n in range(40)], "truth": ["a"] * 40}))

    def told(**asked: str) -> set[tuple[str, bool]]:
        return {(group.segment, group.period is None) for group in performance.of("delays", **asked).groups}

    assert told(segment="month") == {("month=1", True), ("month=2", True)}
    assert told(segment="day") == {("day=20130101", True), ("day=20130102", True)}
    assert told(by="month") == {("", False)}
    assert told(by="month", segment="month") == {("month=1", False), ("month=2", False)}


def test_numbers_with_many_values_are_cut_at_their_quartiles(calls: Calls) -> None:
    label(calls(1000))

    found = performance.of("delays", by="distance")

    assert len(found.groups) == 4
    assert all(200 < group.answered < 300 for group in found.groups)


def test_only_what_came_since_counts(calls: Calls) -> None:
    label(calls(50, at=NOW - timedelta(days=3), ids="old"))
    label(calls(70, at=NOW - timedelta(hours=1), ids="new"))

    assert only(performance.of("delays", since=NOW - timedelta(days=1))).labelled == 70


def test_numbers_have_measures_of_numbers(answered: Answered) -> None:
    random = np.random.default_rng(0)
    truth = random.normal(10, 5, 200)
    answered.by("1", pd.DataFrame({"x": truth}), {"prediction": truth + random.normal(0.5, 1, 200)})
    labels.record("delays", pd.DataFrame({"request_id": [f"r{n}" for n in range(200)], "truth": truth}))

    found = performance.of("delays")

    assert {figure.metric for figure in only(found).figures} == {"rmse", "mae", "r2", "bias"}
    assert value(only(found), "bias") == pytest.approx(0.5, abs=0.2)
    assert any("Of numbers nothing is estimated" in note for note in found.notes)


def test_words_as_classes_find_their_probabilities(answered: Answered) -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet([1, 1, 1], 500)
    names = np.array(["ant", "bee", "cow"])
    answered.by("1", pd.DataFrame({"x": range(500)}), {"label": names[p.argmax(1)], "probabilities": p})
    truth = np.array([random.choice(names, p=row) for row in p])
    labels.record("delays", pd.DataFrame({"request_id": [f"r{n}" for n in range(500)], "truth": truth}))

    assert value(only(performance.of("delays")), "log_loss") == pytest.approx(metrics.log_loss(truth, p, labels=names))


@pytest.mark.parametrize("order", [["10", "9"], ["9", "10"]], ids=["as text", "as numbers"])
def test_numbers_as_classes_find_their_probabilities_whether_they_were_text_or_not(answered: Answered, order: list[str]) -> None:
    p = np.random.default_rng(0).dirichlet([1, 1], 300)
    said = np.array(order)[p.argmax(1)]
    answered.by("1", pd.DataFrame({"x": range(300)}), {"label": said, "probabilities": p})
    labels.record("delays", pd.DataFrame({"request_id": [f"r{n}" for n in range(300)], "truth": said}))

    assert value(only(performance.of("delays")), "auc") == 1


def test_answers_without_probabilities_take_them_from_no_others(answered: Answered) -> None:
    p = np.random.default_rng(0).dirichlet([1, 1], 100)
    said = np.array(["a", "b"])[p.argmax(1)]
    answered.by("1", pd.DataFrame({"x": range(3)}), {"label": ["a", "b", "a"]}, ids="few", batch=3)
    answered.by("1", pd.DataFrame({"x": range(100)}), {"label": said, "probabilities": p})
    labels.record("delays", pd.DataFrame({"request_id": [f"r{n}" for n in range(100)] + ["few0"], "truth": [*said, "a"]}))

    found = only(performance.of("delays"))

    assert found.labelled == 101 and value(found, "auc") == 1
    assert next(figure for figure in found.figures if figure.metric == "auc").count == 100


def test_an_answer_of_null_is_a_wrong_class_and_no_number(answered: Answered) -> None:
    ids = [f"r{n}" for n in range(40)]
    answered.by("words", pd.DataFrame({"x": range(40)}), {"label": np.array(["yes", "no"] * 19 + [None, None], dtype=object)})
    labels.record("delays", pd.DataFrame({"request_id": ids, "truth": ["yes", "no"] * 20}))
    answered.by("numbers", pd.DataFrame({"x": range(40)}), {"prediction": [1.0] * 39 + [None]}, ids="n")
    labels.record("delays", pd.DataFrame({"request_id": [f"n{n}" for n in range(40)], "truth": [2.0] * 40}))

    words, numbers = (only(performance.of("delays", deployment=name)) for name in ("words", "numbers"))

    assert value(words, "accuracy") == 38 / 40 and value(words, "recall") == 19 / 20
    assert value(numbers, "mae") == 1 and {figure.count for figure in numbers.figures} == {39}


def test_a_class_that_was_never_seen_takes_the_column_that_is_left(answered: Answered) -> None:
    answered.by("1", pd.DataFrame({"x": range(4)}), {"label": [1, 1, 1, 1], "probabilities": [[0.2, 0.8]] * 4})
    labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1"], "truth": [1, 1]}))

    assert value(only(performance.of("delays")), "log_loss") == pytest.approx(-np.log(0.8))


def test_what_has_no_label_yet_is_estimated_by_what_has_one(calls: Calls) -> None:
    given = calls(3000)
    label(given.head(1500))

    group = only(performance.of("delays"))

    estimate = group.expected("accuracy")
    assert estimate is not None and estimate.count == 1500
    assert "the rows without a label" in group.estimated
    label(given)
    known = performance.labels.answers("delays")[0]
    late = np.isin(known.id, list(given["request_id"][1500:]))
    assert estimate.low <= np.mean(known.truth[late] == known.label[late]) <= estimate.high  # type: ignore[operator]


def test_a_stretch_of_time_is_estimated_by_what_came_before_and_compared_with_the_truth(calls: Calls) -> None:
    label(calls(1500, at=NOW - timedelta(days=40), ids="before"))
    label(calls(1500, at=NOW - timedelta(hours=1), seed=1, ids="after"))

    _, after = performance.of("delays", by="day").groups

    estimate = after.expected("auc")
    assert estimate is not None and "all rows, by the labelled ones before (1,500)" in after.estimated
    assert estimate.low - 0.01 <= value(after, "auc") <= estimate.high + 0.01  # type: ignore[operator]


def test_an_estimate_says_what_it_assumes(calls: Calls) -> None:
    label(calls(1000).head(500))

    assert performance.ASSUMED in performance.of("delays").notes


def test_too_few_labels_are_no_reference_and_that_is_told(calls: Calls) -> None:
    label(calls(1000).head(50))

    assert "50 labelled rows are too few" in only(performance.of("delays")).estimated


def test_without_labels_there_are_counts_and_the_line_that_brings_some(calls: Calls) -> None:
    calls(10)

    found = performance.of("delays")

    assert (only(found).figures, found.labelled) == ([], 0)
    assert "Try: %mlops labels delays --data df" in cards.as_text(found)


def test_the_card_shows_each_measure_with_its_interval(calls: Calls) -> None:
    label(calls(500))

    text = cards.as_text(performance.of("delays"))

    assert "accuracy" in text and "95 % confidence intervals" in text
    assert "carrier=AA" in cards.as_html(performance.of("delays", segment="carrier"))


def test_what_does_not_exist_is_refused(calls: Calls) -> None:
    with pytest.raises(EndpointNotFound):
        performance.of("dealys")
    calls(5)
    with pytest.raises(UnknownColumn, match="carier"):
        performance.of("delays", segment="carier")
    with pytest.raises(DeploymentNotFound):
        performance.of("delays", deployment="9")
    with pytest.raises(NothingToCompare):
        performance.of("delays", since=NOW + timedelta(days=1))


def test_measures_by_labels_of_another_kind_are_said_to_mean_nothing(calls: Calls) -> None:
    given = calls(40)[["request_id", "late"]]
    labels.record("delays", given.assign(late=given["late"].map({0: "benign", 1: "malignant"})))

    found = performance.of("delays")

    assert found.unlike == {"1": "labels are benign, malignant, answers are 0, 1"}
    card = cards.as_text(found)
    assert "labels and answers share no value" in card and "No label of 1 is a value that it answers (labels are benign, malignant, answers are 0, 1)" in card


def test_labels_of_the_same_kind_are_not_called_unlike(calls: Calls) -> None:
    label(calls(40))

    assert performance.of("delays").unlike == {}
