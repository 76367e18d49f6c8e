"""Deploying to a cluster: what is applied, what is read back, how traffic moves, what is left when something fails or is killed."""

from __future__ import annotations

import base64
import copy
import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
from living import churn_model, deployment, wait_for

from mlops_nb import agent, alerts, commands, keys, rollout, store, targets, traffic
from mlops_nb.cli import Terminal
from mlops_nb.errors import BadOption, ClusterRefused, ClusterUnreachable, DeploymentFailed, NothingToRollBack, NotOurs, TargetCannot
from mlops_nb.kubernetes import client
from mlops_nb.settings import Workspace, using
from mlops_nb.store import deployments as table
from mlops_nb.store.deployments import Deployment, DeploymentSpec

from . import api_server
from .conftest import deploy, on

pytestmark = pytest.mark.xdist_group("kubernetes")


@pytest.fixture
def two_versions(living: api_server.Cluster) -> api_server.Cluster:
    churn_model()
    churn_model()
    return living


def kinds(cluster: api_server.Cluster) -> set[str]:
    return {kind for kind, namespace, _ in cluster.objects if namespace == "models" and kind not in ("Pod", "Event")}


def weights(cluster: api_server.Cluster) -> dict[str, int]:
    (route,) = cluster.of("HTTPRoute")
    return {backend["name"]: backend["weight"] for backend in route["spec"]["rules"][-1]["backendRefs"]}


def pid_of_the_agent(workspace: Workspace) -> int:
    return int((workspace.run / "agent.lock").read_text())


def test_a_deployment_comes_up_with_all_that_belongs_to_it(two_versions: api_server.Cluster) -> None:
    deployed = deploy("churn:1", hostname="models.example.org", replicas=2, max_replicas=4)

    assert (deployed.status, deployed.traffic, deployed.url) == ("healthy", 100, "http://models.example.org/delays")
    wait_for(lambda: "HTTPRoute" in kinds(two_versions), what="the route")
    assert kinds(two_versions) == {"Deployment", "Service", "Secret", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler", "HTTPRoute"}
    handle = deployment("delays/1").handle
    assert (handle["namespace"], handle["name"], handle["context"]) == ("models", "mlops-delays-1", "tests")
    kept = two_versions.one("Secret", "mlops-delays")["data"]["token"]
    assert base64.b64decode(kept).decode() == keys.key("delays")
    assert keys.key("delays") not in str(handle)


def test_what_the_line_says_is_what_the_cluster_runs(two_versions: api_server.Cluster) -> None:
    two_versions.namespaces.add("team-a")
    line = (
        "deploy churn:1 --endpoint delays --to kubernetes --image registry.example.org/ready:1 --context tests --namespace team-a --gateway edge/public"
        " --hostname models.example.org --replicas 2 --max-replicas 4 --cpus 1.5 --memory 512m --gpus 2 --env MODE=calm --pull-secret registry"
        " --toleration gpu=yes:NoSchedule --toleration spot --node-selector disk=ssd --egress"
    )

    deployed = commands.run(shlex.split(line), Terminal(quiet=True))

    pod = two_versions.one("Deployment", "mlops-delays-1", "team-a")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (deployed.status, deployed.url) == ("healthy", "http://models.example.org/delays")
    assert container["image"] == "registry.example.org/ready:1"
    assert container["resources"]["limits"] == {"cpu": "1500m", "memory": "512Mi", "nvidia.com/gpu": "2"}
    assert {"name": "MODE", "value": "calm"} in container["env"]
    assert (pod["imagePullSecrets"], pod["nodeSelector"]) == ([{"name": "registry"}], {"disk": "ssd"})
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}, {"key": "spot", "operator": "Exists"}]
    grows = two_versions.one("HorizontalPodAutoscaler", "mlops-delays-1", "team-a")["spec"]
    assert (grows["minReplicas"], grows["maxReplicas"]) == (2, 4)
    assert two_versions.one("NetworkPolicy", "mlops-delays-1", "team-a")["spec"]["egress"] == [{}]
    assert two_versions.one("HTTPRoute", "mlops-delays", "team-a")["spec"]["hostnames"] == ["models.example.org"]
    assert {namespace for _, namespace, _ in two_versions.objects} == {"team-a", "edge"}


