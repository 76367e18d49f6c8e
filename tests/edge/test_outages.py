"""Broker and device killed under load: every request is answered, and each answer is handed over once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from living import wait_for

from mlops_nb.edge import twin
from mlops_nb.edge.consumer import Consumer
from mlops_nb.edge.link import Link, Message, Received, Subscribed, Up, publish_once
from mlops_nb.edge.requester import Answered, Requester
from mlops_nb.store.models import ModelVersion

from .brokers import USER, Mosquitto
from .devices import Device, desired, publish

pytestmark = pytest.mark.xdist_group("mosquitto")
OUTAGE_SECONDS = 30.0
PER_SECOND = 100


class Load:
    """Somebody who asks a hundred times a second, whatever happens, and counts what is handed over."""

    def __init__(self, mosquitto: Mosquitto) -> None:
        self.got: Counter[str] = Counter()
        self.order: list[int] = []
        self.asked: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._requester = Requester(mosquitto.broker, "gates/in", self._take)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)

    def _take(self, answer: Answered) -> None:
        self.got[answer.id] += 1
        self.statuses[answer.status] += 1
        self.order.append(int(answer.id))

    def _ask_on(self) -> None:
        while not self._ended.wait(1 / PER_SECOND):
            number = len(self.asked)
            self.asked.append(self._requester.ask({"data": [{"age": 20 + number % 50, "income": 10.0 + number % 70}]}, id=str(number)))

    def start(self) -> None:
        assert self._requester.wait(15)
        self._thread.start()

    def finish(self) -> None:
        """Ask no more, and wait for what is not answered."""
        self._ended.set()
        self._thread.join()
        try:
            wait_for(lambda: not self._requester.waiting, seconds=180, what="the last answers")
        finally:
            self._requester.close()


@contextmanager
def load_on(mosquitto: Mosquitto) -> Iterator[Load]:
    """Load while the block runs; then every answer is there."""
    load = Load(mosquitto)
    load.start()
    wait_for(lambda: len(load.got) > 20, what="the first answers")
    try:
        yield load
    finally:
        load.finish()


def test_a_broker_killed_again_and_again_under_load_loses_nothing_and_doubles_nothing(
    mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion
) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    device().until_running("g1")

    with load_on(mosquitto) as load:
        for seconds in (0.0, OUTAGE_SECONDS, 0.0):
            before = len(load.got)
            mosquitto.kill()
            time.sleep(seconds)  # the outage itself
            mosquitto.start()
            wait_for(lambda before=before: len(load.got) > before + 100, seconds=60, what="answers after the outage")

    assert len(load.asked) > 100
    assert load.got == Counter(dict.fromkeys(load.asked, 1))
    assert load.statuses == {200: len(load.asked)}


def test_a_device_killed_again_and_again_under_load_loses_nothing_and_doubles_nothing(
    mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion
) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device()
    gate.until_running("g1")

    with load_on(mosquitto) as load:
        for _ in range(3):
            before = len(load.got)
            gate.kill()
            gate.start()
            wait_for(lambda before=before: len(load.got) > before + 100, seconds=60, what="answers after the kill")

    assert load.got == Counter(dict.fromkeys(load.asked, 1))
    assert gate.stop() == 0


def test_answers_come_in_the_order_of_their_requests(mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    device().until_running("g1")

    with load_on(mosquitto) as load:
        wait_for(lambda: len(load.got) > 200, what="two hundred answers")

    assert load.order == sorted(load.order)


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Mosquitto]:
    """A second broker, beside the device."""
    broker = Mosquitto(tmp_path / "near").start()
    yield broker
    broker.kill()


def ask_near(near: Mosquitto, count: int, *, first: int = 0) -> None:
    """Send requests without a response topic: their answers go up."""
    from mlops_nb.edge.broker import properties
    from mlops_nb.edge.link import connected

    with connected(near.broker) as client:
        for number in range(first, first + count):
            known = properties("PUBLISH", CorrelationData=str(number).encode())
            sent = client.publish("gates/in", b'{"data": [{"age": 40, "income": 50.0}]}', qos=1, properties=known)
            sent.wait_for_publish(20)


@contextmanager
def consumer_above(mosquitto: Mosquitto) -> Iterator[tuple[Link, SimpleQueue[Any]]]:
    """A consumer's link to the broker, and what happens on it."""
    events: SimpleQueue[Any] = SimpleQueue()
    link = Link(mosquitto.broker, client_id="consumer", events=events)
    link.open()
    try:
        yield link, events
    finally:
        link.close()


def subscribe_above(mosquitto: Mosquitto) -> None:
    """Have the broker keep for the consumer what comes to `gates/out`; it has that on its disk by the next message it confirms."""
    with consumer_above(mosquitto) as (link, events):
        while not isinstance(event := events.get(timeout=15), Subscribed):
            if isinstance(event, Up):
                link.subscribe(["gates/out"])


