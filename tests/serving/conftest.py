"""Real scoring servers: processes started from a spec file, asked over sockets."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlops_nb import pickles, signature

from .scoring_servers import Running, Start, starter


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server of a model's folder: `start(folder, engine="onnxruntime", …)`."""
    yield from starter(tmp_path)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same, for a server that a whole module shares."""
    yield from starter(tmp_path_factory.mktemp("servers"))


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """Flights with a carrier that looks like a number, a distance that may be missing, and whole hours."""
    rng = np.random.default_rng(13)
    return pd.DataFrame({"carrier": rng.choice(["UA", "AA", "001", "Ünï"], 400), "distance": rng.normal(900, 200, 400), "hour": rng.integers(0, 24, 400)})


@pytest.fixture(scope="session")
def late(flights: pd.DataFrame) -> Pipeline:
    """A pipeline that says whether a flight is late."""
    prepare = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["carrier"]), (StandardScaler(), ["distance", "hour"]))
    target = (flights["hour"] + (flights["carrier"] == "001") * 9 > 14).astype(int)
    return make_pipeline(prepare, LogisticRegression()).fit(flights, target)


@pytest.fixture(scope="session")
def flights_signature(flights: pd.DataFrame) -> dict[str, Any]:
    return signature.infer(flights).as_json()


@pytest.fixture(scope="session")
def late_onnx(late: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline as a folder with model.onnx, one input per column."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    types = [("carrier", StringTensorType([None, 1])), ("distance", FloatTensorType([None, 1])), ("hour", Int64TensorType([None, 1]))]
    folder = tmp_path_factory.mktemp("late_onnx")
    (folder / "model.onnx").write_bytes(to_onnx(late, initial_types=types, options={"zipmap": False}).SerializeToString())
    return folder


@pytest.fixture(scope="session")
def late_pickle(late: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline as a folder with model.pkl."""
    folder = tmp_path_factory.mktemp("late_pickle")
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(late))
    return folder


@pytest.fixture(scope="module")
def onnx_server(start_once: Start, late_onnx: Path, flights_signature: dict[str, Any]) -> Running:
    return start_once(late_onnx, engine="onnxruntime", signature=flights_signature).until_ready()


@pytest.fixture(scope="module")
def python_server(start_once: Start, late_pickle: Path, flights_signature: dict[str, Any]) -> Running:
    return start_once(late_pickle, signature=flights_signature).until_ready()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a model's folder out of an entry script's source."""

    def folder_of(source: str) -> Path:
        folder = tmp_path / f"script-{secrets.token_hex(3)}"
        (folder / "entry").mkdir(parents=True)
        (folder / "entry" / "score.py").write_text(source)
        return folder

    return folder_of


@pytest.fixture
def pickled(tmp_path: Path) -> Callable[[Any], Path]:
    """Makes a model's folder out of an object."""

    def folder_of(obj: Any) -> Path:
        folder = tmp_path / f"pickled-{secrets.token_hex(3)}"
        folder.mkdir()
        (folder / "model.pkl").write_bytes(pickles.dumps(obj).data)
        return folder

    return folder_of
