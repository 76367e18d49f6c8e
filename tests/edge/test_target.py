"""Deploying to a device, through the store, the agent and a real broker."""

from __future__ import annotations

import resource
import shlex
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from living import X, churn_model, deployment, wait_for
from sklearn.base import BaseEstimator

from mlops_nb import cards, commands, errors, registry, rollout, store, telemetry
from mlops_nb.cli import Terminal
from mlops_nb.edge.requester import Answered, Requester
from mlops_nb.fleet import devices, provisioning
from mlops_nb.settings import Workspace
from mlops_nb.store import checks
from mlops_nb.store import deployments as table
from mlops_nb.store.deployments import DeploymentSpec

from .brokers import Mosquitto
from .devices import Device

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


def say(line: str) -> Any:
    """A command, as in a terminal."""
    return commands.run(shlex.split(line), Terminal(quiet=True))


def ask(mosquitto: Mosquitto, topic: str, rows: int = 1, *, older_by: int = 0) -> list[Answered]:
    """What is answered to *rows* requests about customers, or older ones."""
    got: list[Answered] = []
    requester = Requester(mosquitto.broker, topic, got.append)
    try:
        for number in range(rows):
            requester.ask({"data": [{"age": int(X["age"][number % 100]) + older_by, "income": float(X["income"][number % 100])}]})
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


def test_each_device_is_judged_for_drift_by_what_it_was_asked_within_one_budget(edge_workspace: Workspace, mosquitto: Mosquitto) -> None:
    churn_model()
    for gate in ("gate-1", "gate-2", "gate-3"):
        rollout.deploy("churn:1", to="edge", name=gate, spec=on(gate), wait=False)
    wait_for(lambda: all(deployment(f"churn/{gate}").status == "healthy" for gate in ("gate-1", "gate-2", "gate-3")), what="three devices")
    ask(mosquitto, "churn/gate-1/in", rows=100)
    ask(mosquitto, "churn/gate-2/in", rows=100, older_by=40)
    wait_for(lambda: all(telemetry.captured("churn", deployment=gate).rows == 100 for gate in ("gate-1", "gate-2")), what="telemetry")

    views = {view.name: view for view in say("edge drift --endpoint churn")}

    assert {name: view.drift for name, view in views.items()} == {"gate-1": "no drift", "gate-2": "drift", "gate-3": ""}
    assert "age" in views["gate-2"].drifted and not views["gate-1"].drifted
    assert devices.one("gate-2") == views["gate-2"]
    assert "drift in age" in cards.as_text(views["gate-2"]) and "✓ no drift" in cards.as_text(say("edge devices"))
    with store.reading() as tx:
        made = checks.drift_checks(tx, "churn")
    assert {check.deployment for check in made} == {"gate-1", "gate-2"}
    assert all("one false alarm in 90 days" in check.report["promise"] for check in made)
    with pytest.raises(errors.DeviceNotFound, match="Devices: gate-1, gate-2, gate-3"):
        say("edge drift gate-9")


def test_a_check_of_the_endpoint_is_one_of_the_only_device_behind_it(edge_workspace: Workspace, mosquitto: Mosquitto) -> None:
    churn_model()
    rollout.deploy("churn:1", to="edge", name="gate-1", spec=on("gate-1"))
    with pytest.raises(errors.NothingToCompare) as nothing:
        say("drift churn")
    assert nothing.value.hint == "%mlops endpoints churn", "nobody can invoke a device"
    ask(mosquitto, "churn/gate-1/in", rows=60)
    wait_for(lambda: telemetry.captured("churn", deployment="gate-1").rows >= 60, what="telemetry")

    check = say("drift churn")

    assert devices.one("gate-1").drift_check == check.id


def test_a_version_that_the_device_cannot_run_is_a_failed_deployment_that_says_so_and_the_old_one_goes_on(
    edge_workspace: Workspace, mosquitto: Mosquitto
) -> None:
    churn_model()
    rollout.deploy("churn:1", to="edge", name="gate-1", spec=on("gate-1"))
    registry.register(Refusing().fit(X, X["age"]), name="churn", data="customers", convert=False)

    with pytest.raises(errors.DeploymentFailed, match=r"gate-1 could not run churn:2: .*it goes on with churn:1"):
        rollout.deploy("churn:2", to="edge", name="gate-1", spec=on("gate-1"))

    assert ask(mosquitto, "churn/gate-1/in")[0].said["model"] == "churn:1"


