"""The options that only a Kubernetes cluster understands, and the manifests as files for GitOps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import MlopsError
from ..grammar import Text
from ..reference import ModelRef
from ..shapes import Facts
from ..vocabulary import A_MODEL, A_VARIABLE, AN_ENDPOINT, CORES, MEMORY, SEVERAL_PERCENT, Pair, Word
from .group import mlops

F = TypeVar("F", bound=Callable[..., Any])


def _contexts(fragment: str) -> Sequence[str]:
    from ..kubernetes import client

    try:
        return client.contexts()
    except MlopsError:  # no kubeconfig: nothing to offer
        return []


A_CONTEXT = Word("CONTEXT", str, _contexts)
A_NODE_LABEL = Pair("LABEL=VALUE")


def placing(command: F) -> F:
    """Give a command the options that say where on a cluster, and how."""
    options = (
        click.option("--namespace", metavar="NAME", help="Its namespace.  [default: the context's own]"),
        click.option("--gateway", metavar="[NAMESPACE/]NAME", help="The Gateway through which it is reached.  [default: kubernetes_gateway of the settings]"),
        click.option("--hostname", metavar="HOST", help="Under which host's name the gateway answers for it.  [default: any]"),
        click.option("--replicas", type=click.IntRange(1, 1000), metavar="COUNT", help="Its pods.  [default: 1]"),
        click.option("--max-replicas", type=click.IntRange(2, 1000), metavar="COUNT", help="Up to how many pods when they are busy.  [default: no more]"),
        click.option("--pull-secret", "pull_secrets", metavar="NAME", multiple=True, help="A Secret with a registry's password; may be repeated."),
        click.option("--toleration", "tolerations", metavar="KEY[=VALUE][:EFFECT]", multiple=True, help="A taint it tolerates; may be repeated."),
        click.option("--node-selector", type=A_NODE_LABEL, multiple=True, help="A label its nodes must have; may be repeated."),
        click.option("--egress", is_flag=True, help="Let the model call out of its pod.  [default: it may not]"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def said(words: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as a deployment keeps them."""
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in words.items() if value not in (None, (), False)}
    return kept | ({"node_selector": dict(kept["node_selector"])} if "node_selector" in kept else {})


@mlops.command(
    heading="Serving",
    examples=[
        "manifest delays:3 --image registry.example.org/delays:3 --gateway edge/public",
        "manifest delays:2 delays:3 --split 90,10 --namespace models --gateway edge/public --output deploy/delays",
        "manifest delays:3 --style kserve --image registry.example.org/delays:3 --replicas 1 --max-replicas 5",
    ],
)
@click.argument("refs", metavar="MODEL[:VERSION]...", type=A_MODEL, nargs=-1, required=True)
@click.option("--endpoint", type=AN_ENDPOINT, help="Where callers find it.  [default: the model's name]")
@click.option("--split", "shares", type=SEVERAL_PERCENT, help="The percentage of each version, in their order.  [default: all to the first]")
@click.option("--style", type=click.Choice(["plain", "kserve"]), default="plain", help="Deployments and a route, or an InferenceService.  [default: plain]")
@click.option("--image", "images", metavar="REFERENCE", multiple=True, help="The image of each version, in their order.  [default: those that were pushed]")
@click.option("--cpus", type=CORES, help="Cores each pod may use.  [default: all]")
@click.option("--memory", "memory_mb", type=MEMORY, help="Memory each pod may take, such as 512m or 2g.  [default: no limit]")
@click.option("--gpus", metavar="COUNT", help="GPUs of each pod.  [default: none]")
@click.option("--env", "variables", type=A_VARIABLE, multiple=True, help="An environment variable, not a secret; may be repeated.")
@placing
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="A folder to write one file for each object to, with a kustomization.yaml.")
def manifest(
    refs: Sequence[ModelRef],
    endpoint: str | None,
    shares: list[int] | None,
    style: Any,
    images: Sequence[str],
    cpus: float | None,
    memory_mb: int | None,
    gpus: str | None,
    variables: Sequence[tuple[str, str]],
    output: Path | None,
    **placed: Any,
) -> Text | Facts:
    """Write what a cluster is to run, for a repository.

    Nothing is applied and no cluster is asked.  The endpoint's key is not among it; the first lines say how the cluster gets it.
    """
    from .. import gitops
    from ..store.deployments import DeploymentSpec

    spec = DeploymentSpec(cpus=cpus, memory_mb=memory_mb, gpus=gpus, variables=dict(variables), options=said(placed))
    made = gitops.written(refs, spec=spec, endpoint=endpoint, shares=shares or (), images=images, style=style)
    if output is None:
        return Text(made.text())
    files = made.write(output)
    return Facts({"folder": str(output), "files": [path.name for path in files], "secret": made.secret, "try": f"kubectl apply --server-side -k {output}"})
