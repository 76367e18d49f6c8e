"""Past requests are asked again of a candidate on a server of its own, and both sides are told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from living import ROWS, X, Y, churn_model, wait_for
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

from mlops_nb import agreement, cards, labels, registry, replaying, rollout, store, telemetry, traffic
from mlops_nb.errors import BadOption, EndpointNotFound, NothingToCompare, ReplayFailed
from mlops_nb.settings import Workspace
from mlops_nb.store import events
from mlops_nb.store.replays import Replay
from mlops_nb.telemetry import labels as recorded

from .conftest import Answered

pytestmark = pytest.mark.xdist_group("truth-replay")


def refusing(frame: pd.DataFrame) -> pd.DataFrame:
    if (frame["income"] > 85).any():
        raise ValueError("no such income")
    return frame


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """`churn:1` was asked 60 requests, of one row and of three; `churn:2` is the same model, `churn:3` another, `churn:4` fails for some."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("replay") / "workspace"
        patch.setenv("MLOPS_HOME", str(root))
        churn_model()
        rollout.deploy("churn:1")
        churn_model()
        registry.register(LogisticRegression().fit(X, 1 - Y), name="churn", data="customers")
        failing = make_pipeline(FunctionTransformer(refusing), LogisticRegression()).fit(X[X.income < 85], Y[X.income < 85])
        registry.register(failing, name="churn", data="customers", sample=X.head(20))
        for number in range(50):
            rollout.invoke("churn", X.iloc[[number * 2]])
        for number in range(10):
            rollout.invoke("churn", X.iloc[number * 3 : number * 3 + 3])
        wait_for(lambda: telemetry.captured("churn").rows == 80, what="telemetry")
        yield Workspace(root)
        rollout.down()


@pytest.fixture(scope="module")
def same(asked: Workspace) -> Replay:
    """What came of asking `churn:2`, half as quick as they came."""
    return replaying.replay("churn:2", speed=0.5)


@pytest.fixture(scope="module")
def other(asked: Workspace) -> Replay:
    """What came of asking `churn:3`, which kept one promise of two."""
    with pytest.raises(ReplayFailed, match="agreement>=") as failed:
        replaying.replay("churn:3", promises=["agreement>=0.95", "error_rate<=1%"])
    assert failed.value.exit_code == 5
    return failed.value.replay


def test_the_same_model_agrees_on_every_row(same: Replay) -> None:
    found = replaying.comparison_of(same)
    assert (same.requests, found.rows, found.differ, found.differences["max"]) == (60, 80, 0, pytest.approx(0, abs=1e-6))
    assert found.candidate.p95_ms > 0 and found.before.p95_ms > 0
    assert found.candidate.errors == 0


def test_another_model_differs_and_the_rows_are_told(other: Replay) -> None:
    found = replaying.comparison_of(other)
    assert found.differ > 40
    assert {"id", "row", "age", "income", "before", "candidate", "truth"} == set(other.differing[0])
    assert found.what == "probability" and sum(found.histogram) == 80


def test_a_promise_that_is_not_kept_fails_the_gate_and_the_replay_is_kept(other: Replay) -> None:
    kept = replaying.of("churn:3")[0]

    assert kept.id == other.id
    assert kept.guards == {"agreement>=0.95": False, "error_rate<=1%": True}
    with store.reading() as tx:
        assert events.latest(tx, subject="churn:3")[0].type.endswith("ReplayCompleted")


def test_the_first_error_is_told_with_the_models_own_exception(asked: Workspace) -> None:
    replay = replaying.replay("churn:4")

    found = replaying.comparison_of(replay)
    assert "ValueError: no such income" in replay.first_error
    assert "test_replay.py" in replay.first_error
    assert found.candidate.errors > 0 and found.differ >= found.candidate.errors


def test_no_live_request_and_no_telemetry_comes_of_a_replay(asked: Workspace, same: Replay) -> None:
    assert telemetry.captured("churn").rows == 80
    assert not list((asked.run / "profiles").glob("*-*"))


def test_requests_are_sent_at_the_pace_they_came_in(same: Replay) -> None:
    span = [row["time"] for row in telemetry.requests("churn")]

    assert same.seconds > 2 * (max(span) - min(span)).total_seconds()


