"""The SQL that makes typed rows of telemetry files."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import msgspec

from ..column_bytes import unpacked
from ..splits import COPY_MARK
from . import block_rows
from .files import Standing, column_types

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger("mlops_nb.telemetry")
P = ParamSpec("P")
T = TypeVar("T")
_SQL_TYPES = {
    "bool": "BOOLEAN", "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT", "uint8": "UTINYINT",
    "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT", "float16": "FLOAT", "float32": "FLOAT", "float64": "DOUBLE",
    "string": "VARCHAR", "datetime": "VARCHAR", "json": "JSON",
}  # fmt: skip
_SEEN_TYPES = {"BOOLEAN": "BOOLEAN", "BIGINT": "BIGINT", "UBIGINT": "BIGINT", "DOUBLE": "DOUBLE", "VARCHAR": "VARCHAR", "NULL": "VARCHAR"}
_LINE = (
    "time: 'TIMESTAMP', id: 'VARCHAR', status: 'INTEGER', latency_ms: 'DOUBLE', rows: 'BIGINT', error: 'VARCHAR', "
    """block: 'STRUCT("time" BIGINT[], id VARCHAR[], latency_ms DOUBLE[], "rows" BIGINT[])'"""
)
_OF_BLOCKS = (
    "unnest(list_transform(block.time, lambda micros: make_timestamp(micros))) AS time, unnest(block.id) AS id, 200 AS status, "
    "unnest(block.latency_ms) AS latency_ms, unnest(block.rows) AS rows, NULL::VARCHAR AS error"
)
FACTS = "time, id, status, latency_ms, rows, error"
SCORED = "status < 400"
NO_COPY = f"NOT coalesce(suffix(id, '{COPY_MARK}'), false)"
"""SQL: whether a request is none of the copies that a shadow was sent."""
NO_COPIES = "KV_METADATA {copies: 'none'}"
"""Written into a Parquet file that holds none."""
PREFIX = {"inputs": "in.", "outputs": "out."}

BOUNDED_MB, BOUNDED_THREADS = 1000, 4
"""What `bounded` leaves DuckDB, whatever the machine has."""
_instance: duckdb.DuckDBPyConnection | None = None
_AT_ONCE_BYTES = 32_000_000
"""Of lines with blocks, that are held in memory while they become rows."""
_bounded: ContextVar[duckdb.DuckDBPyConnection | None] = ContextVar("bounded", default=None)
_asking: ContextVar[ExitStack | None] = ContextVar("asking", default=None)
_numbers = itertools.count()


def connection() -> duckdb.DuckDBPyConnection:
    """A cursor of this process's own in-memory DuckDB, or of the bounded one where this is called within."""
    global _instance
    if within := _bounded.get():
        return within.cursor()
    if _instance is None:
        _instance = _opened({})
    return _instance.cursor()


@contextmanager
def question() -> Iterator[None]:
    """Within, what `whole` tells can be asked for: rows of lines may have to be put down for as long."""
    with ExitStack() as asking:
        token = _asking.set(asking)
        try:
            yield
        finally:
            _asking.reset(token)


@contextmanager
def bounded() -> Iterator[None]:
    """Within, questions of this thread are asked of a DuckDB of their own that holds BOUNDED_MB at most and works with BOUNDED_THREADS at most.

    What sorting or grouping cannot hold goes to a temporary folder.  Within another `bounded` it is that one.
    """
    if _bounded.get():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mlops-") as scratch:
        limits = {
            "memory_limit": f"{BOUNDED_MB}MB",
            "threads": str(min(os.cpu_count() or 1, BOUNDED_THREADS)),
            "temp_directory": scratch,
            "preserve_insertion_order": "false",
        }
        with _opened(limits) as opened:
            token = _bounded.set(opened)
            try:
                yield
            finally:
                _bounded.reset(token)


