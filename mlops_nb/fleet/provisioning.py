"""The folder that a device starts from that is not a process of this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..edge.broker import Broker
from ..edge.spec import DeviceSpec
from ..errors import BadOption
from ..settings import Workspace
from . import keys


def write(device: str, folder: Path, *, packaged: str = "") -> Path:
    """A new *folder*, which only its owner can read, with `spec.json` and the secrets it names; paths in it are relative.

    *packaged* is where an image holds the specification of the model it came with.

    Raises BadOption when the folder is there, and what `Broker.of` raises.
    """
    Broker.of(Workspace.current())
    if folder.exists():
        raise BadOption(f"{folder} is already there.", hint="--output another folder")
    folder.mkdir(parents=True, mode=0o700)
    return lay_out(device, folder, packaged=packaged)


def lay_out(device: str, folder: Path, *, packaged: str = "") -> Path:
    """As `write` does, into a *folder* that is there; each file whole or not at all.  Raises what `Broker.of` raises."""
    broker = Broker.of(Workspace.current())
    keys.write_private(folder / "twin.key", keys.twin_key(device))
    ca_file = _copied(broker.ca_file, folder / "ca.crt")
    credentials_file = _copied(broker.credentials_file, folder / "credentials")
    moved = Broker(url=broker.url, ca_file=ca_file, credentials_file=credentials_file)
    spec = DeviceSpec(device=device, broker=moved, folder="state", packaged=packaged, twin_key_file="twin.key")
    keys.write_private(folder / "spec.json", msgspec.json.format(msgspec.json.encode(spec), indent=2))
    return folder


def _copied(source: str, place: Path) -> str:
    if not source:
        return ""
    keys.write_private(place, Path(source).read_bytes())
    return place.name
