"""What a cluster says of a deployment, in words: the same pods and events that `kubectl describe` shows, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from ..store.deployments import Reason
from .manifests import DEPLOYMENT, ENDPOINT, INFERENCE_SERVICE, STATE, Manifest

State = Literal["starting", "healthy", "unhealthy", "gone"]
_NO_IMAGE = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"})
_TRYING_AGAIN = frozenset({"ErrImagePull", "RegistryUnavailable"})
"""Seen before the kubelet's second try: it may yet succeed."""
_NO_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_PODS_TOLD = 3
_TOLD = re.compile(r"deployment\.failed kind='(?P<kind>[^']*)' where='(?P<where>[^']*)' (?P<message>.*)")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a namespace found of this workspace."""

    workloads: dict[str, Manifest] = {}
    """Deployments of ours by name."""
    services: dict[str, Manifest] = {}
    """InferenceServices of ours by name."""
    predictors: dict[str, Manifest] = {}
    """The Deployments that KServe made, by the name of their InferenceService."""
    pods: list[Manifest] = []
    events: list[Manifest] = []
    """Warnings of the namespace."""
    routes: dict[str, Manifest] = {}
    """HTTPRoutes by name."""
    logs: dict[str, list[str]] = {}
    """The last lines of pods whose container ended."""
    usage: dict[str, Manifest] = {}
    """PodMetrics by pod, where the cluster has them."""

    @property
    def names(self) -> set[str]:
        """Of all that was applied to run deployments."""
        return {*self.workloads, *self.services}

    def applied(self, name: str) -> Manifest | None:
        """What was applied to run a deployment: its Deployment, or its InferenceService."""
        return self.services.get(name) or self.workloads.get(name)

    def runs(self, name: str) -> Manifest:
        """The Deployment that runs it: ours, or the one that KServe made; empty while there is none."""
        return (self.predictors if name in self.services else self.workloads).get(name) or {}

    def pods_of(self, workload: Manifest) -> list[Manifest]:
        """The pods with a workload's labels, newest first."""
        head = workload["metadata"]
        wanted = {key: head["labels"][key] for key in (ENDPOINT, DEPLOYMENT)} | ({INFERENCE_SERVICE: head["name"]} if head["name"] in self.services else {})
        found = [pod for pod in self.pods if wanted.items() <= (pod["metadata"].get("labels") or {}).items()]
        return sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""), reverse=True)


def judged(name: str, seen: Seen, *, up: bool) -> tuple[State, Reason | None]:
    """How the workload called *name* is, and why it is not healthy.  *up* says that it was healthy before."""
    if seen.applied(name) is None:
        return "gone", Reason(kind="exited", message=f"What ran it, {name}, was deleted on the cluster.")
    if _available(seen.runs(name), up=up) and (up or _taken_over(name, seen)):
        return "healthy", None
    reason = why(name, seen)
    if up:
        return "unhealthy", reason or Reason(kind="unhealthy", message=f"{standing(name, seen)}.")
    return ("gone" if reason and reason.kind in _FINAL else "starting"), reason


_FINAL = frozenset({"image missing", "out of memory", "quota", "refused", "cannot start", "exited", "missing package", "wrong path", "exception while loading"})
"""What waiting does not mend.  Not among them: `unschedulable` (a node may come), `held up` (so may a volume) and `unhealthy` (it may yet answer)."""


def _available(workload: Manifest, *, up: bool) -> bool:
    """Whether a pod of it answers; of one that is not *up* yet, a pod of its newest state."""
    status = workload.get("status") or {}
    available, updated, replicas = (status.get(key) or 0 for key in ("availableReplicas", "updatedReplicas", "replicas"))
    if up or not available:
        return bool(available)
    current = (status.get("observedGeneration") or 0) >= (workload["metadata"].get("generation") or 0)
    return current and bool(updated) and available > replicas - updated  # more answer than there can be of earlier states


def _taken_over(name: str, seen: Seen) -> bool:
    """Whether what runs is what was applied: KServe brings its Deployment in line a moment later, and then says that it is ready."""
    service = seen.services.get(name)
    if service is None:
        return True
    template = (seen.runs(name).get("spec") or {}).get("template") or {}
    handed_on = (template.get("metadata") or {}).get("annotations") or {}
    return handed_on.get(STATE) == service["metadata"]["annotations"].get(STATE) and _condition(service, "PredictorReady") is not None


def why(name: str, seen: Seen) -> Reason | None:
    """The first cause found, the hardest first; None when it is simply not there yet."""
    return next(_causes(name, seen), None)


