"""What was judged, as a report's features: words and a small histogram, from counts alone."""

from __future__ import annotations

import sys
from typing import Any

from ..summaries import ColumnSummary
from .judging import Judged, outside
from .reports import FeatureDrift

_MOST_BINS = 30
_LONGEST = 80
_OF_KIND = {"missing": "missing values", "new": "new values"}
_EFFECTS = {"number": "Kolmogorov–Smirnov distance", "category": "total variation distance"}


def feature(judged: Judged, *, alpha: float, effect: float, side: str = "input") -> FeatureDrift:
    """One feature's verdict."""
    reference, window = judged.reference, judged.window
    values, missing, new = judged.first("values"), judged.first("missing"), judged.first("new")
    assert values and missing and new
    decisive = judged.tests[0]
    tested, drifted = values.test != "none", decisive.p_adjusted < alpha
    told = decisive if drifted and decisive.kind != "values" else values
    small = decisive.p_adjusted >= alpha and values.p_any < alpha and values.effect < effect
    words = [_summary(reference, window), *([_small(values.effect, effect)] if small else [])]
    return FeatureDrift(
        name=reference.name,
        side=side,
        type=reference.kind,
        test=told.test if told is values else f"{told.test} of {_OF_KIND[told.kind]}",
        p_value=told.p_value if told.test != "none" else None,
        p_adjusted=told.p_adjusted if drifted else min(values.p_adjusted, new.p_adjusted) if tested else None,
        effect=values.effect if tested else None,
        effect_name=_EFFECTS[reference.kind] if tested else "",
        minimum_effect=effect,
        is_drift=drifted,
        kind=decisive.kind if drifted else "",
        span=decisive.span,
        new=outside(reference, window) / max(window.count, 1) if tested else 0.0,
        missing_reference=reference.missing / max(reference.rows, 1),
        missing_window=window.missing / max(window.rows, 1),
        missing_p_adjusted=missing.p_adjusted if missing.effect else None,
        is_small_change=small,
        summary=", ".join(words),
        histogram=_histogram(reference, window),
    )


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _summary(reference: ColumnSummary, window: ColumnSummary) -> str:
    words = _words(reference, window)
    before, now = (percent(side.missing / max(side.rows, 1)) for side in (reference, window))
    if reference.missing or window.missing:
        words.append(f"missing {before} → {now}" if before != now else f"missing {now}, as before")
    return ", ".join(words)


def _small(share: float, counts_from: float) -> str:
    """Why a change that is certain is none that counts."""
    return f"changed for certain, yet only {percent(share)} of the rows lie elsewhere and {percent(counts_from)} count (--effect)"


def _words(reference: ColumnSummary, window: ColumnSummary) -> list[str]:
    for side, where in ((reference, "reference"), (window, "window")):
        if side.count < 30:
            return [f"{side.count or 'no'} values in the {where}, 30 are needed"]
    return _number_words(reference, window) if reference.kind == "number" else _category_words(reference, window)


def _number_words(reference: ColumnSummary, window: ColumnSummary) -> list[str]:
    if reference.mean is None or window.mean is None or reference.deviation is None or window.deviation is None:
        return ["infinite values"]
    spread, now = reference.deviation, window.deviation
    if not spread and not now and reference.mean == window.mean:
        return [f"always {short(reference.mean)}"]
    words = [f"mean {short(reference.mean)} → {short(window.mean)}"]
    shift = (window.mean - reference.mean) / spread if spread else 0.0
    if abs(shift) >= 0.05:
        words[0] += f" ({shift:+.1f} σ)" if abs(shift) >= 0.1 else f" ({shift:+.2f} σ)"
    if spread and not now:
        words.append(f"stuck at {short(window.mean)}")
    elif not spread or not 0.8 <= now / spread <= 1.25:
        words.append(f"spread {short(spread)} → {short(now)}")
    if (share := outside(reference, window) / window.count) >= 0.01:
        words.append(f"{percent(share)} outside [{short(reference.edges[0])}, {short(reference.edges[-1])}]")
    return words


