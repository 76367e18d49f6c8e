"""All that one scoring server needs to know, in one JSON file."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..store.models import StoredFile

NOT_CAPTURED = "x-mlops-uncaptured"
"""Header that keeps one request out of the telemetry; its value must be the server's token, which no caller of the gateway knows."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A notebook cell whose code the model carries, so that its tracebacks can show it."""

    number: int | None = None
    filename: str = ""
    source: str = ""


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment of one model version."""

    endpoint: str
    deployment: str
    model: str
    version: int
    folder: str
    """Where the model's files are laid out: model.onnx, model.pkl (with code/), or entry/score.py, beside the user's own."""
    files: list[StoredFile] = []
    """What must lie there, byte for byte, before any of it is opened."""
    flavor: str
    engine: Literal["onnxruntime", "python", "script", "fpga"]
    port: int
    host: str = "127.0.0.1"
    """Where it listens: another address only within a container, whose engine decides who reaches it."""
    token_file: str
    """Holds the word that every request but health must bring; empty lets everybody in who reaches the port."""
    run_folder: str
    """Where failure.json and request_error.json go."""
    capture_folder: str
    """Where requests are written down; empty keeps none."""
    capture_payload_percent: float = 100.0
    signature: dict[str, Any] | None = None
    memory_mb: int | None = None
    cpus: float | None = None
    cores: list[int] = []
    """The numbers of the cores it is held to, where the system can do that; empty lets it use all."""
    hardware: str = "cpu"
    gpu_memory_mb: int | None = None
    """What of a GPU's memory ONNX Runtime may take; None means what it needs."""
    form: StoredFile | None = None
    """The HLS project that is emulated, where the engine is `fpga`."""
    overlay: str = ""
    """The bitstream of a board's FPGA that answers in place of the emulation."""
    script: str = ""
    """The entry script, where it is still being written: not in *folder* but the user's own file."""
    timeout_seconds: float = 60.0
    """What an entry script's run() may take."""
    drain_seconds: float = 5.0
    """What those who asked already may take for their answers once the server is to end."""
    most_waiting: int = 512
    """Requests being answered at once; those beyond are refused with 429."""
    cells: list[Cell] = []
    variables: dict[str, str] = {}
    trusted: bool = False
    ends_with: int | None = None
    """The pid of whoever started it, where it is to end when that one does; None lets it outlive them."""