def _causes(name: str, seen: Seen) -> Iterator[Reason]:
    applied, workload = seen.applied(name), seen.runs(name)
    pods = seen.pods_of(applied) if applied else []
    if mode := _other_mode(seen.services.get(name)):
        yield Reason(kind="refused", message=f"KServe runs it in the mode {mode}, not in its standard one.", hint="KServe 0.16 or newer, or --style plain")
    for pod in pods:
        yield from _container_causes(pod, seen.logs.get(pod["metadata"]["name"], []))
    if refused := _condition(workload, "ReplicaFailure"):
        yield _not_created(refused.get("message") or "")
    for cause in (_evicted_or_unplaced, _unanswered, _held_up):
        for pod in pods:
            yield from cause(pod, seen)
    if (late := _condition(workload, "Progressing", status="False")) and not pods:
        yield Reason(kind="cannot start", message=late.get("message") or "The Deployment makes no progress.")
    if said := _said_by_kserve(seen.services.get(name), begun=bool(pods)):
        yield Reason(kind="held up", message=f"KServe does not bring it up yet: {said}")


def _other_mode(service: Manifest | None) -> str:
    """The mode in which KServe runs an InferenceService, where that is not the one that makes a Deployment and a Service."""
    mode = ((service or {}).get("status") or {}).get("deploymentMode") or ""
    return "" if mode in ("Standard", "RawDeployment") else mode


def _said_by_kserve(service: Manifest | None, *, begun: bool) -> str:
    """Why an InferenceService is not ready.  Once its pods are there, only what keeps KServe from bringing them in line: pods speak for themselves."""
    for kind in ("PredictorReady", "Ready"):
        said = _condition(service or {}, kind, status="False") or _condition(service or {}, kind, status="Unknown") or {}
        if (said.get("reason") or said.get("message")) and (not begun or said.get("reason") == "ReconcileFailed"):
            return ": ".join(filter(None, [said.get("reason"), said.get("message")]))
    return ""


def _container_causes(pod: Manifest, log: Sequence[str]) -> Iterator[Reason]:
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        said, image = waiting.get("message") or "", container.get("image") or "its image"
        if waiting.get("reason") in _NO_IMAGE:
            kind = "pulling" if waiting["reason"] in _TRYING_AGAIN else "image missing"
            yield Reason(kind=kind, message=f"The image {image} could not be pulled: {said or waiting['reason']}", hint=_image_hint(said))
        elif waiting.get("reason") in _NO_CONTAINER:
            yield Reason(kind="cannot start", message=f"Its container was not made: {said or waiting['reason']}")
        if ended := _ended(container):
            yield _end(ended, pod, log)


def _ended(container: Manifest) -> Manifest | None:
    """How a container that does not run now ended."""
    state, before = container.get("state") or {}, container.get("lastState") or {}
    return None if state.get("running") else state.get("terminated") or before.get("terminated")


def _end(ended: Mapping[str, Any], pod: Manifest, log: Sequence[str]) -> Reason:
    if ended.get("reason") == "OOMKilled":
        limit = _memory_limit(pod)
        message = f"It was killed for taking more memory than {f'its limit of {limit}' if limit else 'its node had'}."
        return Reason(kind="out of memory", message=message, log=_text(log), hint="deploy it with more --memory")
    if told := next((m for line in reversed(log) if (m := _TOLD.match(line))), None):
        tail = list(log)[[bool(_TOLD.match(line)) for line in log].index(True) + 1 :]
        return Reason(kind=told["kind"], message=told["message"], where=told["where"], traceback=_text(tail), log=_text(log))
    last = next((line for line in reversed(log) if line.strip()), "")
    message = f"The scoring server ended with exit code {ended.get('exitCode')}{f': {last.strip()}' if last else ''}"
    return Reason(kind="exited", message=message, log=_text(log))


def _memory_limit(pod: Manifest) -> str:
    containers = (pod.get("spec") or {}).get("containers") or [{}]
    return ((containers[0].get("resources") or {}).get("limits") or {}).get("memory", "")


def _not_created(said: str) -> Reason:
    """Why the cluster made no pod: a quota, or a rule that it breaks."""
    if "quota" in said:
        return Reason(kind="quota", message=f"The namespace's quota is used up: {said}", hint="less --cpus, --memory or --replicas, or another --namespace")
    return Reason(kind="refused", message=f"The cluster does not make its pod: {said}")


def _evicted_or_unplaced(pod: Manifest, seen: Seen) -> Iterator[Reason]:
    """What took the pod from its node, or keeps it from one."""
    status = pod.get("status") or {}
    if status.get("reason") == "Evicted":
        message = f"Its pod was evicted: {status.get('message', '')}".strip()
        yield Reason(kind="evicted", message=message, hint="--memory, so that its node keeps room for it")
    placed = _condition(pod, "PodScheduled", status="False") or {}
    if placed.get("reason") == "Unschedulable":
        hint = "--cpus, --memory, --gpus, --node-selector or --toleration that a node can meet"
        yield Reason(kind="unschedulable", message=f"No node takes it: {placed.get('message', '')}", hint=hint)


