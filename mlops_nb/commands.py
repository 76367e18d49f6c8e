"""Every command, once: the `%mlops` magic, the `mlops` command line, their help and their completion all come from here.

A command parses its words, calls one verb below and returns what that made; showing it belongs to the face it was said to.
The layers below are imported inside the commands, so that help and completion answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import BadOption, LineageRootNotFound, UsageError, even_split
from .grammar import (
    A_DATASET,
    A_DATASET_NAME,
    A_DATASET_OR_FRAME,
    A_DEPLOYMENT,
    A_DEPLOYMENT_NAME,
    A_DRIFT_ENGINE,
    A_METRIC,
    A_MODEL,
    A_MODEL_NAME,
    A_MODEL_OBJECT,
    A_MODEL_OR_DEPLOYMENT,
    A_MODEL_OR_SCRIPT,
    A_MOMENT,
    A_NUMBER,
    A_PROMISE,
    A_SCRIPT_NAME,
    A_SUBJECT,
    A_TAG,
    A_TARGET,
    A_VARIABLE,
    A_WEIGHT,
    AN_ALIAS,
    AN_ENDPOINT,
    AN_ENVIRONMENT,
    CORES,
    DATA,
    HARDWARE,
    MEMORY,
    PERCENT,
    SEVERAL_BATCHES,
    SEVERAL_CORES,
    SEVERAL_HARDWARES,
    Face,
    Group,
    HelpWanted,
    Text,
    dataset_names,
    face,
)
from .grammar import run as _run
from .reference import DeploymentRef, ModelRef
from .shapes import Dashboard, Facts, Key, Lines, Listing
from .version import __version__

if TYPE_CHECKING:
    from datetime import datetime

    from .client import Answer
    from .converting import Converted
    from .hardware import Hardware
    from .history import Change, Serving
    from .lineage import Lineage
    from .registry import Registered
    from .rollout import Deployed, EndpointView, WorkspaceStatus
    from .store.checks import DriftCheck, Profile
    from .store.datasets import DatasetVersion
    from .store.environments import Environment
    from .store.models import ModelVersion


def run(words: Sequence[str], where: Face) -> Any:
    """Carry out one line, already split into words; see `grammar.run`."""
    return _run(mlops, words, where)


def _show_version(context: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        raise HelpWanted(__version__)


@click.group(
    cls=Group,
    context_settings={"max_content_width": 100},
    params=[click.Option(["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version.")],
)
def mlops() -> None:
    """Register, deploy, split, watch and explain models on this machine.

    Each command has examples in its own help, such as: mlops deploy --help
    """


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@mlops.group(heading="Data")
def dataset() -> None:
    """Register data sets."""


@dataset.command(
    "register",
    examples=["%dataset register flights_q1 df --description 'flights of January to March'", "dataset register flights_q1 flights.csv --tag source=bts"],
)
@click.argument("name", type=A_DATASET_NAME)
@click.argument("data", type=DATA)
@click.option("--description", default="", metavar="TEXT", help="What these rows are.")
@click.option("--tag", "tags", type=A_TAG, multiple=True, help="A tag; may be repeated.")
def register_dataset(name: str, data: str, description: str, tags: Sequence[tuple[str, str]]) -> DatasetVersion:
    """Keep data as the next version of a data set.

    DATA is a DataFrame (or an expression that gives one) in a notebook, or the path of a CSV, Parquet or JSON file.
    """
    from . import datasets

    meant = face().meaning(data)
    with face().reporting(f"registering {name}") as report:
        report.step("copying, hashing and profiling the rows")
        version = datasets.register(name, meant, description=description, tags=dict(tags))
        report.step(f"{version.ref} holds {version.rows:,} rows")
    return version


@mlops.command("datasets", heading="Data", examples=["datasets", "datasets flights_q1"])
@click.argument("ref", type=A_DATASET, required=False)
def list_datasets(ref: ModelRef | None) -> DatasetVersion | Listing[DatasetVersion]:
    """List the data sets, or show one."""
    from . import datasets

    if ref:
        return datasets.get(ref)
    return Listing(datasets.every(), what="data set", line="dataset register NAME DATA")


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    from . import registry

    meant = face().meaning(model)
    trained_on = face().meaning(data, known=dataset_names) if data else None
    shown = face().meaning(sample) if sample else None if isinstance(trained_on, str) else trained_on
    with face().reporting(f"registering {name}") as report:
        registered = registry.register(
            meant, name=name, data=trained_on if isinstance(trained_on, str) else None,
            sample=_table(shown) if isinstance(shown, Path) else shown, target=target,
            metrics=dict(metrics), tags=dict(tags), description=description, entry=entry, code=code, alias=alias, trust=trust, convert=convert, report=report,
        )  # fmt: skip
        report.step(f"registered {registered.version.ref}")
    return registered


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
    from . import registry

    if ref and (ref.version or ref.alias):
        return registry.get(ref)
    found = registry.search(ref.name if ref else None, tags=dict(tags), text=text, metric=metric)
    return Listing(found, what="model version", line="register MODEL --name NAME")


@mlops.command(
    heading="Models", examples=["convert delays:3", "convert delays:3 --quantize int8 --tolerance 0.01", "convert delays:3 --opset 17 --optimize extended"]
)
@click.argument("ref", type=A_MODEL)
@click.option("--to", type=click.Choice(["onnx"]), default="onnx", help="The form it gets.  [default: onnx]")
@click.option("--quantize", type=click.Choice(["int8"]), help="Hold large weights in 8 bits, where its operators can.")
@click.option("--opset", type=click.IntRange(9, 30), metavar="NUMBER", help="The newest ONNX operator set to use.  [default: 18]")
@click.option(
    "--optimize", type=click.Choice(["none", "basic", "extended", "all"]), default="none", help="Optimise the graph once, for this machine.  [default: none]"
)
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), metavar="X", help="Largest difference and share of labels that may differ.  [default: 0.0001, no label]"
)
def convert(ref: ModelRef, to: str, quantize: str | None, opset: int | None, optimize: str, tolerance: float | None) -> Converted:
    """Give a version an ONNX form, if it answers the same.

    Answers are compared on its data set's rows and beside its trees' thresholds; both forms are timed, and the faster one serves it.
    """
    from . import converting

    options = converting.Options(quantize=quantize, opset=opset, optimize=optimize, tolerance=tolerance)
    with face().reporting(f"converting {ref}") as report:
        converted = converting.convert(ref, options=options, report=report)
        report.step(f"{converted.version.ref} has an ONNX form that answers the same")
    return converted


@mlops.command(heading="Models", examples=["alias delays:2 champion", "alias delays@champion champion --remove"])
@click.argument("ref", type=A_MODEL)
@click.argument("name", type=AN_ALIAS)
@click.option("--remove", is_flag=True, help="Let the alias name nothing.")
def alias(ref: ModelRef, name: str, remove: bool) -> ModelVersion:
    """Give a version an alias such as champion.

    It is taken from any other version of the model.
    """
    from . import registry

    return registry.drop_alias(ref.name, name) if remove else registry.set_alias(ref, name)


@mlops.command(heading="Models", examples=["tag delays:2 team=ops stage=trial", "tag delays:2 stage="])
@click.argument("ref", type=A_MODEL)
@click.argument("tags", type=A_TAG, nargs=-1, required=True)
def tag(ref: ModelRef, tags: Sequence[tuple[str, str]]) -> ModelVersion:
    """Set or remove tags of a version.

    A tag without a value is removed.
    """
    from . import registry

    return registry.tag(ref, {key: value or None for key, value in tags})


@mlops.command(heading="Models", examples=["delete delays:1 --yes", "$delete delays:1"])
@click.argument("ref", type=A_MODEL)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(ref: ModelRef, yes: bool) -> Facts:
    """Delete a model version and the files that only it needs."""
    from . import registry

    version, freed = registry.get(ref), registry.deletable_bytes(ref)
    if not yes and not face().agrees(f"Delete {version.ref} and {freed / 1e6:,.1f} MB of files?"):
        raise UsageError(f"{version.ref} was kept.", hint=f"%mlops delete {version.ref} --yes")
    return Facts({"deleted": version.ref, "freed_bytes": registry.delete(ModelRef(version.model, version=version.version))})


@mlops.command(heading="Models", examples=["download delays:2 delays-2", "download delays@champion out/"])
@click.argument("ref", type=A_MODEL)
@click.argument("folder", type=click.Path(file_okay=False))
def download(ref: ModelRef, folder: str) -> Facts:
    """Copy all files of a model version into a new folder."""
    from . import registry

    return Facts({"model": registry.get(ref).ref, "folder": str(registry.download(ref, folder))})


# ── serving ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@mlops.command(
    heading="Serving",
    examples=[
        "deploy delays:1 --endpoint delays",
        "deploy delays:2 --endpoint delays --traffic 10",
        "deploy delays:1 --isolated",
        "deploy delays@champion --cpus 2 --memory 512m --env OMP_NUM_THREADS=2",
        "%deploy --form",
    ],
)
@click.argument("ref", type=A_MODEL, required=False)
@click.option("--endpoint", type=AN_ENDPOINT, help="Where callers find it.  [default: the model's name]")
@click.option("--to", type=A_TARGET, default="local", help="Where it runs.  [default: local]")
@click.option("--traffic", type=PERCENT, help="Its percentage of the endpoint's requests.  [default: all if it is the first, else none]")
@click.option("--as", "name", type=A_DEPLOYMENT_NAME, help="The deployment's name.  [default: the version's number]")
@click.option("--cpus", type=CORES, help="Cores it may use.  [default: all]")
@click.option("--memory", "memory_mb", type=MEMORY, help="Memory it may take, such as 512m or 2g.  [default: no limit]")
@click.option("--hardware", type=HARDWARE, default="cpu", help="What it runs on.  [default: cpu]")
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="A fixed port on 127.0.0.1.  [default: a free one]")
@click.option("--env", "variables", type=A_VARIABLE, multiple=True, help="An environment variable, not a secret; may be repeated.")
@click.option("--allow-mismatch", is_flag=True, help="Run although packages differ from those it was made with.")
@click.option("--isolated", is_flag=True, help="Run in an environment of its own, with exactly the packages it was made with.")
@click.option("--environment", type=AN_ENVIRONMENT, help="Run in an environment of its own with these packages instead.")
@click.option("--wait/--no-wait", default=True, help="Return once it is healthy, or at once.  [default: wait]")
@click.option("--form", is_flag=True, help="Fill in a form instead; in a notebook.")
def deploy(
    ref: ModelRef | None,
    endpoint: str | None,
    to: str,
    traffic: int | None,
    name: str | None,
    cpus: float | None,
    memory_mb: int | None,
    hardware: str,
    port: int | None,
    variables: Sequence[tuple[str, str]],
    allow_mismatch: bool,
    isolated: bool,
    environment: ModelRef | None,
    wait: bool,
    form: bool,
) -> Deployed | Any:
    """Run a model version behind an endpoint.

    The first deployment of an endpoint takes all its requests, a later one none unless --traffic says so.
    """
    if form:
        return face().form(given())
    if not ref:
        raise UsageError("deploy needs a model version.", hint="%mlops deploy churn:3, or %mlops deploy --form")
    from . import rollout
    from .store.deployments import DeploymentSpec

    spec = DeploymentSpec(
        cpus=cpus, memory_mb=memory_mb, hardware=hardware, port=port, variables=dict(variables), allow_mismatch=allow_mismatch,
        isolated=isolated or environment is not None, environment=str(environment) if environment else None,
    )  # fmt: skip
    with face().reporting(f"deploying {ref}") as report:
        deployed = rollout.deploy(ref, endpoint=endpoint, to=to, traffic=traffic, name=name, spec=spec, wait=wait, report=report)
        report.step(f"{deployed.deployment} is {deployed.status} at {deployed.url}")
    return deployed


def given() -> dict[str, Any]:
    """The words of the command being carried out that were said, by parameter name."""
    context = click.get_current_context()
    return {name: value for name, value in context.params.items() if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}


@mlops.command(
    heading="Serving",
    examples=["entry --file s.py --sample '{\"data\": [[1, 2]]}' --model model.pkl", "%entry --file s.py --data X.head() --model delays:3"],
)
@click.option("--name", type=A_SCRIPT_NAME, help="The script's name: NAME.py in this folder.")
@click.option("--file", type=click.Path(dir_okay=False), help="Its file, instead.")
@click.option("--sample", metavar="JSON", help="A request's body to try it with.")
@click.option("--data", type=DATA, help='Rows to try it with instead, sent as {"data": rows}: an expression in a notebook, or a file.')
@click.option("--model", metavar="PATH|MODEL", help="What AZUREML_MODEL_DIR leads to: a file, a folder, or a registered version.")
def entry(name: str | None, file: str | None, sample: str | None, data: str | None, model: str | None) -> Facts:
    """Write an entry script from a cell, and try it.

    In a notebook, `%%mlops entry --name s` above the script writes s.py, and tries init() and run() in a fresh process.  Without a cell, an
    existing file is tried.  Then it is registered: register MODEL --name NAME --entry s.py
    """
    from . import rehearsing

    if not (name or file):
        raise UsageError("entry needs the script's name.", hint="%mlops entry --file s.py, or %%mlops entry --name s above the script")
    script = Path(file or f"{name}.py")
    cell = face().cell
    if cell is not None:
        rehearsing.write(script, cell)
    with face().reporting(f"trying {script.name}") as report:
        told = rehearsing.rehearse(script, sample=_sample(sample, data), model=_model_files(model), cell=cell is not None, report=report)
        report.step(f"{script.name} answered" if told.run_ms is not None else f"{script.name} is loaded; a --sample would try run()")
    facts = {
        "script": str(script),
        "status": told.status,
        "answer": told.answer,
        "init_ms": round(told.init_ms, 1),
        "run_ms": told.run_ms and round(told.run_ms, 1),
    }
    return Facts(facts if told.run_ms is not None else {"script": str(script), "init_ms": facts["init_ms"]})


@mlops.command(heading="Serving", examples=["debug score.py --model model.pkl --data rows.csv", "debug delays:3 --port 8080"])
@click.argument("subject", metavar="MODEL|SCRIPT", type=A_MODEL_OR_SCRIPT)
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Its port on 127.0.0.1.  [default: a free one]")
@click.option("--sample", metavar="JSON", help="A request's body to ask each time it is loaded.")
@click.option("--data", type=DATA, help="Rows to ask each time it is loaded: an expression in a notebook, or a file.")
@click.option("--model", metavar="PATH|MODEL", help="What a script's AZUREML_MODEL_DIR leads to: a file, a folder, or a registered version.")
def debug(subject: str, port: int | None, sample: str | None, data: str | None, model: str | None) -> Facts:
    """Run a model or an entry script in the foreground, with a debugger.

    A debugger may attach to the address shown; breakpoint() stops there.  What is saved answers at once.  Each exception is shown with its
    line and the request that caused it.  Ctrl-C ends it.
    """
    from . import debugging

    meant = Path(subject) if subject.endswith(".py") else ModelRef.parse(subject)
    asked = _sample(sample, data, raw=isinstance(meant, Path) or _takes_raw(meant))
    code = debugging.debug(meant, say=face().say, model=_model_files(model), port=port, sample=asked)
    if code:
        raise UsageError(f"{subject} was not served.", hint="another --port")
    return Facts({"debugged": subject})


@mlops.command(heading="Serving", examples=["undeploy delays/1", "undeploy delays"])
@click.argument("ref", type=A_DEPLOYMENT)
def undeploy(ref: DeploymentRef) -> Facts:
    """Withdraw a deployment, or all of an endpoint's.

    It finishes what it has, and its share goes to those that have one.
    """
    from . import rollout

    with face().reporting(f"withdrawing {ref}") as report:
        gone = rollout.undeploy(ref)
        report.step(f"withdrew {', '.join(gone) or 'nothing'}")
    left = rollout.endpoints(ref.endpoint)[0].deployments
    idle = bool(left) and not any(d.traffic for d in left)
    advice = {"note": f"nobody takes requests now: traffic {ref.endpoint} {left[0].name}=100"} if idle else {}
    return Facts({"endpoint": ref.endpoint, "withdrawn": gone, **advice})


@mlops.group(default="list", heading="Serving")
def endpoints() -> None:
    """List endpoints, show their keys, delete them."""


@endpoints.command("list", hidden=True, examples=["endpoints", "endpoints delays"])
@click.argument("name", type=AN_ENDPOINT, required=False)
def list_endpoints(name: str | None) -> EndpointView | Listing[EndpointView]:
    """List the endpoints with their deployments, or show one."""
    from . import rollout

    found = rollout.endpoints(name)
    return Listing(found, what="endpoint", line="deploy MODEL:VERSION")


@endpoints.command("key", examples=["endpoints key delays", "endpoints key delays --rotate"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--rotate", is_flag=True, help="Make a new key; the old one stops working.")
def endpoint_key(endpoint: str, rotate: bool) -> Key:
    """Show an endpoint's key, or make a new one.

    Callers send it as the header `Authorization: Bearer KEY`.
    """
    from . import keys, rollout

    rollout.url_of(endpoint)
    return Key(endpoint=endpoint, key=keys.rotate(endpoint) if rotate else keys.key(endpoint))


@endpoints.command("delete", examples=["endpoints delete delays"])
@click.argument("endpoint", type=AN_ENDPOINT)
def delete_endpoint(endpoint: str) -> Facts:
    """Withdraw all of an endpoint's deployments and forget it.

    Its history stays.
    """
    from . import rollout

    with face().reporting(f"deleting {endpoint}") as report:
        gone = rollout.delete_endpoint(endpoint)
        report.step(f"deleted {endpoint}")
    return Facts({"deleted": endpoint, "withdrawn": gone})


@mlops.command(heading="Serving", examples=["traffic delays 1=50 2=50", "traffic delays"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.argument("weights", type=A_WEIGHT, nargs=-1)
@click.option("--why", default="", metavar="TEXT", help="A reason for the record.")
def traffic(endpoint: str, weights: Sequence[tuple[str, float]], why: str) -> EndpointView:
    """Show or set how an endpoint's requests are divided.

    Weights are whole percentages, one for each deployment, and sum to 100.
    """
    from . import rollout

    if not weights:
        return rollout.endpoints(endpoint)[0]
    shares = [(name.removeprefix(f"{endpoint}/"), _percent(share)) for name, share in weights]
    if len(dict(shares)) < len(shares):
        raise UsageError("A deployment is named twice.", hint=even_split(endpoint, list(dict(shares))))
    return rollout.split(endpoint, dict(shares), why=why)


@mlops.command(heading="Serving", examples=["%invoke delays --data X.head()", "invoke delays --data rows.csv --deployment 2", "$invoke delays --data -"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--data", type=DATA, required=True, help="An expression in a notebook, a CSV, Parquet or JSON file, or - for JSON from standard input.")
@click.option("--deployment", type=A_DEPLOYMENT_NAME, help="Ask this one, whatever the split.")
def invoke(endpoint: str, data: str, deployment: str | None) -> Answer:
    """Send rows to an endpoint and show the answers."""
    from . import rollout

    sent = _rows(face().input() if data == "-" else face().meaning(data), endpoint)
    return rollout.invoke(endpoint, sent, deployment=deployment and deployment.removeprefix(f"{endpoint}/"))


@mlops.command(heading="Serving", examples=["logs delays/2", "logs delays/2 --lines 500", "logs delays --follow"])
@click.argument("ref", type=A_DEPLOYMENT)
@click.option("--lines", type=click.IntRange(min=1), metavar="COUNT", default=100, help="How many of the last lines.  [default: 100]")
@click.option("--follow", is_flag=True, help="Go on showing new lines until interrupted.")
def logs(ref: DeploymentRef, lines: int, follow: bool) -> Lines:
    """Show the last lines of a deployment's log."""
    from . import rollout

    return _follow(ref, lines) if follow else Lines(rollout.logs(ref, lines=lines))


