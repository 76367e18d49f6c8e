"""`%mlops manifest`: files for a repository, as kubectl reads them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from living import churn_model

from mlops_nb import commands, gitops, keys
from mlops_nb.cli import Terminal
from mlops_nb.errors import BadOption, MlopsError, SecretVariable
from mlops_nb.reference import ModelRef
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec

from .api_server import Cluster, checked
from .conftest import on

pytestmark = pytest.mark.xdist_group("kubernetes")
KUBECTL = Path(sys.executable).with_name("kubectl")
ONE, TWO = ModelRef("churn", version=1), ModelRef("churn", version=2)


@pytest.fixture
def versions(workspace: Workspace) -> Workspace:
    churn_model()
    churn_model()
    return workspace


def kubectl(*words: str, **options: Any) -> str:
    done = subprocess.run([str(KUBECTL), *words], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_printed_is_valid_and_holds_no_secret(versions: Workspace) -> None:
    text = gitops.written([ONE, TWO], spec=on(), shares=[90, 10]).text()

    things = list(yaml.safe_load_all(text))
    for thing in things:
        checked(thing)
    assert [t["kind"] for t in things] == [*["NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget"] * 2, "HTTPRoute"]
    assert keys.key("churn") not in text
    assert f"--from-file=token={versions.keys / 'churn'}" in text and "Secret mlops-churn" in text


def test_kubectl_reads_the_folder(versions: Workspace, tmp_path: Path) -> None:
    gitops.written([ONE], spec=on(namespace="team-a", max_replicas=3)).write(tmp_path / "out")

    built = list(yaml.safe_load_all(kubectl("kustomize", str(tmp_path / "out"))))

    assert {thing["kind"] for thing in built} == {"NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler", "HTTPRoute"}
    assert {thing["metadata"]["namespace"] for thing in built} == {"team-a"}


def test_kubectl_applies_it_in_a_rehearsal_and_for_real(versions: Workspace, cluster: Cluster, tmp_path: Path) -> None:
    gitops.written([ONE], spec=on(namespace="models")).write(tmp_path / "out")
    folder = ("-k", str(tmp_path / "out"), "--validate=false", "-o", "name")

    rehearsed = kubectl("apply", "--dry-run=client", *folder)
    assert "deployment.apps/mlops-churn-1" in rehearsed and not cluster.of("Deployment")
    kubectl("apply", "--server-side", *folder)
    assert cluster.one("Deployment", "mlops-churn-1")["metadata"]["managedFields"][0]["manager"] == "kubectl"


def test_kserve_has_one_service_with_the_newests_share(versions: Workspace) -> None:
    made = gitops.written([ONE, TWO], spec=on(gateway=None), shares=[80, 20], style="kserve")

    (service,) = made.manifests
    checked(service)
    predictor = service["spec"]["predictor"]
    assert predictor["canaryTrafficPercent"] == 20 and predictor["containers"][0]["name"] == "kserve-container"
    pod = {key: predictor[key] for key in ("containers", "volumes", "automountServiceAccountToken")}
    checked({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod})


def test_the_line_prints_what_it_would_write_and_kubectl_reads_both_styles(versions: Workspace, tmp_path: Path) -> None:
    line = "manifest churn:1 churn:2 --split 90,10 --namespace team-a --image r.example.org/churn:1 --image r.example.org/churn:2 --replicas 2"
    gateway, kserve = f"{line} --gateway edge/public --pull-secret registry --gpus 1", f"{line} --style kserve"

    printed = commands.run(shlex.split(gateway), Terminal(quiet=True))
    (route,) = [thing for thing in yaml.safe_load_all(str(printed)) if thing["kind"] == "HTTPRoute"]
    assert [backend["weight"] for backend in route["spec"]["rules"][-1]["backendRefs"]] == [90, 10]
    for name, words, count in (("gateway", gateway, 9), ("kserve", kserve, 1)):
        told = commands.run([*shlex.split(words), "--output", str(tmp_path / name)], Terminal(quiet=True))
        assert told["secret"] == "mlops-churn" and len(told["files"]) == count + 1
        assert len(list(yaml.safe_load_all(kubectl("kustomize", str(tmp_path / name))))) == count


@pytest.mark.parametrize(
    "words, said",
    [
        ({"shares": [50]}, "shares that sum to 100"),
        ({"shares": [50, 60]}, "shares that sum to 100"),
        ({"images": ["a"]}, "1 images for 2 versions"),
        ({"refs": [ONE, ONE]}, "named twice"),
        ({"refs": [ONE, TWO, ONE], "style": "kserve"}, "two revisions"),
    ],
)
def test_what_does_not_fit_together_is_told(versions: Workspace, words: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        gitops.written(**{"refs": [ONE, TWO], "spec": on(), **words})


def test_a_variable_that_holds_a_secret_is_refused(versions: Workspace) -> None:
    with pytest.raises(SecretVariable):
        gitops.written([ONE], spec=DeploymentSpec(variables={"DB_PASSWORD": "x"}, options=on().options))


NASTY = ["a\n- b: c", "{{ .Values }}", "$(id)", "`id`", "'\"", "a: b", "# x", "---", "!!python/object"]
FIELDS: dict[str, Callable[[str], DeploymentSpec]] = {
    "image": lambda text: DeploymentSpec(options={**on().options, "image": text}),
    "namespace": lambda text: on(namespace=text),
    "gateway": lambda text: on(gateway=text),
    "hostname": lambda text: on(hostname=text),
    "variable": lambda text: DeploymentSpec(variables={"MODE": text}, options=on().options),
    "taint": lambda text: on(tolerations=[text]),
    "label": lambda text: on(node_selector={"disk": text}),
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(field=st.sampled_from(sorted(FIELDS)), text=st.text(max_size=40) | st.sampled_from(NASTY))
def test_no_text_becomes_more_than_a_value(versions: Workspace, field: str, text: str) -> None:
    try:
        made = gitops.written([ONE], spec=FIELDS[field](text))
    except MlopsError:
        return

    assert list(yaml.safe_load_all(made.text())) == made.manifests
