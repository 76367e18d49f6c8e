"""Alerts: rules about an endpoint's requests, judged by the agent every ten seconds on what was captured.

    error_rate > 5% for 5m        the share of answers of status 400 or above in the last five minutes, once there are 20 of them
    p99 > 200ms for 10m           a quantile of their latency: p50, p90, p95, p99, p99.9
    requests > 100/s for 1m       how many a second
    no requests for 1h            none in that time
    refused > 1% for 5m           the share of a deployment's answers that were 429: more came than may wait
    cpu > 90% for 5m              of the cores that a deployment may use (this machine's, where it has no limit); memory likewise
    in_flight > 80%               of the requests beyond which a deployment refuses more; waiting > 20: those that wait for the model
    requests anomalous            the last full hour beside the same hour of earlier days; too few alarm as too many do
    error_rate anomalous          its errors, and p50 to p99.9 its latencies; only more alarm
    drift                         a newest drift check found it, in a feature that nobody silenced: that of the endpoint as a whole, or of a deployment

`for` says over which time up to now it is judged, five minutes unless said.  How full deployments are is told of each, as the average of the agent's
looks over that time, and one of them is enough; what a deployment's place does not tell is not judged (see `saturation`).

Anomalies are judged once an hour with a stated budget of false alarms, one a month for each rule (see `anomalies`): by the same hour of the week
on earlier weeks where at least seven are kept, else by the same hour of the day on seven to twenty-eight earlier days.  With less of a past nothing
is said, and the rule says so.
"""

from __future__ import annotations

import getpass
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

import msgspec

from . import anomalies, saturation, store, targets, telemetry
from .errors import BadOption
from .saturation import Looks
from .store import alerts as table
from .store import checks, deployments, events, silences
from .store.alerts import Rule
from .store.silences import Silence
from .telemetry import Counted
from .telemetry.copies import bin_end_ms