def _category_words(reference: ColumnSummary, window: ColumnSummary) -> list[str]:
    before, now = _shares(reference), _shares(window)
    if len(before) == 1 and not window.other:
        return [f"always {cut(next(iter(before)))!r}"]
    words = [f"new category {cut(name)!r} {percent(count / window.count)}" for name, count in list(window.new.items())[:3] if not reference.other]
    gone = [name for name in before if before[name] >= 0.005 and not now[name]]
    words += [f"{cut(name)!r} {percent(before[name])} → gone" for name in gone[:2]]
    moved = sorted((name for name in before if now[name]), key=lambda name: -abs(now[name] - before[name]))
    words += [f"{cut(name)!r} {percent(before[name])} → {percent(now[name])}" for name in moved[:2] if abs(now[name] - before[name]) >= 0.005]
    return words or ["shares as before"]


def _shares(side: ColumnSummary) -> dict[str, float]:
    return {name: count / max(side.count, 1) for name, count in side.categories.items()}


def cut(text: str) -> str:
    """A category, which may be a whole document, as far as words and figures tell it."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def percent(share: float) -> str:
    """`0.4 %`, `12 %`."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.5 or percent == 0 else f"{percent:.1f} %" if percent >= 0.05 else "under 0.1 %"


def short(value: float) -> str:
    """`18.9`, `12345`; what is nearer to zero than a number of full precision can be is 0, as the edge just below a smallest value of 0 is."""
    if abs(value) < sys.float_info.min:
        return "0"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


# ── histograms ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _histogram(reference: ColumnSummary, window: ColumnSummary) -> dict[str, Any]:
    if reference.kind == "category":
        return _bars(reference, window) if reference.count else {}
    return _steps(reference, window) if reference.count and reference.edges else {}


def _bars(reference: ColumnSummary, window: ColumnSummary) -> dict[str, Any]:
    before = _shares(reference)
    now = _shares(window) | {name: count / max(window.count, 1) for name, count in window.new.items()}
    names = sorted(dict.fromkeys([*before, *now]), key=lambda name: -max(before.get(name, 0.0), now.get(name, 0.0)))[: _MOST_BINS - 1]
    sides = [[round(side.get(name, 0.0), 6) for name in names] for side in (before, now)]
    rest = [round(max(1 - sum(shares), 0.0), 6) if count else 0.0 for shares, count in zip(sides, (reference.count, window.count), strict=True)]
    told = [cut(name) for name in names]
    if max(rest) < 1e-5:
        return {"categories": told, "reference": sides[0], "window": sides[1]}
    return {"categories": [*told, None], "reference": [*sides[0], rest[0]], "window": [*sides[1], rest[1]]}


def _steps(reference: ColumnSummary, window: ColumnSummary) -> dict[str, Any]:
    """Shares in bins of equal width over all but the outermost values, read off the cumulative counts."""
    import numpy as np

    ends = np.array(reference.edges)
    upto = [np.cumsum(side.counts[:-1]) / max(side.count, 1) for side in (reference, window)]
    inner = ends[(upto[0] >= 0.004) & (upto[0] <= 0.997)]
    low, high = (float(inner[0]), float(inner[-1])) if len(inner) and inner[-1] > inner[0] else (float(ends[0]), float(ends[-1]))
    if not np.isfinite(high - low) or high - low <= 1e-12 * abs(high):
        low, high = float(ends[-1]) - 0.5, float(ends[-1]) + 0.5
    edges = np.linspace(low, high, _MOST_BINS + 1)
    shares = []
    for share in upto:
        reached = np.interp(edges, ends, share, left=0.0)
        reached[0], reached[-1] = 0.0, 1.0  # what lies beyond is counted in the outermost bins
        shares.append([round(float(value), 6) for value in np.diff(reached)])
    return {"edges": [float(f"{edge:.6g}") for edge in edges], "reference": shares[0], "window": shares[1]}