def heard_above(mosquitto: Mosquitto, *, until: Callable[[list[str]], bool]) -> list[str]:
    """The ids of answers that came to `gates/out` since `subscribe_above`."""
    ids: list[str] = []
    deadline = time.monotonic() + 60
    with consumer_above(mosquitto) as (link, events):
        while not until(ids):
            event = events.get(timeout=max(0.1, deadline - time.monotonic()))
            if isinstance(event, Received):
                ids.append(event.message.user["id"])
                link.acknowledge(event)
    return ids


class Held:
    """Events of a link whose own thread waits, after it has told that the link is up, until it may go on."""

    def __init__(self) -> None:
        self._events: SimpleQueue[Any] = SimpleQueue()
        self.may_go_on = threading.Event()

    def put(self, event: Any) -> None:
        self._events.put(event)
        if isinstance(event, Up):
            self.may_go_on.wait(30)


def test_what_a_settled_link_sends_does_not_overtake_what_waited_for_it(mosquitto: Mosquitto) -> None:
    subscribe_above(mosquitto)
    held: Any = Held()
    link = Link(mosquitto.broker, client_id="sender", events=held)
    for number in range(50):
        link.publish("gates/out", b"{}", UserProperty=[("id", str(number))])
    link.open()
    try:
        wait_for(lambda: link.up, what="the link")
        assert not link.settled
        held.may_go_on.set()
        wait_for(lambda: link.settled, what="the link to settle")
        link.publish("gates/out", b"{}", UserProperty=[("id", "50")])
        assert heard_above(mosquitto, until=lambda ids: len(ids) == 51) == [str(number) for number in range(51)]
    finally:
        link.close()


def test_while_the_link_is_down_requests_from_nearby_are_answered_and_their_answers_wait_on_the_disk(
    mosquitto: Mosquitto, near: Mosquitto, device: Callable[..., Device], churn: ModelVersion
) -> None:
    subscribe_above(mosquitto)
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device(requests=near.broker)
    gate.until_running("g1")
    mosquitto.kill()
    gate.until(lambda s: s.link, "the link to be down")

    ask_near(near, 200)
    gate.until(lambda s: s.reported.queued == 200, "200 answers to wait")
    gate.kill()
    gate.start()
    gate.until(lambda s: s.reported.state == "running" and s.reported.queued == 200, "the device to start without a link")
    mosquitto.start()

    assert heard_above(mosquitto, until=lambda ids: len(ids) == 200) == [str(number) for number in range(200)]
    gate.until(lambda s: s.reported.queued == 0, "the queue to be empty")


@pytest.mark.parametrize("full", ["drop oldest", "drop newest"])
def test_a_full_queue_drops_what_it_is_told_to_and_counts_it(
    mosquitto: Mosquitto, near: Mosquitto, device: Callable[..., Device], churn: ModelVersion, full: str
) -> None:
    subscribe_above(mosquitto)
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device(requests=near.broker, queue_max_mb=0.01, queue_full=full)
    gate.until_running("g1")
    mosquitto.kill()
    gate.until(lambda s: s.link, "the link to be down")

    ask_near(near, 200)
    told = gate.until(lambda s: s.reported.queued + s.reported.dropped == 200, "200 answers").reported

    assert told.queued_mb <= 0.01 and told.dropped > 50
    mosquitto.start()
    ids = heard_above(mosquitto, until=lambda ids: len(ids) == told.queued)
    oldest_first = [str(number) for number in range(200)]
    assert ids == (oldest_first[-told.queued :] if full == "drop oldest" else oldest_first[: told.queued])


def test_a_consumer_that_did_not_ask_has_each_answer_once_though_the_device_is_killed(
    mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion, tmp_path: Path
) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device()
    gate.until_running("g1")
    ids: list[str] = []
    consumer = Consumer(mosquitto.broker, "gates/out", lambda message: ids.append(message.user["id"]), name="historian", folder=tmp_path / "new")
    assert consumer.wait(15)  # before that, answers would go to nobody
    asking = threading.Thread(target=ask_near, args=(mosquitto, 1500))
    asking.start()
    try:
        for count in (200, 600, 1000):
            wait_for(lambda count=count: len(ids) > count, what=f"{count} answers")
            gate.kill()
            gate.start()
        asking.join()
        wait_for(lambda: len(ids) >= 1500, what="all answers")
    finally:
        consumer.close()

    assert ids == [str(number) for number in range(1500)]
    assert consumer.missing == 0


