"""Requests a second of the local server: straight and through Envoy, beside a bare Granian echo and a bare ONNX Runtime loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from mlops_nb import artifacts, keys, registry, rollout, store
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments

from . import examples, load, processes, workspaces
from .table import Figure

if TYPE_CHECKING:
    import numpy as np

    from mlops_nb.store.models import ModelVersion

SIZES = {"1 row": 1, "64 rows": 64}
ROUNDS = 3
_INFER = "/v2/models/forest/infer"
_CASES = {
    "echo": "Granian echo",
    "loop": "ONNX Runtime loop",
    "direct": "server, direct",
    "unsampled": "server, direct, payloads not captured",
    "gateway": "server, through Envoy",
    "named": "server, direct, /score, 30 named columns",
}

Rates = Callable[[], float]


def measure() -> list[Figure]:
    """A forest of 100 trees on 30 features as ONNX, 16 connections, one server process."""
    if why := load.missing():
        return [Figure(name=f"{size}: {words}", value=None, unit="req/s", note=why) for size in SIZES for words in _CASES.values()]
    model, data = examples.forest()
    by_name, _ = examples.forest(named=_named)
    with workspaces.fresh() as workspace, processes.bare_server() as echo:
        version = _registered(model, data, name="forest")
        _deploy(workspace, "forest", capture_payload_percent=100)
        _deploy(workspace, "quiet", model="forest", capture_payload_percent=0)
        _registered(by_name, _named(data), name="named")
        _deploy(workspace, "named", capture_payload_percent=100)
        rates = {size: _median_rates(_cases(workspace, version, data[:rows], echo=echo)) for size, rows in SIZES.items()}
    return [figure for size in SIZES for figure in _figures(size, rates[size])]


def _figures(size: str, rates: dict[str, float]) -> list[Figure]:
    echo, loop = f"{size}: {_CASES['echo']}", f"{size}: {_CASES['loop']}"
    beside = {"echo": None, "loop": None, "gateway": f"{size}: {_CASES['direct']}", "unsampled": f"{size}: {_CASES['direct']}"}
    figures = [Figure(name=f"{size}: {words}", value=rates[case], unit="req/s", baseline=beside.get(case, echo)) for case, words in _CASES.items()]
    through = [
        Figure(name=f"{size}: {_CASES[case]}, beside {_CASES['loop']}", value=rates[case], unit="req/s", baseline=loop) for case in ("direct", "gateway")
    ]
    return [*figures, *through]


def _median_rates(cases: dict[str, Rates]) -> dict[str, float]:
    rounds = [{name: case() for name, case in cases.items()} for _ in range(ROUNDS)]
    return {name: median(each[name] for each in rounds) for name in cases}


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def _cases(workspace: Workspace, version: ModelVersion, rows: np.ndarray, *, echo: int) -> dict[str, Rates]:
    """Every way to ask for these rows, each proved once before it is timed."""
    infer = _infer_body(version, rows)
    named = msgspec.json.encode({"inputs": {name: values.tolist() for name, values in _named(rows).items()}})
    gateway = int(rollout.url_of("forest").split(":")[2].split("/")[0])
    asked = {
        "echo": (echo, "/", infer, {}),
        "direct": (*_server("forest", _INFER), infer, _token("forest")),
        "unsampled": (*_server("quiet", _INFER), infer, _token("quiet")),
        "gateway": (gateway, f"/forest{_INFER}", infer, {"authorization": f"Bearer {keys.key('forest')}"}),
        "named": (*_server("named", "/score"), named, _token("named")),
    }
    for name, request in asked.items():
        status, answer = processes.ask(*request)
        assert status == 200 and (name == "echo" or b"probabilities" in answer), (name, status, answer[:500])
    return {name: partial(_rate, workspace.root, *request) for name, request in asked.items()} | {"loop": partial(_loop, version, rows)}


def _rate(folder: Path, port: int, path: str, body: bytes, headers: dict[str, str]) -> float:
    return load.posted(f"http://127.0.0.1:{port}{path}", body, headers, folder=folder).per_second


def _loop(version: ModelVersion, rows: np.ndarray) -> float:
    """Runs a second of a session in this process, with the options a user would leave as they are."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(_file(version)), providers=["CPUExecutionProvider"])
    given, runs, began = {session.get_inputs()[0].name: rows}, 0, time.perf_counter()
    while time.perf_counter() - began < load.SECONDS:
        session.run(None, given)
        runs += 1
    return runs / (time.perf_counter() - began)


def _infer_body(version: ModelVersion, rows: np.ndarray) -> bytes:
    name = (version.signature or {})["inputs"][0]["name"]
    return msgspec.json.encode({"inputs": [{"name": name, "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}]})


def _named(rows: np.ndarray) -> Any:
    import pandas as pd

    return pd.DataFrame(rows, columns=[f"feature_{number}" for number in range(rows.shape[1])])


# ── what answers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _registered(model: Any, sample: Any, *, name: str) -> ModelVersion:
    version = registry.register(model, name=name, sample=sample[:1000]).version
    if version.engine != "onnxruntime":
        raise RuntimeError(f"{version.ref} did not become ONNX: {version.conversion}")
    return version


def _deploy(workspace: Workspace, endpoint: str, *, model: str | None = None, capture_payload_percent: int) -> None:
    """Servers read the setting when they start."""
    (workspace.root / "config.toml").write_text(f"capture_payload_percent = {capture_payload_percent}\n")
    rollout.deploy(model or endpoint, endpoint=endpoint)


def _server(endpoint: str, path: str) -> tuple[int, str]:
    return _deployment(endpoint).handle["port"], path


def _token(endpoint: str) -> dict[str, str]:
    return {"x-mlops-token": Path(_deployment(endpoint).handle["token_file"]).read_text()}


def _deployment(endpoint: str) -> deployments.Deployment:
    with store.reading() as tx:
        return deployments.get(tx, endpoint, "1")


def _file(version: ModelVersion) -> Path:
    return artifacts.address(next(file.sha256 for file in version.files if file.path == "model.onnx"))
