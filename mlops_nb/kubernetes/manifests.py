"""What is applied to a cluster, as plain data: Deployment, Service, autoscaler, budget and policy of a deployment; Secret and route of an endpoint.

    endpoint delays      Secret mlops-delays (its key)      HTTPRoute mlops-delays: /delays → weights
    deployment delays/3  Deployment, Service, PodDisruptionBudget, NetworkPolicy mlops-delays-3, HorizontalPodAutoscaler where it may grow

The endpoint's key stands in the Secret alone, which is mounted as a file; the scoring server itself checks `Authorization: Bearer`.
(A gateway could add a token by a header filter, but then whoever may read routes has it, and the pod is open to its neighbours.)

With `deploy --style kserve` an InferenceService in KServe's standard mode takes the place of a deployment's Deployment, Service and autoscaler:
KServe makes these, with our labels and annotations, and the route leads to the Service that it makes, NAME-predictor at port 80
(https://github.com/kserve/kserve, pkg/controller/v1beta1/inferenceservice: components/predictor.go, reconcilers/service).
With `manifest --style kserve` one InferenceService takes the place of all but the Secret; KServe divides requests between its newest revision
and the one before, so it holds two deployments at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from . import names

Manifest = dict[str, Any]
Runner = Literal["plain", "kserve"]
"""What runs a deployment: a Deployment of ours, or KServe."""

MANAGER = "mlops_nb"
"""Who server-side apply says we are."""
PORT = 8080
TOKEN_FOLDER = "/var/run/secrets/mlops"
WORKSPACE, ENDPOINT, DEPLOYMENT = "mlops-nb/workspace", "mlops-nb/endpoint", "mlops-nb/deployment"
STATE = "mlops-nb/state"
"""An annotation that KServe hands on: by it one sees that what runs is what was asked for last."""
INFERENCE_SERVICE = "serving.kserve.io/inferenceservice"
"""A label that KServe gives to all that it makes: the InferenceService's name."""
_GROUP = 65532
_STOP_SECONDS = 15
_START_SECONDS = 600


class Toleration(msgspec.Struct, frozen=True, kw_only=True):
    """A taint that does not keep a pod from a node."""

    key: str
    value: str | None = None
    effect: str | None = None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a deployment runs on a cluster."""

    style: Runner = "plain"
    image: str
    namespace: str
    gateway: str = ""
    """`name` or `namespace/name` of the Gateway that takes requests in; KServe needs none."""
    hostname: str | None = None
    replicas: int = 1
    most_replicas: int | None = None
    """Up to how many it grows when its processors are busy; None means it does not."""
    cpus: float | None = None
    memory_mb: int | None = None
    gpus: int = 0
    pull_secrets: tuple[str, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[str, str] = {}
    egress: bool = False
    """Whether the model may call out; one that answers from its own files need not."""
    variables: dict[str, str] = {}


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment as a cluster runs it."""

    workspace: str
    endpoint: str
    deployment: str
    model: str
    version: int
    placement: Placement
    key_mark: str = ""
    """Changes with the endpoint's key, so that pods start anew with the new one."""

    @property
    def name(self) -> str:
        """What its objects are called."""
        named = names.inference if self.placement.style == "kserve" else names.workload
        return named(self.endpoint, self.deployment)

    @property
    def service(self) -> str:
        """The Service that the route leads to."""
        return names.predictor(self.name) if self.placement.style == "kserve" else self.name


def key_mark(key: str) -> str:
    """A mark that tells one key from another and gives neither away."""
    return hashlib.sha256(f"mlops_nb key mark {key}".encode()).hexdigest()[:16]


def of_workload(workload: Workload) -> list[Manifest]:
    """What runs one deployment."""
    if workload.placement.style == "kserve":
        return [policy(workload), inference_service(workload), budget(workload)]
    grown = [autoscaler(workload)] if workload.placement.most_replicas else []
    return [policy(workload), service(workload), deployment(workload), budget(workload), *grown]


def labels(workload: Workload) -> dict[str, str]:
    """By which its objects are found again."""
    return endpoint_labels(workload.workspace, workload.endpoint) | {DEPLOYMENT: names.value(workload.deployment)}


def endpoint_labels(workspace: str, endpoint: str) -> dict[str, str]:
    """By which an endpoint's objects are found again."""
    return {WORKSPACE: workspace, ENDPOINT: names.value(endpoint)}


# ── a deployment's objects ───────────────────────────────────────────────────────────────────────────────────────────


