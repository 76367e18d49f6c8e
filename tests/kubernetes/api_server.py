"""A stand-in for a Kubernetes API server: HTTPS, a bearer token, and the semantics of the calls that `mlops_nb.kubernetes` makes.

No real API server can be installed where these tests run, so this one keeps to the published API conventions:

    PATCH  …/NAME  application/apply-patch+yaml   server-side apply: fieldManager, managedFields, 409 with causes unless force, dryRun=All
    PATCH  …/NAME  application/merge-patch+json   as `kubectl edit` and controllers change things; also of …/scale and …/status
    GET    …/NAME, …?labelSelector=&fieldSelector=   objects and lists, with resourceVersion and generation
    DELETE …/NAME?propagationPolicy=              with what it owns; pods take a moment to end
    GET    pods/NAME/log?tailLines=               400 while the container waits
    GET    /api, /apis, /api/v1, /apis/G/V        discovery, which kubectl asks for

InferenceServices are acted upon as KServe's controller does (`kserve_controller.py`).
Built-in kinds are checked with kubernetes-validate's schemas, HTTPRoute and InferenceService with the schemas beside; what does not fit is answered 422.  A
Deployment's pods come to be as its image's name says (`PODS`), so that each way of failing can be seen.  With MLOPS_TEST_KUBECONFIG the
tests of `test_client.py` run against the cluster it leads to instead, in the namespace `models`, which must be there.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import kubernetes_validate
import yaml

from . import kserve_controller

Object = dict[str, Any]
VERSION = "1.34"
TOKEN = "a-token-of-the-tests"
PLURALS = {
    ("v1", "pods"): "Pod", ("v1", "services"): "Service", ("v1", "secrets"): "Secret", ("v1", "events"): "Event", ("v1", "configmaps"): "ConfigMap",
    ("apps/v1", "deployments"): "Deployment", ("autoscaling/v2", "horizontalpodautoscalers"): "HorizontalPodAutoscaler",
    ("policy/v1", "poddisruptionbudgets"): "PodDisruptionBudget", ("networking.k8s.io/v1", "networkpolicies"): "NetworkPolicy",
    ("gateway.networking.k8s.io/v1", "httproutes"): "HTTPRoute", ("gateway.networking.k8s.io/v1", "gateways"): "Gateway",
    ("serving.kserve.io/v1beta1", "inferenceservices"): "InferenceService", ("metrics.k8s.io/v1beta1", "pods"): "PodMetrics",
}  # fmt: skip
_PATH = re.compile(r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))/namespaces/(?P<ns>[^/]+)/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?$")
SCHEMAS = Path(__file__).parent


class Refused(Exception):
    """An answer that is not 2xx."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Object] | None = None) -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code,
            "details": {"causes": causes or []},
        }  # fmt: skip


