"""Two notebooks, a dashboard and a command line on one workspace, all at it for two minutes: no lock error, nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from living import churn_model
from nbclient import NotebookClient

from mlops_nb import dashboards, registry, rollout
from mlops_nb.settings import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Page

SECONDS = 120
pytestmark = pytest.mark.xdist_group("journey")

LOOP = """
import time
from mlops_nb import registry
until, tags = time.time() + {seconds}, 0
while time.time() < until:
    %mlops tag churn:1 {name}={tags}
    %mlops models churn
    tags += 1
tags
"""


def test_two_notebooks_a_dashboard_and_a_command_line_share_a_workspace(live_workspace: Workspace, tmp_path: Path, browser_page: Page) -> None:
    churn_model()
    rollout.deploy("churn:1")
    url = dashboards.start()
    browser_page.goto(f"{url}/rollout?endpoint=churn")
    results: dict[str, object] = {}
    faces = [threading.Thread(target=_notebook, args=(name, tmp_path, results)) for name in ("ada", "bob")]
    faces.append(threading.Thread(target=_command_line, args=(results,)))
    for face in faces:
        face.start()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        browser_page.goto(f"{url}/models")
        browser_page.get_by_text("churn:1").first.wait_for(state="attached")
    for face in faces:
        face.join()

    assert results["cli failures"] == []
    assert results["cli calls"] > 5
    tags = registry.get("churn:1").tags
    for name in ("ada", "bob"):
        assert tags[name] == str(int(results[name]) - 1), f"{name}'s last tag was lost"
    log = (live_workspace.run / "dashboard.log").read_text() + (live_workspace.run / "agent.log").read_text()
    assert "Traceback" not in log and "StoreBusy" not in log


def _notebook(name: str, folder: Path, results: dict[str, object]) -> None:
    loop = LOOP.replace("{seconds}", str(SECONDS)).replace("{name}", name)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in ("%load_ext mlops_nb", loop)])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    results[name] = notebook.cells[-1].outputs[-1]["data"]["text/plain"]


def _command_line(results: dict[str, object]) -> None:
    failures, calls, until = [], 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        done = subprocess.run([sys.executable, "-m", "mlops_nb", "--json", "endpoints"], capture_output=True, text=True, timeout=60)
        calls += 1
        if done.returncode or not json.loads(done.stdout)["ok"]:
            failures.append(done.stdout + done.stderr)
    results["cli failures"], results["cli calls"] = failures, calls
