"""Devices in containers of a real engine, deployed through the store and the agent, at a real broker."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from living import X, churn_model, deployment, wait_for

from mlops_nb import packaging, rollout, targets
from mlops_nb.edge.requester import Answered, Requester
from mlops_nb.engine import address
from mlops_nb.errors import BadOption, DeviceTaken, EngineElsewhere
from mlops_nb.fleet import devices
from mlops_nb.rollout import Deployed
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec
from mlops_nb.targets import containers

from .brokers import Mosquitto
from .test_outages import OUTAGE_SECONDS, load_on

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One broker for all of these."""
    broker = Mosquitto(tmp_path_factory.mktemp("broker") / "mosquitto").start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def world(mosquitto: Mosquitto, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with `churn:1` and `churn:2`, and `gates/gate-1` in a container: with `churn:1`, asked on gates/in."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("world") / "workspace"
        patch.setenv("MLOPS_HOME", str(root))
        root.mkdir()
        named = {"edge_broker": mosquitto.broker.url, "edge_ca": mosquitto.broker.ca_file, "edge_credentials": mosquitto.broker.credentials_file}
        (root / "config.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in named.items()))
        versions = [churn_model(), churn_model()]
        yield Workspace(root)
        rollout.down()
        engine = docker.DockerClient.from_env(timeout=60)
        for version in versions:
            with contextlib.suppress(docker.errors.ImageNotFound):  # only what was deployed has one
                engine.api.remove_image(engine.images.get(packaging.own_tag(packaging.default_tag(version, "edge"))).id, force=True)


@pytest.fixture(scope="module")
def deploy(world: Workspace, base_image: str) -> Callable[..., Deployed]:
    """`deploy("churn:1")` runs it on gate-1."""

    def on_gate_1(ref: str, *, endpoint: str = "gates", run: str = "container", **spec: Any) -> Deployed:
        options = {"device": "gate-1", "run": run, "topic_in": "gates/in", "topic_out": "gates/out"} | ({"base": base_image} if run == "container" else {})
        return rollout.deploy(ref, endpoint=endpoint, to="edge", name="gate-1", spec=DeploymentSpec(options=options, **spec))

    return on_gate_1


@pytest.fixture(scope="module")
def engine(container_engine: str) -> docker.DockerClient:
    """A client of our own, to look behind the scenes."""
    return docker.DockerClient(base_url=container_engine, timeout=60)


@pytest.fixture
def container(engine: docker.DockerClient, world: Workspace) -> Callable[[], Any]:
    """`container()` is gate-1's container, stopped ones included; None when there is none."""

    def find() -> Any:
        labels = [f"{containers.WORKSPACE}={containers.workspace_mark(address())}", f"{containers.DEVICE}=gate-1"]
        return next(iter(engine.containers.list(all=True, ignore_removed=True, filters={"label": labels})), None)

    return find


def asked(mosquitto: Mosquitto) -> Answered:
    """What is answered to one request."""
    got: list[Answered] = []
    requester = Requester(mosquitto.broker, "gates/in", got.append)
    try:
        requester.ask({"data": [{"age": int(X["age"][0]), "income": float(X["income"][0])}]})
        wait_for(lambda: got, what="the answer")
    finally:
        requester.close()
    return got[0]


def test_a_device_in_a_container_answers_with_no_more_rights_than_it_needs(
    deploy: Callable[..., Deployed], mosquitto: Mosquitto, container: Callable[[], Any]
) -> None:
    deployed = deploy("churn:1", cpus=1)

    assert (deployed.status, deployed.url) == ("healthy", f"{mosquitto.broker.url}/gates/in")
    assert asked(mosquitto).said["model"] == "churn:1"
    made = container().attrs
    host = made["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"], host["Privileged"]) == (True, ["ALL"], ["no-new-privileges:true"], False)
    assert (host["NanoCpus"], host["PortBindings"] or {}, host["RestartPolicy"]["Name"]) == (1_000_000_000, {}, "no")
    assert host["NetworkMode"] == "host", "nothing else leads to a broker on loopback"
    assert {mount["Destination"]: mount["RW"] for mount in made["Mounts"]} == {"/var/lib/mlops": False, "/var/lib/mlops/state": True}
    assert made["Config"]["User"].split(":")[0] not in ("", "0", "root")
    _listens_nowhere(made["State"]["Pid"])
    secret = mosquitto.broker.credentials()
    assert secret is not None and secret.password not in str(made)
    for file in (Workspace.current().root / "edge" / "gate-1" / "container").iterdir():
        assert file.is_dir() or file.stat().st_mode & 0o077 == 0
    usage = targets.get("edge").usage(deployment("gates/gate-1"))
    assert usage.memory_mb and usage.cpus is not None and usage.image.startswith("sha256:") and "container " in usage.where
    assert any("link.up" in line for line in rollout.logs("gates/gate-1"))
    wait_for(lambda: devices.one("gate-1").online, what="the device to be heard")


def _listens_nowhere(pid: int) -> None:
    own = {opened.readlink().name for opened in Path(f"/proc/{pid}/fd").iterdir()}
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
        assert not [row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]


def test_a_container_killed_under_load_and_with_its_broker_gone_for_half_a_minute_is_started_again_and_loses_nothing(
    deploy: Callable[..., Deployed], mosquitto: Mosquitto, container: Callable[[], Any]
) -> None:
    deploy("churn:1", cpus=1)

    with load_on(mosquitto) as load:
        for killed_too in (None, mosquitto):
            before, gone = len(load.got), container()
            if killed_too:
                killed_too.kill()
            since = time.monotonic()
            gone.kill()
            wait_for(lambda gone=gone: (now := container()) and now.id != gone.id and now.status == "running", what="another container")
            if killed_too:
                time.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - since)))  # the outage itself
                killed_too.start()
            wait_for(lambda before=before: len(load.got) > before + 100, seconds=60, what="answers after the kill")

    assert load.got == Counter(dict.fromkeys(load.asked, 1))
    assert load.statuses == {200: len(load.asked)}
    wait_for(lambda: deployment("gates/gate-1").status == "healthy", what="the agent to see it")
    assert deployment("gates/gate-1").restarts >= 2


