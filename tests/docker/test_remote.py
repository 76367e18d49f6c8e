"""Deployments in containers of an engine on another machine, which is reached through a real sshd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import living
import psutil
import pytest
from living import wait_for
from ssh_server import SshServer

from mlops_nb import agent, engine, packaging, registry, rollout, ssh, targets, telemetry
from mlops_nb.errors import BadOption, DeploymentFailed, InvocationFailed, NoContainerEngine
from mlops_nb.rollout import Deployed
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec
from mlops_nb.targets import containers, local

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(scope="module")
def far(container_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """The other machine."""
    server = SshServer(tmp_path_factory.mktemp("far"), local.free_port(), container_engine)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def world(far: SshServer, base_image: str, moody: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose engine is over there, with `churn:1`, `churn:2` and `moody:1`; the images of the last two are there."""
    root = tmp_path_factory.mktemp("here") / "workspace"
    root.mkdir()
    (root / "config.toml").write_text(f'container_engine = "{far.address}"\nssh_config = "{far.config}"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_HOME", str(root))
        living.churn_model()
        living.churn_model()
        registry.register(moody, name="moody", entry=moody / "score.py")
        yield Workspace(root)
        rollout.down()


@pytest.fixture(scope="module")
def images(world: Workspace, base_image: str) -> dict[str, str]:
    made = {}
    for ref in ("churn:2", "moody:1"):
        known = registry.provenance(ref)
        made[ref] = packaging.image_of(known.version, known.environment, base=base_image).digest
    return made


@pytest.fixture
def over_there(images: dict[str, str]) -> Iterator[Callable[..., Deployed]]:
    """`over_there("churn:1", endpoint="a")` deploys to a container; what was deployed is withdrawn after the test."""

    def deploy(ref: str, *, endpoint: str, traffic: int | None = None, **spec: Any) -> Deployed:
        return rollout.deploy(ref, endpoint=endpoint, to="docker", traffic=traffic, spec=DeploymentSpec(options={"image": images[ref]}, **spec))

    yield deploy
    for view in rollout.endpoints():
        if view.name != "steady":
            rollout.undeploy(view.name)


@pytest.fixture
def steady(over_there: Callable[..., Deployed]) -> None:
    """`steady/1` of `moody:1` answers, whatever an earlier test did to it."""
    over_there("moody:1", endpoint="steady")
    wait_for(lambda: answers("steady"), what="steady/1 to answer")


@pytest.fixture
def container_of(container_engine: str, world: Workspace, far: SshServer) -> Callable[[str], Any]:
    """`container_of("churn/1")` is its container, as that machine's own engine has it; None when there is none."""
    there = docker.DockerClient(base_url=container_engine, timeout=60)

    def find(ref: str) -> Any:
        labels = [f"{containers.WORKSPACE}={containers.workspace_mark(far.address)}", f"{containers.DEPLOYMENT}={ref}"]
        return next(iter(there.containers.list(all=True, ignore_removed=True, filters={"label": labels})), None)

    return find


def tunnel(world: Workspace, endpoint: str) -> psutil.Process | None:
    return next(ssh.tunnels(world.run / "deployments" / endpoint), None)


def answers(endpoint: str) -> bool:
    try:
        return bool(rollout.invoke(endpoint, {}))
    except InvocationFailed:
        return False


def told(ref: str) -> str:
    reason = living.deployment(ref).reason
    return reason.message if reason else ""


def test_a_version_over_there_stands_beside_one_that_is_here(over_there: Callable[..., Deployed], container_of: Callable[[str], Any], world: Workspace) -> None:
    rollout.deploy("churn:1", endpoint="asked")
    over_there("churn:2", endpoint="asked", traffic=100, cpus=0.9, memory_mb=400)

    answer = rollout.invoke("asked", living.X.head(3))

    assert answer.deployment == "2" and len(answer.outputs["label"]) == 3
    assert wait_for(lambda: telemetry.requests("asked", deployment="2"), what="the line it captured to be fetched")[0]["rows"] == 3
    usage = targets.get("docker").usage(living.deployment("asked/2"))
    assert usage.memory_mb and 20 < usage.memory_mb < 400 and usage.pid is None and "CPUExecutionProvider" in usage.hardware
    assert any("deployment.started" in line for line in rollout.logs("asked/2"))
    _leaves_nothing_but_a_volume(container_of("asked/2").attrs)
    there = container_of("asked/2").attrs["NetworkSettings"]["Ports"]["8080/tcp"]
    port = living.deployment("asked/2").handle["port"]
    assert [published["HostIp"] for published in there] == ["127.0.0.1"] and there[0]["HostPort"] != str(port)
    assert httpx.get(f"http://127.0.0.1:{port}/v2/models/asked").status_code == 401
    volume = container_of("asked/2").attrs["Mounts"][0]["Name"]

    rollout.undeploy("asked/2")

    assert container_of("asked/2") is None and tunnel(world, "asked") is None
    with pytest.raises(docker.errors.NotFound):
        engine.client().volumes.get(volume)
    telemetry.compact()
    assert [line["rows"] for line in telemetry.requests("asked", deployment="2")] == [3]


def _leaves_nothing_but_a_volume(made: dict[str, Any]) -> None:
    assert [mount["Type"] for mount in made["Mounts"]] == ["volume"]
    assert made["HostConfig"]["ReadonlyRootfs"] and made["Config"]["User"].split(":")[0] not in ("", "0", "root")
    token = (local.run_folder(living.deployment("asked/2")) / "token").read_text()
    assert token not in str(made)


def test_what_fails_over_there_tells_its_own_line(over_there: Callable[..., Deployed]) -> None:
    with pytest.raises(DeploymentFailed, match=r"LookupError: no table customers .*\.py:7"):
        over_there("moody:1", endpoint="raising", variables={"MODE": "raise"})


def test_a_tunnel_that_is_killed_is_led_again_to_the_same_container(steady: None, container_of: Callable[[str], Any], world: Workspace) -> None:
    before, container = tunnel(world, "steady"), container_of("steady/1").id
    assert before

    before.kill()

    wait_for(lambda: (now := tunnel(world, "steady")) and now.pid != before.pid and answers("steady"), what="another tunnel")
    assert container_of("steady/1").id == container


def test_a_machine_that_is_gone_is_told_and_served_from_again_when_it_is_back(steady: None, container_of: Callable[[str], Any], far: SshServer) -> None:
    container = container_of("steady/1").id

    far.stop()

    try:
        wait_for(lambda: "127.0.0.1" in told("steady/1") and "no ssh server listens there" in told("steady/1"), what="its silence to be told")
    finally:
        far.start()
    wait_for(lambda: living.deployment("steady/1").status == "healthy" and answers("steady"), what="it to serve again")
    assert container_of("steady/1").id == container


def test_an_agent_that_is_killed_leaves_container_and_tunnel_to_the_next(steady: None, container_of: Callable[[str], Any], world: Workspace) -> None:
    container, led = container_of("steady/1").id, tunnel(world, "steady")
    assert led

    os.kill(int((world.run / "agent.lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent to be gone")
    assert answers("steady") and led.is_running()
    agent.ensure()
    container_of("steady/1").kill()

    wait_for(lambda: (found := container_of("steady/1")) and found.id != container and answers("steady"), what="the next agent to mend it")
    assert (now := tunnel(world, "steady")) and now.pid != led.pid


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ssh://nobody-here@127.0.0.1:{port}", "its ssh server takes none of your keys"),
        ("ssh://127.0.0.1:{port}/nowhere/docker.sock", "no engine listens on that machine"),
        ("ssh://127.0.0.1:9", "no ssh server listens there"),
        ("ssh://localhost:{port}", "its host key is not among your known hosts"),
    ],
)
def test_why_an_engine_cannot_be_reached_is_said(far: SshServer, world: Workspace, address: str, said: str) -> None:
    with pytest.raises(NoContainerEngine, match=said):
        engine.client(at=address.format(port=far.port))


def test_an_address_with_a_password_is_refused_without_being_repeated(world: Workspace) -> None:
    with pytest.raises(BadOption, match="holds no password") as caught:
        engine.client(at="ssh://me:hunter2@far.example")
    assert "hunter2" not in str(caught.value)


def test_nothing_of_a_connection_remains_when_its_process_is_killed(far: SshServer, world: Workspace) -> None:
    """The engine is asked through an ssh that ends with whoever asks, however that ends."""
    code = "from mlops_nb import engine; engine.facts(); print('there', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
        assert asking.stdout and asking.stdout.readline() == b"there\n"
        clients = [child for child in psutil.Process(asking.pid).children() if child.name() == "ssh"]
        assert clients
        asking.kill()

    wait_for(lambda: not any(client.is_running() and client.status() != psutil.STATUS_ZOMBIE for client in clients), what="its ssh to end")
