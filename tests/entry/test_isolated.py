"""A version runs with exactly the packages it was made with, in an environment that uv builds and keeps."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import iniconfig
import pytest

from mlops_nb import environments, rebuilding, registry, rollout, store
from mlops_nb.errors import DeploymentFailed, EnvironmentMismatch
from mlops_nb.settings import Workspace
from mlops_nb.store import environments as table
from mlops_nb.store.deployments import DeploymentSpec
from mlops_nb.store.environments import Environment, Package

OLD = "1.1.1"
SCRIPT = """
import sys
from importlib.metadata import version
import iniconfig

def run(raw_data):
    return [version("iniconfig"), sys.prefix, "pandas" in sys.modules]
"""


@pytest.fixture
def environments_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLOPS_ENVIRONMENTS", str(tmp_path / "environments"))
    return tmp_path / "environments"


@pytest.fixture
def version_made_elsewhere(live_workspace: Workspace, tmp_path: Path, environments_folder: Path) -> Iterator[str]:
    """A script that was registered where another iniconfig was installed."""
    assert iniconfig.__file__ and environments.installed()["iniconfig"].version != OLD
    (tmp_path / "score.py").write_text(SCRIPT)
    version = registry.register(None, name="ini", entry=tmp_path / "score.py").version
    recorded(OLD)
    with store.writing() as tx:
        tx.execute("UPDATE model_versions SET environment = 'elsewhere:1' WHERE model = 'ini'")
    return version.ref


def recorded(pinned: str, *, name: str = "elsewhere") -> Environment:
    """An environment with this iniconfig."""
    environment = Environment(
        name=name, version=1, hash=name, python=platform.python_version(), platform="any", interpreter=sys.executable,
        packages=[Package(name="iniconfig", version=pinned, direct=True)], created_at=store.now(),
    )  # fmt: skip
    with store.writing() as tx:
        table.add(tx, environment)
    return environment


def test_a_version_whose_packages_differ_here_is_deployed_with_its_own(version_made_elsewhere: str, environments_folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(EnvironmentMismatch) as refused:
        rollout.deploy(version_made_elsewhere)
    assert "--isolated" in refused.value.hint

    rollout.deploy(version_made_elsewhere, spec=DeploymentSpec(isolated=True))

    version, prefix, pandas = rollout.invoke("ini", {}).outputs
    assert version == OLD and Path(prefix).parent == environments_folder and not pandas
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    deployed = rollout.deploy(version_made_elsewhere, name="again", spec=DeploymentSpec(isolated=True))
    assert deployed.status == "healthy" and len(list(environments_folder.iterdir())) == 1


def test_an_environment_that_cannot_be_built_tells_in_uvs_words(live_workspace: Workspace, tmp_path: Path, environments_folder: Path):
    (tmp_path / "score.py").write_text("def run(raw_data):\n    return 1\n")
    registry.register(None, name="ini", entry=tmp_path / "score.py")
    recorded("0.0.0.dev99", name="impossible")

    with pytest.raises(DeploymentFailed, match="impossible:1 could not be built") as failed:
        rollout.deploy("ini", spec=DeploymentSpec(isolated=True, environment="impossible:1"))

    assert "iniconfig==0.0.0.dev99" in failed.value.detail
    assert not list(environments_folder.iterdir()) and not rollout.endpoints()


def test_the_same_packages_are_one_environment_whatever_it_is_called(workspace: Workspace, environments_folder: Path):
    one, other, different = recorded(OLD, name="one"), recorded(OLD, name="other"), recorded("2.0.0", name="different")

    homes = {name: rebuilding._home(environment, None) for name, environment in [("one", one), ("other", other), ("different", different)]}

    assert homes["one"] == homes["other"] != homes["different"]
