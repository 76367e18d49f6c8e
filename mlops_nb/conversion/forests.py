"""scikit-learn's voting forests as ONNX, the votes counted whole.

A share of every vote, as a plain `TreeEnsembleClassifier` adds them up, turns an even vote into 0.49999994 against 0.50000006 and
so may name the other label.  Here each tree gives its leaf's class shares undivided, the label is the first of the largest
sums, as in scikit-learn, and only then are the sums divided by the number of trees.
"""

from __future__ import annotations

from typing import Any


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Write a RandomForestClassifier or ExtraTreesClassifier into skl2onnx's *container*."""
    import numpy as np
    from onnx import TensorProto

    forest = operator.raw_operator
    classes = _classes(forest)
    wide = type(operator.inputs[0].type).__name__ == "DoubleTensorType"

    def node(kind: str, inputs: list[str], output: str = "", domain: str = "", **attributes: Any) -> str:
        output = output or scope.get_unique_variable_name(kind.lower())
        container.add_node(kind, inputs, [output], op_domain=domain, name=scope.get_unique_operator_name(kind), **attributes)
        return output

    def constant(name: str, values: np.ndarray, type_: int) -> str:
        name = scope.get_unique_variable_name(name)
        container.add_initializer(name, type_, list(values.shape), values.tolist() if values.dtype != object else [str(value).encode() for value in values])
        return name

    seen = node("Cast", [operator.inputs[0].full_name], to=TensorProto.FLOAT)  # a tree of scikit-learn sees 32 bits
    if wide:
        seen = node("Cast", [seen], to=TensorProto.DOUBLE)
    votes = node("TreeEnsembleRegressor", [seen], domain="ai.onnx.ml", n_targets=len(classes), **attributes(forest, wide=wide))
    winner = node("ArgMax", [votes], axis=1, keepdims=0)
    texts = classes.dtype == object
    labels = constant("classes", classes, TensorProto.STRING if texts else TensorProto.INT64)
    node("Gather", [labels, winner], operator.outputs[0].full_name)
    count = constant("trees", np.array([float(len(forest.estimators_))]), TensorProto.FLOAT)
    node("Div", [votes, count], operator.outputs[1].full_name)


def _classes(forest: Any) -> Any:
    if forest.n_outputs_ != 1:
        raise NotImplementedError("it predicts several labels at once")
    if forest.classes_.dtype.kind in "iu":
        return forest.classes_.astype("int64")
    if all(isinstance(label, str) for label in forest.classes_.tolist()):
        return forest.classes_.astype(object)
    raise NotImplementedError("its labels are neither text nor whole numbers")


def attributes(forest: Any, *, wide: bool) -> dict[str, Any]:
    """The trees of *forest* as attributes of a `TreeEnsembleRegressor` (ONNX-ML 3), a target for each class; *wide* keeps 64 bits."""
    import numpy as np

    trees = [tree.tree_ for tree in forest.estimators_]
    columns = {name: np.concatenate(values) for name, values in _nodes(trees).items()}
    leaves = columns["nodes_modes"] == "LEAF"
    shares = np.concatenate([tree.value[:, 0, :] for tree in trees])[leaves]
    shares = shares / shares.sum(axis=1, keepdims=True)
    targets = shares.shape[1]
    weights = {
        "target_treeids": np.repeat(columns["nodes_treeids"][leaves], targets),
        "target_nodeids": np.repeat(columns["nodes_nodeids"][leaves], targets),
        "target_ids": np.tile(np.arange(targets), len(shares)),
    }
    plain = {name: values.tolist() for name, values in (columns | weights).items() if name != "nodes_values"}
    return plain | _numbers("nodes_values", columns["nodes_values"], wide=wide) | _numbers("target_weights", shares.ravel(), wide=wide)


def _nodes(trees: list[Any]) -> dict[str, list[Any]]:
    import numpy as np

    inner = [tree.children_left >= 0 for tree in trees]
    pairs = list(zip(trees, inner, strict=True))
    return {
        "nodes_treeids": [np.full(tree.node_count, place) for place, tree in enumerate(trees)],
        "nodes_nodeids": [np.arange(tree.node_count) for tree in trees],
        "nodes_modes": [np.where(splits, "BRANCH_LEQ", "LEAF") for splits in inner],
        "nodes_featureids": [np.where(splits, tree.feature, 0) for tree, splits in pairs],
        "nodes_values": [np.where(splits, tree.threshold, 0.0) for tree, splits in pairs],
        "nodes_truenodeids": [np.where(splits, tree.children_left, 0) for tree, splits in pairs],
        "nodes_falsenodeids": [np.where(splits, tree.children_right, 0) for tree, splits in pairs],
        "nodes_missing_value_tracks_true": [_missing_left(tree) & splits for tree, splits in pairs],
    }


def _missing_left(tree: Any) -> Any:
    import numpy as np

    return np.asarray(getattr(tree, "missing_go_to_left", np.zeros(tree.node_count)), dtype=np.int64)


def _numbers(name: str, values: Any, *, wide: bool) -> dict[str, Any]:
    """An attribute of numbers; thresholds in 32 bits are those below, for whatever has 32 bits and is not above one is not above the other."""
    import numpy as np
    from onnx import TensorProto, helper

    if wide:
        return {f"{name}_as_tensor": helper.make_tensor(name, TensorProto.DOUBLE, [len(values)], values)}
    narrow = values.astype(np.float32)
    if name == "nodes_values":
        narrow = np.where(narrow > values, np.nextafter(narrow, np.float32(-np.inf)), narrow)
    return {name: narrow.tolist()}
