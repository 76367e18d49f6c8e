"""What is applied to a cluster, checked as the cluster would check it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.errors import BadOption, MlopsError
from mlops_nb.kubernetes import manifests, names
from mlops_nb.kubernetes.manifests import Manifest, Toleration
from mlops_nb.safety import checked_name
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec
from mlops_nb.targets import kubernetes as target

from .api_server import checked
from .conftest import placed, workload

ALL = {
    "replicas": 2, "most_replicas": 6, "cpus": 1.5, "memory_mb": 512, "gpus": 2, "pull_secrets": ("registry",), "node_selector": {"disk": "ssd"},
    "tolerations": (Toleration(key="gpu", value="yes", effect="NoSchedule"), Toleration(key="spot")), "hostname": "models.example.org",
    "variables": {"OMP_NUM_THREADS": "2"}, "egress": True,
}  # fmt: skip


def every(made: manifests.Workload) -> list[Manifest]:
    place = made.placement
    return [
        *manifests.of_workload(made), manifests.secret("w0", made.endpoint, place.namespace, key="k"),
        manifests.route("w0", made.endpoint, place, {made.deployment: 90, "2": 10}), manifests.whole_endpoint(made, canary_percent=10),
    ]  # fmt: skip


@pytest.mark.parametrize("changes", [{}, ALL], ids=["plain", "with all that can be said"])
def test_every_manifest_is_what_its_schema_takes(changes: dict) -> None:
    kinds = [manifest["kind"] for manifest in every(workload(**changes)) if checked(manifest) is None]

    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "Secret", "HTTPRoute", "InferenceService"} <= set(kinds)
    assert ("HorizontalPodAutoscaler" in kinds) == bool(changes)


@given(endpoint=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True), deployment=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_whatever_names_a_workspace_allows_become_names_that_kubernetes_allows(endpoint: str, deployment: str) -> None:
    try:
        checked_name(endpoint), checked_name(deployment)
    except MlopsError:
        return
    made = workload(endpoint, deployment)

    for name in (made.name, names.group(endpoint)):
        assert names.checked_label(name, what="object") == name and name[0].isalpha()
    for label in manifests.labels(made).values():
        assert names.checked_value(label, what="label") == label


@pytest.mark.parametrize(
    "one, other", [(("a-b", "c"), ("a", "b-c")), (("A", "1"), ("a", "1")), (("x" * 90 + "1", "1"), ("x" * 90 + "2", "1")), (("a.b", "1"), ("a-b", "1"))]
)
def test_two_deployments_never_have_one_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert names.workload(*one) != names.workload(*other)


def test_the_pod_may_do_nothing_that_a_model_does_not_need() -> None:
    pod = manifests.pod(workload())
    container = pod["containers"][0]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert manifests.policy(workload())["spec"]["egress"] == []


def test_the_key_stands_in_the_secret_alone() -> None:
    key = "the-key-of-this-endpoint"
    made = workload()
    shown = [
        *manifests.of_workload(made),
        manifests.route("w0", "delays", made.placement, {"3": 100}),
        manifests.whole_endpoint(made),
        manifests.inference_service(made),
    ]

    assert key not in str(shown) and manifests.key_mark(key) != manifests.key_mark("another")
    assert manifests.secret("w0", "delays", "models", key=key)["stringData"] == {"token": key}


def test_an_autoscaled_deployment_leaves_its_count_to_the_autoscaler() -> None:
    assert "replicas" not in manifests.deployment(workload(replicas=2, most_replicas=5))["spec"]
    assert manifests.deployment(workload(replicas=2))["spec"]["replicas"] == 2


def test_the_route_divides_by_weight_and_lets_a_header_pick() -> None:
    route = manifests.route("w0", "delays", placed(hostname="models.example.org"), {"2": 90, "3": 10})
    by_weight, picks = route["spec"]["rules"][-1], route["spec"]["rules"][:-1]

    assert [(b["name"], b["weight"]) for b in by_weight["backendRefs"]] == [("mlops-delays-2", 90), ("mlops-delays-3", 10)]
    assert [rule["matches"][0]["headers"][0]["value"] for rule in picks] == ["2", "3"]
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "edge"}] and route["spec"]["hostnames"] == ["models.example.org"]


def test_a_gpu_is_asked_for_by_its_vendors_name() -> None:
    assert manifests.resources(placed(gpus=2, memory_mb=512, cpus=0.5)) == {
        "requests": {"cpu": "500m", "memory": "512Mi"},
        "limits": {"cpu": "500m", "memory": "512Mi", "nvidia.com/gpu": "2"},
    }


GOOD = {"image": "registry.example.org:5000/team/delays:3@sha256:" + "a" * 64, "gateway": "edge/public"}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"image": None}, "needs an image"),
        ({"image": "a b"}, "not an image's reference"),
        ({"image": "x\n  privileged: true"}, "not an image's reference"),
        ({"gateway": None}, "needs the Gateway"),
        ({"gateway": "a/b/c"}, "is no Gateway"),
        ({"gateway": "Edge"}, "cannot name a gateway"),
        ({"namespace": "kube system"}, "cannot name a namespace"),
        ({"hostname": "a..b"}, "not a host's name"),
        ({"tolerations": ["a=b:Sometimes"]}, "no toleration"),
        ({"node_selector": {"a b": "c"}}, "cannot be the key"),
        ({"node_selector": {"a": "c\n"}}, "cannot be the value"),
        ({"pull_secrets": ["../x"]}, "cannot name a pull secret"),
        ({"replicas": 3, "max_replicas": 3}, "not above"),
    ],
)
def test_what_kubernetes_would_not_take_is_refused_in_words(workspace: Workspace, options: dict, said: str) -> None:
    with pytest.raises(BadOption, match=said) as caught:
        target.check_gateway(target.placement(DeploymentSpec(options={**GOOD, **options}), namespace="models"))

    assert caught.value.hint


@pytest.mark.parametrize("gpus", ["all", "0", "-1", "1.5"])
def test_gpus_are_a_number(workspace: Workspace, gpus: str) -> None:
    with pytest.raises(BadOption, match="number of GPUs"):
        target.placement(DeploymentSpec(options=GOOD, gpus=gpus), namespace="models")
