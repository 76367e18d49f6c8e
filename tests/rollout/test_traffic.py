"""Splits that change by plan, that can be undone, and that never leave callers without an answer."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from living import X, deployment, wait_for

from mlops_nb import agent, cards, cli, errors, keys, registry, rollout, store, traffic
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments as table
from mlops_nb.store import rollouts
from mlops_nb.store.deployments import DeploymentSpec


def shares() -> dict[str, int]:
    return {d.name: d.traffic for d in rollout.endpoints("churn")[0].deployments}


def history() -> list[dict[str, int]]:
    with store.reading() as tx:
        return [change.weights for change in reversed(table.traffic_changes(tx, "churn"))]


def kill_agent(workspace: Workspace) -> None:
    os.kill(int((workspace.run / "agent.lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent's end")


def test_a_ramp_takes_each_step_once_though_the_agent_is_killed_between_them(churn: Workspace) -> None:
    traffic.ramp("churn/2", [5, 25, 100], every_seconds=1.0, why="new features")
    wait_for(lambda: shares()["2"] == 5, what="the first step")
    kill_agent(churn)
    agent.ensure()
    wait_for(lambda: shares()["2"] == 25, what="the second step")
    kill_agent(churn)
    agent.ensure()
    plan = wait_for(lambda: next((p for p in traffic.of("churn") if not p.going), None), what="the last step")

    assert (plan.status, plan.step) == ("done", 3)
    assert [weights["2"] for weights in history()[-3:]] == [5, 25, 100]
    assert all(sum(weights.values()) == 100 for weights in history())
    assert rollout.invoke("churn", X.head(1)).deployment == "2"


def test_a_ramp_holds_while_its_deployment_is_not_healthy_and_says_why(churn: Workspace) -> None:
    traffic.ramp("churn/2", [10, 100], every_seconds=2.0)
    wait_for(lambda: shares()["2"] == 10, what="the first step")
    os.kill(deployment("churn/2").handle["pid"], signal.SIGSTOP)
    try:
        wait_for(lambda: deployment("churn/2").status == "unhealthy", what="the agent to see that it hangs")
        plan = wait_for(lambda: next((p for p in traffic.of("churn") if p.status == "held"), None), what="the hold")
        assert plan.reason == "churn/2 is unhealthy"
        assert shares()["2"] == 10
    finally:
        os.kill(deployment("churn/2").handle.get("pid") or os.getpid(), signal.SIGCONT)


def test_what_is_planned_for_a_moment_that_is_past_is_refused_and_nothing_moves(churn: Workspace) -> None:
    for words in (["churn/2", "--ramp", "50,100"], ["churn", "1=0", "2=100"]):
        assert cli.answer(["traffic", *words, "--at", "2020-01-01"]) == 2
    assert (traffic.of("churn"), shares()) == ([], {"1": 100, "2": 0})


def test_a_ramp_raises_no_share_of_another_that_was_deployed_under_its_name_since(churn: Workspace) -> None:
    traffic.ramp("churn/2", [10, 100], every_seconds=6.0)
    wait_for(lambda: shares()["2"] == 10, what="the first step")
    rollout.undeploy("churn/2")
    rollout.deploy("churn:1", name="2")

    plan = wait_for(lambda: next((p for p in traffic.of("churn") if not p.going), None), what="the ramp's end")

    assert (plan.status, plan.reason) == ("cancelled", "churn/2 was deployed anew")
    assert shares() == {"1": 100, "2": 0}


def test_a_split_can_be_set_for_a_moment_to_come(churn: Workspace) -> None:
    traffic.schedule("churn", {"1": 50, "2": 50}, at=store.now() + timedelta(seconds=2), why="after the meeting")
    assert shares() == {"1": 100, "2": 0}
    wait_for(lambda: shares() == {"1": 50, "2": 50}, what="the moment")
    assert [plan.status for plan in traffic.of("churn")] == ["done"]


def test_a_moment_without_a_split_is_no_split_of_nothing(churn: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.answer(["traffic", "churn", "--at", "1h"]) == 2
    assert "--at is said of a split or a ramp" in capsys.readouterr().err


def test_rolling_back_undoes_a_ramp_at_once_and_whole(churn: Workspace) -> None:
    traffic.ramp("churn/2", [5, 50, 100], every_seconds=60.0)
    wait_for(lambda: shares()["2"] == 5, what="the first step")

    view = traffic.roll_back("churn", why="errors")

    assert {d.name: d.traffic for d in view.deployments} == {"1": 100, "2": 0}
    assert [plan.status for plan in traffic.of("churn")] == ["rolled back"]
    assert {rollout.invoke("churn", X.head(1)).deployment for _ in range(20)} == {"1"}


def test_a_ramp_that_is_over_is_one_change_to_roll_back(churn: Workspace) -> None:
    traffic.ramp("churn/2", [5, 50, 100], every_seconds=0.5)
    wait_for(lambda: [plan.status for plan in traffic.of("churn")] == ["done"], what="the ramp's end")

    assert {d.name: d.traffic for d in traffic.roll_back("churn").deployments} == {"1": 100, "2": 0}
    assert {d.name: d.traffic for d in traffic.roll_back("churn").deployments} == {"1": 0, "2": 100}


def test_a_ramp_that_is_promoted_or_cancelled_on_its_way_is_one_change_to_roll_back(churn: Workspace) -> None:
    for end in (traffic.promote, traffic.cancel):
        traffic.ramp("churn/2", [5, 20, 100], every_seconds=0.5)
        wait_for(lambda: traffic.of("churn")[0].step == 2, what="the second step")
        end("churn")

        assert {d.name: d.traffic for d in traffic.roll_back("churn").deployments} == {"1": 100, "2": 0}


def test_rolling_back_passes_over_splits_whose_deployments_are_gone(churn: Workspace) -> None:
    traffic.split("churn", {"1": 30, "2": 70})
    rollout.undeploy("churn/1")
    with pytest.raises(errors.NothingToRollBack) as refused:
        traffic.roll_back("churn")
    assert refused.value.hint == "%mlops rollback churn --redeploy"


def test_a_rollback_that_may_redeploy_brings_back_what_was_withdrawn_as_it_was(churn: Workspace) -> None:
    calm = DeploymentSpec(variables={"MODE": "calm"}, cpus=1)
    rollout.deploy("churn:1", name="calm", traffic=100, spec=calm)
    traffic.split("churn", {"1": 100})
    rollout.undeploy("churn/calm")

    view = traffic.roll_back("churn", redeploy=True)

    assert {d.name: d.traffic for d in view.deployments} == {"1": 0, "2": 0, "calm": 100}
    assert deployment("churn/calm").spec == calm
    assert rollout.invoke("churn", X.head(1)).deployment == "calm"


def test_a_rollback_whose_deployments_cannot_come_back_leaves_the_split(churn: Workspace) -> None:
    before = shares()
    rollout.deploy("churn:1", name="gone", traffic=100)
    traffic.split("churn", before)
    rollout.undeploy("churn/gone")
    with store.writing() as tx:
        tx.execute("UPDATE deployment_history SET version = 99 WHERE name = 'gone'")

    with pytest.raises(errors.VersionNotFound):
        traffic.roll_back("churn", redeploy=True)

    assert {name: share for name, share in shares().items() if share} == {name: share for name, share in before.items() if share}


def test_a_split_by_hand_ends_a_plan_and_a_second_plan_is_refused(churn: Workspace) -> None:
    traffic.ramp("churn/2", [5, 100], every_seconds=60.0)
    with pytest.raises(errors.RolloutUnderWay):
        traffic.ramp("churn/2", [50], every_seconds=60.0)
    traffic.split("churn", {"1": 80, "2": 20})
    with store.reading() as tx:
        assert rollouts.going(tx) == []
    assert shares() == {"1": 80, "2": 20}


def test_no_rollout_begins_while_a_deployment_that_starts_is_to_have_a_share(churn: Workspace, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(
        f"import os, time\n\ndef init():\n    while not os.path.exists({str(tmp_path / 'go')!r}):\n        time.sleep(0.05)\n\ndef run(raw):\n    return [0]\n"
    )
    (tmp_path / "weights").write_text("1")
    registry.register(tmp_path / "weights", name="churn", entry=str(tmp_path / "score.py"))
    rollout.deploy("churn:3", traffic=30, wait=False)

    for begin in (lambda: traffic.canary("churn/2"), lambda: traffic.ramp("churn/2", [5, 100], every_seconds=60.0)):
        with pytest.raises(errors.ShareToCome, match=r"churn/3 is starting and is to have 30 %") as refused:
            begin()
    assert "undeploy churn/3" in refused.value.hint and traffic.of("churn") == []

    (tmp_path / "go").touch()
    wait_for(lambda: shares()["3"] == 30, what="its share")
    assert traffic.ramp("churn/2", [5, 100], every_seconds=60.0).going


def test_a_request_whose_body_is_still_on_its_way_is_answered_by_a_deployment_that_is_withdrawn_meanwhile(churn: Workspace) -> None:
    traffic.split("churn", {"1": 0, "2": 100})
    body = X.head(1).to_json(orient="records").encode()
    lines = ["POST /churn/score HTTP/1.1", "Host: localhost", f"Authorization: Bearer {keys.key('churn')}", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]).encode()
    port = int(rollout.url_of("churn").split(":")[2].split("/")[0])

    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller, ThreadPoolExecutor(1) as pool:
        caller.sendall(head + body[:5])
        time.sleep(0.2)  # Envoy has read that, and chosen
        withdrawn = pool.submit(rollout.undeploy, "churn/2")
        wait_for(lambda: b"churn/2@" not in (churn.run / "gateway" / "routing.json").read_bytes(), what="other routes")
        time.sleep(0.1)
        caller.sendall(body[5:])
        answer = b"".join(iter(lambda: caller.recv(65_536), b""))

    assert answer.startswith(b"HTTP/1.1 200") and b"azureml-model-deployment: 2" in answer.lower()
    assert withdrawn.result() == ["churn/2"]


def test_the_only_deployment_is_withdrawn_with_its_endpoint_alone_but_freely_where_nobody_asks_it(churn: Workspace) -> None:
    rollout.undeploy("churn/2")
    with pytest.raises(errors.LastHealthy, match="churn/1 is the last healthy deployment of churn") as refused:
        rollout.undeploy("churn/1")
    assert refused.value.hint.startswith("%mlops undeploy churn ") and rollout.invoke("churn", X.head(1)).deployment == "1"
    rollout.undeploy("churn")
    assert rollout.endpoints("churn")[0].deployments == []


def test_the_last_healthy_deployment_is_not_withdrawn_alone_nor_are_all_requests_taken_from_it(churn: Workspace) -> None:
    os.kill(deployment("churn/2").handle["pid"], signal.SIGSTOP)
    try:
        wait_for(lambda: deployment("churn/2").status == "unhealthy", what="the agent to see that it hangs")
        with pytest.raises(errors.LastHealthy):
            rollout.undeploy("churn/1")
        with pytest.raises(errors.BadOption, match="churn/2 is unhealthy; it can take no traffic"):
            traffic.split("churn", {"1": 0, "2": 100})
        traffic.ramp("churn/2", [50, 100], every_seconds=600.0)
        with pytest.raises(errors.BadOption, match="churn/2 is unhealthy; it can take no traffic"):
            traffic.promote("churn")
        assert shares() == {"1": 100, "2": 0}
    finally:
        os.kill(deployment("churn/2").handle.get("pid") or os.getpid(), signal.SIGCONT)


def test_where_the_share_of_one_that_was_withdrawn_went_is_told(churn: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    rollout.deploy("churn:1", name="3", traffic=5)
    traffic.split("churn", {"1": 94, "2": 1, "3": 5})

    assert cli.answer(["undeploy", "churn/1"]) == 0

    told, now = capsys.readouterr().out, shares()
    assert set(now) == {"2", "3"} and sum(now.values()) == 100
    assert re.search(rf"traffic +2={now['2']} 3={now['3']}\n", told) and re.search(r"traffic before +1=94 2=1 3=5", told)


def test_a_withdrawal_that_moves_nothing_tells_of_no_split(churn: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.answer(["undeploy", "churn/2"]) == 0

    assert "traffic" not in capsys.readouterr().out


def test_what_was_cancelled_is_not_called_under_way(churn: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    traffic.ramp("churn/2", [5, 100], every_seconds=60.0)

    assert cli.answer(["rollouts", "cancel", "churn"]) == 0
    ended = capsys.readouterr()
    assert cli.answer(["rollouts", "cancel", "churn"]) == 0

    assert "1 cancelled rollout" in ended.out and "under way" not in ended.out and "the ramp is cancelled" in ended.err
    nothing = capsys.readouterr()
    assert "no rollout was under way" in nothing.err and "No rollout of churn was under way" in nothing.out


def test_a_shadow_without_a_deployment_is_told_which_may_be_one(churn: Workspace) -> None:
    with pytest.raises(
        errors.BadOption, match=r"churn is an endpoint; a shadow is one of its deployments\. Without a share of the requests are 2\."
    ) as refused:
        traffic.mirror("churn", 100)
    assert refused.value.hint == "%mlops shadow churn/2"
    with pytest.raises(errors.EndpointNotFound):
        traffic.mirror("chrun", 100)


def test_what_callers_are_known_by_is_kept_with_the_split_and_shown(churn: Workspace) -> None:
    traffic.split("churn", {"1": 50, "2": 50}, sticky="header:x-user")
    traffic.split("churn", {"1": 40, "2": 60})
    assert rollout.endpoints("churn")[0].sticky == "header:x-user"
    assert traffic.known_by("churn", "none").sticky == ""
    assert shares() == {"1": 40, "2": 60}


@pytest.mark.parametrize("steps", [[], [0, 50], [50, 25], [10, 10], [50, 101]])
def test_steps_that_do_not_rise_are_refused_before_anything_is_kept(workspace: Workspace, steps: list[int]) -> None:
    with pytest.raises(errors.BadOption):
        traffic.ramp("churn/2", steps, every_seconds=1)
    assert not workspace.store.exists()


def test_a_rollout_is_paused_while_the_workspace_is_stopped_and_goes_on_with_up(churn: Workspace) -> None:
    traffic.ramp("churn/2", [10, 100], every_seconds=3600)
    wait_for(lambda: shares()["2"] == 10, what="the first step")
    rollout.down()

    paused = traffic.of("churn")[0]

    assert paused.status == "paused" and paused.going and "1 of 2 steps" in paused.reason
    assert cards.as_text(paused).endswith("Try: %mlops up") and "next" not in cards.as_text(paused)
    rollout.up()
    assert traffic.of("churn")[0].status == "running"


def test_a_shadow_answers_no_caller_and_one_that_gets_a_share_is_sent_no_more_copies(churn: Workspace) -> None:
    traffic.split("churn", {"1": 70, "2": 30})
    with pytest.raises(errors.AnswersCallers, match="churn/2 answers 30 %") as caught:
        traffic.mirror("churn/2", 100)
    assert caught.value.hint.startswith("%mlops traffic churn 1=100 2=0")

    traffic.split("churn", {"1": 100, "2": 0})
    for share in (
        lambda: traffic.split("churn", {"1": 90, "2": 10}),
        lambda: rollout.deploy("churn:2", traffic=20),
        lambda: traffic.roll_back("churn"),
    ):
        assert traffic.mirror("churn/2", 100).deployments[1].copies == 100
        share()
        assert [d.copies for d in rollout.endpoints("churn")[0].deployments] == [0, 0] and shares()["2"]
        traffic.split("churn", {"1": 100, "2": 0})


def test_an_endpoint_of_the_name_of_a_deleted_one_begins_anew(churn: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    traffic.mirror("churn/2", 100)
    traffic.split("churn", {"1": 70, "2": 30}, sticky="header:x-user")
    traffic.schedule("churn", {"1": 0, "2": 100}, at=store.now() + timedelta(hours=1))
    rollout.delete_endpoint("churn")

    rollout.deploy("churn:1")
    rollout.deploy("churn:2", traffic=0)

    anew = rollout.endpoints("churn")[0]
    assert (anew.sticky, [(d.name, d.traffic, d.copies) for d in anew.deployments]) == ("", [("1", 100, 0), ("2", 0, 0)])
    with pytest.raises(errors.NothingToRollBack):
        traffic.roll_back("churn")
    assert [(plan.status, plan.reason) for plan in traffic.of("churn")] == [("cancelled", "the endpoint was deleted")]
    assert cli.answer(["history", "churn"]) == 0 and "the endpoint was deleted" in capsys.readouterr().out


def test_one_that_is_being_restarted_has_the_share_it_is_deployed_again_with(churn: Workspace) -> None:
    os.kill(deployment("churn/2").handle["pid"], signal.SIGKILL)
    wait_for(lambda: deployment("churn/2").status == "restarting", what="the agent to see its end")

    assert rollout.deploy("churn:2", traffic=20).traffic == 20
    assert shares() == {"1": 80, "2": 20}


def test_a_shadow_that_is_withdrawn_is_none_when_it_is_deployed_again(churn: Workspace) -> None:
    traffic.mirror("churn/2", 100)
    rollout.undeploy("churn/2")

    rollout.deploy("churn:2")

    assert [(d.traffic, d.copies) for d in rollout.endpoints("churn")[0].deployments] == [(100, 0), (0, 0)]


@pytest.mark.parametrize("end", [lambda: traffic.split("churn", {"1": 100, "2": 0}), lambda: traffic.cancel("churn"), lambda: traffic.promote("churn")])
def test_a_canary_that_is_ended_by_hand_leaves_no_shadow(churn: Workspace, end) -> None:
    traffic.canary("churn/2", [10, 100], promises=["agreement>=0.5"], every_seconds=600.0)
    wait_for(lambda: [d.copies for d in rollout.endpoints("churn")[0].deployments] == [0, 20], what="the copies")

    end()

    assert [d.copies for d in rollout.endpoints("churn")[0].deployments] == [0, 0]
