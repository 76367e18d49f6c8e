"""Cards of what is seen of it: alerts, drift, causes, labels, performance, replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .card import Card, Link, Mark, Table, ago, brief, shortened, those_given


def alert(rule: Any) -> Card:
    """A rule, whether it fires, and since when."""
    return Card(
        title=rule.condition, kind=f"alert {rule.id}", mark=stands(rule),
        facts=those_given(("endpoint", rule.endpoint), ("seen", rule.value), ("since", ago(rule.since) if rule.since else ""), ("watched by", rule.author)),
        line=f"alerts acknowledge {rule.id}" if rule.firing and not rule.quiet else "",
    )  # fmt: skip


def stands(rule: Any) -> Mark:
    """Whether a rule fires, is acknowledged, snoozed or quiet."""
    if rule.firing:
        return Mark("warn", f"seen by {rule.acknowledged}") if rule.acknowledged else Mark("warn" if rule.quiet else "bad", "fires")
    return Mark("idle", "snoozed") if rule.quiet else Mark("good", "quiet")


def scraped(scraped: Any) -> Card:
    """Where Prometheus finds the metrics, and what goes into its configuration."""
    return Card(
        title="metrics", kind="for Prometheus", mark=Mark("good", "served"), facts=[("url", Link(scraped.url)), ("token in", scraped.token_file)],
        log=scraped.configuration, note="This goes below scrape_configs of Prometheus' configuration; docs/grafana.json is a dashboard of it.",
    )  # fmt: skip


def drift(check: Any) -> Card:
    """A drift check: its verdict, each feature, the data's faults, and what was promised."""
    from ..monitoring.reports import told_how  # which brings all of monitoring

    report = check.report
    reference, window = report.get("reference", {}), report.get("window", {})
    features = sorted(report.get("features", []), key=lambda f: (not f.get("is_drift"), f.get("p_adjusted") if f.get("p_adjusted") is not None else 1))
    joint = any(_jointly(f) for f in features)
    rows = [[f.get("name"), _drift_verdict(f, joint=joint), f.get("test", ""), _p(f.get("p_adjusted")), _effect(f), _drift_seen(f)] for f in features]
    return Card(
        title=check.endpoint,
        kind="drift check",
        mark=_drift_mark(check, features),
        facts=those_given(
            ("requests", f"{window.get('rows', 0):,} rows {f'of {check.endpoint}/{check.deployment}' if check.deployment else ''}".strip()),
            ("compared with", f"{check.dataset}, {reference.get('rows', 0):,} rows"),
            ("by", told_how(check.engine, report.get("alpha", 0), report.get("correction", ""))),
            ("thresholds", report.get("promise", "")),
            ("costs", check.cost),
            ("silenced", "; ".join(dict.fromkeys(f["silenced"] for f in features if f.get("silenced")))),
            ("checked", ago(check.time)),
        ),
        tables=[Table(["feature", "verdict", "test", "#p adjusted", "#effect", "what is seen"], rows), *_quality(report)],
        note=" ".join(str(note) for note in report.get("notes", [])),
    )


def causes(causes: Any) -> Card:
    """Why an endpoint drifted: features, rows, beginning, requests and cost."""
    features = [[f.feature, f"{f.effect:.1%}", _began(f.began), f.summary] for f in causes.features]
    segments = [[s.feature, s.segment, *_among(s)] for s in causes.segments]
    examples = [[e.request, str(e.row), clock(e.time), brief(e.values)] for e in causes.examples]
    losses = [[loss.metric, "" if loss.before is None else f"{loss.before:.3g}", _interval(loss), loss.how] for loss in causes.losses]
    return Card(
        title=f"{causes.endpoint}/{causes.deployment}" if causes.deployment else causes.endpoint,
        kind="causes of drift",
        mark=Mark("warn", ", ".join(f.feature for f in causes.features[:3]) or "nothing by itself") if causes.is_drift else Mark("good", "no drift"),
        facts=those_given(("began", _began(causes.began)), ("where", "; ".join(dict.fromkeys(s.segment for s in causes.segments)))),
        tables=[
            Table(["feature", "#moved", "since", "what is seen"], features),
            Table(["change of", "among", "is", "#of rows", "#moved there", "#moved elsewhere", "#p adjusted"], segments),
            Table(["measure", "#before", "#since (95 %)", "how"], losses),
            Table(["request", "#row", "time", "values"], examples),
        ],
        note=" ".join(causes.notes),
    )


