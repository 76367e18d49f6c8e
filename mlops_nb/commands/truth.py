"""Commands about what turned out to be true: labels, how good answers were, and past requests against a candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..grammar import A_DEPLOYMENT_NAME, A_MOMENT, AN_ENDPOINT, DATA, Word, face
from .group import mlops

if TYPE_CHECKING:
    from datetime import datetime

    from ..labels import Labelled
    from ..performance import Performance


BY = Word("hour|day|week|month|COLUMN", str, lambda _: ("hour", "day", "week", "month"))


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


@mlops.command(
    heading="Watching",
    examples=["performance delays", "performance delays --since 7d --by day", "performance delays --by month --segment carrier --deployment 2"],
)
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--since", type=A_MOMENT, help="Only requests after this, such as 2h, 7d or 2026-01-31.  [default: all that are kept]")
@click.option("--by", type=BY, help="A row for each stretch of time, or for each value of an input column.")
@click.option("--segment", metavar="COLUMN", help="And one for each value of this input column.")
@click.option("--deployment", type=A_DEPLOYMENT_NAME, help="Only requests this one answered.")
def performance(endpoint: str, since: datetime | None, by: str | None, segment: str | None, deployment: str | None) -> Performance:
    """Show how good an endpoint's answers were, by the labels that came.

    Every figure has a 95 % confidence interval.  What is not labelled yet is estimated from the probabilities, calibrated on what is; that holds
    while the relation of inputs to truth stays as it was.
    """
    from .. import performance as performed

    with face().reporting(f"measuring {endpoint}") as report:
        found = performed.of(endpoint, since=since, by=by, segment=segment, deployment=deployment)
        report.step(f"{found.labelled:,} of {found.answered:,} rows have a label")
    return found