class Cluster:
    """What the API server stores, and the controllers that act on it."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.namespaces = {"default", "models", "edge"}
        self.missing_kinds: set[str] = set()
        self.forbidden: set[tuple[str, str]] = set()
        """(verb, kind) that the caller may not."""
        self.silent = threading.Event()
        """While set, nothing is answered."""
        self.thinks_seconds = 0.0
        """How long a webhook takes to agree to a change."""
        self.kserve_mode = "Standard"
        """In which mode KServe runs what it is given."""
        self.kserve_fails = ""
        """What KServe's controller fails with, while it does."""
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.RLock()
        self._versions = itertools.count(1000)
        self._ending: dict[tuple[str, str, str], float] = {}
        self.put({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "public", "namespace": "edge"}, "spec": {}})

    # ── what tests say and see ──

    def put(self, thing: Object) -> None:
        """Store an object as it is."""
        head = thing["metadata"]
        head.setdefault("uid", f"uid-{next(self._versions)}")
        head["resourceVersion"] = str(next(self._versions))
        self.objects[thing["kind"], head["namespace"], head["name"]] = thing

    def of(self, kind: str, namespace: str = "models") -> list[Object]:
        """Every object of a kind."""
        with self._lock:
            self._control()
            return [thing for (k, ns, _), thing in sorted(self.objects.items()) if (k, ns) == (kind, namespace)]

    def one(self, kind: str, name: str, namespace: str = "models") -> Object:
        """One object."""
        return next(thing for thing in self.of(kind, namespace) if thing["metadata"]["name"] == name)

    def crash(self, deployment: str, state: Object, *, namespace: str = "models") -> None:
        """Have the pods of a deployment end so."""
        for pod in self.of("Pod", namespace):
            if pod["metadata"]["labels"]["mlops-nb/deployment"] == deployment:
                pod["status"] = state

    # ── requests ──

    def answer(self, method: str, url: str, body: bytes, kind_of_body: str) -> tuple[int, Object | str]:
        """The status and body of an answer."""
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        with self._lock:
            self.calls.append((method, url))
            self._control()
            if found := discovered(parts.path, self.missing_kinds):
                return 200, found
            match = _PATH.fullmatch(parts.path)
            kind = PLURALS.get((match["core"] or match["group"], match["plural"])) if match else None
            if not match or kind is None or kind in self.missing_kinds:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            self._check_allowed(method, kind, match)
            return self._carried_out(method, kind, match, query, body, kind_of_body)

    def _check_allowed(self, method: str, kind: str, match: re.Match[str]) -> None:
        verb = {"GET": "get" if match["name"] else "list", "PATCH": "patch", "DELETE": "delete"}[method]
        if (verb, kind) in self.forbidden:
            what = f'{match["plural"]} is forbidden: User "tester" cannot {verb} resource "{match["plural"]}" in the namespace "{match["ns"]}"'
            raise Refused(403, "Forbidden", what)

    def _carried_out(self, method: str, kind: str, match: re.Match[str], query: dict[str, str], body: bytes, kind_of_body: str) -> tuple[int, Object | str]:
        key = kind, match["ns"], match["name"] or ""
        if method == "GET" and match["sub"] == "log":
            return 200, self._log(key, query)
        if method == "GET" and not match["name"]:
            items = [thing for thing in self.of(kind, match["ns"]) if _selected(thing, query)]
            return 200, {"kind": f"{kind}List", "apiVersion": match["core"] or match["group"], "metadata": {"resourceVersion": "1"}, "items": items}
        if method == "PATCH" and kind_of_body == "application/apply-patch+yaml":
            return self._apply(key, yaml.safe_load(body), query, match)
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{match["plural"]} "{match["name"]}" not found')
        if method == "GET":
            return 200, self.objects[key]
        if method == "DELETE":
            return 200, self._delete(key)
        return 200, self._merge(key, json.loads(body), query.get("fieldManager", "unknown"), subresource=match["sub"])

    def _log(self, key: tuple[str, str, str], query: dict[str, str]) -> str:
        pod = self.objects.get(key)
        if pod is None:
            raise Refused(404, "NotFound", f'pods "{key[2]}" not found')
        container = (pod["status"].get("containerStatuses") or [{}])[0]
        lines = pod.get("log")
        if lines is None:
            waiting = (container.get("state") or {}).get("waiting") or {}
            raise Refused(400, "BadRequest", f'container "model" in pod "{key[2]}" is waiting to start: {waiting.get("reason", "ContainerCreating")}')
        return "".join(f"{line}\n" for line in lines[-int(query.get("tailLines", len(lines))) :])

    # ── server-side apply ──

    def _apply(self, key: tuple[str, str, str], applied: Object, query: dict[str, str], match: re.Match[str]) -> tuple[int, Object]:
        if key[1] not in self.namespaces:
            raise Refused(404, "NotFound", f'namespaces "{key[1]}" not found')
        if "fieldManager" not in query:
            raise Refused(422, "Invalid", "fieldManager is required for apply patch")
        checked(applied)
        live = copy.deepcopy(self.objects.get(key))
        manager = query["fieldManager"]
        made = _merged_by_apply(live, applied, manager, force=query.get("force") == "true")
        if live and key[0] == "Deployment" and live["spec"]["selector"] != made["spec"]["selector"]:
            raise Refused(422, "Invalid", f'Deployment.apps "{key[2]}" is invalid: spec.selector: Invalid value: field is immutable')
        if key[0] == "InferenceService" and (said := kserve_controller.refusal(live, made)):
            raise Refused(400, "BadRequest", f'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: {said}')
        if query.get("dryRun") != "All":
            self._store(key, live, made)
            return (200 if live else 201), self.objects[key]
        return (200 if live else 201), made

    def _merge(self, key: tuple[str, str, str], change: Object, manager: str, *, subresource: str | None) -> Object:
        live = self.objects[key]
        made = copy.deepcopy(live)
        _merge_into(made, change)
        entries = [e for e in made["metadata"].get("managedFields", []) if (e["manager"], e["operation"]) != (manager, "Update")]
        owned = sorted(_leaves({k: v for k, v in change.items() if k != "metadata"}))
        made["metadata"]["managedFields"] = [*entries, {"manager": manager, "operation": "Update", "fields": [list(path) for path in owned]}]
        self._store(key, live, made)
        return self.objects[key]

    def _store(self, key: tuple[str, str, str], live: Object | None, made: Object) -> None:
        head = made["metadata"]
        if key[0] == "Secret" and "stringData" in made:
            made["data"] = {name: base64.b64encode(value.encode()).decode() for name, value in made.pop("stringData").items()}
        if live is None:
            head |= {"uid": f"uid-{next(self._versions)}", "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "generation": 1}
        elif {k: v for k, v in made.items() if k != "metadata"} == {k: v for k, v in live.items() if k != "metadata"} and head == live["metadata"]:
            return
        elif made.get("spec") != live.get("spec"):
            head["generation"] = live["metadata"].get("generation", 1) + 1
        head["resourceVersion"] = str(next(self._versions))
        made.setdefault("made", time.monotonic())
        self.objects[key] = made

    def _delete(self, key: tuple[str, str, str]) -> Object:
        gone = self.objects.pop(key)
        if key[0] == "Deployment":
            for pod in [k for k, thing in self.objects.items() if k[0] == "Pod" and thing.get("owner") == key[2]]:
                self._ending[pod] = time.monotonic() + 0.2
        for owned in [k for k, thing in self.objects.items() if _owned_by(thing, gone)]:
            self._ending[owned] = time.monotonic() + 0.2
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    # ── controllers ──

    def _control(self) -> None:
        for key, moment in list(self._ending.items()):
            if time.monotonic() > moment:
                self._ending.pop(key)
                if key in self.objects:
                    self._delete(key)
        for (kind, namespace, _), thing in list(self.objects.items()):
            if kind == "Deployment":
                self._make_pods(namespace, thing)
            if kind == "InferenceService":
                kserve_controller.reconcile(self, thing)
            if kind == "HTTPRoute" and "status" not in thing:
                parent = thing["spec"]["parentRefs"][0]
                known = ("Gateway", parent.get("namespace", namespace), parent["name"]) in self.objects
                accepted = {"type": "Accepted", "status": str(known), "reason": "Accepted" if known else "NoMatchingParent", "message": "no such gateway"}
                thing["status"] = {"parents": [{"parentRef": parent, "conditions": [accepted]}]}

    def bring_in_line(self, thing: Object) -> None:
        """Store what a controller makes, where it is not as it should be; what others added stays."""
        head = thing["metadata"]
        key = thing["kind"], head["namespace"], head["name"]
        live = self.objects.get(key)
        if live and live["spec"] == thing["spec"] and head.items() <= live["metadata"].items():
            return
        checked(thing)
        made = {**copy.deepcopy(live or {}), **copy.deepcopy(thing)}
        made["metadata"] = {**(live or {}).get("metadata", {}), **copy.deepcopy(head)}
        self._store(key, live, made)

    def _make_pods(self, namespace: str, workload: Object) -> None:
        template, name = workload["spec"]["template"], workload["metadata"]["name"]
        image = template["spec"]["containers"][0]["image"]
        scenario = next((fill for word, fill in PODS.items() if word in image), PODS["ready"])
        count = workload["spec"].get("replicas", 1)
        pods = [t for (k, ns, _), t in self.objects.items() if (k, ns) == ("Pod", namespace) and t.get("owner") == name]
        stale = [pod for pod in pods if pod["spec"] != template["spec"] or pod["template"] != template["metadata"]]
        for pod in stale:
            self._ending.setdefault(("Pod", namespace, pod["metadata"]["name"]), time.monotonic() + 0.1)
        current = [pod for pod in pods if pod not in stale]
        for _ in range(count - len(current) if scenario is not no_room else 0):
            serial = next(self._versions)
            pod: Object = {
                "apiVersion": "v1", "kind": "Pod", "owner": name, "spec": copy.deepcopy(template["spec"]), "template": copy.deepcopy(template["metadata"]),
                "metadata": {
                    "name": f"{name}-{serial}", "namespace": namespace, "labels": dict(template["metadata"]["labels"]),
                    "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                },
                "status": {"phase": "Pending"},
            }  # fmt: skip
            self.put(pod)
            current.append(pod)
        for pod in current:
            if pod["status"] == {"phase": "Pending"}:
                scenario(self, pod, image)
        ready = sum(_is_ready(pod) for pod in current)
        status: Object = {
            "observedGeneration": workload["metadata"].get("generation", 1), "replicas": len(pods) if stale else len(current), "updatedReplicas": len(current),
            "availableReplicas": ready + sum(_is_ready(pod) for pod in stale), "conditions": [],
        }  # fmt: skip
        if scenario is no_room:
            said = 'pods "x" is forbidden: exceeded quota: team, requested: limits.memory=512Mi, used: limits.memory=8Gi, limited: limits.memory=8Gi'
            status["conditions"] = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": said}]
        workload["status"] = status


# ── how pods come to be, by a word in their image's name ─────────────────────────────────────────────────────────────


def _container(pod: Object, image: str, state: Object, *, ready: bool = False, before: Object | None = None, restarts: int = 0) -> None:
    pod["status"] = {
        "phase": "Running" if "running" in state else "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}],
        "containerStatuses": [
            {"name": "model", "image": image, "imageID": f"{image}@sha256:{'ab' * 32}", "ready": ready, "restartCount": restarts, "state": state,
             "lastState": {"terminated": before} if before else {}}
        ],
    }  # fmt: skip


def runs(cluster: Cluster, pod: Object, image: str) -> None:
    _container(pod, image, {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, ready=True)
    pod["log"] = ["deployment.started delays/3 model=delays:3 port=8080"]


def no_image(cluster: Cluster, pod: Object, image: str) -> None:
    said = f'Back-off pulling image "{image}": ErrImagePull: rpc error: code = NotFound desc = failed to resolve reference "{image}": not found'
    _container(pod, image, {"waiting": {"reason": "ImagePullBackOff", "message": said}})


def not_allowed(cluster: Cluster, pod: Object, image: str) -> None:
    said = f'Back-off pulling image "{image}": pull access denied, repository does not exist or may require authorization: server message: unauthorized'
    _container(pod, image, {"waiting": {"reason": "ImagePullBackOff", "message": said}})


def takes_too_much(cluster: Cluster, pod: Object, image: str) -> None:
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    _container(pod, image, {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, before=ended, restarts=2)
    pod["log"] = ["loading"]


def fails_to_load(cluster: Cluster, pod: Object, image: str) -> None:
    ended = {"exitCode": 1, "reason": "Error"}
    _container(pod, image, {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, before=ended, restarts=2)
    pod["log"] = [
        "deployment.failed kind='exception while loading' where='score.py, line 4' FileNotFoundError: weights.bin",
        "Traceback (most recent call last):",
        '  File "score.py", line 4, in init',
        "FileNotFoundError: weights.bin",
    ]  # fmt: skip


def ends_unsaid(cluster: Cluster, pod: Object, image: str) -> None:
    _container(pod, image, {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, before={"exitCode": 3, "reason": "Error"}, restarts=1)
    pod["log"] = ["exec format error", ""]


def no_node(cluster: Cluster, pod: Object, image: str) -> None:
    said = "0/3 nodes are available: 3 Insufficient memory. preemption: 0/3 nodes are available: 3 No preemption victims found."
    pod["status"] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}]}


def no_secret(cluster: Cluster, pod: Object, image: str) -> None:
    _container(pod, image, {"waiting": {"reason": "CreateContainerConfigError", "message": "container has runAsNonRoot and image will run as root"}})


def never_ready(cluster: Cluster, pod: Object, image: str) -> None:
    _container(pod, image, {"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    pod["log"] = ["loading a large model"]
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    cluster.put({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{name}.1", "namespace": namespace}, "type": "Warning", "reason": "Unhealthy",
        "message": "Startup probe failed: HTTP probe failed with statuscode: 503", "involvedObject": {"kind": "Pod", "name": name},
        "lastTimestamp": "2026-01-01T00:00:00Z",
    })  # fmt: skip


def no_volume(cluster: Cluster, pod: Object, image: str) -> None:
    _container(pod, image, {"waiting": {"reason": "ContainerCreating"}})
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    cluster.put({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{name}.1", "namespace": namespace}, "type": "Warning", "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "token" : secret "mlops-delays" not found', "involvedObject": {"kind": "Pod", "name": name},
        "lastTimestamp": "2026-01-01T00:00:00Z",
    })  # fmt: skip


def silent(cluster: Cluster, pod: Object, image: str) -> None:
    _container(pod, image, {"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    pod["status"]["conditions"][1] |= {"reason": "ContainersNotReady", "message": "containers with unready status: [model]"}
    pod["log"] = []


def no_room(cluster: Cluster, pod: Object, image: str) -> None:
    """No pod is made at all."""


PODS: dict[str, Callable[[Cluster, Object, str], None]] = {
    "not-there": no_image, "private": not_allowed, "greedy": takes_too_much, "broken": fails_to_load, "unsaid": ends_unsaid, "huge": no_node,
    "as-root": no_secret, "slow": never_ready, "over-quota": no_room, "unmounted": no_volume, "silent": silent, "ready": runs,
}  # fmt: skip


def _owned_by(thing: Object, owner: Object) -> bool:
    return any(ref["uid"] == owner["metadata"].get("uid") for ref in thing["metadata"].get("ownerReferences") or [])


def _is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


# ── the rules of the API ─────────────────────────────────────────────────────────────────────────────────────────────


def checked(thing: Object) -> None:
    """Raises Refused (422) for what the kind's schema does not take, unknown fields included."""
    own = {"HTTPRoute": "httproute.schema.json", "InferenceService": "inferenceservice.schema.json"}
    try:
        if thing["kind"] in own:
            jsonschema.validate(thing, json.loads((SCHEMAS / own[thing["kind"]]).read_text()))
            if thing["kind"] == "InferenceService":
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": kserve_controller.pod_of(thing)}
                kubernetes_validate.validate(pod, VERSION, strict=True)
        else:
            kubernetes_validate.validate(thing, VERSION, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        raise Refused(422, "Invalid", f"{thing['kind']} is invalid: {str(error)[:500]}") from None


Path_ = tuple[str, ...]


def _leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths of what can be owned: lists whose items have names are maps by name, other lists are one value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, f"f:{key}"))
    elif _keyed(value):
        for item in value:
            yield from _leaves({k: v for k, v in item.items() if k != "name"} or item["name"], (*path, f"k:{item['name']}"))
    else:
        yield path


def _keyed(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "name" in item for item in value)


def _get(value: Any, path: Path_) -> Any:
    for step in path:
        if step.startswith("k:"):
            value = next((item for item in value or [] if isinstance(item, dict) and item.get("name") == step[2:]), None)
        else:
            value = value.get(step[2:]) if isinstance(value, dict) else None
        if value is None:
            return None
    return value


def _remove(value: Any, path: Path_) -> None:
    parent = _get(value, path[:-1]) if len(path) > 1 else value
    if isinstance(parent, dict):
        parent.pop(path[-1][2:], None)
    elif isinstance(parent, list):
        parent[:] = [item for item in parent if item.get("name") != path[-1][2:]]


def _merge_into(live: Any, change: Any) -> None:
    for key, value in change.items():
        if value is None:
            live.pop(key, None)
        elif isinstance(value, dict) and isinstance(live.get(key), dict):
            _merge_into(live[key], value)
        elif _keyed(value) and _keyed(live.get(key)):
            named = {item["name"]: item for item in live[key]}
            for item in value:
                if item["name"] in named:
                    _merge_into(named[item["name"]], item)
                else:
                    live[key].append(copy.deepcopy(item))
        else:
            live[key] = copy.deepcopy(value)


def _merged_by_apply(live: Object | None, applied: Object, manager: str, *, force: bool) -> Object:
    made = copy.deepcopy(live) if live else {"apiVersion": applied["apiVersion"], "kind": applied["kind"], "metadata": {}}
    entries: list[Object] = made["metadata"].pop("managedFields", [])
    stringless = {k: v for k, v in applied.items() if k not in ("apiVersion", "kind")}
    wanted = {path for path in _leaves(stringless) if path not in (("f:metadata", "f:name"), ("f:metadata", "f:namespace"))}
    mine = next((e for e in entries if (e["manager"], e["operation"]) == (manager, "Apply")), {"fields": []})
    others = [e for e in entries if e is not mine]
    causes = []
    for path in sorted(wanted):
        if _get(made, path) != _get(stringless, path):
            causes += [(e["manager"], path) for e in others if list(path) in e["fields"]]
    if causes and not force:
        said = "; ".join(f'conflict with "{who}": .{".".join(step[2:] for step in path)}' for who, path in causes)
        listed = [{"reason": "FieldManagerConflict", "message": f'conflict with "{who}"', "field": ".".join(s[2:] for s in path)} for who, path in causes]
        raise Refused(409, "Conflict", f"Apply failed with {len(causes)} conflict: {said}", listed)
    for who in others:
        who["fields"] = [f for f in who["fields"] if (who["manager"], tuple(f)) not in causes]
    for path in {tuple(f) for f in mine["fields"]} - wanted:
        if not any(list(path) in e["fields"] for e in others):
            _remove(made, path)
    _merge_into(made, stringless)
    for path in wanted:  # a list without names is one value
        if isinstance(_get(stringless, path), list):
            parent = _get(made, path[:-1])
            parent[path[-1][2:]] = copy.deepcopy(_get(stringless, path))
    _in_order(made, stringless)
    owner = {"manager": manager, "operation": "Apply", "apiVersion": applied["apiVersion"], "fields": [list(path) for path in sorted(wanted)]}
    made["metadata"]["managedFields"] = [*[e for e in others if e["fields"]], owner]
    return made


def _in_order(made: Object, applied: Object) -> None:
    """Rules of a route and their backends are taken over whole: in the CRD these lists are atomic."""
    if applied.get("spec", {}).get("rules") is not None:
        made["spec"]["rules"] = copy.deepcopy(applied["spec"]["rules"])


def _selected(thing: Object, query: dict[str, str]) -> bool:
    labels = thing["metadata"].get("labels") or {}
    for part in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = part.partition("=")
        if labels.get(key) != value.lstrip("="):
            return False
    return all(str(thing.get(k)) == v for k, _, v in (p.partition("=") for p in filter(None, query.get("fieldSelector", "").split(","))))


def discovered(path: str, missing: set[str]) -> Object | None:
    """What the server has, as kubectl asks for it."""
    groups: dict[str, list[str]] = {}
    for version, _ in PLURALS:
        if "/" in version:
            groups.setdefault(version.split("/")[0], []).append(version)
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        named = [
            {"name": g, "versions": [{"groupVersion": v, "version": v.split("/")[1]} for v in dict.fromkeys(vs)],
             "preferredVersion": {"groupVersion": vs[0], "version": vs[0].split("/")[1]}}
            for g, vs in groups.items()
        ]  # fmt: skip
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
    version = path.removeprefix("/apis/") if path.startswith("/apis/") else path.removeprefix("/api/")
    kinds = [(plural, kind) for (v, plural), kind in PLURALS.items() if v == version and kind not in missing]
    if not kinds or path.count("/") > 3:
        return None
    verbs = ["get", "list", "patch", "delete", "create", "update"]
    resources = [{"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs} for plural, kind in kinds]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


# ── HTTPS ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class ApiServer:
    """The cluster behind TLS on 127.0.0.1, and a kubeconfig that leads there."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster()
        self.folder = folder
        certificate, key = _certificate(folder)
        self._http = _Listener(("127.0.0.1", 0), _handler(self.cluster))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(self._config(certificate)))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def _config(self, certificate: Path) -> Object:
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority-data": base64.b64encode(certificate.read_bytes()).decode()}
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "tester", "user": {"token": TOKEN}}, {"name": "stranger", "user": {"token": "wrong"}}],
            "contexts": [
                {"name": "tests", "context": {"cluster": "here", "user": "tester", "namespace": "models"}},
                {"name": "strangers", "context": {"cluster": "here", "user": "stranger", "namespace": "models"}},
            ],
        }  # fmt: skip

    def stop(self) -> None:
        """Listen no more."""
        self.cluster.silent.clear()
        self._http.shutdown()
        self._http.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is none of the tests' business."""


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            while cluster.silent.is_set():
                time.sleep(0.05)
            time.sleep(cluster.thinks_seconds if self.command == "PATCH" else 0)
            try:
                if self.headers.get("authorization") != f"Bearer {TOKEN}":
                    raise Refused(401, "Unauthorized", "Unauthorized")
                code, said = cluster.answer(self.command, self.path, body, self.headers.get("content-type", ""))
            except Refused as refusal:
                code, said = refusal.status["code"], refusal.status
            kind, sent = ("text/plain", said.encode()) if isinstance(said, str) else ("application/json", json.dumps(said).encode())
            self.send_response(code)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_PATCH = do_DELETE = do_POST = _do

        def log_message(self, *_: Any) -> None:
            """Tests look at `calls`."""

    return Handler


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "tls.crt", folder / "tls.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *words.split(), "-out", str(certificate), "-keyout", str(key)], check=True, capture_output=True)
    return certificate, key
