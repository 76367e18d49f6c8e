"""Rows just beside the thresholds of a model's trees, where 32 bits may go the other way than 64 do.

A threshold is a number of a feature as the trees see it.  Where that is a straight line of a column (scaled, or as it is) the
column's value that lands on it is reckoned back; thresholds on other features are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from . import reasons

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_STEPS = 5  # on it, and the nearest numbers to both sides with 64 bits and with 32


class Line(msgspec.Struct, frozen=True):
    """How a feature comes of a column: `feature = at + slope * (value - start)`."""

    column: int
    start: float
    at: float
    slope: float


def need_64_bits(obj: Any) -> bool:
    """Whether its trees compare with 64 bits, as LightGBM's and scikit-learn's histogram boosting do."""
    return any(type(part).__name__.startswith(("LGBM", "HistGradientBoosting")) for _, part in reasons.parts(obj))


def rows_beside(obj: Any, sample: Any, *, most: int) -> Any:
    """Rows of *sample* moved onto and beside (by one step of 64 and of 32 bits) at most *most* thresholds of *obj*; None where it has no trees."""
    import numpy as np

    before, trees = _split(obj)
    if not hasattr(sample, "shape") or getattr(sample, "ndim", 0) != 2:
        return None
    features, values = of_trees(trees)
    if not len(features):
        return None
    lines = _lines(before, sample)
    known = np.isin(features, list(lines)) & np.isfinite(values)
    features, values = features[known], values[known]
    if not len(features):
        return None
    chosen = np.random.default_rng(0).permutation(len(features))[:most]
    places, targets = _targets([lines[feature] for feature in features[chosen].tolist()], values[chosen])
    return _moved(sample, places, targets)


def _split(obj: Any) -> tuple[Any, Any]:
    """What comes before the trees (None for nothing), and the model with the trees."""
    obj = getattr(obj, "best_estimator_", obj)
    return (obj[:-1], obj.steps[-1][1]) if hasattr(obj, "steps") and len(obj.steps) > 1 else (None, obj.steps[0][1] if hasattr(obj, "steps") else obj)


def _moved(sample: Any, places: np.ndarray, targets: np.ndarray) -> Any:
    """A row of *sample* for each target, in turn, with that value in the column at its place."""
    import numpy as np

    picked = np.arange(len(targets)) % len(sample)
    if not hasattr(sample, "iloc"):
        rows = np.array(sample[picked])
        rows[np.arange(len(rows)), places] = targets
        return rows
    rows = sample.iloc[picked].reset_index(drop=True)
    for place in np.unique(places).tolist():
        values = rows.iloc[:, place].to_numpy().copy()
        here = places == place
        values[here] = targets[here].astype(values.dtype)
        rows.isetitem(place, values)
    return rows


def _targets(lines: list[Line], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns and the values to put there: for each threshold the value that lands on it, and those just beside, where 32 bits hold them."""
    import numpy as np

    start, at, slope = (np.array([getattr(line, name) for line in lines], dtype=np.float64) for name in ("start", "at", "slope"))
    on = start + (values - at) / slope
    with np.errstate(over="ignore"):
        narrow = on.astype(np.float32)
        beside = [np.nextafter(narrow, np.float32(end)).astype(np.float64) for end in (-np.inf, np.inf)]
    targets = np.concatenate([on, np.nextafter(on, -np.inf), np.nextafter(on, np.inf), *beside])
    places, finite = np.tile([line.column for line in lines], _STEPS), np.isfinite(targets)
    return places[finite], targets[finite]


# ── from columns to features ─────────────────────────────────────────────────────────────────────────────────────────


def _lines(before: Any, sample: Any) -> dict[int, Line]:
    """The features that are a straight line of one column of floats, by their place."""
    import numpy as np

    columns = {place: _values(sample, place) for place in range(sample.shape[1])}
    usable = {place: values for place, values in columns.items() if values is not None}
    if before is None:
        return {place: Line(place, 0.0, 0.0, 1.0) for place in usable}
    probes = {place: _probe(values) for place, values in usable.items() if values.min() < values.max()}
    if not probes:
        return {}
    places, targets = np.repeat(list(probes), 3), np.concatenate(list(probes.values()))
    seen = _seen(before, _moved(sample.iloc[:1] if hasattr(sample, "iloc") else sample[:1], places, targets))
    found = (_line(place, probe, seen[3 * n : 3 * n + 3]) for n, (place, probe) in enumerate(probes.items()))
    return {feature: line for lines in found for feature, line in lines.items()}


