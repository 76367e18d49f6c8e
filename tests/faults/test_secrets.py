"""A secret of whoever deploys reaches neither a server, nor the store, nor a file of the workspace."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from living import churn_model, deployment

from mlops_nb import errors, registry, rollout
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec

CANARY = "canary-7f3a9c51d2"


def test_the_agent_and_its_servers_do_not_inherit_secrets(live_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_ACCESS_KEY", CANARY)
    monkeypatch.setenv("PLAIN_SETTING", "seen")
    churn_model()
    rollout.deploy("churn:1")

    server = psutil.Process(deployment("churn/1").handle["pid"])
    agent = psutil.Process(int((live_workspace.run / "agent.lock").read_text()))
    for process in (server, agent):
        assert CANARY not in str(process.environ())
        assert process.environ()["PLAIN_SETTING"] == "seen"


def test_no_file_of_the_workspace_holds_a_secret_of_the_environment(live_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", CANARY)
    churn_model()
    rollout.deploy("churn:1")
    rollout.down()

    holding = [path for path in live_workspace.root.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == []


@pytest.mark.parametrize("name", ["API_KEY", "db_password", "MY_TOKEN"])
def test_a_variable_that_reads_like_a_secret_is_refused(workspace: Workspace, name: str) -> None:
    churn_model()
    with pytest.raises(errors.SecretVariable, match="kept in the store"):
        rollout.deploy("churn:1", spec=DeploymentSpec(variables={name: CANARY}))
    assert rollout.endpoints() == []


def test_a_file_that_nobody_registered_is_removed_before_a_model_is_opened(workspace: Workspace) -> None:
    version = churn_model()
    folder: Path = registry.laid_out(version)
    planted = folder / "code" / "sklearn.py"
    planted.parent.mkdir(exist_ok=True)
    planted.write_text("raise SystemExit('planted')")

    assert registry.laid_out(version) == folder
    assert not planted.exists()
    assert sorted(place.name for place in folder.iterdir()) == sorted({file.path.split("/")[0] for file in version.files} | {"code"})
