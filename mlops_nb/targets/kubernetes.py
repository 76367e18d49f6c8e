"""The target kubernetes: each deployment is a Deployment with its Service on a cluster, or an InferenceService of which KServe makes both;
each endpoint is an HTTPRoute that divides by weight.

The cluster itself keeps what fails running, so the agent only looks; it takes back what somebody changed of ours, and applies anew what
somebody deleted.  The agent's loop never waits for a cluster: `kubernetes.keeping` talks to it in a thread of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from .. import keys, packaging, splits, store
from ..errors import BadOption, ClusterRefused, ClusterUnreachable, MlopsError, StillRunning
from ..kubernetes import client, keeping, manifests, names, reading
from ..kubernetes.client import Api, Context
from ..kubernetes.manifests import DEPLOYMENT, ENDPOINT, INFERENCE_SERVICE, WORKSPACE, Manifest, Placement, Runner, Toleration, Workload
from ..settings import Workspace
from ..store import deployments as table
from ..store import state
from ..store.deployments import Deployment, Reason
from ..store.identity import at_home, workspace_id
from . import Observed, Usage

if TYPE_CHECKING:
    from ..progress import Reporter
    from ..store.deployments import DeploymentSpec
    from ..store.environments import Environment
    from ..store.models import ModelVersion

ABILITIES = frozenset({"traffic", "logs", "usage", "cpus", "memory", "gpus", "variables"})
OPTIONS = frozenset(
    {"image", "namespace", "context", "gateway", "hostname", "replicas", "max_replicas", "pull_secrets", "tolerations", "node_selector", "egress", "style"}
)  # fmt: skip
TRAFFIC: Literal["own"] = "own"
_TOLERATION = re.compile(r"(?P<key>[^=:]+)(=(?P<value>[^=:]*))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?")
_STOP_SECONDS = 25.0
_LOG_SECONDS = 1.0
_logs: dict[str, tuple[float, list[str]]] = {}


# ── before anything is done ──────────────────────────────────────────────────────────────────────────────────────────


def check(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Raises BadOption for what cannot be said of a pod, MissingExtra without lightkube."""
    _, namespace = client.resolved(spec.options.get("context"))
    check_gateway(placement(spec, namespace=namespace, image=image_of(version, spec)))


def image_of(version: ModelVersion, spec: DeploymentSpec) -> str | None:
    """The image that *spec* names, else the one that was packaged and pushed."""
    if named := spec.options.get("image"):
        return named
    package = packaging.pushed(version)
    return package.pushed if package and package.target == "docker" else None


def placement(spec: DeploymentSpec, *, namespace: str, image: str | None = None) -> Placement:
    """Where and how *spec* wants to run: with *image* and in *namespace* unless it says others.  Raises BadOption for what Kubernetes would not take."""
    options = spec.options
    image = options.get("image") or image
    gateway = options.get("gateway") or Workspace.current().settings().kubernetes_gateway or ""
    if not image:
        hint = "--image registry.example.org/delays:3, or %mlops package MODEL:VERSION --push REGISTRY before"
        raise BadOption("kubernetes needs an image that the cluster's nodes can pull.", hint=hint)
    least, most = options.get("replicas") or 1, options.get("max_replicas")
    if most is not None and most <= least:
        raise BadOption(f"--max-replicas {most} is not above --replicas {least}.", hint=f"--max-replicas {least + 1}, or leave it out")
    return Placement(
        style=_style(spec), image=names.checked_image(image), namespace=names.checked_label(options.get("namespace") or namespace, what="namespace"),
        gateway="/".join(names.checked_label(part, what="gateway") for part in _two_at_most(gateway) if gateway), replicas=least, most_replicas=most,
        hostname=names.checked_host(options["hostname"]) if options.get("hostname") else None,
        cpus=spec.cpus, memory_mb=spec.memory_mb, gpus=_gpus(spec.gpus), variables=spec.variables, egress=bool(options.get("egress")),
        pull_secrets=tuple(names.checked_label(name, what="pull secret") for name in options.get("pull_secrets") or ()),
        tolerations=tuple(_toleration(text) for text in options.get("tolerations") or ()),
        node_selector=_selector(options.get("node_selector") or {}),
    )  # fmt: skip


