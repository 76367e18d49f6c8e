"""What computes the answer: ONNX Runtime, a Python object, or the user's entry script.

This module is only ever run in a scoring server; still it imports each runtime only when a model needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from .. import artifacts, gpus, hardware, trees
from ..errors import NotAModel, SignatureMismatch, TrustNeeded
from ..signature import Column, Signature, as_frame
from .entry import EntryScript
from .spec import ServerSpec

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

Arrays = dict[str, "np.ndarray"]


class Engine(Protocol):
    """Computes outputs from columns that passed the signature."""

    name: str
    providers: list[str]
    """What executes it: ONNX Runtime's execution providers in use, or the Python it runs in."""
    operators: dict[str, int]
    """How many of the graph's operators each provider got; empty where the CPU was asked for, which takes them all."""
    trees_by: str
    """What answers for the model's trees, our compiled code or ONNX Runtime, and why; nothing for a model that is not one ensemble."""
    signature: Signature | None
    inline: bool
    """Quick and thread-safe enough to run between two events of the server's loop."""
    matrix: Matrix | None
    """How a table's columns go in when all of them go in side by side."""

    def feed(self, columns: Arrays, /) -> Arrays:
        """Columns that passed the signature as `compute` takes them, rows first.  Raises SignatureMismatch."""
        ...

    def compute(self, feed: Arrays, /) -> Arrays:
        """Outputs by name, rows first.  Raises whatever the model raises."""
        ...


class Matrix(NamedTuple):
    """The one input that takes all columns of a table, in the signature's order."""

    name: str
    type: np.dtype


def predict(engine: Engine, columns: Arrays) -> Arrays:
    """Outputs by name of columns that passed the signature.  Raises whatever the model raises."""
    return engine.compute(engine.feed(columns))


def load(spec: ServerSpec) -> Engine:
    """The model of *spec*, loaded.  Raises whatever loading raises: that is what the user has to see."""
    os.environ["AZUREML_MODEL_DIR"] = spec.folder
    artifacts.check(spec.files, Path(spec.folder))
    signature = Signature.from_json(spec.signature) if spec.signature else None
    loaders: dict[str, Callable[[ServerSpec, Signature | None], Engine]] = {
        "onnxruntime": OnnxModel, "python": PythonModel, "script": EntryScript, "fpga": _emulated,
    }  # fmt: skip
    return loaders[spec.engine](spec, signature)


def _emulated(spec: ServerSpec, signature: Signature | None) -> Engine:
    from .emulated import EmulatedModel

    return EmulatedModel(spec, signature)


# ── ONNX Runtime ─────────────────────────────────────────────────────────────────────────────────────────────────────

_ONNX_TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool", "tensor(string)": "string",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip
_PLAIN_NAMES = {"output_label": "label", "output_probability": "probabilities", "variable": "prediction"}


class OnnxModel:
    """A model in ONNX, run by ONNX Runtime.  A table's columns are inputs of shape [n, 1]; tensors go in as they are."""

    name = "onnxruntime"
    inline = True

    def __init__(self, spec: ServerSpec, signature: Signature | None) -> None:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

        self._refusal = InvalidArgument
        options = onnxruntime.SessionOptions()
        # Without a wish, one thread: sums then do not depend on how many rows are asked at once (two threads split a forest's
        # trees for few rows and its rows for many), so requests can be batched, and each spares the hand-over between threads.
        options.intra_op_num_threads = threads = max(1, int(spec.cpus)) if spec.cpus else 1
        # Threads that spin between requests would take the cores of the models beside.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if spec.hardware != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        file = Path(spec.folder) / "model.onnx"
        session = onnxruntime.InferenceSession(str(file), options, providers=_told(spec))
        self.providers: list[str] = session.get_providers()
        self.operators: dict[str, int] = _operators(session) if spec.hardware != "cpu" else {}
        hardware.check_given(spec.hardware, self.providers, self.operators)
        walk = trees.of(session, file, threads=threads) if spec.hardware == "cpu" else None
        self.trees_by = walk.told if walk else ""
        self._run = (walk and walk.run) or _of_its_rows(session.run, session.get_inputs())
        self._outputs = [output.name for output in session.get_outputs()]
        self._names = self._outputs if spec.flavor in ("onnx", "torch") else [_PLAIN_NAMES.get(name, name) for name in self._outputs]
        known = signature or signature_of(session)
        self.signature: Signature | None = known
        self.matrix = _matrix_of(known, session.get_inputs())
        self.feed = _feed(known, session.get_inputs(), self.matrix)

    def compute(self, feed: Arrays) -> Arrays:
        """Outputs under the model's names; a regression's single column is flat.  Raises SignatureMismatch for values that an operator refuses."""
        try:
            values = self._run(self._outputs, feed)
        except self._refusal as error:
            raise SignatureMismatch(_refused(str(error)), column=next(iter(feed)) if len(feed) == 1 and not self.matrix else "") from error
        return {name: _output(name, value) for name, value in zip(self._names, values, strict=True)}


