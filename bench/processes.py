"""A bare server in a process of its own, and one request to a server."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from mlops_nb.ports import free_port

_SECONDS = 60


class Bare(NamedTuple):
    """A `bench.bare` process."""

    pid: int
    port: int


@contextmanager
def bare_server(*arguments: str) -> Iterator[Bare]:
    """A `bench.bare` process that may not answer yet; it is ended with the block."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.bare", str(port), *arguments], cwd=Path(__file__).parent.parent)
    try:
        yield Bare(process.pid, port)
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all that it started."""
    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


def ask(port: int, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and body of one POST; waits for a server that is still coming up."""
    deadline = time.monotonic() + _SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        finally:
            connection.close()


def ready(port: int) -> None:
    """Return as soon as the scoring server of this port says that it is ready."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return
        except ConnectionRefusedError:
            time.sleep(0.002)
        finally:
            connection.close()
    raise TimeoutError(f"no server became ready on port {port}")
