"""A script is tried as soon as it is written, from the cell that holds it or from its file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from mlops_nb import drafting, registry, rollout
from mlops_nb.errors import EntryScriptFailed
from mlops_nb.settings import Workspace

DOUBLES = """
import json
import os

def init():
    global words
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "words.txt")) as file:
        words = file.read()
    print("init is done")

def run(raw_data):
    return {"doubled": [2 * value for value in json.loads(raw_data)["data"]], "words": words}
"""


class Kernel:
    """A real kernel whose cells are run one by one."""

    def __init__(self, folder: Path) -> None:
        self.manager, self._client = start_new_kernel(kernel_name="python3", env=dict(os.environ), cwd=str(folder))

    def run(self, code: str, *, interrupt_after: str = "") -> dict[str, Any]:
        """What a cell printed, its value as text, and its error."""
        shown: dict[str, Any] = {"stdout": "", "text": "", "error": ""}

        def take(message: dict[str, Any]) -> None:
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                shown["stdout"] += content["text"]
                if interrupt_after and interrupt_after in content["text"]:
                    self.manager.interrupt_kernel()
            elif kind == "execute_result":
                shown["text"] = content["data"]["text/plain"]
            elif kind == "error":
                shown["error"] = "\n".join(content["traceback"])

        self._client.execute_interactive(code, output_hook=take, timeout=120)
        return shown

    def end(self) -> None:
        self._client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(live_workspace: Workspace, tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path)
    kernel.run("%load_ext mlops_nb")
    yield kernel
    kernel.end()


def test_a_cell_becomes_a_script_that_is_tried_registered_and_debugged(kernel: Kernel, tmp_path: Path):
    (tmp_path / "words.txt").write_text("hello")

    tried = kernel.run("%%mlops entry --name s --sample '{\"data\": [1, 2]}' --model words.txt\n" + DOUBLES)
    assert '{"doubled":[2,4],"words":"hello"}' in tried["text"], tried
    assert (tmp_path / "s.py").read_text() == DOUBLES

    broken = kernel.run("%%mlops entry --name t --sample 1\ndef run(raw_data):\n    return 1 / 0\n")
    assert "ZeroDivisionError: division by zero (cell line 3, t.py:2)" in broken["error"]

    registered = kernel.run("%mlops register words.txt --name doubles --entry s.py")
    assert not registered["error"] and registry.get("doubles").engine == "script"
    rollout.deploy("doubles")
    assert rollout.invoke("doubles", {"data": [3]}).outputs == {"doubled": [6], "words": "hello"}

    debugged = kernel.run("%mlops debug s.py --model words.txt --sample '{\"data\": [4]}'", interrupt_after="ready:")
    assert '{"doubled":[8],"words":"hello"}' in debugged["stdout"] and not debugged["error"]


def test_a_command_that_means_no_cell_says_so(kernel: Kernel):
    assert "takes no cell" in kernel.run("%%mlops status\nx = 1\n")["error"]


def test_a_file_is_tried_from_the_terminal(workspace: Workspace, tmp_path: Path):
    (tmp_path / "s.py").write_text("def run(raw_data):\n    return raw_data[::-1]\n")
    command = [sys.executable, "-m", "mlops_nb", "entry", "--file", str(tmp_path / "s.py"), "--sample", "[1]", "--json"]

    said = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    assert said["result"]["answer"] == '"]1["'


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nothing_of_that_name\ndef run(raw_data):\n    return 1\n", r"ModuleNotFoundError.*s\.py:1"),
        ("def init():\n    open('none.txt')\ndef run(raw_data):\n    return 1\n", r"FileNotFoundError.*s\.py:2"),
        ("def run(raw_data):\n    return 1 +\n", r"SyntaxError.*s\.py:2"),
        ("import os\ndef run(raw_data):\n    os._exit(3)\n", "ended with exit code 3"),
        ("x = 1\n", "has no function run"),
    ],
    ids=["package", "path", "syntax", "exit", "no run"],
)
def test_a_script_that_cannot_answer_says_why_and_where(workspace: Workspace, tmp_path: Path, source: str, told: str):
    script = drafting.write(tmp_path / "s.py", source)

    with pytest.raises(EntryScriptFailed, match=told) as caught:
        drafting.try_out(script, sample=b"{}")
    assert "draft.py" not in caught.value.detail


def test_a_script_that_does_not_end_is_ended_with_its_line(workspace: Workspace, tmp_path: Path):
    workspace.root.mkdir(parents=True)
    (workspace.root / "config.toml").write_text("request_timeout_seconds = 2\n")
    script = drafting.write(tmp_path / "s.py", "def run(raw_data):\n    while True: pass\n")

    with pytest.raises(EntryScriptFailed, match=r"did not return within 2 s \(s\.py:2\)"):
        drafting.try_out(script, sample=b"{}")
