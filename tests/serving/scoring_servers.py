"""Scoring servers for tests: real processes, asked over sockets."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import orjson

from mlops_nb.column_bytes import arrays_of
from mlops_nb.ports import free_port
from mlops_nb.store.deployments import Reason

DEADLINE_SECONDS = 150.0
"""A server takes a second or two of CPU to start, which is a minute on a machine where twenty others want the same two cores."""


def _requests(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The requests that a line tells of: one, or those of a block."""
    if not (block := line.get("block")):
        return [line]
    ends = list(accumulate(block["rows"]))
    inputs, outputs = (
        [{name: values[end - count : end] for name, values in whole.items()} for count, end in zip(block["rows"], ends, strict=True)]
        for side, groups in (("inputs", "packed"), ("outputs", "packed_outputs"))
        for whole in [line[side] | {name: _told(array) for name, array in arrays_of(line[groups]).items()}]
    )
    times = [datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds") for micros in block["time"]]
    facts = [dict(zip(("id", "latency_ms", "rows"), values, strict=True)) for values in zip(block["id"], block["latency_ms"], block["rows"], strict=True)]
    return [
        one | {"time": time, "status": 200, "error": None, "inputs": asked, "outputs": answered}
        for one, time, asked, answered in zip(facts, times, inputs, outputs, strict=True)
    ]


def _told(array: np.ndarray) -> list[Any]:
    """As JSON has it, which knows no NaN."""
    return msgspec.json.decode(orjson.dumps(array.tolist()))  # type: ignore[no-any-return]


class Running:
    """A scoring server's process, its folders, and a client that knows its token."""

    def __init__(self, folder: Path, spec: dict[str, Any], environment: dict[str, str]) -> None:
        self.folder, self.spec = folder, spec
        self.run_folder, self.capture_folder = folder / "run", folder / "telemetry" / "endpoint=delays" / "deployment=1"
        self.token = Path(spec["token_file"]).read_text()
        spec_file = folder / "spec.json"
        spec_file.write_bytes(msgspec.json.encode(spec))
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlops_nb.serving", str(spec_file)], stdout=self.log, stderr=self.log, env=os.environ | environment
        )
        self.url = f"http://127.0.0.1:{spec['port']}"
        self.client = httpx.Client(base_url=self.url, headers={"x-mlops-token": self.token}, timeout=20, trust_env=False)

    def until_ready(self) -> Running:
        try:
            wait_for(lambda: self.process.poll() is not None or self._ready(), "the server is ready")
        except AssertionError as error:
            self.stop(signal.SIGABRT)  # it says where each of its threads is
            error.add_note((self.folder / "log").read_text())
            raise
        assert self.process.poll() is None, (self.folder / "log").read_text()
        return self

    def _ready(self) -> bool:
        try:
            return self.client.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def failure(self) -> Reason:
        """Why it did not come up."""
        assert self.process.wait(DEADLINE_SECONDS) == 1, (self.folder / "log").read_text()
        return msgspec.json.decode((self.run_folder / "failure.json").read_bytes(), type=Reason)

    def request_error(self) -> Reason:
        return msgspec.json.decode((self.run_folder / "request_error.json").read_bytes(), type=Reason)

    def score(self, body: Any, **headers: str) -> httpx.Response:
        return self.client.post("/score", json=body, headers=headers)

    def infer(self, body: Any, name: str = "delays") -> httpx.Response:
        return self.client.post(f"/v2/models/{name}/infer", json=body)

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line of telemetry, by time."""
        found = [line for file in self.capture_folder.glob("*.jsonl") for line in file.read_bytes().split(b"\n")[:-1] if line]
        return sorted((one for line in found for one in _requests(msgspec.json.decode(line))), key=lambda line: line["time"])

    def until_lines(self, count: int) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.lines()) >= count, f"{count} lines of telemetry")
        return self.lines()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line for line in self.client.get("/metrics").text.splitlines() if line.startswith(name + "{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(DEADLINE_SECONDS)

    def clean(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.client.close()
        self.log.close()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:.0f} s: {what}"
        time.sleep(0.005)


Start = Callable[..., Running]


def starter(folder: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start(model: Path, *, environment: dict[str, str] | None = None, **changes: Any) -> Running:
        place = folder / f"server-{len(started)}-{secrets.token_hex(3)}"
        (place / "run").mkdir(parents=True)
        (place / "token").write_text("the-token")
        spec = {
            "endpoint": "delays", "deployment": "1", "model": "late", "version": 3, "folder": str(model), "flavor": "sklearn", "engine": "python",
            "port": free_port(), "token_file": str(place / "token"), "run_folder": str(place / "run"),
            "capture_folder": str(place / "telemetry" / "endpoint=delays" / "deployment=1"), "trusted": True,
        }  # fmt: skip
        server = Running(place, spec | changes, environment or {})
        started.append(server)
        return server

    yield start
    for server in started:
        server.clean()
