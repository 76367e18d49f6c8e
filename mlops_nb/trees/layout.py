"""Which graphs are answered by our own code: an ensemble, and what becomes of its sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from . import ensembles
from .ensembles import Ensemble, Unfit
from .onnx_file import Graph, Node

if TYPE_CHECKING:
    import numpy as np

SCORES, VOTES, SHARE, SIGNS, FIRST, SOFTMAX = range(6)
"""What becomes of a row's sums, as walk.c has it: a regression; votes, to be divided; the second label's share; its logit; scores of labels; their softmax."""
_REGRESSOR, _CLASSIFIER = "TreeEnsembleRegressor", "TreeEnsembleClassifier"
_FLOATS = {1: "<f4", 11: "<f8"}


class Layout(NamedTuple):
    """One ensemble, ready to be walked, and how its answers are called."""

    ensemble: Ensemble
    finish: int
    input: str
    casts: list[str]
    """The types that the input has and goes through; the nodes have the last."""
    scores: str
    """The output with the scores."""
    label: str = ""
    """The output with the labels."""
    labels: np.ndarray | None = None
    divisor: float = 1.0


class _Given(NamedTuple):
    """What stands before the ensemble, and the outputs that results are known by at the end."""

    input: str
    casts: list[str]
    names: Mapping[str, str]


def laid_out(graph: Graph, type_: np.dtype) -> Layout:
    """The ensemble that is all of *graph*, whose input is of *type_*, but for casts and what becomes of the sums.  Raises Unfit."""
    nodes, names = _without_identities(graph)
    if len(graph.inputs) != 1:
        raise Unfit("several inputs")
    seen, casts = graph.inputs[0], [type_.str]
    while nodes and nodes[0].kind == "Cast" and nodes[0].inputs == [seen]:
        cast = nodes.pop(0)
        casts.append(_FLOATS.get(cast.attributes.get("to", 0), ""))
        seen = cast.outputs[0]
    if not set(casts) <= set(_FLOATS.values()) or not nodes or nodes[0].kind not in (_REGRESSOR, _CLASSIFIER) or nodes[0].inputs != [seen]:
        raise Unfit("more stands before the trees than casts")
    ensemble, after, given = nodes[0], nodes[1:], _Given(graph.inputs[0], casts, names)
    if ensemble.kind == _CLASSIFIER:
        return _classifier(ensemble, after, given)
    return _votes(ensemble, after, graph.constants, given) if after else _regressor(ensemble, given)


def _without_identities(graph: Graph) -> tuple[list[Node], dict[str, str]]:
    """The other operators, and the output that each result is."""
    nodes: list[Node] = []
    names = {name: name for name in graph.outputs}
    for node in reversed(graph.nodes):
        if node.kind == "Identity" and node.outputs[0] in names and node.inputs[0] not in names:
            names[node.inputs[0]] = names.pop(node.outputs[0])
        else:
            nodes.insert(0, node)
    return nodes, names


def _regressor(node: Node, given: _Given) -> Layout:
    if node.attributes.get("post_transform", "NONE") != "NONE" or list(given.names) != node.outputs:
        raise Unfit("something else becomes of the sums")
    return Layout(_of_targets(node, given), SCORES, given.input, given.casts, given.names[node.outputs[0]])


def _of_targets(node: Node, given: _Given) -> Ensemble:
    return ensembles.of(node, "target", int(node.attributes.get("n_targets", 1)), given.casts[-1])


def _votes(node: Node, after: list[Node], constants: Mapping[str, Any], given: _Given) -> Layout:
    """A voting forest as `conversion.forests` writes it: the first of the largest sums is the label, the sums divided are the probabilities."""
    kinds = {each.kind: each for each in after}
    if len(after) != 3 or set(kinds) != {"ArgMax", "Gather", "Div"} or node.attributes.get("post_transform", "NONE") != "NONE":
        raise Unfit("something else becomes of the sums")
    votes, best, chosen, shared = node.outputs[0], kinds["ArgMax"], kinds["Gather"], kinds["Div"]
    first = best.attributes.get("axis") == 1 and best.attributes.get("keepdims") == 0 and not best.attributes.get("select_last_index")
    linked = best.inputs == [votes] and chosen.inputs[1:] == best.outputs and shared.inputs[:1] == [votes] and not chosen.attributes.get("axis")
    divisor, labels = constants.get(shared.inputs[1]), _labels(constants.get(chosen.inputs[0]))
    ensemble = _of_targets(node, given)
    if (
        divisor is None
        or len(divisor) != 1
        or labels is None
        or len(labels) != ensemble.targets
        or not (first and linked)
        or {chosen.outputs[0], shared.outputs[0]} != set(given.names)
    ):
        raise Unfit("something else becomes of the sums")
    scores, label = given.names[shared.outputs[0]], given.names[chosen.outputs[0]]
    return Layout(ensemble, VOTES, given.input, given.casts, scores, label, labels, float(divisor[0]))


def _classifier(node: Node, after: list[Node], given: _Given) -> Layout:
    import numpy as np

    labels = _labels(node.attributes.get("classlabels_strings") or node.attributes.get("classlabels_int64s"))
    ids, transform = np.unique(ensembles.values_of(node, "class_ids")), node.attributes.get("post_transform", "NONE")
    if after or set(node.outputs) != set(given.names) or labels is None or len(labels) < 2:
        raise Unfit("something else becomes of the sums")
    if len(labels) == 2 and len(ids) == 1:
        ensemble = ensembles.of(node, "class", 1, given.casts[-1], only=int(ids[0]))
        finish = {("NONE", False): SHARE, ("LOGISTIC", True): SIGNS}.get((transform, bool((ensemble.weights < 0).any())))
    else:
        ensemble = ensembles.of(node, "class", len(labels), given.casts[-1])
        finish = {"NONE": FIRST, "SOFTMAX": SOFTMAX}.get(transform) if len(ids) == len(labels) else None
    if finish is None:
        raise Unfit(f"something else becomes of the sums ({transform})")
    label, scores = (given.names[name] for name in node.outputs)
    return Layout(ensemble, finish, given.input, given.casts, scores, label, labels)


def _labels(values: Any) -> np.ndarray | None:
    import numpy as np

    if values is None or not len(values):
        return None
    return np.array(values, dtype=object) if isinstance(values, list) else np.asarray(values, dtype=np.int64)
