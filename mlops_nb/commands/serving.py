"""Commands that deploy, ask, divide traffic and measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..errors import UsageError, listed
from ..grammar import face
from ..reference import DeploymentRef, ModelRef
from ..shapes import Facts, Key, Lines, Listing
from ..vocabulary import (
    A_DEPLOYMENT,
    A_DEPLOYMENT_NAME,
    A_MODEL,
    A_MODEL_OR_DEPLOYMENT,
    A_MODEL_OR_SCRIPT,
    A_NUMBER,
    A_PRECISION,
    A_PROMISE,
    A_SCRIPT_NAME,
    A_TARGET,
    A_VARIABLE,
    AN_ENDPOINT,
    AN_ENVIRONMENT,
    CORES,
    DATA,
    GPUS,
    HARDWARE,
    MEMORY,
    PERCENT,
    SEVERAL_BATCHES,
    SEVERAL_CORES,
    SEVERAL_HARDWARES,
)
from .edge import on_a_device
from .group import mlops
from .kubernetes import A_CONTEXT, placing, said
from .words import follow_logs, model_files, refusals, request_body, rows_to_send, takes_raw

if TYPE_CHECKING:
    from ..client import Answer
    from ..fpga import Precision
    from ..hardware import Hardware
    from ..rollout import Deployed, EndpointView
    from ..store.checks import Profile


@mlops.command(
    heading="Serving",
    examples=[
        "deploy delays:1 --endpoint delays",
        "deploy delays:2 --endpoint delays --traffic 10",
        "deploy delays:1 --isolated",
        "deploy delays@champion --cpus 2 --memory 512m --env OMP_NUM_THREADS=2",
        "deploy delays:3 --to docker --cpus 1 --memory 512m",
        "deploy delays:3 --to kubernetes --image registry.example.org/delays:3 --gateway edge/public --replicas 2",
        "deploy delays:3 --to kubernetes --style kserve --image registry.example.org/delays:3 --gateway edge/public --max-replicas 4",
        "deploy delays:3 --to edge --device gate-1 --run process",
        "deploy delays:3 --to edge --device gate-2 --run container",
        "deploy delays:3 --to fpga --precision 'fixed<16,6>'",
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
@click.option("--gpus", type=GPUS, help="GPUs it is given, in its process, container or pod: how many, or all.  [default: none]")
@click.option("--gpu-memory", type=MEMORY, help="What ONNX Runtime may take of a GPU's memory, such as 4g.  [default: what it needs]")
@click.option("--precision", type=A_PRECISION, help="FPGA: which of its FPGA forms is emulated.  [default: the narrowest that agrees]")
@click.option("--overlay", metavar="FILE", help="FPGA: a bitstream for this board, built of its project.  [default: emulation]")
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="A fixed port on 127.0.0.1.  [default: a free one]")
@click.option("--env", "variables", type=A_VARIABLE, multiple=True, help="An environment variable, not a secret; may be repeated.")
@click.option("--allow-mismatch", is_flag=True, help="Run although packages differ from those it was made with.")
@click.option("--isolated", is_flag=True, help="Run in an environment of its own, with exactly the packages it was made with.")
@click.option("--environment", type=AN_ENVIRONMENT, help="Run in an environment of its own with these packages instead.")
@click.option("--image", metavar="REFERENCE", help="The image it runs, where it runs in a container.  [default: built from the version, where the target can]")
@click.option("--base", metavar="IMAGE", help="Docker, or --run container: the image that its own is built upon.  [default: the official one of its Python]")
@click.option("--context", type=A_CONTEXT, help="Which of the kubeconfig's clusters.  [default: its current one]")
@click.option("--style", type=click.Choice(["plain", "kserve"]), help="On a cluster: a Deployment, or a KServe InferenceService.  [default: plain]")
@placing
@on_a_device
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
    gpus: str | None,
    precision: Precision | None,
    port: int | None,
    variables: Sequence[tuple[str, str]],
    allow_mismatch: bool,
    isolated: bool,
    environment: ModelRef | None,
    wait: bool,
    form: bool,
    **placed: Any,
) -> Deployed | Any:
    """Run a model version behind an endpoint.

    The first deployment of an endpoint takes all its requests, a later one none unless --traffic says so.
    """
    if form:
        return face().form(given())
    if not ref:
        raise UsageError("deploy needs a model version.", hint="%mlops deploy churn:3, or %mlops deploy --form")
    from .. import rollout
    from ..store.deployments import DeploymentSpec

    spec = DeploymentSpec(
        cpus=cpus, memory_mb=memory_mb, hardware=hardware, gpus=gpus, port=port, variables=dict(variables), allow_mismatch=allow_mismatch,
        isolated=isolated or environment is not None, environment=str(environment) if environment else None,
        options={"precision": str(precision)} if precision else {},
    )  # fmt: skip
    spec = msgspec.structs.replace(spec, options={**spec.options, **said(placed)})
    with face().reporting(f"deploying {ref}") as report:
        deployed = rollout.deploy(ref, endpoint=endpoint, to=to, traffic=traffic, name=name or placed.get("device"), spec=spec, wait=wait, report=report)
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
    from .. import drafting

    if not (name or file):
        raise UsageError("entry needs the script's name.", hint="%mlops entry --file s.py, or %%mlops entry --name s above the script")
    script = Path(file or f"{name}.py")
    cell = face().cell
    if cell is not None:
        drafting.write(script, cell)
    with face().reporting(f"trying {script.name}") as report:
        told = drafting.try_out(script, sample=request_body(sample, data), model=model_files(model), cell=cell is not None, report=report)
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
    from .. import debugging

    meant = Path(subject) if subject.endswith(".py") else ModelRef.parse(subject)
    asked = request_body(sample, data, raw=isinstance(meant, Path) or takes_raw(meant))
    code = debugging.debug(meant, say=face().say, model=model_files(model), port=port, sample=asked)
    if code:
        raise UsageError(f"{subject} was not served.", hint="another --port")
    return Facts({"debugged": subject})


@mlops.command(heading="Serving", examples=["undeploy delays/1", "undeploy delays"])
@click.argument("ref", type=A_DEPLOYMENT)
def undeploy(ref: DeploymentRef) -> Facts:
    """Withdraw a deployment, or all of an endpoint's.

    It finishes what it has, and its share goes to those that have one, in their proportions.  What a canary under way is compared with is not
    withdrawn alone.
    """
    from .. import rollout

    before = _shares(ref.endpoint)
    with face().reporting(f"withdrawing {ref}") as report:
        gone = rollout.undeploy(ref)
        report.step(f"withdrew {', '.join(gone) or 'nothing'}")
    left = _shares(ref.endpoint)
    idle = bool(left) and not any(left.values())
    advice = {"note": f"nobody takes requests now: traffic {ref.endpoint} {next(iter(left))}=100"} if idle else {}
    moved = {"traffic": left, "traffic_before": before} if left and any(left[name] != before.get(name) for name in left) else {}
    return Facts({"endpoint": ref.endpoint, "withdrawn": gone, **moved, **advice})


def _shares(endpoint: str) -> dict[str, int]:
    """Deployment → percent of the requests.  Raises EndpointNotFound."""
    from .. import rollout

    return {d.name: d.traffic for d in rollout.endpoints(endpoint)[0].deployments}


@mlops.group(default="list", heading="Serving")
def endpoints() -> None:
    """List endpoints, show their keys, delete them."""


@endpoints.command("list", hidden=True, examples=["endpoints", "endpoints delays"])
@click.argument("name", type=AN_ENDPOINT, required=False)
def list_endpoints(name: str | None) -> EndpointView | Listing[EndpointView]:
    """List the endpoints with their deployments, or show one and what its deployments have to carry now."""
    from .. import rollout

    found = [rollout.endpoint_with_loads(name)] if name else rollout.endpoints()
    return Listing(found, what="endpoint", line="deploy MODEL:VERSION")


@endpoints.command("key", examples=["endpoints key delays", "endpoints key delays --rotate"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--rotate", is_flag=True, help="Make a new key; the old one stops working.")
def endpoint_key(endpoint: str, rotate: bool) -> Key:
    """Show an endpoint's key, or make a new one.

    Callers send it as the header `Authorization: Bearer KEY`.
    """
    from .. import keys, rollout

    rollout.url_of(endpoint)
    return Key(endpoint=endpoint, key=keys.rotate(endpoint) if rotate else keys.key(endpoint))


@endpoints.command("delete", examples=["endpoints delete delays --yes", "$endpoints delete delays"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete_endpoint(endpoint: str, yes: bool) -> Facts:
    """Withdraw all of an endpoint's deployments, and forget it and its key.

    It asks before, where one of them takes requests.  Its history stays.
    """
    from .. import rollout

    answering = [f"{d.name} ({d.traffic} %)" for d in rollout.endpoints(endpoint)[0].deployments if d.traffic]
    if answering and not yes and not face().agrees(f"Delete {endpoint} and its key, and withdraw {listed(answering)} that its callers are answered by?"):
        raise UsageError(f"{endpoint} was kept.", hint=f"%mlops endpoints delete {endpoint} --yes")
    with face().reporting(f"deleting {endpoint}") as report:
        gone = rollout.delete_endpoint(endpoint)
        report.step(f"deleted {endpoint}")
    return Facts({"deleted": endpoint, "withdrawn": gone})


@mlops.command(heading="Serving", examples=["%invoke delays --data X.head()", "invoke delays/2 --data rows.csv", "$invoke delays --data -"])
@click.argument("subject", metavar="ENDPOINT|DEPLOYMENT", type=A_DEPLOYMENT)
@click.option("--data", type=DATA, required=True, help="An expression in a notebook, a CSV, Parquet or JSON file, or - for JSON from standard input.")
@click.option("--deployment", type=A_DEPLOYMENT_NAME, help="Ask this one, whatever the split.")
def invoke(subject: DeploymentRef, data: str, deployment: str | None) -> Answer:
    """Send rows to an endpoint, or to one of its deployments whatever the split, and show the answers."""
    from .. import rollout

    endpoint, deployment = subject.endpoint, deployment or subject.name
    sent = rows_to_send(face().input() if data == "-" else face().meaning(data), endpoint)
    return rollout.invoke(endpoint, sent, deployment=deployment and deployment.removeprefix(f"{endpoint}/"))


@mlops.command(heading="Serving", examples=["logs delays/2", "logs delays/2 --lines 500", "logs delays --follow"])
@click.argument("ref", type=A_DEPLOYMENT)
@click.option("--lines", type=click.IntRange(min=1), metavar="COUNT", default=100, help="How many of the last lines.  [default: 100]")
@click.option("--follow", is_flag=True, help="Go on showing new lines until interrupted.")
def logs(ref: DeploymentRef, lines: int, follow: bool) -> Lines:
    """Show the last lines of a deployment's log, and what callers got wrong in the last day: answers of 4xx by message."""
    from .. import rollout

    return follow_logs(ref, lines) if follow else Lines([*rollout.logs(ref, lines=lines), *refusals(ref)])


