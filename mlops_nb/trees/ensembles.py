"""The nodes of an operator's trees, laid out as `walk.h` takes them: tree by tree, level by level, the two children of a node side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .onnx_file import Node

if TYPE_CHECKING:
    import numpy as np

MOST_TARGETS = 4096
_MOST = 2**31
"""Nodes and weights are numbered in 32 bits."""
_INT64 = 2**63 - 1


class Unfit(Exception):
    """The graph holds more than trees, or trees of a kind that is not laid out here."""


class Ensemble(NamedTuple):
    """Trees of one operator."""

    nodes: np.ndarray
    """Of each `above` (what is above goes right; infinite at a leaf), `feature` and `left` (a leaf's is itself)."""
    missing_right: np.ndarray
    """Of each node, whether a missing value goes right."""
    weights_at: np.ndarray
    """Of each leaf, where its weights begin."""
    weights: np.ndarray
    base: np.ndarray
    """What each target has before any tree."""
    trees: np.ndarray
    """Of each `root`, `depth`, first `target` and number of `targets`."""
    targets: int

    @property
    def features(self) -> int:
        """One more than the largest number of a feature."""
        return int(self.nodes["feature"].max()) + 1


class _Listed(NamedTuple):
    """The nodes as the operator lists them."""

    tree: np.ndarray
    number: np.ndarray
    leaf: np.ndarray
    above: np.ndarray
    feature: np.ndarray
    missing_right: np.ndarray
    ways: np.ndarray
    """The places of the two children."""
    order: np.ndarray
    """These places in the order in which they are laid out."""


def of(node: Node, kind: str, targets: int, type_: str, *, only: int = 0) -> Ensemble:
    """The trees of *node*, whose weights are called after their *kind*, as numbers of *type_*; with *only*, of the one target that has any.  Raises Unfit."""
    import numpy as np

    if node.attributes.get("aggregate_function", "SUM") != "SUM" or not 0 < targets <= MOST_TARGETS:
        raise Unfit("another way to add up")
    number = np.dtype(type_)
    listed, roots, depths = _listed(node, number)
    order, count = listed.order, len(listed.order)
    new = np.empty(count, dtype=np.int64)
    new[order] = np.arange(count)
    nodes = np.zeros(count, dtype=np.dtype([("above", number), ("feature", "<u4"), ("left", "<u4")], align=True))
    nodes["above"] = np.where(listed.leaf, np.inf, listed.above)[order]
    nodes["feature"] = np.where(listed.leaf, 0, listed.feature)[order]
    nodes["left"] = np.where(listed.leaf[order], np.arange(count), new[listed.ways[order, 0]])
    weights_at, weights, spans = _weights(node, kind, listed, new, only)
    base = values_of(node, "base_values").astype(number)
    if len(base) not in (0, targets) or (spans.sum(axis=1) > targets).any():
        raise Unfit("base values of other targets")
    trees = np.zeros(len(roots), dtype=[("root", "<u4"), ("depth", "<u4"), ("target", "<u4"), ("targets", "<u4")])
    trees["root"], trees["depth"] = new[roots], depths
    trees["target"], trees["targets"] = spans.T
    missing_right = listed.missing_right[order].astype(np.uint8)
    return Ensemble(nodes, missing_right, weights_at, weights.astype(number), base if len(base) else np.zeros(targets, number), trees, targets)


def values_of(node: Node, name: str) -> np.ndarray:
    """One of the operator's lists of numbers, empty where it has none."""
    import numpy as np

    held = node.attributes.get(f"{name}_as_tensor")
    held = node.attributes.get(name) if held is None else held
    return np.asarray([] if held is None else held)


def _listed(node: Node, number: np.dtype) -> tuple[_Listed, np.ndarray, np.ndarray]:
    """The nodes, and each tree's root and depth."""
    import numpy as np

    tree, own, feature = (values_of(node, f"nodes_{name}") for name in ("treeids", "nodeids", "featureids"))
    modes, missing, count = np.array(node.attributes.get("nodes_modes") or [""]), values_of(node, "nodes_missing_value_tracks_true"), len(tree)
    missing = missing if len(missing) else np.zeros(count, dtype=np.int64)
    above = _thresholds(values_of(node, "nodes_values").astype(number), modes)
    if not 0 < count < _MOST or {len(each) for each in (own, feature, modes, missing, above)} != {count} or feature.min() < 0:
        raise Unfit("lists of different lengths")
    leaf, place = modes == "LEAF", _Places(tree, own)
    ways = np.stack([place.of(tree, values_of(node, f"nodes_{name}")) for name in ("truenodeids", "falsenodeids")], axis=1)
    if (ways[~leaf] < 0).any():
        raise Unfit("a node without children")
    order, roots, depths = _walked(ways, leaf, tree)
    return _Listed(tree, own, leaf, above, feature, ~leaf & (missing == 0), ways, order), roots, depths


def _thresholds(values: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """What a number must be above to go right.  Not less than t is above the number before t."""
    import numpy as np

    if len(values) != len(modes) or set(np.unique(modes)) - {"LEAF", "BRANCH_LEQ", "BRANCH_LT"}:
        raise Unfit("branches of another kind")
    less = modes == "BRANCH_LT"
    if np.isnan(values).any() or np.isneginf(values[less]).any():
        raise Unfit("thresholds that are no numbers")
    return np.where(less, np.nextafter(values, values.dtype.type(-np.inf)), values)


class _Places:
    """Finds nodes by their trees' and their own numbers."""

    def __init__(self, tree: np.ndarray, own: np.ndarray) -> None:
        import numpy as np

        self._span = int(own.max()) + 1
        if own.min() < 0 or tree.min() < 0 or int(tree.max()) > _INT64 // self._span - 1:
            raise Unfit("numbers of nodes below zero")
        keys = tree.astype(np.int64) * self._span + own
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise Unfit("two nodes of one number")

    def of(self, tree: np.ndarray, own: np.ndarray) -> np.ndarray:
        """The place of each; -1 where there is none.  Raises Unfit for lists of different lengths."""
        import numpy as np

        if len(tree) != len(own):
            raise Unfit("lists of different lengths")
        known = (own >= 0) & (own < self._span) & (tree >= 0) & (tree <= _INT64 // self._span - 1)
        wanted = np.where(known, tree, 0).astype(np.int64) * self._span + np.where(known, own, 0)
        found = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(known & (self._keys[found] == wanted), self._order[found], -1)


def _walked(ways: np.ndarray, leaf: np.ndarray, tree: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The places in their new order, the roots, and the trees' depths.  Raises Unfit for what is no tree."""
    import numpy as np

    is_child = np.zeros(len(leaf), dtype=bool)
    is_child[ways[~leaf].ravel()] = True
    level = roots = np.flatnonzero(~is_child)
    if (np.diff(tree[roots]) <= 0).any() or len(roots) != len(np.unique(tree)):
        raise Unfit("trees of several roots, or in another order")
    found, depths, reached = [roots], np.zeros(len(roots), dtype=np.int64), len(roots)
    for depth in range(1, len(leaf)):
        level = ways[level[~leaf[level]]].ravel()
        reached += len(level)
        if not len(level) or reached > len(leaf):
            break
        found.append(level)
        depths[np.searchsorted(tree[roots], np.unique(tree[level]))] = depth
    order = np.concatenate(found)
    if reached != len(leaf) or len(np.unique(order)) != len(leaf):
        raise Unfit("nodes that are reached twice, or never")
    return order[np.argsort(tree[order], kind="stable")], roots, depths


def _weights(node: Node, kind: str, listed: _Listed, new: np.ndarray, only: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each leaf's weights begin, the weights, and each tree's first target and number of targets.

    Raises Unfit unless all leaves of a tree have the same targets.
    """
    import numpy as np

    tree, ids, weights = values_of(node, f"{kind}_treeids"), values_of(node, f"{kind}_ids").astype(np.int64) - only, values_of(node, f"{kind}_weights")
    at = _Places(listed.tree, listed.number).of(tree, values_of(node, f"{kind}_nodeids"))
    if not len(at) == len(ids) == len(weights) > 0 or (at < 0).any() or not listed.leaf[at].all() or ids.min() < 0 or ids.max() >= MOST_TARGETS:
        raise Unfit("weights of no leaf")
    _, trees = np.unique(listed.tree, return_inverse=True)
    first, last = np.full(trees.max() + 1, MOST_TARGETS), np.full(trees.max() + 1, -1)
    np.minimum.at(first, trees[at], ids)
    np.maximum.at(last, trees[at], ids)
    spans = np.where((last < 0)[:, None], 0, np.stack([first, last - first + 1], axis=1))
    sizes = np.where(listed.leaf, spans[trees, 1], 0)[listed.order]
    ends = np.cumsum(sizes)
    begins = ends - sizes
    into = begins[new[at]] + ids - spans[trees[at], 0]
    if len(into) != ends[-1] or len(np.unique(into)) != len(into) or ends[-1] > _MOST:
        raise Unfit("leaves of one tree with different targets")
    placed = np.zeros(len(into), dtype=weights.dtype)
    placed[into] = weights
    return begins.astype(np.uint32), placed, spans
