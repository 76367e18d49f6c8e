"""The page of what runs where, on a workspace whose deployments really run."""

from __future__ import annotations

import living

from mlops_nb import rollout
from mlops_nb.store.deployments import DeploymentSpec


def test_what_runs_is_shown_with_what_it_proved_to_run_on_and_what_it_uses(live_workspace, open_page):
    living.churn_model()
    rollout.deploy("churn:1", spec=DeploymentSpec(memory_mb=800, cpus=1))

    page = open_page("targets")

    assert not page.exception
    row = page.dataframe[0].value.set_index("deployment").loc["churn/1"]
    assert row["runs as"].startswith("process ")
    assert "CPUExecutionProvider" in row["proved"]
    assert row["cores"] >= 0 and 20 < row["memory MB"] < 800 and 0 < row["of limit"] < 100
    assert [(metric.label, metric.value) for metric in page.metric] == [("local", "1 of 1 healthy")]


def test_what_a_place_does_not_tell_is_left_empty(open_page, busy, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")

    page = open_page("targets")

    assert not page.exception
    rows = page.dataframe[0].value.set_index("deployment")
    assert rows.loc["churn/1", "target"] == "docker"
    assert not rows.loc["churn/1", "runs as"]
