"""Registering, getting and finding versions in a warm process, with the store's attach and detach included."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import duckdb
import msgspec

from mlops_nb import registry, store
from mlops_nb.signature import Column, Signature
from mlops_nb.store import Transaction, events, models, runs
from mlops_nb.store.models import ModelVersion, StoredFile
from mlops_nb.store.runs import Cell, Run

from . import mlflow_peer, timing, workspaces, writers
from .table import Figure

SIZES = (2_000, 20_000)
ROUNDS = 100
_MODELS = 20
_FOUND = 20
"""Versions that bear the tag searched for, whatever the store's size."""
_GOALS_MS = {"register, metadata part": 5.0, "get": 2.5, "search by tag": 5.0}
_SIGNATURE = msgspec.to_builtins(
    Signature(kind="table", inputs=[Column(name=f"feature_{n}", type="float64") for n in range(30)], outputs=[Column(name="label", type="int64")])
)
_CELLS = [Cell(number=n, source="frame = frame.merge(weather, on=['origin', 'time_hour'], how='left')\n" * 4, filename=f"cell-{n}") for n in range(1, 11)]


def measure() -> list[Figure]:
    """Three commands at both sizes beside the same work over a fresh `duckdb.connect` and MLflow's registry, then eight writers at once."""
    small, large = SIZES
    with workspaces.fresh():
        fill(small)
        figures = _commands(size=small)
        grow(small, times=large // small)
        figures += _commands(size=large)
    figures += mlflow_peer.registry_figures(versions=small, compared=[f"{what} ({small:,} versions)" for what in _GOALS_MS])
    with workspaces.fresh():
        return figures + writers.figures()


def _commands(*, size: int) -> list[Figure]:
    ours = {"register, metadata part": _register, "get": _get, "search by tag": _search}
    raw = {"register, metadata part": _register_raw, "get": _get_raw, "search by tag": _search_raw}
    steps = {step: work for what in ours for step, work in ((what, timing.timed(ours[what])), (f"raw: {what}", timing.timed(raw[what])))}
    seconds = timing.medians(steps, rounds=ROUNDS)
    figures = []
    for what, goal in _GOALS_MS.items():
        beside = Figure(name=f"{what}, duckdb.connect a command ({size:,} versions)", value=seconds[f"raw: {what}"] * 1000, unit="ms")
        figures += [beside, Figure(name=f"{what} ({size:,} versions)", value=seconds[what] * 1000, unit="ms", baseline=beside.name, at_most=goal)]
    return figures


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _register() -> None:
    with store.writing() as tx:
        record(tx, *captured())


def _get() -> None:
    registry.get("model_7:50")


def _search() -> None:
    assert len(registry.search(tags={"batch": "7"})) == _FOUND


def _register_raw() -> None:
    with _connected(read_only=False) as tx:
        tx.execute("BEGIN")
        record(tx, *captured())
        tx.execute("COMMIT")


def _get_raw() -> None:
    with _connected(read_only=True) as tx:
        models.get(tx, registry.ModelRef("model_7", version=50))


def _search_raw() -> None:
    with _connected(read_only=True) as tx:
        assert len(models.search(tx, tags={"batch": "7"})) == _FOUND


@contextmanager
def _connected(*, read_only: bool) -> Iterator[Transaction]:
    """The same file, opened and closed for one command."""
    with duckdb.connect(registry.Workspace.current().store, read_only=read_only, config={"threads": 1}) as connection:
        yield Transaction(connection)


# ── what is registered ───────────────────────────────────────────────────────────────────────────────────────────────


def fill(size: int) -> None:
    """A store of *size* versions, each with its run and its event, through the store's own functions in one transaction."""
    with store.writing() as tx:
        for number in range(size):
            _add(tx, _version(f"model_{number % _MODELS}", number // _MODELS + 1, batch=number % (size // _FOUND)), _run())


def grow(size: int, *, times: int) -> None:
    """Every version that `fill` made, its run and its event, *times* as often; the copies bear another tag."""
    another = "json_object('team', 'ops', 'batch', 'copy ' || copy || ' of ' || (tags->>'batch'))"
    with store.writing() as tx:
        copies, ours = f"range(1, {times}) copies(copy)", "starts_with(model, 'model_')"
        number, files = f"version + {size // _MODELS} * copy", "replace(files::VARCHAR, hash, md5(hash || copy) || md5(hash))::JSON"
        columns = f"* EXCLUDE (copy) REPLACE ({number} AS version, md5(hash || copy) || md5(hash) AS hash, {files} AS files, {another} AS tags)"
        tx.execute(f"INSERT INTO model_versions SELECT {columns} FROM model_versions, {copies} WHERE {ours}")
        for table in ("runs", "events"):
            tx.execute(f"INSERT INTO {table} SELECT * EXCLUDE (copy) REPLACE (uuid()::VARCHAR AS id) FROM {table}, {copies}")


def record(tx: Transaction, version: ModelVersion, run: Run) -> ModelVersion:
    """What `registry.register` asks of the store once everything is captured."""
    models.with_hash(tx, version.model, version.hash)
    version = msgspec.structs.replace(version, version=models.next_version(tx, version.model))
    _add(tx, version, run)
    return version


def _add(tx: Transaction, version: ModelVersion, run: Run) -> None:
    runs.add(tx, run)
    models.add(tx, version)
    events.record(tx, "ModelRegistered", subject=version.ref, data={"hash": version.hash, "dataset": version.dataset, "tags": version.tags})


_fresh = count()


def captured() -> tuple[ModelVersion, Run]:
    """A version and its run, ready to be recorded."""
    return _version(f"new_{next(_fresh) % _MODELS}", 0, batch=-1), _run()


def _version(model: str, number: int, *, batch: int) -> ModelVersion:
    digest = uuid.uuid4().hex * 2
    return ModelVersion(
        model=model, version=number, flavor="sklearn", engine="onnxruntime", hash=digest, signature=_SIGNATURE, metrics={"auc": 0.71, "f1": 0.4},
        tags={"team": "ops", "batch": str(batch)}, dataset="flights_q1:1", environment="py311-sklearn-1a2b:1", run="", author="ana", trusted=True,
        files=[StoredFile(path=Path(name).name, sha256=digest, bytes=40_000) for name in ("model.pkl", "model.onnx")], created_at=store.now(),
        conversion={"to": "onnx", "equal": True, "rows": 1000, "max_difference": 1e-7, "labels_differ": 0},
    )  # fmt: skip


def _run() -> Run:
    return Run(
        id=uuid.uuid4().hex, kind="notebook", notebook="/home/ana/delays.ipynb", cells=_CELLS, author="ana", host="lab", python="3.11.7", started_at=store.now()
    )
