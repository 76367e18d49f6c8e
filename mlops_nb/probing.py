"""What a model takes and gives, found by asking it rather than its author."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import datasets, signature
from .errors import SignatureMismatch, closest, listed
from .signature import Signature

if TYPE_CHECKING:
    from .store.datasets import DatasetVersion


def sample_for(model: Any, dataset: DatasetVersion | None, sample: Any, *, most: int) -> Any:
    """Rows to try *model* on: *sample*, else the first rows of *dataset* with the columns the model was trained on; None without either.

    Raises SignatureMismatch when the data set lacks a column the model needs.
    """
    if sample is not None:
        return sample[:most] if hasattr(sample, "__getitem__") and not isinstance(sample, dict) else sample
    if dataset is None:
        return _zeros(model)
    names = feature_names(model)
    if names is not None:
        _check_present(names, dataset)
        return datasets.frame(dataset.ref, columns=names, most=most)
    frame = datasets.frame(dataset.ref, most=most)
    width = getattr(model, "n_features_in_", None)
    if width is None:
        return frame
    if width != frame.shape[1]:
        raise SignatureMismatch(
            f"The model was trained on an array of {width} columns; {dataset.ref} has {frame.shape[1]}.", hint="--sample X[:100], the array it was trained on"
        )
    return frame.to_numpy()


def feature_names(model: Any) -> list[str] | None:
    """The column names a model remembers from its training, or None."""
    for attribute in ("feature_names_in_", "feature_names", "feature_name_"):
        names = getattr(model, attribute, None)
        if callable(names):
            names = names()
        if names is not None and len(names):
            return [str(name) for name in names]
    return list(model.feature_name()) if callable(getattr(model, "feature_name", None)) else None


def signature_of(model: Any, flavor: str, rows: Any) -> Signature | None:
    """The signature of *model* on *rows*: their columns, and the outputs it answers with.  Raises SignatureMismatch when it cannot answer them."""
    if rows is None:
        return None
    from .serving import engines

    inputs = signature.infer(rows)
    try:
        outputs = engines.answers(model, rows)
    except Exception as error:
        raise SignatureMismatch(
            f"The model fails on the data it is registered with: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint="--data the data set it was trained on, or --sample a few rows of it",
        ) from error
    return signature.infer(rows, outputs=outputs) if outputs else inputs


def _zeros(model: Any) -> Any:
    import numpy as np

    width = getattr(model, "n_features_in_", None)
    return np.zeros((1, width)) if width and feature_names(model) is None else None


def _check_present(names: list[str], dataset: DatasetVersion) -> None:
    there = [column["name"] for column in dataset.schema]
    missing = [name for name in names if name not in there]
    if missing:
        near = closest(missing[0], there)
        raise SignatureMismatch(
            f"The model was trained on {listed(missing)}, which {dataset.ref} lacks.", hint=f"did you mean {near}?" if near else f"%mlops datasets {dataset.name}"
        )


__all__ = ["feature_names", "sample_for", "signature_of"]
