"""Edge devices: what they run, the broker they belong to, and what is written for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import BadOption
from ..grammar import face
from ..reference import ModelRef
from ..safety import checked_name
from ..shapes import Facts, Lines, Listing
from ..vocabulary import A_MODEL, A_MOMENT, AN_ENDPOINT, DURATION, Word
from .group import mlops

if TYPE_CHECKING:
    from datetime import datetime

    from ..fleet.devices import DeviceView

F = TypeVar("F", bound=Callable[..., Any])


def _devices(fragment: str) -> Sequence[str]:
    from ..fleet import devices

    return [view.name for view in devices.every()]


A_DEVICE = Word("DEVICE", lambda text: checked_name(text, what="device"), _devices)


def on_a_device(command: F) -> F:
    """Give a command the options that name an edge device, and its topics."""
    options = (
        click.option("--device", type=A_DEVICE, help="Edge: the device it runs on; also the deployment's name unless --as says otherwise."),
        click.option("--run", type=click.Choice(["process", "container"]), help="Edge: how the device's module runs on this machine.  [default: elsewhere]"),
        click.option("--topic-in", metavar="TOPIC", help="Edge: where it takes requests.  [default: ENDPOINT/DEVICE/in]"),
        click.option("--topic-out", metavar="TOPIC", help="Edge: where it answers requests without a response topic.  [default: ENDPOINT/DEVICE/out]"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@mlops.group(default="devices", heading="Serving")
def edge() -> None:
    """List edge devices, look at their broker, write what a device needs."""


@edge.command("devices", examples=["edge devices", "edge devices gate-1"])
@click.argument("name", type=A_DEVICE, required=False)
def edge_devices(name: str | None) -> DeviceView | Listing[DeviceView]:
    """List the edge devices with what they run, or show one.

    A device is there once it was heard at the broker, or something was deployed to it.
    """
    from ..fleet import devices

    return devices.one(name) if name else Listing(devices.every(), what="edge device", line="deploy MODEL:VERSION --to edge --device gate-1")


@edge.command("drift", examples=["edge drift", "edge drift gate-1 gate-2 --since 7d", "edge drift --endpoint delays --window 1d --budget 1/30d"])
@click.argument("names", type=A_DEVICE, nargs=-1)
@click.option("--endpoint", type=AN_ENDPOINT, help="Only devices of this endpoint.")
@click.option("--since", type=A_MOMENT, help="Only requests after this, such as 2h, 7d or 2026-01-31.  [default: all that are kept]")
@click.option("--window", metavar="TIME|ROWS", help="Judge the newest 1d or 1000 rows of each.  [default: all as one]")
@click.option("--budget", metavar="COUNT/TIME", help="False alarms allowed to all of them together.  [default: drift_budget of the settings]")
@click.option("--every", type=DURATION, help="How often you check, which the budget is shared out among.  [default: 1d]")
def edge_drift(
    names: tuple[str, ...], endpoint: str | None, since: datetime | None, window: str | None, budget: str | None, every: float | None
) -> Listing[DeviceView]:
    """Check what each edge device was asked for drift, and list the devices with what came of it.

    They share one budget of false alarms. For one device by the clock: drift ENDPOINT --deployment DEVICE --schedule 1d.
    """
    from ..monitoring import by_device

    with face().reporting("checking the edge devices for drift") as report:
        found = by_device.check(names, endpoint=endpoint, since=since, window=window, budget=budget, every_seconds=every, report=report)
        report.step(f"{sum(view.drift == 'drift' for view in found)} of {len(found)} drifted")
    return Listing(found, what="edge device", line="deploy MODEL:VERSION --to edge --device gate-1")


@edge.command("broker", examples=["edge broker"])
def edge_broker() -> Facts:
    """Show the MQTT broker of the edge devices, and whether it lets this workspace in."""
    from ..edge.broker import Broker
    from ..edge.link import connected
    from ..settings import Workspace

    broker = Broker.of(Workspace.current())
    known = broker.credentials()
    started = time.perf_counter()
    with face().reporting(f"connecting to {broker.url}") as report, connected(broker):
        report.step(f"{broker.url} lets us in")
    took_ms = round((time.perf_counter() - started) * 1000, 1)
    return Facts({"broker": broker.url, "tls": broker.tls, "user": known.user if known else "", "connected_ms": took_ms})


@edge.command("provision", examples=["edge provision gate-1 --output gate-1"])
@click.argument("name", type=A_DEVICE)
@click.option("--output", type=click.Path(file_okay=False), help="The folder to write; it must not exist.  [default: the device's name]")
def edge_provision(name: str, output: str | None) -> Facts:
    """Write the folder that a device elsewhere starts from: its settings, its key, the broker's CA and credentials.

    Copied there, `python -m mlops_nb.edge spec.json` in that folder is the device.  It holds secrets; only you can read it.
    """
    from .. import packaging
    from ..fleet import provisioning

    folder = provisioning.write(name, Path(output or name), packaged=f"{packaging.HOME}/spec.json")
    return Facts({"device": name, "folder": str(folder), "line": "python -m mlops_nb.edge spec.json"})


@edge.command(
    "manifest",
    examples=["edge manifest delays:3 --image registry.example.org/delays:3", "edge manifest delays:3 --device gate-1 --output deployment.json"],
)
@click.argument("ref", type=A_MODEL)
@click.option("--image", metavar="REFERENCE", help="The module's image.  [default: mlops/MODEL-edge:VERSION, as package --target edge names it]")
@click.option("--device", type=A_DEVICE, help="The device the manifest is for: its mounts and topics.  [default: MODEL-1]")
@click.option("--output", type=click.Path(dir_okay=False), help="Write it to this file.  [default: show it]")
def edge_manifest(ref: ModelRef, image: str | None, device: str | None, output: str | None) -> Facts | Lines:
    """Write an Azure IoT Edge deployment manifest for a version: module, createOptions, routes, store and forward."""
    from .. import packaging, registry
    from ..fleet import manifest

    version = registry.get(ref)
    text = manifest.text(version, image=image or packaging.default_tag(version, "edge"), device=device or f"{version.model}-1", python=packaging.PYTHON)
    if not output:
        return Lines(text.splitlines())
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadOption(f"{output} cannot be written: {error.strerror}.", hint="--output FILE in a folder that is there") from None
    return Facts({"model": version.ref, "manifest": output})
