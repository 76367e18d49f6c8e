"""What turned out to be true of what was asked: labels that came later, and answers beside them.

    <workspace>/telemetry/endpoint=E/labels/<time_ns>.parquet     id, row, label, as they came at that time; came, where files of many times became one

A label belongs to the row of a request, known by the request's id and the row's place in it, from 0.  It is kept as text: whole numbers
without a point, true and false as 1 and 0, so that 1, 1.0, "1" and true are one label.  Files are only added; of several labels of one row the
last wins.  Labels that no answer is known for are kept, because telemetry may come later than they do.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..safety import checked_name, path_inside
from ..settings import Workspace
from ..splits import COPY_MARK
from . import aggregates, files, rows
from .files import Standing
from .queries import _during, _lines, _naive, _parquet, _steady, _table

if TYPE_CHECKING:
    import duckdb
    import numpy as np

_MANY = 24
"""So many files become one."""
_ABANDONED = 3600.0
"""Seconds after which a file that is not whole is taken for one whose writer was killed."""
_WELL_BEYOND = 3
"""A sample is worth it where it spares most of the rows."""
_ROWS_OF_ANSWERS = ("label", "prediction")
_STEM = "regexp_extract(filename, '([0-9]+)[.]parquet$', 1)::BIGINT"
"""When the labels of a file came; of many that became one each keeps its `came`."""
ID, ROW, LABEL = "id", "row", "label"


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """What became of labels that were given; counts of rows."""

    given: int = 0
    without_label: int = 0
    """Had no label, or no id: left out."""
    duplicates: int = 0
    """Of a row that had another label further down: the last wins."""
    new: int = 0
    changed: int = 0
    """Of rows that were known to have another label."""
    repeated: int = 0
    """Known already."""
    matched: int = 0
    """Belong to an answer that is kept."""
    unmatched: int = 0
    """Belong to no answer that is kept, or not yet."""
    of_several_rows: int = 0
    """Belong to a request of several rows, by its id alone: the first row's."""


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What one deployment answered, a row each, with the truth where it is known.  Labels are text."""

    deployment: str
    time: Any
    id: Any
    row: Any
    truth: Any
    """Text, None where it is not known."""
    label: Any = None
    """What a classifier said, as text; None for a regressor."""
    prediction: Any = None
    """What a regressor said, as floats; None for a classifier."""
    probabilities: Any = None
    """Rows × classes, NaN where there were none; None when it gives none."""
    columns: dict[str, Any] = {}
    """Inputs that were asked for, by name, as text or floats."""
    of: int = 0
    """Of how many scored rows these are a sample; 0 where they are all."""

    def __len__(self) -> int:
        return len(self.time)

    @property
    def labelled(self) -> Any:
        """Of each row, whether its truth is known."""
        import numpy as np

        return np.array([value is not None for value in self.truth], bool)

    def where(self, chosen: Any) -> Answers:
        """The rows that *chosen*, an array of booleans, picks."""
        names = [name for name in self.__struct_fields__ if name not in ("deployment", "columns", "of") and getattr(self, name) is not None]
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return msgspec.structs.replace(self, columns=columns, **{name: getattr(self, name)[chosen] for name in names})


def add(endpoint: str, source: duckdb.DuckDBPyConnection, table: str, *, id: str, row: str | None, label: str) -> Added:
    """Keep labels of *endpoint*: the columns *id*, *row* (None: all are of row 0) and *label* of *table*, which *source* can read, in its order.

    Saying the same again adds nothing.  Raises duckdb.Error for rows that are no numbers.
    """
    place = f"coalesce({rows.quoted(row)}, 0)::BIGINT" if row else "0::BIGINT"
    types = {column[0]: column[1] for column in source.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()}
    said = f"SELECT {rows.quoted(id)}::VARCHAR AS id, {place} AS row, {as_label(rows.quoted(label), types[label])} AS label FROM {table}"
    given = source.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)
    folder = _folder(endpoint)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = folder / f".{time.time_ns()}.tmp"
    numbered = f"SELECT *, row_number() OVER () AS n FROM ({said}) WHERE id IS NOT NULL AND label IS NOT NULL"
    last = f"SELECT id, row, label FROM ({numbered}) QUALIFY row_number() OVER (PARTITION BY id, row ORDER BY n DESC) = 1"
    try:
        kept = source.execute(f"SELECT count(*) FROM ({said}) WHERE id IS NOT NULL AND label IS NOT NULL").fetchone() or (0,)
        source.execute(f"COPY ({last}) TO {rows.literal(str(scratch))} (FORMAT parquet, COMPRESSION zstd)")
        return _kept(endpoint, scratch, Added(given=given[0], without_label=given[0] - kept[0]), by_row=row is not None)
    finally:
        scratch.unlink(missing_ok=True)


def words(source: duckdb.DuckDBPyConnection, table: str, label: str, *, most: int) -> set[str]:
    """The different labels in the column *label* of *table*, as they are kept; nothing where they are more than *most*."""
    types = {column[0]: column[1] for column in source.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()}
    said = f"SELECT {as_label(rows.quoted(label), types[label])} AS label FROM {table}"
    found = source.execute(f"SELECT DISTINCT label FROM ({said}) WHERE label IS NOT NULL LIMIT {most + 1}").fetchall()
    return {row[0] for row in found} if len(found) <= most else set()


def _kept(endpoint: str, scratch: Path, told: Added, *, by_row: bool) -> Added:
    """The labels in *scratch* beside what is known; those that are new or other are put in place."""
    with files.held(exclusive=True):  # one at a time: the file's name is its moment
        cursor = rows.connection()
        given = f"read_parquet({rows.literal(str(scratch))})"
        known = _known(endpoint) or "SELECT NULL::VARCHAR AS id, NULL::BIGINT AS row, NULL::VARCHAR AS label WHERE false"
        both = f"SELECT g.*, k.label AS before FROM {given} g LEFT JOIN ({known}) k USING (id, row)"
        count, changed, repeated = cursor.execute(
            f"SELECT count(*), count(*) FILTER (before IS NOT NULL AND before <> label), count(*) FILTER (before = label) FROM ({both})"
        ).fetchone() or (0, 0, 0)
        if count > repeated:
            _put(cursor, _folder(endpoint), f"SELECT id, row, label FROM ({both}) WHERE before IS DISTINCT FROM label")
        _tidy(cursor, endpoint)
    matched, several = _matches(endpoint, scratch)
    return msgspec.structs.replace(
        told, duplicates=told.given - told.without_label - count, new=count - changed - repeated, changed=changed, repeated=repeated, matched=matched,
        unmatched=count - matched, of_several_rows=0 if by_row else several,
    )  # fmt: skip


def put(endpoint: str, select: str) -> None:
    """Keep the rows of *select* (`id, row, label`, each row of a request once) as they are, without telling new ones from known ones."""
    _folder(endpoint).mkdir(parents=True, exist_ok=True, mode=0o700)
    _put(rows.connection(), _folder(endpoint), select)


def _put(cursor: duckdb.DuckDBPyConnection, folder: Path, select: str) -> None:
    """A file of labels that is there whole or not at all."""
    path = folder / f"{time.time_ns()}.parquet"
    scratch = path.with_name(f".{path.name}.tmp")
    cursor.execute(f"COPY ({select}) TO {rows.literal(str(scratch))} (FORMAT parquet, COMPRESSION zstd)")
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    _sample(path).parent.mkdir(exist_ok=True)
    sampled = aggregates.sampled(f"read_parquet({rows.literal(str(scratch))})")
    cursor.execute(f"COPY ({sampled}) TO {rows.literal(str(_sample(path)))} (FORMAT parquet, COMPRESSION zstd)")
    os.replace(scratch, path)  # its sample is there before it


def _tidy(cursor: duckdb.DuckDBPyConnection, endpoint: str) -> None:
    """Make one file of many; labels older than the telemetry that is kept go, for their answers came before them."""
    oldest = time.time_ns() - timedelta(days=Workspace.current().settings().capture_days) // timedelta(microseconds=1) * 1000
    for left in _folder(endpoint).glob(".*.tmp"):
        if left.stat().st_mtime < time.time() - _ABANDONED:
            left.unlink(missing_ok=True)
    standing = _files(endpoint)
    for path in [path for path in standing if int(path.stem) < oldest]:
        _delete(path)
    standing = _files(endpoint)
    if len(standing) > _MANY and (known := _known_when(endpoint)):
        _put(cursor, _folder(endpoint), f"SELECT * FROM ({known}) WHERE came >= {oldest}")
        for path in standing:
            _delete(path)


def _delete(path: Path) -> None:
    path.unlink()
    _sample(path).unlink(missing_ok=True)


def _matches(endpoint: str, scratch: Path) -> tuple[int, int]:
    """How many of the labels belong to an answer that is kept, and how many of those to a request of several rows."""

    def ask(standings: list[Standing]) -> tuple[int, int]:
        facts = [part for s in standings for part in _facts(s)]
        if not facts:
            return 0, 0
        asked = f"SELECT id, max(rows) AS rows FROM ({' UNION ALL '.join(facts)}) WHERE status < 400 GROUP BY id"
        sql = f"SELECT count(*), count(*) FILTER (rows > 1) FROM read_parquet({rows.literal(str(scratch))}) g JOIN ({asked}) a USING (id) WHERE g.row < a.rows"
        found = rows.connection().execute(sql).fetchone() or (0, 0)
        return int(found[0]), int(found[1])

    return _steady(files.folders(endpoint), ask)


def _facts(standing: Standing) -> list[str]:
    parquet, lines = _parquet(standing, None, None), _lines(standing)
    return ([rows.facts_of_parquet(parquet)] if parquet else []) + ([rows.facts_of_lines(lines)] if lines else [])


def mark(endpoint: str) -> tuple[str, ...]:
    """What differs as soon as a label has come; nothing where none has."""
    return tuple(path.name for path in _files(endpoint))


def count(endpoint: str) -> int:
    """How many rows of *endpoint* have a label."""
    known = _known(endpoint)
    return int((rows.connection().execute(f"SELECT count(*) FROM ({known})").fetchone() or (0,))[0]) if known else 0


def answers(
    endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None, columns: Sequence[str] = (),
    most: int | None = None, copies: bool = True
) -> list[Answers]:  # fmt: skip
    """What each deployment answered, one row for each scored row, by time, with the truth where it is known and the inputs called *columns*.

    A deployment that was sent copies is judged by the labels of the requests they are copies of; without *copies* it is by what callers asked alone.
    Of requests with one id the newest counts.
    Only answers whose payload is kept are there.  With *most*, of a deployment that has more than three times as many, about so many rows or
    a sixteenth of its own where that is less: always the same sample of the requests.
    """
    found = [_answers_of(endpoint, place, since, until, columns, most, copies=copies) for place in files.folders(endpoint, deployment)]
    return [one for one in found if one is not None and len(one)]


def judged(endpoint: str, *, since: datetime, by: datetime) -> list[Answers]:
    """What each deployment answered in that time and was labelled *by* then, in the order in which that was known.

    Asked again later, the same rows come first: those whose label or answer came since stand behind them.  A label that was changed counts as of then.
    """
    found = [_answers_of(endpoint, place, since, by, (), None, known_by=_nanoseconds(by)) for place in files.folders(endpoint)]
    return [one for one in found if one is not None and len(one)]


def truths(endpoint: str, spans: Sequence[tuple[datetime, datetime]], *, deployment: str | None = None) -> list[Counter[str]]:
    """For each of the *spans*, first and last moment, how often each label is the truth of what was answered in it; no row is held in memory.

    Of an endpoint it is what callers were answered; of a *deployment* also the copies that it was sent.
    """
    found: list[Counter[str]] = [Counter() for _ in spans]
    for place in files.folders(endpoint, deployment):
        for span, label, count in _truths_of(endpoint, place, spans, copies=deployment is not None):
            found[span][label] += count
    return found


def newest(endpoint: str, *, by: datetime) -> int:
    """When the newest label that came *by* then did, in nanoseconds; 0 before the first."""
    stems, moment = [int(path.stem) for path in _files(endpoint)], _nanoseconds(by)
    if not stems or max(stems) <= moment:
        return max(stems, default=0)
    with files.held(exclusive=False):  # a newer file may be of many that became one
        told = f"SELECT coalesce(max(came), 0) FROM ({_all_when(endpoint)}) WHERE came <= {moment}"
        return int((rows.connection().execute(told).fetchone() or (0,))[0])


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_label(value: str, type: str) -> str:
    """SQL that words a value of a type as a label."""
    if type == "BOOLEAN":
        return f"{value}::INTEGER::VARCHAR"
    if type in ("FLOAT", "DOUBLE") or type.startswith("DECIMAL"):
        number = f"{value}::DOUBLE"
        whole = f"{number} = trunc({number}) AND abs({number}) < 1e15"
        return f"CASE WHEN isnan({number}) THEN NULL WHEN {whole} THEN {number}::BIGINT::VARCHAR ELSE {number}::VARCHAR END"
    return f"{value}::VARCHAR"


def _folder(endpoint: str) -> Path:
    return path_inside(Workspace.current().telemetry, f"endpoint={checked_name(endpoint, what='endpoint')}", "labels")


def _files(endpoint: str) -> list[Path]:
    return sorted(_folder(endpoint).glob("[0-9]*.parquet"))


def _nanoseconds(time: datetime) -> int:
    return int(time.timestamp() * 1e9)


def _known_when(endpoint: str, *, by: int | None = None) -> str | None:
    """The labels that count (of those that came *by* then), as SQL, each with the nanosecond in which it came; None when there are none."""
    told = _all_when(endpoint)
    early = "" if by is None else f"WHERE came <= {by}"
    return f"SELECT * FROM ({told}) {early} QUALIFY row_number() OVER (PARTITION BY id, row ORDER BY came DESC) = 1" if told else None


def _all_when(endpoint: str) -> str | None:
    """Every label that came, as SQL, with the nanosecond in which it did."""
    standing = _files(endpoint)
    if not standing:
        return None
    listed = ", ".join(rows.literal(str(path)) for path in standing)
    whole = f"SELECT * FROM read_parquet([{listed}], filename = true, union_by_name = true, hive_partitioning = false)"
    return f"SELECT id, row, label, coalesce(came, {_STEM}) AS came FROM ({whole} UNION ALL BY NAME SELECT NULL::BIGINT AS came WHERE false)"


def _known(endpoint: str, share: float | None = None) -> str | None:
    """The labels that count, as SQL, of all requests or of a *share* of them, as `_table` chooses these; None when there are none."""
    standing = _files(endpoint)
    samples = [_sample(path) for path in standing if share and _sample(path).exists()]
    rest = [path for path in standing if _sample(path) not in samples]
    parts = [_labels_in(samples, aggregates.within("place", share))] if share and samples else []
    parts += [_labels_in(rest, aggregates.within(aggregates.place("id"), share) if share else "true")] if rest else []
    if len(standing) < 2:  # one says nothing twice
        return "".join(parts) or None
    return f"SELECT id, row, label FROM ({' UNION ALL '.join(parts)}) QUALIFY row_number() OVER (PARTITION BY id, row ORDER BY stem DESC) = 1"


def _labels_in(paths: Sequence[Path], where: str) -> str:
    listed = ", ".join(rows.literal(str(path)) for path in paths)
    table = f"read_parquet([{listed}], filename = true, union_by_name = true, hive_partitioning = false)"
    return f"SELECT id, row, label, {_STEM} AS stem FROM {table} WHERE {where}"


def _truths_of(endpoint: str, place: Path, spans: Sequence[tuple[datetime, datetime]], *, copies: bool) -> list[tuple[int, str, int]]:
    listed = ", ".join(f"({number}, TIMESTAMP '{_naive(first)}', TIMESTAMP '{_naive(last)}')" for number, (first, last) in enumerate(spans))

    def ask(standings: list[Standing]) -> list[tuple[int, str, int]]:
        cursor = rows.connection()
        since, until = min(first for first, _ in spans), max(last for _, last in spans) + timedelta(microseconds=1)
        told = _told(cursor, endpoint, standings[0], since, until, copies=copies)
        if told is None:
            return []
        among = f"({told.sql}) JOIN (VALUES {listed}) s(span, first, last) ON time BETWEEN first AND last"
        return cursor.execute(f"SELECT span, truth, count(*) FROM {among} WHERE truth IS NOT NULL GROUP BY ALL", told.bounds).fetchall()

    return _steady([place], ask)


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment answered, as SQL: time, id, row, truth, said, and what else is wanted of each row."""

    sql: str
    order: str
    bounds: Any
    wanted: dict[str, str]
    is_label: bool
    of: int = 0
    """See `Answers`."""


