"""Models as ONNX, used only where they answer the same and not slower: every conversion is tried and timed beside the original.

A classifier gives `label` and, where it has them, `probabilities`; a regressor `prediction`; anything else its first output as
`output`.  Unless a tolerance is given, labels must be equal, probabilities within 1e-4, other numbers within a ten-thousandth
of their size, on the sample rows and, for trees, on rows just beside their thresholds.  An array is one input called `input`,
and so are a table's columns side by side; a model that chooses among columns by name has them as inputs of shape [rows, 1], called as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from . import comparing, graphs, speed, thresholds, writing
from .comparing import Session
from .exporting import from_torch
from .reasons import NotConvertible
from .writing import Floats

if TYPE_CHECKING:
    from ..signature import Signature
    from .comparing import Arrays, Tried

QUICK_ROWS = (1, 1_000)
ALL_ROWS = (1, 1_000, 100_000)
_QUICK_THRESHOLDS = 150
_ALL_THRESHOLDS = 400


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """The ONNX form of a model, None where there is none that answers the same, and how that was found."""

    onnx: bytes | None = None
    report: dict[str, Any]
    """`to`, and the `reason` there is none, or `equal`, `rows`, `max_difference` and `labels_differ` on the sample; the same of
    rows `beside` the trees' thresholds; some `differing` rows; the `speed` by rows and threads, `fastest` by rows, and what should
    answer single requests (`engine`) and many rows (`batch_engine`): `onnxruntime` or `python`."""

    @property
    def engine(self) -> str:
        """What should serve the model: `onnxruntime`, or `python` where there is no equal ONNX form or it is slower for one row."""
        return self.report.get("engine", "python")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a conversion is asked for."""

    quantize: str | None = None
    """`int8`, or None."""
    opset: int | None = None
    """The ONNX operator set to write; None for one that every converter here can."""
    optimize: str = "none"
    """How far the graph is optimised now, rather than at every start: `none`, `basic`, `extended` or `all`."""
    tolerance: float | None = None
    """Largest difference of a probability, and of another number in proportion to its size; also the share of labels that may differ."""


def to_onnx(obj: Any, signature: Signature | None, sample: Any) -> Conversion:
    """*obj* (scikit-learn, XGBoost's or LightGBM's estimators, alone or in pipelines) as ONNX, tried on *sample* and timed quickly.

    Raises nothing: what cannot be converted comes back with the reason.
    """
    try:
        return converted(obj, signature, sample, Options(), rows=QUICK_ROWS, most_thresholds=_QUICK_THRESHOLDS, seconds=speed.QUICK_SECONDS)
    except NotConvertible as why:
        return Conversion(report={"to": "onnx", "reason": str(why)})


def fully(obj: Any, signature: Signature | None, sample: Any, options: Options) -> Conversion:
    """The same with *options*, more rows beside thresholds, and timed for 1, 1,000 and 100,000 rows on one thread and on several.

    Raises NotConvertible.
    """
    return converted(obj, signature, sample, options, rows=ALL_ROWS, most_thresholds=_ALL_THRESHOLDS, seconds=speed.SECONDS, one_thread=True)


def converted(
    obj: Any,
    signature: Signature | None,
    sample: Any,
    options: Options,
    *,
    rows: Sequence[int],
    most_thresholds: int,
    seconds: float,
    one_thread: bool = False,
) -> Conversion:
    """The first ONNX form of *obj* that answers as it does; else what differed, without a form.  Raises NotConvertible."""
    if signature is None or sample is None or not len(sample):
        raise NotConvertible("there are no sample rows to compare answers on")
    columns = comparing.checked(obj, signature, sample)
    tried_on = [("sample", columns, comparing.expected(obj, sample))]
    if (beside := thresholds.rows_beside(obj, sample, most=most_thresholds)) is not None:
        tried_on.append(("beside", signature.check(signature.table_of(beside)), comparing.expected(obj, beside)))
    found, report = _first_equal(obj, signature, tried_on, options)
    if found is None:
        return Conversion(report=report)
    timed = speed.measured(comparing.expected, obj, found, signature, columns, rows=rows, seconds=seconds, one_thread=one_thread)
    return Conversion(onnx=found.content, report=report | speed.verdict(timed))


def _first_equal(obj: Any, signature: Signature, tried_on: list[Tried], options: Options) -> tuple[Session | None, dict[str, Any]]:
    """The quicker form that reckons with 32 bits, else the one with 64, whichever answers the same; and what was found of the last one that ran."""
    report: dict[str, Any] = {}
    for floats in _widths(obj, options):
        try:
            session, made = _form(obj, signature, tuple(tried_on[0][2]), options, floats)
            report, equal = comparing.compared(session, tried_on, options.tolerance)
        except NotConvertible:
            if report:
                break  # fewer operators know 64 bits; what the first try found stands
            raise
        report |= made
        if equal:
            return session, report
    return None, report


def _widths(obj: Any, options: Options) -> list[Floats]:
    if options.quantize:
        return ["Float"]  # 8 bits replace 32, not 64
    return ["Double"] if thresholds.need_64_bits(obj) else ["Float", "Double"]


def _form(obj: Any, signature: Signature, outputs: tuple[str, ...], options: Options, floats: Floats) -> tuple[Session, dict[str, Any]]:
    content = writing.written(obj, signature, outputs, floats, options.opset)
    content, made = graphs.reworked(content, quantize=options.quantize, optimize=options.optimize)
    return Session(content), {"bits": 32 if floats == "Float" else 64} | made


def reworked(content: bytes, columns: Arrays, options: Options) -> Conversion:
    """An ONNX model made elsewhere, quantized, optimised or in another operator set, tried beside the one it was.  Raises NotConvertible."""
    original = Session(content)
    expected = dict(zip(original.outputs, original.run(columns), strict=True))
    other, made = graphs.reworked(content, quantize=options.quantize, optimize=options.optimize, opset=options.opset)
    session = Session(other)
    report, equal = comparing.compared(session, [("sample", columns, expected)], options.tolerance)
    if not equal:
        return Conversion(report=report | made)
    timed = speed.of_graphs(original, session, columns, rows=ALL_ROWS, seconds=speed.SECONDS)
    return Conversion(onnx=other, report=report | made | speed.verdict(timed) | {"engine": "onnxruntime", "batch_engine": "onnxruntime"})


__all__ = ["Conversion", "NotConvertible", "Options", "from_torch", "fully", "reworked", "to_onnx"]
