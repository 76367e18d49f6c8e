"""Deploying as KServe InferenceServices: the whole life of an endpoint in this style, and what is refused before anything is done."""

from __future__ import annotations

import base64
import copy
import shlex

import pytest
from living import churn_model, deployment, wait_for

from mlops_nb import commands, keys, rollout, targets, traffic
from mlops_nb.cli import Terminal
from mlops_nb.errors import BadOption, ClusterRefused, DeploymentFailed, NotOurs, TargetCannot
from mlops_nb.kubernetes import manifests, names
from mlops_nb.kubernetes.manifests import STATE, Toleration
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec

from . import api_server
from .api_server import checked
from .conftest import deploy, on, workload
from .test_deploying import kinds, weights

pytestmark = pytest.mark.xdist_group("kubernetes")


@pytest.fixture
def two_versions(living: api_server.Cluster) -> api_server.Cluster:
    churn_model()
    churn_model()
    return living


def kserve(ref: str, image: str = "ready", **words: object) -> rollout.Deployed:
    return deploy(ref, image, style="kserve", **words)  # type: ignore[arg-type]


def of(kind: str, cluster: api_server.Cluster) -> list[str]:
    return [thing["metadata"]["name"] for thing in cluster.of(kind)]


# ── what is applied ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_deployment_is_one_inference_service_in_the_standard_mode() -> None:
    made = workload(
        style="kserve", replicas=2, most_replicas=6, cpus=1.5, memory_mb=512, gpus=2, pull_secrets=("registry",), node_selector={"disk": "ssd"},
        tolerations=(Toleration(key="gpu", value="yes", effect="NoSchedule"),),
    )  # fmt: skip
    policy, service, budget = manifests.of_workload(made)

    for manifest in (policy, service, budget):
        checked(manifest)
    predictor = service["spec"]["predictor"]
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert service["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"  # the route alone lets in
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 6)
    plain = manifests.pod(workload(**{field: getattr(made.placement, field) for field in made.placement.__struct_fields__}))
    assert {key: predictor[key] for key in plain} == manifests.pod(made, name="kserve-container") and predictor["tolerations"] == plain["tolerations"]
    assert predictor["containers"][0]["resources"]["limits"] == {"cpu": "1500m", "memory": "512Mi", "nvidia.com/gpu": "2"}
    assert policy["spec"]["podSelector"] == budget["spec"]["selector"] == {"matchLabels": manifests.labels(made)}  # KServe hands our labels on


def test_the_mark_changes_with_what_runs_and_with_the_key() -> None:
    marks = {manifests.inference_service(workload(style="kserve", image=f"r.example.org/ready:{tag}"))["metadata"]["annotations"][STATE] for tag in "112"}

    assert len(marks) == 2
    assert "mlops-nb/key-mark" in manifests.inference_service(workload(style="kserve"))["metadata"]["annotations"]


@pytest.mark.parametrize("endpoint", ["delays", "d" * 42, "d" * 90, "Under_Way"])
def test_what_kserve_makes_of_the_name_fits_a_label(endpoint: str) -> None:
    name = names.inference(endpoint, "3")

    assert len(f"isvc.{names.predictor(name)}") <= 63 and names.checked_label(name, what="object") == name
    assert name != names.inference(endpoint, "4")


def test_a_style_that_is_none_is_refused(workspace: Workspace) -> None:
    with pytest.raises(BadOption, match="no style"):
        targets.get("kubernetes").placement(on(style="serverless"), namespace="models")
    with pytest.raises(TargetCannot, match="--style"):
        churn_model()
        rollout.deploy("churn:1", to="local", spec=DeploymentSpec(options={"style": "kserve"}))


# ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_line_brings_it_up_and_the_route_leads_to_what_kserve_made(two_versions: api_server.Cluster) -> None:
    line = (
        "deploy churn:1 --endpoint delays --to kubernetes --style kserve --image registry.example.org/ready:1 --gateway edge/public --replicas 2"
        " --max-replicas 4 --memory 512m --toleration gpu=yes:NoSchedule --pull-secret registry"
    )
    deployed = commands.run(shlex.split(line), Terminal(quiet=True))

    assert (deployed.status, deployed.traffic, deployed.url) == ("healthy", 100, "http://mlops-delays-1-predictor.models.svc")
    wait_for(lambda: "HTTPRoute" in kinds(two_versions) and weights(two_versions) == {"mlops-delays-1-predictor": 100}, what="the route")
    ours = {kind for kind, namespace, name in two_versions.objects if namespace == "models" and "predictor" not in name}
    assert ours == {"InferenceService", "Secret", "PodDisruptionBudget", "NetworkPolicy", "HTTPRoute"}
    assert of("Deployment", two_versions) == of("Service", two_versions) == of("HorizontalPodAutoscaler", two_versions) == ["mlops-delays-1-predictor"]
    assert len(two_versions.of("Pod")) == 2 and deployment("delays/1").spec.options["style"] == "kserve"
    assert base64.b64decode(two_versions.one("Secret", "mlops-delays")["data"]["token"]).decode() == keys.key("delays")
    assert len(rollout.logs("delays/1")) == 2 and all("deployment.started" in line for line in rollout.logs("delays/1"))
    told = targets.get("kubernetes").asked_instead(deployment("delays/1"))
    assert "port-forward deployment/mlops-delays-1-predictor 8080:8080" in told


def test_what_it_uses_is_read_from_the_pods_that_kserve_made(two_versions: api_server.Cluster) -> None:
    kserve("churn:1")
    (pod,) = two_versions.of("Pod")
    used = {"containers": [{"name": "kserve-container", "usage": {"cpu": "250m", "memory": "64Mi"}}]}
    two_versions.put({"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": pod["metadata"], **used})

    target = targets.get("kubernetes")
    usage = wait_for(lambda: (found := target.usage(deployment("delays/1"))).cpus and found, what="the usage")

    assert (usage.cpus, round(usage.memory_mb or 0), usage.restarts) == (0.25, 67, 0)


def test_traffic_moves_between_both_styles_and_each_is_withdrawn_alone(two_versions: api_server.Cluster) -> None:
    deploy("churn:1")
    kserve("churn:2", traffic=10)
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 90, "mlops-delays-2-predictor": 10}, what="the canary's share")
    route = two_versions.one("HTTPRoute", "mlops-delays")["spec"]["rules"]
    assert {rule["matches"][0]["headers"][0]["value"]: rule["backendRefs"][0]["name"] for rule in route[:-1]} == {
        "1": "mlops-delays-1", "2": "mlops-delays-2-predictor",
    }  # fmt: skip

    traffic.split("delays", {"1": 0, "2": 100})
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1": 0, "mlops-delays-2-predictor": 100}, what="all to the new one")
    rollout.undeploy("delays/1")
    assert of("Deployment", two_versions) == ["mlops-delays-2-predictor"] and of("InferenceService", two_versions) == ["mlops-delays-2"]
    assert of("Secret", two_versions) == of("HTTPRoute", two_versions) == ["mlops-delays"]
    rollout.undeploy("delays")
    wait_for(lambda: not kinds(two_versions) and not two_versions.of("Pod"), what="nothing to be left")


def test_a_rollback_that_may_redeploy_brings_it_back_in_its_style(two_versions: api_server.Cluster) -> None:
    kserve("churn:1")
    kserve("churn:2", traffic=100, replicas=2)
    applied = copy.deepcopy(two_versions.one("InferenceService", "mlops-delays-2")["spec"])
    traffic.roll_back("delays")
    wait_for(lambda: weights(two_versions) == {"mlops-delays-1-predictor": 100, "mlops-delays-2-predictor": 0}, what="all to the old one")
    rollout.undeploy("delays/2")
    assert of("InferenceService", two_versions) == ["mlops-delays-1"]

    traffic.roll_back("delays", redeploy=True)

    wait_for(lambda: weights(two_versions) == {"mlops-delays-1-predictor": 0, "mlops-delays-2-predictor": 100}, what="all to the one that is back")
    assert two_versions.one("InferenceService", "mlops-delays-2")["spec"] == applied


FAILURES = {
    "not-there": ("could not be pulled", "--image"),
    "broken": ("FileNotFoundError: weights.bin", ""),
    "over-quota": ("quota is used up", "--namespace"),
}


def test_one_that_fails_says_why_and_leaves_nothing(two_versions: api_server.Cluster) -> None:
    kserve("churn:1")

    for image, (said, hint) in FAILURES.items():
        with pytest.raises(DeploymentFailed, match=said) as caught:
            kserve("churn:2", image, traffic=50)
        assert hint in caught.value.hint
        wait_for(lambda: of("Deployment", two_versions) == ["mlops-delays-1-predictor"], what="the failed one to be deleted")
    two_versions.kserve_mode = "Knative"
    with pytest.raises(DeploymentFailed, match="in the mode Knative"):
        kserve("churn:2", traffic=50)
    wait_for(lambda: of("InferenceService", two_versions) == ["mlops-delays-1"], what="the failed one to be deleted")


