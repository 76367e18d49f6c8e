"""One thread for each cluster: it applies what was asked for, deletes what is no longer wanted, and looks once a second.

The agent's loop only leaves word here and reads what was last seen, so a cluster that does not answer holds up nothing else.  All that is
kept can be lost: what should be is asked for again by the next agent, and applying it twice changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import msgspec

from ..errors import ClusterRefused, ClusterUnreachable, MlopsError
from . import reading
from .client import OF_A_WORKLOAD, OF_AN_ENDPOINT, OF_AN_INFERENCE_SERVICE, Api, Context
from .manifests import DEPLOYMENT, ENDPOINT, WORKSPACE, Manifest, Runner
from .reading import Seen

LOOK_SECONDS = 0.8
_AGAIN_SECONDS = 2.0
_AFRESH_SECONDS = 30.0
"""So often what is in force is applied all the same: what somebody changed of it is taken back."""
_IDLE_SECONDS = 5.0
_SWEEP_SECONDS = 300.0
_LOG_LINES = 60
_MOST_EVENTS = 500


class _Wanted:
    """Manifests that are to be in force together, and how far that is."""

    __slots__ = ("done", "error", "manifests", "since", "tried")

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests, self.done, self.tried, self.since = manifests, False, float("-inf"), float("inf")
        self.error: MlopsError | None = None


class Keeper:
    """What one workspace wants of one namespace of a cluster."""

    def __init__(self, context: Context, namespace: str, workspace: str) -> None:
        self.context, self.namespace, self.workspace = context, namespace, workspace
        self._news = threading.Condition()
        self._wanted: dict[str, _Wanted] = {}
        self._unwanted: list[tuple[dict[str, str], Runner]] = []
        self._known: frozenset[str] | None = None
        self._seen: Seen | None = None
        self._seen_at = self._asked_at = self._swept_at = float("-inf")
        self._trouble: MlopsError | None = None
        self._metrics = self._kserve = True
        self._thread: threading.Thread | None = None

    # ── for the agent's loop: none of these waits ──

    def want(self, key: str, manifests: Sequence[Manifest], *, anew: bool = False) -> None:
        """Have *manifests* in force from here on; again where they changed, or *anew*."""
        with self._news:
            known = self._wanted.get(key)
            if known is None or known.manifests != manifests or (anew and known.done):
                self._wanted[key] = _Wanted(manifests)
            self._awake()

    def withdraw(self, key: str, labels: Mapping[str, str], *, style: Runner) -> None:
        """Have all of this style with these labels deleted, and forget what was wanted under *key*."""
        with self._news:
            self._wanted.pop(key, None)
            self._unwanted.append((dict(labels), style))
            self._awake()

    def forget(self, key: str) -> None:
        """Want nothing any more under *key*; somebody else deletes it."""
        with self._news:
            self._wanted.pop(key, None)

    def expect(self, names: frozenset[str]) -> None:
        """Have workloads of this workspace deleted that are none of these."""
        with self._news:
            self._known = names
            if names or time.monotonic() - self._swept_at > _SWEEP_SECONDS:  # a place that nothing runs in is looked at seldom
                self._swept_at = time.monotonic()
                self._awake()

    def seen(self, key: str | None = None) -> Seen | None:
        """What was found last, since what is wanted under *key* is in force; None before that.

        Raises ClusterUnreachable, and what the cluster said against *key*.
        """
        with self._news:
            self._awake()
            if self._trouble:
                raise self._trouble
            wanted = self._wanted.get(key) if key else None
            if wanted and wanted.error:
                raise wanted.error
            return self._seen if wanted is None or wanted.since <= self._seen_at else None

    # ── the thread ──

    def _awake(self) -> None:
        self._asked_at = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._keep, daemon=True, name=f"cluster {self.context.name}")
            self._thread.start()
        self._news.notify_all()

    def _keep(self) -> None:
        api: Api | None = None
        while time.monotonic() - self._asked_at < _IDLE_SECONDS:
            try:
                api = api or Api(self.context)
                self._step(api)
                trouble = None
            except MlopsError as error:
                trouble = error
                api = None if isinstance(error, ClusterUnreachable) else api  # the kubeconfig may have changed: read it anew
            with self._news:
                self._trouble = trouble
                self._news.wait_for(self._due, timeout=LOOK_SECONDS)
        if api:
            api.close()

    def _due(self) -> bool:
        now = time.monotonic()
        return bool(self._unwanted) or any(not w.done and now - w.tried > _AGAIN_SECONDS for w in self._wanted.values())

    def _step(self, api: Api) -> None:
        self._delete_unwanted(api)
        self._apply_wanted(api)
        began = time.monotonic()
        seen = self._look(api)
        with self._news:
            self._seen, self._seen_at = seen, began
        self._delete_strays(api, seen)

    def _delete_unwanted(self, api: Api) -> None:
        while self._unwanted:
            labels, style = self._unwanted[0]
            delete(api, self.namespace, labels, style=style)
            with self._news:
                self._unwanted.pop(0)

    def _apply_wanted(self, api: Api) -> None:
        for wanted in list(self._wanted.values()):
            if time.monotonic() - wanted.tried < (_AFRESH_SECONDS if wanted.done else _AGAIN_SECONDS):
                continue
            wanted.tried = time.monotonic()
            try:
                for manifest in wanted.manifests:
                    api.apply(manifest, workspace=self.workspace)
            except ClusterUnreachable as error:
                wanted.error = error
                raise
            except MlopsError as error:
                wanted.error = error
                continue
            wanted.since = wanted.since if wanted.done else time.monotonic()
            wanted.error, wanted.done = None, True

    def _look(self, api: Api) -> Seen:
        ours = {WORKSPACE: self.workspace}
        workloads, predictors = _by_owner(api.found("Deployment", self.namespace, labels=ours))
        services = {item["metadata"]["name"]: item for item in self._inference_services(api, ours)}
        routes = {item["metadata"]["name"]: item for item in _where_there_are(api, "HTTPRoute", self.namespace, ours)}
        pods = api.found("Pod", self.namespace, labels=ours)
        seen = Seen(workloads=workloads, predictors=predictors, services=services, pods=pods, routes=routes)
        return msgspec.structs.replace(seen, events=self._warnings(api, seen), logs=self._logs(api, seen), usage=self._used(api, seen))

    def _inference_services(self, api: Api, labels: Mapping[str, str]) -> list[Manifest]:
        """Not asked for where the cluster has no KServe, or none for us, and none is wanted."""
        wanted = any(manifest["kind"] == "InferenceService" for w in list(self._wanted.values()) for manifest in w.manifests)
        if not (wanted or self._kserve):
            return []
        try:
            found = api.found("InferenceService", self.namespace, labels=labels)
        except ClusterRefused as refusal:
            if wanted and refusal.status != 404:
                raise
            self._kserve = False
            return []
        self._kserve = True
        return found

    def _warnings(self, api: Api, seen: Seen) -> list[Manifest]:
        """Only asked for where something is not as it should be: a busy namespace has many."""
        if all(reading.judged(name, seen, up=False)[0] == "healthy" for name in seen.names):
            return []
        return api.found("Event", self.namespace, fields={"type": "Warning"})[-_MOST_EVENTS:]

    def _logs(self, api: Api, seen: Seen) -> dict[str, list[str]]:
        logs = {}
        for pod in reading.ended_pods(seen):
            try:
                logs[pod] = api.log(pod, self.namespace, lines=_LOG_LINES)
            except ClusterRefused:
                continue  # gone, or its log is not to be had: what the pod's status says must do
        return logs

    def _used(self, api: Api, seen: Seen) -> dict[str, Manifest]:
        if not self._metrics or not seen.pods:
            return {}
        try:
            found = api.found("PodMetrics", self.namespace, labels={WORKSPACE: self.workspace})
        except ClusterRefused:  # no metrics server, or not for us
            self._metrics = False
            return {}
        return {item["metadata"]["name"]: item for item in found}

    def _delete_strays(self, api: Api, seen: Seen) -> None:
        with self._news:
            known, wanted = self._known, {manifest["metadata"]["name"] for w in self._wanted.values() for manifest in w.manifests}
        if known is None:
            return
        of_a_style: tuple[tuple[dict[str, Manifest], Runner], ...] = (seen.workloads, "plain"), (seen.services, "kserve")
        for there, style in of_a_style:
            for name in set(there) - known - wanted:
                labels = there[name]["metadata"]["labels"]
                delete(api, self.namespace, {key: labels[key] for key in (WORKSPACE, ENDPOINT, DEPLOYMENT) if key in labels}, style=style)


def delete(api: Api, namespace: str, labels: Mapping[str, str], *, style: Runner = "plain") -> None:
    """Delete a deployment's objects, and its endpoint's own once no other deployment of it is left."""
    for kind in OF_AN_INFERENCE_SERVICE if style == "kserve" else OF_A_WORKLOAD:
        api.delete(kind, namespace, labels=labels)
    endpoint = {WORKSPACE: labels[WORKSPACE], ENDPOINT: labels[ENDPOINT]}
    if not running(api, namespace, endpoint):
        for kind in OF_AN_ENDPOINT:
            api.delete(kind, namespace, labels=endpoint)


def running(api: Api, namespace: str, labels: Mapping[str, str]) -> set[str]:
    """The names of what was applied to run deployments: Deployments that nothing else made, and InferenceServices."""
    deployments, _ = _by_owner(api.found("Deployment", namespace, labels=labels))
    try:
        services = _where_there_are(api, "InferenceService", namespace, labels)
    except ClusterRefused as refusal:
        if refusal.status != 403:  # what we may not even list, we did not apply
            raise
        services = []
    return {*deployments, *(item["metadata"]["name"] for item in services)}


def _by_owner(deployments: Sequence[Manifest]) -> tuple[dict[str, Manifest], dict[str, Manifest]]:
    """Those that nothing else made, by name; and those of InferenceServices, by the InferenceService's name."""
    plain, made = {}, {}
    for item in deployments:
        owners = item["metadata"].get("ownerReferences") or []
        owner = next((owner["name"] for owner in owners if owner.get("kind") == "InferenceService"), None)
        if owner:
            made[owner] = item
        elif not owners:
            plain[item["metadata"]["name"]] = item
    return plain, made


def _where_there_are(api: Api, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
    try:
        return api.found(kind, namespace, labels=labels)
    except ClusterRefused as refusal:
        if refusal.status == 404:  # the cluster does not know this kind
            return []
        raise


_keepers: dict[tuple[Context, str, str], Keeper] = {}
_making = threading.Lock()


def keeper(context: Context, namespace: str, workspace: str) -> Keeper:
    """This process's keeper of a namespace."""
    with _making:
        return _keepers.setdefault((context, namespace, workspace), Keeper(context, namespace, workspace))