def check_gateway(place: Placement) -> None:
    """Raises BadOption where nobody said through which Gateway an endpoint is reached."""
    if not place.gateway:
        hint = '--gateway NAMESPACE/NAME, or kubernetes_gateway = "…" in [tool.mlops]'
        raise BadOption("kubernetes needs the Gateway through which endpoints are reached.", hint=hint)


def _style(spec: DeploymentSpec) -> Runner:
    said = spec.options.get("style") or "plain"
    if said not in get_args(Runner):
        raise BadOption(f"{str(said)[:80]!r} is no style of a deployment.", hint="--style plain or --style kserve")
    return "kserve" if said == "kserve" else "plain"


def _two_at_most(gateway: str) -> list[str]:
    parts = gateway.split("/")
    if len(parts) > 2:
        raise BadOption(f"{gateway[:80]!r} is no Gateway.", hint="--gateway NAME or --gateway NAMESPACE/NAME")
    return parts


def _gpus(said: str | None) -> int:
    if said is None:
        return 0
    if not (said.isascii() and said.isdigit() and 0 < int(said) < 1000):
        raise BadOption(f"--gpus {said}: a pod asks for a number of GPUs.", hint="--gpus 1")
    return int(said)


def _toleration(text: str) -> Toleration:
    found = _TOLERATION.fullmatch(text)
    if not found:
        raise BadOption(f"{text[:80]!r} is no toleration.", hint="--toleration KEY=VALUE:NoSchedule, or --toleration KEY for any value and effect")
    value = found["value"]
    return Toleration(
        key=names.checked_key(found["key"], what="taint"), value=None if value is None else names.checked_value(value, what="taint"), effect=found["effect"]
    )  # fmt: skip


def _selector(labels: Mapping[str, str]) -> dict[str, str]:
    return {names.checked_key(key, what="node label"): names.checked_value(value, what="node label") for key, value in labels.items()}


def prepare(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec, *, ref: str, report: Reporter) -> dict[str, Any]:
    """Have the cluster check all that would be applied, and keep nothing of it; returns where that was.

    Raises ClusterUnreachable, ClusterRefused in the cluster's own words, NotOurs, BadOption.
    """
    context, namespace = client.resolved(spec.options.get("context"))
    place = placement(spec, namespace=namespace, image=image_of(version, spec))
    endpoint, _, name = ref.partition("/")
    beside = _beside(endpoint, name, context, place.namespace)
    report.step(f"asking {context.words} what it says to it")
    workload = _workload(endpoint, name, version.model, version.version, place)
    api = Api(context, patience_seconds=client.CHANGE_SECONDS)
    try:
        _check_places(api, place)
        services = {**beside, name: workload.service}
        route = manifests.route(workload.workspace, endpoint, place, {**dict.fromkeys(beside, 0), name: 100}, services=services)
        for manifest in [*_all_of(workload), route]:
            api.check_free(manifest, workspace=workload.workspace)
            api.apply(manifest, workspace=workload.workspace, rehearse=True)
        _check_names(api, workload)
    finally:
        api.close()
    _remember(context, place.namespace)
    return {"kubeconfig": context.kubeconfig, "context": context.name, "namespace": place.namespace, "gateway": place.gateway, "image": place.image}


def _beside(endpoint: str, name: str, context: Context, namespace: str) -> dict[str, str]:
    """The endpoint's other deployments, and their Services.  Raises BadOption where one is elsewhere: one route leads to them all, in its own namespace."""
    with store.reading() as tx:
        others = [d for d in table.of(tx, endpoint) if d.target == "kubernetes" and d.name != name]
    for other in others:
        there = other.spec.options.get("context"), other.spec.options.get("namespace")
        if there != (context.name, namespace):
            raise BadOption(f"{other.ref} runs in namespace {there[1]} of context {there[0]}; an endpoint is in one place.", hint=f"--namespace {there[1]}")
    return {other.name: _service(other) for other in others}