def within_bounds(work: Callable[P, T]) -> Callable[P, T]:
    """*work* that is `bounded`; where that is too little, it is done again with as much as the machine has.  What it keeps it must keep at its end."""

    @functools.wraps(work)
    def done(*args: P.args, **kwargs: P.kwargs) -> T:
        import duckdb

        try:
            with bounded():
                return work(*args, **kwargs)
        except duckdb.OutOfMemoryException:
            log.warning("telemetry.beyond_bounds %s: %s MB are too little for requests of so many values", work.__name__, BOUNDED_MB)
        return work(*args, **kwargs)

    return done


def _opened(limits: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    import duckdb

    opened = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False, **limits})
    opened.create_function("unpacked", unpacked, ["VARCHAR", "VARCHAR"], "VARCHAR")  # type: ignore[list-item, arg-type]
    return opened


def _forget() -> None:
    global _instance
    _instance = None  # a forked child must not share its parent's


os.register_at_fork(after_in_child=_forget)


def facts_of_lines(paths: Iterable[Path]) -> str:
    """Time, id, status, latency, rows and error of lines; payloads are not read."""
    return f"SELECT {FACTS} FROM {_read_json(paths)} WHERE time IS NOT NULL UNION ALL SELECT {_OF_BLOCKS} FROM {_read_json(paths)} WHERE block IS NOT NULL"


def facts_of_parquet(paths: Iterable[Path]) -> str:
    """The same of Parquet files."""
    return f"SELECT {FACTS} FROM {read_parquet(paths)}"


def facts_but_ids_of_parquet(paths: Iterable[Path]) -> str:
    """The same with empty ids: those are most of what would be read, and of files without copies no question about callers needs them."""
    return f"SELECT time, '' AS id, status, latency_ms, rows, error FROM {read_parquet(paths)}"


@lru_cache(maxsize=20_000)
def without_copies(path: Path) -> bool:
    """Whether a Parquet file, which never changes, is marked as holding no copy that a shadow was sent."""
    found = connection().execute(f"SELECT count(*) FROM parquet_kv_metadata({literal(str(path))}) WHERE key = 'copies' AND value = 'none'").fetchone()
    return bool(found and found[0])


def typed_lines(cursor: duckdb.DuckDBPyConnection, folder: Path, paths: Iterable[Path]) -> Typed:
    """Whole rows of lines, with their columns typed by the signature beside them, else by what they hold.

    This is what a Parquet file gets, and what a reader sees before there is one.  Of lines with blocks as much as they hold is kept in memory.
    """
    tables, others = block_rows.read(paths)
    known = column_types(folder)
    alone = [_Column(side, name, seen) for side in PREFIX for name, seen in _seen(cursor, _lines_alone(others), side, known[side]).items()] if others else []
    every = [*((c.side, c.name, c.depth) for c in alone), *((c.side, c.name, c.depth) for table in tables for c in table.columns)]
    names = _column_names(list(dict.fromkeys((side, name) for side, name, _ in every)))
    mixed = {key for key in names if len({depth for *column, depth in every if tuple(column) == key}) > 1}
    alone = [_Column(c.side, c.name, ["JSON"]) if (c.side, c.name) in mixed else c for c in alone]
    selects = [_alone(others, alone, names)] if others else []
    selects += [_of_table(cursor, table, names, known, mixed) for table in tables]
    return Typed(" UNION ALL BY NAME ".join(f"({select})" for select in selects), own=bool(tables))


class Typed(NamedTuple):
    """Rows of lines."""

    select: str
    own: bool
    """Whether only the cursor they were made for can ask for them."""


def _lines_alone(paths: Iterable[Path]) -> str:
    inputs = "CASE WHEN packed IS NULL THEN inputs ELSE unpacked(inputs, packed)::JSON END AS inputs"
    return f"(SELECT {FACTS}, {inputs}, outputs FROM {_read_json(paths, payload=True)} WHERE time IS NOT NULL)"


