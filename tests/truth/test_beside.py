"""A shadow beside what callers were answered, and a canary judged by labels."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest
from living import X, Y, churn_model, wait_for
from sklearn.linear_model import LogisticRegression

from mlops_nb import agreement, canary, canary_figures, cards, errors, guards, labels, measures, registry, rollout, telemetry, traffic
from mlops_nb.guards import Expected
from mlops_nb.settings import Workspace
from mlops_nb.telemetry import Agreed, Counted, files
from mlops_nb.truth import Truth

from .conftest import Answered

pytestmark = pytest.mark.xdist_group("truth-beside")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """`churn/1` answers callers, `churn/2` says the opposite and may be sent copies."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("beside") / "workspace"
        patch.setenv("MLOPS_HOME", str(root))
        churn_model()
        registry.register(LogisticRegression().fit(X, 1 - Y), name="churn", data="customers")
        rollout.deploy("churn:1")
        rollout.deploy("churn:2", traffic=0)
        yield Workspace(root)
        rollout.down()


def asked(count: int) -> None:
    for number in range(count):
        rollout.invoke("churn", X.iloc[[number % 100]])


def test_a_shadow_is_compared_with_what_callers_were_answered(pair: Workspace) -> None:
    with pytest.raises(errors.NothingToCompare, match="no copy"):
        agreement.of_shadow("churn/2")
    traffic.mirror("churn/2", 100)
    asked(40)
    wait_for(lambda: len(telemetry.pairs("churn", "2")) == 40, what="the copies' answers")
    traffic.mirror("churn/2", 0)

    report = agreement.of_shadow("churn/2")

    found = report.comparison
    assert (found.rows, found.before.requests, found.candidate.requests) == (40, 40, 40)
    assert found.agreement.high < 0.5  # type: ignore[operator]
    assert found.what == "probability" and found.differences["p95"] > 0.1
    assert found.candidate.p95_ms > 0
    assert "agreement" in cards.as_text(report)


@pytest.mark.parametrize(("failing", "line"), [(0, "canary churn/2"), (1, "canary churn/2"), (2, "logs churn/2")])
def test_a_canary_is_the_next_step_of_a_shadow_that_fails_no_more_often(failing: int, line: str) -> None:
    before = agreement.Side(requests=40, errors=1)
    candidate = agreement.Side(requests=40, errors=failing)
    alike = agreement.Comparison(rows=40, differ=0, agreement=measures.share("agreement", 40, 40), before=before, candidate=candidate)

    card = cards.as_text(agreement.ShadowReport(endpoint="churn", deployment="2", comparison=alike))

    assert f"%mlops {line}" in card
    assert ("fails more often" in card) == (failing > 1)


def test_of_two_shadows_each_is_compared_with_what_callers_were_answered_alone(answered: Answered) -> None:
    inputs = pd.DataFrame({"distance": range(40)})
    answered.by("1", inputs, {"label": [0] * 40})
    answered.by("2", inputs, {"label": [0] * 40}, copies=True)
    answered.by("3", inputs, {"label": [1] * 40}, copies=True)

    alike, unlike = (agreement.of_shadow(ref).comparison for ref in ("delays/2", "delays/3"))

    assert [(one.rows, one.differ) for one in (alike, unlike)] == [(40, 0), (40, 40)]


def test_a_request_whose_caller_hung_up_says_nothing_against_a_shadow(answered: Answered) -> None:
    inputs = pd.DataFrame({"distance": range(40)})
    answered.by("1", inputs, {"label": [0] * 40})
    answered.by("2", inputs, {"label": [0] * 40}, copies=True)
    told = next(files.folder("delays", "1").glob("closed-*"))
    told.write_text(told.read_text().replace('"status": 200', '"status": 499', 5))

    found = agreement.of_shadow("delays/2").comparison

    assert (found.rows, found.differ, found.before.requests) == (35, 0, 35)


def labelled() -> None:
    """Say what became of everybody who was asked about."""
    rows = [(row["id"], int(row["inputs"]["age"][0] > 40)) for row in telemetry.requests("churn", most=500) if "~" not in row["id"]]
    labels.record("churn", pd.DataFrame({"request_id": [id for id, _ in rows], "left": [truth for _, truth in rows]}))


