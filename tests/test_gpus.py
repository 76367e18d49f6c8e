"""GPUs as NVML tells of them, by a stand-in for the driver's library: two GPUs, compiled here with g++, and what is made of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from living import churn_model

from mlops_nb import gpus, hardware, rollout
from mlops_nb.errors import BadOption, HardwareMissing
from mlops_nb.store.deployments import DeploymentSpec

STAND_IN = """
#include <cstring>
#include <cstdlib>
extern "C" {
struct Memory { unsigned long long total, free, used; };
static long number(const char *name, long otherwise) { const char *said = getenv(name); return said ? atol(said) : otherwise; }
int nvmlInit_v2() { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = number("FAKE_GPUS", 2); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *handle, char *name, unsigned length) { strncpy(name, (long)handle == 1 ? "Small GPU" : "Large GPU", length); return 0; }
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    memory->total = (long)handle == 1 ? 8000000000ull : 24000000000ull;
    memory->free = (long)handle == 1 ? 500000000ull : 20000000000ull;
    return 0;
}
int nvmlSystemGetDriverVersion(char *version, unsigned length) { strncpy(version, "550.54", length); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = number("FAKE_CUDA", 12040); return 0; }
}
"""
Told = Callable[..., Any]


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Told:
    """`told("expression")`: the value of an expression of `gpus` in a process that finds the stand-in."""
    folder: Path = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.cpp").write_text(STAND_IN)
    subprocess.run(["g++", "-shared", "-fPIC", "nvml.cpp", "-o", "libnvidia-ml.so.1"], cwd=folder, check=True)

    def value(expression: str, **variables: str) -> Any:
        code = (
            "import json, msgspec\nfrom mlops_nb import gpus, hardware\nfrom mlops_nb.errors import MlopsError\n"
            f"try:\n    print(json.dumps(msgspec.to_builtins({expression})))\nexcept MlopsError as error:\n    print(json.dumps(str(error)))"
        )
        environment = os.environ | {"LD_LIBRARY_PATH": str(folder)} | variables
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return value


def test_the_driver_tells_of_each_gpu_and_its_free_memory(told):
    found = told("gpus.driver()")

    assert (found["version"], found["cuda"], found["lacking"]) == ("550.54", [12, 4], "")
    assert [(gpu["name"], gpu["memory_mb"], gpu["free_mb"]) for gpu in found["gpus"]] == [("Small GPU", 8000, 500), ("Large GPU", 24000, 20000)]


def test_the_one_with_most_free_memory_is_handed_over_first(told):
    assert [gpu["index"] for gpu in told("gpus.handed_over(None)")] == [1]
    assert told("gpus.variables(gpus.handed_over('all'))") == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}


@pytest.mark.parametrize(
    ("asked", "variables", "said"),
    [
        ("'3'", {}, "3 were asked for, and 2 are here (Small GPU, Large GPU)"),
        ("'1', model_bytes=30_000_000_000", {}, "the model takes 30,000 MB at least, and 20,000 MB of 24,000 MB are free on GPU 1 (Large GPU)"),
        ("'1', limit_mb=21_000", {}, "--gpu-memory is 21,000 MB, and 20,000 MB of 24,000 MB are free"),
        ("'1', model_bytes=2_000_000_000, limit_mb=1000", {}, "the model takes 2,000 MB at least, and --gpu-memory is 1,000 MB"),
        ("'1'", {"FAKE_CUDA": "11040"}, "the NVIDIA driver 550.54 speaks CUDA 11.4, and onnxruntime-gpu needs 12.0"),
        ("'1'", {"FAKE_GPUS": "0"}, "the NVIDIA driver finds no GPU"),
    ],
)
def test_what_cannot_be_handed_over_is_refused_with_the_reason(told, asked, variables, said):
    assert said in told(f"gpus.handed_over({asked})", **variables)


def test_the_list_of_hardware_names_the_gpu_and_still_wants_its_package(told):
    cuda = told("next(one for one in hardware.found() if one.name == 'cuda')")

    assert (cuda["device"], cuda["memory_mb"]) == ("Small GPU and 1 more", 8000)
    assert "onnxruntime-gpu is not installed" in cuda["reason"]


@pytest.mark.parametrize(("said", "number"), [("all", -1), ("1", 1), ("4", 4)])
def test_a_containers_device_request_is_as_dockers_api_has_it(said, number):
    assert gpus.request(said) == {"Driver": "nvidia", "Count": number, "Capabilities": [["gpu"]]}


@pytest.mark.parametrize("said", ["0", "-1", "two", "", "1.5", "²"])
def test_what_is_no_number_of_gpus_is_refused(said):
    with pytest.raises(BadOption):
        gpus.count(said)


def test_cuda_is_told_its_device_and_its_limit(tmp_path):
    (provider, options), cpu = gpus.with_options([gpus.CUDA, "CPUExecutionProvider"], limit_mb=4000, cache=tmp_path)

    assert (provider, cpu) == (gpus.CUDA, "CPUExecutionProvider")
    assert options == {"device_id": "0", "arena_extend_strategy": "kSameAsRequested", "gpu_mem_limit": "4000000000"}


def test_tensorrt_keeps_its_engines_and_leaves_the_rest_to_cuda(tmp_path):
    told = gpus.with_options([gpus.TENSORRT, "CPUExecutionProvider"], limit_mb=None, cache=tmp_path)

    assert [each if isinstance(each, str) else each[0] for each in told] == [gpus.TENSORRT, gpus.CUDA, "CPUExecutionProvider"]
    assert told[0][1] == {"device_id": "0", "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(tmp_path)}


def test_other_providers_are_told_nothing(tmp_path):
    assert gpus.with_options(["CPUExecutionProvider"], limit_mb=None, cache=tmp_path) == ["CPUExecutionProvider"]


def test_without_a_gpu_the_exact_reason_is_told(told):
    assert told("gpus.handed_over('1')", FAKE_GPUS="0") == "Hardware 'gpu' cannot be used here: the NVIDIA driver finds no GPU. Available: cpu."


def test_gpus_that_nothing_would_use_are_refused_before_anything_is_done(workspace):
    version = churn_model()

    with pytest.raises(BadOption, match=f"--gpus 1: {version.ref} runs on cpu") as refused:
        rollout.deploy(version.ref, spec=DeploymentSpec(gpus="1"))
    with pytest.raises(BadOption, match="--gpu-memory"):
        rollout.deploy(version.ref, spec=DeploymentSpec(options={"gpu_memory": 4000}))

    assert refused.value.hint == "--hardware cuda --gpus 1" and rollout.endpoints() == []


@pytest.mark.parametrize("name", [one.name for one in hardware.found() if one.name in ("cuda", "tensorrt") and not one.available])
def test_a_gpu_that_is_not_here_is_refused_with_every_reason(workspace, name):
    with pytest.raises(HardwareMissing, match=f"{name!r} cannot be used here: .*onnxruntime-gpu"):
        rollout.deploy(churn_model().ref, spec=DeploymentSpec(hardware=name, gpus="1"))
