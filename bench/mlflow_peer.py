"""MLflow on the same work, where it is installed: in this interpreter, or in the one that BENCH_MLFLOW_PYTHON names.

Run as `python -m bench.mlflow_peer registry 2000` or `… logging 5` it measures and prints seconds as JSON; that part imports
nothing of this project, since MLflow's requirements seldom fit beside ours.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from . import examples

if TYPE_CHECKING:
    from .table import Figure


def registry_figures(*, versions: int, compared: list[str]) -> list[Figure]:
    """MLflow's SQLite registry: create a version, get one, search by tag among *versions*; beside our figures *compared*."""
    return _figures("registry", versions, compared, unit="ms")


def logging_figures(*, rounds: int, compared: list[str]) -> list[Figure]:
    """MLflow's `log_model` with registration, on its own and handed the requirements; beside our figures *compared*."""
    return _figures("logging", rounds, compared, unit="s")


def _figures(what: str, size: int, compared: list[str], *, unit: str) -> list[Figure]:
    from .table import Figure

    python = os.environ.get("BENCH_MLFLOW_PYTHON") or (sys.executable if importlib.util.find_spec("mlflow") else None)
    if python is None:
        return [
            Figure(name=f"MLflow: {name}", value=None, unit=unit, note="mlflow is not installed; BENCH_MLFLOW_PYTHON may name a Python that has it")
            for name in _NAMES[what]
        ]
    done = subprocess.run([python, "-m", __spec__.name, what, str(size)], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        return [Figure(name=f"MLflow: {name}", value=None, unit=unit, note=(done.stderr.splitlines() or ["it failed"])[-1][:100]) for name in _NAMES[what]]
    seconds, factor = json.loads(done.stdout.splitlines()[-1]), 1000 if unit == "ms" else 1
    return [Figure(name=f"MLflow: {name}", value=seconds[name] * factor, unit=unit, baseline=ours) for name, ours in zip(_NAMES[what], compared, strict=True)]


# ── in the interpreter that has MLflow ───────────────────────────────────────────────────────────────────────────────

_NAMES = {
    "registry": ("create_model_version", "get_model_version", "search_model_versions by tag"),
    "logging": ("log_model with registration", "log_model with registration, handed the requirements"),
}


def _registry(folder: str, versions: int) -> dict[str, float]:
    from mlflow import MlflowClient

    address = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(address, address)
    names = [f"model_{number}" for number in range(20)]
    for name in names:
        client.create_registered_model(name)
    for number in range(versions):
        client.create_model_version(names[number % 20], folder, tags={"team": "ops", "batch": str(number % (versions // 20))})

    def search() -> None:
        assert len(client.search_model_versions("tag.batch = '7'", max_results=200)) == 20

    create, get, find = _NAMES["registry"]
    return {
        create: _median(lambda: client.create_model_version("model_7", folder, tags={"team": "ops", "batch": "new"}), 50),
        get: _median(lambda: client.get_model_version("model_7", "50"), 50),
        find: _median(search, 50),
    }


def _logging(folder: str, rounds: int) -> dict[str, float]:
    import mlflow
    import mlflow.sklearn

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", artifact_location=f"file://{folder}/artifacts"))
    frame, late = examples.flights()
    model = examples.pipeline(frame, late)
    signature = mlflow.models.infer_signature(frame, late)

    def log(**options: Any) -> None:
        with mlflow.start_run():
            mlflow.sklearn.log_model(model, name="model", registered_model_name="delays", signature=signature, serialization_format="cloudpickle", **options)

    found, handed = _NAMES["logging"]
    return {found: _median(log, rounds), handed: _median(lambda: log(pip_requirements=["scikit-learn", "pandas"]), rounds)}


def _median(step: Callable[[], object], rounds: int) -> float:
    step()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return median(taken)


def main(what: str, size: int) -> None:
    """Measure and print."""
    logging.disable(logging.WARNING)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"registry": _registry, "logging": _logging}[what](folder, size)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
