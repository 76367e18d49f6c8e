"""Registering a live scikit-learn pipeline in a warm notebook kernel, its environment, code and git state captured."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from . import mlflow_peer, workspaces
from .table import Figure

ROUNDS = 7
_SECONDS = 300

_SETUP = """
import io, json, time
import cloudpickle
from mlops_nb import registry
from bench import examples

def timed(step):
    began = time.perf_counter()
    made = step()
    return time.perf_counter() - began, made

def fitted(seed):
    frame, late = examples.flights(seed=seed)
    return frame, examples.pipeline(frame, late)

seed = 0
frame, model = fitted(seed)
"""
_FIRST = "print(json.dumps(timed(lambda: registry.register(model, name='delays', sample=frame))[0]))"
_ROUND = """
seed += 1
frame, model = fitted(seed)
pickled, _ = timed(lambda: cloudpickle.dump(model, io.BytesIO()))
plain, _ = timed(lambda: registry.register(model, name='delays', sample=frame, convert=False))
seed += 1
frame, model = fitted(seed)
converted, made = timed(lambda: registry.register(model, name='delays', sample=frame))
assert made.version.engine == 'onnxruntime', made.version.conversion
print(json.dumps({'pickled': pickled, 'plain': plain, 'converted': converted}))
"""


def measure() -> list[Figure]:
    """The first registration of a kernel, later ones with and without ONNX, beside a bare cloudpickle and MLflow's `log_model`."""
    with workspaces.fresh() as workspace:
        first, rounds = _in_a_kernel(workspace.root)
    middle = {name: median(each[name] for each in rounds) for name in rounds[0]}
    bare = Figure(name="cloudpickle.dump of the same pipeline", value=middle["pickled"], unit="s")
    plain = Figure(name="register a live pipeline, without ONNX", value=middle["plain"], unit="s", baseline=bare.name, at_most=0.25)
    converted = Figure(name="register a live pipeline, with ONNX", value=middle["converted"], unit="s", baseline=plain.name)
    return [
        bare,
        plain,
        converted,
        Figure(name="register a live pipeline, the first in a kernel", value=first, unit="s", baseline=converted.name),
        *mlflow_peer.logging_figures(rounds=3, compared=[plain.name, plain.name]),
    ]


def _in_a_kernel(workspace: Path) -> tuple[float, list[dict[str, float]]]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(Path(__file__).parent.parent), env=os.environ | {"MLOPS_HOME": str(workspace)}, stderr=subprocess.DEVNULL)
    try:
        _printed(client, _SETUP)
        return json.loads(_printed(client, _FIRST)), [json.loads(_printed(client, _ROUND)) for _ in range(ROUNDS)]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _printed(client: Any, cell: str) -> str:
    """What the cell prints.  Raises RuntimeError with its traceback when it fails."""
    asked, printed, deadline = client.execute(cell), [], time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != asked:
            continue
        if kind == "error":
            raise RuntimeError("\n".join(content["traceback"]))
        if kind == "stream" and content["name"] == "stdout":
            printed.append(content["text"])
        if kind == "status" and content["execution_state"] == "idle":
            return "".join(printed)
    raise RuntimeError(f"the kernel said nothing for {_SECONDS} s")
