"""Talks to one cluster's API server: applies, lists, deletes and reads logs.  lightkube does the talking.

Server-side apply, as `fieldManager=mlops_nb`: only the fields of our manifests become ours.  Where somebody else set one of them to
something else the server answers 409; on an object of this workspace the field is taken back, on anybody else's nothing is changed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from ..errors import BadOption, ClusterRefused, ClusterUnreachable, MissingExtra, NotOurs, listed
from ..safety import checked_url
from ..settings import Workspace
from .manifests import MANAGER, WORKSPACE, Manifest

if TYPE_CHECKING:
    import lightkube
    from lightkube.core.exceptions import ApiError

PATIENCE_SECONDS = 2.0
"""How long whoever looks waits for an answer."""
CHANGE_SECONDS = 15.0
"""How long whoever changes something does: a webhook that must agree to it may take ten."""
IN_CLUSTER = "in-cluster"
_KINDS = {
    "Deployment": ("apps/v1", "deployments"),
    "Service": ("v1", "services"),
    "Secret": ("v1", "secrets"),
    "Pod": ("v1", "pods"),
    "Event": ("v1", "events"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproutes"),
    "Gateway": ("gateway.networking.k8s.io/v1", "gateways"),
    "InferenceService": ("serving.kserve.io/v1beta1", "inferenceservices"),
    "PodMetrics": ("metrics.k8s.io/v1beta1", "pods"),
}
OF_A_WORKLOAD = ("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Service")
"""What one deployment has, in the order in which it is deleted: the Service last, so that its pods drain behind it."""
OF_AN_INFERENCE_SERVICE = ("InferenceService", "PodDisruptionBudget", "NetworkPolicy")
"""The same of one that KServe runs: what KServe made goes with the InferenceService."""
OF_AN_ENDPOINT = ("HTTPRoute", "Secret")


class Context(msgspec.Struct, frozen=True):
    """One cluster as one user: which kubeconfig file, and which context of it."""

    kubeconfig: str
    """Its path; empty inside a cluster, where the pod's own account is used."""
    name: str

    @property
    def words(self) -> str:
        """How messages call it."""
        return f"the cluster of context {self.name!r}"


def resolved(name: str | None = None) -> tuple[Context, str]:
    """The context called *name* (or as the settings or the kubeconfig have it) and its namespace.  Raises BadOption, MissingExtra."""
    settings = Workspace.current().settings()
    name = name or settings.kubernetes_context
    path = _kubeconfig(settings.kubeconfig)
    if path is None:
        return Context("", IN_CLUSTER), _config(Context("", IN_CLUSTER)).namespace
    known = _contexts(path)
    chosen = name or known[1]
    if not chosen or chosen not in known[0]:
        said = f"{path} has no context {chosen!r}" if chosen else f"{path} has no current context"
        raise BadOption(f"{said}. It has: {listed(known[0])}.", hint=f"--context {known[0][0]}" if known[0] else "kubectl config view")
    context = Context(str(path), chosen)
    return context, _config(context).namespace


def contexts() -> list[str]:
    """The contexts that the kubeconfig has.  Raises BadOption."""
    path = _kubeconfig(Workspace.current().settings().kubeconfig)
    return _contexts(path)[0] if path else []