def _answers_of(
    endpoint: str, place: Path, since: datetime | None, until: datetime | None, columns: Sequence[str], most: int | None, *, known_by: int | None = None,
    copies: bool = True,
) -> Answers | None:  # fmt: skip
    def ask(standings: list[Standing]) -> Answers | None:
        cursor, standing = rows.connection(), standings[0]
        told = _told(cursor, endpoint, standing, since, until, columns, most=most, known_by=known_by, copies=copies)
        if told is None:
            return None
        found = cursor.execute(f"{told.sql} ORDER BY {told.order}", told.bounds).fetchnumpy()
        return msgspec.structs.replace(_as_answers(standing.deployment, found, told.wanted, is_label=told.is_label), of=told.of)

    return _steady([place], ask)


def _told(
    cursor: duckdb.DuckDBPyConnection, endpoint: str, standing: Standing, since: datetime | None, until: datetime | None, columns: Sequence[str] = (), *,
    most: int | None = None, known_by: int | None = None, copies: bool = True,
) -> _Told | None:  # fmt: skip
    total = _scored(cursor, standing, since, until) if most else 0
    share = min(most / total, aggregates.SAMPLED) if most and total > _WELL_BEYOND * most else None
    table = _table(cursor, [standing], since, until, share=share, copies=copies)
    if not table:
        return None
    types = {row[0]: str(row[1]) for row in cursor.execute(f"DESCRIBE SELECT * FROM ({table})").fetchall()}
    wanted = _wanted(types, columns)
    known = _known(endpoint, share) if known_by is None else _known_when(endpoint, by=known_by)
    if "said" not in wanted or (known is None and known_by is not None):
        return None
    where, bounds = _during(since, until)
    answers = _by_row(table, wanted, where, labelled=known if known_by is not None else None)
    truth = f"{'LEFT ' if known_by is None else ''}JOIN ({known}) k USING (id, row)" if known else "CROSS JOIN (SELECT NULL::VARCHAR AS label) k"
    said_type = types[wanted["said"]].removesuffix("[]")
    is_label = _is_label(wanted["said"], said_type)
    shown = ["time", "id", "row", "k.label AS truth", f"{as_label('said', said_type) if is_label else 'said::DOUBLE'} AS said"]
    shown += [_shown(name, types[wanted[name]]) for name in wanted if name != "said"]
    return _Told(
        sql=f"SELECT {', '.join(shown)} FROM ({answers}) a {truth}", order=f"{'' if known_by is None else 'greatest(k.came, epoch_ns(time)), '}time, id, row",
        bounds=bounds, wanted=wanted, is_label=is_label, of=total if share else 0,
    )  # fmt: skip