def _alone(paths: Iterable[Path], columns: list[_Column], names: Mapping[tuple[str, str], str]) -> str:
    """Requests that have a line each."""
    lines = _lines_alone(paths)
    first: dict[tuple[str, str], _Column] = {}
    for column in columns:
        if column.name:
            first.setdefault((column.side, column.name.lower()), column)
    struct_of = {side: {c.name: c.type for c in first.values() if c.side == side} for side in PREFIX}
    structs = [f"json_transform({_scored(side)}, {literal(_json(struct_of[side]))}) AS {side}_typed" for side in PREFIX if struct_of[side]]
    inner = f"(SELECT {', '.join(['*', *structs])} FROM {lines})"
    raw = [f"CASE WHEN {_scored(side)} IS NULL THEN {side}::VARCHAR END AS raw_{side}" for side in PREFIX]
    typed = [f"{_value(c, c in first.values())} AS {quoted(names[c.side, c.name])}" for c in columns]
    return f"SELECT {', '.join([FACTS, *raw, *typed])} FROM {inner}"


def _of_table(
    cursor: duckdb.DuckDBPyConnection,
    table: block_rows.Table,
    names: Mapping[tuple[str, str], str],
    known: Mapping[str, Mapping[str, str]],
    mixed: Container[tuple[str, str]],
) -> str:
    """Requests of blocks, which *cursor* is given under a name of its own."""
    name = f"blocks_{next(_numbers)}"
    cursor.register(name, table)
    facts = "time, id, 200 AS status, latency_ms, rows, NULL::VARCHAR AS error, NULL::VARCHAR AS raw_inputs, NULL::VARCHAR AS raw_outputs"
    typed = [f"{_of_column(c, n, known, mixed)} AS {quoted(names[c.side, c.name])}" for n, c in enumerate(table.columns)]
    return f"SELECT {', '.join([facts, *typed])} FROM {name}"


def _of_column(column: block_rows.Column, place: int, known: Mapping[str, Mapping[str, str]], mixed: Container[tuple[str, str]]) -> str:
    if (column.side, column.name) in mixed:
        return f"list_transform(c{place}, lambda value: to_json(value))"
    type_ = _SQL_TYPES.get(known[column.side].get(column.name, "")) or column.type
    return f"TRY_CAST(c{place} AS {type_}{'[]' * column.depth})"


class _Column(msgspec.Struct, frozen=True):
    side: str
    name: str
    type: Any
    """As `json_transform` wants it: `["DOUBLE"]`."""

    @property
    def depth(self) -> int:
        """Of the lists that its values lie in."""
        return _depth(self.type)


def _depth(type: Any) -> int:
    return 1 + _depth(type[0]) if isinstance(type, list) else 0


def _seen(cursor: duckdb.DuckDBPyConnection, lines: str, side: str, known: dict[str, str]) -> dict[str, Any]:
    [[found]] = cursor.execute(f"SELECT json_group_structure({_scored(side)}) FROM {lines}").fetchall()
    structure = msgspec.json.decode(found) if found else {}
    return {name: _typed(shape, known.get(name)) for name, shape in structure.items()} if isinstance(structure, dict) else {}


def _typed(shape: Any, type: str | None) -> Any:
    """The shape the values have, with the type the signature gives them; of other values the type seen."""
    if isinstance(shape, list):
        return [_typed(shape[0], type)]
    sql = _SQL_TYPES.get(type or "")
    return sql or (_SEEN_TYPES.get(shape, "JSON") if isinstance(shape, str) else "JSON")


def _scored(side: str) -> str:
    return f"CASE WHEN {SCORED} AND json_type({side}) = 'OBJECT' THEN {side} END"


def _value(column: _Column, in_struct: bool) -> str:
    if in_struct:
        return f"{column.side}_typed.{quoted(column.name)}"
    pointer = "/" + column.name.replace("~", "~0").replace("/", "~1")  # a struct cannot hold both "Age" and "age", nor a member without a name
    return f"json_transform(json_extract({_scored(column.side)}, {literal(pointer)}), {literal(_json(column.type))})"


