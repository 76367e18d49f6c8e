"""How far numbers reach."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from . import files, rows
from .files import Standing
from .queries import _columns, _during, _steady, _table


def extremes(
    endpoint: str, names: Sequence[str], *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> dict[str, tuple[float, float]]:
    """The lowest and the highest finite value of input columns, by name; those that hold no numbers are left out."""
    where, bounds = _during(since, until)

    def ask(standings: list[Standing]) -> dict[str, tuple[float, float]]:
        cursor = rows.connection()
        table = _table(cursor, standings, since, until)
        there = {rows.name_of(column): column for column in _columns(cursor, table, "inputs")} if table else {}
        known = [name for name in names if name in there]
        if not known:
            return {}
        numbers = [f"[n FOR n IN [TRY_CAST(v AS DOUBLE) FOR v IN {rows.quoted(there[name])}] IF isfinite(n)]" for name in known]
        measures = ", ".join(f"min(list_min({listed})), max(list_max({listed}))" for listed in numbers)
        found = cursor.execute(f"SELECT {measures} FROM ({table}) WHERE {where}", bounds).fetchone() or ()
        pairs = {name: (found[2 * n], found[2 * n + 1]) for n, name in enumerate(known)}
        return {name: pair for name, pair in pairs.items() if pair[0] is not None and pair[1] is not None}

    return _steady(files.folders(endpoint, deployment), ask) if names else {}
