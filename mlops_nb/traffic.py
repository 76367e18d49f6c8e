"""How an endpoint's requests are divided: now, at a moment, step by step, in copies, and back again."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from . import agent, expected, gateway, guards, measuring, progression, restoring, rollout, splits, store, targets, telemetry, truth
from . import canary as judging
from .canary import Terms
from .errors import AnswersCallers, BadOption, FileChanged, FileMissing, NothingToPromote, NothingToRollBack, RolloutUnderWay, ShareToCome, listed
from .guards import Expected
from .progress import SILENT, Reporter
from .reference import DeploymentRef, ModelRef
from .rollout import EndpointView
from .store import deployments as table
from .store import events, models, rollouts
from .store.models import ModelVersion
from .store.rollouts import Rollout
from .telemetry import labels as label_table

_IN_FORCE_SECONDS = 5.0
_COPIES = 20
STEPS = (5, 25, 50, 100)
"""The steps of a canary, in percent, unless said otherwise."""
PROMISES = ("error_rate<=+0.5pp", "p95<=+10%")
"""What guards a canary unless said otherwise."""


def split(endpoint: str, weights: Mapping[str, int], *, sticky: str | None = None, why: str = "") -> EndpointView:
    """Divide an endpoint's requests: deployment → percent, the sum being 100.  Returns once the gateway divides them so.

    *sticky* says by what a caller is known, so as to meet the same deployment each time: `header:x-user`, `cookie:uid`,
    `field:parameters.user` (of the request's JSON), `none`; None leaves it as it is.  A rollout under way is cancelled, and a shadow that gets
    a share is one no more: it is sent no more copies.
    Raises EndpointNotFound, DeploymentNotFound, WeightsDoNotSum; BadOption for a share given to one that is not healthy.
    """
    sticky = _known_by(sticky)
    with store.writing() as tx:
        weights = splits.checked(endpoint, weights, now=_shares(tx, endpoint))
        _check_able(tx, endpoint, weights)
        ended = _cancel(tx, endpoint, "the split was set by hand")
        _record(tx, endpoint, weights, why=why, sticky=sticky, copied=_copied_beside(tx, endpoint, weights, ended))
    return _once_in_force(endpoint)


def known_by(endpoint: str, sticky: str, *, why: str = "") -> EndpointView:
    """Set by what callers are known, and leave the shares as they are; see `split`.  Raises EndpointNotFound, BadOption."""
    with store.writing() as tx:
        table.endpoint(tx, endpoint)
        _record(tx, endpoint, table.traffic(tx, endpoint), why=why or f"callers are known by {sticky}", sticky=_known_by(sticky))
    return _once_in_force(endpoint)


def mirror(ref: DeploymentRef | str, percent: int, *, why: str = "") -> EndpointView:
    """Have a deployment answer copies of *percent* of its endpoint's requests; callers get none of its answers and never wait for it.

    0 ends it.  Raises EndpointNotFound, DeploymentNotFound; BadOption outside 0 to 100; TargetCannot; AnswersCallers for one that has a share.
    """
    ref = ref if isinstance(ref, DeploymentRef) else DeploymentRef.parse(ref)
    if not 0 <= percent <= 100:
        raise BadOption(f"{ref} cannot be sent copies of {percent} % of the requests.", hint="%mlops shadow ENDPOINT/NAME --percent 10")
    if not ref.name:
        raise _no_shadow_named(ref.endpoint)
    with store.writing() as tx:
        deployment = table.get(tx, ref.endpoint, ref.name)
        targets.require_gateway(deployment.target, "answer copies of an endpoint's requests")
        before = table.split(tx, ref.endpoint)
        if percent and before and (share := before.weights.get(ref.name)):
            raise AnswersCallers(ref.endpoint, ref.name, share=share, without=_without(before.weights, ref.name))
        mirrors = {name: share for name, share in {**(before.mirrors if before else {}), ref.name: percent}.items() if share}
        reason = why or (f"{ref} is sent copies of {percent} %" if percent else f"{ref} is sent no more copies")
        table.set_traffic(tx, ref.endpoint, before.weights if before else {}, author=getpass.getuser(), why=reason, mirrors=mirrors)
        events.record(tx, "ShadowChanged", subject=str(ref), data={"percent": percent, "why": why})
    return _once_in_force(ref.endpoint)


def roll_back(endpoint: str, *, why: str = "", redeploy: bool = False, report: Reporter = SILENT) -> EndpointView:
    """Divide the requests as before the latest change whose deployments are still healthy; a rollout under way is rolled back.

    It does not go back to a step of a rollout that was rolled back, by itself or by hand, nor to one on the way of a rollout that is over.
    With *redeploy* no change is passed over because its deployments were withdrawn: they are deployed again as they were, see `restoring`.
    Raises EndpointNotFound, NothingToRollBack, and with *redeploy* what `rollout.deploy` raises; then the split is as it was.
    """
    restored = restoring.split_before(endpoint, report=report) if redeploy else None
    with store.writing() as tx:
        earlier = restored or _before(tx, endpoint)
        under_way = rollouts.going(tx, endpoint)
        for plan in under_way:
            _end(tx, plan, "rolled back" if plan.step else "cancelled", why or "rolled back by hand")
        _record(tx, endpoint, earlier, why=why or "rolled back", copied=_copied_beside(tx, endpoint, earlier, under_way))
    return _once_in_force(endpoint)


def before(endpoint: str) -> dict[str, int]:
    """The split that `roll_back` would set now.  Raises EndpointNotFound, NothingToRollBack."""
    with store.reading() as tx:
        return _before(tx, endpoint)


def promote(endpoint: str, *, why: str = "") -> EndpointView:
    """Give the deployment of the canary or ramp under way all requests now, whatever its guards have seen so far.

    Raises EndpointNotFound; NothingToPromote; BadOption where it is not healthy.
    """
    with store.writing() as tx:
        table.endpoint(tx, endpoint)
        plan = next((plan for plan in rollouts.going(tx, endpoint) if plan.deployment), None)
        if plan is None:
            raise NothingToPromote(endpoint)
        weights = dict.fromkeys(table.traffic(tx, endpoint), 0) | {plan.deployment: 100}
        _check_able(tx, endpoint, {plan.deployment: 100})
        _end(tx, plan, "done", why or "promoted by hand")
        _record(tx, endpoint, weights, why=why or "promoted", copied=_copied_beside(tx, endpoint, weights, [plan]))
    return _once_in_force(endpoint)


def ramp(ref: DeploymentRef | str, steps: Sequence[int], *, every_seconds: float, at: datetime | None = None, why: str = "") -> Rollout:
    """Have the agent raise a deployment's share step by step: *steps* in percent, each lasting *every_seconds*, the first now or *at*.

    It holds while the deployment is not healthy, and goes on when it is.  Raises EndpointNotFound, DeploymentNotFound,
    BadOption, RolloutUnderWay, ShareToCome, TargetCannot.
    """
    ref = ref if isinstance(ref, DeploymentRef) else DeploymentRef.parse(ref)
    _check_steps(steps, option="--ramp")
    if every_seconds <= 0:
        raise BadOption("A step must last some time.", hint="--every 10m")
    if not ref.name:
        raise BadOption("A ramp needs the deployment whose share is to grow.", hint=f"%mlops traffic {ref.endpoint}/NAME --ramp 1,5,25,50,100 --every 10m")
    if at:
        _check_to_come(at, instead=f"%mlops traffic {ref} --ramp {','.join(map(str, steps))}")
    return _planned(ref, "ramp", list(steps), every_seconds=every_seconds, at=at, why=why, settings={})


def schedule(endpoint: str, weights: Mapping[str, int], *, at: datetime, sticky: str | None = None, why: str = "") -> Rollout:
    """Have the agent set a split *at* a moment to come.  Raises as `split`, and BadOption for a moment past, RolloutUnderWay, ShareToCome."""
    with store.reading() as tx:
        weights = splits.checked(endpoint, weights, now=_shares(tx, endpoint))
    _check_to_come(at, instead=f"%mlops traffic {endpoint} {' '.join(f'{n}={w}' for n, w in weights.items())}")
    settings: dict[str, Any] = {"weights": dict(weights), "sticky": _known_by(sticky)}
    with store.reading() as tx:
        for name in weights:
            targets.require(table.get(tx, endpoint, name).target, "traffic")
    return _planned(DeploymentRef(endpoint), "schedule", [], every_seconds=0, at=at, why=why, settings=settings)


def canary(
    ref: DeploymentRef | str,
    steps: Sequence[int] = STEPS,
    *,
    promises: Sequence[str] = PROMISES,
    metrics: Sequence[str] = (),
    every_seconds: float = 600.0,
    alpha: float = 0.05,
    harm: float = 0.02,
    needed: int | None = None,
    labels: int | None = None,
    least: int = 100,
    patience_seconds: float = 86_400.0,
    why: str = "",
) -> Rollout:
    """Have the agent give a deployment more and more of the requests while guards watch it, and promote it or roll it back by itself.

    *promises* are guards such as `error_rate<=+0.5pp`, `p95<=+10%` or `agreement>=0.95`, for which it is sent copies; `auc>=-0.02`, `accuracy>=-1pp`,
    `brier<=+0.01` or `rmse<=+10%` are judged by the labels that come (see `truth`).  Each of *metrics* is a guard too, with its usual margin
    (`guards.SHORT`), or where it cannot be one is told beside them, such as `f1`.  A candidate that keeps them all is rolled back with
    probability *alpha* at most, however often it is looked at.  It is promoted once it answered *needed* requests; unless given, as many as find a rise of
    the error rate by *harm* (0.02: two percentage points) with probability 0.8; and where labels judge it, once *labels* of its answers came, or as
    many as find with that probability what lies beyond a guard by three times its margin.  Until then it waits: no label is taken for a good one.
    Raises EndpointNotFound, DeploymentNotFound, BadOption, RolloutUnderWay, ShareToCome, TargetCannot.
    """
    ref = ref if isinstance(ref, DeploymentRef) else DeploymentRef.parse(ref)
    _check_steps(steps, option="--steps")
    if not ref.name or steps[0] == 100:
        raise BadOption("A canary needs a deployment, and a step below 100 in which it is compared.", hint="--steps 5,25,50,100")
    if not (promises or metrics) or not 0 < alpha < 1 or not 0 < harm < 1 or least < 1:
        raise BadOption("A canary needs a guard, and rates between 0 and 1.", hint='--guard "error_rate<=+0.5pp"')
    watched, told = _watched(promises, metrics)
    _check_answers_kept(watched)
    before, candidate = _served_by_others(ref, first_step=steps[0])
    watched = [_fitted(guard, candidate, before) for guard in watched]
    copies = _COPIES if any(guard.metric == "agreement" for guard in watched) else 0
    terms = Terms(
        guards=watched, metrics=told, alpha=alpha, harm=harm, needed=needed, labels=labels, least=least,
        patience_seconds=patience_seconds, expected=_expected(ref, before, harm), deployed_at=candidate.created_at, restarts=candidate.restarts,
        before=before, copies=copies,
    )  # fmt: skip
    return _planned(ref, "canary", list(steps), every_seconds=every_seconds, at=None, why=why, settings=judging.settings(terms))


def check_promises(promises: Sequence[str], metrics: Sequence[str] = ()) -> None:
    """Raises BadOption for a promise that is no guard, or that cannot be judged here."""
    _check_answers_kept(_watched(promises, metrics)[0])


def _watched(promises: Sequence[str], metrics: Sequence[str]) -> tuple[list[guards.Guard], list[str]]:
    """The guards, those that *metrics* mean included, and the metrics that are only told.  Raises BadOption."""
    watched = [guards.parse(promise) for promise in promises]
    known = {guard.metric for guard in watched}
    meant = [name for name in dict.fromkeys(map(measuring.checked, metrics)) if name not in known]
    return [*watched, *(guards.parse(guards.SHORT[name]) for name in meant if name in guards.SHORT)], [name for name in meant if name not in guards.SHORT]


def _fitted(guard: guards.Guard, candidate: table.Deployment, before: Mapping[str, int]) -> guards.Guard:
    """A guard by labels as this candidate is judged by it: with how large an error may count.  Raises BadOption where it cannot be judged."""
    if not guard.by_labels:
        return guard
    with store.reading() as tx:
        version = models.get(tx, ModelRef.parse(candidate.model_ref))
    gives = {column["name"] for column in (version.signature or {}).get("outputs", [])}
    if lacking := guards.lacking(guard, gives, classes=_classes_of(version)):
        raise BadOption(f"{candidate.ref} cannot be judged by {guard.metric}: {lacking}.", hint=f"--metric {'accuracy' if 'label' in gives else 'rmse'}")
    if not guard.relative or guard.cap != 1.0 or guard.metric not in ("rmse", "mae"):
        return guard
    known = [one.where(one.labelled) for one in label_table.answers(candidate.endpoint) if before.get(one.deployment)]
    figures = [figure for one in known if len(one) for figure in measuring.of_answers(one) if figure.metric == "rmse" and figure.value]
    if sum(figure.count for figure in figures) < truth.LEAST_BEFORE:
        raise BadOption(
            f"{guard} is judged in proportion to how wrong {candidate.endpoint} was before, and fewer than {truth.LEAST_BEFORE} labels tell that.",
            hint=f"%mlops labels {candidate.endpoint} --data df",
        )
    return msgspec.structs.replace(guard, cap=truth.CAP * max(figure.value or 0.0 for figure in figures))


def _classes_of(version: ModelVersion) -> int | None:
    """How many classes it tells apart: those it has probabilities for, else those it answered when it was registered; None where neither is known."""
    for column in (version.signature or {}).get("outputs", []):
        if column["name"] == "probabilities" and len(column.get("shape") or []) == 2 and column["shape"][1]:
            return int(column["shape"][1])
    try:
        answers = expected.read(version.expected).outputs if version.expected else {}
    except (FileMissing, FileChanged):
        return None
    return len({str(label) for label in answers["label"]}) if "label" in answers else None


def _check_answers_kept(watched: Sequence[guards.Guard]) -> None:
    if lacking := judging.answers_lacking(watched):
        raise BadOption(f"{lacking[:1].upper()}{lacking[1:]}.", hint="capture_payload_percent = 100 in [tool.mlops], then deploy again")


def check_served(endpoint: str) -> None:
    """Raises BadOption where no deployment of *endpoint* takes requests: the first one to come would have all of them."""
    with store.reading() as tx:
        shares = table.traffic(tx, endpoint)
    if not any(shares.values()):
        raise BadOption(f"No deployment of {endpoint} takes requests; there is nothing to compare a candidate with.", hint=f"%mlops traffic {endpoint}")


def _served_by_others(ref: DeploymentRef, *, first_step: int) -> tuple[dict[str, int], table.Deployment]:
    """The split before, which a candidate is compared with and rolled back to, and the candidate as it is.

    Raises BadOption where nobody else takes requests, or a canary would take some from it.
    """
    with store.reading() as tx:
        candidate = table.get(tx, ref.endpoint, ref.name or "")
        targets.require(candidate.target, "traffic", "capture")  # it is judged by what was captured
        now = table.traffic(tx, ref.endpoint)
    shares = {name: share for name, share in now.items() if share and name != ref.name}
    if not shares:
        raise BadOption(f"No other deployment of {ref.endpoint} takes requests; there is nothing to compare {ref} with.", hint=f"%mlops traffic {ref.endpoint}")
    if (has := now.get(ref.name or "", 0)) > first_step:
        raise BadOption(f"{ref} has {has} % of the requests; a canary that begins with {first_step} % would take some away.", hint=f"--steps {has},100")
    return splits.shared_out(shares, 100), candidate


def _expected(ref: DeploymentRef, before: Mapping[str, int], harm: float) -> Expected:
    """What the others answered in the day before."""
    counted = telemetry.counted(ref.endpoint, since=store.now() - timedelta(days=1))
    known = [counted[name] for name in before if name in counted]
    return Expected(requests=sum(one.requests for one in known), errors=sum(one.errors for one in known), harm=harm)


def cancel(endpoint: str, *, why: str = "") -> list[Rollout]:
    """Have no rollout of *endpoint* go on; the split stays as it is.  Returns those that it ended.  Raises EndpointNotFound."""
    with store.writing() as tx:
        table.endpoint(tx, endpoint)
        ended = _cancel(tx, endpoint, why or "cancelled by hand")
        weights = table.traffic(tx, endpoint)
        copied = _copied_beside(tx, endpoint, weights, ended)
        if copied != table.mirrors(tx, endpoint):
            _record(tx, endpoint, weights, why=why or "cancelled by hand", copied=copied)
    return ended


def of(endpoint: str | None = None) -> list[Rollout]:
    """Rollouts (of *endpoint*), newest first; one under way is `paused` while no agent runs.  Raises EndpointNotFound where there is and was none."""
    with store.reading() as tx:
        found = rollouts.of(tx, endpoint)
        if endpoint and not found:
            table.endpoint(tx, endpoint)
    paused = any(plan.going for plan in found) and not agent.running()
    return [_paused(plan) if paused and plan.going else plan for plan in found]


def _paused(plan: Rollout) -> Rollout:
    left = f"it has {plan.step} of {len(plan.steps)} steps behind it" if plan.steps else "its split is not set yet"
    reason = f"the workspace's agent was stopped or killed, and {left}; up goes on with it, at once with what is due by then"
    return msgspec.structs.replace(plan, status="paused", reason=reason)


def check_free(tx: store.Transaction, endpoint: str) -> None:
    """Raises RolloutUnderWay while the split of *endpoint* changes by itself."""
    for other in rollouts.going(tx, endpoint):
        raise RolloutUnderWay(endpoint, kind=other.kind, since=other.created_at)


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _planned(ref: DeploymentRef, kind: Any, steps: list[int], *, every_seconds: float, at: datetime | None, why: str, settings: dict[str, Any]) -> Rollout:
    time = store.now()
    with store.writing() as tx:
        if ref.name:
            targets.require(table.get(tx, ref.endpoint, ref.name).target, "traffic")
        check_free(tx, ref.endpoint)
        _check_shares_given(tx, ref.endpoint)
        plan = Rollout(
            id=uuid.uuid4().hex[:12], endpoint=ref.endpoint, kind=kind, deployment=ref.name or "", steps=steps, every_seconds=every_seconds, step=0,
            status="running", settings={"before": table.traffic(tx, ref.endpoint)} | settings, next_time=at or time, author=getpass.getuser(), why=why,
            created_at=time, changed_at=time,
        )  # fmt: skip
        rollouts.add(tx, plan)
        events.record(tx, "RolloutStarted", subject=ref.endpoint, data={"rollout": plan.id, "kind": kind, "deployment": plan.deployment, "steps": steps})
    agent.ensure()
    return plan


def _check_shares_given(tx: store.Transaction, endpoint: str) -> None:
    """Raises ShareToCome while one that starts is to have a share: it would take it amid the steps of a plan."""
    starting = [d for d in table.of(tx, endpoint) if d.wanted == "running" and d.status in ("pending", "starting", "stopped")]
    for deployment in starting:
        if percent := table.share_to_come(tx, deployment.ref):
            raise ShareToCome(deployment.ref, percent=percent)


def _check_steps(steps: Sequence[int], *, option: str) -> None:
    if not steps or any(not 0 < step <= 100 for step in steps) or list(steps) != sorted(set(steps)):
        raise BadOption(f"The steps {','.join(map(str, steps)) or '(none)'} do not rise from 1 to 100.", hint=f"{option} 1,5,25,50,100")


def _check_to_come(at: datetime, *, instead: str) -> None:
    if at <= store.now():
        raise BadOption(f"{at:%Y-%m-%d %H:%M} is past.", hint=instead)


def _check_able(tx: store.Transaction, endpoint: str, weights: Mapping[str, int]) -> None:
    """Raises BadOption for a share given to one that is not healthy; one that is being mended may have some beside one that is."""
    named = [table.get(tx, endpoint, name) for name in weights]
    for deployment in named:
        targets.require(deployment.target, "traffic")
    takers = [deployment for deployment in named if weights[deployment.name]]
    able = ("healthy", "restarting", "unhealthy") if any(taker.status == "healthy" and taker.wanted == "running" for taker in takers) else ("healthy",)
    for taker in takers:
        if taker.wanted == "stopped" or taker.status not in able:
            said = "being withdrawn" if taker.wanted == "stopped" else taker.status
            raise BadOption(f"{taker.ref} is {said}; it can take no traffic.", hint=f"%mlops logs {taker.ref}")


def _no_shadow_named(endpoint: str) -> BadOption:
    """That a deployment is missing, with those that may be one.  Raises EndpointNotFound."""
    with store.reading() as tx:
        shares = _shares(tx, endpoint)
    able = [name for name, share in shares.items() if not share]
    there = f"Without a share of the requests are {listed(able)}." if able else f"Each of {listed(shares)} has a share of the requests."
    said = f"{endpoint} is an endpoint; a shadow is one of its deployments. {there if shares else 'It has none.'}"
    return BadOption(said, hint=f"%mlops shadow {endpoint}/{able[0]}" if able else f"%mlops deploy MODEL --endpoint {endpoint} --traffic 0")


def _without(weights: Mapping[str, int], name: str) -> dict[str, int]:
    """The split in which *name* has no share; nothing where nobody else has one."""
    others = {other: share for other, share in weights.items() if other != name and share}
    return {**splits.shared_out(others, 100), name: 0} if others else {}


def _shares(tx: store.Transaction, endpoint: str) -> dict[str, int]:
    """What each deployment that is to run has of the requests now, in percent, those with none too.  Raises EndpointNotFound."""
    table.endpoint(tx, endpoint)
    shares = table.traffic(tx, endpoint)
    return {d.name: shares.get(d.name, 0) for d in table.of(tx, endpoint) if d.wanted == "running"}


def _before(tx: store.Transaction, endpoint: str) -> dict[str, int]:
    today, *earlier = restoring.splits_until_now(tx, endpoint)
    there = {d.name for d in table.of(tx, endpoint) if d.wanted == "running" and d.status == "healthy"}
    weights = _earlier(earlier, today, there)
    if weights is None:
        names = {d.name for d in table.of(tx, endpoint)}
        gone = [name for split in earlier[:1] for name, share in split.items() if share and name not in names]
        raise NothingToRollBack(endpoint, gone=[f"{endpoint}/{name}" for name in gone], again=bool(gone) and set(gone) <= table.withdrawn(tx, endpoint).keys())
    return weights


def _copied_beside(tx: store.Transaction, endpoint: str, weights: Mapping[str, int], ended: Sequence[Rollout]) -> dict[str, int]:
    """Who is sent copies beside a split: nobody with a share in it, nor the candidates of the canaries that *ended*, which had them sent some."""
    candidates = [plan.deployment for plan in ended if plan.step and plan.settings.get("copies")]
    return table.mirrors(tx, endpoint, but={*candidates, *(name for name, share in weights.items() if share)})


def _record(
    tx: store.Transaction, endpoint: str, weights: Mapping[str, int], *, why: str, sticky: str | None = None, copied: Mapping[str, int] | None = None
) -> None:
    if sticky:
        for deployment in table.of(tx, endpoint):
            targets.require_gateway(deployment.target, "keep callers with one deployment")
    table.set_traffic(tx, endpoint, weights, author=getpass.getuser(), why=why, sticky=sticky, mirrors=copied)
    events.record(tx, "TrafficChanged", subject=endpoint, data={"weights": dict(weights), "why": why})


def _known_by(sticky: str | None) -> str | None:
    """What the store keeps: None where nothing was said, an empty text for nothing."""
    return None if sticky is None else str(splits.sticky(sticky) or "")


def _cancel(tx: store.Transaction, endpoint: str, reason: str) -> list[Rollout]:
    return [_end(tx, plan, "cancelled", reason) for plan in rollouts.going(tx, endpoint)]


def _end(tx: store.Transaction, plan: Rollout, status: rollouts.Status, reason: str) -> Rollout:
    return progression.end(tx, plan, status, reason)


def _earlier(splits: Sequence[Mapping[str, int]], today: Mapping[str, int], healthy: set[str]) -> dict[str, int] | None:
    """The first of *splits* that differs from today's and can be served."""
    now = {name: share for name, share in today.items() if share}
    for weights in splits:
        shares = {name: share for name, share in weights.items() if share}
        if shares and shares != now and set(shares) <= healthy:
            return {name: weights[name] for name in weights if name in healthy}
    return None


def _once_in_force(endpoint: str) -> EndpointView:
    with store.reading() as tx:
        change = table.split(tx, endpoint)
    agent.ensure()
    rollout.until(lambda: gateway.splits_in_force().get(endpoint, 0) >= (change.sequence if change else 0), seconds=_IN_FORCE_SECONDS)
    return rollout.endpoints(endpoint)[0]