def deployment(workload: Workload) -> Manifest:
    """The Deployment.  Its count of replicas is left to the autoscaler where there is one."""
    place = workload.placement
    spec: Manifest = {
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": _START_SECONDS,
        "selector": {"matchLabels": labels(workload)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": _all_labels(workload), "annotations": _annotations(workload)}, "spec": pod(workload)},
    }
    count = {} if place.most_replicas else {"replicas": place.replicas}
    return _object("apps/v1", "Deployment", workload, count | spec)


def pod(workload: Workload, *, name: str = "model") -> Manifest:
    """The pod: not root, no way to write but /tmp, no account on the cluster, nothing of the kernel that it does not need."""
    place = workload.placement
    spread = {"labelSelector": {"matchLabels": labels(workload)}, "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _STOP_SECONDS,
        "securityContext": {"runAsNonRoot": True, "fsGroup": _GROUP, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [spread],
        "containers": [container(workload, name=name) | _probes() | {"lifecycle": {"preStop": {"sleep": {"seconds": 3}}}}],
        "volumes": _volumes(workload, mode=0o440),
        **_scheduling(place),
    }


def container(workload: Workload, *, name: str = "model") -> Manifest:
    """The container that answers, without its probes."""
    place = workload.placement
    ours = {"MLOPS_PORT": str(PORT), "MLOPS_TOKEN_FILE": f"{TOKEN_FOLDER}/token", "MLOPS_ENDPOINT": workload.endpoint, "MLOPS_DEPLOYMENT": workload.deployment}
    return {
        "name": name,
        "image": place.image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "env": [{"name": key, "value": value} for key, value in {**place.variables, **ours}.items()],
        "resources": resources(place),
        "securityContext": {
            "runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True}, {"name": "tmp", "mountPath": "/tmp"}],
    }  # fmt: skip


def resources(place: Placement) -> Manifest:
    """What it asks for and may take at most; memory is asked for whole, for it cannot be taken back."""
    asked = {"cpu": _cores(place.cpus or 0.1), **({"memory": f"{place.memory_mb}Mi"} if place.memory_mb else {})}
    most = {
        **({"cpu": _cores(place.cpus)} if place.cpus else {}),
        **({"memory": f"{place.memory_mb}Mi"} if place.memory_mb else {}),
        **({"nvidia.com/gpu": str(place.gpus)} if place.gpus else {}),
    }
    return {"requests": asked, **({"limits": most} if most else {})}


def service(workload: Workload) -> Manifest:
    """The Service that the route leads to."""
    port = {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
    return _object("v1", "Service", workload, {"type": "ClusterIP", "selector": labels(workload), "ports": [port]})


def autoscaler(workload: Workload) -> Manifest:
    """Grows from its least to its most replicas where their processors are busier than 70 % of what they asked for; shrinks slowly."""
    busy = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.name},
        "minReplicas": workload.placement.replicas,
        "maxReplicas": workload.placement.most_replicas,
        "metrics": [busy],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", workload, spec)


def budget(workload: Workload) -> Manifest:
    """One pod at a time may be taken away when nodes are drained; at most one, so that a lone pod never blocks a drain."""
    return _object("policy/v1", "PodDisruptionBudget", workload, {"maxUnavailable": 1, "selector": {"matchLabels": labels(workload)}})


def policy(workload: Workload) -> Manifest:
    """In: the server's port.  Out: nothing, unless the model may call out."""
    inward = [{"ports": [{"protocol": "TCP", "port": PORT}]}]
    outward: list[Manifest] = [{}] if workload.placement.egress else []
    spec = {"podSelector": {"matchLabels": labels(workload)}, "policyTypes": ["Ingress", "Egress"], "ingress": inward, "egress": outward}
    return _object("networking.k8s.io/v1", "NetworkPolicy", workload, spec)


# ── an endpoint's objects ────────────────────────────────────────────────────────────────────────────────────────────


def secret(workspace: str, endpoint: str, namespace: str, *, key: str) -> Manifest:
    """The endpoint's key.  Applied, never printed."""
    head = {"name": names.group(endpoint), "namespace": namespace, "labels": endpoint_labels(workspace, endpoint) | _MANAGED}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": head, "type": "Opaque", "stringData": {"token": key}}


def route(workspace: str, endpoint: str, placement: Placement, weights: Mapping[str, int], *, services: Mapping[str, str] | None = None) -> Manifest:
    """Divides the requests below `/ENDPOINT` by weight; the header azureml-model-deployment picks one deployment.

    *services* are the Services of deployments by name, where they are not called as the plain style calls them.
    """
    services = {name: names.workload(endpoint, name) for name in weights} | dict(services or {})
    by_name = [_rule(endpoint, {services[name]: 1}, header=name) for name in weights]
    gateway_namespace, slash, gateway = placement.gateway.rpartition("/")
    spec: Manifest = {
        "parentRefs": [{"name": gateway, **({"namespace": gateway_namespace} if slash else {})}],
        **({"hostnames": [placement.hostname]} if placement.hostname else {}),
        "rules": [*by_name, _rule(endpoint, {services[name]: weight for name, weight in weights.items()})],
    }
    head = {
        "name": names.group(endpoint), "namespace": placement.namespace, "labels": endpoint_labels(workspace, endpoint) | _MANAGED,
        "annotations": {ENDPOINT: endpoint},
    }  # fmt: skip
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": head, "spec": spec}


def _rule(endpoint: str, weights: Mapping[str, int], *, header: str | None = None) -> Manifest:
    match: Manifest = {"path": {"type": "PathPrefix", "value": f"/{endpoint}"}}
    if header is not None:
        match["headers"] = [{"type": "Exact", "name": "azureml-model-deployment", "value": header}]
    rewrite = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}
    backends = [{"name": service, "port": 80, "weight": weight} for service, weight in weights.items()]
    return {"matches": [match], "filters": [rewrite], "backendRefs": backends}


# ── KServe ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def inference_service(workload: Workload) -> Manifest:
    """One deployment as an InferenceService: KServe makes its Deployment, Service and autoscaler, and no way in but our route's."""
    place = workload.placement
    predictor: Manifest = {
        "minReplicas": place.replicas,
        "maxReplicas": place.most_replicas or place.replicas,
        "deploymentStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        **pod(workload, name=_KSERVE_CONTAINER),
    }
    mark = hashlib.sha256(json.dumps(predictor, sort_keys=True).encode()).hexdigest()[:16]
    made = _object("serving.kserve.io/v1beta1", "InferenceService", workload, {"predictor": predictor})
    made["metadata"]["labels"] = made["metadata"]["labels"] | {"networking.kserve.io/visibility": "cluster-local"}
    made["metadata"]["annotations"] = _annotations(workload) | {"serving.kserve.io/deploymentMode": _STANDARD, STATE: mark}
    return made


def whole_endpoint(workload: Workload, *, canary_percent: int | None = None) -> Manifest:
    """The endpoint as a KServe InferenceService that runs *workload*, its newest deployment.

    *canary_percent* is its share; the rest goes to the revision before.  None gives it all.
    """
    place = workload.placement
    predictor: Manifest = {
        "minReplicas": place.replicas,
        "maxReplicas": place.most_replicas or place.replicas,
        "automountServiceAccountToken": False,
        "containers": [container(workload, name=_KSERVE_CONTAINER) | _probes(start=False)],
        "volumes": _volumes(workload, mode=0o444),
        **_scheduling(place),
    }
    if canary_percent is not None:
        predictor["canaryTrafficPercent"] = canary_percent
    head = {
        "name": names.group(workload.endpoint), "namespace": place.namespace,
        "labels": endpoint_labels(workload.workspace, workload.endpoint) | _MANAGED, "annotations": _annotations(workload),
    }  # fmt: skip
    return {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": head, "spec": {"predictor": predictor}}


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_KSERVE_CONTAINER = "kserve-container"
_STANDARD = "Standard"
"""What KServe calls the mode since 0.16; it takes the former `RawDeployment` only where nothing is ever changed."""
_MANAGED = {"app.kubernetes.io/managed-by": MANAGER}


def _object(version: str, kind: str, workload: Workload, spec: Manifest) -> Manifest:
    head = {
        "name": workload.name, "namespace": workload.placement.namespace, "labels": _all_labels(workload), "annotations": _described(workload),
    }  # fmt: skip
    return {"apiVersion": version, "kind": kind, "metadata": head, "spec": spec}


def _all_labels(workload: Workload) -> dict[str, str]:
    shown = {"app.kubernetes.io/name": names.value(workload.endpoint), "app.kubernetes.io/version": names.value(str(workload.version))}
    return labels(workload) | _MANAGED | shown


def _described(workload: Workload) -> dict[str, str]:
    return {DEPLOYMENT: f"{workload.endpoint}/{workload.deployment}", "mlops-nb/model": f"{workload.model}:{workload.version}"}


def _annotations(workload: Workload) -> dict[str, str]:
    return _described(workload) | ({"mlops-nb/key-mark": workload.key_mark} if workload.key_mark else {})


def _volumes(workload: Workload, *, mode: int) -> list[Manifest]:
    token = {"name": "token", "secret": {"secretName": names.group(workload.endpoint), "defaultMode": mode, "items": [{"key": "token", "path": "token"}]}}
    return [token, {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]


def _probes(*, start: bool = True) -> Manifest:
    """The server listens once its model is loaded and has answered its own sample."""
    probes: Manifest = {
        "readinessProbe": _asked("ready", periodSeconds=5, failureThreshold=2),
        "livenessProbe": _asked("live", periodSeconds=10, failureThreshold=3),
    }
    return ({"startupProbe": _asked("ready", periodSeconds=1, failureThreshold=_START_SECONDS)} if start else {}) | probes


def _asked(what: str, **limits: int) -> Manifest:
    return {"httpGet": {"path": f"/v2/health/{what}", "port": "http"}, "timeoutSeconds": 2, **limits}


def _scheduling(place: Placement) -> Manifest:
    tolerations: Sequence[Manifest] = [
        {"key": t.key, "operator": "Equal" if t.value is not None else "Exists"}
        | ({"value": t.value} if t.value is not None else {})
        | ({"effect": t.effect} if t.effect else {})
        for t in place.tolerations
    ]
    return {
        **({"imagePullSecrets": [{"name": name} for name in place.pull_secrets]} if place.pull_secrets else {}),
        **({"nodeSelector": place.node_selector} if place.node_selector else {}),
        **({"tolerations": tolerations} if tolerations else {}),
    }


def _cores(cores: float) -> str:
    """Cores in thousandths, as Kubernetes counts them."""
    return f"{max(1, round(cores * 1000))}m"
