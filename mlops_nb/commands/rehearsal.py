"""Commands that try a version where nothing of the notebook is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..grammar import face
from ..reference import ModelRef
from ..shapes import Listing
from ..vocabulary import A_MODEL, A_VARIABLE, DATA
from .group import mlops
from .words import table_in

if TYPE_CHECKING:
    from ..store.rehearsals import Rehearsal


@mlops.command(
    heading="Models",
    examples=["rehearse delays:3", "%rehearse delays:3 --data X --answers clf.predict(X)", "rehearse delays:3 --env REGION=eu --tolerance 0.001"],
)
@click.argument("ref", type=A_MODEL)
@click.option("--data", type=DATA, help="Rows to ask: an expression in a notebook, or a file.  [default: those it was registered with]")
@click.option("--answers", type=DATA, help="The answers it is to give, one for each row.  [default: those it gave when it was registered]")
@click.option("--env", "variables", type=A_VARIABLE, multiple=True, help="An environment variable it is to have there; may be repeated.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), metavar="X", help="Largest difference, in proportion.  [default: 0.000001, of ONNX and 32 bits 0.0001]"
)
def rehearse(ref: ModelRef, data: str | None, answers: str | None, variables: Sequence[tuple[str, str]], tolerance: float | None) -> Rehearsal:
    """Try whether a version answers elsewhere as it did in the notebook.

    Its environment is rebuilt from nothing, and it is asked there what it was asked in the notebook.  Where an answer differs, the package,
    cell, column, file or variable that makes the difference is named.
    """
    from .. import rehearsing

    with face().reporting(f"rehearsing {ref}") as report:
        rehearsal = rehearsing.rehearse(
            ref, data=_rows(data), answers=_answers(answers), variables=dict(variables), tolerance=tolerance, report=report
        )  # fmt: skip
        report.step(f"{rehearsal.ref} answers there as it did in the notebook" if rehearsal.compared_with else f"{rehearsal.ref} answers there")
    return rehearsal


@mlops.command(heading="Models", examples=["rehearsals", "rehearsals delays:3"])
@click.argument("ref", type=A_MODEL, required=False)
def rehearsals(ref: ModelRef | None) -> Listing[Rehearsal]:
    """List rehearsals, newest first, with their culprits."""
    from .. import rehearsing

    return Listing(rehearsing.every(ref), what="rehearsal", line=f"rehearse {ref or 'MODEL:VERSION'}")


def _rows(data: str | None) -> Any:
    meant = face().meaning(data) if data else None
    return table_in(meant) if isinstance(meant, Path) else meant


def _answers(answers: str | None) -> Any:
    """A file's only column is the first output, whatever it is called there."""
    found = _rows(answers)
    return next(iter(found.values())) if isinstance(found, dict) and len(found) == 1 and answers and Path(answers).suffix else found
