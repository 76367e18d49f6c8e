"""What devices tell, taken into the workspace: whether they are there, what they run, and their telemetry, each line once.

The agent keeps one `Fleet` while there are edge deployments.  Telemetry is written down before it is acknowledged: a file beside the others,
then up to where it goes in the store, then the file under its final name; whatever is killed between leaves a state that goes on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from .. import store
from ..edge import twin
from ..edge.broker import Broker
from ..edge.link import Down, Link, Received, Up
from ..edge.module import Ingested
from ..errors import MlopsError
from ..safety import path_inside
from ..settings import Workspace
from ..store import deployments as table
from ..store import devices
from ..store.devices import Device
from ..telemetry import files

log = logging.getLogger("mlops_nb.agent")
_TOPICS = ("mlops/devices/+/status", "mlops/devices/+/reported", "mlops/devices/+/telemetry")


class Heard(msgspec.Struct, kw_only=True):
    """What was heard of a device since this process listens."""

    online: bool | None = None
    reported: twin.Reported | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One message of telemetry: lines with their sequence in the device's stream, its oldest first."""

    stream: str
    lines: list[tuple[int, str, str, dict[str, Any]]]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a device's status, or its last will."""

    online: bool


class Fleet:
    """The workspace's ear at *broker*, and its voice: `publish` goes out now or when the link is up."""

    def __init__(self, broker: Broker) -> None:
        self.heard: dict[str, Heard] = {}
        self.trouble = "the broker has not answered yet"
        self.broker = broker
        self._workspace = Workspace.current()
        self._events: SimpleQueue[Any] = SimpleQueue()
        name = hashlib.sha256(str(self._workspace.root.resolve()).encode()).hexdigest()[:16]
        self._link = Link(broker, client_id=f"mlops-workspace-{name}", events=self._events)
        self._known: set[tuple[str, str]] = set()
        self._ended = False
        self._thread = threading.Thread(target=self._listen, daemon=True, name="fleet")

    def start(self) -> None:
        """Begin to listen."""
        self._put_in_place()
        self._link.open()
        self._thread.start()

    def stop(self) -> None:
        """End; what comes meanwhile is kept by the broker."""
        self._ended = True
        self._events.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._link.close()

    def publish(self, topic: str, body: bytes, **properties: Any) -> None:
        """Have *body* retained on *topic*."""
        self._link.publish(topic, body, retain=True, **properties)

    def _listen(self) -> None:
        while not self._ended:
            events = self._next_events()
            try:
                self._take(events)
            except Exception:  # a store that is busy, a disk that is full: it comes again, being unacknowledged
                log.exception("fleet.trouble")
                time.sleep(1)

    def _next_events(self) -> list[Any]:
        events = [self._events.get()]
        while len(events) < 100:
            try:
                events.append(self._events.get_nowait())
            except Empty:
                break
        return events

    def _take(self, events: list[Any]) -> None:
        noted: dict[str, dict[str, Any]] = {}
        for event in events:
            if isinstance(event, Up):
                self.trouble = ""
                self._link.subscribe(_TOPICS)
            elif isinstance(event, Down):
                self.trouble = event.why
            elif isinstance(event, Received):
                self._hear(event, noted)
        if noted:
            with store.writing() as tx:
                for name, facts in noted.items():
                    devices.note(tx, name, **facts)
        for event in events:
            if isinstance(event, Received):
                self._link.acknowledge(event)

    def _hear(self, received: Received, noted: dict[str, dict[str, Any]]) -> None:
        """Take one message in; one that makes no sense is told and passed over, or it would come for ever."""
        message = received.message
        try:
            device = twin.device_of(message.topic)
            kind = message.topic.rsplit("/", 1)[-1]
            if not message.body:
                return
            if kind == "telemetry":
                self._ingest(device, msgspec.json.decode(message.body, type=Told))
            else:
                noted.setdefault(device, {"seen_at": None}).update(self._facts(device, kind, message.body))
        except (msgspec.DecodeError, MlopsError, IndexError, ValueError) as error:
            log.warning("fleet.ignored topic=%s %s", message.topic[:200], error)

    def _facts(self, device: str, kind: str, body: bytes) -> dict[str, Any]:
        heard = self.heard.setdefault(device, Heard())
        if kind == "status":
            heard.online = msgspec.json.decode(body, type=Status).online
            return {"online": heard.online}
        heard.reported = msgspec.json.decode(body, type=twin.Reported)
        return {"reported": msgspec.to_builtins(heard.reported), "seen_at": datetime.fromisoformat(heard.reported.time)}

    # ── telemetry ──

    def _ingest(self, device: str, told: Told) -> None:
        with store.reading() as tx:
            known = devices.get(tx, device) or Device(name=device)
        last = known.ingested if known.stream == told.stream else 0
        fresh = [line for line in told.lines if line[0] > last]
        if fresh:
            last = fresh[-1][0]
            pending = [str(self._written(place, device, lines)) for place, lines in self._by_folder(device, fresh).items()]
            with store.writing() as tx:
                devices.note_ingested(tx, device, stream=told.stream, ingested=last, pending=pending)
            self._put_in_place(device)
        self.publish(twin.ingested_topic(device), msgspec.json.encode(Ingested(stream=told.stream, sequence=last)))

    def _by_folder(self, device: str, lines: list[tuple[int, str, str, dict[str, Any]]]) -> dict[Path, list[tuple[int, dict[str, Any]]]]:
        """The lines by the folder they go to; those of a deployment that never ran on an edge device go nowhere."""
        found: dict[Path, list[tuple[int, dict[str, Any]]]] = {}
        for sequence, endpoint, deployment, line in lines:
            if self._ran(endpoint, deployment):
                found.setdefault(files.folder(endpoint, deployment), []).append((sequence, line))
            else:
                log.warning("fleet.ignored device=%s telemetry of %s/%s, which no device runs", device, endpoint[:100], deployment[:100])
        return found

    def _ran(self, endpoint: str, deployment: str) -> bool:
        if (endpoint, deployment) not in self._known:
            with store.reading() as tx:
                history = table.history(tx, endpoint, most=100_000)
            self._known |= {(endpoint, row["name"]) for row in history if row["target"] == "edge"}
        return (endpoint, deployment) in self._known

    def _written(self, folder: Path, device: str, lines: list[tuple[int, dict[str, Any]]]) -> Path:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = path_inside(folder, f"ingest-{device}-{lines[0][0]}.part")
        with place.open("wb") as out:
            out.writelines(msgspec.json.encode(line) + b"\n" for _, line in lines)
            out.flush()
            os.fsync(out.fileno())
        return place

    def _put_in_place(self, device: str | None = None) -> None:
        """Give what the store counts its final name: after an ingest, or after a kill that came between."""
        with store.reading() as tx:
            waiting = [known for known in devices.every(tx) if known.pending and device in (None, known.name)]
        for known in waiting:
            for part in map(Path, known.pending):
                if part.exists():
                    part.rename(part.with_name(f"closed-{time.time_ns()}.jsonl"))
            with store.writing() as tx:
                devices.note_ingested(tx, known.name, stream=known.stream, ingested=known.ingested, pending=[])
