"""What kind of model an object or a file is, told without importing any framework."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec

from .errors import BadOption, MissingPackage
from .signature import to_columns

_BY_ANCESTRY = (("torch.nn", "torch"), ("onnx", "onnx"), ("xgboost", "xgboost"), ("lightgbm", "lightgbm"), ("sklearn", "sklearn"))
_PICKLES = ("pickle", "joblib", "skops")
PLACES = {"pickle": "model.pkl", "joblib": "model.joblib", "skops": "model.skops", "onnx": "model.onnx"}
"""Where the loader looks for each format; the formats of boosters keep their suffix, which tells XGBoost how to read them."""


class ModelFile(msgspec.Struct, frozen=True):
    """A file that holds a model, and its format."""

    path: Path
    format: str
    """`onnx`, `pickle`, `joblib`, `skops`, `xgboost` or `lightgbm`."""

    @property
    def runs_code(self) -> bool:
        """Whether opening it can run code."""
        return self.format in _PICKLES

    @property
    def place(self) -> str:
        """Where the loader looks for it in a model's folder."""
        if self.format == "xgboost":
            return "model.json" if self.path.suffix == ".json" else "model.ubj"
        return PLACES.get(self.format, "model.txt")


def of(obj: Any) -> str | None:
    """`torch`, `onnx`, `xgboost`, `lightgbm`, `sklearn` or `python`; None for what cannot answer a request."""
    if isinstance(obj, bytes):
        return "onnx"
    kind = type(obj)
    for ancestry, flavor in _BY_ANCESTRY:
        if any(f"{base.__module__}.".startswith(f"{ancestry}.") for base in kind.__mro__):
            return flavor if flavor in ("torch", "onnx") or answers(obj) else None
    return "python" if answers(obj) else None


def answers(obj: Any) -> bool:
    """Whether it is an instance with a `predict` to call."""
    return not isinstance(obj, type) and callable(getattr(obj, "predict", None))


def file_of(path: Path) -> ModelFile | None:
    """The model a file holds, by its suffix and, where that is shared with other kinds of file, by its first bytes."""
    by_suffix = {".onnx": "onnx", ".pkl": "pickle", ".pickle": "pickle", ".joblib": "joblib", ".skops": "skops", ".ubj": "xgboost"}
    suffix = path.suffix.lower()
    if suffix in by_suffix:
        return ModelFile(path, by_suffix[suffix])
    if suffix == ".json" and b'"learner"' in _head(path, 1 << 16):
        return ModelFile(path, "xgboost")
    if suffix == ".txt" and _head(path, 5) in (b"tree\n", b"tree\r"):
        return ModelFile(path, "lightgbm")
    return None


def pickle_in(folder: Path) -> Path | None:
    """The file in a model's folder whose opening can run code, if the loader would find one."""
    found = (folder / PLACES[format] for format in _PICKLES)
    return next((file for file in found if file.exists()), None)


def opened(file: ModelFile) -> Any:
    """The object in *file*.  For pickles this runs code: the caller has asked whether it may.  Raises whatever opening raises."""
    return _OPENERS[file.format](file.path)


def check_installed(file: ModelFile) -> None:
    """Raises MissingPackage when what opens *file* is not installed."""
    package = {"onnx": "onnxruntime", "pickle": "cloudpickle"}.get(file.format, file.format)
    if importlib.util.find_spec(package) is None:
        raise MissingPackage(package, doing=f"Opening {file.path.name}")


def _pickled(path: Path) -> Any:
    import pickle

    with path.open("rb") as stream:
        return pickle.load(stream)


def _joblib(path: Path) -> Any:
    import joblib

    return joblib.load(path)


def _skops(path: Path) -> Any:
    import skops.io

    return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))


