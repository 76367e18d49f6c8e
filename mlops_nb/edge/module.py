"""The module on a device: requests come on one topic, answers go on another, and what should run is told by the twin.

One thread does everything, event by event: a request is answered, its answer is on the disk, and only then is it acknowledged.  So what a
kill interrupts comes again, and what was answered is known again.  Answers leave in order; those the broker has confirmed are forgotten.
"""

from __future__ import annotations

import hashlib
import random
import sys
import threading
import time
import uuid
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..errors import MlopsError, SignatureMismatch
from ..serving.capture import Record, line
from ..version import __version__
from . import bodies, models, twin
from .broker import secret
from .ledger import Answer, Ledger, Line
from .link import Confirmed, Down, Link, Message, Received, Subscribed, Up

if TYPE_CHECKING:
    from ..serving.engines import Engine
    from .spec import DeviceSpec
    from .twin import Desired

AGAIN = "again"
"""User property of a request whose answer never came: it is answered although it was before."""
_BATCH = 128
_WINDOW = 200
_TELEMETRY_BYTES = 256_000
_LONGEST_SILENCE_SECONDS = 600.0


class Ended(NamedTuple):
    """The process is to end."""


class Loaded(NamedTuple):
    """A model was loaded, or was not."""

    desired: Desired
    engine: Engine | None
    error: BaseException | None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the module leaves in `state.json` for whoever is on the same machine."""

    link: str
    """Why there is no link to the broker; empty when there is."""
    reported: twin.Reported


class Module:
    """A device: its links, its ledger, its model.  `run` returns after `end`."""

    def __init__(self, spec: DeviceSpec) -> None:
        folder = Path(spec.folder)
        self._spec = spec
        self._key = secret(spec.twin_key_file) if spec.twin_key_file else None
        self._shelf = models.Shelf(folder, elsewhere=Path(spec.files_folder) if spec.files_folder else None)
        self._ledger = Ledger(
            folder / "ledger.db", queue_max_bytes=int(spec.queue_max_mb * 1e6), telemetry_max_bytes=int(spec.telemetry_max_mb * 1e6), full=spec.queue_full
        )
        self._events: SimpleQueue[Any] = SimpleQueue()
        will = twin.status_topic(spec.device), _status(False)
        self._home = Link(
            spec.broker.checked(), client_id=f"mlops-{spec.device}", events=self._events, will=will, longest_retry_seconds=spec.longest_retry_seconds
        )
        self._near = self._home
        if spec.requests:
            self._near = Link(spec.requests.checked(), client_id=f"mlops-{spec.device}", events=self._events, longest_retry_seconds=spec.longest_retry_seconds)
        self._link_trouble = "it has not connected yet"
        self._engine: Engine | None = None
        self._desired: Desired | None = None
        """What runs."""
        self._wanted: Desired | None = None
        """What is being fetched or loaded."""
        self._fetching: dict[str, Any] = {}
        self._fetch_until = 0.0
        self._state: tuple[Any, str, str] = ("empty", "", "")
        self._leaving: dict[tuple[int, int], int] = {}
        self._sent: dict[bool, int] = {False: 0, True: 0}
        self._refusals: set[str] = set()
        self._latencies: deque[float] = deque(maxlen=1000)
        self._requests = self._errors = self._rows = 0
        self._started = _now()
        self._heartbeat_due = self._telemetry_due = 0.0
        self._silence_seconds = spec.telemetry_seconds
        self._changed = True
        self._ended = False

    def end(self) -> None:
        """Have `run` finish what it has and return; may be called from a signal handler."""
        self._events.put(Ended())

    def run(self) -> None:
        """Answer until told to end."""
        self._start_offline()
        self._home.open()
        if self._near is not self._home:
            self._near.open()
        while not self._ended:
            self._handle(self._next_events())
            self._send_answers()
            self._do_what_is_due()
        self._say_goodbye()

    def _next_events(self) -> list[Any]:
        """What happened: at least one event, unless something else is due."""
        try:
            events = [self._events.get(timeout=max(0.0, min(self._heartbeat_due, self._telemetry_due) - time.monotonic()))]
        except Empty:
            return []
        while len(events) < _BATCH:
            try:
                events.append(self._events.get_nowait())
            except Empty:
                break
        return events

    def _handle(self, events: list[Any]) -> None:
        """Requests together, so that they share one write to the disk; all else in its place among them."""
        requests: list[Received] = []
        for event in events:
            if isinstance(event, Received) and not event.message.topic.startswith("mlops/"):
                requests.append(event)
                continue
            self._answer(requests)
            requests = []
            self._take(event)
        self._answer(requests)

    def _take(self, event: Any) -> None:
        if isinstance(event, Received):
            self._read_own(event.message)
            event.link.acknowledge(event)
        elif isinstance(event, Confirmed):
            self._confirmed(event)
        elif isinstance(event, Loaded):
            self._loaded(event)
        elif isinstance(event, Up):
            self._came_up(event)
        elif isinstance(event, Down):
            self._went_down(event)
        elif isinstance(event, Subscribed) and event.refused:
            _say(f"subscription.refused by {event.link.broker.url}: the broker's access list does not let this device hear all it should")
        elif isinstance(event, Ended):
            self._ended = True

    # ── requests ──

    def _answer(self, requests: list[Received]) -> None:
        """Answer those not answered before; acknowledge once the answers are on the disk."""
        if not requests:
            return
        answers: list[Answer] = []
        lines: list[Line] = []
        seen: set[bytes] = set()
        for received in requests:
            answer, captured = self._answered(received, seen)
            answers += [answer] if answer else []
            lines += [captured] if captured else []
        self._ledger.keep(answers, lines, leaving=set(self._leaving.values()))
        for received in requests:
            received.link.acknowledge(received)

    def _answered(self, received: Received, seen: set[bytes]) -> tuple[Answer | None, Line | None]:
        """One request's answer and what is kept of it; neither when it was answered before, or when there is no topic to answer on."""
        message, started = received.message, time.perf_counter()
        topic = self._topic_for(message)
        if not topic:
            self._requests, self._errors = self._requests + 1, self._errors + 1
            return None, None
        kind, said, wrong = _read(message)
        id = _id(message) or bodies.id_of(said)
        key = _key(topic, id, message) if id else None  # one without an id cannot be told from its equal, and is answered each time it comes
        if key and (key in seen or self._was_answered(key, message)):
            return None, None
        seen.update([key] if key else [])
        id = id or uuid.uuid4().hex
        status, body, columns, outputs = self._scored(said, wrong, id=id, kind=kind)
        latency_ms = (time.perf_counter() - started) * 1000
        near = received.link is not self._home and message.response_topic is not None
        answer = Answer(key, near, topic, body, message.correlation, kind, id, status)
        return answer, self._captured(id, status, latency_ms, columns, outputs, body if status >= 400 else b"")

    def _was_answered(self, key: bytes, message: Message) -> bool:
        """Whether nothing is to be done: it is known, and nobody says that the answer never came."""
        return self._ledger.knows(key) and (message.user.get(AGAIN) != "1" or self._ledger.waits(key))

    def _topic_for(self, message: Message) -> str:
        """The request's response topic, where it names one that may be published to; else the model's own; empty when none runs."""
        usual = self._desired.topic_out if self._desired else ""
        if not message.response_topic:
            return usual
        try:
            return twin.checked_topic(message.response_topic, what="a response topic")
        except MlopsError:
            return usual

    def _scored(self, said: Any, wrong: MlopsError | None, *, id: str, kind: str) -> tuple[int, bytes, dict[str, Any] | None, dict[str, Any] | None]:
        """Status, body, inputs and outputs of one request; a fault of the caller's or of the model's is an answer too."""
        from ..serving import engines

        columns = None
        try:
            if wrong:
                raise wrong
            if not self._engine or not self._desired:
                return 503, bodies.encode({"id": id, "error": "No model runs on this device."}, kind), None, None
            asked = bodies.asked(said, self._engine.signature)
            columns = self._checked(asked.columns)
            outputs = engines.predict(self._engine, columns)
            body = bodies.answer(outputs, asked, model=self._desired.model, version=str(self._desired.version), id=id, kind=kind)
            return 200, body, columns, outputs
        except MlopsError as error:
            return 400, bodies.encode({"id": id, "error": str(error), "hint": error.hint}, kind), columns, None
        except Exception as error:  # the model's own code: told to the caller, and the module goes on
            _say(f"request.failed id={id} {type(error).__name__}: {error}")
            return 500, bodies.encode({"id": id, "error": f"{type(error).__name__}: {error}"}, kind), columns, None

    def _checked(self, columns: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        signature = self._engine.signature if self._engine else None
        arrays = signature.check(columns) if signature else {name: np.asarray(values) for name, values in columns.items()}
        if not any(len(array) for array in arrays.values() if array.ndim):
            raise SignatureMismatch("The request has no rows.", hint="at least one row")
        return arrays

    def _captured(self, id: str, status: int, latency_ms: float, columns: Any, outputs: Any, error: bytes) -> Line | None:
        """The request as a line of telemetry, with what stood in it for the share that is kept."""
        rows = max((len(array) for array in (columns or {}).values() if array.ndim), default=0)
        self._requests, self._rows, self._errors = self._requests + 1, self._rows + rows, self._errors + (status >= 400)
        self._latencies.append(latency_ms)
        desired = self._desired
        if desired is None:
            return None
        kept = columns is not None and random.random() * 100 < desired.capture_percent
        text = error.decode(errors="replace")[:300] if error else None
        record = Record(time.time(), id, status, latency_ms, rows, error=text, given=columns if kept else None, outputs=outputs)
        return Line(desired.endpoint, desired.deployment, line(record))

    # ── answers ──

    def _send_answers(self) -> None:
        """Hand what waits to the links that are up and settled, some at a time, each link's in its order."""
        for near, link in ((False, self._home), (True, self._near)):
            room = _WINDOW - len(self._leaving)
            if not link.settled or room <= 0 or (near and link is self._home):
                continue
            for sequence, answer in self._ledger.waiting(near=near, after=self._sent[near], most=room):
                properties = [("device", self._spec.device), ("id", answer.id), ("status", str(answer.status))]
                properties += [("stream", self._ledger.stream), ("sequence", str(sequence))]
                mid = link.publish(
                    answer.topic, answer.body, ContentType=answer.content_type, CorrelationData=answer.correlation, UserProperty=properties
                )  # fmt: skip
                self._leaving[(id(link), mid)] = sequence
                self._sent[near] = sequence

    def _confirmed(self, event: Confirmed) -> None:
        if event.refused and event.refused not in self._refusals:
            self._refusals.add(event.refused)
            _say(f"publication.refused by {event.link.broker.url}: {event.refused}: what it does not let this device publish, answers too, is lost")
        sequence = self._leaving.pop((id(event.link), event.mid), None)
        if sequence is not None:
            self._ledger.delivered([sequence])

    # ── the link ──

    def _came_up(self, event: Up) -> None:
        _say(f"link.up {event.link.broker.url} session={'kept' if event.remembered else 'new'}")
        self._refusals.clear()
        if event.link is self._home:
            self._link_trouble = ""
            device = self._spec.device
            event.link.publish(twin.status_topic(device), _status(True), retain=True)
            event.link.subscribe([twin.desired_topic(device), twin.ingested_topic(device), *(twin.chunk_topic(sha256, "+") for sha256 in self._fetching)])
            self._changed, self._telemetry_due, self._silence_seconds = True, 0.0, self._spec.telemetry_seconds
        if event.link is self._near and self._desired:
            event.link.subscribe([self._desired.topic_in], retained=False)

    def _went_down(self, event: Down) -> None:
        if event.link is self._home and event.why != self._link_trouble:
            self._link_trouble, self._changed = event.why, True
            _say(f"link.down {event.link.broker.url} {event.why}")

    # ── the twin ──

    def _start_offline(self) -> None:
        """Load what ran before, from the disk alone; what keeps ending the process gives way to what ran before it."""
        fatal = self._shelf.fatal()
        for desired in (self._shelf.current(), self._shelf.previous()):
            if desired and desired.generation != fatal and self._try_now(self._load(desired)):
                return
        if packaged := models.packaged(self._spec):
            self._try_now(self._loaded_from(*packaged))

    def _try_now(self, loaded: Loaded) -> bool:
        if loaded.engine is None:
            self._fail(loaded.desired.generation, loaded.error)
            return False
        self._run(loaded.desired, loaded.engine)
        return True

    def _read_own(self, message: Message) -> None:
        """A message about this device."""
        device = self._spec.device
        if message.topic == twin.desired_topic(device):
            self._read_desired(message)
        elif message.topic == twin.ingested_topic(device):
            self._read_ingested(message.body)
        elif message.topic.startswith("mlops/files/"):
            self._read_chunk(message)

    def _read_desired(self, message: Message) -> None:
        if not message.body:
            self._withdraw()
            return
        try:
            desired = twin.read_desired(message.body, message.user.get("mac", ""), key=self._key, device=self._spec.device)
        except MlopsError as error:
            self._fail(_generation(message.body), error)
            return
        if self._engine and self._desired and desired == self._desired:
            self._become("running", desired.generation)
        elif desired.generation == self._shelf.fatal():
            self._fail(desired.generation, RuntimeError("loading it ended the process each time it was tried"))
        elif not (self._state[0] == "failed" and self._state[1] == desired.generation) and desired != self._wanted:
            self._fetch(desired)

    def _fetch(self, desired: Desired) -> None:
        """Get what is lacking, then load."""
        self._stop_fetching()
        self._wanted = desired
        try:
            lacking = self._shelf.lacking(desired.files)
        except (MlopsError, OSError) as error:
            self._fail(desired.generation, error)
            return
        if not lacking:
            self._load_beside(desired)
            return
        self._fetching = {file.sha256: file for file in lacking}
        self._fetch_until = time.monotonic() + self._spec.fetch_timeout_seconds
        self._become("fetching", desired.generation)
        if self._home.up:
            self._home.subscribe(twin.chunk_topic(sha256, "+") for sha256 in self._fetching)

    def _read_chunk(self, message: Message) -> None:
        _, _, sha256, number = message.topic.split("/", 3)
        if sha256 not in self._fetching or not self._wanted or not number.isdecimal() or len(number) > 9:
            return
        self._fetch_until = time.monotonic() + self._spec.fetch_timeout_seconds
        try:
            if not self._shelf.put_chunk(self._fetching[sha256], int(number), message.body, chunk_bytes=self._wanted.chunk_bytes):
                return
        except (MlopsError, OSError) as error:
            self._fail(self._wanted.generation, error)
            return
        del self._fetching[sha256]
        self._home.unsubscribe(twin.chunk_topic(sha256, "+"))
        if not self._fetching:
            self._load_beside(self._wanted)

    def _stop_fetching(self) -> None:
        for sha256 in self._fetching:
            self._home.unsubscribe(twin.chunk_topic(sha256, "+"))
        self._fetching = {}
        self._wanted = None

    def _load_beside(self, desired: Desired) -> None:
        """Load in a thread: the model that runs goes on answering."""
        threading.Thread(target=lambda: self._events.put(self._load(desired)), daemon=True, name="load").start()

    def _load(self, desired: Desired) -> Loaded:
        self._shelf.trying(desired)
        try:
            return self._loaded_from(desired, self._shelf.laid_out(desired))
        except (MlopsError, OSError) as error:  # its files are not what they should be
            return Loaded(desired, None, error)
        finally:
            self._shelf.tried()

    def _loaded_from(self, desired: Desired, folder: Path) -> Loaded:
        try:
            return Loaded(desired, models.loaded(desired, folder), None)
        except (Exception, SystemExit) as error:  # whatever the model's own code raises is what the device reports
            return Loaded(desired, None, error)

    def _loaded(self, loaded: Loaded) -> None:
        if loaded.desired != self._wanted:  # something newer is wanted meanwhile
            return
        self._wanted = None
        if loaded.engine is None:
            self._fail(loaded.desired.generation, loaded.error)
            return
        self._shelf.switch(loaded.desired)
        self._run(loaded.desired, loaded.engine)

    def _run(self, desired: Desired, engine: Engine) -> None:
        """From the next request on, *engine* answers."""
        before, self._desired, self._engine = self._desired, desired, engine
        self._latencies.clear()
        if self._near.up and before and before.topic_in != desired.topic_in:
            self._near.unsubscribe(before.topic_in)
        if self._near.up:
            self._near.subscribe([desired.topic_in], retained=False)
        _say(f"model.running {desired.ref} generation={desired.generation}")
        self._become("running", desired.generation)

    def _withdraw(self) -> None:
        if self._desired:
            self._near.unsubscribe(self._desired.topic_in)
            _say(f"model.withdrawn {self._desired.ref}")
        self._stop_fetching()
        self._desired = self._engine = None
        self._shelf.withdraw()
        self._become("empty", "")

    def _fail(self, generation: str, error: BaseException | None) -> None:
        """Say that *generation* does not run here, and why; what ran before goes on."""
        self._stop_fetching()
        reason = str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}"
        _say(f"model.failed generation={generation} {reason}")
        self._become("failed", generation, reason[:1000])

    def _become(self, state: str, generation: str, reason: str = "") -> None:
        self._state, self._changed = (state, generation, reason), True

    # ── what is due ──

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._fetching and now > self._fetch_until and self._wanted:
            missing = next(iter(self._fetching.values())).path
            self._fail(self._wanted.generation, TimeoutError(f"{missing} has not come within {self._spec.fetch_timeout_seconds:.0f} s"))
        if self._changed or now >= self._heartbeat_due:
            self._report()
            self._changed, self._heartbeat_due = False, now + self._spec.heartbeat_seconds
        if now >= self._telemetry_due:
            self._telemetry_due = now + self._silence_seconds
            self._send_telemetry()

    def _report(self) -> None:
        reported = self._reported()
        if self._home.up:
            self._home.publish(twin.reported_topic(self._spec.device), msgspec.json.encode(reported), retain=True)
        place = Path(self._spec.folder) / "state.json"
        scratch = place.with_suffix(".tmp")
        scratch.write_bytes(msgspec.json.encode(State(link=self._link_trouble, reported=reported)))
        scratch.replace(place)

    def _reported(self) -> twin.Reported:
        state, generation, reason = self._state
        latencies, before = sorted(self._latencies), self._shelf.previous()
        return twin.Reported(
            device=self._spec.device, state=state, generation=generation, reason=reason, model=self._desired.ref if self._desired else "",
            hash=self._desired.hash if self._desired else "", previous=before.ref if before else "", module=__version__,
            providers=self._engine.providers if self._engine else [], requests=self._requests, errors=self._errors, rows=self._rows,
            p50_ms=_at(latencies, 0.5), p95_ms=_at(latencies, 0.95), queued=self._ledger.queued, queued_mb=self._ledger.queued_bytes / 1e6,
            dropped=self._ledger.dropped, telemetry_waiting=self._ledger.lines, telemetry_dropped=self._ledger.telemetry_dropped,
            started=self._started, time=_now(),
        )  # type: ignore[arg-type]  # fmt: skip

    def _send_telemetry(self) -> None:
        """Send the oldest lines; they stay until the workspace says that it has them.  Unheard, this is done more and more seldom."""
        after, lines = self._ledger.captured(most_bytes=_TELEMETRY_BYTES)
        if not lines or not self._home.up:
            return
        rows = [[sequence, kept.endpoint, kept.deployment, msgspec.Raw(kept.line)] for sequence, kept in lines]
        sent = {"stream": self._ledger.stream, "after": after, "lines": rows}
        self._home.publish(twin.telemetry_topic(self._spec.device), msgspec.json.encode(sent))
        self._silence_seconds = min(_LONGEST_SILENCE_SECONDS, self._silence_seconds * 2)
        self._telemetry_due = time.monotonic() + self._silence_seconds

    def _read_ingested(self, body: bytes) -> None:
        try:
            told = msgspec.json.decode(body, type=Ingested)
        except msgspec.DecodeError:
            return
        if told.stream == self._ledger.stream:
            self._ledger.ingested(told.sequence)
            self._silence_seconds = self._spec.telemetry_seconds
            soon = 0.0 if self._ledger.lines > 500 else self._spec.telemetry_seconds
            self._telemetry_due = min(self._telemetry_due, time.monotonic() + soon)

    def _say_goodbye(self) -> None:
        if self._home.up:
            self._home.publish(twin.status_topic(self._spec.device), _status(False), retain=True)
        for link in {self._home, self._near}:
            link.close()
        self._ledger.close()
        _say("module.ended")


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """Up to which line of which stream the workspace has a device's telemetry."""

    stream: str
    sequence: int


