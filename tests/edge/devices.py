"""The module on a device, as a process of its own, and what tests need to talk to it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec
from living import wait_for

from mlops_nb import artifacts
from mlops_nb.edge import twin
from mlops_nb.edge.broker import Broker
from mlops_nb.edge.link import Link, Received, Subscribed, Up, publish_once
from mlops_nb.edge.module import State
from mlops_nb.edge.spec import DeviceSpec
from mlops_nb.edge.twin import Desired
from mlops_nb.store.models import ModelVersion

KEY = b"a key that device and workspace share"


class Device:
    """One device: its folder survives `kill`."""

    def __init__(self, folder: Path, broker: Broker, *, name: str = "gate-1", **more: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "twin.key").write_bytes(KEY)
        (folder / "twin.key").chmod(0o600)
        settings = {"heartbeat_seconds": 0.5, "telemetry_seconds": 0.3, "longest_retry_seconds": 1, "twin_key_file": str(folder / "twin.key")} | more
        self.name, self.folder, self.broker = name, folder, broker
        self.spec = DeviceSpec(device=name, broker=broker, folder=str(folder / "state"), **settings)
        (folder / "spec.json").write_bytes(msgspec.json.encode(self.spec))
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, folder: Path) -> Device:
        """The device that a provisioned folder makes."""
        made = cls.__new__(cls)
        made.folder, made._process = folder, None
        return made

    def start(self) -> Device:
        """Start the module."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlops_nb.edge", "spec.json"], cwd=self.folder, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
        return self

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process
        self._process.terminate()
        code = self._process.wait(20)
        self._process = None
        return code

    @property
    def pid(self) -> int | None:
        """The process that runs."""
        return self._process.pid if self._process else None

    @property
    def ended(self) -> int | None:
        """The exit code of a process that ended by itself."""
        return self._process.poll() if self._process else None

    @property
    def state(self) -> State | None:
        """What it last said on its own disk."""
        try:
            return msgspec.json.decode((self.folder / "state" / "state.json").read_bytes(), type=State)
        except FileNotFoundError:
            return None

    @property
    def log(self) -> str:
        """All it said."""
        return (self.folder / "log").read_text()

    def until(self, true: Any, what: str, *, seconds: float = 30) -> State:
        """Its state once *true* of it."""
        try:
            return wait_for(lambda: (state := self.state) and true(state) and state, seconds=seconds, what=what)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.state}\n{self.log}") from None

    def until_running(self, generation: str) -> State:
        """Once it runs *generation* and is connected."""
        return self.until(lambda s: (s.reported.state, s.reported.generation, s.link) == ("running", generation, ""), f"{generation} to run")

    def until_told_running(self, generation: str) -> None:
        """Once it has told the broker that it runs *generation*, which comes behind its subscription: requests are kept for it from then on."""

        def told(messages: list[Any]) -> bool:
            said = [msgspec.json.decode(message.body, type=twin.Reported) for message in messages]
            return any((each.state, each.generation) == ("running", generation) for each in said)

        with hearing(self.broker, twin.reported_topic(self.name), client_id=f"ear-{generation}") as heard:
            heard(told, f"{generation} to be told as running")


def desired(version: ModelVersion, generation: str, *, topic_in: str = "gates/in", topic_out: str = "gates/out", **more: Any) -> Desired:
    """What a device should run."""
    return Desired(
        generation=generation, endpoint=version.model, deployment="gate-1", model=version.model, version=version.version, hash=version.hash,
        flavor=version.flavor, engine=version.engine, files=version.files, signature=version.signature, trusted=version.trusted,  # type: ignore[arg-type]
        topic_in=topic_in, topic_out=topic_out, **more,
    )  # fmt: skip


def publish(broker: Broker, wanted: Desired, *, device: str = "gate-1", key: bytes = KEY, files: bool = True) -> None:
    """Tell a device what to run, and give the broker the files."""
    messages = [message for file in wanted.files for message in chunks(file, wanted.chunk_bytes)] if files else []
    body = msgspec.json.encode(wanted)
    signed = {"UserProperty": [("mac", twin.sign(body, key, device=device))], "ContentType": "application/json"}
    publish_once(broker, [*messages, (twin.desired_topic(device), body, signed)])


def chunks(file: Any, size: int) -> list[tuple[str, bytes, dict[str, Any]]]:
    """A file in pieces."""
    content = artifacts.address(file.sha256).read_bytes()
    return [(twin.chunk_topic(file.sha256, n), content[start : start + size], {}) for n, start in enumerate(range(0, max(1, len(content)), size))]


@contextlib.contextmanager
def hearing(broker: Broker, *topics: str, client_id: str = "ear") -> Iterator[Callable[..., list[Any]]]:
    """`heard(until=…)` gives the messages that come on *topics* from now on, once they are as wanted."""
    events: SimpleQueue[Any] = SimpleQueue()
    link = Link(broker, client_id=client_id, events=events)
    got: list[Any] = []
    taken: list[Subscribed] = []

    def take(seconds: float = 0.05) -> None:
        try:
            event = events.get(timeout=seconds)
        except Empty:
            return
        if isinstance(event, Up):
            link.subscribe(topics)
        elif isinstance(event, Subscribed):
            taken.append(event)
        elif isinstance(event, Received):
            got.append(event.message)
            link.acknowledge(event)

    def heard(until: Callable[[list[Any]], Any], what: str = "messages") -> list[Any]:
        wait_for(lambda: (take(), until(got))[1], what=what)
        return got

    link.open()
    wait_for(lambda: (take(), taken)[1], what="the subscription")
    try:
        yield heard
    finally:
        link.close()
