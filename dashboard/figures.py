"""Figures.  Names of deployments go with a colour and a shape, the same in every figure of a page; names are escaped for Plotly's own markup."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import parts

from mlops_nb.lineage import Edge, Lineage, Node
from mlops_nb.safety import text_for

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mlops_nb.performance import Group
    from mlops_nb.store.checks import DriftCheck, Profile
    from mlops_nb.store.deployments import TrafficChange

COLOURS = ("#2f7ed8", "#d9622b", "#1a936f", "#b4569c", "#8d6e00", "#5b6ee1")
SHAPES = ("circle", "square", "diamond", "triangle-up", "x", "star")
_QUIET = "#8a8f98"
_ADVISED = "#c8102e"
_GRID = "rgba(138, 143, 152, 0.25)"


# ── traffic ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def traffic(rows: Sequence[Mapping[str, Any]], changes: Sequence[TrafficChange]) -> go.Figure:
    """Share, rate, latency and errors over time, a colour and shape per deployment; dotted where the split was changed."""
    from plotly.subplots import make_subplots

    titles = ("Share of requests, %", "Requests per second", "Latency in ms: p50 solid, p95 dashed, p99 dotted", "Errors per second")
    figure = make_subplots(rows=2, cols=2, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.14, horizontal_spacing=0.06)
    for number, (name, seen) in enumerate(_by_deployment(rows).items()):
        _add_deployment(figure, name, seen, colour=COLOURS[number % len(COLOURS)], shape=SHAPES[number % len(SHAPES)])
    begin = min((row["time"] for row in rows), default=None)
    for change in changes:
        if begin and change.time >= begin:
            figure.add_vline(x=change.time, line={"color": _QUIET, "dash": "dot", "width": 1})
    figure.update_yaxes(rangemode="tozero", gridcolor=_GRID)
    figure.update_yaxes(range=[0, 100], row=1, col=1)
    figure.update_xaxes(showgrid=False)
    for number, title in enumerate(figure.layout.annotations[:4]):
        title.update(font_size=13, x=0.0 if number % 2 == 0 else 0.53, xanchor="left")
    return _finished(figure, height=540, uirevision="traffic", margin={"l": 8, "r": 8, "t": 64, "b": 8})


def _by_deployment(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["deployment"]].append(row)
    return dict(sorted(grouped.items()))


def _add_deployment(figure: go.Figure, name: str, rows: Sequence[Mapping[str, Any]], *, colour: str, shape: str) -> None:
    import plotly.graph_objects as go

    label, times = text_for("html", name), [row["time"] for row in rows]
    few = len(rows) <= 40
    drawn = {
        "x": times,
        "name": label,
        "legendgroup": label,
        "mode": "lines+markers" if few else "lines",
        "marker": {"symbol": shape, "size": 6, "color": colour},
    }

    def add(column: str, row: int, col: int, **line: Any) -> None:
        values = [point[column] for point in rows]
        trace = go.Scatter(
            **drawn, y=values, showlegend=False, line={"color": colour, "width": 2, **line}, hovertemplate=f"%{{y:.3~g}}<extra>{label} {column}</extra>"
        )
        figure.add_trace(trace, row=row, col=col)

    area = {"stackgroup": "share", "groupnorm": "percent", "line": {"color": colour, "width": 1}, "hovertemplate": f"%{{y:.1f}} %<extra>{label}</extra>"}
    shares = drawn | {"mode": "lines", "x": [row["time"] for row in rows if row["asked"]]}
    figure.add_trace(go.Scatter(**shares, y=[row["requests"] for row in rows if row["asked"]], showlegend=False, **area), row=1, col=1)
    add("requests_per_second", 1, 2)
    for percentile, dash, width in (("p50_ms", "solid", 2.4), ("p95_ms", "dash", 1.4), ("p99_ms", "dot", 1.4)):
        add(percentile, 2, 1, dash=dash, width=width)
    add("errors_per_second", 2, 2)
    figure.add_trace(go.Scatter(x=[None], y=[None], name=label, mode="lines+markers", marker=drawn["marker"], line={"color": colour}), row=1, col=2)


# ── profiling ────────────────────────────────────────────────────────────────────────────────────────────────────────


def frontier(profiles: Sequence[Profile]) -> go.Figure:
    """Latency against throughput, a line for each profile, hardware and number of cores, a point per batch size, a star on the advised one.

    A point is hollow where no rate kept the objective: it tells one request after the other.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    lines = list(_profiled(profiles))
    for number, (label, points) in enumerate(lines):
        figure.add_scatter(
            x=[point["rows_per_second"] for point in points], y=[point["p95_ms"] for point in points], text=[f"{point['batch']:,}" for point in points],
            name=label, mode="lines+markers+text", textposition=("top left", "bottom right", "top center")[number % 3],
            line={"color": COLOURS[number % len(COLOURS)]},
            marker={"symbol": [_shape(number, kept=_kept_any(point)) for point in points], "size": 10},
            customdata=["" if _kept_any(point) else ", no rate kept the objective: one request after the other" for point in points],
            hovertemplate=f"batch %{{text}}: %{{y:.3~g}} ms, %{{x:,.0f}} rows/s%{{customdata}}<extra>{label}</extra>",
        )  # fmt: skip
    stars = [(profile, point) for profile in profiles for point in profile.points if is_advised(profile, point)]
    if stars:
        figure.add_scatter(
            x=[point["rows_per_second"] for _, point in stars], y=[point["p95_ms"] for _, point in stars], name="advised", mode="markers",
            marker={"symbol": "star-open", "size": 22, "color": _ADVISED, "line": {"width": 2}},
            text=[text_for("html", profile.subject) for profile, _ in stars], hovertemplate="advised for %{text}<extra></extra>",
        )  # fmt: skip
    every = [point for _, points in lines for point in points]
    figure.update_xaxes(title="rows per second", gridcolor=_GRID, **_log_axis([point["rows_per_second"] for point in every]))
    figure.update_yaxes(title="p95 latency, ms", gridcolor=_GRID, **_log_axis([point["p95_ms"] for point in every]))
    return _finished(figure, height=420, hovermode="closest")