def _among(segment: Any) -> list[str]:
    if segment.kind == "mix":
        return ["another mix", "", f"explains {segment.inside:.0%}", "", ""]
    return [segment.kind, f"{segment.rows:.1%}", f"{segment.inside:.1%}", f"{segment.outside:.1%}", _p(segment.p_adjusted)]


def _began(began: Any) -> str:
    if began is None:
        return ""
    if began.from_first:
        return f"{clock(began.time)}, the first request kept"
    return f"{clock(began.time)} ({clock(began.low)} to {clock(began.high)})"


def _interval(loss: Any) -> str:
    return f"{loss.since:.3g}" if loss.low is None else f"{loss.since:.3g} ({loss.low:.3g} to {loss.high:.3g})"


def _drift_mark(check: Any, features: Sequence[Mapping[str, Any]]) -> Mark:
    drifted = [f for f in features if f.get("is_drift")]
    if check.is_drift and any(map(_jointly, drifted)):
        return Mark("warn", "drift of all features together")
    if check.is_drift:
        quiet = all(f.get("silenced") for f in drifted)
        compared = sum(f.get("type") != "not compared" for f in features)
        return Mark("idle" if quiet else "warn", f"drift in {len(drifted)} of {compared} features{', silenced' * quiet}")
    faults = {str(finding.get("feature")) for finding in check.report.get("quality", []) if finding.get("is_alarm")}
    if faults:
        return Mark("warn", f"{check.verdict}, but {', '.join(sorted(faults))}: see data quality")
    return Mark("good" if check.verdict == "no drift" else "idle", check.verdict)


def _jointly(feature: Mapping[str, Any]) -> bool:
    """Whether it stands for all features, which a detector looked at together."""
    return feature.get("type") == "together"


def _drift_verdict(feature: Mapping[str, Any], *, joint: bool) -> Mark:
    if feature.get("is_drift"):
        return Mark("idle", "drift, silenced") if feature.get("silenced") else Mark("warn", "drift")
    if feature.get("type") == "not compared":
        return Mark("idle", "not compared")
    if feature.get("test", "none") == "none":
        return Mark("idle", "not judged by itself" if joint and not _jointly(feature) else "not tested")
    return Mark("good", "same, small change" if feature.get("is_small_change") else "same")


def _drift_seen(feature: Mapping[str, Any]) -> str:
    """What changed; beside it, of what drifts, who wants to hear no more of it."""
    seen, silenced = str(feature.get("summary", "")), feature.get("silenced")
    return f"{seen} ({silenced})" if silenced and feature.get("is_drift") else seen


def _quality(report: Mapping[str, Any]) -> list[Table]:
    rows = [_finding(finding) for finding in report.get("quality", [])]
    return [Table(["column", "data quality", "kind", "#share", "#counts from", "alarms are", "what is seen"], rows)] if rows else []


def _finding(finding: Mapping[str, Any]) -> list[Any]:
    share, bound = finding.get("share"), finding.get("threshold")
    mark = Mark("bad", "alarm") if finding.get("is_alarm") else Mark("idle", "told")
    how = "within the budget" if finding.get("by_chance") else "a fact"
    shares = ["" if value is None else f"{value:.2%}" for value in (share, bound)]
    return [finding.get("feature"), mark, finding.get("kind"), *shares, how, finding.get("words", "")]


def schedule(schedule: Any) -> Card:
    """A check by the clock: when it looks, and how it went last."""
    facts = those_given(
        ("checks", f"{schedule.words} (UTC)" if len(schedule.words.split()) == 5 else schedule.words), ("next", clock(schedule.next_time)),
        ("with", ", ".join(f"{name} {value}" for name, value in schedule.options.items())),
        ("latest", f"{schedule.outcome} ({ago(schedule.last_time)})" if schedule.last_time else ""), ("by", schedule.author),
    )  # fmt: skip
    return Card(title=schedule.endpoint, kind=f"schedule {schedule.id}", mark=went(schedule), facts=facts, line=f"schedules delete {schedule.id}")


def went(schedule: Any) -> Mark:
    """How a schedule's last check went."""
    outcome = schedule.outcome
    if not outcome:
        return Mark("idle", "not yet checked")
    if outcome in ("too few rows to tell", "nothing was compared"):
        return Mark("idle", outcome)
    return Mark("good", "no drift") if outcome == "no drift" else Mark("warn", "drift") if outcome.startswith("drift") else Mark("bad", "not made")


