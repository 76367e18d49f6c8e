"""An Azure IoT Edge deployment manifest: which module runs, from which image, with which mounts, and where messages go.

Source: "Learn how to deploy modules and establish routes in IoT Edge" and "Properties of the IoT Edge agent and IoT Edge hub module twins"
(Microsoft Learn), schema version 1.1.  `createOptions` is a JSON document within a JSON string, split over `createOptions`,
`createOptions01` … where it is longer than a twin's string may be.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ..errors import BadOption
from ..safety import checked_name, text_for

if TYPE_CHECKING:
    from ..store.models import ModelVersion

_IMAGE = re.compile(r"(?:[a-z0-9.-]+(?::\d+)?/)?[a-z0-9._/-]+(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?", re.ASCII)
_RUNTIME = "1.5"
_PIECE = 512
_MOST_PIECES = 8
_STORE_SECONDS = 7 * 86_400
_FOLDER = "/var/lib/mlops"


def text(version: ModelVersion, *, image: str | None, device: str, python: str) -> str:
    """The manifest for *device* as JSON text; *python* is the image's interpreter.  Raises BadOption for what is no image, BadName, UnsafeText."""
    named = image or f"mlops/{version.model}:{version.version}"
    return json.dumps(manifest(version, image=named, device=device, python=python), indent=2, ensure_ascii=False) + "\n"


def manifest(version: ModelVersion, *, image: str, device: str, python: str) -> dict[str, Any]:
    """The manifest as data."""
    checked_name(device, what="device")
    if len(image) > 255 or not _IMAGE.fullmatch(image):
        raise BadOption(f"{image[:80]!r} is no image's reference.", hint="--image registry.example.org/delays:3")
    name = module_name(version)
    return {
        "modulesContent": {
            "$edgeAgent": {"properties.desired": _agent(name, version, image=image, python=python)},
            "$edgeHub": {"properties.desired": _hub(name)},
            name: {"properties.desired": {"model": _inert(version.ref), "hash": _inert(version.hash), "device": device}},
        }
    }


def module_name(version: ModelVersion) -> str:
    """The module's name on the device: the model's, as IoT Edge and a container engine take it."""
    return re.sub(r"[^a-z0-9_-]+", "-", version.model.lower()).strip("-_")[:64] or "model"


def _agent(name: str, version: ModelVersion, *, image: str, python: str) -> dict[str, Any]:
    return {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25", "loggingOptions": ""}},
        "systemModules": {
            "edgeAgent": {"type": "docker", "settings": {"image": f"mcr.microsoft.com/azureiotedge-agent:{_RUNTIME}", "createOptions": "{}"}},
            "edgeHub": {
                "type": "docker",
                "status": "running",
                "restartPolicy": "always",
                "startupOrder": 0,
                "settings": {"image": f"mcr.microsoft.com/azureiotedge-hub:{_RUNTIME}", **_create_options(_hub_options())},
            },
        },
        "modules": {
            name: {
                "version": str(version.version),
                "type": "docker",
                "status": "running",
                "restartPolicy": "always",
                "startupOrder": 1,
                "imagePullPolicy": "on-create",
                "settings": {"image": image, **_create_options(_module_options(name, python))},
            }
        },
    }


def _hub(name: str) -> dict[str, Any]:
    """All that the module sends goes up; what cannot go up now is kept for a week."""
    return {
        "schemaVersion": "1.1",
        "routes": {f"{name}ToUpstream": {"route": f"FROM /messages/modules/{name}/outputs/* INTO $upstream", "priority": 0, "timeToLiveSecs": _STORE_SECONDS}},
        "storeAndForwardConfiguration": {"timeToLiveSecs": _STORE_SECONDS},
    }


def _module_options(name: str, python: str) -> dict[str, Any]:
    """The device's folder, as `edge provision` wrote it, is mounted; state and secrets stay on the device."""
    return {
        "Cmd": [python, "-m", "mlops_nb.edge", f"{_FOLDER}/spec.json"],
        "WorkingDir": _FOLDER,
        "HostConfig": {"Binds": [f"{_FOLDER}/{name}:{_FOLDER}:rw"], "LogConfig": {"Type": "json-file", "Config": {"max-size": "8m", "max-file": "2"}}},
    }


def _hub_options() -> dict[str, Any]:
    ports = {f"{port}/tcp": [{"HostPort": port}] for port in ("5671", "8883", "443")}
    return {"HostConfig": {"PortBindings": ports}}


def _create_options(options: dict[str, Any]) -> dict[str, str]:
    """*options* as the strings a twin takes: `createOptions`, and `createOptions01` … for what is beyond its length."""
    whole = json.dumps(options, separators=(",", ":"), ensure_ascii=False)
    pieces = [whole[start : start + _PIECE] for start in range(0, len(whole), _PIECE)]
    if len(pieces) > _MOST_PIECES:
        raise BadOption(f"createOptions of {len(whole)} characters are longer than a manifest can hold.", hint="shorter names")
    return {f"createOptions{number:02d}" if number else "createOptions": piece for number, piece in enumerate(pieces)}


def _inert(value: str) -> str:
    """*value*, once it is fit for one line of a generated file."""
    return str(json.loads(text_for("yaml", value)))
