"""Real backends and a real Envoy."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlops_nb import gateway, keys
from mlops_nb.gateway import Route
from mlops_nb.ports import free_port
from mlops_nb.settings import Workspace


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class Server:
    """A small scoring server in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name, self.port, self.token = name, free_port(), f"token of {name}"
        command = [sys.executable, str(Path(__file__).with_name("backend.py")), name, str(self.port), self.token]
        self.process = subprocess.Popen(command)
        eventually(self.listens)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def ask(self, path: str) -> Reply:
        return ask(self.port, path, headers={"x-mlops-token": self.token})

    def taking(self, weight: int) -> gateway.Backend:
        return gateway.Backend(self.name, self.port, self.token, weight)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Gate:
    """The current workspace's gateway, on a port of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.handle: dict[str, Any] = {}

    def start(self) -> Gate:
        self.handle = gateway.start(self.port)
        return self

    def route(self, *backends: gateway.Backend, endpoint: str = "delays") -> Route:
        return Route(endpoint, keys.key(endpoint), backends)

    def apply(self, *routes: Route) -> None:
        gateway.apply(routes, port=self.port)

    def send(self, *backends: gateway.Backend) -> None:
        """Route the endpoint `delays` to these, and no other endpoint anywhere."""
        self.apply(self.route(*backends))

    def ask(self, path: str = "/delays/score", *, key: str | None = "", headers: dict[str, str] | None = None, body: bytes | None = None) -> Reply:
        """Ask with the key of `delays`, another one, or (None) without."""
        shown = {} if key is None else {"authorization": f"Bearer {key or keys.key('delays')}"}
        return ask(self.port, path, headers=shown | (headers or {}), body=body)


def ask(port: int, path: str, *, headers: dict[str, str], body: bytes | None = None) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        return ask_on(connection, path, headers=headers, body=body)
    finally:
        connection.close()


def ask_on(connection: http.client.HTTPConnection, path: str, *, headers: dict[str, str], body: bytes | None = None) -> Reply:
    connection.request("POST" if body is not None else "GET", path, body=body, headers=headers)
    response = connection.getresponse()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, json.loads(response.read()))


def eventually(true: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """The first truthy answer; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return found


@contextmanager
def serving(name: str) -> Iterator[Server]:
    server = Server(name)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def a_gate() -> Iterator[Gate]:
    """A gateway of the workspace that is current now."""
    gate = Gate()
    try:
        yield gate.start()
    finally:
        gateway.stop(gate.handle)


@pytest.fixture(scope="session")
def red() -> Iterator[Server]:
    """A server that stays up."""
    with serving("red") as server:
        yield server


@pytest.fixture(scope="session")
def blue() -> Iterator[Server]:
    """Another server that stays up."""
    with serving("blue") as server:
        yield server


@pytest.fixture
def a_server() -> Iterator[Callable[[str], Server]]:
    """Starts a server that the test may hurt."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(serving(name))


@pytest.fixture
def gate(workspace: Workspace) -> Iterator[Gate]:
    """A running gateway without endpoints."""
    with a_gate() as running:
        yield running
