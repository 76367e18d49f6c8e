"""scikit-learn, XGBoost and LightGBM written as ONNX graphs, under the names of a signature's columns."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..errors import listed
from . import forests, reasons
from .reasons import NotConvertible

if TYPE_CHECKING:
    import onnx

    from ..signature import Column, Signature

Floats = Literal["Float", "Double"]
Convert = Callable[[Any, list[tuple[str, Any]]], "onnx.ModelProto"]
OPSET = 18
_OLDEST_OPSET = 7
"""ONNX Runtime has all operators from this set on."""
_OPSET_OF_TREES = 3
"""Of ai.onnx.ml: the one whose operators every converter here can write."""


def written(obj: Any, signature: Signature, outputs: Sequence[str], floats: Floats, opset: int | None) -> bytes:
    """The model as ONNX under the names of its columns and *outputs*, in operators of the set *opset* at the newest (OPSET unless given)."""
    if taken := set(outputs) & {column.name for column in signature.inputs}:
        raise NotConvertible(f"a column is called {listed(sorted(taken))}, as the answer is")
    write = _whole if signature.kind == "tensors" else _by_column if _chooses_columns(obj) else _side_by_side
    try:
        obj = _with_plain_features(obj)
        convert = partial(_convert, options=_options(obj, outputs), opset=_writable(opset or OPSET))
        with _taught():
            model = write(obj, signature, convert, floats)
        _narrow_for_trees(model, floats)
    except ImportError as error:
        raise NotConvertible(f"{error.name or 'skl2onnx'} is not installed (pip install 'mlops_nb[convert]')") from error
    except NotConvertible:
        raise
    except Exception as error:  # converters come from several packages and raise what they like; each means the same here
        raise reasons.of(error, obj) from error
    _name_outputs(model, outputs)
    _import_once(model)
    return model.SerializeToString()


def _writable(opset: int) -> int:
    """*opset*, when the onnx here knows it.  Raises NotConvertible."""
    from onnx.defs import onnx_opset_version

    if opset > (newest := onnx_opset_version()):
        raise NotConvertible(f"operator set {opset} is newer than {newest}, the newest that the onnx here can write")
    return opset


def _whole(obj: Any, signature: Signature, convert: Convert, floats: Floats) -> onnx.ModelProto:
    """One array in, as it is."""
    if len(signature.inputs) != 1:
        raise NotConvertible("it takes several arrays")
    column = signature.inputs[0]
    kind = _tensor_type("String" if column.type == "string" else floats)
    model = convert(obj, [("input", kind(list(column.shape or [None])))])
    _rename(model, {model.graph.input[0].name: column.name})
    return model


def _by_column(obj: Any, signature: Signature, convert: Convert, floats: Floats) -> onnx.ModelProto:
    """A table's columns one by one, for a model that chooses among them by name."""
    try:
        model = convert(obj, _typed(signature, floats, whole_numbers=True))
    except Exception:  # some converters take no mixture of types: then all numbers as floats, or else the second error is the one to tell
        model = convert(obj, _typed(signature, floats, whole_numbers=False))
    if len(model.graph.input) != len(signature.inputs):
        raise NotConvertible("its converter drops columns")
    # skl2onnx makes identifiers of the names; their order stays.
    _rename(model, {value.name: column.name for value, column in zip(model.graph.input, signature.inputs, strict=True)})
    return model


def _side_by_side(obj: Any, signature: Signature, convert: Convert, floats: Floats) -> onnx.ModelProto:
    """A table's columns put side by side as the one matrix the model takes."""
    from onnx import TensorProto, helper

    texts = {column.type == "string" for column in signature.inputs}
    if len(texts) > 1:
        raise NotConvertible("it takes text and numbers in one matrix")
    kind = "String" if texts == {True} else floats
    element = TensorProto.DataType.Value(kind.upper())
    model = convert(obj, [("side_by_side", _tensor_type(kind)([None, len(signature.inputs)]))])
    matrix = model.graph.input.pop().name
    names = [column.name for column in signature.inputs]
    _rename(model, {name: f"{name}_inside" for name in names})  # what is inside may bear a column's name by chance
    model.graph.input.extend(helper.make_tensor_value_info(name, element, [None, 1]) for name in names)
    model.graph.node.insert(0, helper.make_node("Concat", names, [matrix], name="side_by_side", axis=1))
    return model


