"""Entry scripts in folders, and real servers of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving.scoring_servers import Running, Start, starter

Serve = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server of a model's folder."""
    yield from starter(tmp_path)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model's folder out of an entry script's source, and files by their place in it."""

    def folder_of(source: str, files: dict[str, bytes]) -> Path:
        folder = tmp_path / f"script-{secrets.token_hex(3)}"
        for place, content in ({"entry/score.py": source.encode()} | files).items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
        return folder

    return folder_of


@pytest.fixture
def serve(start: Start, script: Callable[..., Path]) -> Serve:
    """Starts a server of an entry script's source and waits until it is ready."""

    def started(source: str, files: dict[str, bytes] | None = None, **spec: object) -> Running:
        return start(script(source, files or {}), engine="script", flavor="script", **spec).until_ready()

    return started
