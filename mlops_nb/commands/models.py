"""Commands on models and their versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..cards.card import size
from ..errors import UsageError
from ..fpga import DEFAULT_PART
from ..grammar import face
from ..reference import ModelRef
from ..shapes import Facts, Listing
from ..vocabulary import A_DATASET_OR_FRAME, A_METRIC, A_MODEL, A_MODEL_NAME, A_MODEL_OBJECT, A_PRECISION, A_TAG, AN_ALIAS, DATA, dataset_names
from .group import mlops
from .words import table_in

if TYPE_CHECKING:
    from ..converting import Converted
    from ..fpga import Precision
    from ..hls import ConvertedToFpga
    from ..registry import Registered
    from ..store.models import ModelVersion


@mlops.command(
    heading="Models",
    examples=[
        "%register clf --name delays --data flights_q1 --metric auc=0.71 --tag team=ops",
        "%register clf2 --name delays --data flights_q1 --target late",
        "register model.onnx --name delays --alias champion",
        "register folder/ --name fraud --entry score.py",
        "register model.pkl --name delays --trust",
    ],
)
@click.argument("model", type=A_MODEL_OBJECT)
@click.option("--name", type=A_MODEL_NAME, required=True, help="The model's name; it gets the next version.")
@click.option("--data", type=A_DATASET_OR_FRAME, help="What it was trained on: a registered data set, or a DataFrame or array.")
@click.option("--sample", type=DATA, help="Rows such as it was trained on, where --data is not to be kept: a DataFrame or array, or a file.")
@click.option("--target", metavar="COLUMN", help="The column of the data set that the model predicts.  [default: known from the model or its last version]")
@click.option("--metric", "metrics", type=A_METRIC, multiple=True, help="A figure such as auc=0.71; may be repeated.")
@click.option("--tag", "tags", type=A_TAG, multiple=True, help="A tag such as team=ops; may be repeated.")
@click.option("--description", default="", metavar="TEXT", help="What it is for.")
@click.option("--entry", type=click.Path(), help="An entry script with init() and run(raw_data).")
@click.option("--code", type=click.Path(), multiple=True, help="A local module or folder it needs; may be repeated.")
@click.option("--alias", type=AN_ALIAS, help="A name for this version, such as champion.")
@click.option("--trust", is_flag=True, help="Open a pickle that this workspace did not write.")
@click.option("--convert/--no-convert", default=True, help="Serve it as ONNX where the answers are the same.  [default: convert]")
def register(
    model: str,
    name: str,
    data: str | None,
    sample: str | None,
    target: str | None,
    metrics: Sequence[tuple[str, float]],
    tags: Sequence[tuple[str, str]],
    description: str,
    entry: str | None,
    code: Sequence[str],
    alias: str | None,
    trust: bool,
    convert: bool,
) -> Registered:
    """Keep a model as the next version of its name.

    MODEL is a live object in a notebook, or the path of a file or folder: ONNX, pickle, joblib, skops, or whatever an entry script reads.
    """
    from .. import registry

    meant = face().meaning(model)
    registered_data = data and data.split(":")[0] in dataset_names()  # also where a variable has that name
    trained_on = data if registered_data else face().meaning(data, known=dataset_names) if data else None
    shown = face().meaning(sample) if sample else None if isinstance(trained_on, str) else trained_on
    with face().reporting(f"registering {name}") as report:
        registered = registry.register(
            meant, name=name, data=trained_on if isinstance(trained_on, str) else None,
            sample=_frame_in(shown) if isinstance(shown, Path) else shown, target=target,
            metrics=dict(metrics), tags=dict(tags), description=description, entry=entry, code=code, alias=alias, trust=trust, convert=convert, report=report,
        )  # fmt: skip
        registered = _with_counts(registered, None if isinstance(trained_on, str) else trained_on)
        report.step(f"registered {registered.version.ref}")
    return registered


def _frame_in(file: Path) -> Any:
    """Its rows as a frame, which is what models are given; as columns where there is no pandas."""
    try:
        import pandas as pd
    except ImportError:
        return table_in(file)
    return pd.DataFrame(table_in(file))


_COUNTED = "Drift is told by the counts of its training data, which are kept; the rows are not: %mlops dataset register NAME DATA keeps them."
_NOT_COUNTED = "No training data is known, so drift can be told by past requests only; --data gives it something to compare with."


def _with_counts(registered: Registered, trained_on: Any) -> Registered:
    """With the counts of a frame kept for drift checks, and a note that says what they can be compared with."""
    import msgspec

    from ..monitoring import references

    if registered.version.dataset:
        return registered
    counted = trained_on is not None and references.keep_frame(registered.version, trained_on)
    return msgspec.structs.replace(registered, note=f"{registered.note} {_COUNTED if counted else _NOT_COUNTED}".strip())


@mlops.command(
    heading="Models",
    examples=["models", "models delays", "models delays:2", "models --tag team=ops", "models delays --metric 'auc>0.7'", "models --text churn"],
)
@click.argument("ref", type=A_MODEL, required=False)
@click.option("--tag", "tags", type=A_TAG, multiple=True, help="Only those with this tag; may be repeated.")
@click.option("--metric", metavar="COMPARISON", help="Only those whose figure compares so, such as 'auc>0.7'.")
@click.option("--text", metavar="TEXT", help="Only those with this text in name, description or tags.")
def models(ref: ModelRef | None, tags: Sequence[tuple[str, str]], metric: str | None, text: str | None) -> ModelVersion | Listing[ModelVersion]:
    """List model versions, or show one.

    The newest come first; a version or alias shows that one with all that is known of it.
    """
    from .. import registry

    if ref and (ref.version or ref.alias):
        return registry.get(ref)
    found = registry.search(ref.name if ref else None, tags=dict(tags), text=text, metric=metric)
    return Listing(found, what="model version", line="register MODEL --name NAME")


@mlops.command(
    heading="Models",
    examples=[
        "convert delays:3",
        "convert delays:3 --quantize int8 --tolerance 0.01",
        "convert delays:3 --opset 17 --optimize extended",
        "convert delays:3 --to fpga --precision 'fixed<16,6>' --precision 'fixed<10,4>' --part xcu250-figd2104-2L-e",
    ],
)
@click.argument("ref", type=A_MODEL)
@click.option("--to", type=click.Choice(["onnx", "fpga"]), default="onnx", help="The form it gets.  [default: onnx]")
@click.option("--quantize", type=click.Choice(["int8"]), help="Hold large weights in 8 bits, where its operators can.")
@click.option("--opset", type=click.IntRange(9, 30), metavar="NUMBER", help="The newest ONNX operator set to use.  [default: 18]")
@click.option(
    "--optimize", type=click.Choice(["none", "basic", "extended", "all"]), default="none", help="Optimise the graph once, for this machine.  [default: none]"
)
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), metavar="X", help="Largest difference and share of labels that may differ.  [default: 0.0001, no label]"
)
@click.option("--precision", "precisions", type=A_PRECISION, multiple=True, help="FPGA: a fixed-point type; several give a trade-off.  [default: fixed<16,6>]")
@click.option("--part", metavar="PART", help="FPGA: the device, package and speed grade.  [default: xcu250-figd2104-2L-e]")
@click.option("--reuse", type=click.IntRange(1, 1024), metavar="COUNT", help="FPGA: multiplications that share one multiplier.  [default: 1]")
@click.option("--synthesise", is_flag=True, help="FPGA: have Vitis HLS report resources and latency, rather than estimate them.")
def convert(
    ref: ModelRef,
    to: str,
    quantize: str | None,
    opset: int | None,
    optimize: str,
    tolerance: float | None,
    precisions: Sequence[Precision],
    part: str | None,
    reuse: int | None,
    synthesise: bool,
) -> Converted | ConvertedToFpga:
    """Give a version an ONNX form, if it answers the same, or an FPGA form.

    ONNX: answers are compared on its data set's rows and beside its trees' thresholds; both forms are timed, and the faster one serves it.
    FPGA: an HLS project for each precision is kept, its emulation in C++ compared on the data set; `deploy --to fpga` runs the emulation.
    """
    _check_form(to, onnx={"quantize": quantize, "opset": opset, "optimize": optimize != "none", "tolerance": tolerance is not None},
                fpga={"precision": precisions, "part": part, "reuse": reuse, "synthesise": synthesise})  # fmt: skip
    if to == "fpga":
        return _to_fpga(ref, precisions=precisions, part=part or DEFAULT_PART, reuse=reuse or 1, synthesise=synthesise)
    from .. import converting

    options = converting.Options(quantize=quantize, opset=opset, optimize=optimize, tolerance=tolerance)
    with face().reporting(f"converting {ref}") as report:
        converted = converting.convert(ref, options=options, report=report)
        report.step(f"{converted.version.ref} has an ONNX form that answers the same")
    return converted


def _to_fpga(ref: ModelRef, **options: Any) -> ConvertedToFpga:
    from .. import hls

    with face().reporting(f"converting {ref}") as report:
        converted = hls.convert(ref, **options, report=report)
        report.step(f"{converted.version.ref} has {len(hls.form_of(converted.version)['points'])} FPGA forms")
    return converted


def _check_form(to: str, **options: dict[str, Any]) -> None:
    """Raises UsageError for an option that belongs to the other form."""
    for form, given in options.items():
        if form != to and (name := next((name for name, value in given.items() if value), None)):
            raise UsageError(f"--{name} is for --to {form}.", hint=f"leave it out, or --to {form}")


@mlops.command(heading="Models", examples=["alias delays:2 champion", "alias delays@champion champion --remove"])
@click.argument("ref", type=A_MODEL)
@click.argument("name", type=AN_ALIAS)
@click.option("--remove", is_flag=True, help="Let the alias name nothing.")
def alias(ref: ModelRef, name: str, remove: bool) -> ModelVersion:
    """Give a version an alias such as champion.

    It is taken from any other version of the model.
    """
    from .. import registry

    return registry.drop_alias(ref, name) if remove else registry.set_alias(ref, name)


@mlops.command(heading="Models", examples=["tag delays:2 team=ops stage=trial", "tag delays:2 stage="])
@click.argument("ref", type=A_MODEL)
@click.argument("tags", type=A_TAG, nargs=-1, required=True)
def tag(ref: ModelRef, tags: Sequence[tuple[str, str]]) -> ModelVersion:
    """Set or remove tags of a version.

    A tag without a value is removed.
    """
    from .. import registry

    return registry.tag(ref, {key: value or None for key, value in tags})


@mlops.command(heading="Models", examples=["delete delays:1 --yes", "$delete delays:1"])
@click.argument("ref", type=A_MODEL)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(ref: ModelRef, yes: bool) -> Facts:
    """Delete a model version and the files that only it needs."""
    from .. import registry

    version, freed = registry.get(ref), registry.deletable_bytes(ref)
    if not yes and not face().agrees(f"Delete {version.ref} and {size(freed)} of files?"):
        raise UsageError(f"{version.ref} was kept.", hint=f"%mlops delete {version.ref} --yes")
    return Facts({"deleted": version.ref, "freed_bytes": registry.delete(ModelRef(version.model, version=version.version))})


@mlops.command(heading="Models", examples=["download delays:2 delays-2", "download delays@champion out/"])
@click.argument("ref", type=A_MODEL)
@click.argument("folder", type=click.Path(file_okay=False))
def download(ref: ModelRef, folder: str) -> Facts:
    """Copy all files of a model version into a new folder."""
    from .. import registry

    return Facts({"model": registry.get(ref).ref, "folder": str(registry.download(ref, folder))})
