"""Drift of what a model answers, and of what turned out to be true.

Predictions are compared with what the same version answers to a sample of its training data, which is scored once and kept as counts; where it
cannot be scored, with the first answers its deployment gave.  Labels are compared with the column of the training data that the model predicts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from .. import artifacts, datasets, registry, store, telemetry
from ..errors import MlopsError
from ..progress import Reporter
from ..safety import names_a_secret
from ..serving.spec import ServerSpec
from ..settings import Workspace
from ..store import datasets as table
from ..store.datasets import DatasetVersion
from ..store.models import ModelVersion
from ..summaries import ColumnSummary
from ..telemetry import Asked, Sought, Windowed, labels
from . import columns
from .columns import Wanted
from .references import Extent, Reference, column_parts

SAMPLE_ROWS = 10_000
_MOST_ELEMENTS = 20
_PATIENCE_SECONDS = 300.0
_FIRST = timedelta(days=1)


MOST_LABELLED = 50_000
"""Of about so many answers of a deployment a map tells the labels, where it has more than three times as many."""


class Outputs(msgspec.Struct, frozen=True):
    """The predictions to compare, with the counts of their reference; and what the reader should know of it."""

    asked: list[Asked]
    note: str = ""


def predictions(endpoint: str, deployment: str | None, version: ModelVersion, against: Reference, judged: Extent, report: Reporter) -> Outputs:
    """The model's outputs, each with its reference; none where there is no reference, and the note says why."""
    wanted = _wanted(version)
    if not wanted:
        return Outputs([])
    if against.kind == "past requests":
        found = _past(endpoint, deployment, wanted, against)
        return Outputs(_asked(wanted, found), "" if found else "Predictions are not compared: none of the reference's time is kept.")
    found, why = _scored(version, against, report)
    if found:
        return Outputs(_asked(wanted, found))
    first, span = _first_answers(endpoint, deployment, wanted, judged)
    if first:
        return Outputs(_asked(wanted, first), f"Predictions are compared with the first answers that were given ({span}): {why}.")
    return Outputs([], f"Predictions are not compared: {why}, and there are no earlier answers.")


def known(version: ModelVersion, against: Reference) -> list[Asked]:
    """The outputs that a check has scored the training data for; of others nothing, for no model is asked."""
    if against.dataset is None:
        return []
    with store.reading() as tx:
        found = table.summary(tx, _key(version, against.dataset, against))
    return _asked(_wanted(version), found or [])


def _wanted(version: ModelVersion) -> list[Wanted]:
    """Its outputs, of probabilities the elements; of two classes' probabilities the second's, which says it all."""
    found: list[Wanted] = []
    for column in (version.signature or {}).get("outputs") or []:
        if column["type"] in ("json", "datetime"):
            continue
        elements = columns.elements(column, [])[:_MOST_ELEMENTS] if (column.get("shape") or [None])[1:] else [Wanted(column["name"], column["type"], None)]
        found += elements[1:] if column["name"] == "probabilities" and len(elements) == 2 else elements
    return found


def _asked(wanted: Sequence[Wanted], found: Sequence[ColumnSummary]) -> list[Asked]:
    known = {summary.name: summary for summary in found if summary.count and not _is_text(summary)}
    return [
        Asked(columns.column_of(one), msgspec.structs.replace(known[one.name], name=called(one.name)), one.place, "outputs")
        for one in wanted
        if one.name in known
    ]


def called(name: str) -> str:
    """`prediction label`; a regressor's `prediction` is called just that."""
    return name if name == "prediction" else f"prediction {name}"


def _is_text(summary: ColumnSummary) -> bool:
    return summary.kind == "category" and summary.distinct > max(summary.count / 2, 100)


def _past(endpoint: str, deployment: str | None, wanted: Sequence[Wanted], against: Reference) -> list[ColumnSummary]:
    filters: Mapping[str, Any] = against.season.filters() if against.season else {}
    return telemetry.shapes(endpoint, _sought(wanted), deployment=deployment, since=against.since, until=against.until, **filters)


def _sought(wanted: Sequence[Wanted]) -> list[Sought]:
    return [Sought(one.name, one.type, columns.column_of(one), one.place, "outputs") for one in wanted]


