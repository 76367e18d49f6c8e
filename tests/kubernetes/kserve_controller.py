"""What KServe's controller does with an InferenceService in its standard mode, as far as one can see it through the API.

Written after pkg/controller/v1beta1/inferenceservice and pkg/apis/serving/v1beta1 of https://github.com/kserve/kserve, 0.16:

    it makes a Deployment and a Service NAME-predictor and a HorizontalPodAutoscaler, all owned by the InferenceService, with its labels and
    annotations, and the labels serving.kserve.io/inferenceservice=NAME, component=predictor, app=isvc.NAME-predictor;
    the Service's port is 80 and leads to the container's first port; the count of pods is the autoscaler's;
    PredictorReady follows the Deployment's conditions; Ready needs IngressReady too, which holds at once where nothing is to be let in;
    status.observedGeneration is the Deployment's, not the InferenceService's own;
    what it cannot do is told as PredictorReady False, ReconcileFailed; an annotation of another mode is run in that mode, not in this one;
    deploying again brings the Deployment in line a moment after the InferenceService was changed.

Its webhooks refuse a name that does not begin with a letter, a strategy outside of the standard mode, and a change of the mode.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api_server import Cluster

Object = dict[str, Any]
MODE = "serving.kserve.io/deploymentMode"
_OWN_FIELDS = {"minReplicas", "maxReplicas", "deploymentStrategy", "canaryTrafficPercent"}


def pod_of(service: Object) -> Object:
    """The pod's part of an InferenceService's predictor."""
    return {key: copy.deepcopy(value) for key, value in service["spec"]["predictor"].items() if key not in _OWN_FIELDS}


def refusal(live: Object | None, made: Object) -> str:
    """What the webhook says against it; empty when it lets it pass."""
    mode = made["metadata"].get("annotations", {}).get(MODE, "Standard")
    before = ((live or {}).get("status") or {}).get("deploymentMode", mode)
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made["metadata"]["name"]):
        return "the InferenceService's name is invalid"
    if before != mode:
        return f"update rejected: deploymentMode cannot be changed from '{before}' to '{mode}'"
    if "deploymentStrategy" in made["spec"]["predictor"] and mode != "Standard":
        return "customizing deploymentStrategy is only supported for raw deployment mode"
    return ""


def reconcile(cluster: Cluster, service: Object) -> None:
    """One step of the controller."""
    mode = service["metadata"].get("annotations", {}).get(MODE, "Standard")
    if cluster.kserve_mode != "Standard" or mode != "Standard":
        service["status"] = {"deploymentMode": cluster.kserve_mode, "conditions": []}
        return
    if cluster.kserve_fails:
        _tell(service, "False", "ReconcileFailed", cluster.kserve_fails)
        return
    made = [_deployment(service), _service(service), _autoscaler(service)]
    for thing in made:
        cluster.bring_in_line(thing)
    _follow(service, cluster.objects["Deployment", service["metadata"]["namespace"], made[0]["metadata"]["name"]])


def _follow(service: Object, deployment: Object) -> None:
    status = deployment.get("status") or {}
    service.setdefault("status", {})["observedGeneration"] = status.get("observedGeneration")
    refused = next((c for c in status.get("conditions", []) if c["type"] == "ReplicaFailure"), None)
    if refused:
        _tell(service, "False", refused["reason"], refused["message"])
    elif status.get("availableReplicas"):
        _tell(service, "True")
    else:
        _tell(service, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")


def _tell(service: Object, ready: str, reason: str = "", message: str = "") -> None:
    said = {"status": ready, **({"reason": reason, "message": message} if reason else {})}
    conditions = [{"type": "IngressReady", "status": "True"}, {"type": "PredictorReady", **said}, {"type": "Ready", **said}]
    service["status"] = {**service.get("status", {}), "deploymentMode": "Standard", "conditions": conditions}


def _deployment(service: Object) -> Object:
    head, predictor = _head(service), service["spec"]["predictor"]
    template = {"metadata": {"labels": head["labels"], "annotations": head["annotations"]}, "spec": pod_of(service)}
    template["spec"]["containers"][0].setdefault("env", []).append({"name": "INFERENCE_SERVICE_NAME", "value": service["metadata"]["name"]})
    spec = {
        "replicas": predictor.get("minReplicas", 1), "selector": {"matchLabels": {"app": head["labels"]["app"]}}, "template": template,
        "strategy": predictor.get("deploymentStrategy", {"type": "RollingUpdate"}),
    }  # fmt: skip
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": head, "spec": spec}


def _service(service: Object) -> Object:
    head = _head(service)
    first = service["spec"]["predictor"]["containers"][0]["ports"][0]
    port = {"name": first["name"], "port": 80, "targetPort": first["containerPort"], "protocol": "TCP"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": {"selector": {"app": head["labels"]["app"]}, "ports": [port]}}


def _autoscaler(service: Object) -> Object:
    head, predictor = _head(service), service["spec"]["predictor"]
    busy = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": head["name"]}, "metrics": [busy],
        "minReplicas": predictor.get("minReplicas", 1), "maxReplicas": predictor.get("maxReplicas", 1),
    }  # fmt: skip
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": head, "spec": spec}


def _head(service: Object) -> Object:
    head = service["metadata"]
    name = f"{head['name']}-predictor"
    own = {"serving.kserve.io/inferenceservice": head["name"], "component": "predictor", "app": f"isvc.{name}"}
    owner = {"apiVersion": service["apiVersion"], "kind": "InferenceService", "name": head["name"], "uid": head["uid"], "controller": True}
    return {
        "name": name, "namespace": head["namespace"], "labels": {**head.get("labels", {}), **own}, "annotations": dict(head.get("annotations", {})),
        "ownerReferences": [owner],
    }  # fmt: skip
