"""What a model can be run on here: ONNX Runtime's execution providers, the devices behind them, and their limits.

One list for all: what `%mlops hardware` shows, what `--hardware` takes, and what a scoring server hands to ONNX Runtime.
"""

from __future__ import annotations

import http.client
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from . import gpus
from .errors import BadOption, HardwareMissing, listed, suggested

_CPU_PROVIDER, _CPU_PACKAGE = "CPUExecutionProvider", "onnxruntime"


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of hardware: here, or why not."""

    name: str
    """What `--hardware` takes."""
    kind: Literal["cpu", "gpu", "npu"]
    provider: str
    """ONNX Runtime's name of what executes the model."""
    available: bool
    reason: str = ""
    """Why it cannot be used here; empty when it can."""
    device: str = ""
    """The device's own name."""
    cores: int | None = None
    """Cores this process may use (of a CPU)."""
    memory_mb: int | None = None
    """Memory there is, the limit of a container counted (of a CPU: the machine's)."""


class _Known(msgspec.Struct, frozen=True):
    """One row of the table below."""

    name: str
    kind: Literal["cpu", "gpu", "npu"]
    provider: str
    package: str
    """What brings ONNX Runtime with that provider; empty where only another build would."""
    systems: tuple[str, ...] = ()
    """Values of sys.platform it exists on; empty for any."""
    devices: Callable[[], tuple[str, str, int | None]] | None = None
    """Gives (device, what is missing, memory in MB); None where only the package decides."""


def found(*, isolated: bool = False) -> list[Hardware]:
    """Every kind of hardware this package knows, the CPU first, each with the reason where it cannot be used here.

    With *isolated* for an environment of its own, which gets the package that is lacking here.
    """
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    if isolated:
        providers += [known.provider for known in _TABLE if known.package]
    return [_cpu(), *(_looked_at(known, providers) for known in _TABLE)]


def available() -> list[str]:
    """The names that can be asked for here."""
    return [one.name for one in found() if one.available]


def asked(name: str, *, isolated: bool = False) -> Hardware:
    """The hardware called *name*; `gpu` and `npu` are the first of their kind that is here, or with *isolated* can be had in an environment of its own.

    Raises BadOption for a name nobody knows, HardwareMissing with the reason when it is not here.
    """
    checked(name)
    if name == "cpu":
        return _cpu()
    every = found(isolated=isolated)
    chosen = [one for one in every if name in (one.name, one.kind)]
    usable = next((one for one in chosen if one.available), None)
    if usable is None:
        raise HardwareMissing(name, reason=_why_none(chosen), available=[one.name for one in every if one.available])
    return usable


def checked(name: str) -> str:
    """*name* when it is in the list, whether it is here or not.  Raises BadOption."""
    if name not in NAMES:
        raise BadOption(f"No hardware {name!r}. There are: {listed(NAMES, most=20)}.", hint=suggested(name, NAMES, "%mlops hardware"))
    return name


def providers(name: str) -> list[str]:
    """What to hand to ONNX Runtime for *name*: its provider, then the CPU for the operators that it lacks.  Raises as `asked`."""
    provider = asked(name).provider
    return [_CPU_PROVIDER] if provider == _CPU_PROVIDER else [provider, _CPU_PROVIDER]


def check_given(name: str, given: Sequence[str], operators: Mapping[str, int] | None = None) -> None:
    """Raises HardwareMissing when ONNX Runtime, asked for *name*, put another provider first or gave it none of the *operators* (how many
    each provider got, where that is known): it falls back without an error."""
    wanted = providers(name)[0]
    if wanted not in given:
        reason = f"ONNX Runtime could not start its {wanted}, mostly for a library it needs (the server's log names it)"
        raise HardwareMissing(name, reason=reason, available=available())
    if operators and wanted not in operators:
        reason = f"its {wanted} can execute none of this model's {sum(operators.values())} operators, and the CPU would do it all"
        raise HardwareMissing(name, reason=reason, available=available())


def runtime_for(name: str) -> str:
    """The package that brings ONNX Runtime for *name* into an environment of its own.  Raises as `asked`."""
    known = next((known for known in _TABLE if known.name == name), None)
    if known is None and name != "cpu":
        return runtime_for(asked(name, isolated=True).name)
    return known.package if known and known.package else _CPU_PACKAGE


def check_for(engine: str, name: str, *, isolated: bool = False) -> None:
    """Raises as `asked`, and HardwareMissing for a model that ONNX Runtime does not execute: its own code chooses the device."""
    asked(name, isolated=isolated)
    if name != "cpu" and engine != "onnxruntime":
        raise HardwareMissing(name, reason="only models in ONNX can be put on it; this one runs as Python, which chooses its device itself", available=["cpu"])