def test_labels_that_have_come_give_both_sides_their_measures(asked: Workspace) -> None:
    rows = [(row["id"], place, age) for row in telemetry.requests("churn") for place, age in enumerate(row["inputs"]["age"])]
    labels.record("churn", pd.DataFrame({"request_id": [id for id, _, _ in rows], "row": [row for _, row, _ in rows], "left": [int(a > 40) for *_, a in rows]}))

    with pytest.raises(ReplayFailed) as failed:
        replaying.replay("churn:3", promises=["accuracy>=-1pp", "auc>=-0.02", "brier<=0.3"])

    found = replaying.comparison_of(failed.value.replay)
    before, candidate = found.before.figure("accuracy"), found.candidate.figure("accuracy")
    assert found.labelled == 80
    assert not any(failed.value.replay.guards.values())
    assert before.value > 0.9 > candidate.value  # type: ignore[union-attr, operator]
    every = ["accuracy>=-1pp", "accuracy>=0.9", "auc>=-0.02", "auc>=0.9", "precision>=-2pp", "recall>=0.9", "brier<=+0.01", "p90<=+100000%"]
    other = replaying.replay("churn:2", promises=every)
    assert other.passed and set(other.guards) == set(every)


def test_answers_of_two_deployments_are_measured_together(answered: Answered) -> None:
    inputs, truth = pd.DataFrame({"distance": range(60)}), np.arange(60) % 2
    answered.by("1", inputs[:40], {"label": truth[:40]}, ids="r")
    answered.by("2", inputs[40:], {"label": truth[40:]}, ids="s")
    labels.record("delays", pd.DataFrame({"request_id": [*(f"r{n}" for n in range(40)), *(f"s{n}" for n in range(20))], "late": truth}))
    answered.by("3", inputs[:40], {"label": np.ones(40, int)}, ids="r")
    answered.by("3", inputs[40:], {"label": np.ones(20, int)}, ids="s")
    *before, candidate = recorded.answers("delays")

    found = agreement.compare(before, [candidate], agreement.Side(), agreement.Side())

    assert (found.labelled, found.differ) == (60, 30)
    assert [side.figure("accuracy").value for side in (found.before, found.candidate)] == [1.0, 0.5]  # type: ignore[union-attr]


def test_the_segment_that_differs_most_is_named(asked: Workspace) -> None:
    half = DecisionTreeClassifier().fit(X, np.where(ROWS["age"] == 50, 1 - Y, Y))
    version = registry.register(half, name="churn", data="customers", sample=X.head(20)).version

    found = replaying.comparison_of(replaying.replay(version.ref))

    assert found.segments[0].segment == "age=50"


def test_only_the_requests_of_a_time_are_asked(asked: Workspace) -> None:
    times = sorted(row["time"] for row in telemetry.requests("churn"))

    assert replaying.replay("churn:2", since=times[30], until=times[40], most=5).requests == 5


def test_cards_tell_both_sides(other: Replay) -> None:
    text = cards.as_text(other)
    assert "60 requests of churn" in text and "agreement" in text and "p95, ms" in text
    assert "churn:3" in cards.as_html(other)


def test_what_cannot_be_is_refused_before_anything_is_started(asked: Workspace) -> None:
    with pytest.raises(EndpointNotFound):
        replaying.replay("churn:2", endpoint="chrun")
    with pytest.raises(BadOption, match="no guard"):
        replaying.replay("churn:2", promises=["agreement<=2"])
    now = datetime.now(UTC)
    with pytest.raises(BadOption, match=r"both after .* \(--from\) and before .* \(--to\)"):
        replaying.replay("churn:2", since=now, until=now - timedelta(days=1))
    with pytest.raises(BadOption, match="no pace"):
        replaying.replay("churn:2", speed=-1.0)
    with pytest.raises(NothingToCompare):
        replaying.replay("churn:2", since=datetime.now(UTC) + timedelta(days=1))


def test_what_a_shadow_answered_beside_is_not_what_was_answered(asked: Workspace) -> None:
    rollout.deploy("churn:3", name="opposite", traffic=0)
    traffic.mirror("churn/opposite", 100)
    began = datetime.now(UTC)
    for number in range(20):
        rollout.invoke("churn", X.iloc[[number * 2]])
    wait_for(lambda: len(telemetry.pairs("churn", "opposite")) == 20, what="the copies' answers")
    traffic.mirror("churn/opposite", 0)

    found = replaying.comparison_of(replaying.replay("churn:2", since=began))

    assert (found.rows, found.differ) == (20, 0)