def _convert(obj: Any, inputs: list[tuple[str, Any]], *, options: Any, opset: int) -> onnx.ModelProto:
    from skl2onnx import convert_sklearn

    model = convert_sklearn(obj, initial_types=inputs, options=options, target_opset={"": opset, "ai.onnx.ml": _OPSET_OF_TREES})
    for entry in model.opset_import:  # it names the oldest set that its own operators are in, which may be one that ONNX Runtime no longer has
        if entry.domain == "" and entry.version < _OLDEST_OPSET:
            entry.version = opset
    return model


def _options(obj: Any, outputs: Sequence[str]) -> dict[int, dict[str, Any]] | None:
    """Probabilities as one matrix.  A classifier without them must not be told so: its converter knows no such choice."""
    if "probabilities" in outputs:
        return {id(obj): {"zipmap": False}}
    return {id(obj.steps[-1][1]): {}} if "label" in outputs and hasattr(obj, "steps") else None


def _with_plain_features(obj: Any) -> Any:
    """*obj*, or a copy whose XGBoost models have forgotten their columns' names: its converter reads only `f0`, `f1`, …"""
    if not any(_named_booster(part) for _, part in reasons.parts(obj)):
        return obj
    obj = copy.deepcopy(obj)
    for booster in filter(None, (_named_booster(part) for _, part in reasons.parts(obj))):
        booster.feature_names = None
    return obj


def _named_booster(part: Any) -> Any:
    booster = part.get_booster() if hasattr(part, "get_booster") else None
    return booster if booster is not None and booster.feature_names else None


def _chooses_columns(obj: Any) -> bool:
    return any(type(part).__name__ == "ColumnTransformer" for part in (obj, *obj.get_params(deep=True).values()))


def _typed(signature: Signature, floats: Floats, *, whole_numbers: bool) -> list[tuple[str, Any]]:
    def kind_of(column: Column) -> str:
        if column.type == "string":
            return "String"
        if not whole_numbers or column.nullable or column.type.startswith("float"):
            return floats  # a whole number that may be missing comes as a float with NaN
        return "Boolean" if column.type == "bool" else "Int64"

    return [(column.name, _tensor_type(kind_of(column))([None, 1])) for column in signature.inputs]


def _tensor_type(kind: str) -> Any:
    from skl2onnx.common import data_types

    return getattr(data_types, f"{kind}TensorType")


def _narrow_for_trees(model: onnx.ModelProto, floats: Floats) -> None:
    """Let trees see 32-bit floats, as those of XGBoost and scikit-learn's forests do, also where all before them is reckoned with 64.

    Those written with 64 bits themselves (LightGBM's, histogram boosting's) see 64.
    """
    from onnx import TensorProto, helper

    if floats == "Float":
        return
    for place, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type.startswith("TreeEnsemble") and not any(attribute.name == "nodes_values_as_tensor" for attribute in node.attribute):
            narrow = helper.make_node("Cast", [node.input[0]], [f"{node.input[0]}_narrow_{place}"], to=TensorProto.FLOAT)
            node.input[0] = narrow.output[0]
            model.graph.node.insert(place, narrow)


@contextmanager
def _taught() -> Iterator[None]:
    """Within the block skl2onnx knows the estimators of the libraries in use that it does not know or writes wrongly; after it, it
    is as the user's own conversions have it.  Raises ImportError without onnxmltools."""
    from skl2onnx import _supported_operators
    from skl2onnx.common import _registration

    tables = (_supported_operators.sklearn_operator_name_map, _registration._converter_pool, _registration._shape_calculator_pool)
    before = [dict(table) for table in tables]
    try:
        for library, register in _REGISTERING:
            if library in sys.modules:
                register()
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)


_CLASSIFIER_OPTIONS = {"nocl": [True, False], "zipmap": [True, False, "columns"]}


def _register_xgboost() -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx import update_registered_converter as register
    from skl2onnx.common import shape_calculator as shapes
    from xgboost import XGBClassifier, XGBRegressor

    register(XGBClassifier, "XGBoostXGBClassifier", shapes.calculate_linear_classifier_output_shapes, convert_xgboost, options=_CLASSIFIER_OPTIONS)
    register(XGBRegressor, "XGBoostXGBRegressor", shapes.calculate_linear_regressor_output_shapes, convert_xgboost)


