"""Commands about what turned out to be true: labels, how good answers were, and past requests against a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..errors import BadOption
from ..grammar import face
from ..reference import DeploymentRef, ModelRef
from ..shapes import Listing
from ..vocabulary import A_COLUMN, A_DEPLOYMENT, A_DEPLOYMENT_NAME, A_MODEL, A_MOMENT, AN_ENDPOINT, DATA, Word
from .group import mlops

if TYPE_CHECKING:
    from datetime import datetime

    from ..agreement import ShadowReport
    from ..labels import Labelled
    from ..performance import Performance
    from ..store.replays import Replay


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e6:
        raise BadOption(f"{text!r} is no pace.", hint="10x, 0.5x or max")
    return speed


SPEED = Word("10x|max", _speed, lambda _: ("1x", "10x", "100x", "max"))
BY = Word("hour|day|week|month|COLUMN", str, lambda _: ("hour", "day", "week", "month"))


@mlops.command(
    heading="Watching",
    examples=["%labels delays --data df", "labels delays --data truth.csv --id request_id --row row --label late"],
)
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--data", type=DATA, required=True, help="The labels: an expression in a notebook, or a CSV, Parquet or JSON file.")
@click.option("--id", "id", metavar="COLUMN", help="The column with the request's id.  [default: request_id, id or x-request-id]")
@click.option("--row", metavar="COLUMN", help="The column with the row's place in its request, from 0.  [default: row, if there is one]")
@click.option("--label", metavar="COLUMN", help="The column with what turned out to be true.  [default: the one that is left, or label]")
def labels(endpoint: str, data: str, id: str | None, row: str | None, label: str | None) -> Labelled:
    """Say what turned out to be true of an endpoint's answers.

    A label belongs to a row of a request, known by the request's id: the header x-request-id of the answer, which a caller may also send (not
    the `id` of a request's body).  Labels may come late, again, or before their telemetry: of several the last wins.
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
@click.option("--segment", type=A_COLUMN, help="And one for each value of this input column.")
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


@mlops.command(
    heading="Traffic",
    examples=[
        "replay delays:4 --from yesterday",
        'replay delays:4 --from 7d --to 1d --deployment 1 --guard "agreement>=0.95" "p95<=+10%"',
        "replay delays:4 --from 2h --speed 10x",
    ],
)
@click.argument("ref", type=A_MODEL)
@click.argument("more", metavar="", nargs=-1)
@click.option("--from", "since", type=A_MOMENT, help="Requests after this, such as 2h, yesterday or 2026-01-31.  [default: all that are kept]")
@click.option("--to", "until", type=A_MOMENT, help="Requests before this.  [default: now]")
@click.option("--endpoint", type=AN_ENDPOINT, help="Whose requests.  [default: the model's name]")
@click.option("--deployment", type=A_DEPLOYMENT_NAME, help="Only requests this one answered.")
@click.option("--speed", type=SPEED, default="max", help="How many times the pace they came in.  [default: max]")
@click.option("--guard", "promises", multiple=True, metavar="PROMISE", help="What it must keep, such as agreement>=0.95; may be repeated.")
@click.option("--tolerance", type=click.FloatRange(0, 1), metavar="X", default=1e-6, help="Numbers this near are the same answer.  [default: 0.000001]")
@click.option("--most", type=click.IntRange(min=1), metavar="COUNT", default=100_000, help="How many requests, the newest.  [default: 100000]")
def replay(
    ref: ModelRef,
    more: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    endpoint: str | None,
    deployment: str | None,
    speed: float | None,
    promises: Sequence[str],
    tolerance: float,
    most: int,
) -> Replay:
    """Ask a candidate what an endpoint was asked, before it is given any live request.

    It answers on a server of its own.  Told are agreement, how far scores are apart, the segments where most answers differ, latency and errors side
    by side, and measures where labels have come.  A promise that is not kept ends with exit code 5.
    """
    from .. import replaying

    with face().reporting(f"replaying requests to {ref}") as report:
        return replaying.replay(
            ref, endpoint=endpoint, deployment=deployment, since=since, until=until, speed=speed, promises=[*promises, *more], tolerance=tolerance,
            most=most, report=report,
        )  # fmt: skip


@mlops.command(heading="Traffic", examples=["replays", "replays delays:4"])
@click.argument("ref", type=A_MODEL, required=False)
def replays(ref: ModelRef | None) -> Listing[Replay]:
    """List replays, newest first."""
    from .. import replaying

    return Listing(replaying.of(ref), what="replay", line=f"replay {ref or 'MODEL:VERSION'}")


@mlops.command(heading="Traffic", examples=["agreement delays/2", "agreement delays/2 --since 2h"])
@click.argument("ref", type=A_DEPLOYMENT)
@click.option("--since", type=A_MOMENT, help="Only requests after this, such as 2h, 7d or 2026-01-31.  [default: all that are kept]")
def agreement(ref: DeploymentRef, since: datetime | None) -> ShadowReport:
    """Compare what a shadow answered with what callers were answered."""
    from .. import agreement as compared

    return compared.of_shadow(ref, since=since)
