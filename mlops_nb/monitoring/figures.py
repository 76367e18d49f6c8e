"""Drift, drawn from a stored check alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import FeatureNotFound
from ..store.checks import DriftCheck
from .reports import DriftReport, FeatureDrift

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DRIFT, _SAME, _UNTESTED = "#c2410c", "#0f766e", "#6b7280"
_REFERENCE, _WINDOW = "#64748b", "#2563eb"
_MARKS = {"drift": (_DRIFT, "diamond", "◆"), "no drift": (_SAME, "circle", "●"), "not tested": (_UNTESTED, "circle-open", "○")}
_LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"}
_LAYOUT = {"margin": {"l": 10, "r": 20, "t": 90, "b": 50}, "legend": _LEGEND}
_MOST = 40


def figure(check: DriftCheck) -> go.Figure:
    """Each feature's effect against the smallest that counts, the verdict told by colour and by symbol; the forty largest effects."""
    import plotly.graph_objects as go

    report = msgspec.convert(check.report, DriftReport)
    shown = report.features[:_MOST]
    label = dict(zip([f.name for f in shown], short_names([f.name for f in shown]), strict=True))
    drawn = go.Figure()
    for verdict, (colour, symbol, _) in _MARKS.items():
        these = [f for f in shown if _verdict(f) == verdict]
        if these:
            marker = {"color": colour, "symbol": symbol, "size": 12, "line": {"width": 2, "color": colour}}
            effects, labels, words = [_length(f) for f in these], [label[f.name] for f in these], [_hover(f) for f in these]
            to_zero = {"array": [0.0] * len(these), "arrayminus": effects, "width": 0, "thickness": 2, "color": colour}
            drawn.add_scatter(
                x=effects, y=labels, mode="markers", cliponaxis=False, name=verdict, marker=marker, text=words, hovertemplate="%{text}<extra></extra>",
                error_x=to_zero,
            )  # fmt: skip
    smallest = max((f.minimum_effect for f in shown), default=0)
    if smallest:
        drawn.add_vline(x=smallest, line={"dash": "dot", "color": _UNTESTED}, annotation_text=f"smallest effect that counts: {smallest:g}")
    drawn.update_layout(
        title={"text": _title(check, report)},
        xaxis={"title": "share of rows that lies elsewhere now", "range": [0, max([0.2, *(_length(f) * 1.1 for f in shown)])], "tickformat": ".0%"},
        yaxis={"type": "category", "categoryorder": "array", "categoryarray": [label[f.name] for f in reversed(shown)], "automargin": True},
        height=140 + 26 * max(len(shown), 3),
        **_LAYOUT,
    )
    return drawn


def _title(check: DriftCheck, report: DriftReport) -> str:
    drifted = [f for f in report.features if f.is_drift]
    tested = [f for f in report.features if f.test != "none" or f.is_drift]
    who = f"{check.endpoint}/{check.deployment}" if check.deployment else check.endpoint
    if not tested:
        return f"○ No verdict for {_text(who)}"
    if any(f.is_together for f in tested):
        words = f"◆ All features of {_text(who)} together drift" if drifted else f"● No drift in all features of {_text(who)} together"
    else:
        some = f"◆ {len(drifted)} of {len(tested)} features of {_text(who)} drift"
        words = some if drifted else f"● No drift in {len(tested)} features of {_text(who)}"
    return f"{words}<br><sup>{report.window.rows:,} rows against {_text(check.dataset)} · {_text(report.how)}</sup>"


def _verdict(feature: FeatureDrift) -> str:
    return "drift" if feature.is_drift else "not tested" if feature.test == "none" else "no drift"


def _length(feature: FeatureDrift) -> float:
    """The effect that decided: of the values, or the change of missing ones where that is larger."""
    return max(feature.effect or 0.0, abs(feature.missing_window - feature.missing_reference))


def _hover(feature: FeatureDrift) -> str:
    p = "" if feature.p_adjusted is None else f"<br>{feature.test}, corrected p = {feature.p_adjusted:.2g}"
    effect = "" if feature.effect is None else f"<br>{feature.effect_name} {feature.effect:.3f}"
    return f"<b>{_text(feature.name)}</b> — {_verdict(feature)}<br>{_text(feature.summary)}{p}{effect}"


def distribution_figure(check: DriftCheck, feature: str) -> go.Figure:
    """How *feature* was distributed in the training data and is in the window.  Raises FeatureNotFound."""
    import plotly.graph_objects as go

    report = msgspec.convert(check.report, DriftReport)
    found = next((f for f in report.features if f.name == feature), None)
    if found is None:
        raise FeatureNotFound(feature, known=[f.name for f in report.features])
    drawn = go.Figure()
    reference = f"{report.reference.kind} {check.dataset}".removeprefix("past requests ")
    for side, name, colour in (("reference", reference, _REFERENCE), ("window", "requests", _WINDOW)):
        if found.histogram:
            _add_side(drawn, found.histogram, side, _text(name), colour)
    mark = _MARKS[_verdict(found)][2]
    drawn.update_layout(
        title={"text": f"{mark} {_text(found.name)} — {_verdict(found)}<br><sup>{_text(found.summary)}</sup>"},
        yaxis={"title": "share of rows", "tickformat": ".0%"},
        barmode="group",
        bargap=0.2,
        height=360,
        **_LAYOUT,
    )
    return drawn


def _add_side(drawn: go.Figure, histogram: dict[str, Any], side: str, name: str, colour: str) -> None:
    """Bars for categories; for numbers a stepped line, the reference filled."""
    shares = histogram[side]
    if "categories" in histogram:
        labels = short_names(["(rare ones)" if category is None else category for category in histogram["categories"]])
        pattern = {"shape": "/" if side == "window" else ""}
        drawn.add_bar(x=labels, y=shares, name=name, marker={"color": colour, "pattern": pattern}, hovertemplate="%{x}: %{y:.1%}<extra>" + name + "</extra>")
        drawn.update_xaxes(type="category")
        return
    line = {"shape": "hv", "color": colour, "width": 2, "dash": "solid" if side == "reference" else "dash"}
    fill = "tozeroy" if side == "reference" else None
    drawn.add_scatter(
        x=histogram["edges"], y=[*shares, shares[-1]], name=name, mode="lines", line=line, fill=fill, hovertemplate="%{x}: %{y:.1%}<extra>" + name + "</extra>"
    )


def _text(words: str) -> str:
    """*words* as Plotly shows them: its titles, labels and hovers read a little HTML, and a user's name must not."""
    from ..safety import text_for

    return text_for("html", words)


def short_names(names: Iterable[str], most: int = 40) -> list[str]:
    """Names as Plotly shows them, cut to about so many letters; those that begin alike are numbered, so that none is drawn upon another."""
    times: Counter[str] = Counter()
    shown = []
    for name in names:
        short = name if len(name) <= most else name[: most - 1] + "…"
        times[short] += 1
        shown.append(_text(short if times[short] == 1 else f"{short} ({times[short]})"))
    return shown
