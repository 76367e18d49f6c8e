"""Give a registered version an FPGA form: an HLS project for each precision, emulated on its data set and estimated."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import artifacts, converting, datasets, fpga, registry, store
from .errors import BadOption, CannotConvert, ConversionFailed, MissingExtra
from .fpga import Precision, tools
from .fpga.emulation import FOLDER
from .progress import SILENT, Reporter
from .reference import ModelRef
from .settings import Workspace
from .signature import Signature
from .store import events
from .store import models as table
from .store.models import ModelVersion, StoredFile

if TYPE_CHECKING:
    import plotly.graph_objects as go

GOOD_AGREEMENT = 0.99
"""Share of rows that an emulation must answer as the model does to be taken before a more precise one."""
TIMEOUT_SECONDS = 1200.0
_NEEDED = ("hls4ml", "conifer", "onnx")


class ConvertedToFpga(msgspec.Struct, frozen=True, kw_only=True):
    """A version with its FPGA form; `version.conversion["fpga"]` holds what was found of each precision."""

    version: ModelVersion

    def figure(self) -> go.Figure:
        """Its trade-off between bits, agreement with the float model and resources."""
        return figure(self.version)


def convert(
    ref: ModelRef | str,
    *,
    precisions: Sequence[Precision | str] = (),
    part: str = fpga.DEFAULT_PART,
    reuse: int = 1,
    synthesise: bool = False,
    report: Reporter = SILENT,
) -> ConvertedToFpga:
    """Write the version as an HLS project for each of *precisions* (`fixed<16,6>` unless given), emulate each and keep them beside its files.

    What it is served by stays as it is; `--to fpga` deploys the emulation.  The ONNX form is what is split and written; a version without one
    is converted first.  Needs the extra `fpga` and a C++ compiler.
    Raises ModelNotFound and its kin, BadOption, MissingExtra, CompilerMissing, HardwareMissing (no HLS tool for *synthesise*), CannotConvert
    naming the operator that has no form on an FPGA, ConversionFailed.
    """
    wanted = [each if isinstance(each, Precision) else Precision.parse(each) for each in precisions] or [Precision.parse(fpga.DEFAULT_PRECISION)]
    _check_here(part, reuse, synthesise)
    version = registry.get(ref)
    if version.engine != "script" and "model.onnx" not in [file.path for file in version.files]:
        version = converting.convert(ref, report=report).version
    report.step(f"reading rows for {version.ref}")
    signature, columns = _rows(version)
    with tempfile.TemporaryDirectory(prefix="mlops-fpga-") as folder:
        scratch = Path(folder)
        report.step(f"writing and compiling {version.ref} for {', '.join(map(str, dict.fromkeys(wanted)))}")
        job = {"signature": signature, "precisions": list(dict.fromkeys(wanted)), "part": part, "reuse": reuse, "synthesise": synthesise}
        answer = _answered(version, job, columns, _truth(version, signature, rows=len(next(iter(columns.values())))), scratch)
        return _kept(version, answer, scratch, part=part, reuse=reuse)


def figure(version: ModelVersion) -> go.Figure:
    """The trade-off of a version's FPGA forms.  Raises BadOption when it has none."""
    from .fpga import figures

    return figures.trade_off(form_of(version))


def form_of(version: ModelVersion) -> dict[str, Any]:
    """What was found when the version was converted for an FPGA.  Raises BadOption when it was not."""
    found = version.conversion.get("fpga")
    if not found:
        raise BadOption(f"{version.ref} has no FPGA form.", hint=f"%mlops convert {version.ref} --to fpga")
    return found


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_here(part: str, reuse: int, synthesise: bool) -> None:
    """Everything that could be refused before the model is looked at."""
    from .fpga import emulation

    fpga.checked_part(part)
    if not 1 <= reuse <= 1024:
        raise BadOption(f"--reuse {reuse} is no number of multiplications that share a multiplier.", hint="--reuse 4, from 1 to 1024")
    if missing := next((name for name in _NEEDED if importlib.util.find_spec(name) is None), None):
        raise MissingExtra(missing, extra="fpga", doing="Writing a model for an FPGA")
    emulation.compiler()
    if synthesise:
        tools.required()