LEAST_REQUESTS = 20
"""An error rate or a quantile of fewer answers says too little to wake somebody."""
MOST_DAYS, MOST_WEEKS = 28, 12
SETTLED = timedelta(minutes=2)
"""So long after an hour its last requests are here."""
HOUR_JUDGED_AGAIN = timedelta(minutes=5)
"""An hour is judged again after this: a device may tell late what it was asked."""
_FORM = re.compile(
    r"(error_rate|refused|requests|cpu|memory|in_flight|waiting|p50|p90|p95|p99|p99\.9)"
    r"\s*([<>])\s*(\d+(?:\.\d+)?)\s*(%|ms|s|/s)?(?:\s+for\s+(\d+)(s|m|h))?"
)
_ANOMALOUS = re.compile(r"(error_rate|requests|p50|p90|p95|p99|p99\.9) anomalous")
_NONE = re.compile(r"no requests for (\d+)(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_SHARES = ("error_rate", "refused", "cpu", "memory", "in_flight")
_UNITS = dict.fromkeys(_SHARES, ("%",)) | {"requests": ("/s",), "waiting": (None,)}
_HINT = '"error_rate > 5% for 5m", "p99 > 200ms for 5m", "requests > 100/s", "no requests for 1h", "cpu > 90% for 5m", "error_rate anomalous" or drift'


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A rule's words, read."""

    metric: Literal[
        "error_rate", "refused", "requests", "cpu", "memory", "in_flight", "waiting", "p50", "p90", "p95", "p99", "p99.9", "silence", "anomaly", "drift"
    ]
    of: str = ""
    """What is to be as ever, where an anomaly is."""
    above: bool = True
    bound: float = 0.0
    """A share (0–1), milliseconds, requests a second, or requests that wait."""
    seconds: float = 300.0


class Verdict(msgspec.Struct, frozen=True):
    """Whether a condition holds, and what was seen, in words."""

    holds: bool
    seen: str


def parse(text: str) -> Condition:
    """The condition that *text* says.  Raises BadOption."""
    words = " ".join(text.split())
    if odd := _ANOMALOUS.fullmatch(words):
        return Condition(metric="anomaly", of=odd[1], seconds=3600.0)
    if words == "drift":
        return Condition(metric="drift")
    if silent := _NONE.fullmatch(words):
        return Condition(metric="silence", seconds=_checked_seconds(words, int(silent[1]) * _SECONDS[silent[2]]))
    found = _FORM.fullmatch(words)
    if not found or found[4] not in _UNITS.get(found[1], ("ms", "s")):
        raise BadOption(f"{text[:60]!r} says no alert.", hint=_HINT)
    seconds = int(found[5]) * _SECONDS[found[6]] if found[5] else 300
    bound = float(found[3]) * {"%": 0.01, "s": 1000.0}.get(found[4], 1.0)
    if found[1] in _SHARES and not 0 <= bound < 1:
        raise BadOption(f"{found[1]} cannot pass {found[3]} %.", hint=_HINT)
    return Condition(metric=found[1], above=found[2] == ">", bound=bound, seconds=_checked_seconds(words, seconds))  # type: ignore[arg-type]


def _checked_seconds(words: str, seconds: float) -> float:
    if not 10 <= seconds <= 86_400:
        raise BadOption(f"{words[:60]!r} is about less than 10 s or more than a day.", hint=_HINT)
    return seconds


# ── the user's verbs ─────────────────────────────────────────────────────────────────────────────────────────────────


def add(endpoint: str, condition: str) -> Rule:
    """Watch an endpoint from now on; the agent judges.  Raises EndpointNotFound, BadOption, TargetCannot where nothing is seen of its requests."""
    read = parse(condition)
    if read.metric not in saturation.METRICS:
        targets.require_kept(endpoint)
    with store.writing() as tx:
        deployments.endpoint(tx, endpoint)
        rule = table.add(tx, endpoint, " ".join(condition.split()), author=getpass.getuser())
    if read.metric != "anomaly" and read.metric not in saturation.METRICS:
        return rule
    # says at once whether there is enough of a past, or anybody who tells it
    seen = _hour_judged(endpoint, read.of, store.now()).seen if read.metric == "anomaly" else _said_now(endpoint, read)
    with store.writing() as tx:
        return table.change(tx, rule, value=seen)


def of(endpoint: str | None = None) -> list[Rule]:
    """Rules (of *endpoint*), those that fire first.  Raises EndpointNotFound."""
    with store.reading() as tx:
        if endpoint:
            deployments.endpoint(tx, endpoint)
        rules, standing = table.of(tx, endpoint), silences.standing(tx, endpoint)
    return [_with_silences(rule, standing) if rule.condition == "drift" else rule for rule in rules]


def _with_silences(rule: Rule, standing: Sequence[Silence]) -> Rule:
    """With who silenced what, why and until when."""
    told = [f"{one.feature or 'all of it'} {one.words}" for one in standing if one.endpoint == rule.endpoint]
    return msgspec.structs.replace(rule, value="; ".join(filter(None, (rule.value, *told))))


def acknowledge(id: str) -> Rule:
    """Say that somebody has seen the alert; it is silent until it is over.  Raises RuleNotFound; BadOption while it does not fire."""
    with store.writing() as tx:
        rule = table.get(tx, id)
        if not rule.firing:
            raise BadOption(f"{id} does not fire; there is nothing to acknowledge.", hint=f"%mlops alerts snooze {id} --for 1h")
        changed = table.change(tx, rule, acknowledged=getpass.getuser())
        events.record(tx, "AlertAcknowledged", subject=rule.endpoint, data={"rule": id, "by": changed.acknowledged})
    return changed


def snooze(id: str, seconds: float) -> Rule:
    """Have a rule be silent for so long.  Raises RuleNotFound."""
    with store.writing() as tx:
        return table.change(tx, table.get(tx, id), snoozed_until=store.now() + timedelta(seconds=seconds))


def delete(id: str) -> Rule:
    """Watch it no longer.  Raises RuleNotFound."""
    with store.writing() as tx:
        rule = table.get(tx, id)
        table.delete(tx, rule)
    return rule


# ── the agent's ──────────────────────────────────────────────────────────────────────────────────────────────────────


def judge(at: datetime | None = None, *, looks: Looks | None = None) -> list[Rule]:
    """Look at every rule and note what changed, with an event for each alert that begins or is over; returns those.

    Saturation is judged by *looks*, of which this takes one more.
    """
    at, looks = at or store.now(), looks or Looks()
    with store.reading() as tx:
        rules = table.of(tx)
    _look(rules, at, looks)
    judged = {rule.id: verdict for rule in rules if (verdict := _judged(rule, at, looks))}
    if not (news := [rule for rule in rules if rule.id in judged and _is_news(rule, judged[rule.id])]):
        return []
    with store.writing() as tx:
        there = {rule.id: rule for rule in table.of(tx)}
        noted = [_note(tx, there[rule.id], judged[rule.id], at) for rule in news if rule.id in there]
    return [rule for rule in noted if rule.firing != next(before.firing for before in news if before.id == rule.id)]


def _is_news(rule: Rule, verdict: Verdict) -> bool:
    """An anomaly's numbers are kept every hour, also when they are as ever, and what drifts after every check."""
    followed = rule.condition == "drift" or rule.condition.endswith("anomalous")
    return verdict.holds != rule.firing or (followed and verdict.seen != rule.value)


def _note(tx: store.Transaction, rule: Rule, verdict: Verdict, at: datetime) -> Rule:
    if verdict.holds == rule.firing:
        return table.change(tx, rule, value=verdict.seen)
    now = table.change(tx, rule, firing=verdict.holds, since=at if verdict.holds else None, value=verdict.seen, acknowledged="")
    data = {"rule": rule.id, "condition": rule.condition, "seen": verdict.seen, "snoozed": rule.snoozed_until is not None and rule.snoozed_until > at}
    events.record(tx, "AlertFired" if verdict.holds else "AlertResolved", subject=rule.endpoint, data=data)
    return now


def _judged(rule: Rule, at: datetime, looks: Looks) -> Verdict | None:
    """None while nothing can be said."""
    condition = parse(rule.condition)
    since = at - timedelta(seconds=condition.seconds)
    if condition.metric == "anomaly":
        return _lately(looks, rule.endpoint, condition.of, at)
    if condition.metric == "drift":
        return _drift_judged(rule.endpoint)
    if condition.metric == "silence":
        return _silence_judged(rule, since, at)
    if condition.metric in saturation.METRICS:
        return _saturation_judged(rule, condition, since, at, looks)
    if condition.metric == "requests" and not condition.above and rule.created_at > since:
        return None  # too few came so far, as they must
    counted = telemetry.counted(rule.endpoint, since=since, until=at)
    if condition.metric == "refused":
        return refused_on(condition, counted)
    return verdict_on(condition, telemetry.together(counted.values()))


def _drift_judged(endpoint: str) -> Verdict | None:
    """By the newest check of the endpoint as a whole and of each deployment that runs; None before there is one."""
    with store.reading() as tx:
        newest, standing = checks.latest_drift(tx, endpoint), silences.standing(tx, endpoint)
        if not newest and not checks.drift_checks(tx, endpoint, most=1):
            return None
    found = [(check, silences.loud(check, standing), silences.drifting(check)) for check in newest]
    quiet = [name for _, loud, drifting in found for name in drifting if name not in loud]
    told = [f"{', '.join(loud)}{f' ({check.subject})' * bool(check.deployment)}{f': {check.cost}' * bool(check.cost)}" for check, loud, _ in found if loud]
    seen = f"drift in {'; '.join(told)}" if told else "no other drift" if quiet else "no drift"
    return Verdict(bool(told), f"{seen}; silenced: {', '.join(dict.fromkeys(quiet))}" if quiet else seen)


def _silence_judged(rule: Rule, since: datetime, at: datetime) -> Verdict | None:
    """A rule younger than its time says nothing yet."""
    if rule.created_at > since:
        return None
    count = telemetry.count(rule.endpoint, since=since, until=at)
    return Verdict(count == 0, f"{count:,} requests in {_said(at - since)}")


def verdict_on(condition: Condition, counted: Counted) -> Verdict:
    """Whether what was counted passes the bound."""
    if condition.metric == "requests":
        rate = counted.requests / condition.seconds
        return Verdict(_passes(condition, rate), f"{rate:,.3g} requests a second")
    if counted.requests < LEAST_REQUESTS:
        return Verdict(False, f"{counted.requests} answers, fewer than {LEAST_REQUESTS}")
    if condition.metric == "error_rate":
        rate = counted.errors / counted.requests
        return Verdict(_passes(condition, rate), f"{counted.errors:,} of {counted.requests:,} answers failed ({rate:.2%})")
    milliseconds = _percentile_ms(counted, Decimal(condition.metric[1:]))
    return Verdict(_passes(condition, milliseconds), f"{condition.metric} is {milliseconds:,.3g} ms over {counted.requests:,} answers")


def _passes(condition: Condition, value: float) -> bool:
    return value > condition.bound if condition.above else value < condition.bound


def _percentile_ms(counted: Counted, percent: Decimal) -> float:
    """The lower end of its bin, so that a latency within the bound raises no alarm."""
    wanted, seen = max(1, math.ceil(percent * counted.requests / 100)), 0  # in decimals: of floats, 99.9 % of 1,000 is more than 999
    for place in sorted(counted.latencies):
        seen += counted.latencies[place]
        if seen >= wanted:
            return bin_end_ms(place - 1)
    return 0.0


def _said(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    return next((f"{seconds // size} {unit}" for unit, size in (("h", 3600), ("min", 60)) if seconds % size == 0), f"{seconds} s")


# ── saturation ───────────────────────────────────────────────────────────────────────────────────────────────────────


def refused_on(condition: Condition, counted: Mapping[str, Counted]) -> Verdict:
    """Whether any one deployment, by its name, refused a share of its requests beyond the bound."""
    shares = {name: one.refused / one.requests for name, one in counted.items() if one.requests >= LEAST_REQUESTS}
    if not shares:
        return Verdict(False, f"no deployment gave {LEAST_REQUESTS} answers")
    name = max(shares, key=lambda name: shares[name] if condition.above else -shares[name])
    return Verdict(_passes(condition, shares[name]), f"{name} refused {counted[name].refused:,} of {counted[name].requests:,} requests ({shares[name]:.2%})")


def _look(rules: Sequence[Rule], at: datetime, looks: Looks) -> None:
    """See what the deployments carry of which a rule asks."""
    lasting: dict[str, float] = {}
    for rule in rules:
        if (condition := parse(rule.condition)).metric in saturation.METRICS:
            lasting[rule.endpoint] = max(lasting.get(rule.endpoint, 0.0), condition.seconds)
    looks.only(set(lasting))
    for endpoint, seconds in lasting.items():
        looks.add(endpoint, at, keep=timedelta(seconds=seconds))


def _saturation_judged(rule: Rule, condition: Condition, since: datetime, at: datetime, looks: Looks) -> Verdict | None:
    """None until somebody has looked for long enough."""
    seen = looks.over(rule.endpoint, condition.metric, since=since, until=at)
    if not seen:
        return None if seen is None else Verdict(False, f"no deployment tells its {condition.metric}")
    worst = seen[0 if condition.above else -1]
    return Verdict(_passes(condition, worst.value), saturation.told(condition.metric, worst))


def _said_now(endpoint: str, condition: Condition) -> str:
    seen = saturation.now(endpoint, condition.metric)
    told = f"now {saturation.told(condition.metric, seen[0])}" if seen else f"no deployment tells its {condition.metric} now"
    return f"{told}; judged once it was watched for {_said(timedelta(seconds=condition.seconds))}"


# ── anomalies ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _lately(looks: Looks, endpoint: str, metric: str, at: datetime) -> Verdict:
    """The last full hour as it was judged a short while ago; its weeks are counted again when it is another, or may have grown by what came late."""
    hour = _last_hour(at)
    of, judged_at, verdict = looks.hours.get((endpoint, metric), (None, at, None))
    if verdict is None or of != hour or at - judged_at >= HOUR_JUDGED_AGAIN:
        verdict = _hour_judged(endpoint, metric, at)
        looks.hours[endpoint, metric] = hour, at, verdict
    return verdict


def _last_hour(at: datetime) -> datetime:
    """The beginning of the last full hour of which all is here."""
    return (at - SETTLED).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


def _hour_judged(endpoint: str, metric: str, at: datetime) -> Verdict:
    """The last full hour, once what was asked in it is here."""
    begin = _last_hour(at)
    since, until = begin - timedelta(weeks=MOST_WEEKS), begin + timedelta(hours=1)
    if metric == "requests":
        return _rate_judged(telemetry.hourly(endpoint, since=since, until=until), begin)
    hours = telemetry.by_hour(endpoint, since=since, until=until, of_day=begin.hour)
    return _quality_judged(metric, hours, begin)


def _rate_judged(hours: Mapping[datetime, int], begin: datetime) -> Verdict:
    """From the first request on, an hour without any counts as one with none."""
    first = min(hours, default=begin)
    earlier, which = _alike(begin, lambda hour: hour >= first)
    if len(earlier) < anomalies.LEAST:
        return _too_short(len(earlier))
    count, expected = hours.get(begin, 0), anomalies.of_counts([hours.get(hour, 0) for hour in earlier])
    return Verdict(not expected.holds(count), f"{count:,} requests in the hour, {expected.low:,.0f} to {expected.high:,.0f} expected of {which}")


def _quality_judged(metric: str, hours: Mapping[datetime, Counted], begin: datetime) -> Verdict:
    """Errors and latencies of hours with enough answers to tell."""
    now, telling = hours.get(begin, Counted()), {hour: one for hour, one in hours.items() if one.requests >= LEAST_REQUESTS}
    earlier, which = _alike(begin, telling.__contains__)
    if len(earlier) < anomalies.LEAST:
        return _too_short(len(earlier))
    if now.requests < LEAST_REQUESTS:
        return Verdict(False, f"{now.requests} answers in the hour, fewer than {LEAST_REQUESTS}")
    before = [telling[hour] for hour in earlier]
    if metric == "error_rate":
        share = now.errors / now.requests
        most = anomalies.of_shares([(one.errors, one.requests) for one in before], now.requests).high
        return Verdict(share > most, f"{now.errors:,} of {now.requests:,} answers in the hour failed ({share:.2%}), up to {most:.2%} expected of {which}")
    percent = Decimal(metric[1:])
    latency, most = _percentile_ms(now, percent), anomalies.of_latencies([_percentile_ms(one, percent) for one in before]).high
    return Verdict(latency > most, f"{metric} was {latency:,.3g} ms in the hour, up to {most:,.3g} ms expected of {which}")


def _alike(begin: datetime, known: Callable[[datetime], bool]) -> tuple[list[datetime], str]:
    """The same hour of the week on earlier weeks where enough are known, else of the day on earlier days; and those in words."""
    weeks = [hour for back in range(1, MOST_WEEKS + 1) if known(hour := begin - timedelta(weeks=back))]
    if len(weeks) >= anomalies.LEAST:
        return weeks, f"the same hour of {len(weeks)} earlier weeks"
    days = [hour for back in range(1, MOST_DAYS + 1) if known(hour := begin - timedelta(days=back))]
    return days, f"the same hour of {len(days)} earlier days"


def _too_short(days: int) -> Verdict:
    return Verdict(False, f"nothing is said yet: the hour is known of {days} earlier days, {anomalies.LEAST} are needed")
