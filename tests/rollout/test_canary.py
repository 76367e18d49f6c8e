"""A canary promotes, holds or rolls back by itself, for the reason it gives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from living import X, Y, churn_model, deployment, wait_for
from sklearn.linear_model import LogisticRegression

from mlops_nb import agent, canary, cards, cli, commands, errors, grammar, history, registry, rollout, store, traffic
from mlops_nb.settings import Workspace
from mlops_nb.shapes import Listing
from mlops_nb.store import deployments as table
from mlops_nb.store import events
from mlops_nb.store.rollouts import Rollout

SCRIPT = """
import json, random

def init():
    pass

def run(raw):
    rows = json.loads(raw)
    if random.random() < 0.3:
        raise ValueError("the new feature is missing")
    return [0]
"""

HOLDING_ITS_SERVER = """
import ctypes

def init():
    pass

def run(raw):
    ctypes.PyDLL(None).sleep(2)  # no other thread runs meanwhile
    return [0]
"""


@contextmanager
def asked(endpoint: str = "churn") -> Iterator[None]:
    """Callers at work, who do not mind errors."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                rollout.invoke(endpoint, X.head(1))
            except errors.MlopsError:
                pass

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def newest() -> Rollout:
    return traffic.of("churn")[0]


def ended() -> Rollout | None:
    plan = newest()
    return None if plan.going else plan


def shares() -> dict[str, int]:
    return {d.name: d.traffic for d in rollout.endpoints("churn")[0].deployments}