def clock(time: Any) -> str:
    """A moment in UTC to the minute."""
    return f"{time:%Y-%m-%d %H:%M} UTC"


def silence(silence: Any) -> Card:
    """What is kept quiet, by whom, why and until when."""
    until = clock(silence.until) if silence.until else "until it is over" if silence.kind == "acknowledged" else ""
    return Card(
        title=f"{silence.endpoint}: {silence.feature or 'all drift'}", kind="drift", mark=Mark("idle", silence.kind),
        facts=those_given(("until", until), ("why", silence.why), ("by", silence.author)),
        line="" if silence.kind == "over" else f"snooze {silence.endpoint}{f' --feature {silence.feature!r}' if silence.feature else ''} --end",
    )  # fmt: skip


def _p(value: float | None) -> str:
    return "" if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _effect(feature: Mapping[str, Any]) -> str:
    effect = feature.get("effect")
    return "" if effect is None else f"{effect:.3f} {feature.get('effect_name', '')}".strip()


def event(event: Any) -> Card:
    """What happened, to what, with its facts."""
    return Card(
        title=event.type.removeprefix("mlops."), kind="event", facts=[("subject", event.subject), ("time", ago(event.time)), ("data", brief(event.data))]
    )


def labelled(labelled: Any) -> Card:
    """How many labels were taken, and what became of the others."""
    taken = ", ".join(f"{name} from {column}" for name, column in labelled.columns.items())
    several = (
        f"{labelled.of_several_rows:,} belong to requests of several rows and were taken for the first; --row says which" if labelled.of_several_rows else ""
    )
    counts = [(name, getattr(labelled, name.replace(" ", "_"))) for name in ("new", "changed", "repeated", "duplicates", "unmatched", "without label")]
    none = "none belongs to an answer that is kept" if not labelled.matched else f"none is a value that {labelled.endpoint} answers" if labelled.unlike else ""
    return Card(
        title=f"{labelled.matched:,} of {labelled.given:,} labels belong to an answer", kind=f"labels of {labelled.endpoint}",
        mark=Mark("warn", none) if none else Mark("good", "kept"),
        facts=those_given(("taken", taken), ("unlike", labelled.unlike), *((name, f"{count:,}") for name, count in counts if count)),
        note=several, line=f"performance {labelled.endpoint}",
    )  # fmt: skip


def replay(replay: Any) -> Card:
    """Captured requests answered again by a candidate, beside the answers of then."""
    kept = [Mark("good", promise) if held else Mark("bad", promise) for promise, held in replay.guards.items()]
    pace = f", sent at {replay.speed:g} times their pace" if replay.speed else ""
    late = f"95 % within {replay.late_ms:.3g} ms of when they were due" if replay.speed else ""
    mark = None if not kept else Mark("good", "keeps its guards") if replay.passed else Mark("bad", "a guard is violated")
    return Card(
        title=replay.ref, kind="replay", mark=mark,
        facts=those_given(
            ("asked", f"{replay.requests:,} requests of {replay.endpoint}{f'/{replay.deployment}' if replay.deployment else ''}{pace}"),
            ("came", f"{replay.since:%Y-%m-%d %H:%M:%S} to {replay.until:%Y-%m-%d %H:%M:%S} UTC"), ("sent", late),
            ("left out", f"{replay.left_out:,} of which no inputs are kept" if replay.left_out else ""), *_compared(replay.comparison),
            ("first error", replay.first_error), ("guards", ", ".join(map(str, kept))),
        ),
        tables=_comparison_tables(replay.comparison), line=f"deploy {replay.ref} --endpoint {replay.endpoint} --traffic 0" if replay.passed else "",
    )  # fmt: skip


def shadow_report(report: Any) -> Card:
    """A shadow's answers beside those that callers got; what to do next is a canary only where it does not fail more often."""
    comparison, ref = msgspec.to_builtins(report.comparison), f"{report.endpoint}/{report.deployment}"
    before, candidate = report.comparison.before, report.comparison.candidate
    fails = candidate.errors * before.requests > before.errors * candidate.requests
    return Card(
        title=ref, kind="shadow", mark=Mark("bad", "fails more often than what callers were answered by") if fails else None,
        facts=those_given(*_compared(comparison)), tables=_comparison_tables(comparison), line=f"{'logs' if fails else 'canary'} {ref}",
    )  # fmt: skip


