"""The container engine: found where the user says, told of plainly where it is not."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_nb import engine
from mlops_nb.errors import NoContainerEngine
from mlops_nb.settings import Workspace

pytestmark = pytest.mark.xdist_group("engine")


def test_a_running_engine_says_what_it_is(container_engine: str, workspace: Workspace) -> None:
    facts = engine.facts()

    assert facts.address == container_engine
    assert facts.platform in ("linux/amd64", "linux/arm64")
    assert facts.cores and facts.memory_mb > 100 and facts.local


def test_an_image_to_build_upon_has_python_and_pip(base_image: str, workspace: Workspace) -> None:
    said = engine.client(timeout_seconds=30).containers.run(base_image, ["python3", "-m", "pip", "--version"], remove=True)

    assert b"python 3.11" in said


def test_an_engine_that_is_not_there_is_named_with_what_to_do(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")

    with pytest.raises(NoContainerEngine, match=r"unix:///nowhere/docker.sock does not answer: there is no such socket") as caught:
        engine.client()
    assert "container_engine in [tool.mlops]" in caught.value.hint


@pytest.fixture
def deaf_socket(tmp_path: Path) -> Iterator[str]:
    """A socket that takes calls and never says a word, as a frozen engine's does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "deaf.sock"))
        listener.listen()
        yield f"unix://{tmp_path}/deaf.sock"


def test_an_engine_that_says_nothing_is_given_up_in_seconds(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, deaf_socket: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", deaf_socket)

    with pytest.raises(NoContainerEngine, match="it does not answer in time"):
        engine.client(timeout_seconds=0.3)


def test_a_port_where_nobody_listens_is_no_engine(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")

    with pytest.raises(NoContainerEngine, match="nobody listens there"):
        engine.client()


def test_the_workspace_setting_wins_over_the_environment(container_engine: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    workspace.root.mkdir(parents=True)
    (workspace.root / "config.toml").write_text(f'container_engine = "{container_engine}"\n')

    assert engine.address() == container_engine
    assert engine.facts().version


@pytest.fixture
def docker_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contexts `far` (over ssh, the current one) and `here`."""
    from docker.context import Context
    from docker.utils import config

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setattr(config, "home_dir", lambda: str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "far"}))
    for name, host in {"far": "ssh://somebody@far.example", "here": "unix:///tmp/here.sock"}.items():
        Context(name, host=host).save()


def test_the_current_docker_context_is_honoured(workspace: Workspace, docker_contexts: None) -> None:
    assert engine.address() == "ssh://somebody@far.example:22"
    assert not engine.is_local()


def test_a_context_may_be_named_in_the_settings(workspace: Workspace, docker_contexts: None) -> None:
    workspace.root.mkdir(parents=True)
    (workspace.root / "config.toml").write_text('container_engine = "here"\n')

    assert engine.address() == "unix:///tmp/here.sock"
    assert engine.is_local()


def test_a_context_that_does_not_exist_is_said(workspace: Workspace, docker_contexts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "nearby")

    with pytest.raises(NoContainerEngine, match="context nearby does not answer: docker knows no context of this name"):
        engine.address()