def _check_places(api: Api, place: Placement) -> None:
    """Raises BadOption when the Gateway is not there, or KServe; a namespace that is not there is told by the cluster itself."""
    if place.style == "kserve":
        _check_kserve(api, place)
    namespace, _, name = place.gateway.rpartition("/")
    try:
        there = api.get("Gateway", name, namespace or place.namespace)
    except ClusterRefused as refusal:
        if refusal.status == 403:  # it may be somebody else's to look at; the route will tell
            return
        raise
    if there is None:
        raise BadOption(f"No Gateway {place.gateway} on {api.context.words}.", hint="kubectl get gateways --all-namespaces")


def _check_kserve(api: Api, place: Placement) -> None:
    """Raises BadOption when the cluster knows no InferenceServices."""
    try:
        api.found("InferenceService", place.namespace)
    except ClusterRefused as refusal:
        if refusal.status == 403:  # the rehearsal will tell
            return
        if refusal.status != 404:
            raise
        hint = "KServe installed there, its Helm charts kserve-crd and kserve, or --style plain"
        raise BadOption(f"--style kserve: {api.context.words} knows no InferenceService of serving.kserve.io/v1beta1.", hint=hint) from None


def _check_names(api: Api, workload: Workload) -> None:
    """Raises NotOurs when an object has the name of one that KServe will make."""
    head = {"name": workload.service, "namespace": workload.placement.namespace}
    for kind in ("Deployment", "Service") if workload.placement.style == "kserve" else ():
        api.check_free({"kind": kind, "metadata": head}, workspace=workload.workspace)


# ── for the agent ────────────────────────────────────────────────────────────────────────────────────────────────────


def start(deployment: Deployment, version: ModelVersion, *, context: dict[str, Any]) -> dict[str, Any]:
    """Have it applied, beside the agent's loop, and return where it is to be found."""
    place = placement(deployment.spec, namespace=deployment.spec.options["namespace"])
    url = f"http://{place.hostname}/{deployment.endpoint}" if place.hostname else f"http://{_service(deployment)}.{place.namespace}.svc"
    handle = {"context": _context(deployment).name, "namespace": place.namespace, "name": _name(deployment), "image": place.image, "url": url}
    _remember(_context(deployment), place.namespace)
    _want(deployment, anew=True)
    return handle


def observe(deployment: Deployment) -> Observed:
    """What the cluster last said of it."""
    up = deployment.status in ("healthy", "unhealthy")
    try:
        keeper = _want(deployment)
        seen = keeper.seen(deployment.ref)
    except ClusterUnreachable as error:
        reason = Reason(kind="cluster silent", message=str(error), hint=error.hint)
        return Observed(state="unhealthy" if up else "starting", reason=reason, unreachable=True)
    except MlopsError as error:
        return _refused(deployment, error, up=up)
    if seen is None:
        return Observed(state="healthy" if deployment.status == "healthy" else "unhealthy" if up else "starting", mending=True)
    if up and (said := reading.refused_route(seen.routes.get(names.group(deployment.endpoint)))):
        refused = Reason(kind="route refused", message=f"The gateway does not take its route: {said}", hint="another --gateway or --hostname")
        return Observed(state="unhealthy", reason=refused, mending=True)
    seen_state, why = reading.judged(_name(deployment), seen, up=up)
    if seen_state == "gone":
        keeper.withdraw(deployment.ref, _labels(deployment), style=_style(deployment.spec))
    return Observed(state=seen_state, reason=why, mending=True, answer=reading.standing(_name(deployment), seen) if seen_state == "starting" else "")


def _refused(deployment: Deployment, error: MlopsError, *, up: bool) -> Observed:
    """The cluster does not take it (any more): rights withdrawn, a rule added, an object of the name that is not ours."""
    reason = Reason(kind="refused", message=str(error), hint=error.hint)
    if up:
        return Observed(state="unhealthy", reason=reason, mending=True)
    _keeper(deployment).withdraw(deployment.ref, _labels(deployment), style=_style(deployment.spec))
    return Observed(state="gone", reason=reason)


def alive(deployment: Deployment) -> bool:
    """Whether it was there when last looked at."""
    try:
        seen = _keeper(deployment).seen()
    except MlopsError:
        return True  # nobody can tell
    return seen is None or _name(deployment) in seen.names


