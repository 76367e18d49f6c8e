"""Many requests in one line read as the same requests in a line each."""

from __future__ import annotations

import time
from copy import copy

import duckdb
import numpy as np
import pytest

from mlops_nb import telemetry
from mlops_nb.blocks import LEAST, Table
from mlops_nb.serving.capture import Capture, Record
from mlops_nb.settings import Workspace
from mlops_nb.signature import Column

MANY = 3 * LEAST
SOME_TIME_AGO = int(time.time()) - 3600 + 0.25


def kept(workspace: Workspace, records, *, deployment: str = "1"):
    """Write the records of a server at once; gives its lines."""
    folder = workspace.telemetry / "endpoint=e" / f"deployment={deployment}"
    writer = Capture(folder, payload_percent=100)
    for record in records:
        writer.put(copy(record))
    writer.start(signature=None)
    writer.end()
    return [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_bytes().splitlines()]


def asked():
    newest_first = telemetry.requests("e", most=1000)
    return {one["id"]: one for one in newest_first}


def record(number: int, given, outputs, *, rows: int = 1, status: int = 200, error: str | None = None) -> Record:
    values = sum(array.size for array in (outputs or {}).values())
    return Record(SOME_TIME_AGO + number, f"id-{number}", status, 1.5 + number, rows, error=error, given=given, outputs=outputs, values=values)


def a_tensor(number: int, rows: int = 1):
    numbers = np.random.default_rng(number).normal(size=(rows, 3))
    return {"x": numbers}, {"label": np.arange(rows) + number, "probabilities": numbers[:, :2] / 3}


@pytest.mark.parametrize("compacted", [False, True], ids=["as lines", "as Parquet"])
def test_every_request_of_a_block_is_read_as_it_was(workspace: Workspace, compacted: bool):
    records = [record(number, *a_tensor(number, 1 + number % 3), rows=1 + number % 3) for number in range(MANY)]
    lines = kept(workspace, records)
    if compacted:
        telemetry.compact()

    found = asked()

    assert len(lines) == 1
    for number, one in enumerate(records):
        request = found[f"id-{number}"]
        assert (request["rows"], request["status"], request["latency_ms"], request["error"]) == (one.rows, 200, one.latency_ms, None)
        assert request["time"].timestamp() == one.time
        assert request["inputs"] == {"x": one.given["x"].tolist()}
        assert request["outputs"] == {name: array.tolist() for name, array in one.outputs.items()}


def test_a_block_reads_as_lines_of_their_own_do(workspace: Workspace):
    records = [record(number, *a_tensor(number, 2), rows=2) for number in range(MANY)]
    kept(workspace, records, deployment="block")
    for number, one in enumerate(records):
        kept(workspace, [one], deployment=f"alone-{number}")

    alone = {one["id"]: one | {"deployment": ""} for one in telemetry.requests("e", most=1000) if one["deployment"] != "block"}
    together = {one["id"]: one | {"deployment": ""} for one in telemetry.requests("e", deployment="block", most=1000)}

    assert together == alone


def test_a_tables_columns_keep_their_types(workspace: Workspace):
    columns = [Column(name="hour", type="int64"), Column(name="distance", type="float64")]
    records = [record(number, Table(np.array([[number, 0.5]]), columns), {"label": np.array([1])}) for number in range(MANY)]
    lines = kept(workspace, records)

    assert len(lines) == 1
    assert asked()["id-5"]["inputs"] == {"hour": [5], "distance": [0.5]}


def test_text_and_gaps_are_read_as_they_were(workspace: Workspace):
    given = [
        {"carrier": np.array(["UA", None, 'Ün"ï'][number % 3 :][:1], dtype=object), "delay": np.array([np.nan if number % 2 else 0.1])}
        for number in range(MANY)
    ]
    lines = kept(workspace, [record(number, one, {"label": np.array([True])}) for number, one in enumerate(given)])

    found = asked()

    assert len(lines) == 1
    assert [found[f"id-{n}"]["inputs"]["carrier"] for n in range(3)] == [["UA"], [None], ['Ün"ï']]
    assert [found[f"id-{n}"]["inputs"]["delay"] for n in range(2)] == [[0.1], [None]]


def test_what_is_not_alike_gets_a_line_each(workspace: Workspace):
    """A refused request, one of another width, and one with a value that JSON has no word for take nothing from the others."""
    records = [record(number, *a_tensor(number)) for number in range(MANY)]
    records[3] = record(3, None, None, status=400, error="Column 'x' (row 0): no.")
    lines = kept(workspace, records)
    odd = [record(MANY + number, *a_tensor(number)) for number in range(MANY)]
    odd[3] = record(MANY + 3, {"x": np.ones((1, 5))}, {"label": np.array([0])})
    more = kept(workspace, odd, deployment="odd")

    found = asked()

    assert (len(lines), len(more)) == (2, 3 + 1 + 1)
    assert len(found) == 2 * MANY
    assert (found["id-3"]["status"], found["id-3"]["error"], found["id-3"]["inputs"]) == (400, "Column 'x' (row 0): no.", None)


def test_facts_are_counted_without_any_payload(workspace: Workspace):
    kept(workspace, [record(number, *a_tensor(number, 2), rows=2) for number in range(MANY)])

    assert telemetry.captured("e").rows == 2 * MANY


def test_half_a_block_at_the_end_of_a_file_is_passed_over(workspace: Workspace):
    kept(workspace, [record(number, *a_tensor(number)) for number in range(MANY)])
    kept(workspace, [record(MANY + number, *a_tensor(number)) for number in range(MANY)])
    folder = workspace.telemetry / "endpoint=e" / "deployment=1"
    last = max(folder.glob("*.jsonl"))
    last.write_bytes(last.read_bytes()[:-200])

    assert set(asked()) == {f"id-{number}" for number in range(MANY)}


