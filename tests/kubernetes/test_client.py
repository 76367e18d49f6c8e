"""Talking to an API server: the stand-in of `api_server`, or a real one that MLOPS_TEST_KUBECONFIG leads to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from lightkube.types import PatchType

from mlops_nb.errors import BadOption, ClusterRefused, ClusterUnreachable, NotOurs
from mlops_nb.kubernetes import client, keeping, manifests
from mlops_nb.kubernetes.client import Api, Context
from mlops_nb.settings import Workspace

from .api_server import ApiServer
from .conftest import workload

OURS = {manifests.WORKSPACE: "w0"}


def test_applying_twice_changes_nothing(api: Api) -> None:
    made = manifests.deployment(workload())
    api.apply(made, workspace="w0")
    before = api.get("Deployment", "mlops-delays-3", "models")
    api.apply(made, workspace="w0")
    after = api.get("Deployment", "mlops-delays-3", "models")

    assert before and after and before["metadata"]["generation"] == after["metadata"]["generation"] == 1


def test_a_rehearsed_apply_keeps_nothing(api: Api) -> None:
    api.apply(manifests.service(workload(deployment="rehearsed")), workspace="w0", rehearse=True)

    assert api.get("Service", workload(deployment="rehearsed").name, "models") is None


def edited(api: Api, change: dict, *, by: str) -> None:
    """Change the Deployment as somebody else does."""
    api._client.patch(
        client._resource("Deployment"), "mlops-delays-3", {"spec": change}, namespace="models", patch_type=PatchType.MERGE, field_manager=by
    )  # fmt: skip


def spec_of_the_deployment(api: Api) -> dict:
    found = api.get("Deployment", "mlops-delays-3", "models")
    assert found
    return found["spec"]


def test_what_somebody_changed_of_ours_is_taken_back_and_what_is_theirs_stays(api: Api) -> None:
    api.apply(manifests.deployment(workload(replicas=2)), workspace="w0")
    edited(api, {"replicas": 7, "minReadySeconds": 5}, by="kubectl-edit")

    api.apply(manifests.deployment(workload(replicas=2)), workspace="w0")

    now = spec_of_the_deployment(api)
    assert (now["replicas"], now["minReadySeconds"]) == (2, 5)


def test_an_autoscaler_keeps_the_count_it_set(api: Api) -> None:
    made = manifests.deployment(workload(most_replicas=5))
    api.apply(made, workspace="w0")
    edited(api, {"replicas": 4}, by="hpa")

    api.apply(made, workspace="w0")

    assert spec_of_the_deployment(api)["replicas"] == 4


def test_an_object_of_somebody_elses_is_not_touched(api: Api) -> None:
    theirs = manifests.deployment(workload(endpoint="theirs"))
    api.apply(theirs, workspace="w0")

    with pytest.raises(NotOurs, match="made by another workspace"):
        api.check_free(theirs, workspace="w1")

    api.delete("Deployment", "models", labels=manifests.labels(workload(endpoint="theirs")))


def test_deleting_goes_by_labels(api: Api) -> None:
    for name in ("1", "2"):
        api.apply(manifests.service(workload(endpoint="several", deployment=name)), workspace="w0")

    gone = api.delete("Service", "models", labels=manifests.labels(workload(endpoint="several", deployment="1")))

    left = api.found("Service", "models", labels=manifests.endpoint_labels("w0", "several"))
    assert gone == ["mlops-several-1"] and [item["metadata"]["name"] for item in left] == ["mlops-several-2"]
    api.delete("Service", "models", labels=manifests.endpoint_labels("w0", "several"))


def test_what_the_server_does_not_take_is_told_in_its_words(api: Api) -> None:
    wrong = manifests.service(workload())
    wrong["spec"]["ports"][0]["port"] = "eighty"

    with pytest.raises(ClusterRefused, match="refused applying Service mlops-delays-3"):
        api.apply(wrong, workspace="w0")


def test_a_namespace_that_is_not_there_is_told(api: Api) -> None:
    with pytest.raises(ClusterRefused, match='namespaces "nowhere" not found'):
        api.apply(manifests.service(workload(namespace="nowhere")), workspace="w0")


def test_rights_that_are_missing_are_told(api_server: ApiServer, stand_in: Api) -> None:
    api_server.cluster.forbidden.add(("patch", "Service"))

    with pytest.raises(ClusterRefused, match='cannot patch resource "services"') as caught:
        stand_in.apply(manifests.service(workload()), workspace="w0")

    assert "kubectl auth can-i" in caught.value.hint


def test_a_wrong_token_is_told(api_server: ApiServer) -> None:
    with pytest.raises(ClusterRefused, match="401"):
        Api(Context(str(api_server.kubeconfig), "strangers")).found("Pod", "models")


def test_a_certificate_of_somebody_elses_is_not_trusted(api_server: ApiServer, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    stranger = ApiServer(other)
    text = api_server.kubeconfig.read_text().replace(f":{api_server.port}", f":{stranger.port}")
    (mixed := tmp_path / "mixed").write_text(text)
    try:
        with pytest.raises(ClusterUnreachable, match=r"(?i)certificate"):
            Api(Context(str(mixed), "tests")).found("Pod", "models")
    finally:
        stranger.stop()


def test_a_server_that_keeps_silent_is_waited_for_two_seconds(api_server: ApiServer, stand_in: Api) -> None:
    api_server.cluster.silent.set()
    began = time.monotonic()

    with pytest.raises(ClusterUnreachable, match="context 'tests' does not answer"):
        stand_in.found("Pod", "models")

    assert time.monotonic() - began < 3 * client.PATIENCE_SECONDS


def test_a_change_that_a_webhook_thinks_about_is_waited_for(api_server: ApiServer, stand_in: Api) -> None:
    api_server.cluster.thinks_seconds = 1.5 * client.PATIENCE_SECONDS

    stand_in.apply(manifests.service(workload()), workspace="w0")

    assert api_server.cluster.one("Service", "mlops-delays-3")


def test_the_contexts_of_a_kubeconfig_are_offered_when_one_is_not_there(cluster: object) -> None:
    with pytest.raises(BadOption, match=r"no context 'elsewhere'. It has: strangers, tests"):
        client.resolved("elsewhere")

    assert client.resolved()[1] == "models"


@pytest.mark.parametrize("text", ["", "[]", "clusters: 3", "{", "contexts: [{}]"])
def test_a_file_that_is_no_kubeconfig_is_told(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (path := tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))

    with pytest.raises(BadOption, match=r"is no kubeconfig|no current context"):
        client.resolved()


def test_no_kubeconfig_is_told(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")

    with pytest.raises(BadOption, match="No kubeconfig at /nowhere/config"):
        client.resolved()


def test_the_last_deployment_takes_its_endpoints_objects_along(api: Api) -> None:
    made = [workload(endpoint="leaving", deployment=name) for name in ("1", "2")]
    api.apply(manifests.secret("w0", "leaving", "models", key="k"), workspace="w0")
    for one in made:
        api.apply(manifests.deployment(one), workspace="w0")

    keeping.delete(api, "models", manifests.labels(made[0]))
    assert api.found("Secret", "models", labels=manifests.endpoint_labels("w0", "leaving"))
    keeping.delete(api, "models", manifests.labels(made[1]))
    assert not api.found("Secret", "models", labels=manifests.endpoint_labels("w0", "leaving"))