def asked_instead(deployment: Deployment) -> str:
    """How it is asked from here although no gateway of this workspace leads to it."""
    where = f"kubectl --context {deployment.spec.options.get('context')} --namespace {deployment.spec.options.get('namespace')}"
    key = f"mlops endpoints key {deployment.endpoint} | sed 's/^/Authorization: Bearer /'"
    ask = f"{key} | curl -H @- -d '{{\"data\": …}}' http://127.0.0.1:8080/score"
    leads = f"deployment/{_service(deployment)} 8080:8080" if _style(deployment.spec) == "kserve" else f"service/{_service(deployment)} 8080:80"
    return f"{where} port-forward {leads}, and beside it {ask}"


def usage(deployment: Deployment) -> Usage:
    """What its pods use, where the cluster has a metrics server, and what they run as."""
    try:
        seen = _keeper(deployment).seen()
    except MlopsError:
        return Usage()
    workload = seen.applied(_name(deployment)) if seen else None
    if not (seen and workload):
        return Usage()
    pods = seen.pods_of(workload)
    cpus, memory_mb = reading.used(pods, seen.usage)
    return Usage(
        cpus=cpus, memory_mb=memory_mb, restarts=reading.restarts(pods), image=reading.digest(pods),
        where=", ".join(f"{pod['metadata']['name']} on {(pod.get('spec') or {}).get('nodeName') or 'no node yet'}" for pod in pods),
    )  # fmt: skip


def share(endpoint: str, deployments: Sequence[Deployment], weights: Mapping[str, int]) -> None:
    """Have the route divide the endpoint's requests so; while one is not healthy its share goes to the others."""
    there = [d for d in deployments if d.handle]
    if not there:
        return
    present = {name: weight for name, weight in weights.items() if name in {d.name for d in there}}
    shares = splits.effective(present, {d.name for d in there if d.status == "healthy"})
    newest = max(there, key=lambda d: d.created_at)
    place = placement(newest.spec, namespace=newest.spec.options["namespace"])
    services = {d.name: _service(d) for d in there}
    route = manifests.route(workspace_id(), endpoint, place, {d.name: shares.get(d.name, 0) for d in there}, services=services)
    _keeper(newest).want(f"{endpoint}/", [route])


def stop(deployment: Deployment) -> None:
    """Delete what was applied for it and wait until its pods have ended.  Raises ClusterUnreachable, StillRunning."""
    if not deployment.spec.options.get("namespace"):
        return
    keeper, labels = _keeper(deployment), _labels(deployment)
    keeper.forget(deployment.ref)
    api = Api(keeper.context)
    try:
        if keeping.running(api, keeper.namespace, {key: labels[key] for key in (WORKSPACE, ENDPOINT)}) <= {_name(deployment)}:
            keeper.forget(f"{deployment.endpoint}/")
        keeping.delete(api, keeper.namespace, labels, style=_style(deployment.spec))
        deadline = time.monotonic() + _STOP_SECONDS
        while api.found("Pod", keeper.namespace, labels=labels):
            if time.monotonic() > deadline:
                raise StillRunning(deployment.ref, waited_seconds=_STOP_SECONDS)
            time.sleep(0.2)
    finally:
        api.close()


def end_strays(known: Iterable[Deployment]) -> None:
    """Have what runs on the clusters for this workspace, and is none of the *known*, deleted; nothing where this is a copy of a workspace."""
    if not at_home():
        return
    expected: dict[tuple[str, str, str], set[str]] = {tuple(place): set() for place in _places()}  # type: ignore[misc]
    for deployment in known:
        if deployment.handle:
            context = _context(deployment)
            expected.setdefault((context.kubeconfig, context.name, deployment.handle["namespace"]), set()).add(_name(deployment))
    for (kubeconfig, name, namespace), there in expected.items():
        keeping.keeper(Context(kubeconfig, name), namespace, workspace_id()).expect(frozenset(there))