def _values(sample: Any, place: int) -> np.ndarray | None:
    """A column's present values, if they are plain floats."""
    import numpy as np

    column = sample.iloc[:, place] if hasattr(sample, "iloc") else sample[:, place]
    if getattr(column.dtype, "kind", "O") != "f":  # whole numbers of pandas' Int64 that miss some turn into floats below
        return None
    values = np.asarray(column, dtype=np.float64)
    values = values[np.isfinite(values)]
    return values if len(values) else None


def _probe(values: np.ndarray) -> np.ndarray:
    """The lowest value, the highest and one a quarter of the way, which tells a straight line from others."""
    import numpy as np

    low, high = values.min(), values.max()
    return np.array([low, low + (high - low) / 4, high])


def _seen(before: Any, rows: pd.DataFrame | np.ndarray) -> np.ndarray:
    """What the trees see of *rows*."""
    import numpy as np

    seen = before.transform(rows)
    return np.asarray(seen.toarray() if hasattr(seen, "toarray") else seen, dtype=np.float64)


def _line(place: int, probe: np.ndarray, seen: np.ndarray) -> dict[int, Line]:
    import numpy as np

    low, quarter, high = seen
    span = high - low
    straight = (span != 0) & (np.abs(quarter - low - span * (probe[1] - probe[0]) / (probe[2] - probe[0])) <= 1e-6 * np.abs(span))
    return {int(n): Line(place, probe[0], low[n], span[n] / (probe[2] - probe[0])) for n in np.flatnonzero(straight)}


# ── the thresholds ───────────────────────────────────────────────────────────────────────────────────────────────────


def of_trees(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """The features and thresholds of every split of *model*: scikit-learn's trees, XGBoost's or LightGBM's; empty for what has no trees."""
    import numpy as np

    splits = _splits(model)
    if not splits:
        return np.zeros(0, dtype=int), np.zeros(0)
    features, values = (np.concatenate(parts) for parts in zip(*splits, strict=True))
    return features.astype(int), values.astype(np.float64)


def _splits(model: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    if hasattr(model, "get_booster"):
        return _xgboost(model.get_booster())
    if hasattr(model, "booster_"):
        return _lightgbm(model.booster_)
    if hasattr(model, "_predictors"):
        return [_histogram(tree.nodes) for trees in model._predictors for tree in trees]
    return [_tree(tree) for tree in _trees_of(model)]


def _trees_of(model: Any) -> list[Any]:
    import numpy as np

    if hasattr(model, "tree_"):
        return [model.tree_]
    if hasattr(model, "estimators_features_"):  # bagging, whose trees number features in their own way
        return []
    return [tree.tree_ for tree in np.ravel(getattr(model, "estimators_", [])) if hasattr(tree, "tree_")]


def _tree(tree: Any) -> tuple[np.ndarray, np.ndarray]:
    inner = tree.children_left >= 0
    return tree.feature[inner], tree.threshold[inner]


def _histogram(nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inner = nodes[(nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0)]
    return inner["feature_idx"], inner["num_threshold"]


def _xgboost(booster: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    import numpy as np

    gradient = msgspec.json.decode(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    trees = gradient.get("gbtree", gradient).get("model", {}).get("trees", [])

    def split(tree: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        plain = (np.array(tree["left_children"]) >= 0) & (np.array(tree["split_type"]) == 0)
        # Written shortest for 32 bits, and so to be read as 32 bits.
        return np.array(tree["split_indices"])[plain], np.array(tree["split_conditions"], dtype=np.float32)[plain]

    return [split(tree) for tree in trees]


def _lightgbm(booster: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    import numpy as np

    words = [line.split("=", 1) for line in booster.model_to_string().splitlines() if line.startswith(("split_feature=", "threshold=", "decision_type="))]
    found = [np.array(text.split(), dtype=np.float64) for _, text in words]
    splits = zip(found[0::3], found[1::3], found[2::3], strict=True)
    return [(feature[kind.astype(int) & 1 == 0], value[kind.astype(int) & 1 == 0]) for feature, value, kind in splits]
