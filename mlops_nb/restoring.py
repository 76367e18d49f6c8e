"""Going back to a split whose deployments were withdrawn since: each is deployed again, as it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from . import rollout, store, targets
from .errors import NothingToRollBack
from .progress import SILENT, Reporter
from .reference import ModelRef
from .store import deployments as table
from .store import rollouts
from .store.deployments import DeploymentSpec, Withdrawn
from .store.rollouts import Rollout


def split_before(endpoint: str, *, report: Reporter = SILENT) -> dict[str, int]:
    """The split before today's, once those of its deployments that were withdrawn run again with the version, target and options they had.

    That takes as long as deploying them does; until the split is set, requests are divided as they are.
    Raises EndpointNotFound, NothingToRollBack, and what `rollout.deploy` raises.
    """
    with store.reading() as tx:
        today, *earlier = splits_until_now(tx, endpoint)
        healthy = {d.name for d in table.of(tx, endpoint) if d.wanted == "running" and d.status == "healthy"}
        gone = table.withdrawn(tx, endpoint)
    weights = _earlier(earlier, today=today, able={*healthy, *gone})
    if weights is None:
        raise NothingToRollBack(endpoint)
    for name in weights.keys() - healthy:
        _deploy_again(endpoint, gone[name], report)
    return weights


def splits_until_now(tx: store.Transaction, endpoint: str) -> list[dict[str, int]]:
    """Today's split, then those that one may go back to, the nearest first.  Raises EndpointNotFound.

    What a rollout under way began with is the nearest.  The steps of one that was rolled back are none of them: they were left for a reason; nor are
    those on the way of one that is over, which is one change, nor what a deleted endpoint of this name had.
    """
    known = table.endpoint(tx, endpoint)
    over = [plan for plan in rollouts.of(tx, endpoint) if plan.steps and not plan.going]
    begun = [plan.settings["before"] for plan in rollouts.going(tx, endpoint) if plan.step and plan.settings.get("before")]
    changes = [change for change in table.traffic_changes(tx, endpoint) if change.time >= known.created_at]
    earlier = [change.weights for change in changes[1:] if not any(_on_the_way(change, plan) for plan in over)]
    return [changes[0].weights if changes else {}, *begun, *earlier]


def _on_the_way(change: table.TrafficChange, plan: Rollout) -> bool:
    """Whether a split is one that a rollout set and did not stay at."""
    stayed_at = {"done": plan.steps[-1], "cancelled": plan.percent}.get(plan.status)
    return plan.created_at <= change.time <= plan.changed_at and change.weights.get(plan.deployment, 0) != stayed_at


def _earlier(splits: Sequence[Mapping[str, int]], *, today: Mapping[str, int], able: Collection[str]) -> dict[str, int] | None:
    """The first of *splits* unlike today's that those *able* to can serve, with whoever had a share in it."""
    now = {name: share for name, share in today.items() if share}
    shared = ({name: share for name, share in split.items() if share} for split in splits)
    return next((split for split in shared if split and split != now and split.keys() <= set(able)), None)


def _deploy_again(endpoint: str, gone: Withdrawn, report: Reporter) -> None:
    report.step(f"deploying {gone.model}:{gone.version} again as {endpoint}/{gone.name}")
    rollout.deploy(
        ModelRef(gone.model, version=gone.version), endpoint=endpoint, to=gone.target, name=gone.name, spec=_as_asked(gone), report=report
    )  # fmt: skip


def _as_asked(gone: Withdrawn) -> DeploymentSpec:
    """Its spec without what its target had added to it."""
    understood = targets.get(gone.target).OPTIONS
    return msgspec.structs.replace(gone.spec, options={name: value for name, value in gone.spec.options.items() if name in understood})