def test_a_canary_that_answers_wrong_is_rolled_back_by_its_labels(pair: Workspace) -> None:
    traffic.split("churn", {"1": 100, "2": 0})
    traffic.canary("churn/2", [50, 100], promises=["accuracy>=-1pp"], metrics=["auc", "f1"], every_seconds=3600, least=10)
    wait_for(lambda: rollout.endpoints("churn")[0].deployments[1].traffic == 50, what="the first step")
    asked(120)
    wait_for(lambda: telemetry.captured("churn").rows >= 160, what="telemetry")
    labelled()

    ended = wait_for(lambda: next((one for one in traffic.of("churn") if one.status == "rolled back"), None), what="the rollback")

    assert ended.reason.startswith("accuracy>=-1pp and auc>=-0.02 violated: accuracy ")
    assert "auc 0 of " in ended.reason and " pairs of labels, the others 1 of " in ended.reason
    assert "f1 " in ended.reason  # which is told only


def test_a_canary_judged_by_auc_waits_for_labels_and_is_promoted_by_them(pair: Workspace) -> None:
    rollout.deploy("churn:1", endpoint="churn", name="same", traffic=0)
    traffic.canary("churn/same", [50, 100], promises=[], metrics=["auc"], every_seconds=0.5, least=10, labels=20, patience_seconds=0.5)
    wait_for(lambda: traffic.of("churn")[0].step == 1, what="the first step")
    asked(120)
    waits = wait_for(lambda: one if (one := traffic.of("churn")[0]).status == "held" and "labels" in one.reason else None, what="the wait")
    before = {d.name: d.traffic for d in rollout.endpoints("churn")[0].deployments}
    untested = canary_figures.judged(waits)[0]
    labelled()
    ended = wait_for(lambda: one if not (one := traffic.of("churn")[0]).going else None, seconds=60, what="the promotion")

    assert "auc>=-0.02 is judged by labels: 0 of the 10 that a step takes have come for the candidate (%mlops labels churn --data df)" in waits.reason
    assert before["same"] == 50
    assert untested.verdict == "not tested" and "not tested" in cards.as_text(waits)
    assert ended.status == "done" and "kept its guards: auc 1 of " in ended.reason
    told = canary.evidence_of(ended).stages[0].told["auc>=-0.02"]
    assert all(side.count > 5 for side in told)
    rollout.undeploy("churn/2")


def test_a_measure_that_the_model_cannot_be_judged_by_is_refused(pair: Workspace) -> None:
    with pytest.raises(errors.BadOption, match="it answers with labels"):
        traffic.canary("churn/1", metrics=["rmse"])


def test_a_guard_on_accuracy_waits_for_labels() -> None:
    guard = guards.parse("accuracy>=-1pp")

    assert guards.evidence(guard, Counted(), Counted(), Agreed(), Expected()) == 0.0
    assert "of no labels" in guards.words(guard, Counted(), Counted(), Agreed())
    assert not guards.beyond(guard, Counted(), Counted(), Agreed())


def wrong(many: int) -> Truth:
    """So many of a thousand."""
    return Truth(rows=1000, count=1000, lost=many, squares=many)


def test_a_guard_on_accuracy_is_violated_by_what_is_worse_and_not_by_chance() -> None:
    guard = guards.parse("accuracy>=-1pp")

    worse = guards.evidence(guard, Counted(), Counted(), Agreed(), Expected(), told=(wrong(300), wrong(100)))
    alike = guards.evidence(guard, Counted(), Counted(), Agreed(), Expected(), told=(wrong(105), wrong(100)))

    assert worse > 10
    assert alike <= 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy >= 90%", "accuracy>=0.9"),
        *((same, same) for same in ("accuracy>=-1pp", "accuracy>=0.9", "recall>=-2pp", "auc>=-0.02", "auc>=0.7", "brier<=+0.01", "brier<=0.2")),
        *((same, same) for same in ("rmse<=+10%", "rmse<=12.5", "mae<=+5%", *guards.SHORT.values())),
    ],
)
def test_guards_by_labels_are_read(text: str, said: str) -> None:
    assert str(guards.parse(text)) == said


@pytest.mark.parametrize(
    "text",
    ["accuracy<=-1pp", "accuracy>=+1pp", "accuracy>=2", "accuracy>=-0.1", "p95<=-10%", "error_rate<=-1pp", "auc<=0.3", "auc>=+0.1", "rmse<=10%", "rmse<=+10"],
)
def test_what_is_no_guard_is_refused(text: str) -> None:
    with pytest.raises(errors.BadOption):
        guards.parse(text)
