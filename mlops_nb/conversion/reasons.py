"""Why a model stays as it is, in words a person can act on: the step by its name, and one short line of what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

_LONGEST = 110


class NotConvertible(Exception):
    """Why a model stays as it is, in one line."""


def of(error: BaseException, obj: Any) -> NotConvertible:
    """The reason that *error*, raised while *obj* was being converted, stands for."""
    step = _said(_culprit(error, obj), obj)
    if type(error).__name__ in ("MissingShapeCalculator", "MissingConverter"):
        return NotConvertible(f"{step} has no ONNX converter")
    return NotConvertible(f"{step} has no ONNX converter that works here: {in_a_line(error)}")


def of_runtime(error: BaseException) -> NotConvertible:
    """The reason for an ONNX form that ONNX Runtime does not take."""
    text = str(error).rpartition("Fatal error: ")[2] or str(error)
    return NotConvertible(f"ONNX Runtime does not take its ONNX form: {_cut(text.removeprefix('[ONNXRuntimeError] : '))}")


def in_a_line(error: BaseException) -> str:
    """The first sentence of what an error says, short."""
    return _cut(str(error)) or type(error).__name__


def _cut(text: str) -> str:
    """The first sentence of *text*, cut at a word."""
    sentence = " ".join(text.split()).split(". ")[0].rstrip(".")
    if len(sentence) <= _LONGEST:
        return sentence
    return sentence[:_LONGEST].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def parts(obj: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The model and the fitted ones inside it, each with the name of its step."""
    yield name, obj
    for inner_name, inner in _inside(obj):
        if hasattr(inner, "get_params"):
            yield from parts(inner, inner_name or name)


def _inside(obj: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(obj, "steps", ())
    yield from ((entry[0], entry[1]) for entry in getattr(obj, "transformers_", ()))
    yield from getattr(obj, "transformer_list", ())
    if (best := getattr(obj, "best_estimator_", None)) is not None:
        yield "", best


def _culprit(error: BaseException, obj: Any) -> Any:
    """The innermost of the model's parts that was being converted: converters hold it in a local called `model` or in their `operator`."""
    known = {type(part) for _, part in parts(obj)}
    found = obj
    for frame in _frames(error.__traceback__):
        held = (frame.get("model"), getattr(frame.get("operator"), "raw_operator", None), getattr(frame.get("op"), "raw_operator", None))
        found = next((part for part in held if type(part) in known), found)
    return found


def _frames(traceback: TracebackType | None) -> Iterator[dict[str, Any]]:
    while traceback:
        yield traceback.tb_frame.f_locals
        traceback = traceback.tb_next


def _said(part: Any, obj: Any) -> str:
    name = next((name for name, inner in parts(obj) if inner is part), "") or next((name for name, inner in parts(obj) if type(inner) is type(part)), "")
    function = getattr(part, "func", None)
    kind = type(part).__name__ + (f"({function.__name__})" if callable(function) and hasattr(function, "__name__") else "")
    return f"{kind} in step {name!r}" if name else kind
