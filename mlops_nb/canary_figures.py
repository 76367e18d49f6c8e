"""What a canary saw, drawn and told from its stored evidence alone."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from .canary import Evidence, Look, evidence_of
from .safety import text_for

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from .store.rollouts import Rollout

_SIDES = (("candidate", "#d9622b", "rgba(217,98,43,0.22)", "square"), ("the others", "#2f7ed8", "rgba(47,126,216,0.22)", "circle"))
_GUARDS = ("#1a936f", "#b4569c", "#8d6e00", "#5b6ee1", "#d9622b", "#2f7ed8")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_QUIET, _GRID = "#8a8f98", "rgba(138, 143, 152, 0.25)"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One guard at the latest look."""

    guard: str
    seen: str
    """What was seen, such as `error_rate 4.10% of 512, the others 1.00% of 9,802`."""
    evidence: float
    """How many times better the numbers fit a broken guard than one that is kept: 1 or less says nothing."""
    refuted_at: float
    """The candidate is rolled back once the evidence reaches this."""
    violated: bool
    beyond: bool = False
    """Whether what was seen lies beyond its bound, proven or not."""
    known: bool = True
    """Whether anything came that it could be judged by: answers of the candidate, or labels of them."""

    @property
    def verdict(self) -> str:
        """`kept`; `violated`, or `beyond, not proven` while chance may explain it; `not tested` while there is nothing to judge it by."""
        if self.violated or not self.known:
            return "violated" if self.violated else "not tested"
        return "beyond, not proven" if self.beyond else "kept"

    @property
    def share(self) -> float:
        """How far on the way to a rollback, 0 to 1, on the scale of logarithms that the figure has."""
        return min(1.0, max(0.0, math.log(self.evidence) / math.log(self.refuted_at)))

    @property
    def words(self) -> str:
        """`3.1 of 40`, as people read it."""
        return f"{_odds(self.evidence)} of {_odds(self.refuted_at)}"


def judged(rollout: Rollout) -> list[Judged]:
    """Every guard of a canary with its evidence; none before the first look."""
    found = evidence_of(rollout)
    if not found.trail:
        return []
    seen, latest = found.verdict.split("; "), found.trail[-1].evidence
    return [
        Judged(
            guard=guard,
            seen=words,
            evidence=_ratio(latest[guard]),
            refuted_at=_ratio(found.level),
            violated=latest[guard] >= found.level,
            beyond=guard in found.beyond,
            known=_known(found, guard),
        )
        for guard, words in zip(latest, [*seen, *[""] * len(latest)], strict=False)
    ]


def _known(found: Evidence, guard: str) -> bool:
    by_labels = [stage.told[guard] for stage in found.stages if guard in stage.told]
    return any(mine.count for mine, _ in by_labels) if by_labels else bool(found.stages[-1].candidate.requests)


def told(rollout: Rollout) -> str:
    """The latest look in a sentence, for those who cannot see the figure; empty before the first look."""
    found = evidence_of(rollout)
    if not found.trail:
        return ""
    guards = ", ".join(f"{one.guard} {one.words}{' (violated)' * one.violated}" for one in judged(rollout))
    return f"{rates_told(found)} Evidence against each guard, and where it rolls back: {guards}."


def rates_told(found: Evidence) -> str:
    """`At 25 % the candidate's error rate lies in 0.0–1.4 %, the others' in 0.1–0.6 %.`"""
    look = found.trail[-1]
    if len(look.rates) != 4:
        return ""
    mine, others = (f"{low:.1%}–{high:.1%}" for low, high in (look.rates[:2], look.rates[2:]))
    return f"At {look.percent} % of the requests the candidate's error rate lies in {mine}, the others' in {others} (95 %, at all times at once)."


def figure(rollout: Rollout) -> go.Figure:
    """Above, the error rates' confidence sequences by stage; below, the evidence against each guard on its way to the level that rolls back."""
    from plotly.subplots import make_subplots

    found = evidence_of(rollout)
    titles = ("Error rate, %: within these bounds at all times at once, with 95 %", "Evidence against each guard (at 100 % it rolls back)")
    drawn = make_subplots(rows=2, cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.13)
    for number, looks in enumerate(_stages(found)):
        for side in (0, 1):
            _add_bounds(drawn, looks, side, named=number == 0)
        drawn.add_vline(x=looks[0].time, line={"color": _QUIET, "dash": "dot", "width": 1}, row="all", col=1)
        drawn.add_annotation(x=looks[0].time, y=1, yref="y domain", text=f"{looks[0].percent} %", showarrow=False, xanchor="left", yanchor="top")
    _add_evidence(drawn, found)
    drawn.update_xaxes(showgrid=False)
    drawn.update_yaxes(rangemode="tozero", gridcolor=_GRID, ticksuffix=" %")
    drawn.update_yaxes(range=[0, _worth_seeing(found)], row=1, col=1)
    for title in drawn.layout.annotations[:2]:
        title.update(font_size=13, x=0.0, xanchor="left")
    legend = {"orientation": "h", "y": 1.08, "yanchor": "bottom", "x": 1, "xanchor": "right"}
    margin = {"l": 8, "r": 8, "t": 84, "b": 8}
    drawn.update_layout(height=460, legend=legend, margin=margin, hovermode="x unified", uirevision=rollout.id)
    return drawn


def _stages(found: Evidence) -> list[list[Look]]:
    return [list(looks) for _, looks in groupby(found.trail, key=lambda look: look.percent)]


def _worth_seeing(found: Evidence) -> float:
    """Where the axis of rates ends: the first looks, which know next to nothing, may reach beyond."""
    ends = [looks[-1].rates[end] * 100 for looks in _stages(found) if len(looks[-1].rates) == 4 for end in (1, 3)]
    return min(100.0, 2.5 * max(ends, default=40.0))


def _add_bounds(drawn: go.Figure, looks: list[Look], side: int, *, named: bool) -> None:
    """A band between the lower and the upper end, for one side in one stage."""
    name, colour, fill, shape = _SIDES[side]
    times = [look.time for look in looks if len(look.rates) == 4]
    for end, words in ((0, "at least"), (1, "at most")):
        ends = [look.rates[2 * side + end] * 100 for look in looks if len(look.rates) == 4]
        drawn.add_scatter(
            x=times, y=ends, mode="lines+markers" if len(times) <= 30 else "lines", line={"color": colour, "width": 1.5}, marker={"symbol": shape, "size": 5},
            name=name, legendgroup=name, showlegend=named and end == 1, fill="tonexty" if end else None, fillcolor=fill,
            hovertemplate=f"{words} %{{y:.2f}}<extra>{name}</extra>", row=1, col=1,
        )  # fmt: skip


def _add_evidence(drawn: go.Figure, found: Evidence) -> None:
    times = [look.time for look in found.trail]
    for number, guard in enumerate(found.trail[-1].evidence if found.trail else ()):
        label = text_for("html", guard)
        shares = [100 * max(0.0, look.evidence.get(guard, 0.0)) / found.level for look in found.trail]
        line = {"color": _GUARDS[number % len(_GUARDS)], "dash": _DASHES[number % len(_DASHES)], "width": 2}
        drawn.add_scatter(x=times, y=shares, mode="lines", name=label, line=line, hovertemplate=f"%{{y:.0f}}<extra>{label}</extra>", row=2, col=1)
    drawn.add_hline(y=100, line={"color": "#c8102e", "width": 1.5}, row=2, col=1)


def _ratio(logarithm: float) -> float:
    return math.exp(min(logarithm, 500.0))


def _odds(ratio: float) -> str:
    return "over a million" if ratio >= 1e6 else f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