def test_another_version_comes_in_an_image_of_its_own_and_no_request_is_lost(
    deploy: Callable[..., Deployed], mosquitto: Mosquitto, container: Callable[[], Any]
) -> None:
    deploy("churn:1", cpus=1)
    before = container()

    with load_on(mosquitto) as load:
        second = deploy("churn:2", cpus=1)
        assert (second.status, second.model) == ("healthy", "churn:2")

    assert container().attrs["Image"] != before.attrs["Image"]
    assert load.got == Counter(dict.fromkeys(load.asked, 1)) and load.statuses == {200: len(load.asked)}
    assert asked(mosquitto).said["model"] == "churn:2"


def test_a_device_in_a_container_is_no_stray_of_other_containers_and_is_one_without_its_deployment(
    deploy: Callable[..., Deployed], engine: docker.DockerClient, container: Callable[[], Any], base_image: str
) -> None:
    deploy("churn:2", cpus=1)
    before = container()
    labels = {containers.WORKSPACE: containers.workspace_mark(address()), containers.DEVICE: "gate-9"}
    stray = engine.containers.create(base_image, ["sleep", "600"], labels=labels)

    targets.get("docker").end_strays(())
    assert stray.id in {found.id for found in engine.containers.list(all=True, ignore_removed=True)}
    targets.get("edge").end_strays([deployment("gates/gate-1")])

    assert stray.id not in {found.id for found in engine.containers.list(all=True, ignore_removed=True)}
    assert container().id == before.id


def test_how_a_device_runs_here_changes_only_once_it_ended(deploy: Callable[..., Deployed]) -> None:
    deploy("churn:2", cpus=1)

    with pytest.raises(BadOption, match="gate-1 runs here as a container") as refused:
        deploy("churn:2", run="process")
    with pytest.raises(DeviceTaken, match="already runs gates/gate-1"):
        deploy("churn:2", endpoint="other")
    with pytest.raises(BadOption, match="this device runs in none"):
        rollout.deploy("churn:2", to="edge", spec=DeploymentSpec(options={"device": "gate-2", "run": "process", "base": "debian"}))

    assert refused.value.hint == "%mlops undeploy gates/gate-1"


def test_what_was_stopped_comes_back_with_the_workspace_and_what_is_withdrawn_is_gone(
    deploy: Callable[..., Deployed], mosquitto: Mosquitto, container: Callable[[], Any]
) -> None:
    deploy("churn:2", cpus=1)

    rollout.down()
    assert container() is None
    rollout.up()
    wait_for(lambda: deployment("gates/gate-1").status == "healthy", what="the device")
    assert asked(mosquitto).said["model"] == "churn:2"
    assert any("module.ended" in line for line in rollout.logs("gates/gate-1")), "the log of the container before"

    rollout.undeploy("gates")
    assert container() is None
    wait_for(lambda: not devices.one("gate-1").online, what="its goodbye")


def test_a_device_in_a_container_of_another_machines_engine_is_refused_before_anything_is_done(workspace: Workspace) -> None:
    workspace.root.mkdir()
    (workspace.root / "config.toml").write_text('edge_broker = "mqtt://127.0.0.1:9"\ncontainer_engine = "ssh://somebody@far.example"\n')
    churn_model()

    with pytest.raises(EngineElsewhere, match=r"ssh://somebody@far\.example is on another machine; a device's folder would be there, not here"):
        rollout.deploy("churn:1", to="edge", spec=DeploymentSpec(options={"device": "gate-2", "run": "container"}))

    assert rollout.endpoints() == []
