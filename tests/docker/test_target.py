"""Deployments as containers of a real engine, behind the same gateway as everything else."""

from __future__ import annotations

import io
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

from mlops_nb import agent, engine, keys, lineage, profiling, rollout, store, targets, telemetry, traffic
from mlops_nb.errors import BadOption, DeploymentFailed, EngineElsewhere, HardwareMissing, ImageMissing, ImageOfAnother, InvocationFailed, NameTaken
from mlops_nb.rollout import Deployed
from mlops_nb.settings import Workspace
from mlops_nb.store import events
from mlops_nb.store.deployments import Deployment, DeploymentSpec
from mlops_nb.targets import containers
from mlops_nb.targets import docker as target

pytestmark = pytest.mark.xdist_group("engine")

Deploy = Callable[..., Deployed]
Steady = Callable[[], Deployed]
ContainerOf = Callable[[str], Any]


def test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here(in_docker: Deploy, container_of: ContainerOf, base_image: str) -> None:
    in_docker("churn:1", endpoint="asked", cpus=0.9, memory_mb=400, options={"base": base_image})

    answer = rollout.invoke("asked", living.X.head(3))

    assert len(answer.outputs["label"]) == 3
    assert wait_for(lambda: telemetry.requests("asked"), what="the line it captured")[0]["rows"] == 3
    usage = targets.get("docker").usage(living.deployment("asked/1"))
    assert usage.cpus is not None and usage.memory_mb and 20 < usage.memory_mb < 400
    assert usage.image.startswith("sha256:") and usage.where.startswith("container ")
    assert "CPUExecutionProvider" in usage.hardware
    assert any("deployment.started" in line for line in rollout.logs("asked/1"))
    _has_no_more_rights_than_it_needs(container_of("asked/1").attrs)
    assert [edge.label for edge in _way_back("deployment:asked/1")] == ["run by", "built as", "packaged as"]
    port = living.deployment("asked/1").handle["port"]
    assert httpx.get(f"http://127.0.0.1:{port}/v2/models/asked").status_code == 401

    point = profiling.profile("asked/1", batches=[8], seconds=3).points[0]
    assert point["cpu_percent"] > 0 and 20 < point["memory_mb"] <= point["peak_memory_mb"] < 400

    rollout.undeploy("asked")

    assert container_of("asked/1") is None
    assert not list((Workspace.current().telemetry / "endpoint=asked" / "deployment=1").glob("live-*.jsonl"))
    telemetry.compact()
    assert telemetry.requests("asked")[0]["rows"] == 3


def _way_back(id: str) -> list[lineage.Edge]:
    """From a deployment by its image and package to the model version."""
    edges = {edge.target: edge for edge in lineage.graph("asked/1").edges if edge.label in ("run by", "built as", "packaged as")}
    return [edges[id], *_way_back(edges[id].source)] if id in edges else []


def _has_no_more_rights_than_it_needs(made: dict[str, Any]) -> None:
    host = made["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"], host["Privileged"]) == (True, ["ALL"], ["no-new-privileges:true"], False)
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (900_000_000, 400_000_000, 400_000_000)
    assert host["RestartPolicy"]["Name"] in ("no", "")
    assert [binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings] == ["127.0.0.1"]
    assert made["Config"]["User"].split(":")[0] not in ("", "0", "root")
    token = (target.local.run_folder(living.deployment("asked/1")) / "token").read_text()
    assert token not in str(made)


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


def test_requests_that_take_too_much_memory_again_and_again_are_told_as_a_crash_loop(in_docker: Deploy) -> None:
    in_docker("moody:1", endpoint="greedy", memory_mb=300)

    for fall in (1, 2, 3):
        wait_for(lambda: _answered("greedy", {}), what="it to answer")
        assert not _answered("greedy", {"eat": True})
        wait_for(lambda fall=fall: len(_falls("greedy/1")) == fall, what="its end to be told")

    first, *_, last = _falls("greedy/1")
    assert first == "It took more than the 300 MB it may take and was killed (exit code 137)."
    assert last == f"{first} Crash loop: none of its last 2 starts lasted a minute; the next one is in 1 s."
    wait_for(lambda: _answered("greedy", {}), what="it to be back")