def _by_row(table: str, wanted: dict[str, str], where: str, *, labelled: str | None) -> str:
    """The newest answer to each row of each request of *table*, a copy's by the id of what it copies; with *labelled*, of requests that these name."""
    each = ", ".join(f"unnest({rows.quoted(column)}) AS {name}" for name, column in wanted.items())
    id = f"CASE WHEN suffix(id, '{COPY_MARK}') THEN left(id, length(id) - {len(COPY_MARK)}) ELSE id END"
    chosen = f"AND {id} IN (SELECT id FROM ({labelled}))" if labelled else ""
    scored = f"SELECT time, {id} AS id, unnest(range(rows)) AS row, {each} FROM ({table}) WHERE {where} AND {rows.quoted(wanted['said'])} IS NOT NULL {chosen}"
    return f"SELECT * FROM ({scored}) QUALIFY row_number() OVER (PARTITION BY id, row ORDER BY time DESC) = 1"


def _scored(cursor: duckdb.DuckDBPyConnection, standing: Standing, since: datetime | None, until: datetime | None) -> int:
    counts = aggregates.counts([standing], since, until, copies=True)
    found = cursor.execute(f"SELECT sum(rows) FROM ({counts}) WHERE status < 400").fetchone() if counts else None
    return int((found and found[0]) or 0)


