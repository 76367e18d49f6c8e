"""An ONNX model split into what the host does before, what becomes logic, and what the host does after.

Runs in the conversion's process only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..conversion.reasons import NotConvertible
from ..errors import listed

CORE_IN, CORE_OUT = "fpga_in", "fpga_out"
_BOTH = frozenset({
    "Add", "ArrayFeatureExtractor", "Binarizer", "Cast", "Clip", "Concat", "Constant", "Div", "Equal", "Flatten", "Gather", "Identity",
    "LabelEncoder", "Mul", "Normalizer", "Not", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators that reshape, choose or reckon with single numbers, which a host does on either side."""
_BEFORE = _BOTH | frozenset({
    "Abs", "And", "CastMap", "DictVectorizer", "FeatureVectorizer", "Imputer", "IsNaN", "Log", "OneHot", "OneHotEncoder", "Or", "Scaler", "Split",
    "StringNormalizer",
})  # fmt: skip
"""Further ones a host does before."""
_AFTER = _BOTH | frozenset({
    "ArgMax", "Elu", "Exp", "Greater", "LeakyRelu", "Less", "LogSoftmax", "Max", "Min", "Neg", "Pow", "ReduceSum", "Relu", "Sigmoid", "Softmax",
    "Tanh", "Transpose", "ZipMap",
})  # fmt: skip
"""Further ones a host does after."""
_ACTIVATIONS = {"Relu": "relu", "LeakyRelu": "leaky_relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Elu": "elu"}
_PASSED = ("Identity", "Dropout", "Cast")
_TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
SUPPORTED = "dense layers with Relu, LeakyRelu, Elu, Sigmoid or Tanh between them, and boosted or voting trees"


class Dense(msgspec.Struct, frozen=True):
    """`x @ weights + bias`; weights are [inputs, outputs]."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights + self.bias


class Activation(msgspec.Struct, frozen=True):
    """A function of each number alone."""

    kind: str
    alpha: float = 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return _FUNCTIONS[self.kind](x, self.alpha)


_FUNCTIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "relu": lambda x, _: np.maximum(x, 0),
    "leaky_relu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "sigmoid": lambda x, _: 1 / (1 + np.exp(-x)),
    "tanh": lambda x, _: np.tanh(x),
}


class Network(msgspec.Struct, frozen=True):
    """Dense layers and activations, one after the other; the last is dense."""

    layers: list[Dense | Activation]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def dense(self) -> list[Dense]:
        """Its dense layers."""
        return [layer for layer in self.layers if isinstance(layer, Dense)]

    @property
    def widths(self) -> tuple[int, int]:
        """How many numbers go in and come out."""
        return len(self.dense[0].weights), len(self.dense[-1].bias)


class Tree(msgspec.Struct, frozen=True):
    """One tree, node 0 being its root; leaves have feature -2 and children -1.  `value` is [nodes, outputs]."""

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    @property
    def depth(self) -> int:
        """The most comparisons on a way to a leaf."""
        deepest, level = 0, [0]
        while level := [child for node in level if self.feature[node] >= 0 for child in (self.left[node], self.right[node])]:
            deepest += 1
        return deepest


class Forest(msgspec.Struct, frozen=True):
    """Trees whose leaves are summed."""

    trees: list[Tree]
    base: np.ndarray
    features: int
    or_equal: bool
    """Whether a number equal to the threshold goes left."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.base + sum(tree.value[self._leaves(tree, x)] for tree in self.trees)

    def _leaves(self, tree: Tree, x: np.ndarray) -> np.ndarray:
        place = np.zeros(len(x), dtype=int)
        compare = np.less_equal if self.or_equal else np.less
        while (inner := tree.feature[place] >= 0).any():
            seen = x[np.arange(len(x)), np.maximum(tree.feature[place], 0)]
            place = np.where(inner, np.where(compare(seen, tree.threshold[place]), tree.left[place], tree.right[place]), place)
        return place

    @property
    def widths(self) -> tuple[int, int]:
        """How many numbers go in and come out."""
        return self.features, len(self.base)


class Split(msgspec.Struct, frozen=True):
    """A model in three parts: an ONNX graph to `fpga_in`, the logic, and an ONNX graph from `fpga_out`."""

    before: bytes
    core: Network | Forest
    after: bytes


def split(content: bytes) -> Split:
    """The model of *content* in three parts.  Raises NotConvertible, naming the operator that has no place in any of them."""
    model = onnx.load_from_string(content)
    graph = _Graph(model)
    trees = [node for node in model.graph.node if node.op_type in _TREES]
    if len(trees) > 1:
        raise NotConvertible(f"it has {len(trees)} ensembles of trees, and one becomes logic")
    return _split_at_trees(graph, trees[0]) if trees else _split_at_layers(graph)


