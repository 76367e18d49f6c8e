"""Questions get the same answer whichever form the rows stand in."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from mlops_nb import canary, telemetry
from mlops_nb.errors import BadName
from mlops_nb.serving.capture import Capture, Record
from mlops_nb.splits import COPY_MARK
from mlops_nb.telemetry import Agreed

A_DAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=5)


def test_an_endpoint_that_was_never_asked_has_no_rows(workspace, an_hour_ago):
    assert telemetry.requests("delays") == []
    assert telemetry.traffic("delays", since=an_hour_ago) == []
    assert telemetry.totals("delays", since=an_hour_ago) == []
    assert telemetry.inputs("delays") == {}
    assert telemetry.captured("delays") == telemetry.Captured()


def test_a_name_that_leads_outside_the_workspace_is_refused(workspace):
    with pytest.raises(BadName):
        telemetry.requests("..", deployment="1")


def test_live_closed_and_compacted_requests_are_read_alike(recorded):
    recorded.close(recorded.lines(3), minutes_ago=5)
    telemetry.compact()
    recorded.close(recorded.lines(2))
    recorded.append(recorded.lines(1))

    assert [row["id"] for row in telemetry.requests("delays")] == ["r5", "r4", "r3", "r2", "r1", "r0"]


def test_a_request_reads_the_same_before_and_after_compaction(recorded):
    recorded.close(recorded.lines(4))
    before = telemetry.requests("delays")

    telemetry.compact()

    assert telemetry.requests("delays") == before
    assert before[0]["inputs"] == {"age": [3.0, None], "code": ["001", "x"], "when": ["2026-01-01", "2026-01-02T00:00:00"]}
    assert before[0]["outputs"] == {"label": [0, 1], "probabilities": [[0.25, 0.75], [0.5, 0.5]]}
    assert before[0]["time"].tzinfo is not None


def test_a_line_that_is_half_written_is_passed_over(recorded):
    recorded.append([recorded.line(), recorded.line()[:40]])

    assert [row["id"] for row in telemetry.requests("delays")] == ["r0"]


def test_inputs_have_one_entry_per_scored_row_and_the_types_of_the_signature(recorded):
    recorded.append(recorded.lines(2))

    inputs = telemetry.inputs("delays")

    np.testing.assert_array_equal(inputs["age"], [0.0, np.nan, 1.0, np.nan])
    assert inputs["code"].tolist() == ["001", "x", "001", "x"]
    assert inputs["when"].tolist()[:2] == ["2026-01-01", "2026-01-02T00:00:00"]


def test_numbers_that_look_whole_keep_the_type_of_the_signature(recorded):
    recorded.append([recorded.line(inputs={"age": [1, 2], "code": ["7", "8"], "when": [None, None]})])

    inputs = telemetry.inputs("delays")

    assert inputs["age"].dtype == np.float64
    assert inputs["code"].tolist() == ["7", "8"]
    assert inputs["when"].tolist() == [None, None]


def test_outputs_with_several_values_a_row_are_a_matrix(recorded):
    recorded.close(recorded.lines(3))
    telemetry.compact()

    assert telemetry.outputs("delays")["probabilities"].shape == (6, 2)


def test_columns_whose_names_differ_in_case_only_stay_apart_in_whichever_order_they_come(recorded):
    for minutes, inputs in enumerate(({"Age": [40], "age": [1000]}, {"age": [1001], "Age": [41]})):
        recorded.close([recorded.line(inputs=inputs, outputs=None, rows=1)], minutes_ago=10 - minutes)
        telemetry.compact()

    found = [one["inputs"] for one in telemetry.requests("delays")]

    assert sorted(found, key=lambda one: one["Age"]) == [{"Age": [40], "age": [1000]}, {"Age": [41], "age": [1001]}]


def test_columns_whose_names_differ_in_case_only_stay_apart(recorded):
    recorded.sign({"kind": "table", "inputs": [{"name": "age", "type": "float64"}, {"name": "Age", "type": "string"}, {"name": "n^1", "type": "int64"}]})
    recorded.append([recorded.line(inputs={"age": [1], "Age": ["old"], "n^1": [7]}, outputs=None, rows=1)])
    before = telemetry.requests("delays")
    recorded.append([], pid=os.getpid()).rename(recorded.folder / "closed-17000000000000000.jsonl")

    telemetry.compact()

    assert telemetry.requests("delays") == before
    assert before[0]["inputs"] == {"age": [1.0], "Age": ["old"], "n^1": [7]}
    assert telemetry.inputs("delays")["Age"].tolist() == ["old"]


def test_column_names_may_hold_anything(recorded):
    names = ["a.b", 'say "hi"', "it's", "a/b~c", "ü", "<b>"]
    recorded.sign({"kind": "table", "inputs": [{"name": name, "type": "string"} for name in names]})
    recorded.close([recorded.line(inputs={name: ["v"] for name in names}, rows=1)])
    telemetry.compact()

    assert telemetry.requests("delays")[0]["inputs"] == {name: ["v"] for name in names}


def test_without_a_signature_columns_take_the_types_they_hold(recorded):
    recorded.sign(None)
    recorded.append([recorded.line()])

    inputs = telemetry.inputs("delays")

    assert inputs["age"].dtype == np.float64
    assert inputs["code"].tolist() == ["001", "x"]


def test_a_payload_that_is_no_table_is_kept_as_it_came(recorded):
    recorded.sign(None)
    recorded.close([recorded.line(inputs=[1, {"two": 3}], outputs="yes")])
    telemetry.compact()

    request = telemetry.requests("delays")[0]

    assert (request["inputs"], request["outputs"]) == ([1, {"two": 3}], "yes")


def test_a_refused_request_keeps_its_payload_and_is_no_scored_row(recorded):
    recorded.append([recorded.line(), recorded.line(status=400, inputs={"age": ["abc"]}, outputs=None, error="age: expected float64")])
    before = telemetry.requests("delays")

    assert before[0]["inputs"] == {"age": ["abc"]}
    assert before[0]["error"] == "age: expected float64"
    assert len(telemetry.inputs("delays")["age"]) == 2


def test_what_callers_got_wrong_is_counted_by_message(recorded, record, an_hour_ago):
    wrong = [recorded.line(status=400, error="age: expected float64", time=an_hour_ago + timedelta(minutes=n)) for n in range(3)]
    recorded.close([*wrong, recorded.line(), recorded.line(status=500, error="KeyError"), recorded.line(status=400, error="a copy", id="r~shadow")])
    telemetry.compact()
    other = record("delays", "2")
    other.append([other.line(status=429, error="busy")])

    found = telemetry.refused("delays", since=an_hour_ago)

    told = [(row["deployment"], row["status"], row["error"], row["requests"]) for row in found]
    assert told == [("1", 400, "age: expected float64", 3), ("2", 429, "busy", 1)]
    assert found[0]["time"] == an_hour_ago + timedelta(minutes=2)
    assert telemetry.refused("delays", deployment="3") == []


def test_a_request_outside_the_sampled_share_counts_as_traffic_only(recorded, an_hour_ago):
    recorded.append([recorded.line(), recorded.line(inputs=None, outputs=None)])

    assert telemetry.totals("delays", since=an_hour_ago)[0]["requests"] == 2
    assert telemetry.captured("delays").rows == 2
    assert len(telemetry.inputs("delays")["age"]) == 2


def test_traffic_counts_requests_errors_rows_and_percentiles_per_stretch(recorded):
    first = [recorded.line(time=A_DAY + timedelta(seconds=s), latency_ms=float(s + 1)) for s in range(10)]
    second = [recorded.line(time=A_DAY + timedelta(seconds=10), status=500, latency_ms=9.0)]
    recorded.append(first + second)

    one, two = telemetry.traffic("delays", since=A_DAY, bucket_seconds=10)

    assert (one["deployment"], one["time"], one["requests"], one["errors"], one["rows"]) == ("1", A_DAY, 10, 0, 20)
    assert (one["p50_ms"], one["p95_ms"], one["p999_ms"]) == (pytest.approx(5, rel=0.005), pytest.approx(10, rel=0.005), pytest.approx(10, rel=0.005))
    assert (two["time"], two["requests"], two["errors"]) == (A_DAY + timedelta(seconds=10), 1, 1)


def test_totals_share_the_requests_between_deployments(recorded, record, an_hour_ago):
    recorded.append(recorded.lines(3))
    other = record("delays", "2")
    other.append([other.line(status=500)])

    one, two = telemetry.totals("delays", since=an_hour_ago)

    assert (one["deployment"], one["share"], one["error_rate"]) == ("1", 0.75, 0.0)
    assert (two["deployment"], two["share"], two["error_rate"]) == ("2", 0.25, 1.0)
    assert one["requests_per_second"] == pytest.approx(3 / 3600, rel=0.01)


def test_only_the_asked_deployment_and_time_are_read(recorded, record):
    recorded.close([recorded.line(time=A_DAY + timedelta(days=day)) for day in range(3)])
    telemetry.compact()
    record("delays", "2").append([recorded.line(time=A_DAY)])

    found = telemetry.requests("delays", deployment="1", since=A_DAY + timedelta(hours=1), until=A_DAY + timedelta(days=2))

    assert [row["id"] for row in found] == ["r1"]


def test_deployments_of_different_signatures_are_read_together(recorded, record):
    recorded.append([recorded.line()])
    other = record("delays", "2")
    other.sign({"kind": "table", "inputs": [{"name": "age", "type": "int64"}, {"name": "extra", "type": "bool"}]})
    other.append([other.line(inputs={"age": [5], "extra": [True]}, outputs=None, rows=1)])

    inputs = telemetry.inputs("delays")

    assert sorted(value for value in inputs["age"] if not np.isnan(value)) == [0.0, 5.0]
    assert [value for value in inputs["extra"] if value is not None] == [True]


def test_a_sample_is_about_as_large_as_asked_and_always_the_same(recorded):
    recorded.append(recorded.lines(1000))

    once, again = telemetry.inputs("delays", most=400), telemetry.inputs("delays", most=400)

    assert 300 <= len(once["age"]) <= 500
    np.testing.assert_array_equal(once["age"], again["age"])


def test_what_the_server_writes_is_read_back(recorded):
    capture = Capture(recorded.folder, payload_percent=100)
    capture.start(signature={"kind": "table", "inputs": [{"name": "age", "type": "float64"}], "outputs": []})
    payload = {"age": np.array([1.5, np.nan])}, {"label": np.array([1, 0])}
    capture.put(Record(A_DAY.timestamp(), "abc", 200, 1.25, 2, payload=lambda _: payload, values=2))
    capture.end()

    request = telemetry.requests("delays")[0]

    assert (request["id"], request["time"], request["latency_ms"], request["rows"]) == ("abc", A_DAY, 1.25, 2)
    assert (request["inputs"], request["outputs"]) == ({"age": [1.5, None]}, {"label": [1, 0]})


def test_reading_while_lines_are_closed_and_compacted_loses_and_doubles_nothing(recorded):
    recorded.close(recorded.lines(50), minutes_ago=20)
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            recorded.append(recorded.lines(1)).rename(recorded.folder / f"closed-{time.time_ns()}.jsonl")
            telemetry.compact()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        counts = [telemetry.totals("delays", since=A_DAY - timedelta(days=3650))[0]["requests"] for _ in range(40)]
        payloads = [len(telemetry.inputs("delays")["age"]) for _ in range(15)]
    finally:
        done.set()
        thread.join()

    assert counts == sorted(counts) and counts[0] >= 50
    assert payloads == sorted(payloads) and payloads[0] >= 2 * counts[-1]


def test_many_numbers_are_read_back_to_the_last_bit(recorded):
    rng = np.random.default_rng(5)
    columns = {f"f{n}": rng.normal(size=40).astype(np.float32 if n < 12 else np.float64) for n in range(24)}
    columns |= {"code": ["x"] * 40, "whole": np.arange(40)}
    columns["f3"][7] = np.nan
    types = {name: "string" if name == "code" else str(values.dtype) for name, values in columns.items() if name != "code"} | {"code": "string"}
    capture = Capture(recorded.folder, payload_percent=100)
    capture.start(signature={"kind": "table", "inputs": [{"name": name, "type": type_} for name, type_ in types.items()], "outputs": []})
    capture.put(Record(A_DAY.timestamp(), "many", 200, 1.25, 40, payload=lambda _: (columns, {"label": [1] * 40}), values=1000))
    capture.end()
    assert b'"packed":' in next(recorded.folder.glob("closed-*.jsonl")).read_bytes()

    lines = telemetry.inputs("delays", since=A_DAY - timedelta(days=1))
    telemetry.compact()
    resting = telemetry.inputs("delays", since=A_DAY - timedelta(days=1))

    for read in (lines, resting):
        for name, values in columns.items():
            np.testing.assert_array_equal(read[name], values)


def test_a_tensor_of_many_numbers_keeps_its_shape(recorded):
    rows = np.random.default_rng(6).normal(size=(64, 30)).astype(np.float32)
    capture = Capture(recorded.folder, payload_percent=100)
    capture.start(signature={"kind": "tensors", "inputs": [{"name": "input", "type": "float32", "shape": [None, 30]}], "outputs": []})
    capture.put(Record(A_DAY.timestamp(), "many", 200, 1.25, 64, payload=lambda _: ({"input": rows}, None), values=rows.size))
    capture.end()

    before = telemetry.requests("delays")[0]["inputs"]["input"]
    telemetry.compact()
    after = telemetry.requests("delays")[0]["inputs"]["input"]

    assert before == after
    np.testing.assert_array_equal(np.array(after, dtype=np.float32), rows)


def answered_twice(recorded, record, answers, *, times=None, ids=None):
    """Each of *answers* is what a caller was answered, and what a shadow did: outputs, a status; nothing where it was not kept."""
    for side, (recording, mark) in enumerate(((recorded, ""), (record("delays", "2"), COPY_MARK))):
        recording.sign(None)
        lines = []
        for number, both in enumerate(answers):
            said = both[side]
            status, outputs = (said, None) if isinstance(said, int) else (200, said)
            facts = {"time": times[number] if times else A_DAY, "id": f"{ids[number] if ids else number}{mark}", "status": status}
            lines.append(recording.line(**facts, inputs={"a": [1.0]}, outputs=outputs))
        recording.close(lines)


def label(value):
    return {"label": [value], "probabilities": [[0.3, 0.7]]}


ALIKE = [
    (label("late"), label("late")),
    ({"label": [1], "probabilities": [[0.2, 0.8]]}, {"label": [1], "probabilities": [[0.4, 0.6]]}),
    ({"prediction": [10.0]}, {"prediction": [10.000001]}),
    (500, 503),
]
DIFFERENT = [(label("late"), label("early")), ({"prediction": [10.0]}, {"prediction": [10.1]}), (label("late"), 500), (503, label("late"))]
NOT_KEPT = [(label("late"), None), (None, label("late")), (None, None), (499, label("late")), (499, 499)]


@pytest.mark.parametrize("resting", [False, True], ids=["lines", "parquet"])
def test_two_answers_are_compared_only_where_both_were_kept(recorded, record, resting):
    answered_twice(recorded, record, [*ALIKE, *DIFFERENT, *NOT_KEPT])
    if resting:
        telemetry.compact()
    assert telemetry.agreed("delays", "2", since=A_DAY) == Agreed(pairs=8, alike=4)
    assert {pair.id for pair in telemetry.pairs("delays", "2")} == {str(number) for number in range(8)}


def test_every_pair_counts_however_many_there_are(recorded, record):
    many = 100_050
    times = [A_DAY + timedelta(milliseconds=number) for number in range(many)]
    answered_twice(recorded, record, [(label(0), label(int(number < 100))) for number in range(many)], times=times)

    half = A_DAY + timedelta(seconds=40)
    parts = [telemetry.agreed("delays", "2", since=since, until=until) for since, until in ((A_DAY, half), (half, None))]

    assert parts == [Agreed(pairs=40_000, alike=39_900), Agreed(pairs=60_050, alike=60_050)]
    assert telemetry.agreed("delays", "2", since=A_DAY) == sum(parts, start=Agreed())


def test_a_canary_counts_each_pair_once_though_it_looks_again_and_answers_come_late(recorded, record):
    times = [A_DAY + timedelta(seconds=number) for number in range(200)]
    answered_twice(recorded, record, [(label(0), label(int(number < 50))) for number in range(100)], times=times)
    stage, seen = canary.Stage(percent=10, since=A_DAY + timedelta(seconds=10)), []

    for second in (60, 99, 101, 130, 131):
        stage = canary.with_pairs("delays", "2", stage, A_DAY + timedelta(seconds=second))
        seen.append((stage.agreed.pairs, stage.agreed.alike, stage.settled.pairs))
    answered_twice(recorded, record, [(label(0), label(0))] * 100, times=times[100:], ids=range(100, 200))
    stage = canary.with_pairs("delays", "2", stage, A_DAY + timedelta(seconds=200))

    assert seen == [(50, 10, 0), (89, 49, 24), (90, 50, 24), (90, 50, 55), (90, 50, 55)]
    assert (stage.agreed.pairs, stage.agreed.alike, stage.settled.pairs) == (190, 150, 125)


def test_an_id_that_callers_used_again_tells_no_pair_from_another(recorded, record):
    ids = ["same"] * 3000 + ["one", "two"]
    answered_twice(recorded, record, [(label(number % 2), label(0)) for number in range(3002)], ids=ids)
    assert telemetry.agreed("delays", "2", since=A_DAY) == Agreed(pairs=2, alike=1)
    assert [pair.id for pair in telemetry.pairs("delays", "2")] == ["one", "two"]


def test_a_column_without_a_name_is_kept_as_any_other(recorded, record):
    given = {"inputs": {"": [1.0, 2.0], "age": [3.0, 4.0]}, "outputs": {"": [0, 1], "label": [0, 1]}}
    recorded.close([recorded.line(id="a", **given)])
    record("delays", "2").close([recorded.line(id=f"a{COPY_MARK}", **given)])

    told = [telemetry.inputs("delays")[""].tolist()]
    telemetry.compact()
    told += [telemetry.inputs("delays")[""].tolist(), telemetry.outputs("delays")[""].tolist()]

    assert told == [[1.0, 2.0], [1.0, 2.0], [0, 1]] and len(recorded.parquet()) == 1
    assert [pair.outputs for pair in telemetry.pairs("delays", "2")] == [{"label": [0, 1]}]
