"""Models as ONNX, used only where they answer the same: every conversion is tried on the sample rows beside the original.

A classifier gives `label` and, where it has them, `probabilities`; a regressor `prediction`; anything else its first output as
`output`.  Labels must be equal, probabilities within 1e-4, other numbers within a ten-thousandth of their size.  A table's columns
are inputs of shape [rows, 1] under their own names; an array is one input of floats called `input`.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .errors import MissingPackage, NotExportable, listed

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from .signature import Column, Signature

PROBABILITY_TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 1e-4

Arrays = dict[str, "np.ndarray"]
Floats = Literal["Float", "Double"]


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """The ONNX form of a model, None where there is none that answers the same, and how that was found."""

    onnx: bytes | None = None
    report: dict[str, Any]
    """`to`, and either `equal`, `rows`, `max_difference`, `labels_differ`, or the `reason` there is none."""


class _Unconvertible(Exception):
    """Why a model stays as it is, in one line."""


def to_onnx(obj: Any, signature: Signature | None, sample: Any) -> Conversion:
    """*obj* (scikit-learn, XGBoost's or LightGBM's estimators, alone or in pipelines) as ONNX, tried on *sample*.  Raises nothing."""
    try:
        if signature is None or sample is None or not len(sample):
            raise _Unconvertible("there are no sample rows to compare answers on")
        columns = _checked(obj, signature, sample)
        outputs = _expected(obj, sample)
        result = _compared(_written(obj, signature, tuple(outputs), "Float"), columns, outputs)
        return result if result.onnx else _in_double(obj, signature, columns, outputs) or result
    except _Unconvertible as why:
        return Conversion(report={"to": "onnx", "reason": str(why)})


def _in_double(obj: Any, signature: Signature, columns: Arrays, outputs: Arrays) -> Conversion | None:
    """The conversion that reckons with 64 bits, if it answers the same where the quicker one with 32 did not."""
    try:
        result = _compared(_written(obj, signature, tuple(outputs), "Double"), columns, outputs)
    except _Unconvertible:
        return None  # fewer operators know 64 bits; what the first try found stands
    return result if result.onnx else None


def _checked(obj: Any, signature: Signature, sample: Any) -> Arrays:
    """The sample's columns, when there is any use in trying."""
    if not (hasattr(obj, "get_params") and hasattr(obj, "fit")):
        raise _Unconvertible(f"there is no converter for {type(obj).__name__}")
    if wrong := next(filter(None, map(_unfit, signature.inputs)), None):
        raise _Unconvertible(wrong)
    return signature.check(signature.table_of(sample))


def _unfit(column: Column) -> str | None:
    """Why ONNX cannot carry this column as the model knows it."""
    if column.type in ("datetime", "json"):
        return f"column {column.name!r} is of type {column.type}, which ONNX has not"
    if column.type in ("string", "bool") and column.nullable:
        return f"column {column.name!r} misses values, which a {column.type} cannot in ONNX"
    if column.dtype == "category" and column.type != "string":
        return f"column {column.name!r} is categorical, and pandas' codes do not go along into ONNX"
    return None


def _expected(obj: Any, sample: Any) -> Arrays:
    """What *obj* itself answers, under the names its outputs are to have.  Raises _Unconvertible for several targets."""
    import numpy as np
    from sklearn.base import is_classifier, is_regressor

    answer = np.asarray(obj.predict(sample))
    if not is_classifier(obj):
        return {"prediction" if is_regressor(obj) else "output": answer}
    if answer.ndim > 1:
        raise _Unconvertible("it predicts several labels at once")
    if answer.dtype.kind == "b" or (answer.dtype.kind == "O" and any(isinstance(label, bool) for label in answer)):
        raise _Unconvertible("its labels are truth values, which ONNX gives as numbers")
    return {"label": answer} | ({"probabilities": np.asarray(obj.predict_proba(sample))} if hasattr(obj, "predict_proba") else {})


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _written(obj: Any, signature: Signature, outputs: Sequence[str], floats: Floats) -> bytes:
    """The model as ONNX under the names of its columns and *outputs*."""
    if taken := set(outputs) & {column.name for column in signature.inputs}:
        raise _Unconvertible(f"a column is called {listed(sorted(taken))}, as the answer is")
    write = _whole if signature.kind == "tensors" else _by_column if _chooses_columns(obj) else _side_by_side
    try:
        _register_boosters()
        obj = _with_plain_features(obj)
        model = write(obj, signature, {id(obj): {"zipmap": False}} if "probabilities" in outputs else None, floats)
        _narrow_for_trees(model, floats)
    except ImportError as error:
        raise _Unconvertible(f"{error.name or 'skl2onnx'} is not installed (pip install 'mlops_nb[convert]')") from error
    except _Unconvertible:
        raise
    except Exception as error:  # converters come from several packages and raise what they like; each means the same here
        raise _Unconvertible(_in_a_line(error)) from error
    _name_outputs(model, outputs)
    return model.SerializeToString()


