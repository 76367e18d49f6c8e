"""Drift by feature and time: the picture, the choices that go with it, and one cell of it as distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import parts
import queries
import streamlit as st

from mlops_nb import monitoring, store
from mlops_nb.errors import MlopsError
from mlops_nb.monitoring import DriftMap
from mlops_nb.monitoring.figures import short_names

if TYPE_CHECKING:
    import plotly.graph_objects as go

WINDOWS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "6h": 21_600, "1d": 86_400, "7d": 604_800}
SPANS = {"1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000, "90d": 7_776_000, "365d": 31_536_000}
FEWEST, MOST = 6, 120
"""Windows in one picture."""
MEASURES = {
    "moved": "share of rows that lies elsewhere than in the training data, less what chance explains (95 %)",
    "missing": "share of rows without a value",
    "new": "share of rows with a value beyond the range or of no category of the training data",
}
_ROWS = 40
_BELOW, _ABOVE = ("rgba(138, 143, 152, 0.12)", "rgba(138, 143, 152, 0.45)"), ("#fdbe85", "#e6550d", "#7f2704")
_ALARM = "#1d2433"


def show(endpoint: str, deployments: Sequence[queries.Deployment]) -> None:
    """The map with its choices, and below it the chosen cell; where nothing can be compared, why."""
    first = queries.first_asked(endpoint)
    if first is None:
        parts.nothing_yet("Nobody asked yet.", f"%mlops invoke {endpoint} --data X.head()")
        return
    window, span = _lengths(first)
    measure = parts.asked("measure", MEASURES, otherwise="moved")
    everywhere = parts.ALL == parts.asked("target", otherwise=parts.ALL) == parts.asked("hardware", otherwise=parts.ALL)
    among = None if everywhere else tuple(d.name for d in parts.filtered(deployments))
    back = _back()
    try:
        found = queries.drift_map(
            endpoint, seconds=WINDOWS[window], span=SPANS[span], back=back, among=among, column=parts.asked("segment"), value=parts.asked("value")
        )
    except MlopsError as error:
        parts.mistake(error)
        return
    _choose(found, window, span, measure)
    _move(found, span, back)
    if not found.slots:
        parts.nothing_yet("Nobody asked in this time.", f"%mlops invoke {endpoint} --data X.head()")
        return
    if found.features:
        _show_map(found, measure)
    _show_skipped(found)
    if found.features:
        _show_cell(found)


# ── choices ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _lengths(first: datetime) -> tuple[str, str]:
    """Window and span as the URL says; else a span that reaches back to the first request, in some dozens of windows."""
    age = (store.now() - first).total_seconds()
    span = parts.asked("span", SPANS, otherwise=next((name for name, seconds in SPANS.items() if seconds >= age), "365d"))
    fitting = _fitting(span)
    return parts.asked("window", fitting, otherwise=next((name for name in fitting if SPANS[span] / WINDOWS[name] <= 30), fitting[-1])), span


def _fitting(span: str) -> list[str]:
    return [name for name, seconds in WINDOWS.items() if FEWEST <= SPANS[span] / seconds <= MOST]


def _back() -> int:
    """How many spans before now the picture ends."""
    told = parts.asked("back", otherwise="0")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 5 else 0


def _choose(found: DriftMap, window: str, span: str, measure: str) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        parts.choose("Window", _fitting(span), param="window", value=window, width=110)
        parts.choose("Span", list(SPANS), param="span", value=span, width=110)
        column = found.part.column if found.part else parts.ALL
        parts.choose("Segment", [parts.ALL, *found.parts], param="segment", value=column, width=180)
        if found.part:
            values = found.parts[found.part.column]
            parts.choose("Value", values, param="value", value=found.part.value, width=180)
        parts.switch("Colour", list(MEASURES), param="measure", value=measure)


def _move(found: DriftMap, span: str, back: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Earlier", icon=":material/chevron_left:", on_click=_go, args=(back + 1,), key="heat-earlier")
        st.button("Later", icon=":material/chevron_right:", disabled=back == 0, on_click=_go, args=(back - 1,), key="heat-later")
        among = f", told by one request in {round(1 / found.share):,} (`%mlops drift` counts all)" if found.share else ""
        told = f"{sum(slot.rows for slot in found.slots):,} rows{among} in {len(found.slots)} windows, {span} up to {f'{back} × {span} ago' if back else 'now'}"
        st.caption(parts.plain(f"{told}, against {found.dataset} of {found.model}{f', {found.part} on both sides' if found.part else ''}"), width="content")


def _go(back: int) -> None:
    st.query_params["back"] = str(back)
    st.query_params.pop("at", None)


# ── the map ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _show_map(found: DriftMap, measure: str) -> None:
    st.plotly_chart(
        figure(found, measure), key="heat", alt=told(found), on_select=_take, selection_mode="points", config={"displayModeBar": False}
    )  # fmt: skip
    st.caption(parts.plain(f"Colour: {MEASURES[measure]}; grey up to {found.effect:.0%}, the smallest effect that counts. ◆ is an alarm: it {found.promise}."))


def _show_skipped(found: DriftMap) -> None:
    """What is not on the map, and why."""
    for why, names in found.skipped.items():
        st.caption(f":material/info: {parts.plain(f'Not compared ({why}): {listed(names)}.')}")


def _take() -> None:
    """A cell was clicked: it goes into the URL."""
    points = st.session_state["heat"]["selection"]["points"]
    if points:
        st.query_params["cell"], st.query_params["at"] = points[0]["customdata"][:2]


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names, the rest counted."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def told(found: DriftMap) -> str:
    """The map in words."""
    alarms = [(cell.feature, slot) for slot in found.slots for cell in slot.cells if cell.alarm]
    said = f"Drift of {len(found.features)} features in {len(found.slots)} windows of {found.endpoint}: "
    if not alarms:
        return f"{said}no alarm"
    names = list(dict.fromkeys(name for name, _ in alarms))
    return f"{said}{len(alarms)} alarms, in {listed(names)}; the first in the window from {min(slot.begin for _, slot in alarms):%Y-%m-%d %H:%M}"


def figure(found: DriftMap, measure: str = "moved") -> go.Figure:
    """Features × windows, the forty with most alarms; a diamond on each alarm."""
    import plotly.graph_objects as go

    names, times = _rows(found), _times(found)
    half = timedelta(seconds=found.seconds / 2)
    cells = {(cell.feature, slot.begin): (cell, slot) for slot in found.slots for cell in slot.cells}
    shown = [(name, time, *cells[name, time]) for name in names for time in times if (name, time) in cells]
    label = dict(zip(names, short_names(names, most=32), strict=True))
    shares = [[_share(cells.get((name, time)), measure) for time in times] for name in names]
    drawn = go.Figure()
    _add_colours(drawn, list(label.values()), [time + half for time in times], shares, found.effect)
    _add_places(drawn, [(label[one[0]], *one) for one in shown], half)
    _add_alarms(drawn, [(label[name], time + half) for name, time, cell, _ in shown if cell.alarm])
    drawn.update_xaxes(showgrid=False, range=[times[0], times[-1] + 2 * half])
    drawn.update_yaxes(type="category", autorange="reversed", showgrid=False, automargin=True, tickmode="array", tickvals=list(label.values()))
    drawn.update_layout(height=90 + 24 * max(len(names), 4), margin={"l": 8, "r": 8, "t": 16, "b": 8}, hovermode="closest", clickmode="event+select")
    return drawn


def _add_colours(drawn: go.Figure, labels: Sequence[str], middles: Sequence[datetime], shares: Sequence[Sequence[float | None]], effect: float) -> None:
    most = max(0.2, *(share for row in shares for share in row if share is not None), effect * 2)
    drawn.add_heatmap(
        x=middles, y=labels, z=shares, zmin=0, zmax=most, colorscale=_colours(effect / most), xgap=1, ygap=1, hoverinfo="skip",
        colorbar={"tickvals": [effect, most], "ticktext": [f"{effect:.0%} counts", f"{most:.0%}"], "thickness": 12},
    )  # fmt: skip


def _add_places(drawn: go.Figure, shown: Sequence[tuple[str, str, datetime, Any, Any]], half: timedelta) -> None:
    """An unseen mark on each cell, which is what a pointer finds and a press chooses: a heatmap's own cells cannot be chosen."""
    drawn.add_scatter(
        x=[time + half for _, _, time, *_ in shown], y=[label for label, *_ in shown], mode="markers", showlegend=False, name="",
        marker={"symbol": "square", "size": 18, "color": "#000000", "opacity": 0}, unselected={"marker": {"opacity": 0}},
        selected={"marker": {"opacity": 0}}, customdata=[_custom(*one) for one in shown],
        hovertemplate="<b>%{customdata[2]}</b>, %{customdata[3]}<br>%{customdata[4]}<extra></extra>",
    )  # fmt: skip


