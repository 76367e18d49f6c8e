"""Deploying to a device, through the store, the agent and a real broker."""

from __future__ import annotations

from typing import Any

import pytest
from living import X, churn_model, deployment, wait_for

from mlops_nb import errors, rollout, telemetry
from mlops_nb.edge.requester import Answered, Requester
from mlops_nb.fleet import devices
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec

from .brokers import Mosquitto

pytestmark = pytest.mark.xdist_group("mosquitto")
A_ROW = {"data": [{"age": 40, "income": 50.0}]}


@pytest.fixture
def edge_workspace(live_workspace: Workspace, mosquitto: Mosquitto) -> Workspace:
    """A workspace whose devices belong to `mosquitto`."""
    live_workspace.root.mkdir(parents=True)
    settings = {"edge_broker": mosquitto.broker.url, "edge_ca": mosquitto.broker.ca_file, "edge_credentials": mosquitto.broker.credentials_file}
    (live_workspace.root / "config.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))
    return live_workspace


def on(device: str, **options: Any) -> DeploymentSpec:
    """A deployment to a device that runs here."""
    return DeploymentSpec(options={"device": device, "run": "process"} | options)


def ask(mosquitto: Mosquitto, topic: str, rows: int = 1) -> list[Answered]:
    """What is answered to *rows* requests."""
    got: list[Answered] = []
    requester = Requester(mosquitto.broker, topic, got.append)
    try:
        for number in range(rows):
            requester.ask({"data": [{"age": int(X["age"][number % 100]), "income": float(X["income"][number % 100])}]})
        wait_for(lambda: len(got) == rows, what="answers")
    finally:
        requester.close()
    return got


def test_a_version_is_deployed_to_a_device_asked_replaced_and_withdrawn(edge_workspace: Workspace, mosquitto: Mosquitto) -> None:
    churn_model()
    churn_model_2 = churn_model()

    first = rollout.deploy("churn:1", to="edge", name="gate-1", spec=on("gate-1"))
    assert (first.status, first.url) == ("healthy", f"{mosquitto.broker.url}/churn/gate-1/in")
    assert ask(mosquitto, "churn/gate-1/in")[0].said["model"] == "churn:1"

    second = rollout.deploy("churn:2", to="edge", name="gate-1", spec=on("gate-1"))
    assert (second.status, second.model) == ("healthy", churn_model_2.ref)
    assert ask(mosquitto, "churn/gate-1/in")[0].said["model"] == "churn:2"

    view = wait_for(lambda: (seen := devices.one("gate-1")).model == "churn:2" and seen, what="the device's report")
    assert (view.online, view.state, view.deployment) == (True, "running", "churn/gate-1")
    wait_for(
        lambda: (
            telemetry.captured("churn", deployment="gate-1").rows >= 2
            and telemetry.totals("churn", since=deployment("churn/gate-1").created_at.replace(year=2000))
        ),
        what="telemetry",
    )

    assert rollout.undeploy("churn/gate-1") == ["churn/gate-1"]
    wait_for(lambda: not devices.one("gate-1").online, what="its goodbye")


def test_a_second_endpoint_cannot_take_a_device(edge_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1", to="edge", name="gate-1", spec=on("gate-1"))

    with pytest.raises(errors.DeviceTaken, match="already runs churn/gate-1"):
        rollout.deploy("churn:1", endpoint="other", to="edge", name="gate-1", spec=on("gate-1"))
