"""What an image holds, as a CycloneDX 1.6 bill of materials: its packages with their hashes and licences, and the model with its data set."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from packaging.utils import canonicalize_name

from ..store.environments import Package
from ..store.models import ModelVersion
from ..version import __version__
from .wheels import Wheel


def document(version: ModelVersion, packages: Sequence[Package], wheels: Sequence[Wheel], *, python: str) -> bytes:
    """The JSON document; the same version and packages give the same bytes, with the version's own time."""
    known = {wheel.name: wheel for wheel in wheels}
    libraries = [_library(package, known.get(canonicalize_name(package.name))) for package in packages]
    server = {"type": "library", "bom-ref": "mlops_nb", "name": "mlops_nb", "version": __version__, "purl": f"pkg:pypi/mlops-nb@{__version__}"}
    components = [_model(version), server, *libraries]
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": version.created_at.isoformat(), "component": _image(version, python)},
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": [component["bom-ref"] for component in components]}],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    return json.dumps({"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "serialNumber": f"urn:uuid:{serial}", **body}, indent=2).encode() + b"\n"


def _image(version: ModelVersion, python: str) -> dict[str, Any]:
    return {
        "type": "container", "bom-ref": "image", "name": version.model, "version": str(version.version),
        "properties": [{"name": "mlops_nb:python", "value": python}],
    }  # fmt: skip


def _model(version: ModelVersion) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "machine-learning-model", "bom-ref": "model", "name": version.model, "version": str(version.version),
        "hashes": [{"alg": "SHA-256", "content": version.hash}],
        "properties": [{"name": "mlops_nb:flavor", "value": version.flavor}, {"name": "mlops_nb:engine", "value": version.engine}],
    }  # fmt: skip
    if version.description:
        component["description"] = version.description
    if version.dataset:
        component["modelCard"] = {"modelParameters": {"datasets": [{"type": "dataset", "name": version.dataset}]}}
    return component


def _library(package: Package, wheel: Wheel | None) -> dict[str, Any]:
    name = canonicalize_name(package.name)
    component: dict[str, Any] = {
        "type": "library", "bom-ref": f"{name}@{package.version}", "name": package.name, "version": package.version,
        "purl": f"pkg:{'conda' if package.conda else 'pypi'}/{name}@{package.version.replace('+', '%2B')}",
    }  # fmt: skip
    if wheel:
        component["hashes"] = [{"alg": "SHA-256", "content": wheel.sha256}]
    if wheel and wheel.licence:
        component["licenses"] = [{"license": {"name": wheel.licence}}]
    return component
