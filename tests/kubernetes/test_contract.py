"""What the manifests promise a container, kept by the scoring server that images run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from living import churn_model, wait_for

from mlops_nb import registry
from mlops_nb.kubernetes import manifests
from mlops_nb.ports import free_port
from mlops_nb.serving.spec import ServerSpec
from mlops_nb.settings import Workspace

from .conftest import workload

pytestmark = pytest.mark.xdist_group("kubernetes")
KEY = "the-key-of-the-endpoint"


@pytest.fixture
def container(workspace: Workspace, tmp_path: Path) -> Iterator[str]:
    """The server as the manifest's container starts it, on another port and with its token elsewhere."""
    version = churn_model()
    (token := tmp_path / "token").write_text(KEY)
    spec = ServerSpec(
        endpoint=version.model, deployment="1", model=version.model, version=1, folder=str(registry.laid_out(version)), files=version.files,
        flavor=version.flavor, engine=version.engine, signature=version.signature, port=8080, token_file="/nowhere", run_folder="", capture_folder="",
    )  # fmt: skip
    (packaged := tmp_path / "spec.json").write_bytes(msgspec.json.encode(spec))
    said = {entry["name"]: entry["value"] for entry in manifests.container(workload(endpoint="delays", deployment="7"))["env"]}
    port = free_port()
    variables = os.environ | said | {"MLOPS_PORT": str(port), "MLOPS_TOKEN_FILE": str(token)}
    process = subprocess.Popen([sys.executable, "-m", "mlops_nb.serving.contained", str(packaged)], env=variables, stderr=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=20)


def test_the_server_of_an_image_keeps_what_the_manifests_promise(container: str) -> None:
    pod = manifests.pod(workload())["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = pod[probe]["httpGet"]["path"]
        wait_for(lambda path=path: _status(container + path) == 200, what=path)
    body = json.dumps({"age": [30], "income": [40.0]})

    assert httpx.post(f"{container}/score", content=body).status_code == 401
    assert httpx.post(f"{container}/score", content=body, headers={"Authorization": "Bearer wrong"}).status_code == 401
    answered = httpx.post(f"{container}/score", content=body, headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
    assert answered.status_code == 200, answered.text
    assert answered.headers["azureml-model-deployment"] == "7"
    assert httpx.get(f"{container}/v2/models/delays", headers={"Authorization": f"bearer {KEY}"}).json()["name"] == "delays"


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.HTTPError:
        return 0
