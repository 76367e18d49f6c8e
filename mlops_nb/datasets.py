"""Register data: a copy in Parquet, its hash, schema and profile, under a name and a version."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import artifacts, signature, store, summaries
from .errors import BadOption, FileMissing
from .reference import ModelRef
from .safety import checked_name
from .store import datasets as table
from .store import events
from .store.datasets import DatasetVersion
from .summaries import ColumnSummary

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

    from .store.database import Transaction

_READERS = {".csv": "read_csv", ".tsv": "read_csv", ".parquet": "read_parquet", ".json": "read_json", ".jsonl": "read_json", ".ndjson": "read_json"}
_TYPES = {
    "BOOLEAN": "bool", "TINYINT": "int8", "SMALLINT": "int16", "INTEGER": "int32", "BIGINT": "int64", "UTINYINT": "uint8",
    "USMALLINT": "uint16", "UINTEGER": "uint32", "UBIGINT": "uint64", "FLOAT": "float32", "DOUBLE": "float64", "VARCHAR": "string",
}  # fmt: skip
_MOST_FREQUENT = 10
_MOST_COUNTED = 1_000_000
"""Rows up to which distinct values are counted; of more they are estimated, for they would have to be held in memory."""


def register(name: str, data: Any, *, description: str = "", tags: dict[str, str] | None = None) -> DatasetVersion:
    """Keep *data* and return its version: a DataFrame, Series, array, dict of columns, list of records, or the path of a CSV, Parquet or JSON file.

    The index of a DataFrame is left out; a Series is a column of its name, else `value`; the columns of an array are named `column0`, `column1`
    and so on.  The same content under the same name is the version already there, which gets the new *description* and *tags* where they are given.
    Raises BadName, FileMissing, BadOption, StoreFull.
    """
    checked_name(name, what="dataset")
    with tempfile.TemporaryDirectory(prefix="mlops-") as scratch:
        parquet = Path(scratch) / "data.parquet"
        connection = _copied(data, parquet)
        kept = artifacts.keep(parquet, path="data.parquet")
        rows, schema, profile = _described(connection, parquet)
        columns = summaries.of_table(connection, parquet, schema, rows=rows)
    with store.writing() as tx:
        if same := table.with_hash(tx, name, kept.sha256):
            return _described_anew(tx, same, description, tags or {})
        version = DatasetVersion(
            name=name, version=table.next_version(tx, name), hash=kept.sha256, rows=rows, schema=schema, profile=profile, file=kept.sha256,
            bytes=kept.bytes, description=description, tags=tags or {}, author=getpass.getuser(), created_at=store.now(),
        )  # fmt: skip
        table.add(tx, version)
        table.put_summary(tx, version.hash, columns)
        events.record(tx, "DatasetRegistered", subject=version.ref, data={"rows": rows, "hash": kept.sha256})
    return version


def _described_anew(tx: Transaction, version: DatasetVersion, description: str, tags: dict[str, str]) -> DatasetVersion:
    """*version* with what is said of it now; what is not said stays."""
    described = msgspec.structs.replace(version, description=description or version.description, tags=version.tags | tags)
    if described != version:
        table.describe(tx, described)
    return described


def get(ref: ModelRef | str) -> DatasetVersion:
    """One version, the newest unless *ref* gives a number.  Raises DatasetNotFound, VersionNotFound."""
    with store.reading() as tx:
        return table.get(tx, _parsed(ref))


def every(name: str | None = None) -> list[DatasetVersion]:
    """All versions (of *name*), newest first."""
    with store.reading() as tx:
        return table.every(tx, name)


def summary(version: DatasetVersion) -> list[ColumnSummary]:
    """The counts of its columns, made now where the version was registered without them.  Raises FileMissing."""
    with store.reading() as tx:
        known = table.summary(tx, version.hash)
    if known is not None:
        return known
    file = artifacts.address(version.file)
    if not file.exists():
        raise FileMissing(file)
    with _memory() as connection:
        made = summaries.of_table(connection, file, version.schema, rows=version.rows)
    with store.writing() as tx:
        table.put_summary(tx, version.hash, made)
    return made


def counts(data: Any) -> list[ColumnSummary]:
    """The counts of the columns of *data*, as `register` would keep them; no row is kept.  Raises as `register`."""
    with tempfile.TemporaryDirectory(prefix="mlops-") as scratch:
        parquet = Path(scratch) / "data.parquet"
        with _copied(data, parquet) as connection:
            rows, schema, _ = _described(connection, parquet)
            return summaries.of_table(connection, parquet, schema, rows=rows)


def path(ref: ModelRef | str) -> Path:
    """The Parquet file of a version."""
    return artifacts.address(get(ref).file)


def frame(ref: ModelRef | str, *, columns: list[str] | None = None, most: int | None = None) -> pd.DataFrame:
    """The rows (at most *most*, of *columns*) as a pandas DataFrame, with the types they were registered with."""

    chosen = ", ".join(f'"{c.replace(chr(34), chr(34) * 2)}"' for c in columns) if columns else "*"
    limit = f" LIMIT {int(most)}" if most is not None else ""
    with _memory() as connection:
        return connection.execute(f"SELECT {chosen} FROM read_parquet(?){limit}", [str(path(ref))]).df()


def read(file: Path, *, text: Collection[str] = ()) -> dict[str, list[Any]]:
    """The columns of a CSV, Parquet or JSON file; those in *text* stay text in a CSV, so that `001` keeps its zeros.

    Raises FileMissing, BadOption.
    """
    import duckdb

    source = reader(file)
    with _memory() as connection:
        try:
            if source.startswith("read_csv"):
                there = [column[0] for column in connection.execute(f"SELECT * FROM {source} LIMIT 0").description]
                kept = ", ".join(f"'{name.replace(chr(39), chr(39) * 2)}': 'VARCHAR'" for name in there if name in text)
                source = f"{source[:-1]}, types = {{{kept}}})" if kept else source
            found = connection.execute(f"SELECT * FROM {source}")
        except duckdb.Error as error:
            hint = "a CSV, Parquet or JSON file with one row per record"
            raise BadOption(f"{file.name} cannot be read as a table: {str(error).splitlines()[0]}", hint=hint) from error
        names = [column[0] for column in found.description]
        rows = found.fetchall()
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _parsed(ref: ModelRef | str) -> ModelRef:
    return ref if isinstance(ref, ModelRef) else ModelRef.parse(ref, what="dataset")


def _copied(data: Any, parquet: Path) -> duckdb.DuckDBPyConnection:
    """Write *data* to *parquet* and return the connection that did it."""
    import duckdb

    connection = _memory()
    try:
        if isinstance(data, str | Path):
            source = reader(Path(data))
        else:
            table = _by_columns(data)
            _check_names(table)
            connection.register("given", table)
            source = "given"
        connection.execute(f"COPY (SELECT * FROM {source}) TO '{_quoted(parquet)}' (FORMAT parquet, COMPRESSION zstd)")
    except duckdb.Error as error:
        hint = "a DataFrame with one type per column, or a CSV, Parquet or JSON file"
        raise BadOption(f"This data cannot be kept as a table: {str(error).splitlines()[0]}", hint=hint) from error
    return connection


def _by_columns(data: Any) -> Any:
    """What DuckDB takes for a table with these columns and rows.  Raises BadOption."""
    import numpy as np

    if _is_series(data):
        return data.to_frame("value" if data.name is None else str(data.name))
    if isinstance(data, Mapping | list | tuple):
        return _columns_of(data)
    if data is None or type(data).__module__ == "builtins":
        raise _no_table(data)
    if not isinstance(data, np.ndarray) or data.ndim == 1:
        return data
    if data.ndim != 2:
        raise BadOption(f"An array of shape {data.shape} is no table.", hint="one row per record: X.reshape(len(X), -1)")
    return {f"column{place}": data[:, place] for place in range(data.shape[1])}


def _is_series(data: Any) -> bool:
    return hasattr(data, "to_frame") and getattr(data, "ndim", 0) == 1


def _columns_of(data: Any) -> dict[str, Any]:
    """A dict of columns or a list of records as arrays by name; what a record lacks is missing.  Raises BadOption."""
    fits = isinstance(data, Mapping) or all(isinstance(one, Mapping) for one in data)
    if not data or not fits:
        raise _no_table(data)
    columns = signature.to_columns(data)
    if not columns:
        raise _no_table(data)
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {rows:,}" for name, rows in list(lengths.items())[:8])
        raise BadOption(f"The columns are not of one length: {told}.", hint="as many values in each column")
    if several := next((name for name, array in columns.items() if array.ndim > 1), None):
        raise BadOption(f"Column {several!r} has rows of several values.", hint="a column for each of them")
    return columns


def _no_table(data: Any) -> BadOption:
    said = "None" if data is None else f"{'An empty' if isinstance(data, Mapping | list | tuple) and not data else 'This'} {type(data).__name__}"
    return BadOption(f"{said} is no table.", hint="a DataFrame, a dict of columns, a list of records, or a CSV, Parquet or JSON file")


def _check_names(data: Any) -> None:
    """Raises BadOption for columns that a table could not tell apart: DuckDB would rename one, and no model would find it again."""
    first: dict[str, str] = {}
    for name in map(str, data if isinstance(data, dict) else getattr(data, "columns", ())):
        if name.lower() in first:
            raise BadOption(f"Columns {first[name.lower()]!r} and {name!r} are one and the same to a table.", hint="rename one of them")
        first[name.lower()] = name


def _memory() -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})


def reader(file: Path) -> str:
    """SQL that reads a CSV, Parquet or JSON file as a table.  Raises FileMissing, BadOption."""
    if not file.exists():
        raise FileMissing(file)
    reader = _READERS.get(file.suffix.lower())
    if not reader:
        raise BadOption(f"{file.name} is none of {', '.join(_READERS)}.", hint="convert it, or load it into a DataFrame and register that")
    by_itself = "".join(f"[{mark}]" if mark in "[*?" else mark for mark in _quoted(file))  # `data[1].csv` must not mean `data1.csv`
    return f"{reader}('{by_itself}')"


def _quoted(file: Path) -> str:
    return str(file).replace("'", "''")


def _described(connection: duckdb.DuckDBPyConnection, parquet: Path) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    source = f"read_parquet('{_quoted(parquet)}')"
    summary = connection.execute(f"SUMMARIZE SELECT * FROM {source}")
    names = [column[0] for column in summary.description]
    profile = [_plain(dict(zip(names, row, strict=True))) for row in summary.fetchall()]
    counts = ", ".join(f"count({_column(c)})" for c in profile)  # SUMMARIZE rounds its percentage of nulls
    rows, *present = connection.execute(f"SELECT count(*), {counts} FROM {source}").fetchone() or (0,)
    for column, filled in zip(profile, present, strict=True):
        column["nulls"] = rows - filled
        column["top"] = _most_frequent(connection, source, column)
    if rows <= _MOST_COUNTED:
        distinct = ", ".join(f"count(DISTINCT {_column(c)})" for c in profile)
        for column, unique in zip(profile, connection.execute(f"SELECT {distinct} FROM {source}").fetchone() or (), strict=True):
            column["unique"] = unique
    schema = [{"name": c["column_name"], "type": _type(c["column_type"]), "nullable": c["nulls"] > 0} for c in profile]
    return rows, schema, profile


def _column(profiled: dict[str, Any]) -> str:
    return '"' + profiled["column_name"].replace('"', '""') + '"'


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: float(value) if key in ("null_percentage",) and value is not None else value for key, value in row.items()}


def _most_frequent(connection: duckdb.DuckDBPyConnection, source: str, column: dict[str, Any]) -> list[dict[str, Any]]:
    if (column["approx_unique"] or 0) > 1000:
        return []
    sql = f"SELECT {_column(column)}::VARCHAR, count(*) FROM {source} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {_MOST_FREQUENT}"
    return [{"value": value, "count": count} for value, count in connection.execute(sql).fetchall()]


def _type(duckdb_type: str) -> str:
    if duckdb_type.startswith(("TIMESTAMP", "DATE", "TIME")):
        return "datetime"
    if duckdb_type.startswith("DECIMAL"):
        return "float64"
    return "string" if duckdb_type.startswith("ENUM") else _TYPES.get(duckdb_type, "json")
