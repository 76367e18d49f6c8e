"""A real JupyterLab server."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mlops_nb.ports import free_port
from mlops_nb.settings import Workspace


class Lab(NamedTuple):
    """A JupyterLab server that runs for the tests of this folder."""

    url: str
    token: str
    root: Path
    """The folder it serves; its workspace is `.mlops` in it."""

    def ask(self, path: str, *, token: bool = True, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, dict]:
        """Status and JSON of one request below the server's URL."""
        request = urllib.request.Request(self.url + path, data=None if body is None else json.dumps(body).encode(), headers=headers or {})
        if token:
            request.add_header("Authorization", f"token {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on a free loopback port, with settings and state of its own."""
    home = tmp_path_factory.mktemp("lab")
    root = home / "notebooks"
    root.mkdir()
    quiet = home / "config" / "labconfig" / "default_setting_overrides.json"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(
        json.dumps({"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}, "mlops-nb:plugin": {"refreshSeconds": 1}})
    )
    port, token = free_port(), secrets.token_hex(16)
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = {name: value for name, value in os.environ.items() if name != "MLOPS_HOME"} | {name: str(home / folder) for name, folder in folders.items()}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += [
        f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=",
        "--expose-app-in-browser",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = home / "server.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(command, cwd=home, env=environment | {"JUPYTER_TOKEN": token}, stdout=sink, stderr=subprocess.STDOUT)
    lab = Lab(f"http://127.0.0.1:{port}/", token, root)
    try:
        wait_until(lambda: server.poll() is not None or answers(lab), seconds=60)
        assert server.poll() is None, log.read_text(errors="replace")
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def lab(lab_server: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The server with nothing in the folder it serves; its workspace is current for this test."""
    for path in lab_server.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.setenv("MLOPS_HOME", str(lab_server.root / ".mlops"))
    return lab_server


@pytest.fixture
def lab_workspace(lab: Lab) -> Workspace:
    """The workspace that the server's root folder has."""
    return Workspace(lab.root / ".mlops")


def answers(lab: Lab) -> bool:
    """Whether the server is up."""
    try:
        return lab.ask("api/status")[0] == 200
    except OSError:
        return False


def wait_until(true: Callable[[], object], *, seconds: float) -> None:
    """Return once *true()* is; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.05)
