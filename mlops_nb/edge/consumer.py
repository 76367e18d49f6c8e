"""Take the answers that devices publish on a topic, each once, without having asked.

MQTT at QoS 1 delivers at least once: again after a device was killed before it heard that its answer was taken, and after the link was lost.
Answers of one device are numbered without end and come in order, so what was had before is known by its number alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from .link import Link, Received, Subscribed, Up

if TYPE_CHECKING:
    from .broker import Broker
    from .link import Message


log = logging.getLogger("mlops_nb.edge")

_AGAIN_SECONDS, _AGAIN_AT_MOST_SECONDS = 0.5, 30.0


class Consumer:
    """Calls *take* with each answer on *topic*, once, from a thread of its own; what comes while it is away is kept by the broker under *name*.

    That begins once the broker knows it, which `wait` tells: what was published before then went to nobody, and is not counted as missing.
    With *folder* it knows after a restart what it had; an answer in whose `take` it was killed comes again.  Where `take` raises, that is logged
    and the same answer is given to it again after a while, half a minute at most; others wait behind it, so that none is lost and all come in order.
    """

    def __init__(self, broker: Broker, topic: str, take: Callable[[Message], None], *, name: str, folder: Path | None = None) -> None:
        self._topic, self._take = topic, take
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self._place = folder / "had.json" if folder else None
        self.missing = 0
        """Numbers that never came: answers that a device had to drop, gave to others, or that a killed broker forgot."""
        self._had: dict[str, int] = _read(self._place)
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._known = threading.Event()
        self._ending = threading.Event()
        self._link = Link(broker, client_id=f"mlops-consumer-{name}", events=self._events)
        self._thread = threading.Thread(target=self._run, daemon=True, name="consumer")
        self._link.open()
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether the broker has taken this consumer's subscription, within *seconds*: from then on every answer comes to it."""
        return self._known.wait(seconds)

    def close(self) -> None:
        """End; the broker keeps what comes meanwhile."""
        self._ending.set()
        self._events.put(None)
        self._thread.join()
        self._link.close()

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            if isinstance(event, Up):
                self._link.subscribe([self._topic])
            elif isinstance(event, Subscribed) and not event.refused:
                self._known.set()
            elif isinstance(event, Received) and not self._receive(event):
                return  # no later one may be taken before it

    def _receive(self, received: Received) -> bool:
        """Whether it was taken, or had before."""
        stream, number = _numbered(received.message)
        last = self._had.get(stream, number - 1)
        if (not stream or number > last) and not self._taken(received.message):
            return False
        if stream and number > last:
            self.missing += max(0, number - last - 1)
            self._note(stream, number)
        self._link.acknowledge(received)
        return True

    def _taken(self, message: Message) -> bool:
        """Whether it was taken, at the first time or a later one; not when this consumer ends before."""
        pause = _AGAIN_SECONDS
        while True:
            try:
                self._take(message)
                return True
            except Exception:  # the caller's own code: what it fails of may pass
                log.exception("edge.take_failed an answer on %s; it is given again in %g s", message.topic, pause)
            if self._ending.wait(pause):
                return False
            pause = min(2 * pause, _AGAIN_AT_MOST_SECONDS)

    def _note(self, stream: str, number: int) -> None:
        self._had[stream] = number
        if self._place:
            scratch = self._place.with_suffix(".tmp")
            scratch.write_bytes(msgspec.json.encode(self._had))
            scratch.replace(self._place)


def _numbered(message: Message) -> tuple[str, int]:
    """The device's stream and the answer's number in it; no stream for what no device of ours sent, which cannot be known again."""
    stream, number = message.user.get("stream", ""), message.user.get("sequence", "")
    return (stream, int(number)) if number.isascii() and number.isdigit() else ("", 0)


def _read(place: Path | None) -> dict[str, int]:
    try:
        return msgspec.json.decode(place.read_bytes(), type=dict[str, int]) if place else {}
    except FileNotFoundError:
        return {}
