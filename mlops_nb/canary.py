"""Canaries: a candidate is given more and more of the requests while guards watch it; it is promoted, held or rolled back.

Each stage is judged by the requests answered since it began, the candidate's beside those of the others in the same time.  The stages'
evidence is combined so that, however often it is looked at, a candidate that keeps all its guards is rolled back with the promised
probability at most (5 % unless said otherwise, shared out among the guards).  A stage ends once it lasted its time and the candidate answered
enough; the last also once enough was seen to find the harm that was named.  Until then it holds: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from . import guards, measuring, progression, sequential, store, telemetry, truth
from .guards import Expected, Guard
from .settings import Workspace
from .store import deployments as table
from .store import events, rollouts
from .store.rollouts import Rollout
from .telemetry import Agreed, Counted, labels
from .telemetry.labels import Answers
from .truth import Sides, Truth

LOOK_SECONDS = 1.0
"""How often the evidence is looked at."""
SETTLED_SECONDS = 5.0
"""Labels and answers count once they are so old: by then they are written down, and keep their order."""
_SETTLE_SECONDS = 10.0
"""Pairs of so long at least are counted for good at a time."""
_AGAIN_SECONDS = 60.0
"""Without a new label, labels are joined to answers again after this: telemetry may come later than they do."""
_SILENT_SECONDS = 5.0
"""A candidate that does not answer its health check for so long is given up; a busy one answers late, and has no requests meanwhile."""
_MOST_TRAIL = 400


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a canary promises and asks."""

    guards: list[Guard]
    alpha: float = 0.05
    """The probability with which a candidate that keeps its guards may be rolled back, whatever is looked at and when."""
    harm: float = 0.02
    """The rise of the error rate that is to be found before a promotion (0.02: two percentage points)."""
    power: float = 0.8
    least: int = 100
    """Requests the candidate must have answered in each stage."""
    needed: int | None = None
    """Requests it must have answered in all before its promotion; None: as many as find the harm with that power."""
    patience_seconds: float = 86_400.0
    """After this long in one stage a canary that still lacks requests says so, once, and goes on waiting."""
    expected: Expected = Expected()
    before: dict[str, int] = {}
    metrics: list[str] = []
    """Measures by labels that are told beside the guards, such as `f1`."""
    labels: int | None = None
    """Labels of its answers that must have come before its promotion, where labels judge; None: as many as find what is beyond a guard with that power."""
    deployed_at: datetime | None = None
    """Which deployment of the candidate's name is meant; one that is deployed anew under it is another."""
    restarts: int = 0
    """How often it had been started again by then."""
    copies: int = 0
    """The percentage of requests of which the candidate is sent copies, where agreement is guarded."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of the ramp saw."""

    percent: int
    since: datetime
    until: datetime | None = None
    candidate: Counted = Counted()
    others: Counted = Counted()
    agreed: Agreed = Agreed()
    """Of the copies that it was sent, how many were answered, and how many as callers were."""
    settled: Agreed = Agreed()
    """Those of them that came before *settled_until*: both their answers are written down, and they need not be counted again."""
    settled_until: datetime | None = None
    evidence: dict[str, float] = {}
    """Guard → logarithm of the evidence that it is violated, of this stage alone."""
    told: dict[str, Sides] = {}
    """Guard by labels → what they say of this stage's answers, the candidate's and the others', until now."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the evidence."""

    time: datetime
    percent: int
    requests: int
    """What the candidate answered in this stage by then."""
    evidence: dict[str, float]
    """Guard → logarithm of the combined evidence."""
    rates: list[float] = []
    """Error rates: the candidate's lower and upper end, the others' lower and upper end, each of a 95 % confidence sequence."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that a canary saw, as it is stored."""

    stages: list[Stage] = []
    trail: list[Look] = []
    level: float = 0.0
    """The logarithm of the evidence at which a guard counts as violated."""
    needed: int = 0
    verdict: str = ""
    beyond: list[str] = []
    """Guards beyond their bound by what the present stage saw (by labels: by all stages), which proves nothing yet."""
    newest_label: int = 0
    """When the newest label did come that was judged, in nanoseconds."""
    judged_at: datetime | None = None
    """When labels were joined to answers."""
    shown: list[str] = []
    """The measures that are only told."""
    labels_needed: dict[str, int] = {}
    """Guard by labels → how many of what it counts the candidate is to have before its promotion."""


