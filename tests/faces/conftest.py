"""A real kernel in a workspace with a data set, a model and an endpoint, and the real command line on the same workspace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

TRAINED = """
import numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
rng = np.random.default_rng(0)
X = pd.DataFrame({"distance": rng.normal(size=200), "delay": rng.normal(size=200)})
late = (X.delay > 0).astype(int)
clf = LogisticRegression().fit(X, late)
"""


@dataclass
class Ran:
    """What a cell showed."""

    stdout: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    displays: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    traceback: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The last line's value as text."""
        return str(self.result.get("text/plain", ""))

    @property
    def html(self) -> str:
        """The last line's value as HTML."""
        return str(self.result.get("text/html", ""))


class Kernel:
    """A kernel that runs cells and completes lines."""

    def __init__(self, home: Path, folder: Path) -> None:
        env = os.environ | {"MLOPS_HOME": str(home)}
        self.home = home
        self._manager, self._client = start_new_kernel(kernel_name="python3", env=env, cwd=str(folder))

    def interrupted(self, code: str, *, after: str) -> Ran:
        """What a cell shows that is interrupted once it has printed *after*."""
        return self.run(code, interrupt_after=after)

    def run(self, code: str, *, interrupt_after: str = "") -> Ran:
        """What a cell shows; an error is part of that."""
        ran = Ran()

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            match message["msg_type"]:
                case "stream" if content["name"] == "stdout":
                    ran.stdout += content["text"]
                    if interrupt_after and interrupt_after in ran.stdout:
                        self._manager.interrupt_kernel()
                case "execute_result":
                    ran.result = content["data"]
                case "display_data":
                    ran.displays.append(content["data"])
                case "update_display_data":
                    ran.updates.append(content["data"])
                case "error":
                    ran.error, ran.traceback = content["ename"], content["traceback"]

        self._client.execute_interactive(code, output_hook=take, timeout=120, store_history=True)
        return ran

    def ok(self, code: str) -> Ran:
        """What a cell shows that must not fail."""
        ran = self.run(code)
        assert not ran.error, ran.traceback
        return ran

    def completed(self, code: str) -> list[str]:
        """The whole text after each completion at the end of *code*."""
        content = self._client.complete(code, len(code), reply=True, timeout=60)["content"]
        return [code[: content["cursor_start"]] + match for match in content["matches"]]

    def end(self) -> None:
        """Stop it."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


class CommandLine:
    """`mlops …` as a process."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.env = os.environ | {"MLOPS_HOME": str(home)}

    def __call__(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mlops_nb", *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=self.env, cwd=self.folder, timeout=120, check=False)

    def json(self, *words: str, stdin: str = "") -> Any:
        """The one object on stdout."""
        return json.loads(self(*words, "--json", stdin=stdin).stdout)

    def result(self, *words: str, stdin: str = "") -> Any:
        """The result of a command that must succeed."""
        answer = self.json(*words, stdin=stdin)
        assert answer["ok"], answer
        return answer["result"]


@pytest.fixture
def mlops(workspace: Any, tmp_path: Path) -> CommandLine:
    """The command line on a fresh workspace."""
    return CommandLine(workspace.root, tmp_path)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the shared kernel and the shared command line stand."""
    return tmp_path_factory.mktemp("faces")


@pytest.fixture(scope="session")
def kernel(bench: Path) -> Iterator[Kernel]:
    """A kernel with `X`, `late` and `clf`, a data set `flights`, a model `delays` (1 is @champion) served at the endpoint `delays`."""
    kernel = Kernel(bench / "workspace", bench)
    try:
        kernel.ok("%load_ext mlops_nb" + TRAINED)
        kernel.ok("%mlops dataset register flights X --description 'what we know of flights'")
        kernel.ok("%mlops register clf --name delays --data flights --metric auc=0.71 --tag team=ops --alias champion")
        kernel.ok("%mlops register clf --name delays --data flights")
        kernel.ok("%mlops deploy delays:1 --endpoint delays")
        yield kernel
    finally:
        kernel.run("%mlops down")
        kernel.end()


@pytest.fixture(scope="session")
def terminal(kernel: Kernel, bench: Path) -> CommandLine:
    """The command line on the shared kernel's workspace."""
    return CommandLine(kernel.home, bench)