def test_weights_move_by_a_patch_of_the_route_and_back(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    deploy("churn:2", traffic=10)
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 90, "mlops-delays-2": 10}, what="the canary's share")

    traffic.split("delays", {"1": 0, "2": 100})
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 0, "mlops-delays-2": 100}, what="all to the new one")
    traffic.split("delays", {"1": 100, "2": 0}, why="rolled back")
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 100, "mlops-delays-2": 0}, what="all to the old one")
    route = two_versions.one("HTTPRoute", "mlops-delays")
    assert {entry["manager"] for entry in route["metadata"]["managedFields"]} == {"mlops_nb"}


def test_a_rollback_moves_the_route_back_and_one_whose_deployment_was_withdrawn_says_so(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    deploy("churn:2", traffic=100)
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 0, "mlops-delays-2": 100}, what="all to the new one")

    traffic.roll_back("delays")
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 100, "mlops-delays-2": 0}, what="all to the old one")

    rollout.undeploy("delays/2")
    with pytest.raises(NothingToRollBack, match="The latest had delays/2, which was withdrawn") as refused:
        traffic.roll_back("delays")
    assert refused.value.hint == "%mlops rollback delays --redeploy"


def test_a_rollback_that_may_redeploy_applies_again_what_was_withdrawn(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    rollout.deploy("churn:2", endpoint="delays", to="kubernetes", traffic=100, spec=DeploymentSpec(memory_mb=512, options=on(replicas=2).options))
    applied = copy.deepcopy(two_versions.one("Deployment", "mlops-delays-2")["spec"])
    traffic.roll_back("delays")
    rollout.undeploy("delays/2")
    assert [d["metadata"]["name"] for d in two_versions.of("Deployment")] == ["mlops-delays-1"]

    traffic.roll_back("delays", redeploy=True)

    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 0, "mlops-delays-2": 100}, what="all to the one that is back")
    assert two_versions.one("Deployment", "mlops-delays-2")["spec"] == applied


FAILURES = {
    "not-there": ("could not be pulled", "--image"),
    "private": ("unauthorized", "--pull-secret"),
    "greedy": ("more memory than", "--memory"),
    "broken": ("FileNotFoundError: weights.bin", ""),
    "unsaid": ("exit code 3: exec format error", ""),
    "as-root": ("image will run as root", ""),
    "over-quota": ("quota is used up", "--namespace"),
}


def test_a_deployment_that_fails_says_why_and_leaves_nothing(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")

    for image, (said, hint) in FAILURES.items():
        with pytest.raises(DeploymentFailed, match=said) as caught:
            deploy("churn:2", image, traffic=50)
        assert hint in caught.value.hint
        wait_for(lambda: [d["metadata"]["name"] for d in two_versions.of("Deployment")] == ["mlops-delays-1"], what="the failed one to be deleted")
        if image == "broken":  # the place in the user's code comes from the pod's log
            reason = deployment("delays/2").reason
            assert reason and (reason.kind, reason.where) == ("exception while loading", "score.py, line 4") and "in init" in reason.traceback
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 100}, what="the route as it was")


def test_what_may_yet_mend_is_waited_for_and_then_told(two_versions: api_server.Cluster, workspace: Workspace) -> None:
    (workspace.root / "config.toml").write_text("start_timeout_seconds = 8\n")
    waited_for = {"huge": "3 Insufficient memory", "slow": "statuscode: 503", "unmounted": 'secret "mlops-delays" not found', "silent": "[model]"}
    for image in waited_for:
        rollout.deploy("churn:1", endpoint="delays", name=image, to="kubernetes", spec=on(image), wait=False)

    wait_for(lambda: {deployment(f"delays/{name}").status for name in waited_for} == {"failed"}, what="patience to end")

    for name, said in waited_for.items():
        reason = deployment(f"delays/{name}").reason
        assert reason and said in reason.message
    assert not two_versions.of("Deployment")