@mlops.command(
    heading="Serving",
    examples=[
        "profile delays/1",
        "profile delays:3 --slo p95=20ms --rps 200",
        "profile delays:3 --hardware cpu,openvino,cuda --cpus 1,2 --batch 1,32,256 --price 0.05",
        "profile delays:3 --isolated",
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
@click.option("--isolated", is_flag=True, help="In an environment of its own.  [default: where packages differ from those it was made with]")
@click.option("--allow-mismatch", is_flag=True, help="Measure it here although packages differ from those it was made with.")
@click.option("--resume", is_flag=True, help="Go on with one that was interrupted, as it was asked for: what was measured is not measured again.")
def profile(
    ref: str,
    hardware: list[str] | None,
    cpus: list[float] | None,
    batches: list[int] | None,
    objective: Any,
    rps: float | None,
    price: float | None,
    seconds: float | None,
    isolated: bool,
    allow_mismatch: bool,
    resume: bool,
) -> Profile:
    """Measure latency, throughput, CPU and memory, and advise what to deploy with.

    A model version is measured on servers of its own, away from all traffic; a deployment as it runs.  Ctrl-C keeps what was measured.
    """
    from .. import profiling

    with face().reporting(f"profiling {ref}") as report:
        measured = profiling.profile(
            ref, hardware=hardware or (), cpus=cpus or (), batches=batches or (), objective=objective, rps=rps,
            price=price, seconds=seconds, isolated=isolated, allow_mismatch=allow_mismatch, resume=resume, report=report,
        )  # fmt: skip
        report.step(f"measured {len(measured.points)} settings")
    return measured


@mlops.command("hardware", heading="Serving", examples=["hardware"])
def list_hardware() -> Listing[Hardware]:
    """List what models can run on here, and why not on the rest."""
    from .. import hardware

    return Listing(hardware.found(), what="execution provider")