def curves(profile: Profile) -> go.Figure:
    """Every rate that was tried: p95 against requests a second, a line per setting; hollow where the objective did not hold."""
    import plotly.graph_objects as go

    figure = go.Figure()
    drawn = [point for point in profile.points if point.get("curve")]
    for number, point in enumerate(drawn):
        label, steps, colour = text_for("html", f"{on(profile, point)} · {rows_each(point)}"), point["curve"], COLOURS[number % len(COLOURS)]
        figure.add_scatter(
            x=[step["rate"] for step in steps], y=[step["p95_ms"] for step in steps], name=label, mode="lines+markers", line={"color": colour},
            marker={"symbol": [_shape(number, kept=step["kept"]) for step in steps], "size": 9},
            text=["kept" if step["kept"] else "not kept" for step in steps],
            hovertemplate=f"%{{x:,.0f}} requests/s: p95 %{{y:.3~g}} ms, %{{text}}<extra>{label}</extra>",
        )  # fmt: skip
    steps = [step for point in drawn for step in point["curve"]]
    figure.update_xaxes(title="requests per second", gridcolor=_GRID, **_log_axis([step["rate"] for step in steps]))
    figure.update_yaxes(title="p95 latency, ms", gridcolor=_GRID, **_log_axis([step["p95_ms"] for step in steps]))
    return _finished(figure, height=380, hovermode="closest")


def on(profile: Profile, point: Mapping[str, Any]) -> str:
    """`cpu, 2 cores`: what one point of a profile was measured on."""
    cores = point.get("cpus")
    return profile.hardware if not point.get("hardware") or not cores else f"{point['hardware']}, {cores} core{'s' if cores > 1 else ''}"


def rows_each(point: Mapping[str, Any]) -> str:
    """`32 rows`, for a legend."""
    return f"{point['batch']:,} row{'s' if point['batch'] > 1 else ''}"