def test_withdrawing_leaves_nothing_on_the_cluster(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    deploy("churn:2", traffic=50)

    rollout.undeploy("delays/1")
    assert {d["metadata"]["name"] for d in two_versions.of("Deployment")} == {"mlops-delays-2"} and "Secret" in kinds(two_versions)
    rollout.undeploy("delays")
    assert not kinds(two_versions) and not two_versions.of("Pod")


def test_what_somebody_deletes_on_the_cluster_comes_back(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    two_versions.answer("DELETE", "/apis/apps/v1/namespaces/models/deployments/mlops-delays-1", b"", "")

    wait_for(lambda: two_versions.of("Deployment") and deployment("delays/1").status == "healthy", what="the Deployment to come back")
    assert deployment("delays/1").restarts <= 1


def test_a_pod_that_falls_is_left_to_the_cluster_and_told(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    (pod,) = two_versions.of("Pod")
    ready = pod["status"]
    pod["status"] = ready | {"conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]}
    wait_for(lambda: deployment("delays/1").status == "unhealthy", what="it to be told")
    assert "ContainersNotReady" in deployment("delays/1").reason.message  # nothing more is known of it yet
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    ended = {
        "name": "model",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": killed,
    }
    pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [ended]}

    wait_for(lambda: deployment("delays/1").reason.kind == "out of memory", what="the cause to be told as soon as it is known")
    pod["status"] = ready
    wait_for(lambda: deployment("delays/1").status == "healthy", what="it to recover")
    assert two_versions.one("Deployment", "mlops-delays-1")["metadata"]["generation"] == 1


def test_killing_the_agent_in_the_middle_doubles_nothing(two_versions: api_server.Cluster, workspace: Workspace) -> None:
    rollout.deploy("churn:1", endpoint="delays", to="kubernetes", spec=on(), wait=False)
    wait_for(lambda: two_versions.calls and any(method == "PATCH" and "dryRun" not in url for method, url in two_versions.calls), what="the first call")
    os.kill(pid_of_the_agent(workspace), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent's end")

    deploy("churn:1")

    assert len(two_versions.of("Deployment")) == 1 and len(two_versions.of("Pod")) == 1
    assert two_versions.one("Deployment", "mlops-delays-1")["metadata"]["generation"] == 1


def test_what_no_deployment_leads_to_is_deleted(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    for name, marks in (("mlops-delays-9", {"mlops-nb/deployment": "9"}), ("theirs", {"mlops-nb/workspace": "another"})):
        other = copy.deepcopy(two_versions.one("Deployment", "mlops-delays-1"))
        other["metadata"]["name"] = name
        for head in (other["metadata"], other["spec"]["template"]["metadata"]):
            head["labels"] |= marks
        two_versions.put(other)

    wait_for(lambda: {d["metadata"]["name"] for d in two_versions.of("Deployment")} == {"mlops-delays-1", "theirs"}, what="the stray to go")


def test_a_copy_of_a_workspace_deletes_nothing_that_it_does_not_know(two_versions: api_server.Cluster, workspace: Workspace, tmp_path: Path) -> None:
    rollout.deploy("churn:1", endpoint="delays", to="kubernetes", spec=on())
    target = targets.get("kubernetes")
    assert target.at_home()

    shutil.copytree(workspace.root, tmp_path / "copy", ignore=shutil.ignore_patterns("run"))
    with using(tmp_path / "copy"):
        assert not target.at_home() and target.workspace_id()
        target.end_strays(())

    assert two_versions.one("Deployment", "mlops-delays-1")


def test_going_down_ends_all_else_where_a_cluster_keeps_silent(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    rollout.deploy("churn:1", endpoint="here", to="local")
    two_versions.silent.set()

    with pytest.raises(ClusterUnreachable):
        rollout.down()

    assert (deployment("here/1").status, deployment("here/1").handle) == ("stopped", {}) and not agent.running()
    two_versions.silent.clear()
    rollout.down()
    assert not two_versions.of("Deployment")


def test_a_new_key_reaches_the_cluster_and_restarts_its_pods(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    (before,) = two_versions.of("Pod")
    fresh = keys.rotate("delays")

    wait_for(lambda: base64.b64decode(two_versions.one("Secret", "mlops-delays")["data"]["token"]).decode() == fresh, what="the new key")
    wait_for(lambda: [p["metadata"]["name"] for p in two_versions.of("Pod")] not in ([], [before["metadata"]["name"]]), what="new pods")
    assert deployment("delays/1").status == "healthy"


def test_a_cluster_that_keeps_silent_holds_up_no_local_deployment(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    two_versions.silent.set()
    wait_for(lambda: deployment("delays/1").status == "unhealthy", what="the silence to be noticed")
    began = time.monotonic()

    rollout.deploy("churn:1", endpoint="here", to="local")

    took = time.monotonic() - began
    reason = deployment("delays/1").reason
    two_versions.silent.clear()
    assert reason and "does not answer" in reason.message
    wait_for(lambda: deployment("delays/1").status == "healthy", what="the cluster to be heard again")
    assert len(two_versions.of("Deployment")) == 1 and took < 30


def test_the_log_and_the_usage_are_read_from_the_cluster(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    (pod,) = two_versions.of("Pod")
    used = {"containers": [{"name": "model", "usage": {"cpu": "250m", "memory": "64Mi"}}]}
    two_versions.put({"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": pod["metadata"], **used})

    assert rollout.logs("delays/1") == ["deployment.started delays/3 model=delays:3 port=8080"]
    target = targets.get("kubernetes")
    usage = wait_for(lambda: (found := target.usage(deployment("delays/1"))).cpus and found, what="the usage")
    assert (usage.cpus, round(usage.memory_mb), usage.restarts, usage.image) == (0.25, 67, 0, "sha256:" + "ab" * 32)
    assert alerts.add("delays", "cpu > 90% for 5m").endpoint == "delays"  # what it uses can be watched, what it is asked cannot
    with pytest.raises(TargetCannot, match="keep what it was asked"):
        alerts.add("delays", "p99 > 200ms for 5m")


def test_going_down_deletes_and_coming_up_applies_again(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")

    rollout.down()
    assert not kinds(two_versions)
    rollout.up()
    wait_for(lambda: deployment("delays/1").status == "healthy" and two_versions.of("HTTPRoute"), what="it to be back")


# ── refused before anything is done ──────────────────────────────────────────────────────────────────────────────────


def test_what_the_cluster_would_not_take_is_told_before_anything_is_done(two_versions: api_server.Cluster) -> None:
    with pytest.raises(BadOption, match="No Gateway edge/private"):
        deploy("churn:1", gateway="edge/private")
    two_versions.forbidden.add(("patch", "NetworkPolicy"))
    with pytest.raises(ClusterRefused, match="networkpolicies"):
        deploy("churn:1")
    two_versions.forbidden.clear()
    two_versions.missing_kinds |= {"HTTPRoute", "Gateway"}
    with pytest.raises((BadOption, ClusterRefused)):
        deploy("churn:1")

    assert not kinds(two_versions) and not rollout.endpoints()


def test_more_deployments_than_a_route_can_lead_to_are_refused_before_anything_is_done(two_versions: api_server.Cluster) -> None:
    context, namespace = client.resolved()
    place = {"context": context.name, "kubeconfig": context.kubeconfig, "namespace": namespace}
    with store.writing() as tx:
        for number in range(15):
            table.put(tx, Deployment(
                endpoint="delays", name=f"n{number}", model="churn", version=1, target="kubernetes", spec=on(**place), wanted="running", generation=1,
                status="failed", created_at=store.now(), changed_at=store.now(),
            ))  # fmt: skip

    with pytest.raises(ClusterRefused, match="HTTPRoute"):
        deploy("churn:1")

    assert not kinds(two_versions)


def test_an_object_of_somebody_elses_is_told_before_anything_is_done(two_versions: api_server.Cluster) -> None:
    two_versions.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mlops-delays-1", "namespace": "models"}, "spec": {}})

    with pytest.raises(NotOurs, match="Service mlops-delays-1"):
        deploy("churn:1")

    assert not rollout.endpoints()


def test_a_dead_cluster_is_told_before_anything_is_done(two_versions: api_server.Cluster, api_server: api_server.ApiServer) -> None:
    api_server.stop()

    with pytest.raises(ClusterUnreachable, match="context 'tests' does not answer"):
        deploy("churn:1")

    assert not rollout.endpoints()


def test_what_a_cluster_cannot_do_is_refused(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")

    with pytest.raises(BadOption, match="an endpoint is in one place"):
        deploy("churn:2", namespace="default")
    with pytest.raises(TargetCannot):
        rollout.deploy("churn:2", endpoint="delays", to="local")
    with pytest.raises(TargetCannot, match="cannot listen on a port of your choice"):
        rollout.deploy("churn:2", endpoint="delays", to="kubernetes", spec=DeploymentSpec(port=9000, options=on().options))
    with pytest.raises(TargetCannot, match="cannot answer copies"):
        traffic.mirror("delays/1", 10)
    with pytest.raises(TargetCannot, match="cannot keep callers"):
        traffic.known_by("delays", "header:x-user")
    with pytest.raises(TargetCannot, match="cannot be asked over HTTP from here") as caught:
        rollout.invoke("delays", {"age": [20]})
    assert caught.value.hint.startswith("kubectl --context tests --namespace models port-forward service/mlops-delays-1 8080:80")


def test_no_secret_is_in_the_store_or_in_a_log(two_versions: api_server.Cluster, workspace: Workspace) -> None:
    deploy("churn:1")
    rollout.down()

    for secret in (keys.key("delays"), api_server.TOKEN):
        for file in [workspace.store, *workspace.run.rglob("*.log")]:
            assert secret.encode() not in Path(file).read_bytes()