def kill_the_agent(workspace: Workspace) -> None:
    """With SIGKILL; another is begun."""
    os.kill(int((workspace.run / "agent.lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent's end")
    agent.ensure()


def test_a_good_candidate_is_promoted_though_the_agent_is_killed_on_the_way(churn: Workspace) -> None:
    with asked():
        traffic.canary("churn/2", [10, 50, 100], promises=["error_rate<=+0.5pp", "p95<=+200%"], every_seconds=1.0, least=10, needed=60)
        for step in (1, 2):
            wait_for(lambda step=step: newest().step >= step, what=f"step {step}")
            kill_the_agent(churn)
        plan = wait_for(ended, seconds=60, what="the promotion")

    assert (plan.status, shares()) == ("done", {"1": 0, "2": 100})
    evidence = canary.evidence_of(plan)
    assert [stage.percent for stage in evidence.stages] == [10, 50]
    assert sum(stage.candidate.requests for stage in evidence.stages) >= 60
    assert "kept its guards" in plan.reason


def test_a_harmful_candidate_is_rolled_back_with_the_numbers_and_an_event_though_the_agent_is_killed_around_it(churn: Workspace, tmp_path) -> None:
    script = tmp_path / "score.py"
    script.write_text(SCRIPT)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.txt").write_text("1")
    registry.register(tmp_path / "folder", name="churn", entry=str(script))
    rollout.deploy("churn:3", traffic=0)

    with asked():
        traffic.canary("churn/3", [50, 100], promises=["error_rate<=+0.5pp"], every_seconds=600.0)
        kill_the_agent(churn)  # before its first step, or in it
        wait_for(lambda: newest().step == 1, what="the first step")
        kill_the_agent(churn)
        plan = wait_for(ended, seconds=90, what="the rollback")
        kill_the_agent(churn)  # with the rollback noted, and perhaps not yet with the gateway

    wait_for(lambda: shares() == {"1": 100, "2": 0, "3": 0}, what="the split of before")
    assert [one.status for one in traffic.of("churn")] == ["rolled back"]
    assert plan.status == "rolled back"
    assert "error_rate<=+0.5pp violated" in plan.reason and "the others 0.00%" in plan.reason
    assert shares() == {"1": 100, "2": 0, "3": 0}
    with store.reading() as tx:
        told = events.latest(tx, subject="churn", what="RolloutRolledBack")
    assert told[0].data["reason"] == plan.reason


def test_a_candidate_that_is_busy_for_a_moment_is_not_rolled_back_for_that(churn: Workspace, tmp_path) -> None:
    script = tmp_path / "score.py"
    script.write_text(HOLDING_ITS_SERVER)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.txt").write_text("1")
    registry.register(tmp_path / "folder", name="churn", entry=str(script))
    rollout.deploy("churn:3", traffic=0)
    traffic.canary("churn/3", [50, 100], every_seconds=600.0)
    wait_for(lambda: shares()["3"] == 50, what="the first step")

    assert rollout.invoke("churn", X.head(1), deployment="3").deployment == "3"

    wait_for(lambda: deployment("churn/3").status == "healthy", what="its health")
    assert any((change.deployment, change.what) == ("3", "unhealthy") for change in history.of("churn"))
    assert (newest().going, shares()["3"]) == (True, 50)


def test_a_candidate_that_does_not_come_back_with_up_is_not_promoted_by_what_it_did_before(churn: Workspace, tmp_path) -> None:
    script, gone = tmp_path / "score.py", tmp_path / "gone"
    script.write_text(f"import os\n\ndef init():\n    assert not os.path.exists({str(gone)!r})\n\ndef run(raw):\n    return [0]\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.txt").write_text("1")
    registry.register(tmp_path / "folder", name="churn", entry=str(script))
    rollout.deploy("churn:3", traffic=0)
    traffic.canary("churn/3", [50, 100], promises=["error_rate<=50%"], every_seconds=15.0, least=10, needed=10)
    wait_for(lambda: shares()["3"] == 50, what="the first step")
    for _ in range(20):
        rollout.invoke("churn", X.head(1), deployment="3")
    wait_for(lambda: canary.evidence_of(newest()).stages[0].candidate.requests == 20, what="what it answered")
    rollout.down()
    gone.touch()
    begun = canary.evidence_of(newest()).stages[0].since
    wait_for(lambda: (store.now() - begun).total_seconds() > 15, what="the step's time")

    rollout.up()

    plan = wait_for(ended, what="the end")
    assert (plan.status, shares()) == ("rolled back", {"1": 100, "2": 0, "3": 0})


def test_a_quiet_endpoint_is_waited_for_and_the_split_stays(churn: Workspace) -> None:
    traffic.canary("churn/2", [10, 100], every_seconds=0.5, patience_seconds=0.5, why="trial")
    plan = wait_for(lambda: newest() if newest().status == "held" else None, what="the hold")
    assert "0 of the 100 requests" in plan.reason
    assert shares() == {"1": 90, "2": 10}
    assert history.at("churn", store.now()).why == "step 1 of 2 of a canary: trial"
    traffic.roll_back("churn")
    assert shares() == {"1": 100, "2": 0}


def test_a_ramp_under_way_stands_above_a_canary_that_is_over(churn: Workspace) -> None:
    traffic.canary("churn/2", [10, 100], every_seconds=600.0)
    wait_for(lambda: newest().evidence.get("trail"), what="a look")
    traffic.roll_back("churn")
    traffic.ramp("churn/2", [10, 100], every_seconds=600.0)
    assert cards.as_text(Listing(traffic.of("churn"), what="rollout", line="rollouts churn")).startswith("churn/2  (ramp)")


@pytest.mark.parametrize(
    ("promise", "lacking"), [("error_rate<=+0.5pp", "the others, beside whom it is judged, answered 0 of"), ("agreement>=0.5", "0 of the 10 pairs")]
)
def test_a_candidate_that_alone_is_asked_waits_for_somebody_to_be_compared_with(churn: Workspace, promise: str, lacking: str) -> None:
    traffic.canary("churn/2", [50, 100], promises=[promise], every_seconds=0.1, least=10, needed=10)
    wait_for(lambda: shares()["2"] == 50, what="the first step")
    for _ in range(20):
        rollout.invoke("churn", X.head(1), deployment="2")

    plan = wait_for(lambda: plan if not (plan := newest()).going or lacking in plan.reason else None, what="the wait")

    assert plan.going and shares()["2"] == 50
    with asked():
        assert wait_for(ended, seconds=60, what="the promotion").status == "done"


def test_a_candidate_that_dies_is_rolled_back_at_once_and_given_nothing_by_a_second_rollback(churn: Workspace) -> None:
    traffic.canary("churn/2", [10, 100], every_seconds=600.0)
    wait_for(lambda: newest().step == 1, what="the first step")
    wait_for(lambda: shares()["2"] == 10, what="its share")
    os.kill(deployment("churn/2").handle["pid"], signal.SIGKILL)
    plan = wait_for(ended, what="the rollback")
    assert plan.status == "rolled back" and plan.reason.startswith("churn/2 is ")
    assert shares() == {"1": 100, "2": 0}
    wait_for(lambda: deployment("churn/2").status == "healthy", what="its return")
    with pytest.raises(errors.NothingToRollBack):
        traffic.roll_back("churn")


def test_where_nobody_is_left_to_take_the_requests_back_it_says_so_and_claims_no_rollback(churn: Workspace) -> None:
    traffic.canary("churn/2", [10, 100], promises=["agreement>=0.5"], every_seconds=600.0)
    wait_for(lambda: shares()["2"] == 10, what="its share")
    champion = deployment("churn/1")
    with store.writing() as tx:  # withdrawn all the same, as by an earlier version
        table.set_traffic(tx, "churn", {"2": 100}, author="ada", why="1 withdrawn")
        table.want(tx, champion, "stopped", author="ada")
    wait_for(lambda: len(shares()) == 1, what="the withdrawal")
    os.kill(deployment("churn/2").handle["pid"], signal.SIGKILL)
    plan = wait_for(ended, what="the end")

    assert plan.status == "cancelled"
    assert "none of those that answered before can take the requests back" in plan.reason
    assert [(d.name, d.traffic, d.copies) for d in rollout.endpoints("churn")[0].deployments] == [("2", 100, 0)]


def test_a_candidate_whose_name_another_model_has_says_how_it_is_given_one(churn: Workspace) -> None:
    registry.register(LogisticRegression().fit(X, Y), name="other", data="customers")
    with pytest.raises(errors.NameTaken) as refused:
        rollout.deploy("other:1", endpoint="churn")
    assert cli.answer(["canary", "other:1", "--endpoint", "churn"]) == refused.value.exit_code

    hint = str(refused.value.hint)
    assert hint == "%mlops deploy other:1 --endpoint churn --as another"
    assert cli.answer(hint.removeprefix("%mlops ").split()) == 0


def test_what_a_canary_is_compared_with_is_not_withdrawn_until_it_is_cancelled(churn: Workspace) -> None:
    traffic.canary("churn/2", [10, 100], every_seconds=600.0)
    wait_for(lambda: shares()["2"] == 10, what="its share")
    rollout.deploy("churn:1", name="idle", traffic=None)

    with pytest.raises(errors.ComparedWith) as refused:
        rollout.undeploy("churn/1")
    rollout.undeploy("churn/idle")

    assert (newest().going, shares()) == (True, {"1": 90, "2": 10})
    assert refused.value.hint == "%mlops rollouts cancel churn"
    traffic.cancel("churn")
    assert rollout.undeploy("churn/1") == ["churn/1"]
    assert shares() == {"2": 100}


def test_of_two_that_a_canary_is_compared_with_one_may_go(churn: Workspace) -> None:
    rollout.deploy("churn:1", name="other", traffic=40)
    traffic.canary("churn/2", [10, 100], every_seconds=600.0)
    wait_for(lambda: shares()["2"] == 10, what="its share")

    rollout.undeploy("churn/other")

    assert newest().going and set(shares()) == {"1", "2"}


def test_agreement_is_judged_by_copies_whose_answers_no_caller_sees(churn: Workspace) -> None:
    with asked():
        traffic.canary("churn/2", [10, 100], promises=["agreement>=0.5"], every_seconds=1.0, least=5, needed=20)
        plan = wait_for(ended, seconds=60, what="the promotion")
    assert plan.status == "done"
    assert canary.evidence_of(plan).stages[0].agreed.pairs > 0
    assert [d.copies for d in rollout.endpoints("churn")[0].deployments] == [0, 0]


def test_there_must_be_something_to_compare_with(churn: Workspace) -> None:
    with pytest.raises(errors.BadOption, match="nothing to compare"):
        traffic.canary("churn/1")
    with pytest.raises(errors.BadOption):
        traffic.canary("churn/2", [100])
    with pytest.raises(errors.BadOption):
        traffic.canary("churn/2", promises=["auc>=7"])
    assert traffic.of("churn") == []


def test_agreement_is_not_judged_by_a_sample_of_the_answers(churn: Workspace) -> None:
    (churn.root / "config.toml").write_text("capture_payload_percent = 10\n")
    with pytest.raises(errors.BadOption, match="10 % of them are kept"):
        traffic.canary("churn/2", promises=["agreement>=0.95"])
    assert traffic.of("churn") == []


def test_a_rollout_that_was_cancelled_is_told_as_cancelled(churn: Workspace) -> None:
    traffic.ramp("churn/2", [60, 70], every_seconds=600.0)
    assert [plan.status for plan in traffic.cancel("churn")] == ["cancelled"]
    with pytest.raises(errors.EndpointNotFound):
        traffic.of("nobody")


def test_a_candidate_that_has_more_than_the_first_step_would_lose_requests_and_is_refused(churn: Workspace) -> None:
    traffic.split("churn", {"1": 40, "2": 60})
    with pytest.raises(errors.BadOption, match="would take some away"):
        traffic.canary("churn/2", [5, 100])
    assert shares() == {"1": 40, "2": 60}


def test_a_candidate_deployed_anew_under_its_name_does_not_inherit_the_evidence(churn: Workspace) -> None:
    traffic.canary("churn/2", [10, 100], every_seconds=600.0)
    wait_for(lambda: shares()["2"] == 10, what="its share")
    with pytest.raises(errors.RolloutUnderWay):
        rollout.deploy("churn:2", traffic=50)
    rollout.undeploy("churn/2")
    rollout.deploy("churn:2")
    plan = wait_for(ended, what="the end")
    assert plan.status == "rolled back" and ("withdrawn" in plan.reason or "deployed anew" in plan.reason)
    assert shares()["1"] == 100


def test_a_canary_on_agreement_waits_and_says_so_when_fewer_answers_are_kept(churn: Workspace) -> None:
    traffic.canary("churn/2", [50, 100], promises=["agreement>=0.5"], every_seconds=0.1, least=1, needed=1)
    (churn.root / "config.toml").write_text("capture_payload_percent = 10\n")

    plan = wait_for(lambda: plan if "are kept" in (plan := newest()).reason else None, what="the wait")

    assert plan.going and "agreement needs all answers, and 10 % of them are kept: capture_payload_percent was lowered" in plan.reason


def test_a_canary_where_nobody_is_served_starts_nothing(live_workspace: Workspace) -> None:
    churn_model()

    for subject, endpoint in (("churn:1", None), ("churn:1", "chrun")):
        with pytest.raises(errors.BadOption, match=f"No deployment of {endpoint or 'churn'} takes requests"):
            grammar.run(commands.mlops, ["canary", subject, *(["--endpoint", endpoint] if endpoint else [])], cli.Terminal(quiet=True))

    assert rollout.status().endpoints == []
