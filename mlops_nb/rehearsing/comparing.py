"""Ask a server in several ways, and say where the answers are not the same."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ..expected import Expected
from ..store.rehearsals import Check
from .stage import Server

NOTEBOOKS, AGAIN, SHUFFLED, APART = "the notebook's answers", "asked again", "in another order", "row by row"
_MOST_APART = 50
_SHUFFLING = 20

Row = Mapping[str, Any]


def every_way(server: Server, asked: Expected, tolerance: float) -> list[Check]:
    """All rows together and once more, in another order, and the first fifty one by one; compared with each other and with what is expected.

    Raises `stage.Broken`.
    """
    rows = list(range(asked.rows))
    together = _rows(server.ask(asked.columns, rows), len(rows))
    again = _rows(server.ask(asked.columns, rows), len(rows))
    checks = [_with_expected(together, asked, tolerance)] if asked.outputs else []
    checks.append(compared(AGAIN, again, together, tolerance))
    if len(rows) < 2 or len(together) != len(rows):
        return checks
    order = random.Random(_SHUFFLING).sample(rows, len(rows))
    shuffled = dict(zip(order, _rows(server.ask(asked.columns, order), len(rows)), strict=True))
    apart = [row for number in rows[:_MOST_APART] for row in _rows(server.ask(asked.columns, [number]), 1)]
    return [
        *checks,
        compared(SHUFFLED, [shuffled[number] for number in rows], together, tolerance),
        compared(APART, apart, together[: len(apart)], tolerance),
    ]


def agrees(server: Server, asked: Expected, tolerance: float) -> bool:
    """Whether it gives the answers that are expected.  Raises `stage.Broken`."""
    return same(server.ask(asked.columns, range(asked.rows)), asked, tolerance)


def same(answer: Any, asked: Expected, tolerance: float) -> bool:
    """Whether *answer* is the one that is expected."""
    return not _with_expected(_rows(answer, asked.rows), asked, tolerance).differ


def _with_expected(got: Sequence[Row], asked: Expected, tolerance: float) -> Check:
    """*got* compared with what is expected; outputs of which nothing is expected (probabilities, where labels were held) are left out."""
    wanted = _rows(asked.outputs, asked.rows)
    known = set(wanted[0]) if wanted else set()
    told = [{name: row[name] for name in known} if row.keys() > known else row for row in got]
    return compared(NOTEBOOKS, told, wanted, tolerance)


def compared(name: str, got: Sequence[Row], wanted: Sequence[Row], tolerance: float) -> Check:
    """How far *got* is from *wanted*: whole numbers, words and gaps must be the same, other numbers within *tolerance* in proportion to their size."""
    if len(got) != len(wanted):
        return Check(name=name, rows=len(wanted), differ=len(wanted), example=f"{len(got)} answers where there should be {len(wanted)}")
    gaps = [_gap(one, other, tolerance) for one, other in zip(got, wanted, strict=True)]
    worst = max((gap for gap, _ in gaps), default=0.0)
    differing = [number for number, (_, beyond) in enumerate(gaps) if beyond]
    example = f"row {differing[0]}: {_shown(wanted[differing[0]])}, now {_shown(got[differing[0]])}" if differing else ""
    return Check(name=name, rows=len(wanted), differ=len(differing), max_difference=worst if math.isfinite(worst) else None, example=example)


def _rows(answer: Any, count: int) -> list[Row]:
    """An answer as rows: columns by output name, or a list with an entry for each row; else all of it as one."""
    if isinstance(answer, dict) and answer and all(isinstance(values, list) and len(values) == count for values in answer.values()):
        return [dict(zip(answer, row, strict=True)) for row in zip(*answer.values(), strict=True)]
    if isinstance(answer, list) and len(answer) == count:
        return [{"answer": value} for value in answer]
    return [{"answer": answer}]


def _gap(got: Any, wanted: Any, tolerance: float) -> tuple[float, bool]:
    """The largest difference between two answers, and whether one is beyond what is allowed."""
    if isinstance(wanted, Mapping) and isinstance(got, Mapping) and got.keys() == wanted.keys():
        return _worst([_gap(got[name], wanted[name], tolerance) for name in wanted])
    if isinstance(wanted, list) and isinstance(got, list) and len(got) == len(wanted):
        return _worst([_gap(one, other, tolerance) for one, other in zip(got, wanted, strict=True)])
    if got == wanted and isinstance(got, bool) == isinstance(wanted, bool):
        return 0.0, False
    if isinstance(got, int | float) and isinstance(wanted, float) and not isinstance(got, bool):
        gap = abs(got - wanted)
        return gap, gap > tolerance * max(1.0, abs(wanted))
    if isinstance(got, int | float) and isinstance(wanted, int) and not isinstance(wanted, bool) and not isinstance(got, bool):
        return abs(got - wanted), isinstance(got, int) or abs(got - wanted) > tolerance * max(1.0, abs(wanted))
    return math.inf, True


def _worst(gaps: list[tuple[float, bool]]) -> tuple[float, bool]:
    return max((gap for gap, _ in gaps), default=0.0), any(beyond for _, beyond in gaps)


def _shown(row: Row) -> str:
    words = [f"{name} {f'{value:.6g}' if isinstance(value, float) else str(value)[:60]}" for name, value in row.items()]
    return ", ".join(words)