def test_requests_for_a_withdrawn_model_that_name_no_response_topic_do_not_cost_the_device_its_link(
    mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion
) -> None:
    subscribe_above(mosquitto)
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device()
    gate.until_told_running("g1")
    gate.kill()
    publish_once(mosquitto.broker, [(twin.desired_topic("gate-1"), b"", {})])
    ask_near(mosquitto, 20)  # the device still subscribes to them, as the broker knows it
    gate.start()
    gate.until(lambda s: s.reported.state == "empty" and s.reported.errors == 20, "the requests to come after the withdrawal")

    publish(mosquitto.broker, desired(churn, "g2"))
    gate.until_running("g2")
    ask_near(mosquitto, 3, first=20)

    assert heard_above(mosquitto, until=lambda ids: "22" in ids) == ["20", "21", "22"]
    assert "link.down" not in gate.log


def test_answers_that_the_broker_refuses_are_told_in_one_line(tmp_path: Path, churn: ModelVersion) -> None:
    strict = Mosquitto(tmp_path / "strict")
    (strict.folder / "acl").write_text(f"user {USER}\ntopic readwrite mlops/#\ntopic readwrite gates/in\n")
    with (strict.folder / "mosquitto.conf").open("a") as conf:
        conf.write(f"acl_file {strict.folder}/acl\n")
    gate = Device(tmp_path / "gate", strict.start().broker).start()
    try:
        publish(strict.broker, desired(churn, "g1"))
        gate.until_running("g1")
        ask_near(strict, 5)
        gate.until(lambda s: s.reported.requests == 5 and s.reported.queued == 0, "the answers to be refused")
    finally:
        gate.kill()
        strict.kill()
    assert gate.log.count(f"publication.refused by {strict.broker.url}: Not authorized") == 1


def test_what_is_published_once_a_broker_that_was_away_has_taken_a_new_consumer_comes_to_it(mosquitto: Mosquitto) -> None:
    mosquitto.kill()
    bodies: list[bytes] = []
    consumer = Consumer(mosquitto.broker, "gates/out", lambda message: bodies.append(message.body), name="historian")
    try:
        assert not consumer.wait(0.5)
        mosquitto.start()
        assert consumer.wait(15)
        publish_as_a_stranger(mosquitto, "gates/out", b"the first")
        wait_for(lambda: bodies == [b"the first"], seconds=15, what="the first answer")
    finally:
        consumer.close()


def test_an_answer_that_could_not_be_taken_is_given_again_and_none_before_it(
    mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    device().until_told_running("g1")
    given: list[str] = []
    works = threading.Event()

    def take(message: Message) -> None:
        given.append(message.user["id"])
        if message.user["id"] == "1" and not works.is_set():
            raise OSError("the historian's disk is full")

    def consumer() -> Consumer:
        return Consumer(mosquitto.broker, "gates/out", take, name="historian", folder=tmp_path)

    first = consumer()
    try:
        assert first.wait(15)
        ask_near(mosquitto, 4)
        wait_for(lambda: given.count("1") >= 2, what="the second try")
    finally:
        first.close()
    assert set(given) == {"0", "1"}
    assert "the historian's disk is full" in caplog.text

    given.clear()
    works.set()
    second = consumer()
    try:
        wait_for(lambda: len(given) == 3, what="what was not taken")
    finally:
        second.close()
    assert given == ["1", "2", "3"] and second.missing == 0


def test_what_strangers_publish_on_the_topics_of_answers_stops_nobody(
    mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion, tmp_path: Path
) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device()
    gate.until_told_running("g1")
    gate.kill()
    ids: list[str] = []
    got: list[Answered] = []
    consumer = Consumer(mosquitto.broker, "gates/out", lambda message: ids.append(message.user.get("id", "?")), name="historian", folder=tmp_path)
    requester = Requester(mosquitto.broker, "gates/in", got.append, answers="answers/me")
    try:
        assert requester.wait(15) and consumer.wait(15)
        requester.ask({"data": [{"age": 40, "income": 50.0}]}, id="mine")
        publish_as_a_stranger(mosquitto, "gates/out", sequence="none of ours")
        for status, body in (("soon", b"{}"), ("200", b"{"), ("200", b"\xff\xff")):
            publish_as_a_stranger(mosquitto, "answers/me", body, status=status, correlation=b"mine")
        wait_for(lambda: ids == ["?"], what="the stranger's message")
        gate.start()
        ask_near(mosquitto, 3)
        wait_for(lambda: len(ids) == 4 and got, what="the device's own answers")
    finally:
        consumer.close()
        requester.close()

    assert ids == ["?", "0", "1", "2"]
    assert [(answer.id, answer.status, answer.said["model"]) for answer in got] == [("mine", 200, "churn:1")]


def publish_as_a_stranger(mosquitto: Mosquitto, topic: str, body: bytes = b"{}", *, correlation: bytes | None = None, **user: str) -> None:
    from mlops_nb.edge.broker import properties
    from mlops_nb.edge.link import connected

    with connected(mosquitto.broker) as client:
        known = properties("PUBLISH", CorrelationData=correlation, UserProperty=[("stream", "s"), *user.items()])
        client.publish(topic, body, qos=1, properties=known).wait_for_publish(20)
