"""Which MQTT broker, and with what it is entered: an address, the CA that signed its certificate, a file with user and password."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from ..errors import BadOption, BrokerNotSet, FileMissing, MissingExtra, SecretReadable

if TYPE_CHECKING:
    from types import ModuleType

    from ..settings import Workspace

_PORTS = {"mqtt": 1883, "mqtts": 8883}


class Credentials(NamedTuple):
    """A user and a password; the repr leaves the password out."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, password=…)"


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """A broker as settings and specs name it; the password is in none of its fields."""

    url: str
    """`mqtt://host:port`, or `mqtts://host:port` for TLS."""
    ca_file: str = ""
    """The CA that signed its certificate; empty means the system's."""
    credentials_file: str = ""
    """Two lines, user and password, in a file that only its owner can read."""

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        """The broker that the workspace's settings name.  Raises BrokerNotSet, BadOption."""
        settings = workspace.settings()
        if not settings.edge_broker:
            raise BrokerNotSet()
        ca_file, credentials_file = (_absolute(path, workspace) for path in (settings.edge_ca, settings.edge_credentials))
        return cls(url=settings.edge_broker, ca_file=ca_file, credentials_file=credentials_file).checked()

    def checked(self) -> Self:
        """Itself, once address and files are sound.  Raises BadOption, FileMissing, SecretReadable."""
        host = self.address[0]
        if self.ca_file and not Path(self.ca_file).is_file():
            raise FileMissing(self.ca_file)
        if self.credentials_file and not self.tls and not self.here:
            raise BadOption(f"A password would travel to {host} in the clear.", hint="mqtts://host:8883, which is TLS")
        self.credentials()
        return self

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted, and the broker's certificate checked."""
        return self.url.startswith("mqtts://")

    @property
    def here(self) -> bool:
        """Whether its address is this machine's loopback.  Raises BadOption for what is no broker's address."""
        return _is_here(self.address[0])

    @property
    def address(self) -> tuple[str, int]:
        """Host and port.  Raises BadOption for what is no broker's address."""
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        plain = not (parts.username or parts.path.strip("/") or parts.query or parts.fragment)
        if parts.scheme not in _PORTS or not host or not plain or not re.fullmatch(r"[A-Za-z0-9.:_-]+", host):
            raise BadOption(f"{self.url[:80]!r} is no broker's address.", hint="mqtts://host:8883, user and password in the file that edge_credentials names")
        return host, port or _PORTS[parts.scheme]

    def credentials(self) -> Credentials | None:
        """User and password, read anew each time, so that a rotated secret counts.  Raises FileMissing, SecretReadable, BadOption."""
        if not self.credentials_file:
            return None
        lines = secret(self.credentials_file).decode(errors="replace").splitlines()
        if len(lines) < 2 or not lines[0]:
            raise BadOption(f"{self.credentials_file} does not hold a user and a password.", hint="two lines: the user, then the password")
        return Credentials(lines[0], lines[1])


def secret(path: str | Path) -> bytes:
    """What a secret's file holds.  Raises FileMissing; SecretReadable when others than its owner can read it."""
    path = Path(path)
    try:
        if path.stat().st_mode & 0o077:
            raise SecretReadable(path)
        return path.read_bytes()
    except FileNotFoundError:
        raise FileMissing(path) from None


def paho() -> ModuleType:
    """The MQTT client's module.  Raises MissingExtra."""
    try:
        import paho.mqtt.client as module
    except ImportError:
        raise MissingExtra("paho-mqtt", extra="edge", doing="MQTT") from None
    return module


def client(broker: Broker, *, client_id: str, manual_ack: bool = False) -> Any:
    """A client for *broker* in MQTT 5, not yet connected.  Raises MissingExtra, FileMissing, SecretReadable."""
    mqtt = paho()
    made = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, manual_ack=manual_ack)
    if known := broker.credentials():
        made.username_pw_set(known.user, known.password)
    if broker.tls:
        made.tls_set(ca_certs=broker.ca_file or None)
    return made


def properties(kind: str, **values: Any) -> Any:
    """MQTT 5 properties (§2.2.2) of a packet of *kind*: `CONNECT`, `PUBLISH`, `WILLMESSAGE`; None values are left out."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    made = Properties(getattr(PacketTypes, kind))
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _absolute(path: str, workspace: Workspace) -> str:
    """A path of the settings, which is meant from the folder the workspace stands in."""
    return str(workspace.root.parent / Path(path).expanduser()) if path else ""