def _unanswered(pod: Manifest, seen: Seen) -> Iterator[Reason]:
    """What the kubelet last said of the pod's probes, unless it is ready now."""
    latest = {} if _condition(pod, "Ready") else _latest(event for event in _about(pod, seen.events) if event.get("reason") == "Unhealthy")
    if said := latest.get("message"):
        yield Reason(kind="unhealthy", message=f"It does not answer its health check: {said}", log=_text(seen.logs.get(pod["metadata"]["name"], [])))


def _held_up(pod: Manifest, seen: Seen) -> Iterator[Reason]:
    """What the kubelet last said of a pod none of whose containers has begun: a volume, its network, a sandbox."""
    begun = any((c.get("state") or {}).get("running") or _ended(c) for c in (pod.get("status") or {}).get("containerStatuses") or [])
    latest = {} if begun else _latest(event for event in _about(pod, seen.events) if event.get("reason") not in ("FailedScheduling", "Unhealthy"))
    if said := f"{latest.get('reason', '')}: {latest.get('message', '')}".strip(": "):
        yield Reason(kind="held up", message=f"Its pod {pod['metadata']['name']} cannot begin yet: {said}")


def _about(pod: Manifest, events: Sequence[Manifest]) -> list[Manifest]:
    return [event for event in events if (event.get("involvedObject") or {}).get("name") == pod["metadata"]["name"]]


def _latest(events: Iterable[Manifest]) -> Manifest:
    return max(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default={})


def standing(name: str, seen: Seen) -> str:
    """How the pods of the workload called *name* stand, in the cluster's own words."""
    applied = seen.applied(name)
    pods = seen.pods_of(applied) if applied else []
    wanted = (seen.runs(name).get("spec") or {}).get("replicas", 1)
    if not pods:
        return "It was scaled to no pods on the cluster" if wanted == 0 else f"The cluster has made none of its pods yet ({wanted} wanted)"
    told = "; ".join(f"{pod['metadata']['name']}: {_stands(pod)}" for pod in pods[:_PODS_TOLD])
    return f"None of its pods is ready ({told}{'; …' if len(pods) > _PODS_TOLD else ''})"


def _stands(pod: Manifest) -> str:
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "it is being ended"
    ready = _condition(pod, "Ready", status="False") or _condition(pod, "Ready", status="Unknown") or {}
    said = ": ".join(filter(None, [ready.get("reason") or status.get("reason"), ready.get("message") or status.get("message")]))
    return said or str(status.get("phase") or "nothing is known of it")


def _condition(thing: Manifest, kind: str, *, status: str = "True") -> Manifest | None:
    conditions = (thing.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind and c.get("status") == status), None)


def _image_hint(said: str) -> str:
    asked = any(word in said.lower() for word in ("unauthorized", "denied", "authorization", "forbidden"))
    return "--pull-secret NAME, a Secret of the namespace with the registry's password" if asked else "--image with a reference that the nodes can pull"


def refused_route(route: Manifest | None) -> str:
    """Why a gateway does not take the endpoint's route; empty when it does, or has not said."""
    for parent in ((route or {}).get("status") or {}).get("parents") or []:
        for condition in parent.get("conditions") or []:
            if condition.get("status") == "False" and condition.get("type") in ("Accepted", "ResolvedRefs"):
                return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return ""


def ended_pods(seen: Seen) -> list[str]:
    """Pods whose log says why their container ended."""
    statuses = ((pod, container) for pod in seen.pods for container in (pod.get("status") or {}).get("containerStatuses") or [])
    return [pod["metadata"]["name"] for pod, container in statuses if _ended(container)]


def used(pods: Sequence[Manifest], usage: Mapping[str, Manifest]) -> tuple[float | None, float | None]:
    """Cores and megabytes in use by *pods*, where the cluster measures that."""
    measured = [c.get("usage") or {} for pod in pods for c in (usage.get(pod["metadata"]["name"]) or {}).get("containers") or []]
    if not measured:
        return None, None
    return sum(quantity(m.get("cpu", "0")) for m in measured), sum(quantity(m.get("memory", "0")) for m in measured) / 1e6


def restarts(pods: Sequence[Manifest]) -> int:
    """How often the cluster restarted their containers."""
    return sum(container.get("restartCount") or 0 for pod in pods for container in (pod.get("status") or {}).get("containerStatuses") or [])


def digest(pods: Sequence[Manifest]) -> str:
    """The digest of the image that the newest pod runs."""
    images = (c.get("imageID") or "" for pod in pods for c in (pod.get("status") or {}).get("containerStatuses") or [])
    return next((image.rpartition("@")[2] for image in images if image), "")


def quantity(text: str) -> float:
    """A quantity as Kubernetes writes it — `250m`, `64Mi`, `1200n` — as a number."""
    found = _QUANTITY.fullmatch(str(text))
    return float(found[1]) * _SUFFIXES[found[2]] if found else 0.0


_QUANTITY = re.compile(r"([0-9.]+(?:[eE][0-9]+)?)(n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|)")
_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _text(lines: Sequence[str]) -> str:
    return "\n".join(list(lines)[-20:])