def advance(rollout: Rollout) -> None:
    """Look at the evidence, and take the step that it calls for, in one transaction with the note of it."""
    terms, evidence = terms_of(rollout), evidence_of(rollout)
    looked = _looked(rollout, terms, evidence) if evidence.stages else None
    with store.writing() as tx:
        current = rollouts.as_it_was(tx, rollout)
        if current is None:
            return
        if trouble := _trouble(tx, current, terms):
            _give_up(tx, current, terms, evidence, trouble)
        elif looked and (violated := _violated(looked, terms)):
            _give_up(tx, current, terms, looked, violated)
        elif looked and (waiting := _waiting(current, looked, terms)):
            _wait(tx, current, looked, terms, waiting)
        elif unready := progression.troubled(tx, current):
            progression.hold(tx, current, unready)
        else:
            _next_stage(tx, current, terms, looked or evidence)


def terms_of(rollout: Rollout) -> Terms:
    """A canary's terms, as they were set when it began."""
    return msgspec.convert(rollout.settings, Terms)


def evidence_of(rollout: Rollout) -> Evidence:
    """What a canary has seen so far."""
    return msgspec.convert(rollout.evidence, Evidence, strict=False)


def settings(terms: Terms) -> dict[str, Any]:
    """Terms as a rollout's settings keep them."""
    return msgspec.to_builtins(terms)


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _looked(rollout: Rollout, terms: Terms, evidence: Evidence) -> Evidence:
    """The evidence with what the present stage saw until now."""
    now, stage = store.now(), evidence.stages[-1]
    counted = telemetry.counted(rollout.endpoint, since=stage.since)
    mine = counted.pop(rollout.deployment, Counted())
    others = _together([counted[name] for name in counted if terms.before.get(name)])
    stage = with_pairs(rollout.endpoint, rollout.deployment, stage, now) if terms.copies else stage
    seen = msgspec.structs.replace(stage, until=now, candidate=mine, others=others)
    evidence = _with_labels(rollout, terms, msgspec.structs.replace(evidence, stages=[*evidence.stages[:-1], seen]), now)
    told = {str(guard): [one.told.get(str(guard), _NOTHING) for one in evidence.stages] for guard in terms.guards}
    of_labels = {name: one for name, one in evidence.stages[-1].evidence.items() if name in evidence.stages[-1].told}
    found = {str(guard): guards.evidence(guard, mine, others, stage.agreed, terms.expected) for guard in terms.guards if not guard.by_labels} | of_labels
    stages = [*evidence.stages[:-1], msgspec.structs.replace(evidence.stages[-1], evidence=found)]
    together = _combined(stages, terms, planned=_judged_steps(rollout))
    look = Look(time=now, percent=stage.percent, requests=mine.requests, evidence=together, rates=_rates(mine, others))
    return msgspec.structs.replace(
        evidence, stages=stages, trail=_thinned([*evidence.trail, look]), level=_level(terms), needed=_needed(terms, stage.percent, others),
        beyond=[str(guard) for guard in terms.guards if guards.beyond(guard, mine, others, stage.agreed, told=told[str(guard)])],
        verdict="; ".join([*(guards.words(guard, mine, others, stage.agreed, told=told[str(guard)]) for guard in terms.guards), *evidence.shown]),
    )  # fmt: skip


_NOTHING: Sides = (Truth(), Truth())


def with_pairs(endpoint: str, deployment: str, stage: Stage, now: datetime) -> Stage:
    """A stage with how many pairs of answers agree until *now*: all of the stage, each once, of which only those that came lately are counted anew."""
    since, settled = stage.settled_until or stage.since, stage.settled
    until = now - timedelta(seconds=Workspace.current().settings().request_timeout_seconds + SETTLED_SECONDS)
    if (until - since).total_seconds() >= _SETTLE_SECONDS:
        settled += telemetry.agreed(endpoint, deployment, since=since, until=until)
        since = until
    latest = telemetry.agreed(endpoint, deployment, since=since, until=now)
    return msgspec.structs.replace(stage, agreed=settled + latest, settled=settled, settled_until=since)


