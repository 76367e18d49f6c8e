"""The sample notebook, cell by cell in a real kernel: what `make demo` promises."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from nbclient import NotebookClient

from mlops_nb import registry, rollout, settings
from mlops_nb.settings import Workspace

SAMPLES = Path(__file__).parents[2] / "sample_notebooks"
A_FLIGHT = {
    "carrier": "UA",
    "origin": "EWR",
    "dest": "IAH",
    "hour": 18,
    "weekday": 4,
    "distance": 1400,
    "temp": 85.0,
    "wind_speed": 12.0,
    "precip": 0.3,
    "visib": 6.0,
}

pytestmark = pytest.mark.xdist_group("journey")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, nbformat.NotebookNode]]:
    """The workspace and the executed notebook, which ran in a folder that was renamed afterwards."""
    place = tmp_path_factory.mktemp("demo")
    shutil.copytree(SAMPLES, place / "notebooks")
    with pytest.MonkeyPatch.context() as patch, settings.using(place / "workspace") as workspace:
        patch.setenv("MLOPS_HOME", str(workspace.root))
        notebook = nbformat.read(place / "notebooks" / "01_from_notebook_to_endpoint.ipynb", as_version=4)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(place / "notebooks")}}).execute()
        (place / "notebooks").rename(place / "moved")
        yield workspace, notebook
        rollout.down()


def mlops(*words: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "mlops_nb", "--json", *words], capture_output=True, text=True, timeout=120)
    said = json.loads(done.stdout)
    assert said["ok"], said
    return said["result"]


def shown(notebook: nbformat.NotebookNode, line: str) -> str:
    """What the cell that holds *line* displayed, as HTML and text together."""
    cell = next(cell for cell in notebook.cells if line in cell.source)
    return " ".join(
        "".join(output.get("data", {}).values()) if "data" in output else output.get("text", "")
        for output in cell.outputs
        if "image/png" not in output.get("data", {}) and "application/vnd.plotly.v1+json" not in output.get("data", {})
    )


def test_both_versions_serve_half_the_traffic_each(demo) -> None:
    endpoint = mlops("endpoints")[0]

    assert {d["name"]: (d["model"], d["status"], d["traffic"]) for d in endpoint["deployments"]} == {
        "1": ("delays:1", "healthy", 50),
        "2": ("delays:2", "healthy", 50),
    }


def test_the_endpoint_answers_anybody_who_has_its_key(demo) -> None:
    url, key = mlops("endpoints")[0]["url"], mlops("endpoints", "key", "delays")["key"]

    answer = httpx.post(f"{url}/score", json=[A_FLIGHT], headers={"Authorization": f"Bearer {key}"})

    assert answer.status_code == 200
    assert set(answer.json()) == {"label", "probabilities"}
    assert httpx.post(f"{url}/score", json=[A_FLIGHT]).status_code == 401


def test_the_first_version_serves_from_onnx_and_the_second_from_the_object_with_its_cell_code(demo) -> None:
    first, second = registry.get("delays:1"), registry.get("delays:2")

    assert (first.engine, first.conversion["equal"]) == ("onnxruntime", True)
    assert second.engine == "python" and second.conversion["reason"]


def test_both_engines_give_what_the_notebook_had(demo) -> None:
    for version in ("1", "2"):
        model = registry.load(f"delays:{version}")
        import pandas as pd

        frame = pd.DataFrame([A_FLIGHT])
        served = rollout.invoke("delays", frame, deployment=version).outputs["probabilities"][0][1]
        assert served == pytest.approx(model.predict_proba(frame)[0][1], abs=1e-5)


def test_july_has_drifted_from_winter(demo) -> None:
    check = mlops("drift", "delays")

    assert check["is_drift"]
    assert {f["name"]: f["is_drift"] for f in check["features"]}["temp"]


def test_the_auditor_learns_which_data_code_and_packages_made_a_version(demo) -> None:
    made = registry.provenance("delays:1")

    assert made.dataset.ref == "flights_q1:1" and made.dataset.rows == 77_911
    assert "scikit-learn" in {package.name for package in made.environment.packages}
    assert not {"jupyterlab", "ipykernel", "streamlit"} & {package.name for package in made.environment.packages}
    assert any("make_pipeline" in cell.source for cell in made.run.cells)


def test_every_line_of_the_notebook_shows_something(demo) -> None:
    _, notebook = demo
    assert "auc" in shown(notebook, "%mlops models delays")
    assert "delays/1" in shown(notebook, "%mlops deploy delays:1")
    assert "http://127.0.0.1:" in shown(notebook, "%mlops dashboard")
    assert "temp" in shown(notebook, "%mlops drift delays")


def test_the_profile_is_kept(demo) -> None:
    from mlops_nb import store
    from mlops_nb.store import checks

    with store.reading() as tx:
        points = checks.profiles(tx, "delays")[0].points
    assert [point["batch"] for point in points] == [1, 32, 256]
    assert all(point["p50_ms"] > 0 and point["memory_mb"] > 10 for point in points)


def test_a_deployed_version_cannot_be_deleted(demo) -> None:
    done = subprocess.run([sys.executable, "-m", "mlops_nb", "delete", "delays:1", "--yes"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "delays/1" in done.stderr
