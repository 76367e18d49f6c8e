"""The deployment manifest for Azure IoT Edge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb import errors
from mlops_nb.fleet import manifest
from mlops_nb.store import now
from mlops_nb.store.models import ModelVersion

SCHEMA = json.loads((Path(__file__).parent / "iot-edge-manifest.schema.json").read_text())
conforms = jsonschema.Draft202012Validator(SCHEMA).validate
PYTHON = "/opt/mlops/python/bin/python"
DELAYS = ModelVersion(model="delays", version=3, flavor="sklearn", engine="onnxruntime", hash="ab" * 32, files=[], created_at=now())


def parsed(version: ModelVersion = DELAYS, *, image: str | None = None, device: str = "gate-1") -> dict[str, Any]:
    return json.loads(manifest.text(version, image=image, device=device, python=PYTHON))


def module_of(made: dict[str, Any], name: str = "delays") -> dict[str, Any]:
    return made["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"][name]


def create_options(module: dict[str, Any]) -> dict[str, Any]:
    """The pieces put together, as the agent on the device does."""
    pieces = sorted(name for name in module["settings"] if name.startswith("createOptions"))
    return json.loads("".join(module["settings"][name] for name in pieces))


def test_the_manifest_is_valid_and_names_module_image_mount_and_route() -> None:
    made = parsed(image="registry.example.org:5000/team/delays:3")

    conforms(made)
    module = module_of(made)
    assert (module["version"], module["settings"]["image"]) == ("3", "registry.example.org:5000/team/delays:3")
    assert create_options(module)["HostConfig"]["Binds"] == ["/var/lib/mlops/delays:/var/lib/mlops:rw"]
    assert create_options(module)["Cmd"] == [PYTHON, "-m", "mlops_nb.edge", "/var/lib/mlops/spec.json"]
    hub = made["modulesContent"]["$edgeHub"]["properties.desired"]
    assert hub["routes"]["delaysToUpstream"]["route"] == "FROM /messages/modules/delays/outputs/* INTO $upstream"
    assert hub["storeAndForwardConfiguration"]["timeToLiveSecs"] == 604_800


def test_the_schema_says_no_to_what_the_documentation_does_not_allow() -> None:
    for spoil in (
        lambda m: m["modulesContent"].pop("$edgeHub"),
        lambda m: module_of(m).update(restartPolicy="sometimes"),
        lambda m: module_of(m)["settings"].update(createOptions={"HostConfig": {}}),
        lambda m: m["modulesContent"]["$edgeAgent"]["properties.desired"].update(schemaVersion="2"),
        lambda m: m["modulesContent"]["$edgeHub"]["properties.desired"]["routes"].update(wrong="FROM /messages/*"),
        lambda m: m["modulesContent"]["$edgeHub"]["properties.desired"]["routes"].update({"a.b": "FROM /messages/* INTO $upstream"}),
        lambda m: m["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"].update({"a.b": module_of(m)}),
        lambda m: m["modulesContent"]["$edgeAgent"]["properties.desired"]["runtime"].update(version="1"),
        lambda m: m["modulesContent"]["delays"].update(tags={}),
        lambda m: m.update(content={}),
    ):
        made = parsed()
        spoil(made)
        with pytest.raises(jsonschema.ValidationError):
            conforms(made)


@pytest.mark.parametrize("image", ["a b", "UPPER/case", 'x"; rm -rf /', "x\ny", "$(id)", "`id`", "{{x}}", "", "-x:latest\n", "a" * 300])
def test_what_is_no_images_reference_is_refused(image: str) -> None:
    with pytest.raises(errors.BadOption, match="no image's reference"):
        manifest.manifest(DELAYS, image=image, device="gate-1", python=PYTHON)


@given(st.text(), st.text(max_size=40))
def test_no_text_breaks_out_of_the_manifest(name: str, device: str) -> None:
    version = msgspec.structs.replace(DELAYS, model=name, hash=name)
    try:
        made = parsed(version, image="delays:3", device=device)
    except errors.UsageError:
        return
    conforms(made)
    assert set(made["modulesContent"]) == {"$edgeAgent", "$edgeHub", manifest.module_name(version)}
    assert set(create_options(module_of(made, manifest.module_name(version)))) == {"Cmd", "WorkingDir", "HostConfig"}