def _with_labels(rollout: Rollout, terms: Terms, evidence: Evidence, now: datetime) -> Evidence:
    """What labels that have come by now say of each stage, also of those that are over; as it was where none is new."""
    watched = [guard for guard in terms.guards if guard.by_labels]
    if not watched and not terms.metrics:
        return evidence
    by = now - timedelta(seconds=SETTLED_SECONDS)
    newest = labels.newest(rollout.endpoint, by=by)
    if evidence.judged_at and newest == evidence.newest_label and (now - evidence.judged_at).total_seconds() < _AGAIN_SECONDS:
        return evidence
    answers = labels.judged(rollout.endpoint, since=evidence.stages[0].since, by=by) if newest else []
    kept_since = now - timedelta(days=Workspace.current().settings().capture_days - 1)
    stages = [stage if stage.since < kept_since and stage.told else _told_by(answers, stage, watched, rollout, terms) for stage in evidence.stages]
    return msgspec.structs.replace(
        evidence, stages=stages, newest_label=newest, judged_at=now, shown=_shown(answers, terms),
        labels_needed={str(guard): _labels_needed(guard, stages, terms) for guard in watched},
    )  # fmt: skip


def _told_by(answers: Sequence[Answers], stage: Stage, watched: Sequence[Guard], rollout: Rollout, terms: Terms) -> Stage:
    """A stage with what labels say of the answers of its time."""
    its = [one.where((one.time >= _plain(stage.since)) & (one.time < _plain(stage.until or store.now()))) for one in answers]
    mine = [one for one in its if one.deployment == rollout.deployment]
    others = [one for one in its if one.deployment != rollout.deployment and terms.before.get(one.deployment)]
    told = {str(g): (truth.of(g.metric, mine, cap=g.cap), truth.of(g.metric, others, cap=g.cap)) for g in watched}
    found = {str(guard): truth.evidence(guard.metric, guard.allowed, *told[str(guard)]) for guard in watched}
    return msgspec.structs.replace(stage, told=told, evidence={**stage.evidence, **found})


def _plain(time: datetime) -> Any:
    """As telemetry keeps it."""
    import numpy as np

    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")


def _labels_needed(guard: Guard, stages: Sequence[Stage], terms: Terms) -> int:
    """How many of what a guard by labels counts the candidate is to have before it is promoted."""
    if terms.labels is not None:
        return terms.labels
    mine, others = _together_told(stages, guard)
    usual, alpha = guards.parse(guards.SHORT[guard.metric]).allowed, terms.alpha / len(terms.guards)
    return truth.needed(guard.allowed, usual, mine, others, share=stages[-1].percent / 100, alpha=alpha, power=terms.power)


def _together_told(stages: Sequence[Stage], guard: Guard) -> Sides:
    mine, others = zip(*(stage.told.get(str(guard), _NOTHING) for stage in stages), strict=True)
    return sum(mine, start=Truth()), sum(others, start=Truth())


def _shown(answers: Sequence[Answers], terms: Terms) -> list[str]:
    """The measures that are only to be told."""
    found = {one.deployment: measuring.of_answers(one) for one in answers} if terms.metrics else {}
    told = []
    for name in terms.metrics:
        figures = {who: next((str(one) for one in many if one.metric == name), "–") for who, many in found.items()}
        told.append(f"{name} " + (", ".join(f"{who} {said}" for who, said in figures.items()) if figures else "of no labels"))
    return told


def _together(many: list[Counted]) -> Counted:
    latencies: dict[int, int] = {}
    for one in many:
        for place, count in one.latencies.items():
            latencies[place] = latencies.get(place, 0) + count
    return Counted(requests=sum(one.requests for one in many), errors=sum(one.errors for one in many), latencies=latencies)


def _combined(stages: list[Stage], terms: Terms, *, planned: int) -> dict[str, float]:
    names = map(str, terms.guards)
    return {name: sequential.combined([stage.evidence.get(name, 0.0) for stage in stages], planned=planned) for name in names}


def _judged_steps(rollout: Rollout) -> int:
    """How many of its steps are compared with others: all but one of 100 %."""
    return sum(step < 100 for step in rollout.steps)


def _level(terms: Terms) -> float:
    return sequential.threshold(terms.alpha / max(len(terms.guards), 1))


def _rates(mine: Counted, others: Counted) -> list[float]:
    ends = [sequential.interval(one.errors, one.requests) for one in (mine, others)]
    return [float(end) for pair in ends for end in pair]


def _needed(terms: Terms, percent: int, others: Counted) -> int:
    """How many requests the candidate is to have answered before it is promoted."""
    if terms.needed is not None:
        return terms.needed
    compared = next((guard for guard in terms.guards if guard.metric == "error_rate" and guard.relative), None)
    if compared is None:
        return terms.least
    seen = others.requests or terms.expected.requests
    rate = (others.errors if others.requests else terms.expected.errors) / seen if seen else 0.01
    harm = max(terms.harm, compared.bound * 1.5)
    alpha = terms.alpha / len(terms.guards)
    whole = sequential.requests_needed(rate, compared.bound, harm, share=percent / 100, alpha=alpha, power=terms.power)
    return max(terms.least, round(whole * percent / 100))


