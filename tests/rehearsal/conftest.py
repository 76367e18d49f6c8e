"""Notebooks with a fault in them, and little packages to have it with."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from capture.conftest import Kernel, kernel, project, start_kernel, write  # noqa: F401 - fixtures
from uv import find_uv_bin

from mlops_nb import rehearsing
from mlops_nb.errors import RehearsalFailed
from mlops_nb.settings import Workspace
from mlops_nb.store.rehearsals import Culprit, Rehearsal

BEGIN = "import numpy as np\nfrom mlops_nb import registry\nX = np.arange(12.0).reshape(6, 2)"
REGISTER = "registry.register(model, name='model', sample=X, convert=False)"


class Notebook:
    """A kernel whose cells make a model called `model`."""

    def __init__(self, live: Kernel) -> None:
        self.kernel = live
        live.run(BEGIN)

    def run(self, *cells: str) -> None:
        """Execute these cells."""
        for cell in cells:
            self.kernel.run(cell)

    def culprit(self, given: str) -> Culprit:
        """Whom a rehearsal in the notebook itself blames; *given* are its arguments."""
        said = self.kernel.run(f"""
            import msgspec
            from mlops_nb import rehearsing
            from mlops_nb.errors import RehearsalFailed
            try:
                print(rehearsing.rehearse("model", {given}))
            except RehearsalFailed as failed:
                print(msgspec.json.encode(failed.rehearsal.culprit).decode())
        """)
        return msgspec.json.decode(said.splitlines()[-1], type=Culprit)


@pytest.fixture
def notebook(kernel: Kernel, no_environments_kept: Path) -> Notebook:  # noqa: F811
    """A notebook with some rows called X."""
    return Notebook(kernel)


@pytest.fixture
def no_environments_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept environments, which a rehearsal must leave alone."""
    monkeypatch.setenv("MLOPS_ENVIRONMENTS", str(tmp_path / "environments"))
    return tmp_path / "environments"


def failed(ref: str = "model") -> Rehearsal:
    """The rehearsal of a version that has to fail."""
    with pytest.raises(RehearsalFailed) as told:
        rehearsing.rehearse(ref)
    assert told.value.exit_code == 5 and str(told.value.rehearsal.culprit) in str(told.value)
    return told.value.rehearsal


def blamed(ref: str = "model") -> Culprit:
    """Whom the rehearsal of a version blames."""
    culprit = failed(ref).culprit
    assert culprit and culprit.fix
    return culprit


class Packages:
    """Wheels on this machine that uv is told of, and a folder in which some are installed for the notebook."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.site = folder / "wheels", folder / "site-packages"
        self.wheels.mkdir()

    def wheel(self, name: str, version: str, source: str) -> None:
        """Write a wheel with one module."""
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": source,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        lines = [f"{place},sha256={_digest(text)},{len(text.encode())}" for place, text in files.items()]
        with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            for place, text in (files | {f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"}).items():
                archive.writestr(place, text)

    def install(self, requirement: str) -> None:
        """Install for the notebook, in the place of another version."""
        options = ["--no-config", "--no-index", "--find-links", str(self.wheels), "--target", str(self.site), "--no-deps"]
        subprocess.run([find_uv_bin(), "pip", "install", "--quiet", *options, requirement], check=True, capture_output=True)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    """Little packages, of which uv knows too."""
    made = Packages(tmp_path)
    monkeypatch.setenv("UV_FIND_LINKS", str(made.wheels))
    return made


@pytest.fixture
def notebook_with(packages: Packages, start_kernel: Callable[..., Kernel], no_environments_kept: Path) -> Callable[[], Notebook]:  # noqa: F811
    """Begins a notebook in which the little packages that are installed can be imported."""
    return lambda: Notebook(start_kernel(PYTHONPATH=str(packages.site)))


@pytest.fixture
def elsewhere(workspace: Workspace, no_environments_kept: Path) -> Workspace:
    """A workspace whose versions are registered by the test itself."""
    return workspace