class OnnxModel:
    """An ONNX model with the manners of the others: `predict` takes a DataFrame, an array or a dict of arrays, and gives its outputs by name.

    Raises what ONNX Runtime raises for content it does not take.
    """

    def __init__(self, content: bytes | Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        source = content if isinstance(content, bytes) else str(content)
        self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def __repr__(self) -> str:
        inputs, outputs = ([arg.name for arg in args] for args in (self.session.get_inputs(), self.session.get_outputs()))
        return f"OnnxModel({', '.join(inputs)} → {', '.join(outputs)})"

    def predict(self, data: Any) -> dict[str, Any]:
        """Outputs by name.  Columns go to inputs by name, else by place; several columns to a single input side by side."""
        columns = to_columns(data)
        wanted = self.session.get_inputs()
        if len(wanted) == 1 and len(columns) > 1:
            columns = {wanted[0].name: _side_by_side(columns)}
        given = list(columns.values())
        feed = {arg.name: _as_input(columns.get(arg.name, given[min(place, len(given) - 1)]), arg) for place, arg in enumerate(wanted)}
        outputs = [output.name for output in self.session.get_outputs()]
        return dict(zip(outputs, self.session.run(outputs, feed), strict=True))


_ELEMENTS = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(string)": "object"}


def _side_by_side(columns: dict[str, Any]) -> Any:
    import numpy as np

    return np.column_stack(list(columns.values()))


def _as_input(array: Any, arg: Any) -> Any:
    """An array with the element type and the number of axes of an input."""
    array = array.astype(_ELEMENTS.get(arg.type, arg.type.removeprefix("tensor(").removesuffix(")")))
    return array.reshape(-1, 1) if array.ndim == 1 and len(arg.shape) == 2 else array


def _xgboost(path: Path) -> Any:
    """The Booster, or the scikit-learn estimator it was saved from."""
    import xgboost

    booster = xgboost.Booster(model_file=str(path))
    saved = booster.attr("scikit_learn")
    wrapper = {"classifier": xgboost.XGBClassifier, "regressor": xgboost.XGBRegressor}.get(
        msgspec.json.decode(saved).get("_estimator_type", "") if saved else ""
    )
    if wrapper is None:
        return booster
    estimator = wrapper()
    estimator.load_model(str(path))
    return estimator


def _lightgbm(path: Path) -> Any:
    import lightgbm

    return lightgbm.Booster(model_file=str(path))


_OPENERS = {"pickle": _pickled, "joblib": _joblib, "skops": _skops, "onnx": OnnxModel, "xgboost": _xgboost, "lightgbm": _lightgbm}


# ── MLflow's folders ─────────────────────────────────────────────────────────────────────────────────────────────────


def mlflow_file(folder: Path) -> ModelFile | None:
    """The model file an `MLmodel` points to, or None where there is no `MLmodel`.  Raises BadOption for a flavour this package does not read."""
    described = folder / "MLmodel"
    if not described.is_file():
        return None
    flavors = _nested(described.read_text(encoding="utf-8")).get("flavors", {})
    for name, key, format in _MLFLOW:
        said = flavors.get(name) if isinstance(flavors, dict) else None
        if isinstance(said, dict) and isinstance(said.get(key), str):
            path = Path(said[key])
            return ModelFile(path, "skops" if path.suffix == ".skops" else "pickle" if path.suffix in (".pkl", ".pickle") else format)
    raise BadOption(
        f"The MLflow model in {folder} has none of the flavours read here (sklearn, onnx, xgboost, lightgbm).", hint="--entry score.py, which loads it itself"
    )


_MLFLOW = (("sklearn", "pickled_model", "pickle"), ("onnx", "data", "onnx"), ("xgboost", "data", "xgboost"), ("lightgbm", "data", "lightgbm"))


def _nested(text: str) -> dict[str, Any]:
    """Mappings of plain scalars by indentation: the part of YAML that an `MLmodel` uses for its flavours."""
    root: dict[str, Any] = {}
    open_: list[tuple[int, dict[str, Any]]] = [(-1, root)]
    for line in text.splitlines():
        key, colon, value = line.strip().partition(":")
        if not colon or key.startswith(("#", "-")):
            continue
        indent = len(line) - len(line.lstrip())
        while open_[-1][0] >= indent:
            open_.pop()
        value = value.strip().strip("'\"")
        open_[-1][1][key] = value or {}
        if not value:
            open_.append((indent, open_[-1][1][key]))
    return root


def _head(path: Path, count: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(count)