def _whole(obj: Any, signature: Signature, options: Any, floats: Floats) -> onnx.ModelProto:
    """One array in, as it is."""
    if len(signature.inputs) != 1:
        raise _Unconvertible("it takes several arrays")
    column = signature.inputs[0]
    kind = _tensor_type("String" if column.type == "string" else floats)
    model = _convert(obj, [("input", kind(list(column.shape or [None])))], options)
    _rename(model, {model.graph.input[0].name: column.name})
    return model


def _by_column(obj: Any, signature: Signature, options: Any, floats: Floats) -> onnx.ModelProto:
    """A table's columns one by one, for a model that chooses among them by name."""
    try:
        model = _convert(obj, _typed(signature, floats, whole_numbers=True), options)
    except Exception:  # some converters take no mixture of types: then all numbers as floats, or else the second error is the one to tell
        model = _convert(obj, _typed(signature, floats, whole_numbers=False), options)
    if len(model.graph.input) != len(signature.inputs):
        raise _Unconvertible("its converter drops columns")
    # skl2onnx makes identifiers of the names; their order stays.
    _rename(model, {value.name: column.name for value, column in zip(model.graph.input, signature.inputs, strict=True)})
    return model


def _side_by_side(obj: Any, signature: Signature, options: Any, floats: Floats) -> onnx.ModelProto:
    """A table's columns put side by side as the one matrix the model takes."""
    from onnx import TensorProto, helper

    texts = {column.type == "string" for column in signature.inputs}
    if len(texts) > 1:
        raise _Unconvertible("it takes text and numbers in one matrix")
    kind = "String" if texts == {True} else floats
    element = TensorProto.DataType.Value(kind.upper())
    model = _convert(obj, [("side_by_side", _tensor_type(kind)([None, len(signature.inputs)]))], options)
    matrix = model.graph.input.pop().name
    names = [column.name for column in signature.inputs]
    _rename(model, {name: f"{name}_inside" for name in names})  # what is inside may bear a column's name by chance
    model.graph.input.extend(helper.make_tensor_value_info(name, element, [None, 1]) for name in names)
    model.graph.node.insert(0, helper.make_node("Concat", names, [matrix], name="side_by_side", axis=1))
    return model


def _convert(obj: Any, inputs: list[tuple[str, Any]], options: Any) -> onnx.ModelProto:
    from skl2onnx import convert_sklearn

    # Operators of ai.onnx.ml 3 are what every converter here can write.
    return convert_sklearn(obj, initial_types=inputs, options=options, target_opset={"": 18, "ai.onnx.ml": 3})


def _with_plain_features(obj: Any) -> Any:
    """*obj*, or a copy whose XGBoost models have forgotten their columns' names: its converter reads only `f0`, `f1`, …"""
    if not any(_named_booster(part) for part in _parts(obj)):
        return obj
    obj = copy.deepcopy(obj)
    for booster in filter(None, map(_named_booster, _parts(obj))):
        booster.feature_names = None
    return obj


def _named_booster(part: Any) -> Any:
    booster = part.get_booster() if hasattr(part, "get_booster") else None
    return booster if booster is not None and booster.feature_names else None