def logs(deployment: Deployment, *, lines: int) -> list[str]:
    """The last lines of its pods, or what the cluster says where there are none yet."""
    asked, known = _logs.get(deployment.ref, (float("-inf"), []))
    if time.monotonic() - asked < _LOG_SECONDS and len(known) >= min(lines, 1):
        return known[-lines:]
    try:
        found = _read_logs(deployment, lines=max(lines, 200))
    except MlopsError as error:
        found = [str(error)]
    _logs[deployment.ref] = time.monotonic(), found
    return found[-lines:]


def _read_logs(deployment: Deployment, *, lines: int) -> list[str]:
    if not deployment.spec.options.get("namespace"):
        return []
    api, namespace = Api(_context(deployment)), deployment.spec.options["namespace"]
    try:
        of_kserve = {INFERENCE_SERVICE: _name(deployment)} if _style(deployment.spec) == "kserve" else {}
        pods = api.found("Pod", namespace, labels=_labels(deployment) | of_kserve)
        found: list[str] = []
        for pod in pods:
            prefix = f"{pod['metadata']['name']}: " if len(pods) > 1 else ""
            found += [prefix + line for line in _log(api, pod, namespace, lines=lines)]
        return found
    finally:
        api.close()


def _log(api: Api, pod: Manifest, namespace: str, *, lines: int) -> list[str]:
    try:
        return api.log(pod["metadata"]["name"], namespace, lines=lines)
    except ClusterRefused as refusal:  # not begun yet
        return [str(refusal)]


# ── what is applied ──────────────────────────────────────────────────────────────────────────────────────────────────


def _of_deployment(deployment: Deployment) -> list[Manifest]:
    """What runs the deployment; its share of the requests comes once it is healthy."""
    place = placement(deployment.spec, namespace=deployment.spec.options["namespace"])
    return _all_of(_workload(deployment.endpoint, deployment.name, deployment.model, deployment.version, place))


def _all_of(workload: Workload) -> list[Manifest]:
    """The endpoint's key first, which the pods mount."""
    key = keys.key(workload.endpoint)
    return [manifests.secret(workload.workspace, workload.endpoint, workload.placement.namespace, key=key), *manifests.of_workload(workload)]


def _workload(endpoint: str, name: str, model: str, version: int, place: Placement) -> Workload:
    return Workload(
        workspace=workspace_id(), endpoint=endpoint, deployment=name, model=model, version=version, placement=place,
        key_mark=manifests.key_mark(keys.key(endpoint)),
    )  # fmt: skip


def _want(deployment: Deployment, *, anew: bool = False) -> keeping.Keeper:
    keeper = _keeper(deployment)
    keeper.want(deployment.ref, _of_deployment(deployment), anew=anew)
    return keeper


def _keeper(deployment: Deployment) -> keeping.Keeper:
    return keeping.keeper(_context(deployment), deployment.spec.options["namespace"], workspace_id())


def _context(deployment: Deployment) -> Context:
    return Context(deployment.spec.options["kubeconfig"], deployment.spec.options["context"])


def _labels(deployment: Deployment) -> dict[str, str]:
    return {
        WORKSPACE: workspace_id(), ENDPOINT: names.value(deployment.endpoint), DEPLOYMENT: names.value(deployment.name),
    }  # fmt: skip


def _name(deployment: Deployment) -> str:
    named = names.inference if _style(deployment.spec) == "kserve" else names.workload
    return named(deployment.endpoint, deployment.name)


def _service(deployment: Deployment) -> str:
    return names.predictor(_name(deployment)) if _style(deployment.spec) == "kserve" else _name(deployment)


# ── what the workspace remembers ─────────────────────────────────────────────────────────────────────────────────────


def _places() -> list[list[str]]:
    """Where this workspace ever ran something: kubeconfig, context, namespace."""
    with store.reading() as tx:
        return state.get(tx, "kubernetes_places") or []


def _remember(context: Context, namespace: str) -> None:
    place = [context.kubeconfig, context.name, namespace]
    if place in _places():
        return
    with store.writing() as tx:
        known = state.get(tx, "kubernetes_places") or []
        state.put(tx, "kubernetes_places", [*known, *([place] if place not in known else [])])
