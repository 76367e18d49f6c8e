"""What was asked and answered is kept, and nobody waits for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mlops_nb.serving import capture
from mlops_nb.serving.capture import Capture, Record

from .scoring_servers import Running, Start, wait_for

ROW = {"carrier": "UA", "distance": 500.5, "hour": 7}


def record(number: int = 0, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "time": 1_700_000_000.25,
        "id": str(number),
        "status": 200,
        "latency_ms": 1.0,
        "rows": 1,
        "payload": None,
        "values": 0,
        "error": None,
    }
    return Record(**(fields | changes))


@pytest.fixture
def onnx(start: Start, late_onnx: Path, flights_signature: dict[str, Any]) -> Callable[..., Running]:
    return lambda **changes: start(late_onnx, engine="onnxruntime", signature=flights_signature, **changes).until_ready()


def test_a_line_holds_the_request_and_its_answer(onnx: Callable[..., Running]):
    server = onnx()
    answer = server.score([ROW, {**ROW, "carrier": "Ünï"}], **{"x-request-id": "mine"}).json()

    line = server.until_lines(1)[0]

    assert line | {"time": "", "latency_ms": 0} == {
        "time": "", "id": "mine", "status": 200, "latency_ms": 0, "rows": 2, "error": None, "outputs": answer,
        "inputs": {"carrier": ["UA", "Ünï"], "distance": [500.5, 500.5], "hour": [7, 7]},
    }  # fmt: skip


def test_time_is_utc_with_microseconds(onnx: Callable[..., Running]):
    server = onnx()
    server.score([ROW])

    moment = server.until_lines(1)[0]["time"]

    assert moment.endswith("+00:00") and len(moment) == len("2026-01-01T00:00:00.000000+00:00")


def test_the_protocols_id_is_the_lines_id(onnx: Callable[..., Running]):
    server = onnx()
    inputs = [
        {"name": name, "shape": [1], "datatype": kind, "data": [ROW[name]]} for name, kind in (("carrier", "BYTES"), ("distance", "FP64"), ("hour", "INT64"))
    ]
    server.infer({"id": "asked", "inputs": inputs})

    assert server.until_lines(1)[0]["id"] == "asked"


def test_a_refused_request_gets_a_line_too(onnx: Callable[..., Running]):
    server = onnx()
    server.score([{**ROW, "hour": "x"}])

    line = server.until_lines(1)[0]

    assert (line["status"], line["inputs"]) == (400, None)
    assert line["error"].startswith("Column 'hour' (row 0)")


def test_all_columns_that_did_not_fit_are_kept_though_the_answer_names_a_few(onnx: Callable[..., Running]):
    server = onnx()
    answer = server.score([{**ROW, **{f"x{n}": 0 for n in range(12)}}])

    line = server.until_lines(1)[0]

    assert "and 4 more" in answer.text and "'x11'" not in answer.text
    assert line["error"].startswith("The data does not fit the model: unknown columns 'x0'") and "'x11'" in line["error"]


def test_an_exception_keeps_the_inputs_that_raised_it(start: Start, script: Callable[[str], Path]):
    server = start(script("def run(raw):\n    raise ValueError('no')\n"), engine="script", flavor="script").until_ready()
    server.client.post("/score", content="{}")

    line = server.until_lines(1)[0]

    assert (line["status"], line["inputs"], line["outputs"], line["error"]) == (500, {"body": ["{}"]}, None, "ValueError: no")


def test_an_entry_scripts_rows_are_columns_where_they_fit_the_signature(start: Start, script: Callable[[str], Path], flights_signature: dict[str, Any]):
    server = start(script("def run(raw):\n    return [1]\n"), engine="script", flavor="script", signature=flights_signature).until_ready()
    server.score([ROW])

    line = server.until_lines(1)[0]

    assert (line["inputs"], line["outputs"]) == ({"carrier": ["UA"], "distance": [500.5], "hour": [7]}, {"output": [1]})


def test_outside_the_sampled_share_only_time_status_and_latency_are_kept(onnx: Callable[..., Running]):
    server = onnx(capture_payload_percent=0)
    server.score([ROW])

    line = server.until_lines(1)[0]

    assert (line["inputs"], line["outputs"], line["status"], line["rows"]) == (None, None, 200, 1)


def test_the_signature_stands_beside(onnx: Callable[..., Running], flights_signature: dict[str, Any]):
    server = onnx()

    assert msgspec.json.decode((server.capture_folder / "signature.json").read_bytes())["inputs"] == flights_signature["inputs"]


def test_health_and_pages_are_not_captured(onnx: Callable[..., Running]):
    server = onnx()
    server.client.get("/metrics")
    server.score([ROW])

    assert len(server.until_lines(1)) == 1


def test_a_stop_closes_the_file_with_every_line(onnx: Callable[..., Running]):
    server = onnx()
    for _ in range(200):
        server.score([ROW])
    server.stop()

    assert not list(server.capture_folder.glob("live-*"))
    assert len(server.lines()) == 200


def test_kill_9_loses_a_tenth_of_a_second_at_most(onnx: Callable[..., Running]):
    """Every request answered more than 100 ms (and one scheduling hiccup) before the kill is on disk."""
    server = onnx()
    answered: list[float] = []
    killed = threading.Event()

    def ask() -> None:
        while not killed.is_set():
            try:
                server.client.post("/score", json=[ROW], headers={"x-request-id": str(len(answered))})
            except Exception:
                return
            answered.append(time.monotonic())

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: len(answered) > 500, "500 answers")
    end = time.monotonic()
    server.stop(signal.SIGKILL)
    killed.set()
    asking.join()

    kept = {line["id"] for line in server.lines()}
    lost = [moment for number, moment in enumerate(answered) if str(number) not in kept]
    assert not [moment for moment in lost if moment < end - 0.25]


def test_what_a_killed_process_left_is_closed_by_the_next(onnx: Callable[..., Running]):
    server = onnx()
    server.score([ROW])
    server.until_lines(1)
    server.stop(signal.SIGKILL)

    after = onnx(capture_folder=str(server.capture_folder))

    assert [path.name for path in server.capture_folder.glob("live-*")] in ([], [f"live-{after.process.pid}.jsonl"])
    assert len(list(server.capture_folder.glob("closed-*"))) == 1


def test_a_disk_that_refuses_is_counted_and_the_answers_go_on(onnx: Callable[..., Running], tmp_path: Path):
    (tmp_path / "a-file").write_text("")
    server = onnx(capture_folder=str(tmp_path / "a-file" / "telemetry"))

    statuses = {server.score([ROW]).status_code for _ in range(3)}
    wait_for(lambda: server.metric("mlops_capture_dropped_total") == 3, "three dropped records")

    assert statuses == {200}
    assert server.metric("mlops_capture_write_errors_total") >= 1


def test_a_disk_that_heals_gets_the_records_after(tmp_path: Path):
    (tmp_path / "telemetry").write_text("")
    writer = Capture(tmp_path / "telemetry", payload_percent=100)
    writer.start(signature=None)
    writer.put(record(1))
    wait_for(lambda: writer.dropped == 1, "the drop")
    (tmp_path / "telemetry").unlink()
    writer.put(record(2))
    writer.end()

    assert [line["id"] for line in written(tmp_path / "telemetry")] == ["2"]


def test_the_queue_is_bounded_and_what_does_not_fit_is_counted(tmp_path: Path):
    writer = Capture(tmp_path, payload_percent=100)  # not started: nothing empties it
    for number in range(capture.MOST_QUEUED + 5):
        writer.put(record(number))

    assert (writer.waiting, writer.dropped) == (capture.MOST_QUEUED, 5)


def test_the_queue_is_bounded_by_what_its_records_hold(tmp_path: Path):
    writer = Capture(tmp_path, payload_percent=100)
    for number in range(10):
        writer.put(record(number, values=capture.MOST_QUEUED_VALUES // 2))

    assert writer.dropped == 7


def test_a_full_file_is_closed_and_a_new_one_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(capture, "ROTATE_BYTES", 1000)
    writer = Capture(tmp_path, payload_percent=100)
    writer.start(signature=None)
    for round_ in (1, 2):
        for number in range(20):
            writer.put(record(number))
        wait_for(lambda round_=round_: len(list(tmp_path.glob("closed-*"))) == round_, f"closed file {round_}")
    writer.end()

    assert len(written(tmp_path)) == 40


def test_a_value_json_has_no_word_for_does_not_stop_the_writer(tmp_path: Path):
    writer = Capture(tmp_path, payload_percent=100)
    writer.start(signature=None)
    writer.put(record(1, payload=lambda _: ({"a": [2**80]}, {"b": [{(1, 2): 3}]})))
    writer.put(record(2))
    writer.end()

    assert [line["id"] for line in written(tmp_path)] == ["1", "2"]


def test_alike_requests_share_a_line_and_those_of_another_shape_have_their_own(tmp_path: Path):
    shapes = [(1, 2, 3)] * 10 + [(1, 3, 2)] * 10 + [(1, 6)] * 10
    kept = Capture(tmp_path, payload_percent=100)
    for number, shape in enumerate(shapes):
        given = np.arange(number, number + 6, dtype=np.float32).reshape(shape)
        kept.put(record(number, given={"x": given}, outputs={"y": given.ravel()[:1]}, values=6))
    kept.start(signature=None)
    kept.end()

    blocks = written(tmp_path)

    assert [line["block"]["id"] for line in blocks] == [[str(number) for number in range(first, first + 10)] for first in (0, 10, 20)]
    assert [np.shape(line["inputs"]["x"]) for line in blocks] == [(10, *shape[1:]) for shape in shapes[::10]]


def test_about_the_sampled_share_is_kept(tmp_path: Path):
    writer = Capture(tmp_path, payload_percent=25)

    kept = sum(writer.sampled() for _ in range(4000))

    assert 800 < kept < 1200


def written(folder: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for file in folder.glob("*.jsonl") for line in file.read_bytes().splitlines()]


def test_files_are_readable_by_the_owner_alone(tmp_path: Path):
    writer = Capture(tmp_path, payload_percent=100)
    writer.start(signature=None)
    writer.put(record())
    writer.end()

    assert [oct(path.stat().st_mode & 0o777) for path in tmp_path.glob("*.jsonl")] == ["0o600"]