def _sample(path: Path) -> Path:
    """The labels of sampled requests, of a file of labels."""
    return path.parent / "samples" / path.name


def _wanted(types: dict[str, str], columns: Sequence[str]) -> dict[str, str]:
    """`said`, `probabilities` and `c0`, `c1` … → the telemetry's column."""
    outputs = {rows.name_of(name): name for name, type in types.items() if name.startswith(rows.PREFIX["outputs"]) and type.endswith("[]")}
    inputs = {rows.name_of(name): name for name, type in types.items() if name.startswith(rows.PREFIX["inputs"]) and type.endswith("[]")}
    plain = [name for name in (*_ROWS_OF_ANSWERS, *outputs) if name in outputs and not types[outputs[name]].endswith("[][]")]
    wanted = {"said": outputs[plain[0]]} if plain else {}
    if "probabilities" in outputs:
        wanted["probabilities"] = outputs["probabilities"]
    return wanted | {f"c{number}": inputs[name] for number, name in enumerate(columns) if name in inputs}


def _is_label(column: str, type: str) -> bool:
    return rows.name_of(column) == "label" or type in ("VARCHAR", "BOOLEAN", "JSON")


def _shown(name: str, type: str) -> str:
    if name == "probabilities" or type.removesuffix("[]") in ("DOUBLE", "FLOAT", "BIGINT", "INTEGER", "SMALLINT", "TINYINT", "HUGEINT"):
        return name
    return f"{name}::VARCHAR AS {name}"


