"""The trade-off between precision, agreement and resources, drawn and told from a stored conversion alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..safety import text_for

if TYPE_CHECKING:
    import plotly.graph_objects as go

_AGREES, _TAKES = "#0f766e", "#c2410c"


def trade_off(form: Mapping[str, Any]) -> go.Figure:
    """Agreement with the float model (circles, left) and the largest of the logic's shares of the part (diamonds, right) by precision.

    An estimate has its band as error bars.
    """
    import plotly.graph_objects as go

    points = sorted(form["points"], key=lambda point: (point["width"], point["precision"]))
    names = [_text(point["precision"]) for point in points]
    agrees = [point["agreement"]["agreement"] for point in points]
    kind = _largest(points)
    takes = [point["resources"][kind] for point in points]
    symbols = ["star" if point["precision"] == form["chosen"] else "circle" for point in points]
    drawn = go.Figure()
    drawn.add_scatter(
        x=names, y=agrees, name="answers as the float model", mode="lines+markers", line={"color": _AGREES},
        marker={"symbol": symbols, "size": 12}, text=[_hover(point) for point in points], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    drawn.add_scatter(
        x=names, y=takes, name=_named(kind, points), yaxis="y2", mode="lines+markers", line={"color": _TAKES, "dash": "dash"},
        marker={"symbol": "diamond", "size": 10}, error_y=_bars(kind, points), text=[_hover(point) for point in points],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    source = points[0]["resources"]["source"]
    sized = "resources are an ESTIMATE, no synthesis" if source == "estimate" else f"resources as {_text(source)} reports them"
    drawn.update_layout(
        title={"text": f"FPGA emulation: {_text(form['described'])}<br><sup>{_text(form['part'])} · {sized} · star: {_text(form['chosen'])}</sup>"},
        xaxis={"title": "precision", "type": "category"}, yaxis={"title": "rows answered alike", "tickformat": ".1%", "rangemode": "normal"},
        yaxis2={"title": _named(kind, points), "overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False},
        legend={"orientation": "h", "y": -0.25}, margin={"l": 10, "r": 10, "t": 80, "b": 50}, height=420,
    )  # fmt: skip
    return drawn


def told(form: Mapping[str, Any]) -> str:
    """The same in words, for those who cannot see it."""
    points = sorted(form["points"], key=lambda point: (point["width"], point["precision"]))
    kind = _largest(points)
    each = (f"{point['precision']} answers {point['agreement']['agreement']:.1%} of the rows alike with {point['resources'][kind]:,}" for point in points)
    return f"FPGA emulation by precision, {_named(kind, points)}: {'; '.join(each)}"


def band(resources: Mapping[str, Any]) -> str:
    """How far an estimate may be off, in words; nothing for a synthesis report."""
    return ", ".join(f"{name.removesuffix('_cycles').upper()} ×{low:g} to ×{high:g}" for name, (low, high) in resources["band"].items())


def _largest(points: Sequence[Mapping[str, Any]]) -> str:
    """The resource of which the widest point takes the largest share; LUTs where the part's size is unknown."""
    share = points[-1]["resources"]["share"]
    return max(share, key=share.get) if share else "lut"


def _named(kind: str, points: Sequence[Mapping[str, Any]]) -> str:
    return f"{kind.upper()}s{' (estimate)' if points[0]['resources']['source'] == 'estimate' else ''}"


def _bars(kind: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    takes = [(point["resources"][kind], point["resources"]["band"].get(kind)) for point in points]
    if not all(band for _, band in takes):
        return None
    low, high = ([abs(value * (band[end] - 1)) for value, band in takes if band] for end in (0, 1))
    return {"type": "data", "symmetric": False, "arrayminus": low, "array": high, "color": _TAKES, "thickness": 1}


def _hover(point: Mapping[str, Any]) -> str:
    agreement, takes = point["agreement"], point["resources"]
    lines = [
        f"<b>{_text(point['precision'])}</b>", f"{agreement['agreement']:.2%} alike, largest error {agreement['max_error']:.3g}",
        f"{takes['dsp']:,} DSP, {takes['lut']:,} LUT, {takes['ff']:,} FF, {takes['bram']:,} BRAM ({_text(takes['source'])})",
        f"{takes['latency_cycles'] * takes['clock_ns']:,.0f} ns", *map(_text, point["notes"]),
    ]  # fmt: skip
    return "<br>".join(lines)


def _text(words: object) -> str:
    return text_for("html", words)