class _Graph:
    """The model's graph with what is looked up in it again and again."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self.constants |= {
            node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in self.nodes if node.op_type == "Constant" and _has_tensor(node)
        }
        self.outputs = [output.name for output in model.graph.output]

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that take *name*."""
        return [node for node in self.nodes if name in node.input]

    def part(self, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[str]) -> bytes:
        """An ONNX model of these nodes alone."""
        taken = {name for node in nodes for name in node.input}
        weights = [each for each in self.model.graph.initializer if each.name in taken]
        graph = helper.make_graph(nodes, "part", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], weights)
        made = helper.make_model(graph, opset_imports=self.model.opset_import, functions=self.model.functions)
        made.ir_version = self.model.ir_version
        return made.SerializeToString()

    def upstream(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that *name* is made by, in order."""
        needed, found = {name}, []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                found.append(node)
                needed |= set(node.input)
        return found[::-1]

    def before(self, name: str) -> bytes:
        """The host's part up to *name*.  Raises NotConvertible for a layer in it."""
        nodes = self.upstream(name)
        _check(nodes, _BEFORE, "stands before the first layer that becomes logic")
        cast = helper.make_node("Cast", [name], [CORE_IN], to=TensorProto.DOUBLE)
        return self.part([*nodes, cast], list(self.model.graph.input), [CORE_IN])

    def after(self, nodes: list[onnx.NodeProto], name: str, element: int, *, width: int) -> bytes:
        """The host's part from *name*, made again out of what the logic gives, to the model's outputs.  Raises NotConvertible."""
        made = {output for node in nodes for output in node.output} | {name}
        rest = [node for node in self._downstream(made) if node not in nodes]
        _check(rest, _AFTER, "stands after the last layer that becomes logic")
        there = made | set(self.constants) | {output for node in rest for output in node.output} | {""}
        if beside := next((node for node in rest if not set(node.input) <= there), None):
            raise NotConvertible(f"{_named(beside)} takes something from beside the layers, and logic here is one plain chain of them")
        cast = helper.make_node("Cast", [CORE_OUT], [name], to=element)
        given = helper.make_tensor_value_info(CORE_OUT, TensorProto.DOUBLE, [None, width])
        constants = [node for node in self.nodes if node.op_type == "Constant"]
        return self.part([cast, *constants, *nodes, *rest], [given], self.outputs)

    def _downstream(self, made: set[str]) -> list[onnx.NodeProto]:
        """The nodes that the outputs need and that are not upstream of *made*."""
        needed, found = set(self.outputs) - made, []
        for node in reversed(self.nodes):
            if needed & set(node.output) and node.op_type != "Constant":
                found.append(node)
                needed |= set(node.input) - made
        return found[::-1]


def _has_tensor(node: onnx.NodeProto) -> bool:
    return bool(node.attribute) and node.attribute[0].name == "value"


def _check(nodes: Iterable[onnx.NodeProto], allowed: frozenset[str], where: str) -> None:
    if wrong := next((node for node in nodes if node.op_type not in allowed), None):
        raise NotConvertible(f"{_named(wrong)} {where}, and has no form here; these have: {SUPPORTED}")


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} ({node.name})" if node.name and node.name != node.op_type else node.op_type


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


# ── dense layers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _split_at_layers(graph: _Graph) -> Split:
    first = next((node for node in graph.nodes if _dense(graph, node)), None)
    if first is None:
        kinds = dict.fromkeys(node.op_type for node in graph.nodes if node.op_type not in _BEFORE & _AFTER)
        raise NotConvertible(f"none of its operators becomes logic ({listed(kinds or ['it has none'])}); these do: {SUPPORTED}")
    layers, last = _chain(graph, first)
    element = _element(graph, last)
    return Split(graph.before(first.input[0]), Network(layers), graph.after([], last, element, width=len(layers[-1].bias)))  # type: ignore[union-attr]


def _dense(graph: _Graph, node: onnx.NodeProto) -> Dense | None:
    """The layer that a node computes, when it is one with constant weights."""
    if node.op_type not in ("Gemm", "MatMul") or (weights := graph.constants.get(node.input[1])) is None or weights.ndim != 2:
        return None
    said = _attributes(node)
    if said.get("transA"):
        return None
    weights = weights.astype(np.float64)
    weights = (weights.T if said.get("transB") else weights) * said.get("alpha", 1.0)
    bias = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    width = weights.shape[1]
    return Dense(weights, np.zeros(width) if bias is None else np.broadcast_to(bias.astype(np.float64) * said.get("beta", 1.0), (width,)).copy())


