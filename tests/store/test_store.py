"""The store under several processes, kills, newer code and damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from mlops_nb import errors, store
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments, events, migrations, state

WRITER = """
import sys
from mlops_nb import store
from mlops_nb.store import events
who, rounds = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for i in range(rounds):
    with store.writing() as tx:
        events.record(tx, "Counted", subject=f"{who}/{i}")
    print(i, flush=True)
"""


COUNTER = """
from mlops_nb import store
from mlops_nb.store import state
for i in range(1, 80):
    with store.writing() as tx:
        state.put(tx, "a", i)
        state.put(tx, "b", i)
"""


def start_writer(who: str, rounds: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, who, str(rounds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def go(process: subprocess.Popen[str]) -> None:
    process.stdin.write("go\n")
    process.stdin.flush()


def counted(who: str) -> set[str]:
    with store.reading() as tx:
        return {row["subject"] for row in tx.rows("SELECT subject FROM events WHERE starts_with(subject, ?)", [f"{who}/"])}


def test_eight_processes_writing_at_once_lose_nothing(workspace: Workspace) -> None:
    writers = [start_writer(f"w{n}", 60) for n in range(8)]
    for writer in writers:
        go(writer)

    for n, writer in enumerate(writers):
        _, said = writer.communicate(timeout=120)
        assert (writer.returncode, said) == (0, "")
        assert counted(f"w{n}") == {f"w{n}/{i}" for i in range(60)}


def test_readers_beside_a_writer_see_whole_transactions_only(workspace: Workspace) -> None:
    with store.writing() as tx:
        state.put(tx, "a", 0)
        state.put(tx, "b", 0)
    writer = subprocess.Popen([sys.executable, "-c", COUNTER])
    while writer.poll() is None:
        with store.reading() as tx:
            assert state.get(tx, "a") == state.get(tx, "b")
    assert writer.returncode == 0


def test_an_acknowledged_write_survives_kill_9(workspace: Workspace) -> None:
    for attempt in range(10):
        writer = start_writer(f"k{attempt}", 10_000)
        go(writer)
        acknowledged = [writer.stdout.readline() for _ in range(5 + attempt)]
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += writer.stdout.readlines()
        writer.wait()
        whole = [line for line in acknowledged if line.endswith("\n")]
        assert {f"k{attempt}/{int(line)}" for line in whole} <= counted(f"k{attempt}")


def test_the_store_is_the_owners_alone_even_in_a_folder_that_others_can_enter(workspace: Workspace) -> None:
    workspace.root.mkdir(mode=0o755)

    with store.writing() as tx:
        state.put(tx, "a", 0)

    assert workspace.store.stat().st_mode & 0o077 == 0


def test_an_error_inside_a_visit_leaves_nothing_of_it(workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), store.writing() as tx:
        state.put(tx, "half", "written")
        _ = 1 / 0

    with store.reading() as tx:
        assert state.get(tx, "half") is None


def test_a_visit_inside_a_visit_is_refused_rather_than_waited_for(workspace: Workspace) -> None:
    with store.writing(), pytest.raises(RuntimeError, match="pass the transaction on"), store.reading():
        pass


def test_a_newer_store_is_told_apart_and_left_alone(workspace: Workspace) -> None:
    with store.writing() as tx:
        tx.execute("INSERT INTO migrations VALUES (?, 'from the future', now()::TIMESTAMP)", [len(migrations.STEPS) + 1])

    before = workspace.store.read_bytes()
    for visit in (store.reading, store.writing):
        with pytest.raises(errors.StoreTooNew, match="knows"), visit():
            pass
    assert workspace.store.read_bytes() == before


def test_a_damaged_store_is_told_and_left_alone(workspace: Workspace) -> None:
    workspace.root.mkdir()
    workspace.store.write_bytes(b"not a database at all" * 500)

    for visit in (store.reading, store.writing):
        with pytest.raises(errors.StoreCorrupt) as caught, visit():
            pass
        assert "restore a copy" in caught.value.hint
    assert workspace.store.read_bytes() == b"not a database at all" * 500


def test_a_store_half_overwritten_is_told(workspace: Workspace) -> None:
    with store.writing() as tx:
        state.put(tx, "a", "b" * 50_000)
    whole = workspace.store.read_bytes()
    workspace.store.write_bytes(whole[: len(whole) // 3])

    with pytest.raises(errors.StoreCorrupt), store.reading() as tx:
        state.get(tx, "a")


def test_a_store_with_a_damaged_block_is_told(workspace: Workspace) -> None:
    with store.writing() as tx:
        state.put(tx, "a", "b" * 50_000)
    whole = workspace.store.read_bytes()
    workspace.store.write_bytes(whole[:12_288] + b"\x01" * 100_000 + whole[112_288:])

    for visit in (store.reading, store.writing):
        with pytest.raises(errors.StoreCorrupt), visit() as tx:
            state.get(tx, "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root, which CI is")
def test_a_full_disk_is_told_and_the_state_before_is_intact(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(small_disk / "workspace"))
    with store.writing() as tx:
        state.put(tx, "kept", "yes")

    with pytest.raises(errors.StoreFull, match="nothing was recorded"):
        for n in range(100):
            with store.writing() as tx:
                state.put(tx, f"big{n}", os.urandom(100_000).hex())

    for filler in small_disk.glob("workspace/big*"):
        filler.unlink()
    with store.reading() as tx:
        assert state.get(tx, "kept") == "yes"


def test_somebody_else_holding_the_file_is_waited_out(workspace: Workspace) -> None:
    with store.writing() as tx:
        state.put(tx, "a", 1)
    code = "import duckdb, sys\nc = duckdb.connect(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.readline()\n"
    holder = subprocess.Popen([sys.executable, "-c", code, str(workspace.store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "open\n"
    reader = subprocess.Popen(
        [sys.executable, "-c", "from mlops_nb import store\nfrom mlops_nb.store import state\nwith store.reading() as tx: print(state.get(tx, 'a'))"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        reader.wait(timeout=1.5)
    holder.communicate("\n")
    assert reader.communicate(timeout=30)[0] == "1\n"


def test_plain_duckdb_reads_the_workspace(workspace: Workspace) -> None:
    with store.writing() as tx:
        deployments.ensure_endpoint(tx, "delays", author="ada")
        deployments.set_traffic(tx, "delays", {"1": 100}, author="ada", why="first")

    with duckdb.connect(str(workspace.store), read_only=True) as connection:
        assert connection.execute("SELECT endpoint, weights->>'1', author FROM traffic").fetchall() == [("delays", "100", "ada")]


def test_times_come_back_in_utc_and_json_as_values(workspace: Workspace) -> None:
    with store.writing() as tx:
        written = events.record(tx, "Tested", subject="a:1", data={"n": 1, "text": "café ☕ '; DROP TABLE events; --"})

    with store.reading() as tx:
        assert events.latest(tx) == [written]
