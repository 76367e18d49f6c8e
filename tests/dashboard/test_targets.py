"""The page of what runs where, on a workspace whose deployments really run."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import docker
import living
import pytest

from mlops_nb import packaging, rollout, store
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


def shown(page, ref):
    """The row of a deployment."""
    assert not page.exception
    return page.dataframe[0].value.set_index("deployment").loc[ref]


@pytest.mark.xdist_group("engine")
def test_a_container_is_shown_beside_a_process_with_its_image_its_restarts_and_what_it_uses_now(live_workspace, open_page, container_engine, base_image):
    living.churn_model()
    rollout.deploy("churn:1")
    rollout.deploy("churn:1", name="boxed", to="docker", spec=DeploymentSpec(cpus=0.9, memory_mb=400, options={"base": base_image}))

    before = shown(open_page("targets"), "churn/boxed")
    engine = docker.DockerClient(base_url=container_engine)
    engine.containers.get(before["runs as"].removeprefix("container ")).kill()
    living.wait_for(lambda: living.deployment("churn/boxed").restarts == 1 and living.deployment("churn/boxed").status == "healthy", what="another container")
    page = open_page("targets")
    after = shown(page, "churn/boxed")

    digest = packaging.packages("churn:1")[0].digest
    assert before["image"] == after["image"] == digest.removeprefix("sha256:")[:12]
    assert list(page.dataframe[1].value["digest"]) == [digest]
    assert (before["restarts"], after["restarts"]) == (0, 1) and before["runs as"] != after["runs as"]
    assert before["cores"] >= 0 and 20 < after["memory MB"] < 400 and 0 < after["of limit"] < 100
    assert before["target"] == "docker" and "CPUExecutionProvider" in before["proved"] and before["core limit"] == "0.9"
    assert {metric.label: metric.value for metric in page.metric} == {"local": "1 of 1 healthy", "docker": "1 of 1 healthy"}
    rollout.down()
    engine.images.remove(digest, force=True)


def test_restarts_are_counted_since_it_was_deployed_also_after_a_steady_minute(live_workspace, open_page):
    living.churn_model()
    rollout.deploy("churn:1")
    os.kill(living.deployment("churn/1").handle["pid"], signal.SIGKILL)
    living.wait_for(lambda: living.deployment("churn/1").restarts == 1 and living.deployment("churn/1").status == "healthy", what="another process")

    with store.writing() as tx:  # the minute passes
        tx.execute("UPDATE deployments SET changed_at = ?", [store.now() - timedelta(seconds=61)])
    living.wait_for(lambda: living.deployment("churn/1").restarts == 0, what="it to count as steady")

    assert shown(open_page("targets"), "churn/1")["restarts"] == 1
