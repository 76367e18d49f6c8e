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
from docker.context import Context
from docker.utils import config
from living import wait_for
from ssh_server import SshServer

from mlops_nb import agent, engine, profiling, rollout, ssh, targets, telemetry
from mlops_nb.errors import BadOption, DeploymentFailed, InvocationFailed, NoContainerEngine
from mlops_nb.ports import free_port
from mlops_nb.rollout import Deployed
from mlops_nb.settings import Workspace, using
from mlops_nb.targets import local

pytestmark = pytest.mark.xdist_group("engine")

Deploy = Callable[..., Deployed]
Steady = Callable[[], Deployed]
ContainerOf = Callable[[str], Any]


@pytest.fixture(scope="module")
def far(container_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """The other machine."""
    server = SshServer(tmp_path_factory.mktemp("far"), free_port(), container_engine)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def engine_settings(far: SshServer) -> str:
    """An engine that is over there."""
    return f'container_engine = "{far.address}"\nssh_config = "{far.config}"\n'


def tunnel(workspace: Workspace, endpoint: str) -> psutil.Process | None:
    return next(ssh.tunnels(workspace.run / "deployments" / endpoint), None)


def answers(endpoint: str) -> bool:
    try:
        return bool(rollout.invoke(endpoint, {}))
    except InvocationFailed:
        return False


def told(ref: str) -> str:
    reason = living.deployment(ref).reason
    return reason.message if reason else ""


def test_a_version_over_there_stands_beside_one_that_is_here(in_docker: Deploy, container_of: ContainerOf, docker_world: Workspace) -> None:
    rollout.deploy("churn:1", endpoint="asked")
    in_docker("churn:2", endpoint="asked", traffic=100, cpus=0.9, memory_mb=400)

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

    assert container_of("asked/2") is None and tunnel(docker_world, "asked") is None
    with pytest.raises(docker.errors.NotFound):
        engine.client().volumes.get(volume)
    telemetry.compact()
    assert [line["rows"] for line in telemetry.requests("asked", deployment="2")] == [3]


def _leaves_nothing_but_a_volume(made: dict[str, Any]) -> None:
    assert [mount["Type"] for mount in made["Mounts"]] == ["volume"]
    assert made["HostConfig"]["ReadonlyRootfs"] and made["Config"]["User"].split(":")[0] not in ("", "0", "root")
    token = (local.run_folder(living.deployment("asked/2")) / "token").read_text()
    assert token not in str(made)


def test_a_deployment_over_there_is_measured_by_what_its_engine_counts(in_docker: Deploy) -> None:
    in_docker("churn:2", endpoint="measured", memory_mb=400)

    measured = profiling.profile("measured/2", batches=[64], seconds=3)

    point = measured.points[0]
    assert point["cpu_percent"] > 0 and 20 < point["memory_mb"] <= point["peak_memory_mb"] < 400
    assert "through an ssh tunnel" in measured.advice["measured"]


def test_what_fails_over_there_tells_its_own_line(in_docker: Deploy) -> None:
    with pytest.raises(DeploymentFailed, match=r"LookupError: no table customers .*\.py:7"):
        in_docker("moody:1", endpoint="raising", variables={"MODE": "raise"})


def test_a_tunnel_that_is_killed_is_led_again_to_the_same_container(steady: Steady, container_of: ContainerOf, docker_world: Workspace) -> None:
    steady()
    before, container = tunnel(docker_world, "steady"), container_of("steady/1").id
    assert before

    before.kill()

    wait_for(lambda: (now := tunnel(docker_world, "steady")) and now.pid != before.pid and answers("steady"), what="another tunnel")
    assert container_of("steady/1").id == container


def test_a_machine_that_is_gone_is_told_and_served_from_again_when_it_is_back(steady: Steady, container_of: ContainerOf, far: SshServer) -> None:
    steady()
    container = container_of("steady/1").id

    far.stop()

    try:
        wait_for(lambda: "127.0.0.1" in told("steady/1") and "no ssh server listens there" in told("steady/1"), what="its silence to be told")
    finally:
        far.start()
    wait_for(lambda: living.deployment("steady/1").status == "healthy" and answers("steady"), what="it to serve again")
    assert container_of("steady/1").id == container


def test_an_agent_that_is_killed_leaves_container_and_tunnel_to_the_next(steady: Steady, container_of: ContainerOf, docker_world: Workspace) -> None:
    steady()
    container, led = container_of("steady/1").id, tunnel(docker_world, "steady")
    assert led

    os.kill(int((docker_world.run / "agent.lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent to be gone")
    assert answers("steady") and led.is_running()
    agent.ensure()
    container_of("steady/1").kill()

    wait_for(lambda: (found := container_of("steady/1")) and found.id != container and answers("steady"), seconds=90, what="the next agent to mend it")
    assert (now := tunnel(docker_world, "steady")) and now.pid != led.pid


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ssh://nobody-here@127.0.0.1:{port}", "its ssh server takes none of your keys"),
        ("ssh://127.0.0.1:{port}/nowhere/docker.sock", "no engine listens on that machine"),
        ("ssh://127.0.0.1:9", "no ssh server listens there"),
        ("ssh://localhost:{port}", "its host key is not among your known hosts"),
    ],
)
def test_why_an_engine_cannot_be_reached_is_said(far: SshServer, docker_world: Workspace, address: str, said: str) -> None:
    with pytest.raises(NoContainerEngine, match=said):
        engine.client(at=address.format(port=far.port))


def test_a_docker_context_leads_over_there(far: SshServer, base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(config, "home_dir", lambda: str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{}")  # beside which contexts are kept; without one, in the current folder
    Context("far", host=far.host).save()
    (tmp_path / "config.toml").write_text(f'container_engine = "far"\nssh_config = "{far.config}"\n')

    with using(tmp_path):
        assert engine.address() == far.host
        assert base_image in {tag for image in engine.client().api.images() for tag in image["RepoTags"] or ()}


def test_an_address_with_a_password_is_refused_without_being_repeated(docker_world: Workspace) -> None:
    with pytest.raises(BadOption, match="holds no password") as caught:
        engine.client(at="ssh://me:hunter2@far.example")
    assert "hunter2" not in str(caught.value)


def test_nothing_of_a_connection_remains_when_its_process_is_killed(far: SshServer, docker_world: Workspace) -> None:
    """The engine is asked through an ssh that ends with whoever asks, however that ends."""
    code = "from mlops_nb import engine; engine.facts(); print('there', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
        assert asking.stdout and asking.stdout.readline() == b"there\n"
        clients = [child for child in psutil.Process(asking.pid).children() if child.name() == "ssh"]
        assert clients
        asking.kill()

    wait_for(lambda: not any(client.is_running() and client.status() != psutil.STATUS_ZOMBIE for client in clients), what="its ssh to end")
