"""What skl2onnx is taught before it converts: estimators it does not know, and those it writes otherwise than they answer.

With 64 bits before them (a scaler's, say) trees are still trees of 32 bits wherever their own library looks at 32: they are
written as for 32-bit input, and `writing` lets them see 32 bits.  What they give has 32 bits in ONNX whatever they see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from . import forests, imputing

Converter = Callable[[Any, Any, Any], None]


def tensor_type(kind: str) -> Any:
    """skl2onnx's word for a tensor of this kind, such as `Float`."""
    from skl2onnx.common import data_types

    return getattr(data_types, f"{kind}TensorType")


@contextmanager
def taught() -> Iterator[None]:
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


_PATHS = {"decision_path": [True, False], "decision_leaf": [True, False]}
_CLASSIFIER_OPTIONS = {"nocl": [True, False], "zipmap": [True, False, "columns"]}


def _register_xgboost() -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx import update_registered_converter as register
    from xgboost import XGBClassifier, XGBRegressor

    convert = _seeing_32_bits(convert_xgboost)
    register(XGBClassifier, "XGBoostXGBClassifier", _label_and_floats, convert, options=_CLASSIFIER_OPTIONS)
    register(XGBRegressor, "XGBoostXGBRegressor", _one_column_of_floats, convert)


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


def _register_gradient_boosting() -> None:
    from skl2onnx import update_registered_converter as register
    from skl2onnx.operator_converters.gradient_boosting import convert_sklearn_gradient_boosting_classifier, convert_sklearn_gradient_boosting_regressor
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    classify, regress = map(_seeing_32_bits, (convert_sklearn_gradient_boosting_classifier, convert_sklearn_gradient_boosting_regressor))
    options = _CLASSIFIER_OPTIONS | {"raw_scores": [True, False]}
    register(GradientBoostingClassifier, "BoostingClassifier", _label_and_floats, classify, options=options)
    register(GradientBoostingRegressor, "BoostingRegressor", _one_column_of_floats, regress)


def _register_trees_that_regress() -> None:
    from skl2onnx import update_registered_converter as register
    from skl2onnx.operator_converters.decision_tree import convert_sklearn_decision_tree_regressor
    from skl2onnx.operator_converters.random_forest import convert_sklearn_random_forest_regressor_converter
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
    from sklearn.tree import DecisionTreeRegressor, ExtraTreeRegressor

    for convert, kinds in (
        (convert_sklearn_random_forest_regressor_converter, (RandomForestRegressor, ExtraTreesRegressor)),
        (convert_sklearn_decision_tree_regressor, (DecisionTreeRegressor, ExtraTreeRegressor)),
    ):
        for kind in kinds:
            register(kind, f"Sees32Bits{kind.__name__}", _one_column_of_floats, _seeing_32_bits(convert), options=_PATHS)


def _register_single_trees() -> None:
    from skl2onnx import update_registered_converter as register
    from skl2onnx.operator_converters.decision_tree import convert_sklearn_decision_tree_classifier
    from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

    for kind in (DecisionTreeClassifier, ExtraTreeClassifier):
        convert = _seeing_32_bits(convert_sklearn_decision_tree_classifier)
        register(kind, f"Sees32Bits{kind.__name__}", _label_and_floats, convert, options=_CLASSIFIER_OPTIONS | _PATHS)


def _register_imputer() -> None:
    from skl2onnx import update_registered_converter as register
    from skl2onnx.shape_calculators.imputer import calculate_sklearn_imputer_output_shapes
    from sklearn.impute import SimpleImputer

    register(SimpleImputer, "FillsIn", calculate_sklearn_imputer_output_shapes, imputing.convert)


def _label_and_floats(operator: Any) -> None:
    """The shapes of a classification by trees, which give 32-bit floats whatever they are given."""
    from skl2onnx.common import shape_calculator as shapes

    shapes.calculate_linear_classifier_output_shapes(operator)
    operator.outputs[1].type = tensor_type("Float")(operator.outputs[1].type.shape)


def _one_column_of_floats(operator: Any) -> None:
    """The shape of a regression by trees, which give 32-bit floats whatever they are given."""
    operator.outputs[0].type = tensor_type("Float")([None, 1])


def _keeping_bits(convert: Converter) -> Converter:
    """*convert*, its trees' thresholds and weights written with 64 bits when its input has 64."""

    def keeping_bits(scope: Any, operator: Any, container: Any) -> None:
        convert(scope, operator, _Trees(container, wide=type(operator.inputs[0].type).__name__ == "DoubleTensorType"))

    return keeping_bits


def _seeing_32_bits(convert: Converter) -> Converter:
    """*convert*, which writes trees as for an input of 32 bits also where 64 come in."""
    return lambda scope, operator, container: convert(scope, _Narrow(operator), container)


class _Narrow:
    """An operator, or a variable of it, that says it has 32 bits where it has 64."""

    def __init__(self, wide: Any) -> None:
        self._wide = wide

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wide, name)

    @property
    def inputs(self) -> list[Any]:
        """The operator's input variables."""
        return [_Narrow(variable) for variable in self._wide.inputs]

    @property
    def type(self) -> Any:
        """The variable's type; of an operator the word for it."""
        kind = self._wide.type
        return tensor_type("Float")(kind.shape) if type(kind).__name__ == "DoubleTensorType" else kind


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
    ("sklearn.ensemble", _register_gradient_boosting),
    ("sklearn.tree", _register_single_trees),
    ("sklearn.ensemble", _register_trees_that_regress),
    ("sklearn.impute", _register_imputer),
)
