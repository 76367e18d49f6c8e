"""What the original answers and what its ONNX form answers, row by row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from .. import trees
from . import reasons
from .reasons import NotConvertible

if TYPE_CHECKING:
    import numpy as np

    from ..signature import Column, Signature

TOLERANCE = 1e-4
_MOST_SHOWN = 5

Arrays = dict[str, "np.ndarray"]
Tried = tuple[str, Arrays, Arrays]
"""Which rows these are (`sample`, or `beside` thresholds), their columns, and what the original answers."""


class Session:
    """An ONNX form opened by ONNX Runtime.  Raises NotConvertible when it is not taken."""

    def __init__(self, content: bytes, *, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        # As the server has it: threads that spin between requests would take the cores of the models beside.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.content = content
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise reasons.of_runtime(error) from error
        self._inputs = self._session.get_inputs()
        self.outputs = [output.name for output in self._session.get_outputs()]
        self._run = trees.of(self._session, content, threads=threads).run or self._session.run  # as the server has it

    def run(self, columns: Arrays) -> list[Any]:
        """The outputs for *columns*, fed as the server feeds them.  Raises NotConvertible."""
        try:
            return self._run(self.outputs, self._feed(columns))
        except Exception as error:  # as above
            raise reasons.of_runtime(error) from error

    def _feed(self, columns: Arrays) -> Arrays:
        """Several columns side by side to a single input; else by name, else by place."""
        import numpy as np

        given = list(columns.values())
        if len(self._inputs) == 1 and len(given) > 1:
            given = [np.column_stack(given)]
            columns = {}
        return {arg.name: _fed(columns[arg.name] if arg.name in columns else given[place], arg) for place, arg in enumerate(self._inputs)}


def _fed(column: np.ndarray, arg: Any) -> np.ndarray:
    kind = {"float": "float32", "double": "float64", "string": "object"}.get(element := arg.type[len("tensor(") : -1], element)
    column = column.astype(kind, copy=False)
    return column.reshape(-1, 1) if column.ndim == 1 and len(arg.shape) == 2 else column


def checked(obj: Any, signature: Signature, sample: Any) -> Arrays:
    """The sample's columns, when there is any use in trying.  Raises NotConvertible."""
    if not (hasattr(obj, "get_params") and hasattr(obj, "fit")):
        raise NotConvertible(f"there is no converter for {type(obj).__name__}")
    if wrong := next(filter(None, map(_unfit, signature.inputs)), None):
        raise NotConvertible(wrong)
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