def _refused(message: str) -> str:
    """ONNX Runtime's words for a value beyond what an operator takes, without what only its own people read."""
    operator, _, why = message.partition("Status Message: ")
    name = operator.partition("while running ")[2].partition(" node")[0]
    return f"the model's {name} takes no such value: {why}" if name and why else f"the model takes no such value: {message}"


def _told(spec: ServerSpec) -> list[Any]:
    """The execution providers, and what those of a GPU are told."""
    return gpus.with_options(hardware.providers(spec.hardware), limit_mb=spec.gpu_memory_mb, cache=Path(spec.run_folder) / "tensorrt")


def plain_output(name: str, value: Any, *, plain: bool) -> tuple[str, np.ndarray]:
    """An output of ONNX Runtime's under the name and in the shape that callers see; *plain* for a converter's own names."""
    name = _PLAIN_NAMES.get(name, name) if plain else name
    return name, _output(name, value)


def _operators(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """How many of the graph's operators each provider got, where ONNX Runtime tells (since 1.24)."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    got: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        got[part.ep_name] = got.get(part.ep_name, 0) + len(part.get_nodes())
    return got


def signature_of(session: onnxruntime.InferenceSession) -> Signature:
    """What the ONNX file says of itself, for a model registered without data.

    Several inputs of one value a row each are the columns of a table, as converters of pipelines write them, and so is one matrix whose columns the
    file's metadata name, as `conversion` writes it; floats may be missing there.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = _columns_of(session)
    table = bool(names) or (len(inputs) > 1 and all(len(arg.shape) == 1 or arg.shape[1:] == [1] for arg in inputs))
    columns = [_cell_of(inputs[0].type, name) for name in names] or [_cell_of(arg.type, arg.name) if table else _tensor_of(arg) for arg in inputs]
    return Signature(kind="table" if table else "tensors", inputs=columns, outputs=[_tensor_of(arg) for arg in outputs])


def _columns_of(session: onnxruntime.InferenceSession) -> list[str]:
    """The names of the columns that lie side by side in the one input, where the file tells as many as it is wide."""
    inputs, told = session.get_inputs(), session.get_modelmeta().custom_metadata_map.get("columns", "")
    try:
        names = msgspec.json.decode(told, type=list[str])
    except msgspec.MsgspecError:
        return []
    return names if len(inputs) == 1 and inputs[0].shape[1:] == [len(names)] and len(set(names)) == len(names) else []


def _tensor_of(arg: Any) -> Column:
    axes = [size if isinstance(size, int) else None for size in arg.shape]
    return Column(name=arg.name, type=_ONNX_TYPES.get(arg.type, "json"), shape=axes)  # type: ignore[arg-type]


def _cell_of(onnx_type: str, name: str) -> Column:
    type_ = _ONNX_TYPES.get(onnx_type, "json")
    floating = type_.startswith("float")
    return Column(name=name, type=type_, nullable=floating, infinite=floating)  # type: ignore[arg-type]


def _matrix_of(signature: Signature, inputs: list[Any]) -> Matrix | None:
    if len(inputs) == 1 and signature.kind == "table" and (len(signature.inputs) > 1 or inputs[0].shape[1:] not in ([1], [])):
        return Matrix(inputs[0].name, _dtype(inputs[0].type))
    return None


def _feed(signature: Signature, inputs: list[Any], matrix: Matrix | None) -> Callable[[Arrays], Arrays]:
    """How columns become the session's inputs: by name, by place, or side by side as one matrix."""
    names = [column.name for column in signature.inputs]
    types = {arg.name: _dtype(arg.type) for arg in inputs}
    if matrix:
        return lambda columns: {matrix.name: _matrix(columns, matrix.type)}
    pairs = [(arg.name, arg.name if arg.name in names else names[place], types[arg.name]) for place, arg in enumerate(inputs)]
    if signature.kind == "tensors" and len(pairs) == 1:
        [(to, name, type_)] = pairs
        return lambda columns: {to: _as_type(columns[name], type_, name)}
    if signature.kind == "tensors":
        return lambda columns: {to: _as_type(columns[name], type_, name) for to, name, type_ in pairs}
    flat = {arg.name for arg in inputs if len(arg.shape) == 1}
    return lambda columns: {to: _as_type(columns[name], type_, name).reshape((-1,) if to in flat else (-1, 1)) for to, name, type_ in pairs}


def _of_its_rows(run: trees.Run, inputs: list[Any]) -> trees.Run:
    """*run*, which refuses another number of rows where the file was written for one; ONNX Runtime's words would be an error of the model's."""
    wanted = {arg.name: arg.shape[0] for arg in inputs if arg.shape and isinstance(arg.shape[0], int)}
    if not wanted:
        return run

    def of_its_rows(outputs: list[str], feed: Arrays) -> list[Any]:
        for name, rows in wanted.items():
            if len(feed[name]) != rows:
                raise SignatureMismatch(f"the model takes {rows} row{'s' * (rows != 1)} a request, got {len(feed[name])}", column=name)
        return run(outputs, feed)

    return of_its_rows


def _dtype(onnx_type: str) -> np.dtype:
    import numpy as np

    type_ = _ONNX_TYPES.get(onnx_type, "string")
    return np.dtype(object if type_ == "string" else type_)


def _matrix(columns: Arrays, type_: np.dtype) -> np.ndarray:
    import numpy as np

    return np.column_stack([_as_type(array, type_, name) for name, array in columns.items()])


def _as_type(array: np.ndarray, type_: np.dtype, name: str) -> np.ndarray:
    """A column as the input wants it; text that is missing is empty text."""
    if type_.kind == "O":
        return _as_text(array)
    if array.dtype == type_:
        return array
    try:
        return array.astype(type_)
    except (TypeError, ValueError):
        raise SignatureMismatch(f"the model's {type_} input cannot hold a missing value", column=name) from None


def _as_text(array: np.ndarray) -> np.ndarray:
    import numpy as np

    values = array.ravel().tolist()
    if set(map(type, values)) <= {str}:
        return array
    return np.array(["" if value is None else str(value) for value in values], dtype=object).reshape(array.shape)


def _output(name: str, value: Any) -> np.ndarray:
    import numpy as np

    if isinstance(value, list):  # a ZipMap: one {class: probability} a row
        return np.array([list(row.values()) for row in value]) if value and isinstance(value[0], Mapping) else np.array(value, dtype=object)
    return value[:, 0] if name == "prediction" and value.ndim == 2 and value.shape[1] == 1 else value


# ── a Python object ──────────────────────────────────────────────────────────────────────────────────────────────────


class PythonModel:
    """A fitted object with `predict`, given the kind of data it was trained on.

    It runs in one thread beside the server's loop, so that health answers meanwhile and the object need not be thread-safe.
    """

    name = "python"
    inline = False
    trees_by = ""
    matrix: Matrix | None = None

    def __init__(self, spec: ServerSpec, signature: Signature | None) -> None:
        from .. import packing

        _check_trust(spec)
        self._model = packing.load(Path(spec.folder), spec.flavor, cells=spec.cells)
        if not callable(getattr(self._model, "predict", None)):
            raise NotAModel(f"A {type(self._model).__name__}")
        self.providers = [f"Python {sys.version_info.major}.{sys.version_info.minor}"]
        self.operators: dict[str, int] = {}
        self.signature = signature

    def feed(self, columns: Arrays) -> Arrays:
        """The columns themselves."""
        return columns

    def compute(self, feed: Arrays) -> Arrays:
        """`label` and `probabilities` of a classifier, `prediction` of a regressor, else `output` or a returned dict's keys."""
        return self.ask(self.data(feed))

    def ask(self, data: Any) -> Arrays:
        """What the object says of *data* as they are."""
        return answers(self._model, data)

    def data(self, columns: Arrays) -> Any:
        """Checked columns as the kind of data that the object was trained on; its own, for it may write into them, and they are kept as what was asked."""
        if self.signature and self.signature.kind == "table":
            frame = as_frame(columns, self.signature)
            return frame.iloc[:, 0] if self.signature.series else frame
        if len(columns) == 1:
            return next(iter(columns.values())).copy()
        return {name: array.copy() for name, array in columns.items()} if self.signature else as_frame(columns)


def answers(model: Any, data: Any) -> Arrays:
    """What *model* says of *data*: `label` and `probabilities` of a classifier, `prediction` of a regressor, else `output` or a returned dict's keys."""
    kind = _kind(model)
    data = _for_booster(model, data)
    answer = model.predict(data)
    if kind == "classifier":
        probabilities = getattr(model, "predict_proba", None)
        return {"label": _rows(answer)} | ({"probabilities": _rows(probabilities(data))} if probabilities else {})
    if isinstance(answer, Mapping):
        return {str(name): _rows(values) for name, values in answer.items()}
    if kind != "regressor" and _is_frame(answer):
        return {str(name): _rows(answer[name]) for name in answer.columns}
    return {"prediction" if kind == "regressor" else "output": _rows(answer)}


def _check_trust(spec: ServerSpec) -> None:
    """Raises TrustNeeded for a pickle that neither this workspace wrote nor the user vouched for."""
    from .. import flavors

    if not spec.trusted and (pickled := flavors.pickle_in(Path(spec.folder))):
        raise TrustNeeded(pickled)


def _kind(model: Any) -> str:
    """`classifier`, `regressor` or neither, as scikit-learn tells of its own and by manners of others."""
    name = type(model).__name__
    if name == "Booster":
        return "regressor"
    if (sklearn := sys.modules.get("sklearn.base")) and hasattr(model, "get_params"):
        try:
            return "classifier" if sklearn.is_classifier(model) else "regressor" if sklearn.is_regressor(model) else ""
        except (AttributeError, TypeError):
            pass  # an estimator by manners only: judged below
    return "classifier" if hasattr(model, "predict_proba") else ""


def _for_booster(model: Any, data: Any) -> Any:
    """XGBoost's bare Booster takes its own matrix."""
    if type(model).__name__ == "Booster" and type(model).__module__.startswith("xgboost"):
        return sys.modules["xgboost"].DMatrix(data, enable_categorical=True)
    return data


def _is_frame(answer: Any) -> bool:
    return type(answer).__name__ == "DataFrame" and hasattr(answer, "columns")


def _rows(values: Any) -> np.ndarray:
    """An answer as an array, rows first."""
    import numpy as np

    if hasattr(values, "toarray"):
        values = values.toarray()
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if isinstance(values, list) and values and isinstance(values[0], np.ndarray) and values[0].ndim == 2 and len({v.shape for v in values}) == 1:
        return np.stack(values, axis=1)  # several outputs' probabilities: rows, outputs, classes
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.fromiter(values, dtype=object, count=len(values))
    return array.reshape(1) if array.ndim == 0 else array