def _answered(endpoint: str, body: dict[str, Any]) -> bool:
    try:
        return bool(rollout.invoke(endpoint, body))
    except InvocationFailed:
        return False


def _falls(ref: str) -> list[str]:
    """What was told each time it was started again, the first first."""
    with store.reading() as tx:
        return [event.data["reason"] for event in reversed(events.latest(tx, subject=ref, what="DeploymentRestarting"))]


def test_a_container_that_ends_by_itself_tells_its_exit_code_and_last_line(in_docker: Deploy) -> None:
    with pytest.raises(DeploymentFailed, match="ended with exit code 3: the licence ran out"):
        in_docker("moody:1", endpoint="ending", variables={"MODE": "exit"})


def test_a_taken_port_is_told(in_docker: Deploy) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(DeploymentFailed, match=f"Port {holder.getsockname()[1]} is taken"):
            in_docker("churn:1", endpoint="fixed", port=holder.getsockname()[1])


def test_an_image_that_was_removed_is_told_when_it_is_started_again(in_docker: Deploy, the_engine: docker.DockerClient, images: dict[str, str]) -> None:
    lines = f"FROM {images['churn:1']}\nLABEL passing=yes\n"
    image, _ = the_engine.images.build(fileobj=io.BytesIO(lines.encode()))
    in_docker("churn:1", endpoint="bare", options={"image": image.id})
    rollout.down()
    the_engine.images.remove(image.id, force=True)

    rollout.up()

    failed = living.deployment("bare/1")
    assert failed.status == "failed" and failed.reason
    assert failed.reason.kind == "image missing" and "is not in the container engine any more" in failed.reason.message


def test_a_paused_container_is_told_as_such(steady: Steady, container_of: ContainerOf) -> None:
    steady()

    container_of("steady/1").pause()

    told = wait_for(lambda: (d := living.deployment("steady/1")).status == "unhealthy" and d.reason, what="the pause to be noticed")
    assert told.message == "Its container is paused."
    container_of("steady/1").unpause()
    wait_for(lambda: living.deployment("steady/1").status == "healthy", what="it to be healthy again")


# ── whatever happens ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", ["killed", "removed", "restarted by hand", "died in a request"])
def test_a_container_comes_back(steady: Steady, container_of: ContainerOf, fault: str) -> None:
    steady()
    before = container_of("steady/1").id

    if fault == "killed":
        container_of("steady/1").kill()
    elif fault == "removed":
        container_of("steady/1").remove(force=True)
    elif fault == "restarted by hand":
        container_of("steady/1").restart(timeout=1)
    else:
        with pytest.raises(InvocationFailed):
            rollout.invoke("steady", {"die": True})

    if fault != "restarted by hand":  # that one may be quicker than the agent
        wait_for(lambda: (found := container_of("steady/1")) and found.id != before, what="another container")
    steady()