def _parts(obj: Any) -> list[Any]:
    """The model and the fitted models inside it."""
    inner = [step for _, step in getattr(obj, "steps", ())] + [getattr(obj, "best_estimator_", None)]
    return [obj, *(part for step in inner if hasattr(step, "get_params") for part in _parts(step))]


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
    """Let trees see 32-bit floats, as those of XGBoost and scikit-learn do, also where all before them is reckoned with 64."""
    from onnx import TensorProto, helper

    if floats == "Float":
        return
    for place, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type.startswith("TreeEnsemble"):
            narrow = helper.make_node("Cast", [node.input[0]], [f"{node.input[0]}_narrow_{place}"], to=TensorProto.FLOAT)
            node.input[0] = narrow.output[0]
            model.graph.node.insert(place, narrow)


def _register_boosters() -> None:
    """Teach skl2onnx the estimators of the boosting libraries in use.  Raises ImportError without onnxmltools."""
    for library, register in (("xgboost", _register_xgboost), ("lightgbm", _register_lightgbm)):
        if library in sys.modules:
            register()


@cache
def _register_xgboost() -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator as shapes
    from xgboost import XGBClassifier, XGBRegressor

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    update_registered_converter(XGBClassifier, "XGBoostXGBClassifier", shapes.calculate_linear_classifier_output_shapes, convert_xgboost, options=options)
    update_registered_converter(XGBRegressor, "XGBoostXGBRegressor", shapes.calculate_linear_regressor_output_shapes, convert_xgboost)


@cache
def _register_lightgbm() -> None:
    from lightgbm import LGBMClassifier, LGBMRegressor
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator as shapes

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    update_registered_converter(LGBMClassifier, "LightGbmLGBMClassifier", shapes.calculate_linear_classifier_output_shapes, convert_lightgbm, options=options)
    update_registered_converter(
        LGBMRegressor, "LightGbmLGBMRegressor", shapes.calculate_linear_regressor_output_shapes, convert_lightgbm, options={"split": None}
    )


def _name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the graph's first outputs these names, and drop the rest."""
    graph = model.graph
    if len(graph.output) < len(names):
        raise _Unconvertible(f"its converter gives {len(graph.output)} of {len(names)} outputs")
    del graph.output[len(names) :]
    _rename(model, {name: f"{name}_inside" for name in names} | {output.name: name for output, name in zip(graph.output, names, strict=True)})


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for named in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        named.name = names.get(named.name, named.name)


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 140 else text[:139] + '…'}" if text else type(error).__name__


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _compared(content: bytes, columns: Arrays, expected: Arrays) -> Conversion:
    """The conversion with how its answers differ from those *expected*."""
    answers = dict(zip(expected, _run(content, columns, list(expected)), strict=True))
    differ = _labels_differ(answers["label"], expected["label"]) if "label" in expected else 0
    spans = [_difference(name, answers[name], value) for name, value in expected.items() if name != "label"]
    equal = differ == 0 and all(within for _, within in spans)
    report = {"to": "onnx", "equal": equal, "rows": len(next(iter(expected.values()))), "labels_differ": differ}
    return Conversion(onnx=content if equal else None, report=report | {"max_difference": max((span for span, _ in spans), default=0.0)})


