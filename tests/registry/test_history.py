"""What served at any past moment, from rows that are only ever added."""

from __future__ import annotations

import itertools
import os
import re
import signal
from datetime import UTC, datetime
from typing import Any

import pytest
from living import churn_model, deployment, wait_for

from mlops_nb import agent, cards, errors, history, rollout, store, traffic
from mlops_nb.settings import Workspace


def test_any_past_moment_can_be_asked_for_even_after_the_endpoint_is_gone(live_workspace: Workspace) -> None:
    churn_model()
    churn_model()
    before = store.now()
    rollout.deploy("churn:1")
    alone = store.now()
    rollout.deploy("churn:2", traffic=30)
    both = store.now()
    rollout.undeploy("churn/1")
    after = store.now()
    rollout.delete_endpoint("churn")

    def served(moment) -> dict[str, tuple[str, int]]:
        return {d.deployment: (d.model, d.traffic) for d in history.at("churn", moment).deployments if d.status == "healthy"}

    assert served(before) == {}
    assert served(alone) == {"1": ("churn:1", 100)}
    assert served(both) == {"1": ("churn:1", 70), "2": ("churn:2", 30)}
    assert served(after) == {"2": ("churn:2", 100)}
    assert served(store.now()) == {}


HISTORY = ("deployment_history", "traffic", "events")


def kept() -> dict[str, list[dict[str, Any]]]:
    """Every row of what history is read from, as it was added."""
    with store.reading() as tx:
        return {table: tx.rows(f"SELECT * FROM {table} ORDER BY rowid") for table in HISTORY}


def ended() -> bool:
    return not traffic.of("churn")[0].going


def canary_of_one_that_dies() -> None:
    traffic.canary("churn/2", [50, 100], every_seconds=600.0)
    wait_for(lambda: rollout.endpoints("churn")[0].deployments[1].traffic == 50, what="its share")
    os.kill(deployment("churn/2").handle["pid"], signal.SIGKILL)
    wait_for(ended, what="the rollback")
    wait_for(lambda: deployment("churn/2").status == "healthy", what="its return")


def ramp() -> None:
    traffic.ramp("churn/2", [40, 100], every_seconds=0.2)
    wait_for(ended, what="the ramp's end")


def the_agent_dies() -> None:
    os.kill(int((Workspace.current().run / "agent.lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent's end")


def test_a_whole_life_changes_no_row_of_the_history_only_adds_some(live_workspace: Workspace) -> None:
    churn_model()
    churn_model()
    life = [
        lambda: rollout.deploy("churn:1"), lambda: rollout.deploy("churn:2"), ramp, lambda: traffic.roll_back("churn", why="not yet"), canary_of_one_that_dies,
        lambda: traffic.mirror("churn/2", 50), lambda: traffic.split("churn", {"1": 50, "2": 50}, sticky="header:x-user"), the_agent_dies,
        lambda: rollout.undeploy("churn/2"), lambda: rollout.deploy("churn:2", traffic=20), rollout.down, rollout.up,
        lambda: rollout.delete_endpoint("churn"), lambda: rollout.deploy("churn:1"),
    ]  # fmt: skip
    seen = [kept()]
    for chapter in life:
        chapter()
        seen.append(kept())

    for earlier, later in itertools.pairwise(seen):
        for table in HISTORY:
            assert later[table][: len(earlier[table])] == earlier[table], table
    assert all(len(seen[-1][table]) >= 8 for table in HISTORY)


def test_changes_tell_who_and_why(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1")
    rollout.deploy("churn:1", name="again")
    traffic.split("churn", {"1": 40, "again": 60}, why="it is quicker")

    newest = next(change for change in history.of("churn") if not change.deployment)

    assert (newest.what, newest.why) == ("1=40 again=60", "it is quicker")
    assert newest.author
    then = history.at("churn", store.now())
    assert (then.author, then.why, then.since) == (newest.author, newest.why, newest.time)
    rollout.undeploy("churn/again")
    by = {(change.deployment, change.what): change.author for change in history.of("churn") if change.deployment}
    assert by["1", "pending"] == by["again", "withdrawn"] == newest.author and by["1", "healthy"] == ""
    assert f"divided so by  {newest.author}" in re.sub(" {2,}", "  ", cards.as_text(then))


def test_an_endpoint_that_never_was_is_told(workspace: Workspace) -> None:
    with pytest.raises(errors.EndpointNotFound):
        history.of("nothing")
    with pytest.raises(errors.EndpointNotFound):
        history.at("nothing", store.now())
    with pytest.raises(errors.BadOption, match="2999-01-01 00:00 UTC is yet to come"):
        history.at("churn", datetime(2999, 1, 1, tzinfo=UTC))
