"""One connection to a broker, kept up; all that happens on it becomes an event in one queue.

The session is persistent (MQTT 5 §3.1.2.11.2), so that the broker keeps what comes while the link is down, and a message is acknowledged
only by `acknowledge`: what is not done when the process is killed comes again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any, NamedTuple

from . import broker as brokers
from .broker import Broker

SESSION_SECONDS = 30 * 86_400
MOST_UNACKNOWLEDGED = 256
_KEEPALIVE_SECONDS = 15


class Message(NamedTuple):
    """A message as it came."""

    topic: str
    body: bytes
    content_type: str | None
    response_topic: str | None
    correlation: bytes | None
    user: dict[str, str]
    qos: int
    mid: int


class Up(NamedTuple):
    """The link came up."""

    link: Link
    remembered: bool
    """Whether the broker still knew this client."""


class Down(NamedTuple):
    """The link went down, or did not come up."""

    link: Link
    why: str


class Received(NamedTuple):
    """A message came."""

    link: Link
    message: Message
    epoch: int


class Confirmed(NamedTuple):
    """The broker answered to what was sent."""

    link: Link
    mid: int
    refused: str
    """Why it did not take that; empty when it has it."""


class Subscribed(NamedTuple):
    """The broker answered to a subscription."""

    link: Link
    refused: bool


class Link:
    """A connection of *client_id* to *broker* that puts `Up`, `Down`, `Received`, `Subscribed` and `Confirmed` into *events*.

    *will* is published, retained, by the broker when the link ends without a goodbye: topic and body (MQTT 5 §3.1.2.5).
    """

    def __init__(
        self, broker: Broker, *, client_id: str, events: SimpleQueue[Any], will: tuple[str, bytes] | None = None, longest_retry_seconds: float = 5
    ) -> None:
        self.broker, self.up, self.epoch = broker, False, 0
        self._events = events
        self._published = self._confirmed_ones = self._settled = 0
        self._client = brokers.client(broker, client_id=client_id, manual_ack=True)
        self._client.reconnect_delay_set(1, max(1, int(longest_retry_seconds)))
        self._client.max_inflight_messages_set(100)
        self._client.max_queued_messages_set(0)
        if will:
            self._client.will_set(will[0], will[1], qos=1, retain=True)
        self._client.on_connect, self._client.on_disconnect, self._client.on_connect_fail = self._connected, self._disconnected, self._failed
        self._client.on_message, self._client.on_publish, self._client.on_subscribe = self._received, self._confirmed, self._subscribed

    @property
    def settled(self) -> bool:
        """Whether it is up and all that was published before and not confirmed has been sent again: nothing published now overtakes it."""
        return self.up and self._settled == self.epoch

    def open(self) -> None:
        """Begin to connect, and go on for ever."""
        host, port = self.broker.address
        wanted = brokers.properties("CONNECT", SessionExpiryInterval=SESSION_SECONDS, ReceiveMaximum=MOST_UNACKNOWLEDGED)
        self._client.connect_async(host, port, keepalive=_KEEPALIVE_SECONDS, clean_start=False, properties=wanted)
        self._client.loop_start()

    def close(self) -> None:
        """Say goodbye and end."""
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topics: Iterable[str], *, retained: bool = True) -> None:
        """Have messages on *topics* at QoS 1; those that were retained too, unless not *retained*."""
        from paho.mqtt.subscribeoptions import SubscribeOptions

        options = SubscribeOptions(qos=1, retainHandling=0 if retained else 2)
        if wanted := [(topic, options) for topic in topics]:
            self._client.subscribe(wanted)

    def unsubscribe(self, topic: str) -> None:
        """Have no more messages on *topic*."""
        self._client.unsubscribe(topic)

    def publish(self, topic: str, body: bytes, *, retain: bool = False, **properties: Any) -> int:
        """Send a message, now or as soon as the link is up, in the order of the calls once it is `settled`; the id that `Confirmed` will name."""
        self._published += 1
        return self._client.publish(topic, body, qos=1, retain=retain, properties=brokers.properties("PUBLISH", **properties)).mid

    def acknowledge(self, received: Received) -> None:
        """Tell the broker that a message is done with, unless the link was lost since: it will then come again."""
        if received.message.qos and received.epoch == self.epoch:
            self._client.ack(received.message.mid, received.message.qos)

    # ── in the client's own thread ──

    def _connected(self, _client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._events.put(Down(self, f"the broker says: {reason}"))
            return
        self.epoch += 1
        if self._confirmed_ones == self._published:
            self._settled = self.epoch
        self.up = True
        self._events.put(Up(self, flags.session_present))

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self.up:  # else it was told before why it did not come up
            self.up = False
            self._events.put(Down(self, str(reason)))

    def _failed(self, *_: Any) -> None:
        self._events.put(Down(self, "the broker does not answer"))

    def _received(self, _client: Any, _data: Any, message: Any) -> None:
        said = message.properties
        user: dict[str, str] = dict(getattr(said, "UserProperty", []))
        read = Message(
            message.topic, message.payload, getattr(said, "ContentType", None), getattr(said, "ResponseTopic", None), getattr(said, "CorrelationData", None),
            user, message.qos, message.mid,
        )  # fmt: skip
        self._events.put(Received(self, read, self.epoch))

    def _confirmed(self, _client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._confirmed_ones += 1
        self._settled = self.epoch  # the client sends again all it has before it reads on
        self._events.put(Confirmed(self, mid, str(reason) if reason.is_failure else ""))

    def _subscribed(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        self._events.put(Subscribed(self, any(reason.is_failure for reason in reasons)))


def publish_once(broker: Broker, messages: Iterable[tuple[str, bytes, dict[str, Any]]], *, seconds: float = 10.0) -> None:
    """Publish retained *messages* (topic, body, properties) and return once the broker has all.  Raises BrokerUnreachable."""
    from ..errors import BrokerUnreachable

    with connected(broker, seconds=seconds) as client:
        sent = [client.publish(topic, body, qos=1, retain=True, properties=brokers.properties("PUBLISH", **more)) for topic, body, more in messages]
        for message in sent:
            with contextlib.suppress(RuntimeError, ValueError):  # the link was lost meanwhile: told below
                message.wait_for_publish(seconds)
        if not all(message.is_published() for message in sent):
            raise BrokerUnreachable(broker.url, f"it did not take all messages within {seconds:.0f} s")


@contextlib.contextmanager
def connected(broker: Broker, *, seconds: float = 10.0) -> Any:
    """A client of a session that is forgotten afterwards, connected.  Raises BrokerUnreachable with the broker's or the system's own words."""
    import ssl
    import threading

    from ..errors import BrokerUnreachable

    client, answered, said = brokers.client(broker, client_id=""), threading.Event(), []

    def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        said.append(reason)
        answered.set()

    client.on_connect = on_connect
    client.connect_timeout = seconds
    host, port = broker.address
    try:
        client.connect(host, port, keepalive=_KEEPALIVE_SECONDS)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise BrokerUnreachable(broker.url, _plain(error)) from error
    client.loop_start()
    try:
        if not answered.wait(seconds):
            raise BrokerUnreachable(broker.url, f"nobody answered within {seconds:.0f} s")
        if said[0].is_failure:
            raise BrokerUnreachable(broker.url, f"it says: {said[0]}")
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def _plain(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "verify_message", None) or str(error)
