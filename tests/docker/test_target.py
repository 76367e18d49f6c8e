"""Deployments as containers of a real engine, behind the same gateway as everything else."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import docker
import httpx
import living
import pytest
from living import wait_for

from mlops_nb import agent, keys, rollout, store, targets, telemetry, traffic
from mlops_nb.errors import BadOption, DeploymentFailed, EngineElsewhere, HardwareMissing, ImageMissing, ImageOfAnother, InvocationFailed, NameTaken
from mlops_nb.rollout import Deployed
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import Deployment, DeploymentSpec
from mlops_nb.targets import containers
from mlops_nb.targets import docker as target

pytestmark = pytest.mark.xdist_group("engine")

Deploy = Callable[..., Deployed]
ContainerOf = Callable[[str], Any]


def test_a_container_answers_through_the_gateway_and_what_it_was_asked_is_kept_here(in_docker: Deploy) -> None:
    in_docker("churn:1", endpoint="asked", cpus=0.5, memory_mb=400)

    answer = rollout.invoke("asked", living.X.head(3))

    assert len(answer.outputs["label"]) == 3
    kept = wait_for(lambda: telemetry.requests("asked"), what="the line it captured")
    assert kept[0]["rows"] == 3
    usage = wait_for(lambda: (seen := targets.get("docker").usage(living.deployment("asked/1"))).cpus is not None and seen, what="its usage")
    assert 20 < usage.memory_mb < 400
    assert usage.image.startswith("sha256:") and usage.where.startswith("container ")
    assert "CPUExecutionProvider" in usage.hardware
    assert any("deployment.started" in line for line in rollout.logs("asked/1"))


def test_a_container_has_no_more_rights_than_it_needs(in_docker: Deploy, container_of: ContainerOf) -> None:
    in_docker("churn:1", endpoint="meek", cpus=0.5, memory_mb=400)

    made = container_of("meek/1").attrs
    host = made["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"], host["Privileged"]) == (True, ["ALL"], ["no-new-privileges:true"], False)
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 400_000_000, 400_000_000)
    assert host["RestartPolicy"]["Name"] in ("no", "")
    assert [binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings] == ["127.0.0.1"]
    assert made["Config"]["User"].split(":")[0] not in ("", "0", "root")
    token = (target.local.run_folder(living.deployment("meek/1")) / "token").read_text()
    assert token not in str(made)


def test_a_container_answers_nobody_who_lacks_its_token(in_docker: Deploy) -> None:
    in_docker("churn:1", endpoint="shy")

    port = living.deployment("shy/1").handle["port"]

    assert httpx.get(f"http://127.0.0.1:{port}/v2/models/shy").status_code == 401


def test_a_split_between_a_process_and_a_container_drops_nothing_under_load(in_docker: Deploy) -> None:
    rollout.deploy("churn:1", endpoint="mixed")
    in_docker("churn:2", endpoint="mixed", traffic=50)
    answered, failed, enough = Counter[str](), list[str](), threading.Event()

    def ask() -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {keys.key('mixed')}"}) as caller:
            while not enough.is_set():
                answer = caller.post(f"{rollout.url_of('mixed')}/score", json={"data": [{"age": 30, "income": 20.0}]})
                answered[answer.headers.get("azureml-model-deployment", "")] += 1
                if answer.status_code != 200:
                    failed.append(f"{answer.status_code} {answer.text}")

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for weights in ({"1": 10, "2": 90}, {"1": 0, "2": 100}, {"1": 100, "2": 0}, {"1": 50, "2": 50}):
        traffic.split("mixed", weights)
        before = sum(answered.values())
        wait_for(lambda before=before: sum(answered.values()) > before + 100, what="a hundred more answers")
    rollout.undeploy("mixed/2")
    enough.set()
    for caller in callers:
        caller.join()

    assert not failed
    assert answered["1"] > 50 and answered["2"] > 50


# ── why it failed ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_script_that_raises_tells_its_own_line(in_docker: Deploy) -> None:
    with pytest.raises(DeploymentFailed, match=r"LookupError: no table customers .*\.py:7") as caught:
        in_docker("moody:1", endpoint="raising", variables={"MODE": "raise"})

    assert 'raise LookupError("no table customers")' in caught.value.detail


def test_a_container_that_takes_too_much_memory_tells_its_limit(in_docker: Deploy) -> None:
    with pytest.raises(DeploymentFailed, match=r"took more than the 300 MB it may take and was killed \(exit code 137\)") as caught:
        in_docker("moody:1", endpoint="hungry", memory_mb=300, variables={"MODE": "hog"})

    assert caught.value.hint == "%mlops deploy moody:1 --endpoint hungry --to docker --memory 600m"


def test_a_container_that_ends_by_itself_tells_its_exit_code_and_last_line(in_docker: Deploy) -> None:
    with pytest.raises(DeploymentFailed, match="ended with exit code 3: the licence ran out"):
        in_docker("moody:1", endpoint="ending", variables={"MODE": "exit"})


def test_a_taken_port_is_told(in_docker: Deploy, docker_world: Workspace) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(DeploymentFailed, match=f"Port {holder.getsockname()[1]} is taken"):
            in_docker("churn:1", endpoint="fixed", port=holder.getsockname()[1])


def test_an_image_that_was_removed_is_told_when_it_is_started_again(in_docker: Deploy, container_of: ContainerOf, the_engine: docker.DockerClient) -> None:
    in_docker("moody:1", endpoint="bare")
    image = living.deployment("bare/1").spec.options["image_id"]
    rollout.down()
    the_engine.images.remove(image, force=True)

    rollout.up()

    failed = living.deployment("bare/1")
    assert failed.status == "failed" and failed.reason
    assert failed.reason.kind == "image missing" and "is not in the container engine any more" in failed.reason.message


def test_a_paused_container_is_told_as_such(in_docker: Deploy, container_of: ContainerOf) -> None:
    in_docker("churn:1", endpoint="frozen")

    container_of("frozen/1").pause()

    told = wait_for(lambda: (d := living.deployment("frozen/1")).status == "unhealthy" and d.reason, what="the pause to be noticed")
    assert told.message == "Its container is paused."
    container_of("frozen/1").unpause()
    wait_for(lambda: living.deployment("frozen/1").status == "healthy", what="it to be healthy again")


# ── whatever happens ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_container_is_brought_back(in_docker: Deploy, container_of: ContainerOf) -> None:
    in_docker("churn:1", endpoint="killed")
    before = container_of("killed/1").id

    container_of("killed/1").kill()

    wait_for(lambda: (d := living.deployment("killed/1")).status == "healthy" and d.restarts == 1, what="it to come back")
    assert container_of("killed/1").id != before
    assert rollout.invoke("killed", living.X.head(1), deployment="1").deployment == "1"


def test_a_server_that_died_in_a_request_is_told_and_brought_back(in_docker: Deploy) -> None:
    in_docker("moody:1", endpoint="dying")

    with pytest.raises(InvocationFailed):
        rollout.invoke("dying", {"die": True})

    wait_for(lambda: (d := living.deployment("dying/1")).status == "healthy" and d.restarts == 1, what="it to come back")


def test_a_container_restarted_by_hand_serves_on(in_docker: Deploy, container_of: ContainerOf) -> None:
    in_docker("churn:1", endpoint="handled")

    container_of("handled/1").restart()

    def answers() -> bool:
        try:
            return bool(rollout.invoke("handled", living.X.head(1)))
        except InvocationFailed:
            return False

    wait_for(lambda: living.deployment("handled/1").status == "healthy" and answers(), what="it to answer again")


def test_a_removed_container_is_replaced(in_docker: Deploy, container_of: ContainerOf) -> None:
    in_docker("churn:1", endpoint="removed")

    container_of("removed/1").remove(force=True)

    wait_for(lambda: (d := living.deployment("removed/1")).status == "healthy" and d.restarts == 1, what="another one")


def test_a_killed_agent_leaves_containers_running_and_the_next_one_knows_them(in_docker: Deploy, container_of: ContainerOf, docker_world: Workspace) -> None:
    in_docker("churn:1", endpoint="orphan")
    before = container_of("orphan/1").id

    os.kill(int((docker_world.run / "agent.lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent to be gone")
    assert rollout.invoke("orphan", living.X.head(1)).deployment == "1"
    agent.ensure()
    wait_for(agent.running, what="another agent")

    container_of("orphan/1").kill()
    wait_for(lambda: living.deployment("orphan/1").restarts == 1 and living.deployment("orphan/1").status == "healthy", what="the next agent to mend it")
    assert container_of("orphan/1").id != before


def test_containers_that_belong_to_no_deployment_are_removed(in_docker: Deploy, the_engine: docker.DockerClient, base_image: str) -> None:
    in_docker("churn:1", endpoint="known")
    labels = {containers.WORKSPACE: containers.workspace_mark(), containers.DEPLOYMENT: "gone/1", containers.GENERATION: "1"}
    stray = the_engine.containers.run(base_image, ["sleep", "600"], labels=labels, detach=True)
    other = the_engine.containers.run(base_image, ["sleep", "600"], labels=labels | {containers.WORKSPACE: "somebody else's"}, detach=True)

    wait_for(lambda: stray.id not in {c.id for c in the_engine.containers.list(all=True)}, what="the stray to be removed")

    assert other.id in {c.id for c in the_engine.containers.list()}
    other.remove(force=True)
    assert living.deployment("known/1").status == "healthy"


def test_down_ends_containers_and_up_brings_them_back(in_docker: Deploy, container_of: ContainerOf) -> None:
    in_docker("churn:1", endpoint="night")

    rollout.down()
    assert container_of("night/1") is None
    rollout.up()

    assert rollout.invoke("night", living.X.head(1)).deployment == "1"


def test_a_withdrawn_container_is_gone_and_its_requests_are_kept(in_docker: Deploy, container_of: ContainerOf, docker_world: Workspace) -> None:
    in_docker("churn:1", endpoint="brief")
    rollout.invoke("brief", living.X.head(2))

    rollout.undeploy("brief/1")

    assert container_of("brief/1") is None
    folder = docker_world.telemetry / "endpoint=brief" / "deployment=1"
    assert not list(folder.glob("live-*.jsonl"))
    telemetry.compact()
    assert list(folder.rglob("*.parquet"))


def test_the_same_deployment_again_is_left_alone_and_another_one_needs_a_name(in_docker: Deploy, container_of: ContainerOf) -> None:
    in_docker("churn:1", endpoint="twice")
    before = container_of("twice/1").id

    in_docker("churn:1", endpoint="twice")
    assert container_of("twice/1").id == before
    with pytest.raises(NameTaken):
        in_docker("churn:1", endpoint="twice", memory_mb=500)


# ── an engine that does not answer ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("deaf", [False, True], ids=["dead", "frozen"])
def test_an_engine_that_does_not_answer_holds_nobody_up(in_docker: Deploy, engine_door: Any, container_of: ContainerOf, deaf: bool) -> None:
    endpoint = f"cut-{'frozen' if deaf else 'dead'}"
    in_docker("churn:1", endpoint=endpoint)

    engine_door.close(deaf=deaf)

    assert rollout.deploy("churn:2", endpoint=f"{endpoint}-beside").status == "healthy"
    assert rollout.invoke(endpoint, living.X.head(1)).deployment == "1"
    assert living.deployment(f"{endpoint}/1").status == "healthy"
    container_of(f"{endpoint}/1").kill()
    told = wait_for(lambda: (d := living.deployment(f"{endpoint}/1")).status == "unhealthy" and d.reason, what="its end to be noticed")
    assert "container engine" in told.message and "does not answer" in told.message
    rollout.undeploy(f"{endpoint}-beside")
    engine_door.open()
    wait_for(lambda: living.deployment(f"{endpoint}/1").status == "healthy", what="it to come back with the engine")


# ── refused before anything is done ──────────────────────────────────────────────────────────────────────────────────


def test_more_cores_than_there_are_is_refused(in_docker: Deploy) -> None:
    with pytest.raises(BadOption, match="more than the"):
        in_docker("churn:1", endpoint="wide", cpus=4096)

    assert "wide" not in {view.name for view in rollout.endpoints()}


def test_gpus_are_refused_where_the_engine_has_none(in_docker: Deploy, the_engine: docker.DockerClient) -> None:
    assert "nvidia" not in the_engine.info()["Runtimes"]

    with pytest.raises(HardwareMissing, match="has no NVIDIA runtime"):
        in_docker("churn:1", endpoint="fast", gpus="all")


@pytest.mark.parametrize(("gpus", "count"), [("all", -1), ("2", 2)])
def test_gpus_are_asked_of_the_engine_as_devices(docker_world: Workspace, gpus: str, count: int) -> None:
    spec = DeploymentSpec(gpus=gpus, options={"image_id": "sha256:0", "engine": "unix:///var/run/docker.sock"})

    wanted = Deployment(
        endpoint="fast", name="1", model="churn", version=1, target="docker", spec=spec, wanted="running", generation=1, status="pending",
        created_at=store.now(), changed_at=store.now(),
    )  # fmt: skip

    asked = target.request(wanted, 8080)

    assert [(device["Count"], device["Capabilities"]) for device in asked["device_requests"]] == [(count, [["gpu"]])]


def test_an_engine_of_another_machine_is_refused(in_docker: Deploy, docker_world: Workspace) -> None:
    config = docker_world.root / "config.toml"
    config.write_text('container_engine = "ssh://somebody@far.example"\n')

    with pytest.raises(EngineElsewhere, match=r"ssh://somebody@far\.example is on another machine"):
        in_docker("churn:1", endpoint="far")

    config.unlink()
    assert "far" not in {view.name for view in rollout.endpoints()}


def test_an_image_of_another_version_is_refused(in_docker: Deploy) -> None:
    in_docker("churn:1", endpoint="one")
    image = living.deployment("one/1").spec.options["image_id"]

    assert in_docker("churn:1", endpoint="again", options={"image": image}).status == "healthy"
    with pytest.raises(ImageOfAnother, match="holds churn:1, not churn:2"):
        in_docker("churn:2", endpoint="two", options={"image": image})


def test_an_image_that_was_not_packaged_is_refused(in_docker: Deploy, base_image: str) -> None:
    with pytest.raises(ImageOfAnother, match="was not made by %mlops package"):
        in_docker("churn:1", endpoint="plain", options={"image": base_image})


def test_an_image_that_is_nowhere_is_told(in_docker: Deploy) -> None:
    with pytest.raises(ImageMissing, match=r"No image 127.0.0.1:9/nobody/nothing:1 .* could not be pulled"):
        in_docker("churn:1", endpoint="void", options={"image": "127.0.0.1:9/nobody/nothing:1"})
