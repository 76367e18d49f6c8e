"""The picture of a split: an endpoint, and its requests on their way to its deployments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import parts
import queries
from figures import KIND_LOOKS

from mlops_nb.safety import text_for

if TYPE_CHECKING:
    import plotly.graph_objects as go

_QUIET, _FLOW, _COPIES = "#8a8f98", "rgba(47, 126, 216, 0.55)", "rgba(180, 86, 156, 0.8)"
_LEFT, _RIGHT, _HALF_HEIGHT = 0.16, 0.62, 0.38
_WIDEST, _ROW = 26.0, 78
"""Pixels: of the line that carries all requests, and of a row."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What one deployment should get of the requests, and what it got."""

    name: str
    model: str
    status: str
    runs_on: str
    planned: int
    measured: float | None
    """Percent; None where nobody asked."""
    requests: int
    copies: int

    @property
    def words(self) -> str:
        """`planned 10 %, got 9.6 % of the requests (1,204)`."""
        got = "no request yet" if self.measured is None else f"got {self.measured:.1f} % of the requests ({self.requests:,})"
        return f"planned {self.planned} %, {got}" + (f", copies of {self.copies} %" if self.copies else "")


def ways(split: queries.Split, totals: Mapping[str, Mapping[str, Any]]) -> list[Way]:
    """A way for each deployment that stands, the largest planned share first."""
    copies = split.changes[0].mirrors if split.changes else {}
    found = [_way(d, queries.standing(d, split.untried), split.wanted.get(d.name, 0), totals, copies.get(d.name, 0)) for d in split.deployments]
    return sorted(found, key=lambda way: (-way.planned, way.name))


def _way(d: queries.Deployment, status: str, planned: int, totals: Mapping[str, Mapping[str, Any]], copies: int) -> Way:
    seen = totals.get(d.name, {})
    measured = seen.get("share", 0.0) * 100 if totals else None
    requests = seen.get("requests", 0)
    place = f"{d.target} · {parts.runs_on(d)}"
    return Way(name=d.name, model=d.model_ref, status=status, runs_on=place, planned=planned, measured=measured, requests=requests, copies=copies)


def told(endpoint: str, drawn: Sequence[Way]) -> str:
    """The picture in words."""
    return f"{endpoint}'s requests: " + "; ".join(f"{way.name} ({way.model}, {way.status}) {way.words}" for way in drawn)


def figure(endpoint: str, drawn: Sequence[Way]) -> go.Figure:
    """The endpoint on the left, a line to each deployment as wide as its share: measured where somebody asked, else planned; copies are dashed."""
    import plotly.graph_objects as go

    picture = go.Figure()
    middle = -(len(drawn) - 1) / 2
    for row, way in enumerate(drawn):
        _add_line(picture, middle, -row, way)
        _add_deployment(picture, -row, way)
    _add_box(picture, 0.0, _LEFT, middle, f"<span style='font-size:11px'>⬢ endpoint</span><br><b>{_short(endpoint, 18)}</b>", KIND_LOOKS["endpoint"][1])
    picture.update_xaxes(visible=False, range=[-0.01, 1.01], fixedrange=True)
    picture.update_yaxes(visible=False, range=[-len(drawn) + 0.45, 0.55], fixedrange=True)
    clear = "rgba(0, 0, 0, 0)"
    margin = {"l": 0, "r": 0, "t": 0, "b": 0}
    picture.update_layout(height=max(1, len(drawn)) * _ROW + 10, margin=margin, paper_bgcolor=clear, plot_bgcolor=clear, showlegend=False)
    return picture


def _add_line(picture: go.Figure, start: float, end: float, way: Way) -> None:
    share = way.planned if way.measured is None else way.measured
    bend = (_LEFT + _RIGHT) / 2
    path = f"M {_LEFT},{start} C {bend},{start} {bend},{end} {_RIGHT},{end}"
    line = {"color": _FLOW, "width": max(1.5, _WIDEST * share / 100)} if share else {"color": _QUIET, "width": 1, "dash": "dot"}
    picture.add_shape(type="path", path=path, line=line, layer="below")
    if way.copies:
        path = f"M {_LEFT},{start - 0.16} C {bend},{start - 0.16} {bend},{end - 0.26} {_RIGHT},{end - 0.26}"
        picture.add_shape(type="path", path=path, line={"color": _COPIES, "width": 2, "dash": "dash"}, layer="below")
    got = "" if way.measured is None else f" · got {way.measured:.1f} %"
    copies = f"<br>copies {way.copies} %" * bool(way.copies)
    picture.add_annotation(
        x=_RIGHT - 0.01,
        y=end + 0.02 + _WIDEST * share / 200 / _ROW,
        text=f"plan {way.planned} %{got}{copies}",
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
    )


def _add_deployment(picture: go.Figure, row: float, way: Way) -> None:
    sort = f"<span style='font-size:11px'>{text_for('html', parts.marked(way.status))} · {_short(way.runs_on, 26)}</span>"
    text = f"<b>{_short(way.name, 20)}</b> {_short(way.model, 24)}<br>{sort}"
    _add_box(picture, _RIGHT, 1.0, row, text, KIND_LOOKS["deployment"][1] if way.status in parts.MARKS and way.status != "stopped" else "#5f6670")


def _add_box(picture: go.Figure, left: float, right: float, row: float, text: str, colour: str) -> None:
    picture.add_shape(type="rect", x0=left, x1=right, y0=row - _HALF_HEIGHT, y1=row + _HALF_HEIGHT, fillcolor=colour, line={"color": colour, "width": 1})
    picture.add_annotation(x=(left + right) / 2, y=row, text=text, showarrow=False, font={"color": "#ffffff", "size": 13}, align="center")


def _short(text: str, most: int) -> str:
    return text_for("html", text if len(text) <= most else f"{text[: most - 1]}…")
