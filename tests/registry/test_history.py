"""What served at any past moment, from rows that are only ever added."""

from __future__ import annotations

import pytest
from living import churn_model

from mlops_nb import errors, history, rollout, store, traffic
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


def test_changes_tell_who_and_why(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1")
    rollout.deploy("churn:1", name="again")
    traffic.split("churn", {"1": 40, "again": 60}, why="it is quicker")

    newest = next(change for change in history.of("churn") if not change.deployment)

    assert (newest.what, newest.why) == ("1=40 again=60", "it is quicker")
    assert newest.author


def test_an_endpoint_that_never_was_is_told(workspace: Workspace) -> None:
    with pytest.raises(errors.EndpointNotFound):
        history.of("nothing")
    with pytest.raises(errors.EndpointNotFound):
        history.at("nothing", store.now())