def test_a_killed_agent_leaves_containers_running_and_the_next_one_knows_them(steady: Steady, container_of: ContainerOf, docker_world: Workspace) -> None:
    steady()
    before = container_of("steady/1").id

    os.kill(int((docker_world.run / "agent.lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent to be gone")
    assert rollout.invoke("steady", {}).deployment == "1"
    agent.ensure()
    steady()
    assert container_of("steady/1").id == before
    container_of("steady/1").kill()

    wait_for(lambda: (found := container_of("steady/1")) and found.id != before, what="the next agent to mend it")


def test_containers_that_belong_to_no_deployment_are_removed(steady: Steady, the_engine: docker.DockerClient, base_image: str) -> None:
    steady()
    labels = {containers.WORKSPACE: containers.workspace_mark(engine.address()), containers.DEPLOYMENT: "gone/1", containers.GENERATION: "1"}
    stray = the_engine.containers.run(base_image, ["sleep", "600"], labels=labels, detach=True)
    other = the_engine.containers.run(base_image, ["sleep", "600"], labels=labels | {containers.WORKSPACE: "somebody else's"}, detach=True)

    wait_for(lambda: stray.id not in {c.id for c in the_engine.containers.list(all=True, ignore_removed=True)}, what="the stray to be removed")

    assert other.id in {c.id for c in the_engine.containers.list()}
    other.remove(force=True)
    assert living.deployment("steady/1").status == "healthy"


def test_down_ends_containers_and_up_brings_them_back(steady: Steady, container_of: ContainerOf) -> None:
    steady()

    rollout.down()
    assert container_of("steady/1") is None
    rollout.up()

    assert rollout.invoke("steady", {}).deployment == "1"


def test_the_same_deployment_again_is_left_alone_and_another_one_needs_a_name(steady: Steady, in_docker: Deploy, container_of: ContainerOf) -> None:
    steady()
    before = container_of("steady/1").id

    steady()
    assert container_of("steady/1").id == before
    with pytest.raises(NameTaken):
        in_docker("moody:1", endpoint="steady", memory_mb=500)


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
    wait_for(lambda: "does not answer" in _told(f"{endpoint}/1") and "engine" in _told(f"{endpoint}/1"), what="the engine's silence to be given as the reason")
    rollout.undeploy(f"{endpoint}-beside")
    engine_door.open()
    wait_for(lambda: living.deployment(f"{endpoint}/1").status == "healthy", what="it to come back with the engine")


def _told(ref: str) -> str:
    reason = living.deployment(ref).reason
    return reason.message if reason else ""


# ── refused before anything is done ──────────────────────────────────────────────────────────────────────────────────


def test_more_cores_or_memory_than_there_is_is_refused(in_docker: Deploy) -> None:
    with pytest.raises(BadOption, match=r"more than the .* MB of the container engine"):
        in_docker("churn:1", endpoint="huge", memory_mb=100_000_000)
    with pytest.raises(BadOption, match="more than the"):
        in_docker("churn:1", endpoint="wide", cpus=4096)

    assert not {"huge", "wide"} & {view.name for view in rollout.endpoints()}


def test_gpus_are_refused_where_the_engine_has_none(in_docker: Deploy, the_engine: docker.DockerClient) -> None:
    assert "nvidia" not in the_engine.info()["Runtimes"]

    with pytest.raises(HardwareMissing, match="has no NVIDIA runtime"):
        in_docker("moody:1", endpoint="fast", gpus="all")


@pytest.mark.parametrize(("gpus", "count"), [("all", -1), ("2", 2)])
def test_gpus_are_asked_of_the_engine_as_devices(workspace: Workspace, gpus: str, count: int) -> None:
    spec = DeploymentSpec(gpus=gpus, options={"image_id": "sha256:0", "engine": "unix:///var/run/docker.sock"})

    wanted = Deployment(
        endpoint="fast", name="1", model="churn", version=1, target="docker", spec=spec, wanted="running", generation=1, status="pending",
        created_at=store.now(), changed_at=store.now(),
    )  # fmt: skip

    asked = target.request(wanted, 8080)

    assert [(device["Count"], device["Capabilities"]) for device in asked["device_requests"]] == [(count, [["gpu"]])]


def test_an_engine_of_another_machine_that_is_not_reached_over_ssh_is_refused(in_docker: Deploy, docker_world: Workspace) -> None:
    config = docker_world.root / "config.toml"
    config.write_text('container_engine = "tcp://far.example:2376"\n')

    with pytest.raises(EngineElsewhere, match=r"tcp://far\.example:2376 is on another machine"):
        in_docker("churn:1", endpoint="far")

    config.unlink()
    assert "far" not in {view.name for view in rollout.endpoints()}


def test_an_image_of_another_version_is_refused(in_docker: Deploy, images: dict[str, str]) -> None:
    with pytest.raises(ImageOfAnother, match="holds churn:1, not churn:2"):
        in_docker("churn:2", endpoint="two", options={"image": images["churn:1"]})


def test_an_image_that_was_not_packaged_is_refused(in_docker: Deploy, base_image: str) -> None:
    with pytest.raises(ImageOfAnother, match="holds no packaged model"):
        in_docker("churn:1", endpoint="plain", options={"image": base_image})


def test_an_image_that_is_nowhere_is_told(in_docker: Deploy) -> None:
    with pytest.raises(ImageMissing, match=r"No image 127.0.0.1:9/nobody/nothing:1 .* could not be pulled: nobody listens where its registry should be"):
        in_docker("churn:1", endpoint="void", options={"image": "127.0.0.1:9/nobody/nothing:1"})