def _first_answers(endpoint: str, deployment: str | None, wanted: Sequence[Wanted], judged: Extent) -> tuple[list[ColumnSummary], str]:
    """Those of its first day, as far as it lies before what is judged."""
    first = telemetry.captured(endpoint, deployment=deployment).first
    if first is None or judged.since is None or first >= judged.since:
        return [], ""
    until = min(first + _FIRST, judged.since)
    found = telemetry.shapes(endpoint, _sought(wanted), deployment=deployment, since=first, until=until)
    return found, f"{first:%Y-%m-%d %H:%M} – {until:%Y-%m-%d %H:%M} UTC"


# ── scoring the training data ────────────────────────────────────────────────────────────────────────────────────────


def _scored(version: ModelVersion, against: Reference, report: Reporter) -> tuple[list[ColumnSummary], str]:
    """The counts of its answers to the data set's rows, made once; or why there are none."""
    dataset = against.dataset
    if dataset is None:
        return [], "the training data were not kept"
    sources = [one.source for one in against.wanted]
    if not version.files or version.engine not in ("onnxruntime", "python") or not version.signature or not all(sources):
        return [], f"{version.ref} cannot be asked rows of {dataset.ref}"
    key = _key(version, dataset, against)
    with store.reading() as tx:
        known = table.summary(tx, key)
    if known is None:
        report.step(f"asking {version.ref} rows of {against.name}")
        try:
            known = _answers(version, dataset, against, [str(source) for source in sources])
        except (MlopsError, OSError, subprocess.SubprocessError) as error:
            return [], f"{version.ref} could not be asked rows of {dataset.ref} ({_brief(error)})"
        with store.writing() as tx:
            table.put_summary(tx, key, known)
    return known, ""


def _key(version: ModelVersion, dataset: DatasetVersion, against: Reference) -> str:
    season = f"{against.time_column} {against.season.part} {against.season.among}" if against.season else ""
    return f"answers of {version.hash} to {dataset.hash} {season}"


def _brief(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return next((line for line in reversed(str(error.stderr).splitlines()) if line.strip()), f"ended with {error.returncode}")[:200]
    return str(error)[:200]


def _answers(version: ModelVersion, dataset: DatasetVersion, against: Reference, sources: list[str]) -> list[ColumnSummary]:
    """Raises FileMissing, FileChanged, CalledProcessError with what the model raised."""
    folder = registry.checked(version)
    with tempfile.TemporaryDirectory(prefix="mlops-drift-") as scratch:
        rows, told = Path(scratch) / "rows.parquet", Path(scratch) / "answers.jsonl"
        _sample(dataset, against, rows)
        spec = ServerSpec(
            endpoint="", deployment="", model=version.model, version=version.version, folder=str(folder), files=version.files, flavor=version.flavor,
            engine=version.engine, port=0, token_file="", run_folder=scratch, capture_folder="", signature=version.signature, trusted=version.trusted,
        )  # fmt: skip
        job = {"spec": spec, "rows": str(rows), "columns": sources, "answers": str(told)}
        subprocess.run(
            [sys.executable, "-m", f"{__package__}.scoring"], input=msgspec.json.encode(job), cwd=scratch, capture_output=True, check=True,
            timeout=_PATIENCE_SECONDS, env=_environment(),
        )  # fmt: skip
        return datasets.counts(told)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not names_a_secret(name)} | {"MLOPS_HOME": str(Workspace.current().root)}


def _sample(dataset: DatasetVersion, against: Reference, rows: Path) -> None:
    """Always the same rows of the data set, or of its season."""
    import duckdb

    file = str(artifacts.address(dataset.file)).replace("'", "''")
    part = column_parts(against.season, against.time_column) if against.season and against.time_column else "true"
    numbered = not any(column["name"].lower() == "file_row_number" for column in dataset.schema)
    among = f"hash(file_row_number) < {int(min(1.0, SAMPLE_ROWS / max(against.rows, 1)) * (2**64 - 1))}" if numbered else "true"
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as connection:
        source = f"read_parquet('{file}', file_row_number = {str(numbered).lower()})"
        connection.execute(f"COPY (SELECT * FROM {source} WHERE {part} AND {among} LIMIT {2 * SAMPLE_ROWS}) TO '{rows}' (FORMAT parquet)")


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Truth(msgspec.Struct, frozen=True):
    """What turned out to be true, in the windows of a check."""

    reference: ColumnSummary
    windows: list[ColumnSummary]
    note: str = ""


