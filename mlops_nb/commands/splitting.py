"""Commands that divide an endpoint's requests: at once, by steps, in copies, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from ..errors import UsageError, even_split
from ..grammar import face
from ..reference import DeploymentRef, ModelRef
from ..shapes import Listing
from ..vocabulary import A_DEPLOYMENT, A_MODEL_OR_DEPLOYMENT, A_TIME_TO_COME, A_WEIGHT, AN_ENDPOINT, DURATION, PERCENT, SEVERAL_PERCENT
from .group import mlops
from .words import whole_percent

if TYPE_CHECKING:
    from datetime import datetime

    from ..rollout import EndpointView
    from ..store.rollouts import Rollout


@mlops.command(
    heading="Traffic",
    examples=[
        "traffic delays 1=50 2=50",
        "traffic delays 1=90 2=10 --sticky header:x-user --why 'trial with one in ten users'",
        "traffic delays/2 --ramp 1,5,25,50,100 --every 10m",
        "traffic delays 1=0 2=100 --at 2036-12-01T02:00",
        "traffic delays",
    ],
)
@click.argument("subject", metavar="ENDPOINT|DEPLOYMENT", type=A_DEPLOYMENT)
@click.argument("weights", type=A_WEIGHT, nargs=-1)
@click.option("--sticky", metavar="header:NAME|cookie:NAME|field:PATH|none", help="By what a caller is known, to meet the same deployment each time.")
@click.option("--at", type=A_TIME_TO_COME, help="Not now, but then: a time such as 2026-01-31T08:00, or in 2h.")
@click.option("--ramp", type=SEVERAL_PERCENT, help="Raise the share of one deployment by these steps.")
@click.option("--every", type=DURATION, help="How long each step of a ramp lasts, such as 10m.  [default: 10m]")
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
def traffic(
    subject: DeploymentRef,
    weights: Sequence[tuple[str, float]],
    sticky: str | None,
    at: datetime | None,
    ramp: list[int] | None,
    every: float | None,
    why: str,
) -> EndpointView | Rollout:
    """Show or set how an endpoint's requests are divided.

    Weights are whole percentages, one for each deployment, and sum to 100.  With --sticky a caller keeps to one deployment, and a new split moves
    as few callers as it can.  With --ramp the agent raises one deployment's share step by step, and holds while it is not healthy.
    """
    from .. import rollout
    from .. import traffic as division

    if ramp:
        if weights or sticky:
            raise UsageError("A ramp sets the weights itself.", hint="%mlops traffic ENDPOINT/NAME --ramp 1,5,25,50,100 --every 10m")
        return division.ramp(subject, ramp, every_seconds=600.0 if every is None else every, at=at, why=why)
    if subject.name or every:
        raise UsageError(f"{subject} alone says no split." if subject.name else "--every is said of a ramp.", hint=f"%mlops traffic {subject.endpoint}")
    shares = _shares(subject.endpoint, weights)
    if at and not shares:
        raise UsageError("--at is said of a split or a ramp.", hint=f"%mlops traffic {subject.endpoint} 1=50 2=50 --at 2h")
    if at:
        return division.schedule(subject.endpoint, shares, at=at, sticky=sticky, why=why)
    if shares:
        return _divided(subject.endpoint, shares, sticky=sticky, why=why)
    return division.known_by(subject.endpoint, sticky, why=why) if sticky else rollout.endpoints(subject.endpoint)[0]


def _divided(endpoint: str, shares: Mapping[str, int], *, sticky: str | None, why: str) -> EndpointView:
    """The endpoint, divided so; what was under way and is cancelled by that is told."""
    from .. import traffic as division

    with face().reporting(f"dividing the requests of {endpoint}") as report:
        under_way = [plan for plan in division.of(endpoint) if plan.going]
        view = division.split(endpoint, shares, sticky=sticky, why=why)
        for plan in under_way:
            report.step(f"the {plan.kind} that was under way is cancelled")
        return view


def _shares(endpoint: str, weights: Sequence[tuple[str, float]]) -> dict[str, int]:
    shares = [(name.removeprefix(f"{endpoint}/"), whole_percent(share)) for name, share in weights]
    if len(dict(shares)) < len(shares):
        raise UsageError("A deployment is named twice.", hint=even_split(endpoint, list(dict(shares))))
    return dict(shares)


@mlops.command(heading="Traffic", examples=["rollback delays", "rollback delays --why 'errors since noon'", "rollback delays --redeploy"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--redeploy", is_flag=True, help="Deploy again, as they were, deployments of that split that were withdrawn.  [default: pass it over]")
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
def rollback(endpoint: str, redeploy: bool, why: str) -> EndpointView:
    """Divide an endpoint's requests as before the latest change.

    A rollout under way is rolled back; one that is over counts as one change, whose steps are passed over, as are those of one that was rolled back.
    Only healthy deployments are given requests.
    """
    from .. import traffic as division

    with face().reporting(f"rolling {endpoint} back") as report:
        view = division.roll_back(endpoint, why=why, redeploy=redeploy, report=report)
        report.step(", ".join(f"{d.name}={d.traffic}" for d in view.deployments))
    return view


@mlops.command(heading="Traffic", examples=["shadow delays/2 --percent 20", "shadow delays/2 --percent 0"])
@click.argument("ref", type=A_DEPLOYMENT)
@click.option("--percent", type=PERCENT, default=100, help="How many of a hundred requests; 0 ends it.  [default: 100]")
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
def shadow(ref: DeploymentRef, percent: int, why: str) -> EndpointView:
    """Send a deployment copies of its endpoint's requests.

    It answers them and its answers are kept, but callers get none of them and never wait.  One that has a share of the requests is no
    shadow; given a share, it is sent no more copies.
    """
    from .. import traffic as division

    return division.mirror(ref, percent, why=why)


@mlops.command(
    heading="Traffic",
    examples=[
        "canary delays:4",
        'canary delays/4 --steps 5,25,50,100 --guard "error_rate<=+0.5pp" "p95<=+10%" "agreement>=0.95" --every 10m',
        "canary delays/4 --guard 'error_rate<=2%' --needed 500",
        "canary delays/4 --metric auc",
        "canary delays/4 --guard 'auc>=-0.01' 'accuracy>=-1pp' --labels 2000",
    ],
)
@click.argument("subject", metavar="MODEL|DEPLOYMENT", type=A_MODEL_OR_DEPLOYMENT)
@click.argument("more", metavar="", nargs=-1)
@click.option("--steps", type=SEVERAL_PERCENT, help="Percentages it is given one after another.  [default: 5,25,50,100]")
@click.option("--guard", "promises", multiple=True, metavar="PROMISE", help="What it must keep; may be repeated.  [default: error_rate<=+0.5pp p95<=+10%]")
@click.option(
    "--metric", "metrics", metavar="NAME", multiple=True, help="A measure it must keep by the labels that come, such as auc (auc>=-0.02); may be repeated."
)
@click.option("--every", type=DURATION, help="How long each step lasts at least.  [default: 10m]")
@click.option(
    "--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="X", default=0.05, help="Probability of a false rollback.  [default: 0.05]"
)
@click.option(
    "--needed", type=click.IntRange(min=1), metavar="COUNT", help="Requests it must answer before it is promoted.  [default: as many as find +2 pp errors]"
)
@click.option(
    "--labels",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Labels of its answers that a promotion takes, where labels judge.  [default: as many as find what is beyond a guard by thrice its margin]",
)
@click.option("--patience", type=DURATION, help="How long a step may lack requests before that is told.  [default: 1d]")
@click.option("--endpoint", type=AN_ENDPOINT, help="Of a model version that is not deployed yet: where.  [default: the model's name]")
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
def canary(
    subject: str,
    more: Sequence[str],
    steps: list[int] | None,
    promises: Sequence[str],
    metrics: Sequence[str],
    every: float | None,
    alpha: float,
    needed: int | None,
    labels: int | None,
    patience: float | None,
    endpoint: str | None,
    why: str,
) -> Rollout:
    """Give a candidate more and more of the requests, and promote it or roll it back by what it does.

    Guards are judged by tests that may be looked at at any moment.  A quiet endpoint is waited for, not guessed about, and so are labels.  Steps below 100 %
    are judged beside the others; the last, which leaves nobody to compare with, is the promotion.  A candidate that ends by itself, even
    once, is rolled back.  By labels judge auc, accuracy, precision, recall, brier, rmse and mae, also as --guard "auc>=-0.01" or "rmse<=+5%"; another
    --metric, such as f1, is told beside the guards.
    """
    from .. import traffic as division

    watched = [*promises, *more] or division.PROMISES
    division.check_promises(watched, metrics)
    ref = _candidate(subject, endpoint)
    return division.canary(
        ref, steps or division.STEPS, promises=watched, metrics=metrics,
        every_seconds=600.0 if every is None else every, alpha=alpha, needed=needed, labels=labels, patience_seconds=patience or 86_400.0, why=why,
    )  # fmt: skip


def _candidate(subject: str, endpoint: str | None) -> str:
    """The deployment that is meant; a model version that does not run yet is deployed first, without traffic."""
    if "/" in subject:
        return subject
    from .. import rollout
    from .. import traffic as division

    division.check_served(endpoint or ModelRef.parse(subject).name)
    with face().reporting(f"deploying {subject}") as report:
        return rollout.deploy(subject, endpoint=endpoint, report=report).deployment


@mlops.group(default="list", heading="Traffic")
def rollouts() -> None:
    """List rollouts, promote or cancel one."""


@rollouts.command("list", hidden=True, examples=["rollouts", "rollouts delays"])
@click.argument("endpoint", type=AN_ENDPOINT, required=False)
def list_rollouts(endpoint: str | None) -> Listing[Rollout]:
    """List rollouts, newest first."""
    from .. import traffic as division

    return Listing(division.of(endpoint), what="rollout", line="traffic ENDPOINT/NAME --ramp 1,5,25,50,100 --every 10m")


@rollouts.command("cancel", examples=["rollouts cancel delays"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
def cancel_rollout(endpoint: str, why: str) -> Listing[Rollout]:
    """Have no rollout of an endpoint go on; the split stays as it is."""
    from .. import traffic as division

    with face().reporting(f"cancelling what changes the split of {endpoint}") as report:
        ended = division.cancel(endpoint, why=why)
        report.step("; ".join(f"the {plan.kind} is cancelled" for plan in ended) or "no rollout was under way")
    return Listing(ended, what="cancelled rollout", empty=f"No rollout of {endpoint} was under way", line=f"rollouts {endpoint}")


@rollouts.command("promote", examples=["rollouts promote delays", "rollouts promote delays --why 'seen enough'"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
def promote_rollout(endpoint: str, why: str) -> EndpointView:
    """Give the candidate of the canary or ramp under way all requests now, whatever was seen so far."""
    from .. import traffic as division

    return division.promote(endpoint, why=why)