def is_advised(profile: Profile, point: Mapping[str, Any]) -> bool:
    """Whether this is the point that the profile's advice is about."""
    advice = profile.advice
    same = all(advice.get(name) == point.get(name) for name in ("hardware", "batch", "rate"))
    return bool(advice.get("possible")) and same and advice.get("rows_per_second") == point.get("rows_per_second")


def _shape(number: int, *, kept: bool) -> str:
    shape = SHAPES[number % len(SHAPES)]
    return shape if kept else f"{shape}-open"


def _kept_any(point: Mapping[str, Any]) -> bool:
    """Whether some rate kept the objective; profiles of old have no rate, for they knew no objective."""
    return bool(point.get("rate", True))


def _profiled(profiles: Sequence[Profile]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A label and the points in order of batch size, for each profile, hardware and number of cores; when it was, where two would read the same."""
    found: list[tuple[str, Profile, list[dict[str, Any]]]] = []
    for profile in profiles:
        lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for point in sorted(profile.points, key=lambda point: point["batch"]):
            lines[on(profile, point)].append(point)
        found += [(f"{profile.subject} · {place}", profile, points) for place, points in lines.items()]
    times = Counter(label for label, _, _ in found)
    for label, profile, points in found:
        yield text_for("html", f"{label} · {profile.time:%d %b %H:%M:%S}" if times[label] > 1 else label), points


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis around *values*, marked at 1, 2 and 5 of each power of ten."""
    low, high = min(values, default=1) / 1.5, max(values, default=10) * 1.7
    marks = [digit * 10.0**power for power in range(-4, 9) for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": marks,
        "ticktext": [f"{mark:,.4g}" if mark < 1 else f"{mark:,.0f}" for mark in marks],
    }


def memory(profiles: Sequence[Profile]) -> go.Figure:
    """The most memory that was resident by batch size, a group of bars for each profile, hardware and number of cores."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (label, points) in enumerate(_profiled(profiles)):
        figure.add_bar(
            x=[f"batch {point['batch']:,}" for point in points], y=[point.get("peak_memory_mb") or point["memory_mb"] for point in points], name=label,
            marker={"color": COLOURS[number % len(COLOURS)], "pattern": {"shape": ("", "/", "x", ".", "-", "+")[number % 6]}},
        )  # fmt: skip
    figure.update_yaxes(title="MB", gridcolor=_GRID)
    return _finished(figure, height=420)


# ── drift ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def drift_over_time(checks: Sequence[DriftCheck]) -> go.Figure:
    """How many features differed at each check; a diamond where the verdict was drift, a circle where not, an empty one where there was none."""
    import plotly.graph_objects as go

    ordered = sorted(checks, key=lambda check: check.time)
    counts = [sum(bool(feature.get("is_drift")) for feature in check.report.get("features", [])) for check in ordered]
    verdicts = [check.verdict for check in ordered]
    words = [f"{check.verdict}: {_differing(check, count)}" for check, count in zip(ordered, counts, strict=True)]
    looks = {"drift": (COLOURS[1], "diamond"), "no drift": (COLOURS[2], "circle")}
    untold = (_QUIET, "circle-open")
    marks = {
        "size": 12,
        "color": [looks.get(verdict, untold)[0] for verdict in verdicts],
        "symbol": [looks.get(verdict, untold)[1] for verdict in verdicts],
    }
    figure = go.Figure()
    figure.add_scatter(
        x=[check.time for check in ordered], y=counts, mode="lines+markers", line={"color": _QUIET, "width": 1}, showlegend=False,
        marker=marks, text=words, hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    most = max(counts, default=0)
    figure.update_yaxes(title="features that differ", range=[-0.15 * (most + 1), most * 1.15 + 0.3], gridcolor=_GRID, dtick=max(1, most // 5))
    figure.update_xaxes(showgrid=False)
    return _finished(figure, height=260)


def _differing(check: DriftCheck, count: int) -> str:
    together = any(feature.get("type") == "together" for feature in check.report.get("features", []))
    return "all features were judged together" if together else f"{count} feature{'s' * (count != 1)} differ{'s' * (count == 1)}"


# ── lineage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


KIND_LOOKS = {
    "dataset": ("▤", "#1f6f54"),
    "run": ("▷", "#5b4b8a"),
    "environment": ("▣", "#6b5d00"),
    "model": ("◆", "#0b57d0"),
    "package": ("▦", "#00605e"),
    "image": ("▧", "#3c5a78"),
    "deployment": ("●", "#a84300"),
    "endpoint": ("⬢", "#8a1c4a"),
}
"""A sign and a background on which white text keeps its contrast, by kind of node."""


_HALF_WIDTH, _HALF_HEIGHT = 0.38, 0.36


def lineage(drawn: Lineage, root: str | None = None) -> go.Figure:
    """Boxes from left (what was used) to right (what came of it), arrows between; *root* has a thick border."""
    import plotly.graph_objects as go

    places = placed(drawn)
    figure = go.Figure()
    for edge in told(drawn):
        _add_arrow(figure, places[edge.source], places[edge.target])
    for node in drawn.nodes:
        _add_box(figure, node, *places[node.id], thick=node.id == root)
    across, down = max(x for x, _ in places.values()), max(abs(y) for _, y in places.values())
    figure.update_xaxes(visible=False, range=[-0.45, max(across, 3) + 0.45], fixedrange=True)
    figure.update_yaxes(visible=False, range=[-down - 0.55, down + 0.55], fixedrange=True)
    return _finished(figure, height=int((2 * down + 1.1) * 92), margin={"l": 0, "r": 0, "t": 0, "b": 0}, hovermode="closest")


def told(drawn: Lineage) -> list[Edge]:
    """The edges worth drawing: that a deployment runs in its model's environment goes without saying, and what leads there through its image too."""
    made_in = {(edge.source, edge.target) for edge in drawn.edges if edge.label == "made in"}
    model_of = {edge.target: edge.source for edge in drawn.edges if edge.label == "runs as"}
    from_image = {edge.target for edge in drawn.edges if edge.label == "run by"}
    plain = [edge for edge in drawn.edges if edge.label != "runs in" or (edge.source, model_of.get(edge.target, "")) not in made_in]
    return [edge for edge in plain if edge.label != "runs as" or edge.target not in from_image]


def _add_arrow(figure: go.Figure, source: tuple[float, float], target: tuple[float, float]) -> None:
    x, y, to_x, to_y = source[0] + _HALF_WIDTH, source[1], target[0] - _HALF_WIDTH - 0.05, target[1]
    bend = max((to_x - x) / 2, 0.12)
    path = f"M {x},{y} C {x + bend},{y} {to_x - bend},{to_y} {to_x},{to_y}"
    figure.add_shape(type="path", path=path, line={"color": _QUIET, "width": 1.5}, layer="below")
    figure.add_annotation(
        x=to_x + 0.05, y=to_y, ax=to_x - 0.01, ay=to_y, xref="x", yref="y", axref="x", ayref="y", showarrow=True, arrowhead=2, arrowsize=1.2, arrowwidth=1.5,
        arrowcolor=_QUIET, text="",
    )  # fmt: skip


def _add_box(figure: go.Figure, node: Node, x: float, y: float, *, thick: bool) -> None:
    sign, colour = KIND_LOOKS[node.kind]
    border = {"color": "#f5b301" if thick else colour, "width": 4 if thick else 1}
    figure.add_shape(type="rect", x0=x - _HALF_WIDTH, x1=x + _HALF_WIDTH, y0=y - _HALF_HEIGHT, y1=y + _HALF_HEIGHT, fillcolor=colour, line=border)
    text = f"<span style='font-size:11px'>{sign} {node.kind}</span><br><b>{text_for('html', _cut(name_of(node)))}</b>"
    if note := note_of(node):
        text += f"<br><span style='font-size:11px'>{text_for('html', _cut(note, 26))}</span>"
    hover = {"hovertext": _hover(node), "hoverlabel": {"bgcolor": colour, "font": {"color": "#ffffff"}}}
    figure.add_annotation(x=x, y=y, xref="x", yref="y", text=text, showarrow=False, font={"color": "#ffffff", "size": 13}, align="center", **hover)


def name_of(node: Node) -> str:
    """What people call it: a run by its notebook."""
    return str(node.details.get("notebook") or node.details.get("kind") or node.label).rpartition("/")[2] if node.kind == "run" else node.label


def note_of(node: Node) -> str:
    """The one thing to know about it beside its name."""
    d = node.details
    if d.get("missing"):
        return "its record is gone"
    if node.kind == "dataset":
        return f"{d['rows']:,} rows"
    if node.kind == "run":
        return " · ".join(filter(None, [f"{d.get('cells') or 0} cells", commit_of(node)]))
    if node.kind == "environment":
        return f"Python {d['python']} · {d['packages']} packages"
    if node.kind == "model":
        return f"{d['flavor']} · {d['engine']}"
    if node.kind == "package":
        return f"{d['image'] or 'build context'} · {d['platform']}"
    if node.kind == "image":
        return str(d["pushed"] or d["image"])
    if node.kind == "deployment":
        return f"{parts.marked(d['status'])} · {d['target']} {d.get('hardware', '')}"
    return ""


def commit_of(node: Node) -> str:
    """The short commit of a run, starred when there were uncommitted changes."""
    commit = node.details.get("commit")
    return f"git {commit[:7]}{'*' * bool(node.details.get('dirty'))}" if commit else ""


def placed(drawn: Lineage) -> dict[str, tuple[float, float]]:
    """Node → column and row: a column for each step of the way, and in it each node near the middle of what it hangs on."""
    makes_data = {edge.source for edge in drawn.edges if edge.label == "registered"}
    step = {node.id: -1 if node.id in makes_data else _STEPS[node.kind] for node in drawn.nodes}
    columns = [[node.id for node in drawn.nodes if step[node.id] == at] for at in sorted(set(step.values()))]
    beside = defaultdict(list)
    for edge in told(drawn):
        beside[edge.source].append(edge.target)
        beside[edge.target].append(edge.source)
    family = _families(drawn)
    rows: dict[str, float] = {}
    for column in [*columns, *reversed(columns)] * 3:  # there and back and there again, so that lines cross less
        column.sort(key=lambda id: (family[id], -_middle([rows[other] for other in beside[id] if other in rows], otherwise=rows.get(id, 0.0))))
        rows |= {id: (len(column) - 1) / 2 - place for place, id in enumerate(column)}
    return {id: (float(x), rows[id]) for x, column in enumerate(columns) for id in column}


_STEPS = {"dataset": 0, "run": 1, "environment": 1, "model": 2, "package": 3, "image": 4, "deployment": 5, "endpoint": 6}


def _families(drawn: Lineage) -> dict[str, int]:
    """Node → the number of the part of the drawing that it is connected with."""
    family = {node.id: number for number, node in enumerate(drawn.nodes)}
    moved = True
    while moved:
        moved = False
        for edge in drawn.edges:
            first = min(family[edge.source], family[edge.target])
            moved = moved or family[edge.source] != family[edge.target]
            family[edge.source] = family[edge.target] = first
    return family


def _middle(rows: Sequence[float], *, otherwise: float) -> float:
    return sum(rows) / len(rows) if rows else otherwise


def _cut(text: str, most: int = 20) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _hover(node: Node) -> str:
    lines = [f"<b>{text_for('html', node.label)}</b>", *(f"{name}: {text_for('html', parts.said(value))}" for name, value in node.details.items())]
    return "<br>".join(lines)


# ── all ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _finished(figure: go.Figure, **layout: Any) -> go.Figure:
    legend = {"orientation": "h", "y": 1.04, "yanchor": "bottom", "x": 1, "xanchor": "right", "traceorder": "normal"}
    common = {"margin": {"l": 8, "r": 8, "t": 36, "b": 8}, "hovermode": "x unified", "legend": legend}
    figure.update_layout(**common | layout)
    return figure


# ── truth ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def performance(groups: Sequence[Group], metric: str) -> go.Figure:
    """One measure of each group with its interval: filled where labels came, hollow and dashed where it is estimated."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (name, many) in enumerate(_series(groups).items()):
        colour, shape = COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)]
        for kind, found in (("measured", [group.figure(metric) for group in many]), ("estimated", [group.expected(metric) for group in many])):
            at = [(group.period or "all", one) for group, one in zip(many, found, strict=True) if one]
            if at:
                figure.add_trace(_with_interval(f"{name} {kind}", at, colour=colour, shape=shape if kind == "measured" else f"{shape}-open"))
    figure.update_yaxes(title=text_for("html", metric), gridcolor=_GRID)
    return _finished(_with_one_period_named(figure, groups), height=380, hovermode="closest")


def labelled(groups: Sequence[Group]) -> go.Figure:
    """The share of rows that have a label, over time, a group of bars for each deployment and segment."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (name, many) in enumerate(_series(groups).items()):
        figure.add_bar(
            x=[group.period for group in many], y=[group.labelled / max(group.answered, 1) for group in many], name=name,
            marker={"color": COLOURS[number % len(COLOURS)], "pattern": {"shape": ("", "/", "x", ".", "-", "+")[number % 6]}},
            customdata=[group.answered for group in many], hovertemplate=f"%{{y:.0%}} of %{{customdata:,}} rows<extra>{name}</extra>",
        )  # fmt: skip
    figure.update_yaxes(title="rows with a label", range=[0, 1], tickformat=".0%", gridcolor=_GRID)
    return _finished(_with_one_period_named(figure, groups), height=220, hovermode="closest")


def _with_one_period_named(figure: go.Figure, groups: Sequence[Group]) -> go.Figure:
    """An axis of a single moment bears that one; left alone it is divided into parts of a millisecond."""
    periods = {group.period for group in groups if group.period}
    if len(periods) == 1:
        [period] = periods
        figure.update_xaxes(tickvals=[period], ticktext=[f"{period:%Y-%m-%d %H:%M}".removesuffix(" 00:00")])
    return figure


def _series(groups: Sequence[Group]) -> dict[str, list[Group]]:
    grouped: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        grouped[text_for("html", f"{group.deployment} {group.segment}".strip())].append(group)
    return dict(grouped)


def _with_interval(name: str, at: Sequence[tuple[Any, Any]], *, colour: str, shape: str) -> Any:
    import plotly.graph_objects as go

    values = [one.value for _, one in at]
    above, below = ([None if end is None else abs(end - one.value) for _, one in at for end in [getattr(one, side)]] for side in ("high", "low"))
    return go.Scatter(
        x=[when for when, _ in at], y=values, name=name, mode="lines+markers", marker={"symbol": shape, "size": 9, "color": colour},
        line={"color": colour, "width": 1, "dash": "dash" if "open" in shape else "solid"}, error_y={"array": above, "arrayminus": below, "thickness": 1},
        customdata=[one.count for _, one in at], hovertemplate=f"%{{y:.3~g}} over %{{customdata:,}} rows<extra>{name}</extra>",
    )  # fmt: skip


def calibration(groups: Sequence[Group]) -> go.Figure:
    """The share that came true by the probability that was said, beside the line on which both are one."""
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="as said", line={"color": _QUIET, "dash": "dot", "width": 1}, hoverinfo="skip"))
    for number, group in enumerate(groups):
        bins, name = group.calibration, text_for("html", f"{group.deployment} {group.segment}".strip())
        colour, shape = COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)]
        reach = {"array": [one.high - one.true for one in bins], "arrayminus": [one.true - one.low for one in bins], "thickness": 1}
        figure.add_trace(
            go.Scatter(
                x=[one.said for one in bins], y=[one.true for one in bins], name=name, mode="lines+markers",
                marker={"symbol": shape, "size": 8, "color": colour},
                line={"color": colour, "width": 1}, error_y=reach, customdata=[one.count for one in bins],
                hovertemplate=f"said %{{x:.2f}}, true %{{y:.2f}} of %{{customdata:,}}<extra>{name}</extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title="probability said", range=[0, 1], gridcolor=_GRID)
    figure.update_yaxes(title="share that came true", range=[0, 1], gridcolor=_GRID)
    return _finished(figure, height=380, hovermode="closest")
