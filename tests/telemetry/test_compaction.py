"""Compaction may be killed anywhere and meets whatever a killed one left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from mlops_nb import telemetry
from mlops_nb.telemetry import compaction

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
COMPACT_FOREVER = "from mlops_nb import telemetry\nprint('ready', flush=True)\nwhile True: telemetry.compact()"


def ids() -> list[str]:
    return sorted(row["id"] for row in telemetry.requests("delays", most=100_000))


def test_a_closed_file_becomes_a_parquet_file_of_its_stem(recorded):
    closed = recorded.close(recorded.lines(3))

    assert telemetry.compact().converted == 1

    [parquet] = recorded.parquet()
    assert closed.stem == f"closed-{parquet.stem}"
    assert parquet.parent.name == f"date={datetime.now(UTC).date()}"
    assert not closed.exists()


def test_compacting_twice_changes_nothing(recorded):
    recorded.close(recorded.lines(3))
    telemetry.compact()

    assert telemetry.compact() == telemetry.Compaction()
    assert len(ids()) == 3


def test_a_live_file_of_a_dead_server_is_closed(recorded, dead_pid):
    live = recorded.append(recorded.lines(2), pid=dead_pid)

    telemetry.compact()

    assert not live.exists()
    assert len(recorded.parquet()) == 1 and len(ids()) == 2


def test_a_live_file_of_a_running_server_is_left_alone(recorded):
    live = recorded.append(recorded.lines(2))

    telemetry.compact()

    assert live.exists() and len(ids()) == 2


def test_a_live_file_that_somebody_holds_is_left_alone_though_its_pid_is_unknown_here(recorded, dead_pid):
    import fcntl

    live = recorded.append(recorded.lines(2), pid=dead_pid)
    with live.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        telemetry.compact()

        assert live.exists()


def test_lines_whose_parquet_file_exists_count_once_and_are_cleared(recorded, tmp_path):
    closed = recorded.close(recorded.lines(3))
    shutil.copy(closed, tmp_path)
    telemetry.compact()
    shutil.copy(tmp_path / closed.name, closed)  # as if killed before the lines were deleted

    assert len(ids()) == 3
    telemetry.compact()
    assert not closed.exists() and len(ids()) == 3


def test_an_unfinished_parquet_file_is_no_parquet_file_and_is_cleared(recorded):
    recorded.close(recorded.lines(3))
    telemetry.compact()
    unfinished = recorded.parquet()[0].with_name(".1.parquet.tmp")
    unfinished.write_bytes(b"PAR1 half")

    assert len(ids()) == 3
    telemetry.compact()
    assert not unfinished.exists()


def test_small_files_of_a_past_day_become_one(recorded):
    for minutes in (300, 290, 280):
        recorded.close(recorded.lines(2, time=datetime.now(UTC) - timedelta(days=1)), minutes_ago=minutes)

    assert telemetry.compact().merged == 3

    [parquet] = recorded.parquet()
    assert "-" in parquet.stem and len(ids()) == 6


def test_sources_of_a_merged_file_that_were_not_deleted_count_once_and_are_cleared(recorded, tmp_path):
    for minutes in (300, 290):
        recorded.close(recorded.lines(2, time=datetime.now(UTC) - timedelta(days=1)), minutes_ago=minutes)
    compaction._convert(recorded.folder)
    sources = recorded.parquet()
    for source in sources:
        shutil.copy(source, tmp_path)
    compaction._merge(recorded.folder)
    for source in sources:  # as if killed before they were deleted
        shutil.copy(tmp_path / source.name, source)

    assert len(ids()) == 4
    telemetry.compact()
    assert len(recorded.parquet()) == 1 and len(ids()) == 4


def test_lines_that_arrive_late_under_a_merged_stem_are_not_lost(recorded):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for minutes in (300, 280):
        recorded.close(recorded.lines(2, time=yesterday), minutes_ago=minutes)
    telemetry.compact()
    recorded.close(recorded.lines(1, time=yesterday), minutes_ago=290)

    assert len(ids()) == 5
    telemetry.compact()
    assert len(ids()) == 5


def test_files_of_today_are_merged_only_when_there_are_many(recorded):
    for number in range(16):
        recorded.close(recorded.lines(1), minutes_ago=40 - number)
        telemetry.compact()

    assert len(recorded.parquet()) == 1 and len(ids()) == 16


def test_columns_that_came_later_are_kept_when_files_are_merged(recorded):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    recorded.close([recorded.line(time=yesterday)], minutes_ago=300)
    recorded.close([recorded.line(time=yesterday, inputs={"age": [1.0], "extra": [5]}, rows=1)], minutes_ago=290)

    telemetry.compact()

    assert sorted(telemetry.requests("delays")[0]["inputs"] | telemetry.requests("delays")[1]["inputs"]) == ["age", "code", "extra", "when"]


def test_a_file_without_a_whole_line_is_removed(recorded):
    recorded.close([])
    recorded.close(['{"time": "2026'], minutes_ago=1)

    telemetry.compact()

    assert not list(recorded.folder.glob("*.jsonl")) and not recorded.parquet()


def test_days_beyond_the_retention_are_dropped(recorded, workspace):
    workspace.root.joinpath("config.toml").write_text("capture_days = 7\n")
    recorded.close(recorded.lines(2, time=datetime.now(UTC) - timedelta(days=8)), minutes_ago=8 * 24 * 60)
    recorded.close(recorded.lines(1))

    done = telemetry.compact()

    assert done.dropped == 1 and done.bytes_dropped > 0
    assert len(ids()) == 1


def test_beyond_the_size_the_oldest_are_dropped_first(recorded, workspace):
    workspace.root.joinpath("config.toml").write_text("capture_max_mb = 1\n")
    for minutes in (30, 20):
        noise = [recorded.line(outputs={"noise": [random.random() for _ in range(4000)]}) for _ in range(20)]
        recorded.close(noise, minutes_ago=minutes)

    assert telemetry.compact().dropped == 1

    assert ids() == sorted(f"r{n}" for n in range(20, 40))


def test_a_full_disk_is_told_and_the_lines_stay(recorded):
    closed = recorded.close([recorded.line(outputs={"noise": [random.random() for _ in range(4000)]})])
    # -B: Python would leave half a .pyc of each module that it compiles there.
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\nfrom mlops_nb import telemetry\ntelemetry.compact()"

    failed = subprocess.run([sys.executable, "-B", "-c", full], capture_output=True, text=True)

    assert "StoreFull" in failed.stderr
    assert closed.exists() and len(ids()) == 1


def test_a_second_compaction_returns_at_once(recorded):
    recorded.close(recorded.lines(1))
    with compaction._alone():
        assert telemetry.compact() == telemetry.Compaction()
    assert telemetry.compact().converted == 1


def test_kill_minus_nine_during_compaction_loses_and_doubles_nothing(recorded):
    written = 0
    for round in range(8):
        left = len(list(recorded.folder.glob("closed-*.jsonl")))
        for _ in range(6):
            count = random.Random(round).randint(20, 60)
            yesterday = datetime.now(UTC) - timedelta(days=round % 2)
            recorded.close(recorded.lines(count, time=yesterday), minutes_ago=60 - round)
            written += count
        compacting = subprocess.Popen([sys.executable, "-c", COMPACT_FOREVER], stdout=subprocess.PIPE)
        assert compacting.stdout
        compacting.stdout.readline()
        _wait_until_fewer(recorded, 6 + left)
        time.sleep(random.Random(round).random() * 0.12)  # the moment of the kill, not a wait
        os.kill(compacting.pid, signal.SIGKILL)
        compacting.wait()

        found = ids()
        assert len(found) == len(set(found)) == written

    telemetry.compact()
    assert len(ids()) == written
    assert not list(recorded.folder.glob("closed-*.jsonl"))


def _wait_until_fewer(recorded, closed: int) -> None:
    deadline = time.monotonic() + 20
    while len(list(recorded.folder.glob("closed-*.jsonl"))) >= closed:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("name", ["delays", "x" * 100])
def test_every_endpoint_is_compacted(record, name):
    other = record(name, "1")
    other.close(other.lines(2))

    assert telemetry.compact().converted == 1