def _column_names(columns: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """By side and name: `in.Age`; of two names that differ in case only, the second in order is `in.age^1`, in whichever order a file has them."""
    names: dict[tuple[str, str], str] = {}
    taken: dict[str, int] = {}
    for side, name in sorted(columns):
        plain = PREFIX[side] + name.replace("^", "^^")
        count = taken[plain.lower()] = taken.get(plain.lower(), -1) + 1
        names[side, name] = f"{plain}^{count}" if count else plain
    return names


def name_of(column: str) -> str:
    """`Age` of `in.Age` or `in.Age^1`."""
    name = column.partition(".")[2]
    return re.sub(r"(?<!\^)((?:\^\^)*)\^\d+$", r"\1", name).replace("^^", "^")


def whole(cursor: duckdb.DuckDBPyConnection, standing: Standing, parquet: Sequence[Path], lines: Iterable[Path], *, copies: bool = True) -> str | None:
    """Whole typed rows of a deployment's *parquet* files and *lines*; None when it has neither.  To be called within a `question`.

    Without *copies* those that a shadow was sent are left out; where there are none, no id is read for it.
    """
    mixed = [] if copies else [path for path in parquet if not without_copies(path)]
    plain = [path for path in parquet if path not in mixed]
    parts = [f"SELECT * FROM {read_parquet(plain)}"] if plain else []
    parts += [f"SELECT * FROM {read_parquet(mixed)} WHERE {NO_COPY}"] if mixed else []
    read = [select for some in _a_few(lines) if (select := _for_all(cursor.cursor(), standing.folder, some))]
    parts += read if copies else [f"SELECT * FROM ({select}) WHERE {NO_COPY}" for select in read]
    return " UNION ALL BY NAME ".join(f"({part})" for part in parts) or None


def _a_few(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """As many at a time as may be in memory."""
    some: list[Path] = []
    size = 0
    for path in paths:
        more = path.stat().st_size
        if some and size + more > _AT_ONCE_BYTES:
            yield some
            some, size = [], 0
        some.append(path)
        size += more
    if some:
        yield some


def _for_all(cursor: duckdb.DuckDBPyConnection, folder: Path, lines: Iterable[Path]) -> str:
    """SQL of the rows of lines that any cursor can ask; empty where there is no line yet."""
    typed = typed_lines(cursor, folder, lines)
    if not typed.own:
        return typed.select
    asking = _asking.get()
    if asking is None:
        raise RuntimeError("rows of lines are read within a question")
    scratch = Path(asking.enter_context(tempfile.TemporaryDirectory(prefix="mlops-"))) / "lines.parquet"
    cursor.execute(f"COPY ({typed.select}) TO {literal(str(scratch))} (FORMAT parquet, COMPRESSION snappy)")
    return f"SELECT * FROM {read_parquet([scratch])}"


def read_parquet(paths: Iterable[Path]) -> str:
    """A table of Parquet files whose columns may differ."""
    return f"read_parquet({_listed(paths)}, union_by_name = true, hive_partitioning = false)"


def _read_json(paths: Iterable[Path], *, payload: bool = False) -> str:
    """A table of lines.  One that was half written reads as a row of nothing, which every query passes over."""
    paths = list(paths)
    columns = _LINE + (", inputs: 'JSON', outputs: 'JSON', packed: 'JSON'" if payload else "")
    longest = max(1 << 20, *(path.stat().st_size for path in paths)) + 1
    return f"read_json({_listed(paths)}, format = 'newline_delimited', ignore_errors = true, maximum_object_size = {longest}, columns = {{{columns}}})"


def _listed(paths: Iterable[Path]) -> str:
    return "[" + ", ".join(literal(str(path)) for path in paths) + "]"


def literal(text: str) -> str:
    """*text* as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """*name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
