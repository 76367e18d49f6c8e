"""`python -m mlops_nb.serving.substituted FOLDER`: what a Python model says to rows as the notebook had them, and as a request brings them.

FOLDER holds spec.json (a ServerSpec), columns.json (rows as they are sent) and rows.pkl (the same rows as this workspace pickled
them).  told.json is written there: the answers to either, and to what a request brings with one column, or the order of the columns,
in its place from the notebook.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from .. import processes
from . import failures, frames, protocol, score
from .spec import ServerSpec

GIVEN, SENT, ORDERED = "given", "sent", "ordered"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the model said to one form of the rows."""

    form: str
    """`given` by the notebook, `sent` by a request, `ordered` as the notebook had its columns; else the column that was put in from the notebook."""
    outputs: dict[str, list[Any]] | None = None
    """None when it raised."""
    kinds: tuple[str, str] = ("", "")
    """What the column is in the notebook, and what it is in a request."""


def main() -> None:
    """Ask the model each form."""
    processes.end_with(os.getppid())
    folder = Path(sys.argv[1])
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=ServerSpec)
    failures.show_cells(spec.cells)
    from .engines import PythonModel, load

    engine = load(spec)
    assert isinstance(engine, PythonModel) and engine.signature
    given = frames.unpickled((folder / "rows.pkl").read_bytes())
    sent = engine.data(engine.signature.check(msgspec.json.decode((folder / "columns.json").read_bytes())))
    told = [Told(form=form, outputs=_said(engine, rows), kinds=kinds) for form, rows, kinds in _forms(given, sent)]
    (folder / "told.json").write_bytes(msgspec.json.encode(told, enc_hook=protocol.plain))


def _forms(given: Any, sent: Any) -> Iterator[tuple[str, Any, tuple[str, str]]]:
    yield GIVEN, given, ("", "")
    yield SENT, sent, ("", "")
    if not (hasattr(given, "columns") and hasattr(sent, "columns")) or len(given.columns) != len(sent.columns):
        return
    from ..signature import column_name

    given = given.reset_index(drop=True).set_axis([column_name(name) for name in given.columns], axis="columns")
    if list(given.columns) != list(sent.columns):
        yield ORDERED, sent[list(given.columns)], (", ".join(given.columns), ", ".join(map(str, sent.columns)))
    for name in sent.columns:
        yield str(name), sent.assign(**{str(name): given[name]}), (_kind(given[name]), _kind(sent[name]))


def _said(engine: Any, rows: Any) -> dict[str, list[Any]] | None:
    try:
        return score.answer(engine.ask(rows))
    except (Exception, SystemExit):  # whatever the user's code raises: this form of the rows does not do
        return None


def _kind(column: Any) -> str:
    first = next((value for value in column.tolist() if value is not None and value == value), None)
    return f"{column.dtype}, such as {first!r}"[:80]


if __name__ == "__main__":
    main()
