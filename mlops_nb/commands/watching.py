"""Commands that tell what happened and whether it is still right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import LineageRootNotFound, UsageError
from ..grammar import Text, face
from ..reference import ModelRef
from ..shapes import Facts, Listing
from ..vocabulary import (
    A_DATASET,
    A_DEPLOYMENT_NAME,
    A_DRIFT_DETECTOR,
    A_DRIFT_ENGINE,
    A_DRIFT_REFERENCE,
    A_FEATURE,
    A_MOMENT,
    A_SCHEDULE,
    A_SUBJECT,
    A_ZONE,
    AN_ENDPOINT,
    AN_ENVIRONMENT,
    DURATION,
)
from .group import mlops

if TYPE_CHECKING:
    from datetime import datetime

    from ..history import Change, Serving
    from ..lineage import Lineage
    from ..store.checks import DriftCheck
    from ..store.environments import Environment
    from ..store.schedules import Schedule
    from ..store.silences import Silence


@mlops.command(
    heading="Watching",
    examples=[
        "drift delays",
        "drift delays --since 7d",
        "drift delays --deployment 2 --engine scipy",
        "drift delays --detector mmd",
        "drift delays --html drift.html",
        "drift delays --dataset flights_q1:1",
        "drift delays --window 1d --budget 1/30d",
        "drift delays --since 1d --reference last-week",
        "drift delays --reference 2026-10-01..2026-10-31",
        'drift delays --schedule "0 6 * * *"',
        'drift delays --schedule "0 6 * * 1-5" --tz Europe/Berlin',
        "drift delays --schedule 1h --window 6h",
    ],
)
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--engine", type=A_DRIFT_ENGINE, help="What does the statistics.  [default: drift_engine of the settings]")
@click.option("--detector", type=A_DRIFT_DETECTOR, help="By what it is found; the detectors command lists them.  [default: histograms]")
@click.option("--since", type=A_MOMENT, help="Only requests after this, such as 2h, 7d or 2026-01-31.  [default: all that are kept]")
@click.option("--deployment", type=A_DEPLOYMENT_NAME, help="Only requests this one answered.")
@click.option("--dataset", type=A_DATASET, help="Compare with this data set.  [default: what the model was trained on]")
@click.option("--reference", type=A_DRIFT_REFERENCE, help="Compare with past requests or the same season instead.  [default: training]")
@click.option("--time", metavar="COLUMN", help="The data set's column that says when a row was, for a season.  [default: the only one there is]")
@click.option("--window", metavar="TIME|ROWS", help="Judge the newest 1d or 1000 rows, and with them the windows before.  [default: all as one]")
@click.option("--budget", metavar="COUNT/TIME", help="False alarms allowed, such as 1/30d.  [default: drift_budget of the settings]")
@click.option("--every", type=DURATION, help="How often you check, which the budget is shared out among.  [default: 1d]")
@click.option("--effect", type=click.FloatRange(0.001, 0.5), help="Share of rows that must lie elsewhere.  [default: drift_effect of the settings]")
@click.option("--schedule", metavar="CRON|TIME", help='Have the agent check, at "0 6 * * *" (minute, hour, day, month, weekday) or every 1h.')
@click.option("--tz", type=A_ZONE, help="The time zone of the schedule.  [default: UTC]")
@click.option("--html", metavar="FILE", help="Write the report, with causes where it drifted, as one HTML file that needs no network.")
def drift(
    endpoint: str,
    engine: str | None,
    detector: str | None,
    since: datetime | None,
    deployment: str | None,
    dataset: ModelRef | None,
    reference: str | None,
    time: str | None,
    window: str | None,
    budget: str | None,
    every: float | None,
    effect: float | None,
    schedule: str | None,
    tz: str | None,
    html: str | None,
) -> DriftCheck | Schedule:
    """Compare what an endpoint was asked with the data its model was trained on.

    Another reference is a past window of requests (previous, last-week, 2026-10-01..2026-10-31) or the same season as now (same-month, same-weekday,
    same-hour) of the data set, where a column of it tells the time, and else of past requests.
    """
    from .. import monitoring

    options = {
        "deployment": deployment, "dataset": str(dataset) if dataset else None, "reference": reference, "time": time, "engine": engine, "window": window,
        "budget": budget, "effect": effect,
    }  # fmt: skip
    if tz and (not schedule or " " not in schedule.strip()):
        raise UsageError("--tz is for a schedule that names an hour.", hint=f'%mlops drift {endpoint} --schedule "0 6 * * *" --tz {tz}')
    if schedule:
        schedule = f"{schedule} {tz}" if tz else schedule
        return _scheduled(endpoint, schedule, options | ({"detector": detector} if detector else {}), since=since, every=every, html=html)
    if html:
        from ..monitoring import pages

        pages.place(html)  # before anything is compared
    if detector:
        return _told(_detected(endpoint, detector, options, since=since, every=every), html)
    with face().reporting(f"checking {endpoint} for drift") as report:
        check = monitoring.check_drift(endpoint, since=since, every_seconds=every, report=report, **options)  # type: ignore[arg-type]
        report.step(check.verdict)
    return _told(check, html)


def _told(check: DriftCheck, html: str | None) -> DriftCheck:
    """The check, written to a file where one is named, then with its causes."""
    if not html:
        return check
    from ..monitoring import causes, pages

    with face().reporting(f"writing the report of {check.endpoint}") as report:
        check = causes.with_causes(check, report=report)
        report.step(f"written to {pages.save(check, html)}")
    return check


def _detected(endpoint: str, detector: str, options: dict[str, Any], *, since: datetime | None, every: float | None) -> DriftCheck:
    from ..monitoring import detectors

    if foreign := [name for name in ("engine", "window", "budget", "effect", "reference", "time") if options[name]] + ["every"] * bool(every):
        raise UsageError(f"A detector compares one window with a data set; it knows no --{foreign[0]}.", hint=f"%mlops drift {endpoint} --detector {detector}")
    with face().reporting(f"checking {endpoint} by {detector}") as report:
        check = detectors.detect(endpoint, detector, deployment=options["deployment"], dataset=options["dataset"], since=since, report=report)
        report.step(check.verdict)
    return check


def _scheduled(
    endpoint: str, schedule: str, options: dict[str, Any], *, since: datetime | None, every: float | None, html: str | None
) -> Schedule:  # fmt: skip
    from .. import agent
    from ..monitoring import schedules

    if options.pop("detector", None):
        raise UsageError("A schedule keeps a budget of false alarms, which is what histograms do.", hint=f"%mlops drift {endpoint} --schedule 1d")
    if since or every or html:
        raise UsageError(
            "A schedule says itself how often, its --window how far back, and its checks are kept in the workspace.",
            hint=f'%mlops drift {endpoint} --schedule "0 6 * * *" --window 1d',
        )
    added = schedules.add(endpoint, schedule, **options)
    agent.ensure()
    return added


@mlops.group(default="list", heading="Watching")
def schedules() -> None:
    """List the scheduled drift checks, or end one."""


@schedules.command("list", hidden=True, examples=["schedules", "schedules delays"])
@click.argument("endpoint", type=AN_ENDPOINT, required=False)
def list_schedules(endpoint: str | None) -> Listing[Schedule]:
    """List the scheduled checks, how the latest of each went and when the next is due."""
    from ..monitoring import schedules as by_the_clock

    return Listing(by_the_clock.of(endpoint), what="schedule", line='drift ENDPOINT --schedule "0 6 * * *"')


@schedules.command("delete", examples=["schedules delete delays-1"])
@click.argument("schedule", type=A_SCHEDULE)
def delete_schedule(schedule: str) -> Facts:
    """Make these checks no longer; what they found stays."""
    from ..monitoring import schedules as by_the_clock

    return Facts(deleted=by_the_clock.delete(schedule).id)


@mlops.command(
    heading="Watching",
    examples=["snooze delays --for 7d", "snooze delays --feature dep_delay --for 7d --why 'known sensor swap'", "snooze delays --feature dep_delay --end"],
)
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--feature", type=A_FEATURE, default="", help="Only of this one.  [default: all]")
@click.option("--for", "seconds", type=DURATION, help="How long, such as 7d.")
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
@click.option("--end", is_flag=True, help="Have it be told again from now on.")
def snooze(endpoint: str, feature: str, seconds: float | None, why: str, end: bool) -> Silence:
    """Raise no alert about an endpoint's drift for a while; it is checked and reported all the same."""
    from ..monitoring import silences

    if end == bool(seconds):
        raise UsageError("How long?" if not end else "--for or --end, not both.", hint=f"%mlops snooze {endpoint} --for 7d")
    return silences.snooze(endpoint, seconds=seconds, feature=feature, why=why) if seconds else silences.end(endpoint, feature=feature, why=why)


@mlops.command(heading="Watching", examples=["acknowledge delays --why 'new route, retraining on Monday'", "acknowledge delays --feature dep_delay --for 14d"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--feature", type=A_FEATURE, default="", help="Only of this one.  [default: all]")
@click.option("--for", "seconds", type=DURATION, help="How long, such as 14d.  [default: until a check finds it no more]")
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
def acknowledge(endpoint: str, feature: str, seconds: float | None, why: str) -> Silence:
    """Say that the drift a check found is known; it raises no alert until it is over."""
    from ..monitoring import silences

    return silences.acknowledge(endpoint, seconds=seconds, feature=feature, why=why)


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
