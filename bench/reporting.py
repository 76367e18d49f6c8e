"""A drift report of real Parquet rows from end to end, as `mlops drift --html` makes it, in a process of its own: how long, how much memory, how large a file.

Half of the requests are as in training, half are not: `f0` moved by half a deviation where `f1` is positive, and `f2` is missing in a tenth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlops_nb import settings, signature, store
from mlops_nb.store import deployments, models
from mlops_nb.store.deployments import Deployment, DeploymentSpec
from mlops_nb.store.models import ModelVersion
from mlops_nb.telemetry import files, rows

from .checking import NORMAL, registered

if TYPE_CHECKING:
    import pandas as pd

_REFERENCE = 10_000
_FILE_VALUES = 5_000_000
"""Of a Parquet file: about as many as compaction puts into one."""
_LAST = timedelta(days=2)
_RUN = """
import json, pathlib, sys, time
from mlops_nb.cli import main
began = time.perf_counter()
try:
    main()
except SystemExit as ended:
    code = ended.code or 0
peak = pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(json.dumps([code, time.perf_counter() - began, time.process_time(), int(peak) / 1024]), file=sys.stderr)
"""


def lines(size: int = 1_000_000, features: int = 100) -> Iterator[tuple[str, str]]:
    """What was made, and what it took."""
    for a_request in (1, 64):
        with tempfile.TemporaryDirectory() as scratch, settings.using(Path(scratch) / "workspace"):
            watched(features)
            asked(size, features, a_request)
            file = Path(scratch) / "drift.html"
            took, said = made(Path(scratch) / "workspace", file)
            drifted = sum(feature["is_drift"] for feature in said["features"])
            what = f"report of {size:,} × {features}, {a_request} a request, with causes"
            yield what, f"{took}; one file of {file.stat().st_size / 1e6:.2f} MB; {drifted} features drift"


def made(workspace: Path, file: Path) -> tuple[str, dict]:
    """`mlops drift delays --html FILE`: what it took, and the check as it told it."""
    command = [sys.executable, "-c", _RUN, "drift", "delays", "--html", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"MLOPS_HOME": str(workspace)})
    code, seconds, cpu_seconds, peak_mb = json.loads(done.stderr.strip().splitlines()[-1])
    assert code == 0, done.stderr
    return f"{seconds:.1f} s, {cpu_seconds:.1f} s of CPU, process at most {peak_mb:,.0f} MB", json.loads(done.stdout)["result"]


def watched(features: int) -> None:
    """The endpoint `delays`, whose model takes so many numbers; nothing runs."""
    behind(registered(np.random.default_rng(1).normal(size=(_REFERENCE, features))))


def behind(train: pd.DataFrame) -> None:
    """The same of a model that takes the columns of the data set `train`."""
    now = store.now()
    model = ModelVersion(
        model="late", version=1, flavor="sklearn", engine="python", hash="h", files=[], signature=signature.infer(train).as_json(), dataset="train:1",
        created_at=now,
    )  # fmt: skip
    deployment = Deployment(
        endpoint="delays", name="1", model="late", version=1, target="local", spec=DeploymentSpec(), wanted="running", generation=1, status="healthy",
        created_at=now, changed_at=now,
    )  # fmt: skip
    with store.writing() as tx:
        deployments.ensure_endpoint(tx, "delays", author="bench")
        models.add(tx, model)
        deployments.put(tx, deployment)


def asked(size: int, features: int, a_request: int) -> None:
    """So many rows over two days as compaction leaves them, the later half changed."""
    folder, each = files.folder("delays", "1"), min(size // 2, _FILE_VALUES // features)
    count = size // each
    begin = datetime.now(UTC) - _LAST
    for number in range(count):
        first = begin + _LAST / count * number
        place = folder / f"date={first.date()}"
        place.mkdir(parents=True, exist_ok=True)
        stem = int((first + _LAST / count).timestamp() * 1e9)
        _write(place / f"{stem}.parquet", each, features, a_request, first, _LAST / count, changed=number >= count / 2)


def _write(file: Path, size: int, features: int, a_request: int, first: datetime, lasts: timedelta, *, changed: bool) -> None:
    columns = {f"f{n}": f"v{n}" for n in range(features)}
    if changed:
        columns |= {"f0": "CASE WHEN v1 > 0 THEN v0 + 1 ELSE v0 END", "f2": "CASE WHEN random() > 0.1 THEN v2 END"}
    drawn = f"SELECT i, {', '.join(f'{NORMAL} AS v{n}' for n in range(features))} FROM range({size}) t(i)"
    step = lasts.total_seconds() * 1e6 / size
    time = f"(TIMESTAMP '{first:%Y-%m-%d %H:%M:%S}' + to_microseconds((min(i) * {step})::BIGINT)) AS time"
    facts = f"{time}, '{file.stem}-' || min(i) AS id, 200 AS status, 1.0::DOUBLE AS latency_ms, count(*) AS rows, NULL::VARCHAR AS error"
    lists = ", ".join(f'list({sql}) AS "in.{name}"' for name, sql in columns.items())
    raw = "NULL::VARCHAR AS raw_inputs, NULL::VARCHAR AS raw_outputs"
    rows.connection().execute(
        f"COPY (SELECT {facts}, {raw}, {lists} FROM ({drawn}) GROUP BY i // {a_request} ORDER BY time) TO '{file}' (FORMAT parquet, COMPRESSION zstd)"
    )