def _chain(graph: _Graph, first: onnx.NodeProto) -> tuple[list[Dense | Activation], str]:
    """The layers from *first* on to the last dense one, and the name of what that gives."""
    layers: list[Dense | Activation] = []
    known, last, node, came_by = 0, "", first, first.input[0]
    while step := _step(graph, layers, node, came_by):
        layers, came_by = step, node.output[0]
        if isinstance(layers[-1], Dense):
            known, last = len(layers), came_by
        following = graph.consumers(came_by)
        if len(following) != 1 or came_by in graph.outputs:
            break
        node = following[0]
    return layers[:known], last


def _step(graph: _Graph, layers: list[Dense | Activation], node: onnx.NodeProto, came_by: str) -> list[Dense | Activation] | None:
    """*layers* with what *node* adds, or None when it cannot be added."""
    if dense := _dense(graph, node):
        return [*layers, dense] if node.input[0] == came_by else None
    if node.op_type in _ACTIVATIONS:
        default = {"LeakyRelu": 0.01, "Elu": 1.0}.get(node.op_type, 0.0)
        return [*layers, Activation(_ACTIVATIONS[node.op_type], _attributes(node).get("alpha", default))]
    if node.op_type in _PASSED and not (node.op_type == "Cast" and _attributes(node)["to"] not in (TensorProto.FLOAT, TensorProto.DOUBLE)):
        return layers
    return _folded(graph, layers, node, came_by) if layers and isinstance(layers[-1], Dense) else None


def _folded(graph: _Graph, layers: list[Dense | Activation], node: onnx.NodeProto, came_by: str) -> list[Dense | Activation] | None:
    """A constant that is added, or a normalisation by constants, taken into the dense layer before it."""
    dense = layers[-1]
    assert isinstance(dense, Dense)
    if node.op_type == "Add":
        other = next((graph.constants[name] for name in node.input if name != came_by and name in graph.constants), None)
        if other is None or other.size not in (1, len(dense.bias)):
            return None
        return [*layers[:-1], Dense(dense.weights, dense.bias + other.reshape(-1))]
    if node.op_type == "BatchNormalization":
        scale, shift, mean, variance = (graph.constants[name].astype(np.float64) for name in node.input[1:5])
        factor = scale / np.sqrt(variance + _attributes(node).get("epsilon", 1e-5))
        return [*layers[:-1], Dense(dense.weights * factor, (dense.bias - mean) * factor + shift)]
    return None


def _element(graph: _Graph, name: str) -> int:
    """The element type of *name*: that of the weights it is made with."""
    node = next(node for node in graph.nodes if name in node.output)
    names = [each for each in node.input if each in graph.constants]
    wide = any(graph.constants[each].dtype == np.float64 for each in names)
    return TensorProto.DOUBLE if wide else TensorProto.FLOAT


# ── trees ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _split_at_trees(graph: _Graph, node: onnx.NodeProto) -> Split:
    said = _attributes(node)
    classifier = node.op_type == "TreeEnsembleClassifier"
    forest = _forest(said, "class" if classifier else "target")
    name = f"{node.output[-1]}_sums"
    nodes = _scored(said, forest, name, list(node.output)) if classifier else _summed(said, forest, name, node.output[0])
    after, forest = _two_as_one(graph, nodes, forest, name)
    before = graph.before(node.input[0])
    return Split(before, forest, after)


def _forest(said: dict[str, Any], kind: str) -> Forest:
    modes = [mode.decode() for mode in said["nodes_modes"]]
    inner = {mode for mode in modes if mode != "LEAF"}
    if len(inner) > 1 or not inner <= {"BRANCH_LEQ", "BRANCH_LT"}:
        raise NotConvertible(f"its trees compare by {listed(sorted(inner))}, and logic compares by one of BRANCH_LEQ, BRANCH_LT")
    trees = np.array(said["nodes_treeids"])
    places = {key: place for place, key in enumerate(zip(said["nodes_treeids"], said["nodes_nodeids"], strict=True))}
    outputs = sorted(set(said[f"{kind}_ids"]))
    values = np.zeros((len(modes), len(outputs)))
    weights = _numbers(said, f"{kind}_weights")
    for tree, at, output, weight in zip(said[f"{kind}_treeids"], said[f"{kind}_nodeids"], said[f"{kind}_ids"], weights, strict=True):
        values[places[tree, at], outputs.index(output)] += weight
    columns = {
        "feature": np.where(np.array(modes) == "LEAF", -2, said["nodes_featureids"]), "threshold": _numbers(said, "nodes_values"),
        "left": np.array(said["nodes_truenodeids"]), "right": np.array(said["nodes_falsenodeids"]),
    }  # fmt: skip
    grown = [_tree({name: column[trees == tree] for name, column in columns.items()}, np.array(said["nodes_nodeids"])[trees == tree], values[trees == tree])
             for tree in sorted(set(said["nodes_treeids"]))]  # fmt: skip
    base = np.array(_numbers(said, "base_values"))
    base = np.zeros(len(outputs)) if not base.size else base[-len(outputs) :]
    return Forest(grown, base, int(columns["feature"].max(initial=0)) + 1, inner != {"BRANCH_LT"})


