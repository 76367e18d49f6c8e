"""All that the module on a device needs to know, in one JSON file."""

from __future__ import annotations

from typing import Literal

import msgspec

from .broker import Broker


class DeviceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device, the broker it belongs to, and how much it may keep."""

    device: str
    broker: Broker
    """Where its twin is, and where answers without a response topic go."""
    requests: Broker | None = None
    """Where requests come from, when that is another broker, near the device: it is then answered on while the link to *broker* is down."""
    folder: str
    """Models, queue and telemetry; all it needs to start without any link."""
    files_folder: str = ""
    """Where files may lie by their SHA-256, mounted or copied there; what is not there comes through the broker."""
    packaged: str = ""
    """The specification of a model that came with the image, run until the twin says otherwise; one that is not there is passed over."""
    topic_in: str = ""
    """Where the packaged model takes requests; empty means DEVICE/in."""
    topic_out: str = ""
    """Where it answers; empty means DEVICE/out."""
    twin_key_file: str = ""
    """The key that a desired state must be signed with; without one, only ONNX models are taken."""
    queue_max_mb: float = 256.0
    """Answers that wait for the link."""
    queue_full: Literal["drop oldest", "drop newest"] = "drop oldest"
    telemetry_max_mb: float = 64.0
    """Captured requests that wait for the link; the oldest are dropped, and counted."""
    heartbeat_seconds: float = 10.0
    telemetry_seconds: float = 5.0
    longest_retry_seconds: float = 5.0
    fetch_timeout_seconds: float = 45.0
    """Patience with a file of which nothing more comes."""