def _add_alarms(drawn: go.Figure, alarms: Sequence[tuple[str, datetime]]) -> None:
    if alarms:
        drawn.add_scatter(
            x=[time for _, time in alarms], y=[label for label, _ in alarms], mode="markers", name="alarm", hoverinfo="skip", showlegend=False,
            marker={"symbol": "diamond", "size": 9, "color": "#ffffff", "line": {"width": 1.5, "color": _ALARM}},
            unselected={"marker": {"opacity": 1}},
        )  # fmt: skip


def _rows(found: DriftMap) -> list[str]:
    """The inputs with most alarms, and below them every prediction and label."""
    answers = [name for name in found.features if name in found.sides]
    return [*[name for name in found.features if name not in found.sides][: max(_ROWS - len(answers), 1)], *answers]


def _times(found: DriftMap) -> list[datetime]:
    """Every window from the first to the last that was asked something."""
    begin, end = found.slots[0].begin, found.slots[-1].begin
    return [begin + timedelta(seconds=found.seconds * n) for n in range(int((end - begin).total_seconds() // found.seconds) + 1)]


def _share(found: Any, measure: str) -> float | None:
    if found is None:
        return None
    cell = found[0]
    return {"moved": None if cell.effect is None else max(cell.at_least, 0.0), "missing": cell.missing, "new": cell.new}[measure]


def _colours(counts: float) -> list[tuple[float, str]]:
    """Greys up to where an effect counts, oranges above."""
    return [(0.0, _BELOW[0]), (counts, _BELOW[1]), (min(counts + 1e-6, 1.0), _ABOVE[0]), ((1 + counts) / 2, _ABOVE[1]), (1.0, _ABOVE[2])]


def _custom(label: str, name: str, time: datetime, cell: Any, slot: Any) -> list[str]:
    moved = "too few rows to tell" if cell.effect is None else f"{cell.effect:.1%} lies elsewhere, {max(cell.at_least, 0.0):.1%} at least"
    alarm = f"<br>◆ alarm: {cell.kind}{f', {cell.span} windows together' if cell.span > 1 else ''}" if cell.alarm else ""
    words = f"{moved} of {slot.rows:,} rows<br>missing {cell.missing:.1%}, new {cell.new:.1%}{alarm}"
    return [name, time.isoformat(), label, f"{time:%Y-%m-%d %H:%M}", words]


# ── one cell ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _show_cell(found: DriftMap) -> None:
    """The chosen feature in the chosen window, beside the training data; without a choice the latest alarm."""
    alarms = [(cell.feature, slot) for slot in reversed(found.slots) for cell in slot.cells if cell.alarm and cell.effect is not None]
    latest = next(iter(alarms), (found.features[0], found.slots[-1]))
    names = {slot.begin.isoformat(): f"{slot.begin:%Y-%m-%d %H:%M} · {slot.rows:,} rows{_alarms(slot.cells)}" for slot in reversed(found.slots)}
    at = parts.asked("at", names, otherwise=latest[1].begin.isoformat())
    feature = parts.asked("cell", found.features, otherwise=latest[0])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        parts.choose("Feature of the map", found.features, param="cell", value=feature, width=260)
        parts.choose("In the window from", list(names), param="at", value=at, format_func=names.__getitem__, width=340)
    check = monitoring.window_check(found, datetime.fromisoformat(at))
    if check is None:
        return
    left, right = st.columns(2)
    with left:
        words = f"How {feature} was distributed in the training data and is in this window"
        parts.chart(monitoring.distribution_figure(check, feature), key="cell", alt=words)
    with right:
        parts.chart(monitoring.figure(check), key="cell-effects", alt="Effect of each feature in this window; the table below has the numbers")
    _show_quality(queries.report_of(check))


def _alarms(cells: Sequence[Any]) -> str:
    count = sum(cell.alarm for cell in cells)
    return f" · ◆ {count}" if count else ""


def _show_quality(report: monitoring.DriftReport) -> None:
    """Missing and new values by feature, what alarms first."""
    st.markdown("**Data quality of this window**")
    rows: list[Mapping[str, Any]] = [
        {
            "feature": one.name,
            "verdict": parts.marked("drift" if one.is_drift else "not tested" if one.test == "none" else "no drift"),
            "what changed": one.summary,
            "empty in data": one.missing_reference * 100,
            "empty here": one.missing_window * 100,
            "new here": one.new * 100,
        }
        for one in sorted(report.features, key=lambda one: not one.is_drift)[: parts.ROWS]
    ]
    columns: dict[str, Any] = {name: st.column_config.NumberColumn(format="%.1f %%") for name in ("empty in data", "empty here", "new here")}
    columns["what changed"] = st.column_config.TextColumn(width="medium")
    parts.table(rows, alt="Missing and new values of each feature in the chosen window", column_config=columns)
