"""An endpoint whose model has training data, and the requests it answered."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_nb import datasets, signature, store
from mlops_nb.monitoring import engines
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments, models
from mlops_nb.store.deployments import Deployment, DeploymentSpec
from mlops_nb.store.models import ModelVersion
from mlops_nb.telemetry import files


class Watched:
    """The endpoint `delays`; its deployments and requests are real rows and files."""

    def __init__(self, training: pd.DataFrame) -> None:
        self.training = training
        self.dataset = datasets.register("flights", training)
        with store.writing() as tx:
            deployments.ensure_endpoint(tx, "delays", author="ada")

    def deploy(
        self, name: str = "1", *, version: int = 1, dataset: str | None = "flights:1", inputs: pd.DataFrame | np.ndarray | None = None,
        metrics: dict[str, float] | None = None, signed: bool = True,
    ) -> None:  # fmt: skip
        """Run *version* (trained on *dataset*, taking *inputs*, registered with *metrics*, and unless *signed* without a signature) as `delays/name`."""
        shape = signature.infer(self.training if inputs is None else inputs).as_json() if signed else None
        model = ModelVersion(
            model="late",
            version=version,
            flavor="sklearn",
            engine="python",
            hash=f"h{version}",
            files=[],
            signature=shape,
            dataset=dataset,
            metrics=metrics or {},
            created_at=store.now(),
        )
        deployment = Deployment(
            endpoint="delays", name=name, model="late", version=version, target="local", spec=DeploymentSpec(), wanted="running", generation=1,
            status="healthy", created_at=store.now(), changed_at=store.now(),
        )  # fmt: skip
        with store.writing() as tx:
            if version not in [known.version for known in models.search(tx, "late")]:
                models.add(tx, model)
            deployments.put(tx, deployment)
        self._folder(name).mkdir(parents=True)
        (self._folder(name) / "signature.json").write_text(json.dumps(shape))

    def split(self, **weights: int) -> None:
        """Divide the traffic, `d1=90, d2=10` for deployments 1 and 2."""
        with store.writing() as tx:
            deployments.set_traffic(tx, "delays", {name[1:]: weight for name, weight in weights.items()}, author="ada", why="")

    def ask(
        self, rows: pd.DataFrame, *, deployment: str = "1", at: datetime | None = None, batch: int = 500, every: timedelta = timedelta(), ids: str = ""
    ) -> None:
        """Requests of *batch* rows each, one *every* so long, answered by *deployment*."""
        first = at or datetime.now(UTC)
        moments = [(first + number * every).isoformat(timespec="microseconds") for number in range(-(-len(rows) // batch))]
        lines = [self._line(rows.iloc[n * batch : (n + 1) * batch], f"{deployment}-{ids}{n * batch}", moment) for n, moment in enumerate(moments)]
        (self._folder(deployment) / f"closed-{time.time_ns()}.jsonl").write_text("".join(lines))

    def _folder(self, deployment: str) -> Path:
        return files.folder("delays", deployment)

    def _line(self, rows: pd.DataFrame, id: str, moment: str) -> str:
        inputs = {name: json.loads(column.to_json(orient="values", date_format="iso")) for name, column in rows.items()}
        facts = {
            "time": moment,
            "id": id,
            "status": 200,
            "latency_ms": 1.0,
            "rows": len(rows),
            "inputs": inputs,
            "outputs": {"label": [0] * len(rows)},
            "error": None,
        }
        return json.dumps(facts) + "\n"


def flights(rows: int, *, seed: int, **changes: Any) -> pd.DataFrame:
    """Flights as they were in training; *changes* replace columns."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "distance": random.gamma(3, 350, rows).round(),
            "dep_delay": random.normal(12, 8, rows),
            "carrier": random.choice(["AA", "B6", "UA", "WN"], rows, p=[0.4, 0.3, 0.2, 0.1]),
            "wet": random.random(rows) < 0.2,
        }
    )
    return frame.assign(**changes)


@pytest.fixture(scope="session")
def alibi_detect() -> engines.Engine:
    """The engine, in this user's cache: installed once, reused by later runs."""
    return engines.install("alibi-detect", accept_licence=True)


@pytest.fixture
def delays(workspace: Workspace) -> Watched:
    """Trained on 5,000 flights and deployed as `delays/1`; not asked anything yet."""
    watched = Watched(flights(5000, seed=0))
    watched.deploy()
    return watched
