"""What a cluster is to run, as files for a repository that something else applies: no cluster is asked, and no secret is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from . import keys, store
from .errors import BadOption, MissingExtra, SecretVariable
from .kubernetes import manifests, names
from .kubernetes.manifests import Manifest, Runner, Workload
from .reference import ModelRef
from .safety import checked_name, names_a_secret, path_inside, text_for
from .settings import Workspace
from .store import models
from .store.deployments import DeploymentSpec
from .store.models import ModelVersion
from .targets import kubernetes as target


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """Manifests that belong together, and the lines that tell a person what they lack."""

    endpoint: str
    namespace: str
    manifests: list[Manifest]

    @property
    def secret(self) -> str:
        """The name of the Secret that the pods mount, and that is not among them."""
        return names.group(self.endpoint)

    def text(self) -> str:
        """All of it as one YAML file."""
        return f"{_note(self)}{_yaml(*self.manifests)}"

    def write(self, folder: Path) -> list[Path]:
        """One file for each object, and the kustomization.yaml that names them; returns their paths.  Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {f"{m['kind'].lower()}-{m['metadata']['name']}.yaml": _yaml(m) for m in self.manifests}
        kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": self.namespace, "resources": list(files)}
        files["kustomization.yaml"] = _note(self) + _yaml(kustomization)
        paths = [path_inside(folder, name) for name in files]
        for path, content in zip(paths, files.values(), strict=True):
            path.write_text(content, encoding="utf-8")
        return paths


def written(
    refs: Sequence[ModelRef],
    *,
    spec: DeploymentSpec,
    endpoint: str | None = None,
    shares: Sequence[int] = (),
    images: Sequence[str] = (),
    style: Runner = "plain",
) -> Written:
    """What runs *refs* behind *endpoint* (the model's name unless given), each with its share and its image.

    Shares are percentages in the order of *refs*, all to the first unless given.  An image is the one that was pushed unless given.
    Raises ModelNotFound and its kin, and BadOption for what Kubernetes would not take.
    """
    if secret := next((variable for variable in spec.variables if names_a_secret(variable)), None):
        raise SecretVariable(secret)
    shares = list(shares) or [100] + [0] * (len(refs) - 1)
    _check_fit(len(refs), shares, images, style)
    with store.reading() as tx:
        versions = [models.get(tx, ref) for ref in refs]
    if len({version.version for version in versions}) < len(versions):
        raise BadOption("One version is named twice.", hint="each version once")
    where = checked_name(endpoint or versions[0].model, what="endpoint")
    named: Sequence[str | None] = images or [None] * len(refs)
    workloads = [_workload(version, where, spec, image) for version, image in zip(versions, named, strict=True)]
    keys.key(where)  # made now where there is none, for the first lines name its file
    made = _of_kserve(workloads, shares) if style == "kserve" else _of_gateway(workloads, shares)
    return Written(endpoint=where, namespace=workloads[0].placement.namespace, manifests=made)


def _check_fit(versions: int, shares: Sequence[int], images: Sequence[str], style: Runner) -> None:
    """Raises BadOption where so many versions cannot have these shares and images, or not in this style."""
    if len(shares) != versions or sum(shares) != 100 or any(not 0 <= share <= 100 for share in shares):
        raise BadOption(f"{versions} versions need {versions} shares that sum to 100.", hint="--split 90,10 for two")
    if images and len(images) != versions:
        raise BadOption(f"{len(images)} images for {versions} versions.", hint="--image for each version, in their order, or for none")
    if style == "kserve" and versions > 2:
        raise BadOption("KServe divides requests between two revisions.", hint="two versions at most, the newer one last, or --style plain")


def _workload(version: ModelVersion, endpoint: str, spec: DeploymentSpec, image: str | None) -> Workload:
    place = target.placement(spec, namespace="default", image=image or target.image_of(version, spec))
    return Workload(
        workspace=target.workspace_id(), endpoint=endpoint, deployment=str(version.version), model=version.model, version=version.version, placement=place
    )  # fmt: skip


def _of_gateway(workloads: Sequence[Workload], shares: Sequence[int]) -> list[Manifest]:
    first = workloads[0]
    target.check_gateway(first.placement)
    weights = {workload.deployment: share for workload, share in zip(workloads, shares, strict=True)}
    route = manifests.route(first.workspace, first.endpoint, first.placement, weights)
    return [*(manifest for workload in workloads for manifest in manifests.of_workload(workload)), route]


def _of_kserve(workloads: Sequence[Workload], shares: Sequence[int]) -> list[Manifest]:
    """The newest alone: the revision before it is what the cluster has."""
    return [manifests.whole_endpoint(workloads[-1], canary_percent=shares[-1] if len(workloads) > 1 else None)]


def _note(made: Written) -> str:
    key = text_for("shell", Workspace.current().keys / made.endpoint)
    return (
        f"# The endpoint's key is in none of these files.  The pods wait for the Secret {made.secret}:\n"
        f"#   kubectl create secret generic {made.secret} --namespace {made.namespace} --from-file=token={key}\n"
    )


def _yaml(*things: Manifest) -> str:
    """Plain data as YAML: whatever a value holds is quoted as it needs, so none can become a line of its own."""
    try:
        import yaml
    except ImportError:
        raise MissingExtra("PyYAML", extra="kubernetes", doing="Writing manifests") from None
    return yaml.safe_dump_all(things, sort_keys=False, allow_unicode=False, width=10_000, explicit_start=len(things) > 1)
