"""Ask a device, and have each answer once: MQTT 5's request and response (§4.10), made safe against a broker that forgets.

A broker that is killed may forget what it has acknowledged, and may deliver again what was taken.  So a request is kept until its answer
is here, sent again after the link was lost, and an answer that comes twice is handed over once.  Whoever uses this need do neither.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import MlopsError
from . import bodies
from .link import Down, Link, Received, Up
from .module import AGAIN

if TYPE_CHECKING:
    from .broker import Broker
    from .link import Message

_AGAIN_SECONDS = 30.0


class Answered(NamedTuple):
    """One answer, handed over once."""

    id: str
    status: int
    said: Any
    """The body: `{"id", "model", "outputs"}`, or `{"id", "error"}`."""
    device: str
    user: dict[str, str]


class _Waiting(NamedTuple):
    body: bytes
    kind: str
    sent: float


class Requester:
    """Asks on *topic* of *broker*; *take* is called with each answer, once, from a thread of this object's own.

    Answers come on *answers*, a topic of its own unless given.  `close` when done; requests that wait then are given up.
    """

    def __init__(self, broker: Broker, topic: str, take: Callable[[Answered], None], *, name: str = "", answers: str = "") -> None:
        name = name or uuid.uuid4().hex[:12]
        self._topic, self._answers, self._take = topic, answers or f"answers/{name}", take
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._waiting: dict[str, _Waiting] = {}
        self._lock = threading.Lock()
        self._listening, self._ended = threading.Event(), False
        self._link = Link(broker, client_id=f"mlops-requester-{name}", events=self._events)
        self._link.open()
        self._thread = threading.Thread(target=self._run, daemon=True, name="requester")
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests without an answer yet."""
        return len(self._waiting)

    def ask(self, said: Any, *, kind: str = bodies.JSON, id: str = "") -> str:
        """Send a request — rows as `/score` takes them — now or when the link is up; returns its id.  Never waits."""
        id, body = id or uuid.uuid4().hex, bodies.encode(said, kind)
        with self._lock:
            self._waiting[id] = _Waiting(body, kind, time.monotonic())
            if self._link.up and self._listening.is_set():
                self._send(id, again=False)
        return id

    def wait(self, seconds: float) -> bool:
        """Whether the broker lets this requester hear answers, within *seconds*."""
        return self._listening.wait(seconds)

    def close(self) -> None:
        """End."""
        self._ended = True
        self._events.put(None)
        self._thread.join()
        self._link.close()

    def _run(self) -> None:
        while not self._ended:
            try:
                event = self._events.get(timeout=1.0)
            except Empty:
                self._send_late_ones()
                continue
            if isinstance(event, Up):
                self._link.subscribe([self._answers])
                self._send_all()
                self._listening.set()
            elif isinstance(event, Down):
                self._listening.clear()
            elif isinstance(event, Received):
                self._receive(event)

    def _receive(self, received: Received) -> None:
        message = received.message
        id = (message.correlation or b"").decode(errors="replace")
        with self._lock:
            known = self._waiting.pop(id, None)
        if known and (answered := _answered(id, message)):
            self._take(answered)
        elif known:  # no device's answer: the request waits on
            self._waiting.setdefault(id, known)
        self._link.acknowledge(received)

    def _send_all(self) -> None:
        """All that has no answer: the broker may have lost it, or its answer, with the link."""
        with self._lock:
            for id in self._waiting:
                self._send(id, again=True)

    def _send_late_ones(self) -> None:
        with self._lock:
            late = [id for id, waiting in self._waiting.items() if time.monotonic() - waiting.sent > _AGAIN_SECONDS]
            for id in late if self._link.up else []:
                self._send(id, again=True)

    def _send(self, id: str, *, again: bool) -> None:
        waiting = self._waiting[id]
        self._waiting[id] = waiting._replace(sent=time.monotonic())
        properties: dict[str, Any] = {"CorrelationData": id.encode(), "ResponseTopic": self._answers, "ContentType": waiting.kind}
        self._link.publish(self._topic, waiting.body, **properties, UserProperty=[(AGAIN, "1")] if again else None)


def _answered(id: str, message: Message) -> Answered | None:
    """The answer that came; None for what no device would send."""
    try:
        said = bodies.decode(message.body, bodies.kind_of(message.body, message.content_type))
        return Answered(id, int(message.user.get("status", "200")), said, message.user.get("device", ""), message.user)
    except (MlopsError, ValueError):
        return None