def test_a_device_here_that_is_killed_is_started_again_and_one_without_a_broker_is_waited_for(edge_workspace: Workspace, mosquitto: Mosquitto) -> None:
    churn_model()
    rollout.deploy("churn:1", to="edge", name="gate-1", spec=on("gate-1"))
    pid = deployment("churn/gate-1").handle["pid"]

    psutil.Process(pid).kill()
    wait_for(lambda: (d := deployment("churn/gate-1")).status == "healthy" and d.handle["pid"] != pid, what="another process")
    pid = deployment("churn/gate-1").handle["pid"]

    mosquitto.kill()
    waiting = wait_for(lambda: (d := deployment("churn/gate-1")).status == "unhealthy" and d, what="the outage to be seen")
    assert waiting.reason and "cannot be used" in waiting.reason.message
    mosquitto.start()
    recovered = wait_for(lambda: (d := deployment("churn/gate-1")).status == "healthy" and d, what="the link")
    assert (recovered.handle["pid"], recovered.restarts) == (pid, waiting.restarts)


def test_a_device_here_whose_disk_takes_no_more_says_so_and_goes_on_once_there_is_room(edge_workspace: Workspace, mosquitto: Mosquitto) -> None:
    churn_model()
    rollout.deploy("churn:1", to="edge", name="gate-1", spec=on("gate-1"))
    before = deployment("churn/gate-1").handle["pid"]
    resource.prlimit(before, resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))  # of this process only, as when somebody makes room

    answers = ask(mosquitto, "churn/gate-1/in", rows=100)

    assert {answer.status for answer in answers} == {200}
    wait_for(lambda: (d := deployment("churn/gate-1")).status == "healthy" and d.handle["pid"] != before, what="another process")
    with store.reading() as tx:
        reasons = [str(change["reason"]) for change in table.history(tx, "churn") if change["reason"]]
    assert any("The module ended: " in reason and "state: " in reason for reason in reasons)


def test_what_was_stopped_comes_back_with_the_workspace(edge_workspace: Workspace, mosquitto: Mosquitto) -> None:
    churn_model()
    rollout.deploy("churn:1", to="edge", name="gate-1", spec=on("gate-1"))
    pid = deployment("churn/gate-1").handle["pid"]

    rollout.down()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    rollout.up()

    wait_for(lambda: deployment("churn/gate-1").status == "healthy", what="the device")
    assert ask(mosquitto, "churn/gate-1/in")[0].said["model"] == "churn:1"


def test_a_device_elsewhere_is_waited_for_and_runs_the_version_once_it_comes(edge_workspace: Workspace, mosquitto: Mosquitto, tmp_path: Path) -> None:
    churn_model()
    rollout.deploy("churn:1", to="edge", name="far", spec=DeploymentSpec(options={"device": "far"}), wait=False)
    wait_for(lambda: (reason := deployment("churn/far").reason) and "not online" in reason.message, what="the reason it waits")

    far = Device.of(provisioning.write("far", tmp_path / "far"))
    far.start()
    try:
        wait_for(lambda: deployment("churn/far").status == "healthy", what="the device")
        assert ask(mosquitto, "churn/far/in")[0].said["model"] == "churn:1"
        assert "state=running" in rollout.logs("churn/far")[0]
        far.kill()
        wait_for(lambda: (d := deployment("churn/far")).status == "unhealthy" and d.reason and "not online" in d.reason.message, what="its last will")
        far.start()
        wait_for(lambda: deployment("churn/far").status == "healthy", what="the device again")
        rollout.undeploy("churn/far")
        far.until(lambda s: s.reported.state == "empty", "the device to run nothing")
    finally:
        far.kill()


class Refusing(BaseEstimator):
    """Loads where it was made only: its pickle asks for a file that is gone."""

    def fit(self, rows: Any, target: Any) -> Refusing:
        return self

    def predict(self, rows: Any) -> Any:
        if "mlops_nb.edge" in " ".join(sys.argv) or any("mlops_nb/edge/__main__" in word for word in sys.argv):
            raise RuntimeError("no GPU on this gate")
        return rows["age"]