def _rows(version: ModelVersion) -> tuple[Signature, dict[str, Any]]:
    if version.engine == "script":
        raise CannotConvert(version.ref, "an entry script answers for it, and what that does cannot be seen")
    return converting.rows(version)


def _truth(version: ModelVersion, signature: Signature, *, rows: int) -> list[Any] | None:
    """The column of the data set that the model predicts: the only one that it does not take, else none is known."""
    if not version.dataset:
        return None
    there = [column["name"] for column in datasets.get(version.dataset).schema]
    left = [name for name in there if name not in {column.name for column in signature.inputs}]
    if signature.kind != "table" or len(left) != 1:
        return None
    values = datasets.frame(version.dataset, columns=left, most=rows)[left[0]]
    return values.tolist() if len(values) == rows and not values.isna().any() else None


# ── the process of its own ───────────────────────────────────────────────────────────────────────────────────────────


def _answered(version: ModelVersion, job: dict[str, Any], columns: dict[str, Any], truth: list[Any] | None, scratch: Path) -> dict[str, Any]:
    """The worker's answer.  Raises CannotConvert, ConversionFailed."""
    (scratch / "job.json").write_bytes(msgspec.json.encode(job))
    (scratch / "model.onnx").write_bytes((registry.checked(version) / "model.onnx").read_bytes())
    rows = {"columns": {name: column.tolist() for name, column in columns.items()}, "truth": truth}
    (scratch / "columns.msgpack").write_bytes(msgspec.msgpack.encode(rows, enc_hook=str))
    words = [sys.executable, "-m", "mlops_nb.fpga", str(scratch)]
    environment = os.environ | {"MLOPS_HOME": str(Workspace.current().root)}
    patience = TIMEOUT_SECONDS + (len(job["precisions"]) * tools.SECONDS if job["synthesise"] else 0)
    try:
        done = subprocess.run(words, cwd=scratch, env=environment, capture_output=True, text=True, errors="replace", timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise ConversionFailed(version.ref, f"took longer than {patience:.0f} s") from None
    log = "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])
    if not (scratch / "answer.json").exists():
        ended = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        raise ConversionFailed(version.ref, ended, detail=log)
    answer = msgspec.json.decode((scratch / "answer.json").read_bytes())
    if answer["reason"]:
        raise CannotConvert(version.ref, answer["reason"])
    if answer["failed"]:
        raise ConversionFailed(version.ref, f"ended with {answer['failed'].rstrip('.')}", detail=answer["detail"] or log)
    return answer


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kept(version: ModelVersion, answer: dict[str, Any], scratch: Path, *, part: str, reuse: int) -> ConvertedToFpga:
    """Record the projects in place of those that were there."""
    points = answer["points"]
    kept = [artifacts.keep(scratch / point["file"], path=f"{FOLDER}/{point['file']}") for point in points]
    found = {
        "kind": answer["kind"], "by": answer["by"], "described": answer["described"], "part": part, "reuse": reuse, "chosen": chosen(points)["precision"],
        "points": points,
    }  # fmt: skip
    with store.writing() as tx:
        now = table.get(tx, ref := ModelRef(version.model, version=version.version))
        files: list[StoredFile] = [file for file in now.files if not file.path.startswith(f"{FOLDER}/")]
        table.set_conversion(tx, now, engine=now.engine, files=[*files, *kept], conversion=now.conversion | {"fpga": found})
        told = {"to": "fpga", "part": part, "precisions": [point["precision"] for point in points], "chosen": found["chosen"]}
        events.record(tx, "ModelConverted", subject=version.ref, data=told)
        return ConvertedToFpga(version=table.get(tx, ref))


def chosen(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The narrowest of the points whose answers agree well enough, else the one that agrees most."""
    good = [point for point in points if point["agreement"]["agreement"] >= GOOD_AGREEMENT]
    if good:
        return min(good, key=lambda point: (point["width"], -point["agreement"]["agreement"], point["agreement"]["max_error"]))
    return max(points, key=lambda point: (point["agreement"]["agreement"], -point["width"]))
