"""Ground truth: labels that arrive after the answers, joined to them by the request's id and the row within the request."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import datasets, measuring, signature, store, targets, telemetry
from .errors import BadOption, TargetCannot, UnknownColumn
from .reference import ModelRef
from .store import deployments as table
from .store import events, models
from .telemetry import labels as kept
from .telemetry.labels import Added
from .telemetry.rows import quoted

if TYPE_CHECKING:
    import duckdb

_ID_NAMES = ("request_id", "id", "x-request-id")
_MOST_WORDS = 1000
"""Of more different labels it is not asked whether the model answers such."""
_ANSWERS_LOOKED_AT = 10_000


class Labelled(Added, frozen=True, kw_only=True):
    """What became of labels that were given for an endpoint's answers."""

    endpoint: str
    columns: dict[str, str] = {}
    """Which column was taken for the id, the row and the label."""
    unlike: str = ""
    """Why none of these labels can be what the endpoint's models answer, both named; empty where one may be."""


def record(endpoint: str, data: Any, *, id: str | None = None, row: str | None = None, label: str | None = None) -> Labelled:
    """Keep what turned out to be true of an endpoint's answers; saying it again changes nothing, and of several labels of one row the last wins.

    *data* is a DataFrame, a dict of columns, a list of records, or the path of a CSV, Parquet or JSON file.  *id* names the column with
    the request's id (an answer's `request_id`, the header `x-request-id`), *row* the one with the row's place in its request, from 0, and *label* the
    truth.  Unless given they are `request_id` or `id`, `row` when it is there, and the only column that is left, else `label`.
    Labels may come before the telemetry they belong to.  Raises EndpointNotFound, UnknownColumn, BadOption, FileMissing, and
    TargetCannot where none ever will come.  Labels that no model of the endpoint ever answers are kept too, and `unlike` says so.
    """
    import duckdb

    texts = _text_labels(endpoint)
    _check_answers_come(endpoint)
    with _opened(data) as (source, relation, retyped):
        columns = [row[0] for row in source.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
        chosen = _chosen(columns, id, row, label)
        relation = retyped([chosen["id"], *([chosen["label"]] if texts else [])])
        try:
            _check_places(source, relation, chosen.get("row"))
            added = kept.add(endpoint, source, relation, id=chosen["id"], row=chosen.get("row"), label=chosen["label"])
            words = kept.words(source, relation, chosen["label"], most=_MOST_WORDS)
        except duckdb.Error as error:
            raise BadOption(f"These labels cannot be read: {str(error).splitlines()[0]}", hint="--row names a column of whole numbers from 0") from error
    labelled = Labelled(endpoint=endpoint, columns=chosen, unlike=_unlike(endpoint, words) if added.matched else "", **msgspec.structs.asdict(added))
    if added.new or added.changed:
        with store.writing() as tx:
            events.record(tx, "LabelsRecorded", subject=endpoint, data={"new": added.new, "changed": added.changed, "matched": added.matched})
    return labelled


def _check_places(source: duckdb.DuckDBPyConnection, relation: str, row: str | None) -> None:
    """Raises BadOption where *row*, the column with the rows' places, holds a number that can be none, duckdb.Error where it holds no number."""
    if row is None:
        return
    place = f"{quoted(row)}::DOUBLE"
    found = source.execute(f"SELECT any_value({quoted(row)})::VARCHAR, count(*) FROM {relation} WHERE {place} < 0 OR {place} <> floor({place})").fetchone()
    if found and found[1]:
        raise BadOption(f"{found[1]:,} of these labels belong to no row: their {row!r} is {found[0]}.", hint="--row names a column of whole numbers from 0")


def _check_answers_come(endpoint: str) -> None:
    """Raises TargetCannot where no answer of the endpoint is kept and none will be."""
    try:
        targets.require_kept(endpoint)
    except TargetCannot:
        if not telemetry.requests(endpoint, most=1):
            raise


def _unlike(endpoint: str, words: set[str]) -> str:
    """Why none of *words* can be an answer of any deployment; empty where one may be."""
    told = [measuring.unlike(one, words) for one in kept.answers(endpoint, most=_ANSWERS_LOOKED_AT)]
    return told[0] if all(told) and told else ""


def _text_labels(endpoint: str) -> bool:
    """Whether a model of the endpoint answers with text, so that `01` must stay `01`.  Raises EndpointNotFound."""
    with store.reading() as tx:
        table.endpoint(tx, endpoint)
        versions = [models.get(tx, ModelRef.parse(deployment.model_ref)) for deployment in table.of(tx, endpoint)]
    outputs = [column for version in versions for column in (version.signature or {}).get("outputs", [])]
    return any(column["name"] == "label" and column["type"] == "string" for column in outputs)


def _chosen(columns: Sequence[str], id: str | None, row: str | None, label: str | None) -> dict[str, str]:
    """The columns meant.  Raises UnknownColumn, BadOption."""
    for option, name in (("--id", id), ("--row", row), ("--label", label)):
        if name and name not in columns:
            raise UnknownColumn(name, option, known=columns)
    id = id or _id_among(columns)
    row = row or ("row" if "row" in columns and label != "row" else None)
    label = label or _label_among([name for name in columns if name not in (id, row)])
    if len({id, row, label}) < 3:
        raise BadOption(f"{label!r} cannot be the label and the {'id' if label == id else 'row'} at once.", hint="--id, --row and --label are three columns")
    return {"id": id, **({"row": row} if row else {}), "label": label}


def _id_among(columns: Sequence[str]) -> str:
    """The column that is usually called so.  Raises UnknownColumn."""
    found = next((name for name in _ID_NAMES if name in columns), None)
    if found is None:
        raise UnknownColumn("request_id", "--id", known=columns)
    return found


def _label_among(columns: Sequence[str]) -> str:
    """The only one, or the one called so.  Raises BadOption."""
    if len(columns) == 1 or "label" in columns:
        return columns[0] if len(columns) == 1 else "label"
    raise BadOption(f"Which of {', '.join(columns[:8]) or 'no column'} is the label?", hint="--label COLUMN")


@contextmanager
def _opened(data: Any) -> Iterator[tuple[duckdb.DuckDBPyConnection, str, Any]]:
    """A connection, the data as a table of it, and what says that table with some columns kept as text.  Raises FileMissing, BadOption."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="mlops-") as scratch, duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as source:
        if hasattr(data, "iloc"):
            source.register("given", data)
            yield source, "given", lambda _: "given"
            return
        file = Path(data) if isinstance(data, str | Path) else _written(data, Path(scratch) / "given.jsonl")
        relation = datasets.reader(file)
        try:
            source.execute(f"SELECT * FROM {relation} LIMIT 0")
        except duckdb.Error as error:
            hint = "a CSV, Parquet or JSON file with one row per label"
            raise BadOption(f"{file.name} cannot be read as a table: {str(error).splitlines()[0]}", hint=hint) from error
        yield source, relation, lambda names: _as_text(relation, names)


def _as_text(relation: str, names: Sequence[str]) -> str:
    """A CSV's columns *names* as the text that stands there, so that `001` keeps its zeros; other files know their types."""
    if not relation.startswith("read_csv"):
        return relation
    typed = ", ".join(f"'{name.replace(chr(39), chr(39) * 2)}': 'VARCHAR'" for name in dict.fromkeys(names))
    return f"{relation[:-1]}, types = {{{typed}}})"


def _written(data: Any, file: Path) -> Path:
    """Columns or records as a file of JSON lines."""
    if not isinstance(data, Mapping | list) or not data:
        raise BadOption("Labels come as a table: a DataFrame, columns, records, or a file.", hint="%mlops labels churn --data df")
    columns = signature.as_lists(signature.to_columns(data))
    records = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    file.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    return file
