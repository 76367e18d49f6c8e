"""The gateway's routes change while it serves."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mlops_nb import gateway, keys
from mlops_nb.errors import PortInUse
from mlops_nb.ports import free_port
from mlops_nb.settings import Workspace

from .conftest import Gate, Server, ask_on, eventually


class Load:
    """Callers that ask one after another on connections of their own and keep count of what they get."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.key = gate, keys.key("delays")
        self.answers: Counter[object] = Counter()
        self.over = threading.Event()
        self.lock = threading.Lock()

    def ask_on_and_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.gate.port, timeout=20)
        while not self.over.is_set():
            try:
                reply = ask_on(connection, "/delays/score", headers={"authorization": f"Bearer {self.key}"}, body=b"[1, 2, 3]")
                answer = reply.body["name"] if reply.status == 200 else (reply.status, reply.body["error"])
            except (OSError, http.client.HTTPException) as error:
                answer = repr(error)
                connection.close()
            with self.lock:
                self.answers[answer] += 1
        connection.close()

    def total(self) -> int:
        with self.lock:
            return self.answers.total()


@contextmanager
def load(gate: Gate, *, callers: int = 6) -> Iterator[Load]:
    running = Load(gate)
    with ThreadPoolExecutor(callers) as pool:
        futures = [pool.submit(running.ask_on_and_on) for _ in range(callers)]
        try:
            yield running
        finally:
            running.over.set()
    for future in futures:
        future.result()


def test_no_request_fails_while_weights_backends_and_keys_change(gate: Gate, red: Server, blue: Server, a_server: Callable[[str], Server]) -> None:
    green = a_server("green")
    gate.send(red.taking(100))
    with load(gate) as callers:
        step = 0
        while callers.total() < 6000:
            share = step * 7 % 101
            backends = [red.taking(share), blue.taking(100 - share)] + ([green.taking(50)] if step % 3 else [])
            keys.rotate("prices")
            gate.apply(gate.route(*backends), gate.route(blue.taking(100), endpoint="prices"))
            step += 1

    assert set(callers.answers) == {"red", "blue", "green"}
    assert step > 20


def test_a_deployment_that_comes_back_on_another_port_loses_no_request(gate: Gate, a_server: Callable[[str], Server]) -> None:
    gate.send(a_server("old").taking(100))
    new = a_server("new")
    with load(gate, callers=3) as callers:
        eventually(lambda: callers.answers["old"] > 200)
        gate.send(gateway.Backend("old", new.port, new.token, 100))
        eventually(lambda: callers.answers["new"] > 200)

    assert set(callers.answers) == {"old", "new"}


def test_weights_are_in_force_when_apply_returns(gate: Gate, red: Server, blue: Server) -> None:
    for _ in range(10):
        gate.send(red.taking(100), blue.taking(0))
        assert gate.ask().body["name"] == "red"
        gate.send(red.taking(0), blue.taking(100))
        assert gate.ask().body["name"] == "blue"


def test_a_server_that_became_ready_this_moment_can_take_all_traffic(gate: Gate, a_server: Callable[[str], Server]) -> None:
    green = a_server("green")
    green.ask("/become-unready")
    gate.send(green.taking(0))
    for _ in range(5):
        green.ask("/become-ready")
        gate.send(green.taking(100))
        assert gate.ask().status == 200
        green.ask("/become-unready")
        gate.send(green.taking(0))


def test_a_request_under_way_is_finished_by_a_backend_that_is_taken_away(gate: Gate, red: Server, blue: Server) -> None:
    gate.send(red.taking(100))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(gate.ask, "/delays/sleep=1")
        eventually(lambda: any(row["active"] for row in gateway.counters()))
        gate.send(blue.taking(100))

        assert (slow.result().status, slow.result().body["name"]) == (200, "red")
    assert gate.ask().body["name"] == "blue"


def test_nothing_is_written_when_nothing_changed(gate: Gate, red: Server, workspace: Workspace) -> None:
    gate.send(red.taking(100))
    before = {file.name: file.stat().st_ino for file in (workspace.run / "gateway").glob("*.json")}

    gate.send(red.taking(100))

    assert {file.name: file.stat().st_ino for file in (workspace.run / "gateway").glob("*.json")} == before


def test_what_was_half_applied_is_completed_by_the_next_apply(gate: Gate, red: Server, blue: Server, workspace: Workspace) -> None:
    gate.send(red.taking(100))
    clusters = (workspace.run / "gateway" / "clusters.json").read_bytes()
    gate.send(blue.taking(100))
    (workspace.run / "gateway" / "clusters.json").write_bytes(clusters)

    gate.send(blue.taking(100))

    assert gate.ask().body["name"] == "blue"


def test_the_port_can_change_while_serving(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))
    gate.port = free_port()
    gate.send(red.taking(100))

    assert eventually(lambda: gateway.observe(gate.handle | {"port": gate.port}))
    assert gate.ask().body["name"] == "red"


def test_moving_to_a_taken_port_is_refused_and_the_old_one_keeps_serving(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    for _ in range(2):
        with pytest.raises(PortInUse, match=f"Port {red.port} is taken"):
            gateway.apply([gate.route(red.taking(100))], port=red.port)

    assert gate.ask().status == 200
    assert gateway.start(gate.port) == gate.handle


def test_requests_are_counted_per_deployment_by_status(gate: Gate, a_server: Callable[[str], Server], red: Server) -> None:
    gate.send(a_server("a.b").taking(100), red.taking(0))
    for path in ("/delays/score", "/delays/score", "/delays/fail"):
        gate.ask(path)

    first, second = gateway.counters()

    counted = ("endpoint", "deployment", "requests", "status_2xx", "status_4xx", "status_5xx", "active", "healthy")
    assert [first[name] for name in counted] == ["delays", "a.b", 3, 2, 0, 1, 0, True]
    assert [second[name] for name in counted] == ["delays", "red", 0, 0, 0, 0, 0, True]


def test_counts_of_a_deployment_begin_again_with_its_new_server(gate: Gate, a_server: Callable[[str], Server]) -> None:
    gate.send(a_server("green").taking(100))
    gate.ask()
    gate.send(a_server("green").taking(100))
    gate.ask("/delays/fail")

    (row,) = eventually(lambda: rows if (rows := gateway.counters())[0]["requests"] == 1 else None)

    assert (row["status_2xx"], row["status_5xx"]) == (0, 1)


def test_percentiles_follow_within_seconds(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))
    gate.ask("/delays/sleep=0.2")

    (row,) = eventually(lambda: [row for row in gateway.counters() if row["p99_ms"]])

    assert 190 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] < 5000
