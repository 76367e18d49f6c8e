"""Commands about what turned out to be true: labels, how good answers were, and past requests against a candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..grammar import AN_ENDPOINT, DATA, face
from .group import mlops

if TYPE_CHECKING:
    from ..labels import Labelled


@mlops.command(
    heading="Watching",
    examples=["%labels delays --data df", "labels delays --data truth.csv --id request_id --row row --label late"],
)
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--data", type=DATA, required=True, help="The labels: an expression in a notebook, or a CSV, Parquet or JSON file.")
@click.option("--id", "id", metavar="COLUMN", help="The column with the request's id.  [default: request_id or id]")
@click.option("--row", metavar="COLUMN", help="The column with the row's place in its request, from 0.  [default: row, if there is one]")
@click.option("--label", metavar="COLUMN", help="The column with what turned out to be true.  [default: the one that is left, or label]")
def labels(endpoint: str, data: str, id: str | None, row: str | None, label: str | None) -> Labelled:
    """Say what turned out to be true of an endpoint's answers.

    A label belongs to a row of a request, known by the request's id.  Labels may come late, again, or before their telemetry: of several the
    last wins.
    """
    from .. import labels as truth

    with face().reporting(f"joining labels to {endpoint}") as report:
        found = truth.record(endpoint, face().meaning(data), id=id, row=row, label=label)
        report.step(f"{found.matched:,} of {found.given:,} belong to an answer")
    return found
