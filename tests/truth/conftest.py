"""An endpoint whose answers were kept, and what turned out to be true of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_nb import signature, store
from mlops_nb.settings import Workspace
from mlops_nb.splits import COPY_MARK
from mlops_nb.store import deployments, models
from mlops_nb.store.deployments import Deployment, DeploymentSpec
from mlops_nb.store.models import ModelVersion
from mlops_nb.telemetry import files


class Answered:
    """The endpoint `delays`: rows in the store, and telemetry as servers leave it, with answers that the test gives."""

    def __init__(self) -> None:
        with store.writing() as tx:
            deployments.ensure_endpoint(tx, "delays", author="ada")
        self._names: set[str] = set()

    def by(
        self, name: str, inputs: pd.DataFrame, outputs: dict[str, Sequence[Any]], *, at: datetime | None = None, ids: str = "r", batch: int = 1,
        copies: bool = False,
    ) -> None:  # fmt: skip
        """Requests of *batch* rows that deployment *name* answered with *outputs*; their ids are `r0`, `r1` …; it was sent *copies*, or all was its own."""
        self._deploy(name, inputs, outputs)
        moment = (at or datetime.now(UTC)).isoformat(timespec="microseconds")
        columns = {column: json.loads(inputs[column].to_json(orient="values")) for column in inputs}
        answers = {output: np.asarray(values).tolist() for output, values in outputs.items()}
        lines = []
        for number, start in enumerate(range(0, len(inputs), batch)):
            rows = slice(start, start + batch)
            id = f"{ids}{number}{COPY_MARK * copies}"
            facts = {"time": moment, "id": id, "status": 200, "latency_ms": 1.0, "rows": len(inputs.iloc[rows]), "error": None}
            sides = {"inputs": columns, "outputs": answers}
            lines.append(json.dumps(facts | {side: {name: values[rows] for name, values in held.items()} for side, held in sides.items()}) + "\n")
        (self._folder(name) / f"closed-{time.time_ns()}.jsonl").write_text("".join(lines))

    def _deploy(self, name: str, inputs: pd.DataFrame, outputs: dict[str, Sequence[Any]]) -> None:
        if name in self._names:
            return
        self._names.add(name)
        shape = signature.infer(inputs, outputs={output: np.asarray(values) for output, values in outputs.items()}).as_json()
        version = ModelVersion(
            model="late", version=len(self._names), flavor="sklearn", engine="python", hash=name, files=[], signature=shape, created_at=store.now()
        )
        deployment = Deployment(
            endpoint="delays", name=name, model="late", version=version.version, target="local", spec=DeploymentSpec(), wanted="running", generation=1,
            status="healthy", created_at=store.now(), changed_at=store.now(),
        )  # fmt: skip
        with store.writing() as tx:
            models.add(tx, version)
            deployments.put(tx, deployment)
        self._folder(name).mkdir(parents=True)
        (self._folder(name) / "signature.json").write_text(json.dumps(shape))

    def _folder(self, name: str) -> Path:
        return files.folder("delays", name)


@pytest.fixture
def answered(workspace: Workspace) -> Answered:
    """Nothing was asked yet."""
    return Answered()


@pytest.fixture
def calls(answered: Answered) -> Callable[..., pd.DataFrame]:
    """Makes *rows* one-row requests of `delays/1` whose probabilities are true to the letter, and gives their labels."""

    def make(rows: int = 1000, *, deployment: str = "1", at: datetime | None = None, seed: int = 0, ids: str = "r") -> pd.DataFrame:
        random = np.random.default_rng(seed)
        late = random.beta(1.5, 3, rows)
        inputs = pd.DataFrame({"distance": random.gamma(3, 350, rows).round(), "carrier": random.choice(["AA", "B6", "UA"], rows, p=[0.5, 0.3, 0.2])})
        answered.by(deployment, inputs, {"label": (late > 0.5).astype(int), "probabilities": np.stack([1 - late, late], axis=1)}, at=at, ids=ids)
        return pd.DataFrame({"request_id": [f"{ids}{n}" for n in range(rows)], "late": (random.random(rows) < late).astype(int), "carrier": inputs["carrier"]})

    return make