def _compared(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Agreement and differences in words."""
    share, apart = found["agreement"], found["differences"]
    said = f"{share['value']:.2%} of {found['rows']:,} rows (95 %: {share['low']:.2%} to {share['high']:.2%})" if share["value"] is not None else ""
    spread = ", ".join(f"{name} {value:.3g}" for name, value in apart.items())
    return [("agreement", said), (f"{found['what']} apart", spread), ("labels", f"{found['labelled']:,} rows" if found["labelled"] else "")]


def _comparison_tables(found: Mapping[str, Any]) -> list[Table]:
    """Both sides, the segments where most differ, and the rows farthest apart."""
    sides = (found["before"], found["candidate"])
    rows = [["requests", *(f"{one['requests']:,}" for one in sides)], ["errors", *(f"{one['errors']:,}" for one in sides)]]
    rows += [[f"{name}, ms", *(f"{one[f'{name}_ms']:.3g}" for one in sides)] for name in ("p50", "p95", "p99")]
    told = [{figure["metric"]: figure for figure in one["figures"] if figure["value"] is not None} for one in sides]
    rows += [[name, *(f"{one[name]['value']:.4g} ({one[name]['low']:.4g} to {one[name]['high']:.4g})" for one in told)] for name in told[0] if name in told[1]]
    most = [one for one in found["segments"] if one["differ"]][:8]
    segments = [[one["segment"], f"{one['rows']:,}", f"{one['differ'] / one['rows']:.1%}", "more than elsewhere" if one["stands_out"] else ""] for one in most]
    differing = [
        [one["id"], str(one["row"]), *(shortened("" if one[said] is None else one[said]) for said in ("before", "candidate", "truth"))]
        for one in found["differing"][:5]
    ]
    return [
        Table(["", "#answered then", "#candidate"], rows),
        Table(["segment", "#rows", "#differ", ""], segments),
        Table(["request", "#row", "answered then", "candidate", "truth"], differing),
    ]


_MEASURES = {"classifier": ("auc", "accuracy", "precision", "recall", "f1", "log_loss", "brier", "ece"), "regressor": ("rmse", "mae", "r2", "bias")}


def performance(found: Any) -> Card:
    """How good answers were, by measure, time and segment."""
    kinds = [kind for kind in _MEASURES if any(group.kind == kind for group in found.groups)]
    single = found.groups[0] if len(found.groups) == 1 else None
    tables = [_figures_of(single)] if single else [_groups([group for group in found.groups if group.kind == kind], kind) for kind in kinds]
    return Card(
        title=f"{found.endpoint}{f'/{single.deployment}' if single else ''}", kind="performance",
        mark=Mark("warn", "labels and answers share no value") if found.unlike else None,
        facts=those_given(
            ("since", f"{found.since:%Y-%m-%d %H:%M} UTC" if found.since else ""), ("labelled", f"{found.labelled:,} of {found.answered:,} rows"),
            ("model", single.model if single else ""), ("estimate", single.estimated if single else ""),
        ),
        tables=tables, note=" ".join(["Ranges are 95 % confidence intervals."] * bool(found.labelled) + found.notes),
        line="" if found.labelled else f"labels {found.endpoint} --data df",
    )  # fmt: skip


def _figures_of(group: Any) -> Table:
    """A row for each measure of the only group, with its estimate."""
    rows = [[name, *_measured(group.figure(name)), _bare(group.expected(name))] for name in _MEASURES[group.kind]]
    return Table(["measure", "#value", "95 %", "#rows", "estimated where no label came"], [row for row in rows if row[1] or row[4]])


def _groups(groups: Sequence[Any], kind: str) -> Table:
    """A row for each group, with the measures that fit in."""
    names = _MEASURES[kind][:4] if kind == "classifier" else _MEASURES[kind]
    head = ["deployment", "from", "segment", "#labelled", "#answered", *names, *(["estimated accuracy"] if kind == "classifier" else [])]
    rows = [
        [
            group.deployment, f"{group.period:%Y-%m-%d %H:%M}".removesuffix(" 00:00") if group.period else "", group.segment, f"{group.labelled:,}",
            f"{group.answered:,}", *(_bare(group.figure(name)) for name in names), *([_bare(group.expected("accuracy"))] if kind == "classifier" else []),
        ]
        for group in groups
    ]  # fmt: skip
    return Table(head, rows)


def _measured(figure: Any) -> list[str]:
    if not figure:
        return ["", "", ""]
    return [f"{figure.value:.4g}", "–" if figure.low is None else f"{figure.low:.4g} to {figure.high:.4g}", f"{figure.count:,}"]


def _bare(figure: Any) -> str:
    return str(figure) if figure else ""