def _thinned(trail: list[Look]) -> list[Look]:
    """Every second look of the older half is forgotten when there are many."""
    if len(trail) <= _MOST_TRAIL:
        return trail
    half = _MOST_TRAIL // 2
    return trail[:half:2] + trail[half:]


# ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _trouble(tx: store.Transaction, rollout: Rollout, terms: Terms) -> str:
    """Why the candidate cannot go on, whatever the numbers say."""
    candidate = next((d for d in table.of(tx, rollout.endpoint) if d.name == rollout.deployment), None)
    if candidate is None or candidate.wanted == "stopped":
        return f"{rollout.endpoint}/{rollout.deployment} was withdrawn"
    if terms.deployed_at and candidate.created_at != terms.deployed_at:
        return f"{candidate.ref} was deployed anew"
    silent = candidate.status == "unhealthy" and (store.now() - candidate.changed_at).total_seconds() > _SILENT_SECONDS
    if silent or candidate.status in ("failed", "restarting"):
        return f"{candidate.ref} is {candidate.status}{f': {candidate.reason.message}' if candidate.reason else ''}"
    if candidate.restarts > terms.restarts:
        return f"{candidate.ref} is up again after it ended by itself"
    return ""


def _violated(evidence: Evidence, terms: Terms) -> str:
    latest = evidence.trail[-1].evidence
    broken = [name for name in map(str, terms.guards) if latest[name] >= evidence.level]
    return f"{' and '.join(broken)} violated: {evidence.verdict}" if broken else ""


def answers_lacking(watched: Sequence[Guard]) -> str:
    """Why agreement, where it is guarded, cannot be judged: of a sample of the answers the failures would count for more than their share."""
    percent = Workspace.current().settings().capture_payload_percent
    asked = percent < 100 and any(guard.metric == "agreement" for guard in watched)
    return f"agreement needs all answers, and {percent:g} % of them are kept" if asked else ""


def _waiting(rollout: Rollout, evidence: Evidence, terms: Terms) -> str:
    """What the present stage still lacks."""
    if lacking := answers_lacking(terms.guards):
        return f"{lacking}: capture_payload_percent was lowered since it began"
    stage = evidence.stages[-1]
    answered, in_all = stage.candidate.requests, sum(one.candidate.requests for one in evidence.stages)
    if (store.now() - stage.since).total_seconds() < rollout.every_seconds:
        return "the step has not lasted its time"
    if answered < terms.least:
        return f"the candidate answered {answered:,} of the {terms.least:,} requests that a step takes"
    if lacking := _beside_lacking(evidence, terms):
        return lacking
    if _last_judged(rollout) and in_all < evidence.needed:
        return f"the candidate answered {in_all:,} of the {evidence.needed:,} requests that a promotion takes"
    if lacking := _labels_lacking(rollout, evidence, terms):
        return lacking
    if evidence.beyond:
        return f"{' and '.join(evidence.beyond)} not kept by what was seen, nor yet proven broken: {evidence.verdict}"
    return ""


def _beside_lacking(evidence: Evidence, terms: Terms) -> str:
    """What is lacking of those whose answers the candidate's are compared with: beside nobody every guard is kept, and none is judged."""
    others, pairs = evidence.stages[-1].others.requests, sum(stage.agreed.pairs for stage in evidence.stages)
    if others < terms.least and any(guard.relative and not guard.by_labels for guard in terms.guards):
        return f"the others, beside whom it is judged, answered {others:,} of the {terms.least:,} requests that a step takes"
    if pairs < terms.least and terms.copies:
        return f"{pairs:,} of the {terms.least:,} pairs of answers have come by which agreement is judged"
    return ""


def _labels_lacking(rollout: Rollout, evidence: Evidence, terms: Terms) -> str:
    """What guards by labels still lack, of all stages together: labels of a stage may come when it is long over."""
    for guard in (guard for guard in terms.guards if guard.by_labels):
        mine, others = _together_told(evidence.stages, guard)
        known, least = min(mine.rows, others.rows) if guard.relative else mine.rows, min(terms.least, terms.labels or terms.least)
        line = f"%mlops labels {rollout.endpoint} --data df"
        if not mine.count or (guard.relative and not others.count) or known < least:
            whose = "the candidate" if mine.rows <= known else "the others"
            return f"{guard} is judged by labels: {known:,} of the {least:,} that a step takes have come for {whose} ({line})"
        have, needed = mine.rows if terms.labels else mine.count, evidence.labels_needed[str(guard)]
        if _last_judged(rollout) and have < needed:
            return f"{guard} is judged by labels: {have:,} of the {needed:,} {guards.unit(guard)} that a promotion takes have come ({line})"
    return ""