def _run(content: bytes, columns: Arrays, outputs: list[str]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return session.run(outputs, {arg.name: _fed(columns[arg.name], arg) for arg in session.get_inputs()})
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise _Unconvertible(f"ONNX Runtime does not take the result: {_in_a_line(error)}") from error


def _fed(column: np.ndarray, arg: Any) -> np.ndarray:
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64", "tensor(bool)": "bool", "tensor(string)": "object"}
    return column.astype(kinds[arg.type]).reshape(-1, 1) if column.ndim == 1 and len(arg.shape) == 2 else column.astype(kinds[arg.type])


def _labels_differ(answer: Any, expected: np.ndarray) -> int:
    import numpy as np

    answer = np.asarray(answer).ravel()
    if answer.shape != expected.shape:
        return len(expected)
    if answer.dtype.kind in "iuf" and expected.dtype.kind in "iuf":
        return int((answer != expected).sum())
    return sum(a != b or isinstance(a, str) != isinstance(b, str) for a, b in zip(answer.tolist(), expected.tolist(), strict=True))


def _difference(name: str, answer: Any, expected: np.ndarray) -> tuple[float, bool]:
    """The largest difference, and whether every one is within what rounding to 32 bits explains."""
    import numpy as np

    answer = np.asarray(answer)
    if answer.size != expected.size or answer.dtype.kind not in "iufb" or expected.dtype.kind not in "iufb":
        raise _Unconvertible(f"its {name} has another shape or type in ONNX")
    wanted = expected.astype(np.float64)
    got = answer.reshape(expected.shape).astype(np.float64)
    if not np.array_equal(np.isnan(got), np.isnan(wanted)):
        return float("inf"), False
    span = np.abs(np.nan_to_num(got) - np.nan_to_num(wanted))
    size = np.nan_to_num(np.abs(wanted))
    allowed = PROBABILITY_TOLERANCE if name == "probabilities" else RELATIVE_TOLERANCE * size + 1e-6 * size.max(initial=0.0)
    return float(span.max(initial=0.0)), bool((span <= allowed).all())


# ── torch ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def from_torch(module: Any, sample: Any) -> bytes:
    """A torch module as ONNX with any number of rows, exported by running it on *sample* and tried there.

    *sample* is a tensor, array or DataFrame (the input `input`), a dict (inputs under its names) or a tuple (named as `forward` does).
    Outputs are called `output`, `output_1`, … or as the dict the module returns.  Raises MissingPackage, NotExportable.
    """
    import torch

    kind = type(module).__name__
    module = copy.deepcopy(module).cpu().eval()
    inputs = {name: _tensor(value, module) for name, value in _named_inputs(module, sample).items()}
    with torch.no_grad():
        expected = _named_answers(module(*inputs.values()))
    content = _exported(module, inputs, list(expected), kind)
    try:
        answers = _run(content, {name: tensor.numpy() for name, tensor in inputs.items()}, list(expected))
        spans = [_difference(name, answer, expected[name]) for name, answer in zip(expected, answers, strict=True)]
    except _Unconvertible as why:
        raise NotExportable(kind, str(why)) from why
    if not all(within for _, within in spans):
        raise NotExportable(kind, f"its answers differ by {max(span for span, _ in spans):.2g}")
    return content


def _exported(module: Any, inputs: dict[str, Any], outputs: list[str], kind: str) -> bytes:
    import torch

    rows = torch.export.Dim("rows")
    try:
        program = torch.onnx.export(
            module, tuple(inputs.values()), input_names=list(inputs), output_names=outputs, dynamo=True, verbose=False,
            dynamic_shapes=tuple({0: rows} for _ in inputs), optimize=True,
        )  # fmt: skip
    except ImportError as error:
        raise MissingPackage(error.name or "onnxscript", doing="Exporting a torch module") from error
    except Exception as error:  # the exporter has no base class for what it cannot do
        raise NotExportable(kind, _in_a_line(error.__cause__ or error)) from error
    return program.model_proto.SerializeToString()


def _named_inputs(module: Any, sample: Any) -> dict[str, Any]:
    if isinstance(sample, dict):
        return sample
    if isinstance(sample, tuple | list) and sample and hasattr(sample[0], "shape"):
        names = list(inspect.signature(module.forward).parameters)
        return dict(zip(names, sample, strict=False))
    return {"input": sample}


def _tensor(value: Any, module: Any) -> Any:
    """*value* as the module takes it: floats of its own precision, and two rows at least, for one row would be exported as a constant."""
    import numpy as np
    import torch

    array = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(value))
    if array.is_floating_point():
        array = array.to(next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32))
    return torch.cat([array, array]) if len(array) == 1 else array


def _named_answers(answer: Any) -> Arrays:
    if isinstance(answer, dict):
        return {str(name): value.numpy() for name, value in answer.items()}
    answers = answer if isinstance(answer, tuple | list) else [answer]
    return {f"output_{place}" if place else "output": value.numpy() for place, value in enumerate(answers)}
