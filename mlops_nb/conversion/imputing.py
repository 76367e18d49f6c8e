"""scikit-learn's SimpleImputer as ONNX with 64 bits and for text, neither of which ONNX's own Imputer has."""

from __future__ import annotations

from typing import Any


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Write a SimpleImputer into skl2onnx's *container*: as skl2onnx does, other than for 64-bit floats and for text."""
    from skl2onnx.operator_converters.imputer_op import convert_sklearn_imputer

    kind = type(operator.inputs[0].type).__name__
    if kind == "DoubleTensorType":
        _numbers(scope, operator, container)
    elif kind == "StringTensorType" and not isinstance(operator.raw_operator.missing_values, str):
        _texts(scope, operator, container)
    else:
        convert_sklearn_imputer(scope, operator, container)


def _numbers(scope: Any, operator: Any, container: Any) -> None:
    """What is missing is chosen from what is filled in."""
    import numpy as np
    from onnx import TensorProto

    imputer = operator.raw_operator
    filled = np.asarray(imputer.statistics_, dtype=np.float64)
    if np.isnan(filled).any():
        raise NotImplementedError("a column had nothing but missing values")
    if imputer.add_indicator:
        raise NotImplementedError("it adds columns that tell what was missing")

    def node(kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or scope.get_unique_variable_name(kind.lower())
        container.add_node(kind, inputs, [output], name=scope.get_unique_operator_name(kind), **attributes)
        return output

    def constant(name: str, values: list[float]) -> str:
        name = scope.get_unique_variable_name(name)
        container.add_initializer(name, TensorProto.DOUBLE, [1, len(values)], values)
        return name

    columns = [node("Cast", [value.full_name], to=TensorProto.DOUBLE) for value in operator.inputs]
    given = node("Concat", columns, axis=1) if len(columns) > 1 else columns[0]
    missing = imputer.missing_values
    gone = node("IsNaN", [given]) if missing is None or np.isnan(missing) else node("Equal", [given, constant("missing", [float(missing)])])
    node("Where", [gone, constant("filled", filled.tolist()), given], operator.outputs[0].full_name)


def _texts(scope: Any, operator: Any, container: Any) -> None:
    """As they are: no text is NaN or None in ONNX, and a column that misses some is not converted at all."""
    names = [value.full_name for value in operator.inputs]
    container.add_node("Concat", names, [operator.outputs[0].full_name], name=scope.get_unique_operator_name("Concat"), axis=1)
