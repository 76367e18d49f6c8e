"""A drift check as one HTML file that needs nothing else: no network, no script, a hundred features in well under a megabyte.

The verdict and what it promises come first, then what moved, why, what is wrong with the data, and each feature before and now; at the end what was
compared and how to do it again.  Every word passes `safety.text_for`; drawings are SVG from the report's shares.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BadOption
from ..safety import text_for
from ..store.checks import DriftCheck
from .reports import DriftReport, FeatureDrift, Finding

_OPEN = 5
"""So many of the features that drift are shown open."""
_WIDTH, _HEIGHT, _LEFT, _FOOT = 640, 170, 44, 22
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root{color-scheme:light dark;--ink:#1f2937;--soft:#5b6472;--line:#d6dae0;--back:#fff;--drift:#b3400a;--same:#0f6d66;--before:#64748b;--now:#1d4fd8}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--soft:#a7b0bd;--line:#3b424d;--back:#14181f;--drift:#fb923c;--same:#5eead4;--before:#94a3b8;--now:#7aa2ff}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p{margin:.4rem 0}
.drift{color:var(--drift)}.same{color:var(--same)}.soft,caption{color:var(--soft)}caption{text-align:left;padding-top:.8rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}td{font-variant-numeric:tabular-nums}a{color:inherit}
.bar{position:relative;width:140px;height:12px;border:1px solid var(--line)}.bar i{position:absolute;inset:0 auto 0 0;background:var(--same)}
.bar.drift i{background:var(--drift)}.bar b{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--ink)}
details{border-bottom:1px solid var(--line);padding:.3rem 0}summary{cursor:pointer}svg{width:100%;max-width:640px;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}pre{overflow:auto;padding:.6rem;border:1px solid var(--line)}code{overflow-wrap:anywhere}
"""


def place(file: Path | str) -> Path:
    """Where a report can be written.  Raises BadOption when its folder is not there."""
    file = Path(file).expanduser()
    if not file.parent.is_dir() or file.is_dir():
        raise BadOption(f"{file} cannot be written: {'it is a folder' if file.is_dir() else f'there is no folder {file.parent}'}.", hint="--html report.html")
    return file


def save(check: DriftCheck, file: Path | str) -> Path:
    """Write *check*, with its causes where they are known, to *file*; there whole or not at all.  Raises as `place`."""
    file = place(file)
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        scratch.write_text(as_page(check), encoding="utf-8")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
    return file.resolve()