class Api:
    """One context, open.  Every call raises ClusterUnreachable when nobody answers in time, ClusterRefused when the answer is no."""

    def __init__(self, context: Context, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.context = context
        self._client = self._opened(patience_seconds)

    @cached_property
    def _changing(self) -> lightkube.Client:
        return self._opened(CHANGE_SECONDS)

    def _opened(self, patience_seconds: float) -> lightkube.Client:
        lightkube = _lightkube()
        import httpx2

        config = _config(self.context)
        with self._answers("connecting"):  # certificates are read here
            return lightkube.Client(config=config, timeout=httpx2.Timeout(patience_seconds), field_manager=MANAGER)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()
        if changing := self.__dict__.pop("_changing", None):
            changing.close()

    def apply(self, manifest: Manifest, *, workspace: str, rehearse: bool = False) -> None:
        """Bring an object in line with *manifest*.  With *rehearse* the server checks all and keeps nothing.

        Raises NotOurs when an object of this name belongs to another workspace, or to none.
        """
        try:
            self._applied(manifest, rehearse=rehearse)
        except ClusterRefused as refusal:
            if refusal.status != 409:
                raise
            self._check_ours(manifest, workspace, refusal)
            self._applied(manifest, rehearse=rehearse, force=True)

    def check_free(self, manifest: Manifest, *, workspace: str) -> None:
        """Raises NotOurs when an object of this kind and name is there and is not this workspace's."""
        self._check_ours(manifest, workspace, None)

    def get(self, kind: str, name: str, namespace: str) -> Manifest | None:
        """One object, or None."""
        try:
            with self._answers(f"reading {kind} {name}"):
                return self._client.get(_resource(kind), name, namespace=namespace).to_dict()
        except ClusterRefused as refusal:
            if refusal.status == 404:
                return None
            raise

    def found(self, kind: str, namespace: str, *, labels: Mapping[str, str] | None = None, fields: Mapping[str, str] | None = None) -> list[Manifest]:
        """Every object of a kind with these labels."""
        with self._answers(f"listing {kind}s"):
            answered = self._client.list(_resource(kind), namespace=namespace, labels=dict(labels or {}), fields=dict(fields or {}))
            return [item.to_dict() for item in answered]

    def delete(self, kind: str, namespace: str, *, labels: Mapping[str, str]) -> list[str]:
        """Delete every object of a kind with these labels, what it made included; returns their names.  A kind that the cluster lacks has none."""
        from lightkube.types import CascadeType

        try:
            names = [item["metadata"]["name"] for item in self.found(kind, namespace, labels=labels)]
        except ClusterRefused as refusal:
            if refusal.status == 404:
                return []
            raise
        for name in names:
            try:
                with self._answers(f"deleting {kind} {name}"):
                    self._changing.delete(_resource(kind), name, namespace=namespace, cascade=CascadeType.BACKGROUND)
            except ClusterRefused as refusal:
                if refusal.status != 404:  # else somebody was quicker
                    raise
        return names

    def log(self, pod: str, namespace: str, *, lines: int) -> list[str]:
        """The last lines that a pod said, of the container before where the newest has not begun."""
        with self._answers(f"reading the log of {pod}"):
            return list(self._client.log(pod, namespace=namespace, tail_lines=lines, newlines=False))

    def _applied(self, manifest: Manifest, *, rehearse: bool, force: bool = False) -> None:
        from lightkube.types import PatchType

        kind, head = manifest["kind"], manifest["metadata"]
        with self._answers(f"applying {kind} {head['name']}"):
            self._changing.patch(
                _resource(kind), head["name"], manifest, namespace=head["namespace"], patch_type=PatchType.APPLY, force=force, dry_run=rehearse
            )  # fmt: skip

    def _check_ours(self, manifest: Manifest, workspace: str, refusal: ClusterRefused | None) -> None:
        head = manifest["metadata"]
        there = self.get(manifest["kind"], head["name"], head["namespace"])
        if there and (there["metadata"].get("labels") or {}).get(WORKSPACE) != workspace:
            raise NotOurs(manifest["kind"], head["name"], head["namespace"]) from refusal

    @contextmanager
    def _answers(self, doing: str) -> Iterator[None]:
        import httpx2
        from lightkube.core.exceptions import ApiError, ConfigError

        try:
            yield
        except ApiError as error:
            raise _refusal(error, doing, self.context) from error
        except httpx2.HTTPStatusError as error:  # not in the API's own words: a proxy before it, say
            raise ClusterRefused(self.context.words, doing, error.response.status_code, str(error)) from error
        except (httpx2.TransportError, ConfigError, OSError) as error:
            raise ClusterUnreachable(self.context.words, _said(error)) from error
        except (ValueError, KeyError) as error:  # a login page, or a credential plugin that says something else
            raise ClusterUnreachable(self.context.words, f"what answers does not speak as Kubernetes does: {error}"[:300]) from error


def _refusal(error: ApiError, doing: str, context: Context) -> ClusterRefused:
    return ClusterRefused(context.words, doing, error.response.status_code, (error.status.message or "") if error.status else str(error))


def _said(error: Exception) -> str:
    """Timeouts of the transport carry no text of their own."""
    return str(error) or type(error).__name__


def _resource(kind: str) -> Any:
    """lightkube's class for a kind, as plain data: what a newer server says more, or an older one less, is no reason to fail."""
    with _registering:
        return _registered(kind)


@cache
def _registered(kind: str) -> Any:
    """Made once: lightkube keeps a register, and takes no second class for a kind."""
    from lightkube.generic_resource import create_namespaced_resource

    version, plural = _KINDS[kind]
    group, _, short = version.rpartition("/")
    return create_namespaced_resource(group, short, kind, plural)


_registering = threading.Lock()


def _kubeconfig(setting: str | None) -> Path | None:
    """The file that says how to reach clusters; None inside of one.  Raises BadOption when there is none."""
    asked = setting or os.environ.get("KUBECONFIG", "")
    for text in asked.split(os.pathsep) if asked else ["~/.kube/config"]:
        if (path := Path(text).expanduser().absolute()).is_file():
            return path
    if not asked and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return None
    raise BadOption(f"No kubeconfig at {asked or '~/.kube/config'}.", hint='kubeconfig = "PATH" in [tool.mlops], or the variable KUBECONFIG')


def _contexts(path: Path) -> tuple[list[str], str | None]:
    loaded = _loaded(path)
    return sorted(loaded.contexts), loaded.current_context


def _loaded(path: Path) -> Any:
    _lightkube()
    import yaml
    from lightkube.config.kubeconfig import KubeConfig

    try:
        return KubeConfig.from_file(path)
    except (yaml.YAMLError, msgspec.ValidationError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise BadOption(f"{path} is no kubeconfig: {type(error).__name__} {error}"[:300], hint="kubectl config view") from None


def _config(context: Context) -> Any:
    """How to reach it.  Raises BadOption, ClusterUnreachable."""
    _lightkube()
    from lightkube.config.kubeconfig import KubeConfig
    from lightkube.config.models import User
    from lightkube.core.exceptions import ConfigError

    try:
        kubeconfig = _loaded(Path(context.kubeconfig)) if context.kubeconfig else KubeConfig.from_service_account()
        found: Any = kubeconfig.get(context.name if context.kubeconfig else None)
    except (ConfigError, KeyError) as error:
        raise ClusterUnreachable(context.words, str(error)) from None
    checked_url(found.cluster.server, allowed_hosts={urlsplit(found.cluster.server).hostname or ""})
    return found if found.user else found._replace(user=User())


def _lightkube() -> Any:
    try:
        import lightkube
    except ImportError:
        raise MissingExtra("lightkube", extra="kubernetes", doing="The target kubernetes") from None
    return lightkube
