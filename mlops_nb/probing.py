"""What a model takes and gives, found by asking it rather than its author."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from . import datasets, flavors, runs, signature, sources
from .errors import CannotAnswer, SignatureMismatch, closest, listed
from .signature import Signature

if TYPE_CHECKING:
    from .serving.engines import Arrays
    from .store.datasets import DatasetVersion
    from .store.models import ModelVersion


def sample_for(model: Any, dataset: DatasetVersion | None, sample: Any, *, earlier: ModelVersion | None, target: str | None, most: int) -> Any:
    """Rows to try *model* on, or None: *sample*, else the first rows of *dataset* (or, without one, those the *earlier* version was tried on).

    Their columns are those the model remembers from its training, else those of the *earlier* version when the data has them
    all, else every one but *target*.  Raises SignatureMismatch when the data lacks a column the model needs.
    """
    names = feature_names(model)
    if sample is not None:
        first = sample[:most] if hasattr(sample, "__getitem__") and not isinstance(sample, dict) else sample
        return first[names] if names and set(names) <= set(getattr(first, "columns", ())) else first
    if dataset is None:
        return _like_before(model, earlier) if earlier and earlier.signature else _zeros(model)
    if names is not None:
        _check_present(names, dataset)
        return datasets.frame(dataset.ref, columns=names, most=most)
    frame = datasets.frame(dataset.ref, columns=_columns(dataset, earlier, target), most=most)
    width = getattr(model, "n_features_in_", None)
    if width is None:
        return frame
    if width != frame.shape[1]:
        raise SignatureMismatch(
            f"The model was trained on an array of {width} columns; {dataset.ref} has {frame.shape[1]}.",
            hint="--target COLUMN if one of them is what it predicts, or --sample X[:100], the array it was trained on",
        )
    return frame.to_numpy()


def _columns(dataset: DatasetVersion, earlier: ModelVersion | None, target: str | None) -> list[str]:
    there = [column["name"] for column in dataset.schema]
    if target is not None:
        _check_target(target, dataset)
        return [name for name in there if name != target]
    before = [column["name"] for column in earlier.signature["inputs"]] if earlier and earlier.signature else []
    return before if before and set(before) <= set(there) else there


def _like_before(model: Any, earlier: ModelVersion) -> Any:
    """The rows of the earlier version, when this model, as far as it remembers, takes the same columns."""
    known = signature.Signature.from_json(earlier.signature or {})
    names, before = feature_names(model), [column.name for column in known.inputs]
    if known.kind != "table" or not known.sample or (names is not None and names != before):
        return _zeros(model)
    return signature.as_frame(known.check(known.table_of(known.sample)), known)


def takes_every_column(model: Any, dataset: DatasetVersion, known: Signature | None) -> bool:
    """Whether the inputs are all of *dataset*'s columns only because the model does not remember its own."""
    there = [column["name"] for column in dataset.schema]
    return model is not None and known is not None and feature_names(model) is None and [column.name for column in known.inputs] == there


def feature_names(model: Any) -> list[str] | None:
    """The column names a model remembers from its training, or None."""
    for attribute in ("feature_names_in_", "feature_names", "feature_name_"):
        names = getattr(model, attribute, None)
        if callable(names):
            names = names()
        if names is not None and len(names):
            return [str(name) for name in names]
    return list(model.feature_name()) if callable(getattr(model, "feature_name", None)) else None


class Probed(NamedTuple):
    """What a model was asked, what it answered, and the signature that makes."""

    rows: Any
    outputs: Arrays
    signature: Signature


def probe(model: Any, rows: Any) -> Probed | None:
    """Ask *model* its *rows*; None when there are none.  Raises CannotAnswer, with the model's own exception, when it fails on them."""
    if rows is None:
        return None
    from .serving import engines, failures

    inputs = signature.infer(rows)
    try:
        outputs = engines.answers(model, rows)
    except Exception as error:
        raise CannotAnswer(failures.message(error), where=_line_of(error), detail=failures.text(error)) from error
    return Probed(rows, outputs, signature.infer(rows, outputs=outputs) if outputs else inputs)


def _line_of(error: Exception) -> str:
    """The innermost line of the user's own code that the exception went through: `cell [12], line 3`, or file and line."""
    from .serving import failures

    frames = [(sources.cell_name(frame.filename), frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    return failures.place_of(frames, runs.cells(), is_users=failures.is_own)


def stated_by(model: Any) -> Signature | None:
    """What an ONNX graph says of its inputs and outputs by itself; None of other models."""
    from .serving import engines

    return engines.signature_of(model.session) if isinstance(model, flavors.OnnxModel) else None


def _zeros(model: Any) -> Any:
    import numpy as np

    width = getattr(model, "n_features_in_", None)
    return np.zeros((1, width)) if width and feature_names(model) is None else None


def _check_target(target: str, dataset: DatasetVersion) -> None:
    there = [column["name"] for column in dataset.schema]
    if target not in there:
        near = closest(target, there)
        raise SignatureMismatch(f"{dataset.ref} has no column {target!r}.", hint=f"did you mean {near}?" if near else f"%mlops datasets {dataset.ref}")


def _check_present(names: list[str], dataset: DatasetVersion) -> None:
    there = [column["name"] for column in dataset.schema]
    missing = [name for name in names if name not in there]
    if missing:
        near = closest(missing[0], there)
        hint = f"did you mean {near}?" if near else f"%mlops datasets {dataset.name}"
        raise SignatureMismatch(f"The model was trained on {listed(missing)}, which {dataset.ref} lacks.", hint=hint)


__all__ = ["Probed", "feature_names", "probe", "sample_for", "stated_by"]
