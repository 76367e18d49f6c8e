"""Give a registered version an ONNX form, proved equal and measured, beside the form it was registered in."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import artifacts, conversion, datasets, flavors, registry, store
from .conversion import Options
from .conversion.__main__ import Answer, Job
from .errors import AnswersDiffer, BadOption, CannotConvert, ConversionFailed, SignatureMismatch, TrustNeeded
from .flavors import ModelFile
from .progress import SILENT, Reporter
from .reference import ModelRef
from .signature import Signature
from .store import events
from .store import models as table
from .store.models import ModelVersion

if TYPE_CHECKING:
    from .conversion.comparing import Arrays

MOST_ROWS = 10_000
"""Rows of the data set that answers are compared on."""
TIMEOUT_SECONDS = 600.0
_ORIGINAL = "original/model.onnx"
"""Where a model that was registered as ONNX is kept once another form of it is served."""


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """A version with its new ONNX form; `version.conversion` holds what was found."""

    version: ModelVersion


def convert(ref: ModelRef | str, *, options: Options = Options(), report: Reporter = SILENT) -> Converted:  # noqa: B008 - frozen
    """Write the version as ONNX, try it beside the original on its data set and beside its trees' thresholds, time both, and keep it.

    It is served from then on where it is not slower for one row; deployments that run go on as they are.  The model is opened
    in a process of its own.  Where the answers differ nothing changes, except that a version which plain conversion finds
    unequal is served by its original again.
    Raises ModelNotFound, VersionNotFound, AliasNotFound, TrustNeeded, BadOption, CannotConvert, AnswersDiffer, ConversionFailed.
    """
    version = registry.get(ref)
    file = _original(version, options)
    report.step(f"reading rows for {version.ref}")
    signature, columns = rows(version)
    report.step(f"converting {version.ref} and comparing {len(next(iter(columns.values()))):,} answers; then both are timed up to 100,000 rows")
    with tempfile.TemporaryDirectory(prefix="mlops-convert-") as scratch:
        answer = _answered(version, _job(version, file, signature, options), columns, Path(scratch))
        if answer.reason:
            raise CannotConvert(version.ref, answer.reason)
        if not answer.report["equal"]:
            raise AnswersDiffer(version.ref, answer.report, withdrawn=_withdrawn(version, answer.report, options))
        return _kept(version, Path(scratch) / "model.onnx", answer.report)


# ── what is converted ────────────────────────────────────────────────────────────────────────────────────────────────


def _original(version: ModelVersion, options: Options) -> str:
    """The place of the file that holds the model as it was registered.  Raises CannotConvert, TrustNeeded, BadOption."""
    if version.engine == "script":
        raise CannotConvert(version.ref, "an entry script answers for it, and what that does cannot be seen")
    places = [file.path for file in version.files]
    if version.flavor in ("onnx", "torch"):
        if not (options.quantize or options.opset or options.optimize != "none"):
            raise BadOption(f"{version.ref} is ONNX as it was registered.", hint=f"%mlops convert {version.ref} --quantize int8, or --optimize extended")
        return _ORIGINAL if _ORIGINAL in places else "model.onnx"
    place = next((place for place in places if Path(place).stem == "model" and place != "model.onnx" and "/" not in place), None)
    if place is None:
        raise CannotConvert(version.ref, "it has no file that holds a model")
    if not version.trusted and _file(version, place).runs_code:
        raise TrustNeeded(place)
    return place


def _file(version: ModelVersion, place: str) -> ModelFile:
    file = flavors.file_of(registry.laid_out(version) / place)
    if file is None:
        raise CannotConvert(version.ref, f"{place} is of no format that is read here")
    return file


def rows(version: ModelVersion) -> tuple[Signature, Arrays]:
    """The signature, and rows to compare answers on: those of its data set, else the few kept with it.  Raises CannotConvert."""
    if not version.signature:
        raise CannotConvert(version.ref, "it was registered without data, so there are no rows to compare answers on")
    signature = Signature.from_json(version.signature)
    if version.dataset and (columns := _of_dataset(version.dataset, signature)):
        return signature, columns
    sample = signature.sample
    if not sample:
        raise CannotConvert(version.ref, "it was registered without data, so there are no rows to compare answers on")
    return signature, signature.check(sample if isinstance(sample, dict) else signature.table_of(sample))


def _of_dataset(dataset: str, signature: Signature) -> Arrays | None:
    there = [column["name"] for column in datasets.get(dataset).schema]
    if signature.kind == "tensors":
        return _matrix(dataset, signature, there)
    names = [column.name for column in signature.inputs]
    if not set(names) <= set(there):
        return None
    for most in (MOST_ROWS, registry.SAMPLE_ROWS):
        try:
            return signature.check(signature.table_of(datasets.frame(dataset, columns=names, most=most)))
        except SignatureMismatch:
            continue  # a later row misses a value that none did among those the model was registered with
    return None


def _matrix(dataset: str, signature: Signature, there: list[str]) -> Arrays | None:
    """The array the model was registered with: all columns of the data set, or all but the one it predicts, whichever begins as the sample does."""
    import numpy as np

    sample = next(iter(signature.check(signature.sample).values())) if isinstance(signature.sample, dict) else np.zeros(0)
    frame = datasets.frame(dataset, most=MOST_ROWS)
    for names in (there, *([name for name in there if name != left] for left in there)):
        rows = frame[names].to_numpy()
        if rows.ndim == sample.ndim and rows.shape[1:] == sample.shape[1:] and _same(rows[: len(sample)], sample):
            return signature.check({signature.inputs[0].name: rows})
    return None


def _same(rows: Any, sample: Any) -> bool:
    return rows.dtype.kind == sample.dtype.kind and bool((rows == sample).all())


# ── the process of its own ───────────────────────────────────────────────────────────────────────────────────────────


def _job(version: ModelVersion, place: str, signature: Signature, options: Options) -> Job:
    import psutil

    memory_mb = max(1024, int(0.8 * psutil.virtual_memory().available / 1024**2))
    folder = registry.checked(version)
    return Job(folder=str(folder), file=place, format=_file(version, place).format, signature=signature, options=options, memory_mb=memory_mb)


def _answered(version: ModelVersion, job: Job, columns: Arrays, scratch: Path) -> Answer:
    """The worker's answer.  Raises ConversionFailed when it ends without one."""
    (scratch / "job.json").write_bytes(msgspec.json.encode(job))
    (scratch / "columns.msgpack").write_bytes(msgspec.msgpack.encode({name: column.tolist() for name, column in columns.items()}, enc_hook=str))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mlops_nb.conversion", str(scratch)], cwd=scratch, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConversionFailed(version.ref, f"took longer than {TIMEOUT_SECONDS:.0f} s") from None
    log = "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])
    if not (scratch / "answer.json").exists():
        ended = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        raise ConversionFailed(version.ref, ended, detail=log)
    answer = msgspec.json.decode((scratch / "answer.json").read_bytes(), type=Answer)
    if answer.failed:
        raise ConversionFailed(version.ref, f"ended with {answer.failed}", detail=log)
    return answer


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kept(version: ModelVersion, form: Path, report: dict[str, Any]) -> Converted:
    """Record the form beside the original."""
    kept = artifacts.keep(form, path="model.onnx")
    others = {file.path: file for file in version.files if file.path != "model.onnx"}
    if version.flavor in ("onnx", "torch") and _ORIGINAL not in others:
        served = next(file for file in version.files if file.path == "model.onnx")
        others[_ORIGINAL] = msgspec.structs.replace(served, path=_ORIGINAL)
    return _recorded(version, engine=report["engine"], files=[*others.values(), kept], report=report)


def _withdrawn(version: ModelVersion, report: dict[str, Any], options: Options) -> bool:
    """Whether the version, found unequal as it is served, is served by its original again."""
    if options != Options() or version.engine != "onnxruntime" or version.flavor in ("onnx", "torch"):
        return False
    _recorded(version, engine="python", files=version.files, report=report)
    return True


def _recorded(version: ModelVersion, *, engine: str, files: list[table.StoredFile], report: dict[str, Any]) -> Converted:
    told = {name: report[name] for name in ("equal", "labels_differ", "max_difference", "quantized", "optimized", "fastest") if name in report}
    with store.writing() as tx:
        table.get(tx, ref := ModelRef(version.model, version=version.version))
        beside = {form: found for form, found in version.conversion.items() if form == "fpga"}
        table.set_conversion(tx, version, engine=engine, files=files, conversion=report | beside)
        events.record(tx, "ModelConverted", subject=version.ref, data={"to": "onnx", "engine": engine} | told)
        return Converted(version=table.get(tx, ref))


__all__ = ["Converted", "Options", "conversion", "convert"]