def _tree(columns: dict[str, np.ndarray], numbers: np.ndarray, value: np.ndarray) -> Tree:
    """A tree whose nodes are numbered from 0 in the order they stand."""
    place = {number: at for at, number in enumerate(numbers.tolist())}
    leaf = columns["feature"] < 0
    left, right = ([-1 if leaf[at] else place[child] for at, child in enumerate(columns[side].tolist())] for side in ("left", "right"))
    return Tree(columns["feature"], columns["threshold"], np.array(left), np.array(right), value)


def _numbers(said: dict[str, Any], name: str) -> np.ndarray:
    if f"{name}_as_tensor" in said:
        return numpy_helper.to_array(said[f"{name}_as_tensor"]).astype(np.float64)
    return np.array(said.get(name, []), dtype=np.float64)


def _summed(said: dict[str, Any], forest: Forest, name: str, output: str) -> list[onnx.NodeProto]:
    """A regressor's answer out of the sums."""
    how = said.get("aggregate_function", b"SUM").decode()
    if how not in ("SUM", "AVERAGE") or said.get("post_transform", b"NONE") != b"NONE":
        raise NotConvertible(f"its trees come together by {how} and {said.get('post_transform', b'').decode()}, which is not done here")
    shares = 1.0 / len(forest.trees) if how == "AVERAGE" else 1.0
    return [*_constant(f"{name}_share", np.array([shares], dtype=np.float32)), helper.make_node("Mul", [name, f"{name}_share"], [output])]


def _scored(said: dict[str, Any], forest: Forest, name: str, outputs: list[str]) -> list[onnx.NodeProto]:
    """A classifier's label and scores out of the sums."""
    label, scores = outputs
    how = said.get("post_transform", b"NONE").decode()
    single = len(forest.base) == 1
    if how not in ("NONE", "LOGISTIC", "SOFTMAX") or (single and how == "SOFTMAX"):
        raise NotConvertible(f"its trees' scores come together by {how}, which is not done here")
    nodes = [helper.make_node({"NONE": "Identity", "LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax"}[how], [name], [f"{name}_each"])]
    if single:
        nodes += [*_constant(f"{name}_one", np.array([1], dtype=np.float32)), helper.make_node("Sub", [f"{name}_one", f"{name}_each"], [f"{name}_other"]),
                  helper.make_node("Concat", [f"{name}_other", f"{name}_each"], [scores], axis=1)]  # fmt: skip
    else:
        nodes.append(helper.make_node("Identity", [f"{name}_each"], [scores]))
    labels = np.array(said.get("classlabels_int64s") or [text.decode() for text in said["classlabels_strings"]])
    labels = labels.astype(np.int64) if labels.dtype.kind in "iu" else labels.astype(object)
    return [*nodes, *_constant(f"{name}_labels", labels), helper.make_node("ArgMax", [scores], [f"{name}_winner"], axis=1, keepdims=0),
            helper.make_node("Gather", [f"{name}_labels", f"{name}_winner"], [label])]  # fmt: skip


def _two_as_one(graph: _Graph, nodes: list[onnx.NodeProto], forest: Forest, name: str) -> tuple[bytes, Forest]:
    """The host's part after the trees.  Of two sums that add up to the same whatever the leaves, one is enough."""
    if len(forest.base) != 2:
        return graph.after(nodes, name, TensorProto.FLOAT, width=len(forest.base)), forest
    totals = [tree.value[tree.feature < 0].sum(axis=1) for tree in forest.trees]
    if any(np.ptp(total) > 1e-5 for total in totals):
        raise NotConvertible("its trees give two scores that do not depend on each other, which conifer does not write")
    whole = float(sum(total[0] for total in totals) + forest.base.sum())
    second = Forest([Tree(t.feature, t.threshold, t.left, t.right, t.value[:, 1:]) for t in forest.trees], forest.base[1:], forest.features, forest.or_equal)
    both = [*_constant(f"{name}_whole", np.array([whole], dtype=np.float32)), helper.make_node("Sub", [f"{name}_whole", f"{name}_second"], [f"{name}_first"]),
            helper.make_node("Concat", [f"{name}_first", f"{name}_second"], [name], axis=1)]  # fmt: skip
    return graph.after([*both, *nodes], f"{name}_second", TensorProto.FLOAT, width=1), second


def _constant(name: str, values: np.ndarray) -> list[onnx.NodeProto]:
    if values.dtype == object:
        tensor = helper.make_tensor(name, TensorProto.STRING, list(values.shape), [text.encode() for text in values])
    else:
        tensor = numpy_helper.from_array(values, name)
    return [helper.make_node("Constant", [], [name], value=tensor)]
