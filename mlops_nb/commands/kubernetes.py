"""The options that only a Kubernetes cluster understands, and the manifests as files for GitOps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import MlopsError, UsageError
from ..grammar import A_DEPLOYMENT_NAME, A_MODEL, A_VARIABLE, AN_ENDPOINT, CORES, MEMORY, Pair, Several, Word, face
from ..reference import ModelRef
from ..shapes import Facts, Lines
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
SEVERAL_SHARES = Several(Word("PERCENT", int), "PERCENT,…")


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