def _as_answers(deployment: str, found: dict[str, Any], wanted: dict[str, str], *, is_label: bool) -> Answers:
    from .queries import _array

    arrays = {name: _array(values) for name, values in found.items()}
    return Answers(
        deployment=deployment, time=arrays["time"], id=arrays["id"], row=arrays["row"], truth=arrays["truth"].astype(object),
        label=arrays["said"].astype(object) if is_label else None, prediction=None if is_label else arrays["said"].astype(float),
        probabilities=_matrix(arrays.get("probabilities")),
        columns={rows.name_of(column): arrays[name] for name, column in wanted.items() if name not in ("said", "probabilities")},
    )  # fmt: skip


def _matrix(probabilities: Any) -> np.ndarray | None:
    """Rows × classes, as most rows have them, and NaN for the others; one number a row is the second class's."""
    import numpy as np

    if probabilities is None:
        return None
    if probabilities.dtype == object:
        widths = Counter(len(row) for row in probabilities if isinstance(row, list | np.ndarray))
        if not widths:
            return None
        width = widths.most_common(1)[0][0]
        fits = [isinstance(row, list | np.ndarray) and len(row) == width for row in probabilities]
        return np.array([row if fit else [np.nan] * width for row, fit in zip(probabilities, fits, strict=True)], float)
    numbers = probabilities.astype(float)
    return np.stack([1 - numbers, numbers], axis=1) if numbers.ndim == 1 else numbers