def _read(message: Message) -> tuple[str, Any, MlopsError | None]:
    """Kind and content of a message, or what is wrong with it."""
    try:
        kind = bodies.kind_of(message.body, message.content_type)
    except MlopsError as error:
        return bodies.JSON, None, error
    try:
        return kind, bodies.decode(message.body, kind), None
    except MlopsError as error:
        return kind, None, error


def _id(message: Message) -> str:
    """What the request's answer is to be known by: its correlation data as text, or its user property `id`."""
    if message.correlation:
        text = message.correlation.decode("utf-8", "replace")
        return text if text.isprintable() and "\ufffd" not in text else message.correlation.hex()
    return message.user.get("id", "")[:200]


def _key(topic: str, id: str, message: Message) -> bytes:
    """By which a request is known again; two callers' ids do not meet unless topic and body are equal too."""
    parts = (topic.encode(), id.encode(), message.correlation or b"", message.body)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()[:16]


def _generation(body: bytes) -> str:
    """What a state that is not to be run calls itself."""
    try:
        return str(msgspec.json.decode(body)["generation"])[:200]
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


def _at(latencies: list[float], share: float) -> float | None:
    return round(latencies[min(len(latencies) - 1, int(len(latencies) * share))], 3) if latencies else None


def _status(online: bool) -> bytes:
    return msgspec.json.encode({"online": online})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _say(event: str) -> None:
    sys.stderr.write(f"{_now()} {event}\n")
    sys.stderr.flush()