def as_page(check: DriftCheck) -> str:
    """The whole page."""
    report = msgspec.convert(check.report, DriftReport)
    who = _(f"{check.endpoint}/{check.deployment}" if check.deployment else check.endpoint)
    parts = [
        _verdict(check, report, who),
        _moved(report),
        _causes(report.causes),
        _quality(report.quality),
        _features(report.features),
        _compared(check, report),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    return f'<!doctype html><html lang="en"><head>{head}<title>Drift of {who}</title><style>{_STYLE}</style></head><body>{"".join(parts)}</body></html>\n'


def _(text: object) -> str:
    return text_for("html", text)


# ── verdict ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _verdict(check: DriftCheck, report: DriftReport, who: str) -> str:
    told = {"drift": ("drift", f"◆ {who} has drifted"), "no drift": ("same", f"● {who} has not drifted")}
    tone, words = told.get(check.verdict, ("soft", f"○ {who}: {check.verdict}"))
    what = f"{_(report.differing)}." if report.drifted else f"{report.compared} features compared." if check.verdict == "no drift" else ""
    promise = f"<p>{_(_sentence(report.promise))}</p>" if report.promise else ""
    when = f"{_span(report.window.since, report.window.until)}, checked {_time(check.time)}"
    return f'<header><h1 class="{tone}">{words}</h1><p>{what}</p>{promise}<p class="soft">{report.window.rows:,} rows of requests, {when}</p></header>'


def _sentence(words: str) -> str:
    return words if words[:1].isupper() else f"This check {words}." if words.startswith("keeps") else f"Its thresholds allow {words}."


def _moved(report: DriftReport) -> str:
    shown = [feature for feature in report.features if feature.type != "not compared"]
    longest = max([0.2, *(feature.size for feature in shown)])
    rows = [
        _row(_link(number, feature), _bar(feature, longest), _mark(feature), _share(feature.size), _p(feature), _(feature.summary))
        for number, feature in enumerate(shown)
    ]
    return f"<h2>What moved</h2>{_table(['feature', '', 'verdict', 'moved', 'p corrected', 'what is seen'], rows)}"


def _link(number: int, feature: FeatureDrift) -> str:
    return f'<a href="#f{number}">{_(feature.name)}</a>'


def _bar(feature: FeatureDrift, longest: float) -> str:
    mark = f'<b style="left:{100 * feature.minimum_effect / longest:.1f}%"></b>' if 0 < feature.minimum_effect <= longest else ""
    return f'<div class="bar{" drift" if feature.is_drift else ""}"><i style="width:{100 * feature.size / longest:.1f}%"></i>{mark}</div>'


def _mark(feature: FeatureDrift) -> str:
    if feature.is_drift:
        return f'<span class="drift">◆ drift{", silenced" if feature.silenced else ""}</span>'
    if feature.is_small_change:
        return '<span class="same">● changed, less than counts</span>'
    return '<span class="soft">○ not tested</span>' if feature.test == "none" else '<span class="same">● same</span>'


def _p(feature: FeatureDrift) -> str:
    if feature.threshold is not None and feature.statistic is not None:
        return f"{feature.statistic:.3g} of {feature.threshold:.3g}"
    return "" if feature.p_adjusted is None else "&lt; 0.0001" if feature.p_adjusted < 0.0001 else f"{feature.p_adjusted:.4f}"


# ── why ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _causes(causes: dict[str, Any]) -> str:
    if not causes.get("features"):
        return ""
    since = [_row(_(f["feature"]), _share(f["effect"]), _began(f.get("began"))) for f in causes["features"]]
    where = [_segment(s) for s in causes["segments"]]
    costs = [_row(_(loss["metric"]), _number(loss["before"]), _interval(loss), _(loss["how"])) for loss in causes["losses"]]
    shown = [_row(f"<code>{_(e['request'])}</code>", str(e["row"]), _moment(e["time"]), _(_pairs(e["values"]))) for e in causes["examples"]]
    return "<h2>Why</h2>" + "".join(
        _table(columns, rows, caption)
        for caption, columns, rows in (
            ("Since when, with a 95 % interval", ["feature", "moved", "since"], since),
            ("Among which rows", ["change of", "among", "is", "of rows", "moved there", "moved elsewhere"], where),
            ("What it costs", ["measure", "before", "since (95 %)", "how"], costs),
            ("Requests that show it", ["request", "row", "time", "values"], shown),
        )
        if rows
    )


def _segment(found: dict[str, Any]) -> str:
    if found["kind"] == "mix":
        return _row(_(found["feature"]), _(found["segment"]), "another mix", "", f"explains {_share(found['inside'])} of the change", "")
    shares = (_share(found[name]) for name in ("rows", "inside", "outside"))
    return _row(_(found["feature"]), _(found["segment"]), {"moved": "moved", "new": "new"}[found["kind"]], *shares)


def _began(began: dict[str, Any] | None) -> str:
    if not began:
        return ""
    if began["from_first"]:
        return f"{_moment(began['time'])}, the first request that is kept"
    return f"{_moment(began['time'])} ({_moment(began['low'])} to {_moment(began['high'])})"


def _interval(loss: dict[str, Any]) -> str:
    around = f" ({_number(loss['low'])} to {_number(loss['high'])})" if loss["low"] is not None else ""
    return _number(loss["since"]) + around


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {f'{value:.6g}' if isinstance(value, float) else value}" for name, value in values.items())


def _quality(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    rows = [
        _row(_(f.feature), _(f.kind), '<span class="drift">◆ alarm</span>' if f.is_alarm else '<span class="soft">noted</span>', _(f.words)) for f in findings
    ]
    return f"<h2>The data themselves</h2>{_table(['feature', 'what', '', 'in words'], rows)}"


# ── each feature ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _features(features: Sequence[FeatureDrift]) -> str:
    shown = [feature for feature in features if feature.type != "not compared"]
    opened = {id(feature) for feature in [f for f in shown if f.is_drift][:_OPEN]}
    parts = [_feature(number, feature, opened=id(feature) in opened) for number, feature in enumerate(shown)]
    key = '<p class="soft"><span style="color:var(--before)">━ reference</span> &nbsp; <span style="color:var(--now)">╍ requests</span></p>'
    return f"<h2>Before and now</h2>{key}{''.join(parts)}"


def _feature(number: int, feature: FeatureDrift, *, opened: bool) -> str:
    silenced = f'<p class="soft">{_(feature.silenced)}</p>' if feature.silenced else ""
    test = f'<p class="soft">{_(feature.test)}{f", {_p(feature)}" if _p(feature) else ""}</p>' if feature.test != "none" else ""
    words = f"<strong>{_(feature.name)}</strong> {_mark(feature)} <span>{_(feature.summary)}</span>"
    return f'<details id="f{number}"{" open" if opened else ""}><summary>{words}</summary>{silenced}{test}{_drawing(feature)}</details>'


def _drawing(feature: FeatureDrift) -> str:
    shares = feature.histogram
    if not shares:
        return ""
    top = max([*shares["reference"], *shares["window"], 1e-9])
    drawn = _bars(shares, top) if "categories" in shares else _steps(shares, top)
    scale = f'<text x="{_LEFT - 4}" y="12" text-anchor="end">{_share(top)}</text><text x="{_LEFT - 4}" y="{_HEIGHT - _FOOT}" text-anchor="end">0</text>'
    axis = f'<path d="M{_LEFT} {_HEIGHT - _FOOT}H{_WIDTH}" stroke="var(--line)"/>'
    said = _(f"Shares of {feature.name} in the reference and in the requests")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">{axis}{scale}{drawn}</svg>'


def _steps(shares: dict[str, Any], top: float) -> str:
    edges = shares["edges"]
    span = (edges[-1] - edges[0]) or 1.0
    x = [_LEFT + (_WIDTH - _LEFT) * (edge - edges[0]) / span for edge in edges]
    before, now = (_path(x, [_y(share, top) for share in shares[side]]) for side in ("reference", "window"))
    ends = f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{edges[0]:.5g}</text><text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">{edges[-1]:.5g}</text>'
    ground = f"V{_HEIGHT - _FOOT}H{_LEFT}Z"
    line = 'fill="none" stroke-width="2" stroke="var(--'
    lines = f'<path d="{before}" {line}before)"/><path d="{now}" {line}now)" stroke-dasharray="5 3"/>'
    return f'<path d="{before}{ground}" fill="var(--before)" opacity=".18"/>{lines}{ends}'


def _path(x: Sequence[float], y: Sequence[float]) -> str:
    return f"M{x[0]:.0f} {_HEIGHT - _FOOT}" + "".join(f"V{height:.1f}H{right:.1f}" for right, height in zip(x[1:], y, strict=True))


def _bars(shares: dict[str, Any], top: float) -> str:
    each = (_WIDTH - _LEFT) / max(len(shares["categories"]), 1)
    return "".join(
        _category(_LEFT + place * each, each, name, shares["reference"][place], shares["window"][place], top) for place, name in enumerate(shares["categories"])
    )


def _category(x: float, width: float, name: str | None, before: float, now: float, top: float) -> str:
    word = "(rare ones)" if name is None else name
    most = max(2, int(width / 7))
    label = _(word if len(word) <= most else word[: most - 1] + "…")
    sides = [_rectangle(x + width * left, _y(share, top), width * 0.38, colour) for left, share, colour in ((0.1, before, "before"), (0.5, now, "now"))]
    title = f"<title>{_(word)}: {_share(before)} → {_share(now)}</title>"
    return f'<g>{title}{"".join(sides)}<text x="{x + width / 2:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{label}</text></g>'


def _rectangle(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_HEIGHT - _FOOT - y:.1f}" fill="var(--{colour})"/>'


def _y(share: float, top: float) -> float:
    return _HEIGHT - _FOOT - (_HEIGHT - _FOOT - 8) * share / top


# ── what was compared ────────────────────────────────────────────────────────────────────────────────────────────────


def _compared(check: DriftCheck, report: DriftReport) -> str:
    reference, window = report.reference, report.window
    rows = [
        ("reference", f"{check.dataset} ({reference.kind}), {reference.rows:,} rows{_sampled(reference.compared, reference.rows)}"),
        ("requests", f"{window.rows:,} rows{_sampled(window.compared, window.rows)}, {_span(window.since, window.until)}"),
        ("by", report.how),
        ("check", check.id),
    ]
    facts = "".join(f'<tr><th scope="row">{_(name)}</th><td>{_(value)}</td></tr>' for name, value in rows)
    notes = "".join(f"<p>{_(note)}</p>" for note in [*report.notes, *report.causes.get("notes", [])])
    line = again(check, report)
    return f"<h2>What was compared</h2><table>{facts}</table>{notes}" + (f"<h2>Again</h2><pre>{_(line)}</pre>" if line else "")


def again(check: DriftCheck, report: DriftReport) -> str:
    """The line that makes this check anew, of what is kept since the same moment; empty beside a season, which by then is another one."""
    from .detectors import NAMES

    detector, reference = report.engine.split(" ")[0], report.reference
    past = f"--reference {_said(reference.since)}..{_said(reference.until)}" if reference.since and reference.until else ""
    if not past and (reference.kind == "past requests" or " in " in (reference.dataset or "")):
        return ""
    words = [f"--deployment {check.deployment}"] if check.deployment else []
    words += [past] if past else [f"--dataset {check.dataset}"] if reference_is_a_dataset(report) else []
    words += [f"--since {report.window.since:%Y-%m-%dT%H:%M:%S}"] if report.window.since else []
    words += [f"--{option} {word}" for option, word in report.asked.items()]
    words += [f"--detector {detector}"] if detector in NAMES and detector != "histograms" else [f"--engine {check.engine}"]
    return " ".join([f"%mlops drift {check.endpoint}", *words])


def _said(time: datetime) -> str:
    return time.astimezone(UTC).replace(tzinfo=None).isoformat()


def reference_is_a_dataset(report: DriftReport) -> bool:
    """Whether the reference is a data set as it is, which a line can name."""
    name = report.reference.dataset or ""
    return report.reference.kind == "training data" and ":" in name and " " not in name


def _sampled(compared: int, rows: int) -> str:
    return "" if compared >= rows else f", of which {compared:,} were compared"


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(columns: Sequence[str], rows: Iterable[str], caption: str = "") -> str:
    heads = "".join(f'<th scope="col">{_(name)}</th>' for name in columns)
    title = f"<caption>{_(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(*cells: str) -> str:
    """A row of cells that are HTML already."""
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _share(share: float) -> str:
    return f"{share:.1%}" if share else "0"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _span(since: datetime | None, until: datetime | None) -> str:
    return f"{_time(since)} to {_time(until)}" if since and until else ""


def _time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _moment(text: str) -> str:
    return _(_time(datetime.fromisoformat(text)))