def test_what_kserve_fails_with_is_waited_for_and_told(two_versions: api_server.Cluster, workspace: Workspace) -> None:
    (workspace.root / "config.toml").write_text("start_timeout_seconds = 8\n")
    two_versions.kserve_fails = "fails to reconcile predictor: a name that is too long"
    with pytest.raises(DeploymentFailed, match="KServe does not bring it up yet: ReconcileFailed: fails to reconcile predictor"):
        kserve("churn:1")
    wait_for(lambda: not of("InferenceService", two_versions), what="the failed one to be deleted")

    rollout.deploy("churn:1", endpoint="delays", to="kubernetes", spec=on(style="kserve"), wait=False)
    wait_for(lambda: of("InferenceService", two_versions), what="it to be applied")
    two_versions.kserve_fails = ""
    wait_for(lambda: deployment("delays/1").status == "healthy", what="it to come up")


def test_what_somebody_deletes_comes_back_and_a_new_key_reaches_the_pods(two_versions: api_server.Cluster) -> None:
    kserve("churn:1")
    (before,) = of("Pod", two_versions)
    fresh = keys.rotate("delays")

    wait_for(lambda: base64.b64decode(two_versions.one("Secret", "mlops-delays")["data"]["token"]).decode() == fresh, what="the new key")
    wait_for(lambda: of("Pod", two_versions) not in ([], [before]), what="new pods")
    two_versions.answer("DELETE", "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices/mlops-delays-1", b"", "")
    wait_for(lambda: of("InferenceService", two_versions) and deployment("delays/1").status == "healthy", what="it to come back")


def test_strays_go_and_nothing_of_anybody_else(two_versions: api_server.Cluster) -> None:
    kserve("churn:1")
    for name, marks in (("mlops-delays-9", {"mlops-nb/deployment": "9"}), ("theirs", {"mlops-nb/workspace": "another"})):
        other = copy.deepcopy(two_versions.one("InferenceService", "mlops-delays-1"))
        other["metadata"] |= {"name": name, "uid": name, "labels": other["metadata"]["labels"] | marks}
        two_versions.put(other)

    wait_for(lambda: of("InferenceService", two_versions) == ["mlops-delays-1", "theirs"], what="the stray to go")
    assert "mlops-delays-1-predictor" in of("Deployment", two_versions) and deployment("delays/1").status == "healthy"
    rollout.down()
    assert of("InferenceService", two_versions) == ["theirs"]
    rollout.up()
    wait_for(lambda: deployment("delays/1").status == "healthy", what="it to be back")


# ── refused before anything is done ──────────────────────────────────────────────────────────────────────────────────


def test_a_cluster_without_kserve_is_told_before_anything_is_done(two_versions: api_server.Cluster) -> None:
    two_versions.missing_kinds.add("InferenceService")
    with pytest.raises(BadOption, match="knows no InferenceService") as caught:
        kserve("churn:1")

    assert "kserve-crd" in caught.value.hint and "--style plain" in caught.value.hint
    assert not kinds(two_versions) and not rollout.endpoints()
    assert deploy("churn:1", style="plain").status == "healthy"


def test_who_may_not_see_inference_services_deploys_plainly_and_is_told_of_the_other_style(two_versions: api_server.Cluster) -> None:
    two_versions.forbidden |= {("list", "InferenceService"), ("get", "InferenceService"), ("patch", "InferenceService")}
    with pytest.raises(ClusterRefused, match="inferenceservices"):
        kserve("churn:1")

    assert deploy("churn:1").status == "healthy"
    rollout.undeploy("delays")
    assert not kinds(two_versions)


@pytest.mark.parametrize("kind, name", [("InferenceService", "mlops-delays-1"), ("Service", "mlops-delays-1-predictor")])
def test_a_name_that_somebody_else_has_is_told_before_anything_is_done(two_versions: api_server.Cluster, kind: str, name: str) -> None:
    version = {"InferenceService": "serving.kserve.io/v1beta1", "Service": "v1"}[kind]
    theirs = manifests.inference_service(workload(style="kserve"))["spec"] if kind == "InferenceService" else {}
    two_versions.put({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "models"}, "spec": theirs})

    with pytest.raises(NotOurs, match=f"{kind} {name}"):
        kserve("churn:1")

    assert not rollout.endpoints()
