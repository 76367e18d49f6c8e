"""What a device keeps on its disk: bounded, whatever the answers are made of, and honest about a disk that takes no more."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from living import wait_for

from mlops_nb.edge.ledger import Answer, Ledger
from mlops_nb.store.models import ModelVersion

from .brokers import Mosquitto
from .devices import Device, desired, publish
from .test_outages import load_on

pytestmark = pytest.mark.xdist_group("mosquitto")
A_MEGABYTE = 1_000_000


def answer(number: int, *, body: bytes = b"{}", correlation: bytes = b"", topic: str = "gates/out") -> Answer:
    return Answer(number.to_bytes(16, "big"), False, topic, body, correlation or None, "application/json", str(number), 200)


@pytest.mark.parametrize("of", [{"body": b"x" * 2000}, {"correlation": b"x" * 2000}, {"topic": "gates/" + "x" * 2000}])
@pytest.mark.parametrize("full", ["drop oldest", "drop newest"])
def test_the_queue_takes_no_more_of_the_disk_than_it_may_whatever_is_long_in_the_answers(tmp_path: Path, full: str, of: dict) -> None:
    ledger = Ledger(tmp_path / "ledger.db", queue_max_bytes=A_MEGABYTE, telemetry_max_bytes=A_MEGABYTE, full=full)
    for start in range(0, 4000, 100):
        ledger.keep([answer(number, **of) for number in range(start, start + 100)], [], leaving=set())

    assert 0.9 * A_MEGABYTE < ledger.queued_bytes <= A_MEGABYTE
    assert ledger.queued + ledger.dropped == 4000
    kept = [int(one.id) for _, one in ledger.waiting(near=False, after=0, most=10_000)]
    assert kept == (list(range(4000 - ledger.queued, 4000)) if full == "drop oldest" else list(range(ledger.queued)))
    ledger.close()
    assert (tmp_path / "ledger.db").stat().st_size < 3 * A_MEGABYTE
    again = Ledger(tmp_path / "ledger.db", queue_max_bytes=A_MEGABYTE, telemetry_max_bytes=A_MEGABYTE, full=full)
    assert (again.queued, again.queued_bytes, again.dropped) == (ledger.queued, ledger.queued_bytes, ledger.dropped)


def test_answers_that_left_give_their_room_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", queue_max_bytes=A_MEGABYTE, telemetry_max_bytes=A_MEGABYTE, full="drop oldest")
    ledger.keep([answer(number, correlation=b"x" * 500) for number in range(10)], [], leaving=set())

    ledger.delivered([sequence for sequence, _ in ledger.waiting(near=False, after=0, most=10)])

    assert (ledger.queued, ledger.queued_bytes) == (0, 0)


def test_a_disk_that_is_full_ends_the_device_in_one_line_and_nothing_is_lost_or_doubled_once_there_is_room(
    mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion
) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device()
    gate.until_running("g1")
    assert gate.pid

    with load_on(mosquitto) as load:
        resource.prlimit(gate.pid, resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        wait_for(lambda: gate.ended, what="the disk to be full")
        before = len(load.got)
        gate.start()
        wait_for(lambda: len(load.got) > before + 100, what="answers once there is room")

    assert load.got == Counter(dict.fromkeys(load.asked, 1))
    (said,) = [line for line in gate.log.splitlines() if line.startswith("module.failed")]
    assert "state" in said and "Traceback" not in gate.log


def test_a_ledger_that_is_none_is_named_in_one_line(mosquitto: Mosquitto, device: Callable[..., Device]) -> None:
    gate = Device(mosquitto.folder.parent / "gate-1", mosquitto.broker)
    (gate.folder / "state").mkdir()
    (gate.folder / "state" / "ledger.db").write_bytes(b"no database, " * 1000)

    gate.start()

    wait_for(lambda: gate.ended == 1, what="it to give up")
    assert gate.log.splitlines()[-1] == f"module.failed {gate.folder / 'state'}: file is not a database" and "Traceback" not in gate.log
