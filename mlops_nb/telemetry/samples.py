"""Scored rows as they were asked, with the time and the id of their requests: a fixed sample, for questions about single rows."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from . import files, rows
from .files import Standing
from .queries import _any_of, _array, _columns, _during, _sample, _steady, _table

if TYPE_CHECKING:
    import numpy as np


class Sample(msgspec.Struct, frozen=True):
    """Rows by time: when each was asked, its request's id, its place in it from 0, and its inputs by column."""

    time: np.ndarray
    """`datetime64[us]`, UTC."""
    id: np.ndarray
    row: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.time)


def sample(endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None, most: int) -> Sample | None:
    """About *most* rows that callers asked, of a *deployment* also the copies that it was sent; always those of the same requests.

    None where no answered request is kept.
    """
    where, bounds = _during(since, until)

    def ask(standings: list[Standing]) -> Sample | None:
        cursor = rows.connection()
        table = _table(cursor, standings, since, until, copies=deployment is not None)
        columns = _columns(cursor, table, "inputs") if table else []
        if not columns:
            return None
        kept = f"FROM ({table}) WHERE {where} AND {_any_of(columns)}"
        unnested = ", ".join(f"unnest({rows.quoted(column)}) AS c{number}" for number, column in enumerate(columns))
        flat = f"SELECT time, id, unnest(range(rows)) AS row, {unnested} {kept}{_sample(cursor, kept, bounds, most)}"
        found = cursor.execute(f"SELECT * FROM ({flat}) ORDER BY time, id, row", bounds).fetchnumpy()
        if not len(found["time"]):
            return None
        named = {rows.name_of(column): _array(found[f"c{number}"]) for number, column in enumerate(columns)}
        return Sample(_array(found["time"]), _array(found["id"]), _array(found["row"]), named)

    return _steady(files.folders(endpoint, deployment), ask)
