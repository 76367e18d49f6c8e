"""Counts of what callers asked read no ids of files that are marked as holding no copies, and leave the copies of others out."""

from __future__ import annotations

from datetime import timedelta
from time import time_ns

import msgspec

from mlops_nb import store, telemetry
from mlops_nb.settings import Workspace
from mlops_nb.splits import COPY_MARK
from mlops_nb.telemetry import files, rows


def test_copies_are_left_out_whether_or_not_a_file_holds_any(workspace: Workspace) -> None:
    write(workspace, "1", [f"r{number}" for number in range(30)])
    write(workspace, "2", ["a", "b", *(f"r{number}{COPY_MARK}" for number in range(10))])
    before = counts()

    telemetry.compact()

    parquet = {place.name: files.standing(place).parquet[0].path for place in files.folders("churn")}
    assert {name.removeprefix("deployment="): rows.without_copies(path) for name, path in parquet.items()} == {"1": True, "2": False}
    assert counts() == before == {"1": 30, "2": 2}


def counts() -> dict[str, int]:
    return {name: one.requests for name, one in telemetry.counted("churn", since=store.now() - timedelta(hours=1)).items()}


def write(workspace: Workspace, deployment: str, ids: list[str]) -> None:
    folder = workspace.telemetry / "endpoint=churn" / f"deployment={deployment}"
    folder.mkdir(parents=True)
    time = (store.now() - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    lines = [{"time": time, "id": id, "status": 200, "latency_ms": 1.0, "rows": 1, "inputs": {"x": [1.0]}, "outputs": {"y": [1]}, "error": None} for id in ids]
    (folder / f"closed-{time_ns()}.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