def _register_lightgbm() -> None:
    from lightgbm import LGBMClassifier, LGBMRegressor
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from skl2onnx import update_registered_converter as register

    convert = _keeping_bits(convert_lightgbm)
    register(LGBMClassifier, "LightGbmLGBMClassifier", _label_and_floats, convert, options=_CLASSIFIER_OPTIONS)
    register(LGBMRegressor, "LightGbmLGBMRegressor", _one_column_of_floats, convert, options={"split": None})


def _register_histogram_boosting() -> None:
    from skl2onnx import update_registered_converter as register
    from skl2onnx.operator_converters.random_forest import convert_sklearn_random_forest_classifier, convert_sklearn_random_forest_regressor_converter
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    classify = _keeping_bits(partial(convert_sklearn_random_forest_classifier, op_version=3))
    regress = _keeping_bits(partial(convert_sklearn_random_forest_regressor_converter, op_version=3))
    options = _CLASSIFIER_OPTIONS | {"raw_scores": [True, False]}
    register(HistGradientBoostingClassifier, "HistogramBoostingClassifier", _label_and_floats, classify, options=options)
    register(HistGradientBoostingRegressor, "HistogramBoostingRegressor", _one_column_of_floats, regress)


def _register_forests() -> None:
    from skl2onnx import update_registered_converter as register
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    for kind in (RandomForestClassifier, ExtraTreesClassifier):
        register(kind, f"Votes{kind.__name__}", _label_and_floats, forests.convert, options=_CLASSIFIER_OPTIONS)


def _label_and_floats(operator: Any) -> None:
    """The shapes of a classification by trees, which give 32-bit floats whatever they are given."""
    from skl2onnx.common import shape_calculator as shapes

    shapes.calculate_linear_classifier_output_shapes(operator)
    operator.outputs[1].type = _tensor_type("Float")(operator.outputs[1].type.shape)


def _one_column_of_floats(operator: Any) -> None:
    """The shape of a regression by trees, which give 32-bit floats whatever they are given."""
    operator.outputs[0].type = _tensor_type("Float")([None, 1])


def _keeping_bits(convert: Callable[..., None]) -> Callable[[Any, Any, Any], None]:
    """*convert*, its trees' thresholds and weights written with 64 bits when its input has 64."""

    def keeping_bits(scope: Any, operator: Any, container: Any) -> None:
        convert(scope, operator, _Trees(container, wide=type(operator.inputs[0].type).__name__ == "DoubleTensorType"))

    return keeping_bits


class _Trees:
    """A converter's container that takes trees' attributes as plain numbers, and keeps all their bits when *wide*."""

    def __init__(self, container: Any, *, wide: bool) -> None:
        self._container = container
        self._wide = wide

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, op_type: str, inputs: Any, outputs: Any, **attributes: Any) -> None:
        """Add a node to the container."""
        if op_type.startswith("TreeEnsemble"):
            attributes = dict(self._plain(name, value) for name, value in attributes.items() if not (self._wide and name == "nodes_hitrates"))
        self._container.add_node(op_type, inputs, outputs, **attributes)

    def _plain(self, name: str, value: Any) -> tuple[str, Any]:
        import numpy as np
        from onnx import TensorProto, helper

        if not isinstance(value, list | np.ndarray):
            return name, value
        numbers = np.asarray(value).ravel().tolist()
        if name not in ("nodes_values", "class_weights", "target_weights", "base_values"):
            return name, numbers
        if not self._wide:
            return name, list(map(float, numbers))
        return f"{name}_as_tensor", helper.make_tensor(name, TensorProto.DOUBLE, [len(numbers)], numbers)


_REGISTERING = (
    ("xgboost", _register_xgboost),
    ("lightgbm", _register_lightgbm),
    ("sklearn.ensemble", _register_histogram_boosting),
    ("sklearn.ensemble", _register_forests),
)


def _name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the graph's first outputs these names, and drop the rest."""
    graph = model.graph
    if len(graph.output) < len(names):
        raise NotConvertible(f"its converter gives {len(graph.output)} of {len(names)} outputs")
    del graph.output[len(names) :]
    _rename(model, {name: f"{name}_inside" for name in names} | {output.name: name for output, name in zip(graph.output, names, strict=True)})


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for named in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        named.name = names.get(named.name, named.name)


def _import_once(model: onnx.ModelProto) -> None:
    """Name each operator set once; skl2onnx may name one twice, which ONNX Runtime's quantizer does not understand."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    for domain, version in versions.items():
        model.opset_import.add(domain=domain, version=version)