def proven(handle: Mapping[str, Any], model: str) -> list[str]:
    """What the server behind a deployment's *handle* says that *model* runs on: `OpenVINOExecutionProvider (8 of 9 operators)`.

    Nothing when it does not answer within a second.
    """
    if not handle.get("port"):
        return []
    connection = http.client.HTTPConnection("127.0.0.1", handle["port"], timeout=1)
    try:
        connection.request("GET", f"/v2/models/{model}", headers={"x-mlops-token": Path(handle["token_file"]).read_text(encoding="utf-8").strip()})
        told = msgspec.json.decode(connection.getresponse().read())
        operators = told["parameters"].get("operators", {})
        return [_with_share(str(provider), operators) for provider in told["parameters"]["execution_providers"]]
    except (OSError, http.client.HTTPException, msgspec.DecodeError, KeyError, TypeError):
        return []
    finally:
        connection.close()


def _with_share(provider: str, operators: Mapping[str, int]) -> str:
    return f"{provider} ({operators.get(provider, 0)} of {sum(operators.values())} operators)" if operators else provider


def cores() -> list[int]:
    """The numbers of the cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _why_none(chosen: Sequence[Hardware]) -> str:
    return "; ".join(one.reason if len(chosen) == 1 else f"{one.name}: {one.reason}" for one in chosen)


def _looked_at(known: _Known, providers: Sequence[str]) -> Hardware:
    device, lacking, memory = known.devices() if known.devices else ("", "", None)
    if known.systems and sys.platform not in known.systems:
        lacking = f"only on {' and '.join(_SYSTEMS[system] for system in known.systems)}"
    elif known.provider not in providers:
        lacking = "; ".join(filter(None, [lacking, _not_installed(known)]))
    return Hardware(
        name=known.name, kind=known.kind, provider=known.provider, available=not lacking, reason=lacking, device=device, memory_mb=memory
    )  # fmt: skip


def _not_installed(known: _Known) -> str:
    if not known.package:
        return f"this onnxruntime was built without {known.provider.removesuffix('ExecutionProvider')}"
    return f"{known.package} is not installed (it takes the place of onnxruntime; --isolated brings it, in an environment of its own)"


# ── the CPU ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cpu() -> Hardware:
    return Hardware(name="cpu", kind="cpu", provider=_CPU_PROVIDER, available=True, device=cpu_model(), cores=len(cores()), memory_mb=_memory_mb())


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _memory_mb() -> int:
    import psutil

    limits = [psutil.virtual_memory().total, *filter(None, map(_limit, ("memory.max", "memory/memory.limit_in_bytes")))]
    return min(limits) // 1_000_000


def _limit(file: str) -> int | None:
    """A container's limit, in either version of Linux's control groups."""
    try:
        text = (Path("/sys/fs/cgroup") / file).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


# ── other devices ────────────────────────────────────────────────────────────────────────────────────────────────────


def _nvidia() -> tuple[str, str, int | None]:
    """NVIDIA's first GPU, and how many more."""
    told = gpus.driver()
    if not told.gpus:
        return "", told.lacking, None
    more = f" and {len(told.gpus) - 1} more" if len(told.gpus) > 1 else ""
    return told.gpus[0].name + more, told.lacking, told.gpus[0].memory_mb or None


def _amd() -> tuple[str, str, int | None]:
    """AMD's compute driver shows itself as a device file."""
    return ("AMD GPU", "", None) if Path("/dev/kfd").exists() else ("", "no AMD ROCm driver", None)


def _qualcomm() -> tuple[str, str, int | None]:
    """Qualcomm's NPU shows itself as a device file on Linux; on Windows only trying tells."""
    here = sys.platform != "linux" or Path("/dev/fastrpc-cdsp").exists()
    return ("", "", None) if here else ("", "no Qualcomm NPU", None)


_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
_TABLE = (
    _Known("openvino", "cpu", "OpenVINOExecutionProvider", "onnxruntime-openvino", ("linux", "win32")),
    _Known("cuda", "gpu", "CUDAExecutionProvider", "onnxruntime-gpu", ("linux", "win32"), _nvidia),
    _Known("tensorrt", "gpu", "TensorrtExecutionProvider", "onnxruntime-gpu", ("linux", "win32"), _nvidia),
    _Known("rocm", "gpu", "MIGraphXExecutionProvider", "onnxruntime-migraphx", ("linux",), _amd),
    _Known("coreml", "gpu", "CoreMLExecutionProvider", "", ("darwin",)),
    _Known("directml", "gpu", "DmlExecutionProvider", "onnxruntime-directml", ("win32",)),
    _Known("qnn", "npu", "QNNExecutionProvider", "onnxruntime-qnn", ("linux", "win32"), _qualcomm),
)
RUNTIMES = frozenset({_CPU_PACKAGE, *(known.package for known in _TABLE if known.package)})
"""The packages that bring ONNX Runtime; an environment can hold one of them."""
NAMES = ("cpu", *(known.name for known in _TABLE), "gpu", "npu")
"""Every word `--hardware` takes: the list, and `gpu` and `npu` for the first of their kind that is here."""
