"""scikit-learn, XGBoost and LightGBM written as ONNX graphs, under the names of a signature's columns."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..errors import listed
from . import reasons
from .converters import taught, tensor_type
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
        with taught():
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
    kind = tensor_type("String" if column.type == "string" else floats)
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
    """One matrix in, a table's columns side by side, as the model takes it: thirty inputs cost a request more than a forest does.

    The file says which columns they are (`columns` of its metadata, a list in JSON).
    """
    texts = {column.type == "string" for column in signature.inputs}
    if len(texts) > 1:
        raise NotConvertible("it takes text and numbers in one matrix")
    names = [column.name for column in signature.inputs]
    model = convert(obj, [("input", tensor_type("String" if texts == {True} else floats)([None, len(names)]))])
    if len(names) == 1:  # a single column goes by its own name
        _rename(model, {names[0]: f"{names[0]}_inside"} | {model.graph.input[0].name: names[0]})
    model.metadata_props.add(key="columns", value=json.dumps(names, ensure_ascii=False))
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

    return [(column.name, tensor_type(kind_of(column))([None, 1])) for column in signature.inputs]


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
