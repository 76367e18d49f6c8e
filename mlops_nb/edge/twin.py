"""The device twin: what a device should run, as a retained message, and what it says it runs, as another.

A desired state is signed with the device's key (HMAC-SHA256, in the user property `mac`), because whoever may publish it decides which
code runs on the device.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any, Literal

import msgspec

from ..errors import BadOption
from ..safety import checked_name
from ..store.models import StoredFile

CHUNK_BYTES = 128 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """What a device should run."""

    generation: str
    """Names this wish; what the device reports refers to it."""
    endpoint: str
    deployment: str
    model: str
    version: int
    hash: str
    flavor: str
    engine: Literal["onnxruntime", "python"]
    files: list[StoredFile]
    signature: dict[str, Any] | None = None
    trusted: bool = False
    chunk_bytes: int = CHUNK_BYTES
    """Size of each of `mlops/files/<sha256>/<n>` but the last."""
    topic_in: str
    topic_out: str
    capture_percent: float = 100.0
    """Share of requests whose inputs and outputs are sent back as telemetry; facts always are."""
    cpus: float | None = None

    @property
    def ref(self) -> str:
        """`churn:3`."""
        return f"{self.model}:{self.version}"


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of itself: at every change, and as a heartbeat."""

    device: str
    state: Literal["empty", "fetching", "running", "failed"]
    """`failed` means that *generation* could not be run; *model* is what it runs still."""
    generation: str = ""
    """The desired state it acted on last."""
    model: str = ""
    hash: str = ""
    previous: str = ""
    """What it would go back to."""
    reason: str = ""
    module: str = ""
    """The version of this package on the device."""
    providers: list[str] = []
    requests: int = 0
    """Answered since the process started."""
    errors: int = 0
    rows: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    queued: int = 0
    """Answers that wait for the link."""
    queued_mb: float = 0.0
    dropped: int = 0
    """Answers dropped, over all time, because the queue was full."""
    telemetry_waiting: int = 0
    telemetry_dropped: int = 0
    started: str = ""
    time: str = ""


# ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def desired_topic(device: str) -> str:
    """Retained: what *device* should run."""
    return f"mlops/devices/{device}/desired"


def reported_topic(device: str) -> str:
    """Retained: what it says."""
    return f"mlops/devices/{device}/reported"


def status_topic(device: str) -> str:
    """Retained: `{"online": …}`; its last will says false."""
    return f"mlops/devices/{device}/status"


def telemetry_topic(device: str) -> str:
    """What it was asked and answered, in order."""
    return f"mlops/devices/{device}/telemetry"


def ingested_topic(device: str) -> str:
    """Retained: up to which line the workspace has its telemetry."""
    return f"mlops/devices/{device}/ingested"


def chunk_topic(sha256: str, number: int | str) -> str:
    """Retained: a piece of a file."""
    return f"mlops/files/{sha256}/{number}"


def device_of(topic: str) -> str:
    """The device that `mlops/devices/<device>/…` is about.  Raises BadName."""
    return checked_name(topic.split("/")[2], what="device")


def checked_topic(topic: str, *, what: str) -> str:
    """*topic*, fit to be published to (MQTT 5 §4.7).  Raises BadOption."""
    if not topic or len(topic.encode()) > 1000 or any(mark in topic for mark in "+#\0") or topic.startswith(("$", "mlops/")) or not topic.isprintable():
        raise BadOption(f"{topic[:60]!r} cannot be {what}.", hint="a topic such as gates/1/in, without + and #, not below mlops/")
    return topic


# ── signing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def sign(body: bytes, key: bytes, *, device: str) -> str:
    """The mark that shows that *body* was meant for *device* by somebody with its *key*."""
    return hmac.new(key.strip(), device.encode() + b"\0" + body, hashlib.sha256).hexdigest()


def read_desired(body: bytes, mac: str, *, key: bytes | None, device: str) -> Desired:
    """The desired state that came.  Raises BadOption for one that is not signed, or not to be run unsigned, or not sound."""
    if key is not None and not hmac.compare_digest(sign(body, key, device=device).encode(), mac.encode(errors="replace")):
        raise BadOption("the desired state is not signed with this device's key", hint="%mlops deploy it from the workspace that knows the key")
    try:
        desired = msgspec.json.decode(body, type=Desired)
    except msgspec.DecodeError as error:
        raise BadOption(f"the desired state cannot be read: {error}") from None
    if key is None and (desired.engine != "onnxruntime" or desired.trusted):
        raise BadOption(f"{desired.ref} is Python code, and this device has no key to tell who sent it", hint="give the device a twin_key_file")
    if wrong := next((file.path for file in desired.files if not _SHA256.fullmatch(file.sha256) or file.bytes < 0), None):
        raise BadOption(f"{wrong!r} has no sound SHA-256")
    if not 1024 <= desired.chunk_bytes <= 64 << 20:
        raise BadOption(f"chunks of {desired.chunk_bytes} bytes are not taken")
    checked_topic(desired.topic_in, what="the topic of requests")
    checked_topic(desired.topic_out, what="the topic of answers")
    return desired
