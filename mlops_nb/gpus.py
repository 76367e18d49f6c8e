"""NVIDIA's GPUs as the driver's own library (NVML) tells of them, what a deployment asks of them, and what ONNX Runtime is told.

NVML starts nothing on a device.  Everything that hands a GPU over asks here: the local target, a container's device request, the options
of the CUDA and TensorRT providers.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .errors import BadOption, HardwareMissing, listed

OLDEST_CUDA = (12, 0)
"""The oldest CUDA that a driver has to speak for onnxruntime-gpu (since 1.19)."""
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, by its number in the order of the bus."""

    index: int
    name: str
    memory_mb: int
    free_mb: int


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver tells."""

    version: str = ""
    cuda: tuple[int, int] = (0, 0)
    """The newest CUDA it speaks."""
    gpus: list[Gpu] = []
    lacking: str = ""
    """Why no GPU can be used; empty when one can."""


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def driver() -> Driver:
    """The driver and the GPUs here; `lacking` says why none can be used."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return Driver(lacking="no NVIDIA driver")
    count, version, cuda = ctypes.c_uint(), ctypes.create_string_buffer(80), ctypes.c_int()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return Driver(lacking="the NVIDIA driver does not answer")
    nvml.nvmlSystemGetDriverVersion(version, len(version))
    nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda))
    gpus = list(filter(None, (_gpu(nvml, index) for index in range(count.value))))
    told = Driver(version=version.value.decode(errors="replace"), cuda=(cuda.value // 1000, cuda.value % 1000 // 10), gpus=gpus)
    return msgspec.structs.replace(told, lacking=_lacking(told))


def _gpu(nvml: Any, index: int) -> Gpu | None:
    handle, name, memory = ctypes.c_void_p(), ctypes.create_string_buffer(96), _Memory()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
        return None
    nvml.nvmlDeviceGetName(handle, name, len(name))
    nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    return Gpu(index=index, name=name.value.decode(errors="replace"), memory_mb=memory.total // 1_000_000, free_mb=memory.free // 1_000_000)


def _lacking(told: Driver) -> str:
    if not told.gpus:
        return "the NVIDIA driver finds no GPU"
    if told.cuda < OLDEST_CUDA:
        spoken, needed = (".".join(map(str, version)) for version in (told.cuda, OLDEST_CUDA))
        return f"the NVIDIA driver {told.version} speaks CUDA {spoken}, and onnxruntime-gpu needs {needed}"
    return ""


# ── what a deployment asks ───────────────────────────────────────────────────────────────────────────────────────────


def count(said: str) -> int | None:
    """How many GPUs `--gpus` asks for; None means all there are.  Raises BadOption."""
    if said == "all":
        return None
    if not (said.isascii() and said.isdigit() and int(said)):
        raise BadOption(f"{said!r} is no number of GPUs.", hint="--gpus all, or how many")
    return int(said)


def request(said: str) -> dict[str, Any]:
    """What a container engine is asked for by `--gpus`: a device request as Docker's API has it.  Raises BadOption."""
    wanted = count(said)
    return {"Driver": "nvidia", "Count": -1 if wanted is None else wanted, "Capabilities": [["gpu"]]}


def handed_over(said: str | None, *, model_bytes: int = 0, limit_mb: int | None = None) -> list[Gpu]:
    """The GPUs a process gets, those with most free memory first: as many as `--gpus` asks for, one where it does not say.

    Raises HardwareMissing with the reason: no driver, one too old, too few GPUs, or less free memory than the model or its limit takes.
    """
    told = driver()
    if told.lacking:
        raise HardwareMissing("gpu", reason=told.lacking, available=["cpu"])
    wanted = count(said) if said else 1
    if wanted and wanted > len(told.gpus):
        raise HardwareMissing("gpu", reason=f"{wanted} were asked for, and {len(told.gpus)} are here ({listed(gpu.name for gpu in told.gpus)})",
                              available=["cpu"])  # fmt: skip
    chosen = sorted(told.gpus, key=lambda gpu: -gpu.free_mb)[:wanted]
    _check_memory(chosen[0], model_mb=model_bytes // 1_000_000, limit_mb=limit_mb)
    return chosen


def _check_memory(gpu: Gpu, *, model_mb: int, limit_mb: int | None) -> None:
    """Raises HardwareMissing for a model that cannot be loaded: its weights alone are counted, so what passes may still be too large."""
    there = f"{gpu.free_mb:,} MB of {gpu.memory_mb:,} MB are free on GPU {gpu.index} ({gpu.name})"
    if model_mb > gpu.free_mb:
        raise HardwareMissing("gpu", reason=f"the model takes {model_mb:,} MB at least, and {there}", available=["cpu"])
    if limit_mb and limit_mb > gpu.free_mb:
        raise HardwareMissing("gpu", reason=f"--gpu-memory is {limit_mb:,} MB, and {there}", available=["cpu"])
    if limit_mb and model_mb > limit_mb:
        raise HardwareMissing("gpu", reason=f"the model takes {model_mb:,} MB at least, and --gpu-memory is {limit_mb:,} MB", available=["cpu"])


def variables(gpus: Sequence[Gpu]) -> dict[str, str]:
    """The environment variables by which a process sees these GPUs alone, numbered from 0."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(str(gpu.index) for gpu in gpus)}


# ── what ONNX Runtime is told ────────────────────────────────────────────────────────────────────────────────────────


def with_options(providers: Sequence[str], *, limit_mb: int | None, cache: Path) -> list[str | tuple[str, Mapping[str, str]]]:
    """*providers* as ONNX Runtime takes them: the first GPU the process sees, and no more of its memory than the limit.

    TensorRT keeps the engines it builds, which takes minutes, in *cache*, and leaves to CUDA what it cannot do.
    """
    device = {"device_id": "0"}
    limit = limit_mb * 1_000_000 if limit_mb else None
    cuda = device | {"arena_extend_strategy": "kSameAsRequested"} | ({"gpu_mem_limit": str(limit)} if limit else {})
    tensorrt = device | {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)} | ({"trt_max_workspace_size": str(limit)} if limit else {})
    told: list[str | tuple[str, Mapping[str, str]]] = []
    for provider in providers:
        if provider == TENSORRT:
            told += [(TENSORRT, tensorrt), (CUDA, cuda)]
        else:
            told.append((CUDA, cuda) if provider == CUDA else provider)
    return told
