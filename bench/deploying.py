"""From `deploy` to the first answer of a registered scikit-learn model, with the agent warm and with nothing running at all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_nb import artifacts, registry, rollout

from . import examples, processes, timing, workspaces
from .table import Figure

if TYPE_CHECKING:
    import pandas as pd

    from mlops_nb.store.models import ModelVersion

WARM_ROUNDS = 5
COLD_ROUNDS = 3
_numbers = count(1)


def measure() -> list[Figure]:
    """The model as ONNX beside a bare Granian and ONNX Runtime started by hand; as the Python object beside a process that opens the pickle."""
    frame, late = examples.flights()
    model, row = examples.pipeline(frame, late), frame.head(1)
    with workspaces.fresh():
        converted = registry.register(model, name="delays", sample=frame).version
        kept = registry.register(model, name="delays", sample=frame, convert=False).version
        onnx, python = partial(_deployed, converted.ref, row), partial(_deployed, kept.ref, row)
        by_hand, opened = partial(_served_by_hand, _file(converted, "model.onnx"), row), partial(_opened_by_hand, _file(kept, "model.pkl"), row)
        warm = timing.medians({"by hand": by_hand, "ONNX": onnx, "opened": opened, "Python": python}, rounds=WARM_ROUNDS)
        cold = timing.medians({"ONNX": partial(_after_down, onnx)}, rounds=COLD_ROUNDS)
    served = Figure(name="Granian and ONNX Runtime by hand, to the first answer", value=warm["by hand"], unit="s")
    pickled = Figure(name="a Python process that opens the pickle and predicts", value=warm["opened"], unit="s")
    first = Figure(name="deploy to the first answer, agent warm", value=warm["ONNX"], unit="s", baseline=served.name, at_most=1.5)
    return [
        served,
        first,
        pickled,
        Figure(name="deploy to the first answer, agent warm, as Python object", value=warm["Python"], unit="s", baseline=pickled.name, at_most=1.5),
        Figure(name="deploy to the first answer, nothing running", value=cold["ONNX"], unit="s", baseline=first.name),
    ]


def _deployed(model: str, row: pd.DataFrame) -> float:
    """Seconds from the command to the first answer, at an endpoint that did not exist; it is withdrawn afterwards."""
    endpoint = f"e{next(_numbers)}"
    began = time.perf_counter()
    rollout.deploy(model, endpoint=endpoint)
    answer = rollout.invoke(endpoint, row)
    seconds = time.perf_counter() - began
    assert answer.outputs["label"] in ([0], [1]), answer
    rollout.delete_endpoint(endpoint)
    return seconds


def _after_down(deployed: timing.Timed) -> float:
    """The same when neither agent nor gateway runs."""
    rollout.down()
    return deployed()


def _served_by_hand(model: Path, row: pd.DataFrame) -> float:
    """Seconds from starting a bare server to its first answer."""
    body = json.dumps({name: [[value] for value in values] for name, values in row.to_dict("list").items()}).encode()
    began = time.perf_counter()
    with processes.bare_server(str(model)) as (_, port):
        status, _ = processes.ask(port, "/", body, {})
        assert status == 200
        return time.perf_counter() - began


def _opened_by_hand(model: Path, row: pd.DataFrame) -> float:
    """Seconds of a whole process that predicts once with the very pickle a deployment opens."""
    code = f"import pandas, pickle; pickle.load(open({str(model)!r}, 'rb')).predict(pandas.DataFrame({row.to_dict('list')!r}))"
    return timing.timed(partial(subprocess.run, [sys.executable, "-c", code], check=True))()


def _file(version: ModelVersion, path: str) -> Path:
    return artifacts.address(next(file.sha256 for file in version.files if file.path == path))
