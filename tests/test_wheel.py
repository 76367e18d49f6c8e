"""What reaches a user's machine: the wheel, and the sdist it can be made from again."""

from __future__ import annotations

import email
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTENSION = "data/share/jupyter/labextensions/mlops-nb/"
pytestmark = pytest.mark.xdist_group("wheel")  # one build for all of these


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of this tree, after its wheel so that nothing is built twice."""
    return built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def test_wheel_holds_the_built_extension_and_what_enables_it(wheel):
    files = contents(wheel)
    package = json.loads(read(wheel, EXTENSION + "package.json"))

    assert EXTENSION + package["jupyterlab"]["_build"]["load"] in files
    assert json.loads(read(wheel, EXTENSION + "install.json"))["packageName"] == "mlops_nb"
    assert EXTENSION + "schemas/mlops-nb/plugin.json" in files
    enabled = json.loads(read(wheel, "data/etc/jupyter/jupyter_server_config.d/mlops_nb.json"))
    assert enabled == {"ServerApp": {"jpserver_extensions": {"mlops_nb.server_extension": True}}}


def test_built_extension_is_that_of_the_sources_here(wheel):
    scripts = [read(wheel, name).decode() for name in contents(wheel) if name.startswith(EXTENSION + "static/") and name.endswith(".js")]

    assert any("mlops:open-dashboard" in script for script in scripts)
    stamp = subprocess.run(
        [sys.executable, "-c", "import build; print(build.fingerprint())"], cwd=ROOT / "extension", capture_output=True, text=True, check=True
    )
    assert (ROOT / "extension" / ".built-from").read_text() == stamp.stdout.strip()


def test_wheel_brings_one_import_name(wheel):
    tops = {name.split("/")[0] for name in contents(wheel)} - {"data", "dist-info"}

    assert tops == {"mlops_nb"}


def test_wheel_holds_the_dashboard_and_nothing_of_ours_twice(wheel):
    files = contents(wheel)

    assert "mlops_nb/dashboard/__init__.py" in files
    assert not [name for name in files if name.startswith("mlops_nb/labextension")]
    assert not [name for name in files if "node_modules" in name or "__pycache__" in name]


def test_wheel_holds_compiled_code_and_is_for_machines_that_run_it(wheel):
    assert "mlops_nb/trees/walk.so" in contents(wheel)
    assert wheel.stem.endswith(f"-py3-none-{re.sub('[-.]', '_', sysconfig.get_platform())}")


def test_wheel_from_the_sdist_has_the_same_files_and_builds_no_javascript(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()

    again = built("wheel", unpacked, tmp_path / "dist")

    assert contents(again) == contents(wheel)
    assert not (unpacked / "extension" / "node_modules").exists()


def test_lock_file_names_no_host():
    text = (ROOT / "extension" / "yarn.lock").read_text()

    assert "://" not in text


def test_wheel_says_what_it_needs_for_python_311_on(wheel):
    metadata = email.message_from_bytes(read(wheel, "dist-info/METADATA"))

    assert metadata["Requires-Python"] == ">=3.11"


def built(kind: str, source: Path, folder: Path) -> Path:
    """The one file that `uv build` makes."""
    uv = Path(sys.executable).with_name("uv")
    made = subprocess.run([uv, "build", f"--{kind}", "--python", sys.executable, "--out-dir", folder, source], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-4000:]
    (file,) = [path for path in folder.iterdir() if path.suffix in (".whl", ".gz")]
    return file


def contents(wheel: Path) -> dict[str, str]:
    """Name → hash of every file, the version left out of folder names; RECORD, which repeats them, left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {plain(name): hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist() if not name.endswith("/RECORD")}


def read(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(each for each in archive.namelist() if plain(each) == name))


def plain(name: str) -> str:
    """Without the version: `dist-info/METADATA`, `data/share/…`, `mlops_nb/…`."""
    first, _, rest = name.partition("/")
    if first.endswith(".dist-info"):
        return f"dist-info/{rest}"
    return rest if first.endswith(".data") else name