def expected(obj: Any, sample: Any) -> Arrays:
    """What *obj* itself answers, under the names its outputs are to have.  Raises NotConvertible for several targets."""
    import numpy as np
    from sklearn.base import is_classifier, is_regressor

    answer = np.asarray(obj.predict(sample))
    if not is_classifier(obj):
        return {"prediction" if is_regressor(obj) else "output": answer}
    if answer.ndim > 1:
        raise NotConvertible("it predicts several labels at once")
    if answer.dtype.kind == "b" or (answer.dtype.kind == "O" and any(isinstance(label, bool) for label in answer)):
        raise NotConvertible("its labels are truth values, which ONNX gives as numbers")
    return {"label": answer} | ({"probabilities": np.asarray(obj.predict_proba(sample))} if hasattr(obj, "predict_proba") else {})


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far two answers to the same rows agree."""

    rows: int
    labels_differ: int
    max_difference: float
    equal: bool
    differing: list[int]
    """The rows that differ, those that differ most first."""


def compared(session: Session, tried_on: list[Tried], tolerance: float | None) -> tuple[dict[str, Any], bool]:
    """The report of how *session* answers each set of rows, and whether it counts as equal.  Raises NotConvertible."""
    report: dict[str, Any] = {"to": "onnx", "equal": True} | ({"tolerance": tolerance} if tolerance is not None else {})
    shown: list[dict[str, Any]] = []
    for name, columns, wanted in tried_on:
        answers = dict(zip(session.outputs, session.run(columns), strict=True))
        found = agreement(answers, wanted, tolerance)
        figures = {"rows": found.rows, "max_difference": found.max_difference, "labels_differ": found.labels_differ}
        report |= figures if name == "sample" else {name: figures}
        report["equal"] &= found.equal
        shown += [_row(name, row, columns, wanted, answers) for row in found.differing[:_MOST_SHOWN]]
    return report | ({"differing": shown} if shown else {}), report["equal"]


def agreement(answers: dict[str, Any], wanted: Arrays, tolerance: float | None) -> Agreement:
    """How *answers* agree with those *wanted*; without a *tolerance* every label has to.  Raises NotConvertible where they cannot be compared."""
    import numpy as np

    rows = len(next(iter(wanted.values())))
    labels = _labels_differ(answers["label"], wanted["label"]) if "label" in wanted else np.zeros(rows, dtype=bool)
    spans, beyond = np.zeros(rows), np.zeros(rows, dtype=bool)
    for name in wanted.keys() - {"label"}:
        span, too_far = _difference(name, answers[name], wanted[name], TOLERANCE if tolerance is None else tolerance)
        spans, beyond = np.maximum(spans, span), beyond | too_far
    wrong = labels | beyond
    order = np.flatnonzero(wrong)[np.argsort(-spans[wrong], kind="stable")]
    may_differ = 0 if tolerance is None else int(tolerance * rows)
    return Agreement(
        rows=rows, labels_differ=int(labels.sum()), max_difference=float(spans.max(initial=0.0)),
        equal=bool(labels.sum() <= may_differ and not beyond.any()), differing=order.tolist(),
    )  # fmt: skip


def _labels_differ(answer: Any, wanted: np.ndarray) -> np.ndarray:
    import numpy as np

    answer = np.asarray(answer).reshape(-1)
    if answer.shape != wanted.shape:
        return np.ones(len(wanted), dtype=bool)
    if answer.dtype.kind in "iuf" and wanted.dtype.kind in "iuf":
        return answer != wanted
    return np.array([a != b or isinstance(a, str) != isinstance(b, str) for a, b in zip(answer.tolist(), wanted.tolist(), strict=True)], dtype=bool)


def _difference(name: str, answer: Any, wanted: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """The largest difference in each row, and in which rows one is beyond *tolerance*: of a probability as it is, of others in proportion to their size."""
    import numpy as np

    answer = np.asarray(answer)
    if answer.size != wanted.size or answer.dtype.kind not in "iufb" or wanted.dtype.kind not in "iufb":
        raise NotConvertible(f"its {name} has another shape or type in ONNX")
    rows = len(wanted)
    wanted = wanted.astype(np.float64)
    got = answer.reshape(wanted.shape).astype(np.float64)
    gaps = np.isnan(got) != np.isnan(wanted)
    with np.errstate(invalid="ignore"):  # equal infinities differ by nothing
        span = np.where(got == wanted, 0.0, np.abs(np.nan_to_num(got) - np.nan_to_num(wanted)))
    span = np.where(gaps, math.inf, span)
    size = np.nan_to_num(np.abs(wanted))
    allowed = tolerance if name == "probabilities" else tolerance * size + 0.01 * tolerance * size.max(initial=0.0)
    beyond = np.asarray(span > allowed)
    return span.reshape(rows, -1).max(axis=1, initial=0.0), np.asarray(beyond.reshape(rows, -1).any(axis=1))


def _row(which: str, row: int, columns: Arrays, wanted: Arrays, answers: dict[str, Any]) -> dict[str, Any]:
    """One row for a person: what went in, and both answers."""
    inputs = {name: _plain(column[row]) for name, column in columns.items()}
    given = {name: _plain(answers[name][row]) for name in wanted}
    return {"rows": which, "row": row, "inputs": inputs, "original": {name: _plain(value[row]) for name, value in wanted.items()}, "onnx": given}


def _plain(value: Any) -> Any:
    """A value as JSON can carry it, long ones cut."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(item) for item in value[:10]]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