def test_requests_of_two_kinds_in_turn_are_all_kept(workspace: Workspace):
    records = [
        record(number, *(a_tensor(number) if number % 2 else ({"y": np.arange(3) + number}, {"label": np.zeros(3)})), rows=1 if number % 2 else 3)
        for number in range(MANY)
    ]
    kept(workspace, records)

    found = asked()

    assert [found[f"id-{number}"]["inputs"] for number in range(MANY)] == [{name: array.tolist() for name, array in one.given.items()} for one in records]


def test_a_request_larger_than_a_block_gets_a_line_of_its_own(workspace: Workspace):
    large = record(1, *a_tensor(1, 70_000), rows=70_000)
    lines = kept(workspace, [record(0, *a_tensor(0)), large, record(2, *a_tensor(2))])

    found = asked()

    assert len(lines) == 3
    assert found["id-1"]["inputs"] == {"x": large.given["x"].tolist()}


def test_what_a_request_came_in_may_change_after_it_is_kept(workspace: Workspace):
    """Its arrays are views of memory that the next request is read into."""
    records = [record(number, *a_tensor(number)) for number in range(MANY)]
    first = records[0].given["x"].tolist()
    folder = workspace.telemetry / "endpoint=e" / "deployment=1"
    writer = Capture(folder, payload_percent=100)
    for one in records:
        array = one.given["x"]
        writer.put(one)
        array[...] = -1
    writer.start(signature=None)
    writer.end()

    assert asked()["id-0"]["inputs"] == {"x": first}


def test_a_request_of_no_columns_is_kept_too(workspace: Workspace):
    kept(workspace, [record(number, {"x": np.ones((1, 0))}, {"label": np.ones((1, 0))}) for number in range(MANY)])

    assert len(asked()) == MANY


EVERY_KIND = {
    "truth": np.array([True, False]), "small": np.array([1, 2], np.uint8), "large": np.array([0, 2**64 - 1], np.uint64), "count": np.array([[1, 2], [3, 4]]),
    "half": np.array([0.5, 2], np.float16), "single": np.array([0.1, np.inf], np.float32), "cube": np.arange(8.0).reshape(2, 2, 2),
    "words": np.array(["a", None], object), "odd": np.array([1, "b"], object), "Age": np.array([1.5, np.nan]), "age": np.array([3, 4]),
}  # fmt: skip


@pytest.mark.parametrize("compacted", [False, True], ids=["as lines", "as Parquet"])
def test_values_of_every_kind_read_from_a_block_as_from_a_line(workspace: Workspace, compacted: bool):
    answered = {"label": np.array([1, 2])}
    kept(workspace, [record(number, EVERY_KIND, answered, rows=2) for number in range(MANY)], deployment="block")
    kept(workspace, [record(0, EVERY_KIND, answered, rows=2)], deployment="alone")
    if compacted:
        telemetry.compact()

    [alone] = telemetry.requests("e", deployment="alone")
    together = telemetry.requests("e", deployment="block", most=1000)

    assert len(together) == MANY
    for one in together:
        assert one["outputs"] == alone["outputs"]
        assert one["inputs"].pop("large") == [0, 2**64 - 1]
        assert one["inputs"].pop("single") == [pytest.approx(0.1), None]
        for name, values in one["inputs"].items():
            assert values == alone["inputs"][name], name


@pytest.mark.parametrize("compacted", [False, True], ids=["as lines", "as Parquet"])
def test_a_column_in_lists_of_another_depth_keeps_its_values(workspace: Workspace, compacted: bool):
    flat = record(MANY, {"x": np.array([7.0])}, {"label": np.zeros(1)})
    kept(workspace, [*(record(number, {"x": np.array([[1.0, 2.0]])}, {"label": np.zeros(1)}) for number in range(MANY)), flat])
    if compacted:
        telemetry.compact()

    found = asked()

    assert len(found) == MANY + 1
    assert "7" in str(found[f"id-{MANY}"]["inputs"]["x"])
    assert "2" in str(found["id-0"]["inputs"]["x"])


def test_a_file_without_a_line_yet_is_passed_over(workspace: Workspace):
    kept(workspace, [record(number, *a_tensor(number)) for number in range(MANY)])
    for name, content in {"live-1.jsonl": b"", "closed-1.jsonl": b"\n"}.items():
        (workspace.telemetry / "endpoint=e" / "deployment=1" / name).write_bytes(content)
        (workspace.telemetry / "endpoint=e" / "deployment=2").mkdir(exist_ok=True)
        (workspace.telemetry / "endpoint=e" / "deployment=2" / name).write_bytes(content)

    assert len(asked()) == MANY
    telemetry.compact()
    assert len(asked()) == MANY


def test_the_sample_of_blocks_is_what_it_would_be_if_it_were_read_from_their_file(workspace: Workspace):
    answered = {"label": np.array([1, 2])}
    kept(workspace, [record(number, EVERY_KIND, answered, rows=2) for number in range(300)])
    telemetry.compact()
    [sample] = workspace.telemetry.rglob("samples/*.parquet")

    def told() -> tuple[list, list]:
        found = duckdb.sql(f"SELECT * FROM '{sample}'")
        return [*zip(found.columns, map(str, found.types), strict=True)], found.fetchall()

    taken = told()
    sample.unlink()
    telemetry.compact()

    assert taken == told()
    assert 5 < len(taken[1]) < 50 and {row[1] for row in taken[1]} < {f"id-{number}" for number in range(300)}