def truth(endpoint: str, deployment: str | None, against: Reference, found: Sequence[Windowed]) -> Truth | None:
    """The labels of each window beside the target of the training data; None where there are no labels, or no target is known."""
    target = target_of(endpoint, against)
    if target is None:
        return None
    windows = [_counted(target, texts) for texts in labels.truths(endpoint, [(one.first, one.last) for one in found], deployment=deployment)]
    known, rows = sum(window.count for window in windows), sum(one.rows for one in found)
    if not known:
        return None
    return Truth(target, windows, f"{known:,} of {rows:,} rows have a label; those that are still to come are not known to be alike.")


def target_of(endpoint: str, against: Reference) -> ColumnSummary | None:
    """What labels are compared with, called as they are; None where there are no labels, or no target is known."""
    target = _target(against)
    return msgspec.structs.replace(target, name=f"label {target.name}") if target and labels.mark(endpoint) else None


def by_window(
    endpoint: str, target: ColumnSummary, *, among: Collection[str] | None, origin: datetime, seconds: float, first: int, end: int
) -> dict[int, ColumnSummary]:
    """The labels of what was answered in each window of so many *seconds* since *origin*, from the *first* to before the *end*; those without are left out.

    Of a deployment with many answers a sample, always of the same requests.
    """
    import numpy as np

    since, until = (origin + timedelta(seconds=place * seconds) for place in (first, end))
    found: dict[int, Counter[str]] = {}
    for one in labels.answers(endpoint, since=since, until=until, most=MOST_LABELLED, copies=among is not None):
        if among is None or one.deployment in among:
            told = one.where(one.labelled)
            after = (told.time.astype("datetime64[us]") - np.datetime64(origin.replace(tzinfo=None), "us")).astype(np.int64)
            places = after // int(seconds * 1e6)
            for place in np.unique(places):
                found.setdefault(int(place), Counter()).update(told.truth[places == place].tolist())
    return {place: _counted(target, texts) for place, texts in found.items()}


def _target(against: Reference) -> ColumnSummary | None:
    """The one column of the data set that is no input and says no time."""
    if against.dataset is None:
        return None
    inputs = {one.source for one in against.wanted}
    left = [column["name"] for column in against.dataset.schema if column["name"] not in inputs and column["type"] not in ("datetime", "json")]
    return next((one for one in against.columns if [one.name] == left), None)


def _counted(target: ColumnSummary, texts: Counter[str]) -> ColumnSummary:
    """The labels, and how often each came, over the bins or categories of the target."""
    import numpy as np

    if target.kind == "category":
        spoken = {"1": "true", "0": "false"} if set(target.categories) <= {"true", "false"} else {}
        counts = dict.fromkeys(target.categories, 0)
        strangers: dict[str, int] = {}
        for text, count in texts.items():
            told = spoken.get(text, text)
            among = counts if told in counts else strangers
            among[told] = among.get(told, 0) + count
        other = sum(strangers.values())
        return msgspec.structs.replace(
            target, count=texts.total(), missing=0, categories=counts, other=other, new=dict(list(strangers.items())[:5])
        )  # fmt: skip
    told_apart = [(number, count) for text, count in texts.items() if (number := _number(text)) is not None]
    numbers, times = (np.array(values, float) for values in zip(*told_apart, strict=True)) if told_apart else (np.zeros(0), np.zeros(0))
    counts_of = np.bincount(np.searchsorted(target.edges, numbers, side="left"), weights=times, minlength=len(target.edges) + 1).astype(int)
    counted = msgspec.structs.replace(target, count=int(times.sum()), missing=0, counts=counts_of.tolist(), mean=None, deviation=None)
    if not told_apart:
        return counted
    mean = float(np.average(numbers, weights=times))
    return msgspec.structs.replace(counted, mean=mean, deviation=float(np.sqrt(np.average((numbers - mean) ** 2, weights=times))))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