def _last_judged(rollout: Rollout) -> bool:
    """Whether no later step has others to be compared with."""
    return rollout.step == len(rollout.steps) or rollout.steps[rollout.step] == 100


def _wait(tx: store.Transaction, rollout: Rollout, evidence: Evidence, terms: Terms, lacking: str) -> None:
    patient = (store.now() - evidence.stages[-1].since).total_seconds() < terms.patience_seconds + rollout.every_seconds
    if not patient and rollout.status != "held":
        events.record(tx, "RolloutHeld", subject=rollout.endpoint, data={"rollout": rollout.id, "deployment": rollout.deployment, "reason": lacking})
    status: rollouts.Status = rollout.status if patient else "held"
    if (status, lacking) == (rollout.status, rollout.reason) and _seen(evidence) == _seen(evidence_of(rollout)):
        return  # nothing new to write down
    _note(tx, rollout, evidence, status=status, reason=lacking, next_time=store.now() + timedelta(seconds=LOOK_SECONDS))


def _seen(evidence: Evidence) -> tuple[int, ...]:
    """How much there was to look at."""
    sides = [side for stage in evidence.stages for told in stage.told.values() for side in told]
    return tuple(count for stage in evidence.stages for count in (stage.candidate.requests, stage.others.requests, stage.agreed.pairs)) + tuple(
        side.rows for side in sides
    )


def _next_stage(tx: store.Transaction, rollout: Rollout, terms: Terms, evidence: Evidence) -> None:
    if rollout.step == len(rollout.steps):
        _promote(tx, rollout, terms, evidence)
        return
    percent, now = rollout.steps[rollout.step], store.now()
    progression.give(tx, rollout, percent, why=f"step {rollout.step + 1} of {len(rollout.steps)} of a canary", mirrors=_copies(rollout, terms, percent))
    stages = [*evidence.stages, Stage(percent=percent, since=now)]
    begun = _note(
        tx, rollout, msgspec.structs.replace(evidence, stages=stages), step=rollout.step + 1, status="running", reason="",
        next_time=now + timedelta(seconds=LOOK_SECONDS),
    )  # fmt: skip
    events.record(tx, "CanaryStep", subject=rollout.endpoint, data={"rollout": rollout.id, "deployment": rollout.deployment, "percent": percent})
    if percent == 100:
        _promote(tx, begun, terms, evidence)


def _promote(tx: store.Transaction, rollout: Rollout, terms: Terms, evidence: Evidence) -> None:
    if terms.copies:
        progression.give(tx, rollout, rollout.percent, why="the canary is done", mirrors={rollout.deployment: 0})
    _note(tx, rollout, evidence)
    progression.end(tx, rollout, "done", f"{rollout.endpoint}/{rollout.deployment} kept its guards: {evidence.verdict}")


def _give_up(tx: store.Transaction, rollout: Rollout, terms: Terms, evidence: Evidence, reason: str) -> None:
    """All requests go back to where they went before, if any of those can still answer; the reason and the numbers stay."""
    _note(tx, rollout, evidence)
    copies = {rollout.deployment: 0} if terms.copies else {}
    if not rollout.step:
        progression.end(tx, rollout, "cancelled", reason)
    elif progression.restore(tx, rollout, terms.before, why=f"canary rolled back: {reason}", mirrors=copies):
        progression.end(tx, rollout, "rolled back", reason)
    else:
        if copies:
            progression.give(tx, rollout, rollout.percent, why="the canary is over", mirrors=copies)
        progression.end(tx, rollout, "cancelled", f"{reason}; none of those that answered before can take the requests back")


def _copies(rollout: Rollout, terms: Terms, percent: int) -> Mapping[str, int]:
    """How many copies it is sent beside its share: those that agreement needs, and none as a shadow that it may have been."""
    return {rollout.deployment: terms.copies if percent < 100 else 0}


def _note(tx: store.Transaction, rollout: Rollout, evidence: Evidence, **values: Any) -> Rollout:
    return rollouts.change(tx, rollout, evidence=msgspec.to_builtins(evidence), **values)
