"""A workspace whose deployments are containers; its images are built once for all tests of this folder."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import docker
import living
import pytest

from mlops_nb import engine, packaging, registry, rollout
from mlops_nb.errors import InvocationFailed
from mlops_nb.rollout import Deployed
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec
from mlops_nb.targets import containers

_SCRIPT = """
import json, mmap, os

def init():
    mode = os.environ.get("MODE", "")
    if mode == "raise":
        raise LookupError("no table customers")
    if mode == "exit":
        print("the licence ran out", flush=True)
        os._exit(3)
    if mode == "hog":
        hog()

def hog():
    block = mmap.mmap(-1, 600 << 20)  # shared memory: beyond what a process limits itself to
    for place in range(0, len(block), 4096):
        block[place] = 1

def run(raw):
    asked = json.loads(raw)
    if asked.get("die"):
        os._exit(7)
    if asked.get("eat"):
        hog()
    return {"pid": os.getpid(), "user": os.getuid()}
"""


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a script that does what its variable MODE says."""
    folder = tmp_path_factory.mktemp("scripts") / "moody"
    folder.mkdir()
    (folder / "score.py").write_text(_SCRIPT)
    return folder


@pytest.fixture(scope="module")
def engine_settings() -> str:
    """What the workspace's config.toml says of its engine: nothing, unless a file of tests has one of its own."""
    return ""


@pytest.fixture(scope="module")
def docker_world(engine_settings: str, base_image: str, moody: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with `churn:1`, `churn:2` (ONNX) and `moody:1`, a script that does what its variable MODE says."""
    root = tmp_path_factory.mktemp("world") / "workspace"
    root.mkdir()
    (root / "config.toml").write_text(engine_settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_HOME", str(root))
        living.churn_model()
        living.churn_model()
        registry.register(moody, name="moody", entry=moody / "score.py")
        yield Workspace(root)
        rollout.down()


@pytest.fixture(scope="module")
def images(docker_world: Workspace, base_image: str) -> dict[str, str]:
    """The image of each version, by its id, so that a test need not look whether it is built."""
    made = {}
    for ref in ("churn:1", "churn:2", "moody:1"):
        known = registry.provenance(ref)
        made[ref] = packaging.image_of(known.version, known.environment, base=base_image).digest
    return made


def _deploy(images: dict[str, str], ref: str, *, endpoint: str, traffic: int | None = None, options: dict[str, Any] | None = None, **spec: Any) -> Deployed:
    wanted = DeploymentSpec(options={"image": images[ref]} if options is None else options, **spec)
    return rollout.deploy(ref, endpoint=endpoint, to="docker", traffic=traffic, spec=wanted)


@pytest.fixture(scope="module")
def steady(images: dict[str, str]) -> Callable[[], Deployed]:
    """`steady()` is the deployment `steady/1` of `moody:1`, healthy; whatever an earlier test did to it."""

    def healthy() -> Deployed:
        found = _deploy(images, "moody:1", endpoint="steady")
        living.wait_for(lambda: _answers("steady"), what="steady/1 to answer")
        return found

    return healthy


def _answers(endpoint: str) -> bool:
    try:
        return bool(rollout.invoke(endpoint, {"hello": 1}))
    except InvocationFailed:
        return False


@pytest.fixture
def in_docker(images: dict[str, str]) -> Iterator[Callable[..., Deployed]]:
    """`in_docker("churn:1", endpoint="a")` deploys to a container; what was deployed is withdrawn after the test."""
    yield partial(_deploy, images)
    for view in rollout.endpoints():
        if view.name != "steady":
            rollout.undeploy(view.name)


@pytest.fixture
def the_engine(container_engine: str) -> docker.DockerClient:
    """A client of our own, to look behind the scenes."""
    return docker.DockerClient(base_url=container_engine, timeout=60)


@pytest.fixture
def container_of(the_engine: docker.DockerClient, docker_world: Workspace) -> Callable[[str], Any]:
    """`container_of("churn/1")` is its container, stopped ones included; None when there is none."""

    def find(ref: str) -> Any:
        labels = [f"{containers.WORKSPACE}={containers.workspace_mark(engine.address())}", f"{containers.DEPLOYMENT}={ref}"]
        return next(iter(the_engine.containers.list(all=True, ignore_removed=True, filters={"label": labels})), None)

    return find


class Door:
    """A socket that leads to the engine, and can be closed or left unanswered."""

    def __init__(self, path: Path, engine: str) -> None:
        self.address = f"unix://{path}"
        self._path, self._engine = path, engine.removeprefix("unix://")
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Lead to the engine."""
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()
        self.leads_there = True

    def close(self, *, deaf: bool = False) -> None:
        """Cut every connection; with *deaf* take new ones and never answer, else refuse them."""
        assert self._listener
        self.leads_there = False
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        self._path.unlink(missing_ok=True)
        if deaf:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._path))
            self._listener.listen(1024)

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(self._engine)
                self._open += [caller, engine]
                for one, other in ((caller, engine), (engine, caller)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while said := one.recv(65536):
            other.sendall(said)
        other.shutdown(socket.SHUT_WR)


@pytest.fixture
def engine_door(images: dict[str, str], docker_world: Workspace, container_engine: str, tmp_path: Path) -> Iterator[Door]:
    """The only way to the engine, as far as this workspace knows."""
    config = docker_world.root / "config.toml"
    door = Door(tmp_path / "engine.sock", container_engine)
    config.write_text(f'container_engine = "{door.address}"\n')
    yield door
    config.unlink()
    if not door.leads_there:
        door.open()