@mlops.command(
    heading="Serving",
    examples=[
        "profile delays/1",
        "profile delays:3 --slo p95=20ms --rps 200",
        "profile delays:3 --hardware cpu,openvino,cuda --cpus 1,2 --batch 1,32,256 --price 0.05",
        "profile delays:3 --resume",
    ],
)
@click.argument("ref", type=A_MODEL_OR_DEPLOYMENT)
@click.option("--hardware", type=SEVERAL_HARDWARES, help="What a version is measured on.  [default: cpu]")
@click.option("--cpus", type=SEVERAL_CORES, help="Numbers of cores a version is measured with.  [default: 1,2]")
@click.option("--batch", "batches", type=SEVERAL_BATCHES, help="Rows in each request.  [default: 1,32,256]")
@click.option("--slo", "objective", type=A_PROMISE, help="The latency callers are promised, such as p95=20ms or p99=0.2s.  [default: p95=50ms]")
@click.option("--rps", type=A_NUMBER, help="Requests a second in all, each of the smallest batch: how many instances they take.")
@click.option("--price", type=A_NUMBER, help="Price of one core for an hour: what a million predictions cost.")
@click.option("--seconds", type=A_NUMBER, help="How long it may take, about.  [default: 75 for a version, 7 for a deployment]")
@click.option("--resume", is_flag=True, help="Go on with one that was interrupted: what was measured is not measured again.")
def profile(
    ref: str,
    hardware: list[str] | None,
    cpus: list[float] | None,
    batches: list[int] | None,
    objective: Any,
    rps: float | None,
    price: float | None,
    seconds: float | None,
    resume: bool,
) -> Profile:
    """Measure latency, throughput, CPU and memory, and advise what to deploy with.

    A model version is measured on servers of its own, away from all traffic; a deployment as it runs.  Ctrl-C keeps what was measured.
    """
    from . import profiling

    with face().reporting(f"profiling {ref}") as report:
        measured = profiling.profile(
            ref, hardware=hardware or (), cpus=cpus or (), batches=batches or profiling.BATCHES, objective=objective or profiling.Objective(), rps=rps,
            price=price, seconds=seconds, resume=resume, report=report,
        )  # fmt: skip
        report.step(f"measured {len(measured.points)} settings")
    return measured


