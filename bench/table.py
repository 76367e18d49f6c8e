"""A figure, and figures as a table for people and as JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

_HEAD = ("figure", "value", "unit", "baseline", "ratio", "goal")


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number.  Its baseline is another figure of the same run, in the same unit."""

    name: str
    value: float | None
    """None when it could not be measured; `note` says why."""
    unit: str
    baseline: str | None = None
    at_most: float | None = None
    ratio_at_least: float | None = None
    """What the value by its baseline's should be."""
    note: str = ""


def _goal(figure: Figure, ratio: float | None) -> str:
    """`≤ 5, met`; empty without one."""
    if figure.ratio_at_least is not None:
        limit = figure.ratio_at_least
        return f"≥ {_number(limit)}×{_verdict(None if ratio is None else ratio >= limit)}"
    if figure.at_most is not None:
        return f"≤ {_number(figure.at_most)}{_verdict(None if figure.value is None else figure.value <= figure.at_most)}"
    return ""


def _verdict(kept: bool | None) -> str:
    return "" if kept is None else ", met" if kept else ", MISSED"


def as_json(figures: Iterable[Figure]) -> dict[str, dict[str, Any]]:
    """Name → `value`, `unit`, `baseline` (the name of the figure it is compared with) and `ratio` (value by the baseline's value)."""
    named = {figure.name: figure for figure in figures}
    return {
        figure.name: {"value": _rounded(figure.value), "unit": figure.unit, "baseline": figure.baseline, "ratio": _rounded(_ratio(figure, named))}
        for figure in named.values()
    }


def write(figures: Iterable[Figure], path: Path) -> None:
    """Put the figures of one run into the JSON file *path*, in place of an earlier run's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(as_json(figures)), indent=2) + b"\n")


def as_text(figures: Sequence[Figure]) -> str:
    """The table: a line per figure, its baseline by name and value."""
    named = {figure.name: figure for figure in figures}
    rows = [_HEAD, *(_row(figure, named) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(_placed(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def _row(figure: Figure, named: dict[str, Figure]) -> tuple[str, ...]:
    ratio, beside = _ratio(figure, named), named.get(figure.baseline or "")
    return (
        figure.name,
        "—" if figure.value is None else _number(figure.value),
        figure.unit,
        figure.note or (f"{beside.name}: {'—' if beside.value is None else _number(beside.value)}" if beside else ""),
        "" if ratio is None else f"{ratio:.2f}×",
        _goal(figure, ratio),
    )


def _placed(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in (1, 4) else cell.ljust(width)


def _ratio(figure: Figure, named: dict[str, Figure]) -> float | None:
    beside = named.get(figure.baseline or "")
    if beside is None or not beside.value or figure.value is None:
        return None
    return figure.value / beside.value


def _number(value: float) -> str:
    """Three digits that tell: 0.0123, 1.23, 12.3, 1,230."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
