"""One list of hardware: what is here, what is not and why."""

from __future__ import annotations

import json
import subprocess
import sys

import onnxruntime
import pytest

from mlops_nb import cards, hardware
from mlops_nb.errors import BadOption, HardwareMissing
from mlops_nb.shapes import Listing

HERE = {one.name: one for one in hardware.found()}


def test_the_cpu_is_here_with_its_name_cores_and_memory() -> None:
    cpu = hardware.found()[0]

    assert (cpu.name, cpu.available, cpu.provider) == ("cpu", True, "CPUExecutionProvider")
    assert cpu.device and cpu.cores == len(hardware.cores()) and cpu.memory_mb and cpu.memory_mb > 100


@pytest.mark.parametrize("name", HERE)
def test_each_is_here_or_says_why_not(name: str) -> None:
    assert HERE[name].available == (HERE[name].reason == "")


def test_none_is_here_that_onnx_runtime_was_built_without() -> None:
    assert {one.provider for one in HERE.values() if one.available} <= set(onnxruntime.get_available_providers())


@pytest.mark.parametrize("name", [name for name, one in HERE.items() if not one.available])
def test_what_is_not_here_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(HardwareMissing) as refused:
        hardware.providers(name)

    assert HERE[name].reason in str(refused.value) and "Available: cpu" in str(refused.value)


@pytest.mark.parametrize("name", ["gpu", "npu"])
def test_a_kind_is_the_first_that_is_here_or_every_reason(name: str) -> None:
    usable = [one for one in HERE.values() if one.kind == name and one.available]
    if usable:
        assert hardware.asked(name) == usable[0]
    else:
        with pytest.raises(HardwareMissing, match=f"{name!r} cannot be used here"):
            hardware.asked(name)


def test_a_name_nobody_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadOption, match="No hardware 'cudda'") as refused:
        hardware.asked("cudda")

    assert refused.value.hint == "did you mean cuda?"


def test_onnx_runtime_falling_back_is_not_let_pass() -> None:
    hardware.check_given("cpu", ["CPUExecutionProvider"])
    with pytest.raises(HardwareMissing, match="could not start its CPUExecutionProvider"):
        hardware.check_given("cpu", ["AzureExecutionProvider"])


def test_a_model_that_runs_as_python_is_not_said_to_run_on_other_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware.check_for("python", "cpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(HardwareMissing, match="only models in ONNX"):
        hardware.check_for("python", "openvino")


def test_an_nvidia_gpu_needs_its_driver_and_its_package() -> None:
    assert HERE["cuda"].available or "onnxruntime-gpu is not installed" in HERE["cuda"].reason or "driver" in HERE["cuda"].reason


def test_the_command_lists_them_all(workspace) -> None:
    done = subprocess.run([sys.executable, "-m", "mlops_nb", "hardware", "--json"], capture_output=True, text=True, timeout=60)

    assert [one["name"] for one in json.loads(done.stdout)["result"]] == list(HERE)


def test_its_card_shows_reasons_in_words_and_shapes() -> None:
    text = cards.as_text(Listing(hardware.found(), what="execution provider"))

    assert "✓ here" in text
    assert all(one.reason in text for one in HERE.values())