@mlops.command("hardware", heading="Serving", examples=["hardware"])
def list_hardware() -> Listing[Hardware]:
    """List what models can run on here, and why not on the rest."""
    from . import hardware

    return Listing(hardware.found(), what="execution provider")


# ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@mlops.command(heading="Watching", examples=["drift delays", "drift delays --since 7d", "drift delays --deployment 2 --engine scipy"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--engine", type=A_DRIFT_ENGINE, help="What does the statistics.  [default: drift_engine of the settings]")
@click.option("--since", type=A_MOMENT, help="Only requests after this, such as 2h, 7d or 2026-01-31.  [default: all that are kept]")
@click.option("--deployment", type=A_DEPLOYMENT_NAME, help="Only requests this one answered.")
def drift(endpoint: str, engine: str | None, since: datetime | None, deployment: str | None) -> DriftCheck:
    """Compare what an endpoint was asked with the data its model was trained on."""
    from . import monitoring

    with face().reporting(f"checking {endpoint} for drift") as report:
        check = monitoring.check_drift(endpoint, deployment=deployment, since=since, engine=engine, report=report)
        report.step("drift" if check.is_drift else "no drift")
    return check


@mlops.group(default="list", heading="Watching")
def engines() -> None:
    """List the drift engines, or install one."""


