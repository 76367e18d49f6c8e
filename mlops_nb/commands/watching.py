"""Commands that tell what happened and whether it is still right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import LineageRootNotFound, UsageError
from ..grammar import A_DATASET, A_DEPLOYMENT_NAME, A_DRIFT_ENGINE, A_MOMENT, A_SUBJECT, AN_ENDPOINT, AN_ENVIRONMENT, DURATION, Text, face
from ..reference import ModelRef
from ..shapes import Listing
from .group import mlops

if TYPE_CHECKING:
    from datetime import datetime

    from ..history import Change, Serving
    from ..lineage import Lineage
    from ..store.checks import DriftCheck
    from ..store.environments import Environment


@mlops.command(
    heading="Watching",
    examples=[
        "drift delays",
        "drift delays --since 7d",
        "drift delays --deployment 2 --engine scipy",
        "drift delays --dataset flights_q1:1",
        "drift delays --window 1d --budget 1/30d",
    ],
)
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--engine", type=A_DRIFT_ENGINE, help="What does the statistics.  [default: drift_engine of the settings]")
@click.option("--since", type=A_MOMENT, help="Only requests after this, such as 2h, 7d or 2026-01-31.  [default: all that are kept]")
@click.option("--deployment", type=A_DEPLOYMENT_NAME, help="Only requests this one answered.")
@click.option("--dataset", type=A_DATASET, help="Compare with this data set.  [default: what the model was trained on]")
@click.option("--window", metavar="TIME|ROWS", help="Judge the newest 1d or 1000 rows, and with them the windows before.  [default: all as one]")
@click.option("--budget", metavar="COUNT/TIME", help="False alarms allowed, such as 1/30d.  [default: drift_budget of the settings]")
@click.option("--every", type=DURATION, help="How often you check, which the budget is shared out among.  [default: 1d]")
@click.option("--effect", type=click.FloatRange(0.001, 0.5), help="Share of rows that must lie elsewhere.  [default: drift_effect of the settings]")
def drift(
    endpoint: str,
    engine: str | None,
    since: datetime | None,
    deployment: str | None,
    dataset: ModelRef | None,
    window: str | None,
    budget: str | None,
    every: float | None,
    effect: float | None,
) -> DriftCheck:
    """Compare what an endpoint was asked with the data its model was trained on."""
    from .. import monitoring

    with face().reporting(f"checking {endpoint} for drift") as report:
        compared = str(dataset) if dataset else None
        check = monitoring.check_drift(
            endpoint, deployment=deployment, since=since, dataset=compared, engine=engine, window=window, budget=budget, every_seconds=every,
            effect=effect, report=report,
        )  # fmt: skip
        report.step("drift" if check.is_drift else "no drift")
    return check


@mlops.group(default="list", heading="Watching")
def engines() -> None:
    """List the drift engines, or install one."""


@engines.command("list", hidden=True, examples=["engines"])
def list_engines() -> Listing[Any]:
    """List the drift engines, their licences and whether they are ready."""
    from ..monitoring import engines as drift_engines

    return Listing(drift_engines.every(), what="drift engine")


@engines.command("install", examples=["engines install alibi-detect --accept-licence"])
@click.argument("name", type=A_DRIFT_ENGINE)
@click.option("--accept-licence", is_flag=True, help="You have read its licence and agree.")
@click.option("--with", "needs", metavar="LIBRARY", default="", help="What some detectors need beside it: tensorflow, about 2 GB.")
def install_engine(name: str, accept_licence: bool, needs: str) -> Any:
    """Install a drift engine in an environment of its own."""
    from ..monitoring import engines as drift_engines

    with face().reporting(f"installing {name}") as report:
        return drift_engines.install(name, accept_licence=accept_licence, needs=needs, report=report)


@mlops.command(heading="Watching", examples=["lineage delays:2", "lineage delays", "lineage"])
@click.argument("ref", type=A_SUBJECT, required=False)
def lineage(ref: str | None) -> Lineage:
    """Show what something came from, and what came of it.

    SUBJECT is a model version, a data set, a deployment or an endpoint.
    """
    from .. import lineage as origins

    return origins.graph(ref)


@mlops.command(heading="Watching", examples=["history delays", "history delays --at 2026-01-31", "history delays --at 2h"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--at", type=A_MOMENT, help="What served at that moment, such as 2h (ago) or 2026-01-31T08:00.  [default: every change]")
@click.option("--most", type=click.IntRange(min=1), metavar="COUNT", default=50, help="How many changes.  [default: 50]")
def history(endpoint: str, at: datetime | None, most: int) -> Serving | Listing[Change]:
    """Show what served an endpoint and when that changed, by whose hand and why."""
    from .. import history as past

    if at:
        return past.at(endpoint, at)
    return Listing(past.of(endpoint, most=most), what="change")


@mlops.command(heading="Watching", examples=["events", "events delays", "events delays:2 --most 5"])
@click.argument("subject", type=A_SUBJECT, required=False)
@click.option("--most", type=click.IntRange(min=1), metavar="COUNT", default=50, help="How many.  [default: 50]")
def events(subject: str | None, most: int) -> Listing[Any]:
    """List what happened, newest first.

    SUBJECT is a model, a version, a deployment or an endpoint.
    """
    from .. import store
    from ..store import events as table

    with store.reading() as tx:
        found = table.latest(tx, subject=subject, most=most)
        if subject and not found:
            raise LineageRootNotFound(subject, known=table.subjects(tx))
    return Listing(found, what="event")


@mlops.command(heading="Watching", examples=["environments", "environments py311-3f2a:1 --pip", "environments py311-3f2a --conda"])
@click.argument("ref", type=AN_ENVIRONMENT, required=False)
@click.option("--pip", is_flag=True, help="As a requirements file.")
@click.option("--conda", is_flag=True, help="As a conda environment file.")
def environments(ref: ModelRef | None, pip: bool, conda: bool) -> Text | Environment | Listing[Environment]:
    """List the recorded environments, or show one."""
    from .. import store
    from ..store import environments as table

    if (pip or conda) and (not ref or (pip and conda)):
        raise UsageError("--pip and --conda show one environment in one form.", hint="%mlops environments NAME --pip")
    with store.reading() as tx:
        if not ref:
            return Listing(table.every(tx), what="environment", line="register MODEL --name NAME")
        found = table.get(tx, ref)
    if not pip and not conda:
        return found
    from .. import environments as recorded

    return Text(recorded.conda(found) if conda else recorded.requirements(found))
