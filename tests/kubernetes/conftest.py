"""A cluster to deploy to, and a version to deploy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_nb import rollout
from mlops_nb.kubernetes.client import OF_A_WORKLOAD, OF_AN_ENDPOINT, Api, Context
from mlops_nb.kubernetes.manifests import WORKSPACE, Placement, Workload
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec

from .api_server import ApiServer, Cluster


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[ApiServer]:
    """The stand-in for an API server, empty but for namespaces and a Gateway."""
    server = ApiServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def cluster(api_server: ApiServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """What the API server of this workspace's kubeconfig stores."""
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    return api_server.cluster


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    """A cluster, open: the stand-in, or the real one that MLOPS_TEST_KUBECONFIG leads to, where what a test applied goes with it."""
    if real := os.environ.get("MLOPS_TEST_KUBECONFIG"):
        from mlops_nb.kubernetes.client import _contexts

        context = Context(real, _contexts(Path(real))[1] or "")
    else:
        context = Context(str(request.getfixturevalue("api_server").kubeconfig), "tests")
    opened = Api(context)
    yield opened
    for kind in (*OF_A_WORKLOAD, *OF_AN_ENDPOINT) if real else ():
        opened.delete(kind, "models", labels={WORKSPACE: "w0"})
    opened.close()


@pytest.fixture
def stand_in(api_server: ApiServer) -> Iterator[Api]:
    """The stand-in, open, for what no real cluster can be made to do."""
    opened = Api(Context(str(api_server.kubeconfig), "tests"))
    yield opened
    opened.close()


@pytest.fixture
def living(cluster: Cluster, live_workspace: Workspace) -> Cluster:
    """A cluster for a workspace whose processes end with the test, before it does."""
    return cluster


def placed(**changes: object) -> Placement:
    """A placement with what most tests do not care about."""
    return Placement(**{"image": "registry.example.org/ready:1", "namespace": "models", "gateway": "edge/public", **changes})  # type: ignore[arg-type]


def workload(endpoint: str = "delays", deployment: str = "3", **changes: object) -> Workload:
    """A deployment as a cluster runs it."""
    return Workload(workspace="w0", endpoint=endpoint, deployment=deployment, model="delays", version=3, placement=placed(**changes), key_mark="m")


def on(image: str = "ready", **options: object) -> DeploymentSpec:
    """How to deploy an image by its name."""
    return DeploymentSpec(options={"image": f"registry.example.org/{image}:1", "gateway": "edge/public", **options})


def deploy(ref: str, image: str = "ready", *, traffic: int | None = None, **options: object) -> rollout.Deployed:
    """Deploy a version to the cluster behind the endpoint `delays`."""
    return rollout.deploy(ref, endpoint="delays", to="kubernetes", traffic=traffic, spec=on(image, **options))