@engines.command("list", hidden=True, examples=["engines"])
def list_engines() -> Listing[Any]:
    """List the drift engines, their licences and whether they are ready."""
    from .monitoring import engines as drift_engines

    return Listing(drift_engines.every(), what="drift engine")


@engines.command("install", examples=["engines install alibi-detect --accept-licence"])
@click.argument("name", type=A_DRIFT_ENGINE)
@click.option("--accept-licence", is_flag=True, help="You have read its licence and agree.")
def install_engine(name: str, accept_licence: bool) -> Any:
    """Install a drift engine in an environment of its own."""
    from .monitoring import engines as drift_engines

    with face().reporting(f"installing {name}") as report:
        return drift_engines.install(name, accept_licence=accept_licence, report=report)


@mlops.command(heading="Watching", examples=["lineage delays:2", "lineage delays", "lineage"])
@click.argument("ref", type=A_SUBJECT, required=False)
def lineage(ref: str | None) -> Lineage:
    """Show what something came from, and what came of it.

    SUBJECT is a model version, a data set, a deployment or an endpoint.
    """
    from . import lineage as origins

    return origins.graph(ref)


@mlops.command(heading="Watching", examples=["history delays", "history delays --at 2026-01-31", "history delays --at 2h"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--at", type=A_MOMENT, help="What served at that moment, such as 2h (ago) or 2026-01-31T08:00.  [default: every change]")
@click.option("--most", type=click.IntRange(min=1), metavar="COUNT", default=50, help="How many changes.  [default: 50]")
def history(endpoint: str, at: datetime | None, most: int) -> Serving | Listing[Change]:
    """Show what served an endpoint and when that changed, by whose hand and why."""
    from . import history as past

    if at:
        return past.at(endpoint, at)
    return Listing(past.of(endpoint, most=most), what="change")


@mlops.command(heading="Watching", examples=["events", "events delays", "events delays:2 --most 5"])
@click.argument("subject", type=A_SUBJECT, required=False)
@click.option("--most", type=click.IntRange(min=1), metavar="COUNT", default=50, help="How many.  [default: 50]")
def events(subject: str | None, most: int) -> Listing[Any]:
    """List what happened, newest first.

    SUBJECT is a model, a version, a deployment or an endpoint.
    """
    from . import store
    from .store import events as table

    with store.reading() as tx:
        found = table.latest(tx, subject=subject, most=most)
        if subject and not found:
            raise LineageRootNotFound(subject, known=table.subjects(tx))
    return Listing(found, what="event")


@mlops.command(heading="Watching", examples=["environments", "environments py311-3f2a:1 --pip", "environments py311-3f2a --conda"])
@click.argument("ref", type=AN_ENVIRONMENT, required=False)
@click.option("--pip", is_flag=True, help="As a requirements file.")
@click.option("--conda", is_flag=True, help="As a conda environment file.")
def environments(ref: ModelRef | None, pip: bool, conda: bool) -> Text | Environment | Listing[Environment]:
    """List the recorded environments, or show one."""
    from . import store
    from .store import environments as table

    if (pip or conda) and (not ref or (pip and conda)):
        raise UsageError("--pip and --conda show one environment in one form.", hint="%mlops environments NAME --pip")
    with store.reading() as tx:
        if not ref:
            return Listing(table.every(tx), what="environment", line="register MODEL --name NAME")
        found = table.get(tx, ref)
    if not pip and not conda:
        return found
    from . import environments as recorded

    return Text(recorded.conda(found) if conda else recorded.requirements(found))


# ── the workspace ────────────────────────────────────────────────────────────────────────────────────────────────────


@mlops.command(heading="The workspace", examples=["dashboard", "dashboard --port 8600 --open", "dashboard --stop"])
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="A port on 127.0.0.1.  [default: the one it had, or a free one]")
@click.option("--open", "open_browser", is_flag=True, help="Open it in a browser.")
@click.option("--stop", is_flag=True, help="Stop it.")
def dashboard(port: int | None, open_browser: bool, stop: bool) -> Dashboard | Facts:
    """Start the dashboard, or stop it, and say where it is."""
    from . import dashboards

    if stop:
        return Facts({"stopped": dashboards.stop()})
    with face().reporting("starting the dashboard") as report:
        url = dashboards.start(port=port, open_browser=open_browser)
        report.step(f"the dashboard is at {url}")
    return Dashboard(url=url)


@mlops.command(heading="The workspace", examples=["status"])
def status() -> WorkspaceStatus:
    """Show what the workspace holds and runs."""
    from . import rollout

    return rollout.status()


@mlops.command(heading="The workspace", examples=["up"])
def up() -> WorkspaceStatus:
    """Start everything that should run.

    Such as after a restart of the machine, or after `mlops down`.
    """
    from . import rollout

    with face().reporting("starting what should run") as report:
        now = rollout.up()
        report.step("started")
    return now


@mlops.command(heading="The workspace", examples=["down"])
def down() -> WorkspaceStatus:
    """Stop everything this workspace started.

    Servers, gateway, agent and dashboard; `mlops up` brings back what should run.
    """
    from . import rollout

    with face().reporting("stopping everything") as report:
        now = rollout.down()
        report.step("stopped")
    return now


@mlops.command(heading="The workspace", examples=["clean"])
def clean() -> Facts:
    """Delete kept files that nothing needs any more."""
    from . import artifacts, store
    from .store import models as table

    with store.writing() as tx:  # under the lock nobody can start to need one of them
        return Facts({"freed_bytes": artifacts.forget(artifacts.settled() - table.files_in_use(tx))})


# ── reading words ────────────────────────────────────────────────────────────────────────────────────────────────────


def _sample(sample: str | None, data: str | None, *, raw: bool = True) -> bytes | None:
    """A request's body: written out, or rows as an endpoint is sent them."""
    from . import client

    if sample is not None or data is None:
        return None if sample is None else sample.encode()
    meant = face().meaning(data)
    if isinstance(meant, Path):
        meant = meant.read_text(encoding="utf-8") if meant.suffix.lower() == ".json" else _table(meant)
    return client.body(meant, takes_raw=raw)


def _model_files(model: str | None) -> Path | ModelRef | None:
    """What `--model` names: a path when there is one, else a registered version."""
    return None if model is None else Path(model) if Path(model).expanduser().exists() else ModelRef.parse(model)


def _takes_raw(ref: ModelRef) -> bool:
    from . import registry

    return registry.get(ref).engine == "script"


def _rows(data: Any, endpoint: str) -> Any:
    """What goes to an endpoint: live data as it is, a file's or a text's content."""
    if isinstance(data, Path) and data.suffix.lower() != ".json":
        return _table(data, text=_text_columns(endpoint))
    if isinstance(data, Path | str):
        return _json_rows(data.read_text(encoding="utf-8") if isinstance(data, Path) else data)
    return data


def _json_rows(text: str) -> Any:
    import msgspec

    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadOption(f"The data is not JSON: {error}", hint='[{"column": 1}] or {"column": [1, 2]}') from None
    already_a_request = isinstance(data, dict) and bool({"inputs", "data", "input_data"} & set(data))
    return text.encode() if already_a_request else [data] if _is_record(data) else data


def _is_record(data: Any) -> bool:
    return isinstance(data, dict) and not any(isinstance(value, list) for value in data.values())


def _table(file: Path, *, text: Sequence[str] = ()) -> Any:
    from . import datasets

    return datasets.read(file, text=text)


def _text_columns(endpoint: str) -> list[str]:
    """The columns that the endpoint's models take as text, whatever a CSV file makes them look like."""
    from . import store
    from .store import deployments as table
    from .store import models as model_table

    with store.reading() as tx:
        versions = [model_table.get(tx, ModelRef(d.model, version=d.version)) for d in table.of(tx, endpoint)]
    return [column["name"] for version in versions for column in (version.signature or {}).get("inputs", []) if column["type"] == "string"]


def _percent(share: float) -> int:
    if share != int(share):
        raise BadOption(f"{share} is not a whole percentage.", hint="%mlops traffic churn 1=90 2=10")
    return int(share)


def _follow(ref: DeploymentRef, lines: int) -> Lines:
    """Say the log's last lines, then those that come; Ctrl-C ends it."""
    import time

    from . import rollout

    window = max(lines, 500)
    before = rollout.logs(ref, lines=window)
    for line in before[-lines:]:
        face().say(line)
    while True:
        time.sleep(0.3)
        latest = rollout.logs(ref, lines=window)
        for line in new_lines(before, latest):
            face().say(line)
        before = latest


def new_lines(before: Sequence[str], latest: Sequence[str]) -> Sequence[str]:
    """What came since: both are the last lines of one growing log, seen through a window of one size."""
    kept = next((count for count in range(min(len(before), len(latest)), 0, -1) if before[-count:] == latest[:count]), 0)
    return latest[kept:]
