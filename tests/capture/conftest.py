"""A real kernel in a project folder, fresh processes, and small trained models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from mlops_nb.packing import Packed
from mlops_nb.settings import Workspace

KERNEL_TIMEOUT_SECONDS = 60


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder a user works in."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def write(project: Path) -> Callable[[str, str], Path]:
    """Write a file of the project."""

    def written(place: str, text: str) -> Path:
        path = project / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    return written


class Kernel:
    """A live kernel: `run` executes a cell and gives what it printed."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, source: str) -> str:
        """Raises AssertionError with the traceback when the cell fails."""
        printed: list[str] = []

        def seen(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        source = dedent(source).strip("\n")
        reply = self._client.execute_interactive(source, timeout=KERNEL_TIMEOUT_SECONDS, output_hook=seen, store_history=True)["content"]
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", [])) + "".join(printed)
        return "".join(printed)

    def value(self, expression: str) -> Any:
        """The value of an expression that JSON can carry."""
        return json.loads(self.run(f"import json; print(json.dumps({expression}))"))


@pytest.fixture
def start_kernel(project: Path, workspace: Workspace) -> Iterator[Callable[..., Kernel]]:
    """Start kernels that stand in the project's folder, with more environment variables when given."""
    started: list[Any] = []

    def start(**variables: str) -> Kernel:
        manager, client = start_new_kernel(kernel_name="python3", cwd=str(project), env={**os.environ, "MLOPS_HOME": str(workspace.root), **variables})
        started.append((manager, client))
        return Kernel(client)

    yield start
    for manager, client in started:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(start_kernel: Callable[..., Kernel]) -> Kernel:
    """A kernel that stands in the project's folder."""
    return start_kernel()


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program text in a fresh process that stands in *folder*."""

    def run(text: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", dedent(text), *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def lay_out(tmp_path: Path) -> Callable[[Packed], Path]:
    """Write a packed model's files to a new folder."""
    count = iter(range(100))

    def laid_out(packed: Packed) -> Path:
        folder = tmp_path / f"laid-out-{next(count)}"
        for place, content in packed.files.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        return folder

    return laid_out
