"""A shadow beside what callers were answered, and a canary judged by labels."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest
from living import X, Y, churn_model, wait_for
from sklearn.linear_model import LogisticRegression

from mlops_nb import agreement, cards, errors, guards, labels, registry, rollout, telemetry, traffic
from mlops_nb.guards import Expected, Right
from mlops_nb.settings import Workspace
from mlops_nb.telemetry import Counted

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


def test_a_canary_that_answers_wrong_is_rolled_back_by_its_labels(pair: Workspace) -> None:
    traffic.split("churn", {"1": 100, "2": 0})
    traffic.canary("churn/2", [50, 100], promises=["accuracy>=-1pp"], metrics=["auc"], every_seconds=3600, least=10)
    wait_for(lambda: rollout.endpoints("churn")[0].deployments[1].traffic == 50, what="the first step")
    asked(80)
    wait_for(lambda: telemetry.captured("churn").rows >= 120, what="telemetry")
    rows = [(row["id"], int(row["inputs"]["age"][0] > 40)) for row in telemetry.requests("churn", most=500) if "~" not in row["id"]]
    labels.record("churn", pd.DataFrame({"request_id": [id for id, _ in rows], "left": [truth for _, truth in rows]}))

    ended = wait_for(lambda: next((one for one in traffic.of("churn") if one.status == "rolled back"), None), what="the rollback")

    assert "accuracy>=-1pp violated" in ended.reason
    assert "auc" in ended.reason


def test_a_guard_on_accuracy_waits_for_labels() -> None:
    guard = guards.parse("accuracy>=-1pp")

    assert guards.evidence(guard, Counted(), Counted(), [], Expected()) == 0.0
    assert "of no labels" in guards.words(guard, Counted(), Counted(), [])


def test_a_guard_on_accuracy_is_violated_by_what_is_worse_and_not_by_chance() -> None:
    guard = guards.parse("accuracy>=-1pp")

    worse = guards.evidence(guard, Counted(), Counted(), [], Expected(), truth=(Right(700, 1000), Right(900, 1000)))
    alike = guards.evidence(guard, Counted(), Counted(), [], Expected(), truth=(Right(895, 1000), Right(900, 1000)))

    assert worse > 10
    assert alike <= 0


@pytest.mark.parametrize(("text", "said"), [("accuracy>=-1pp", "accuracy>=-1pp"), ("accuracy >= 90%", "accuracy>=0.9"), ("accuracy>=0.9", "accuracy>=0.9")])
def test_guards_on_accuracy_are_read(text: str, said: str) -> None:
    assert str(guards.parse(text)) == said


@pytest.mark.parametrize("text", ["accuracy<=-1pp", "accuracy>=+1pp", "accuracy>=2", "accuracy>=-0.1", "p95<=-10%", "error_rate<=-1pp"])
def test_what_is_no_guard_is_refused(text: str) -> None:
    with pytest.raises(errors.BadOption):
        guards.parse(text)
