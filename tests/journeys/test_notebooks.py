"""The second and third sample notebook, run from top to bottom in a real kernel."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mlops_nb import canary, performance, registry, rollout, settings, store, traffic
from mlops_nb.store import checks

pytestmark = [pytest.mark.xdist_group("engine"), pytest.mark.timeout(900)]  # the third needs a container engine, and a year takes its time
SAMPLES = Path(__file__).parents[2] / "sample_notebooks"
Notebook = nbformat.NotebookNode


def run_all(name: str, place: Path, *, instead: Mapping[str, str] | None = None) -> Notebook:
    """The sample notebook *name* with what its cells showed, run in a copy of its folder within the current workspace.

    *instead* says what some lines of it read here.
    """
    shutil.copytree(SAMPLES, place / "notebooks", ignore=shutil.ignore_patterns(".mlops", "__pycache__", ".ipynb_checkpoints"))
    notebook = nbformat.read(place / "notebooks" / name, as_version=4)
    for line, other in (instead or {}).items():
        cell = next(cell for cell in notebook.cells if line in cell.source)
        cell.source = cell.source.replace(line, other)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(place / "notebooks")}}).execute()
    return notebook


def shown(notebook: Notebook, line: str) -> str:
    """What the first cell that holds *line* showed, as text."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and line in cell.source)
    return "\n".join("".join(output.get("data", {}).get("text/plain", output.get("text", ""))) for output in cell.outputs)


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """`02_rollout_and_drift.ipynb`, run in a workspace that stays current; all it started ends with the module."""
    place = tmp_path_factory.mktemp("year")
    with pytest.MonkeyPatch.context() as patch, settings.using(place / "workspace") as workspace:
        patch.setenv("MLOPS_HOME", str(workspace.root))
        yield run_all("02_rollout_and_drift.ipynb", place)
        rollout.down()


def test_the_second_version_is_promoted_and_the_third_rolled_back(year: Notebook) -> None:
    third, _, second = traffic.of("delays")

    assert (second.deployment, second.status) == ("2", "done")
    assert (third.deployment, third.status) == ("3", "rolled back") and "error_rate" in third.reason
    assert canary.evidence_of(third).stages[0].candidate.errors


def test_a_version_that_says_the_opposite_is_rolled_back_by_what_became_of_the_flights(year: Notebook) -> None:
    contrary = traffic.of("delays")[1]

    assert (contrary.deployment, contrary.status) == ("contrary", "rolled back")
    assert "auc>=-0.02 violated: error_rate 0.00%" in contrary.reason
    assert "pairs of labels" in shown(year, "fly_and_land_until_decided(11)")


def test_every_month_after_the_first_three_is_compared_with_what_the_serving_version_knew(year: Notebook) -> None:
    with store.reading() as tx:
        made = checks.drift_checks(tx, "delays")

    assert [check.dataset for check in reversed(made)] == ["winter:1"] * 3 + ["half_a_year:1"] * 7


def test_the_second_version_answers_everybody_in_the_end(year: Notebook) -> None:
    assert {d.name: d.traffic for d in rollout.endpoints("delays")[0].deployments} == {"1": 0, "2": 100}
    assert registry.get("delays@champion").ref == "delays:2"


def test_callers_stay_with_the_version_they_met(year: Notebook) -> None:
    assert "200 of 200 callers" in shown(year, "httpx.Client")


def test_the_cold_of_december_has_drifted_from_the_first_half_of_the_year(year: Notebook) -> None:
    with store.reading() as tx:
        latest = checks.drift_checks(tx, "delays")[0]

    assert latest.dataset == "half_a_year:1" and latest.is_drift
    assert "temp" in shown(year, "moved(checks)")


def test_december_is_judged_within_a_budget_and_its_causes_are_told(year: Notebook) -> None:
    judged, why = shown(year, "--budget 1/30d"), shown(year, "%mlops causes delays")

    assert "at most one false alarm in 30 days" in judged and "temp" in judged
    assert "temp" in why and "auc" in why, "labels came in October: what it costs is estimated"


def test_the_reason_why_the_third_failed_can_be_read(year: Notebook) -> None:
    assert "expected float64, got a missing value" in shown(year, 'deployment="3"')


def test_the_candidate_answers_past_requests_and_copies_as_the_first_version_does_mostly(year: Notebook) -> None:
    assert "agreement" in shown(year, "%mlops replay delays:2")
    assert "agreement" in shown(year, "%mlops agreement delays/2")


def test_each_version_is_judged_by_the_labels_of_its_own_answers(year: Notebook) -> None:
    found = performance.of("delays")

    assert {group.deployment for group in found.groups} >= {"1", "2"}
    assert all(0.5 < group.figure("auc").value < 0.9 for group in found.groups if group.labelled > 300 and group.deployment in ("1", "2"))
    assert "auc" in shown(year, "%mlops performance delays")
    assert "origin=" in shown(year, "--segment origin")


def test_history_says_who_served_when(year: Notebook) -> None:
    assert "canary rolled back" in shown(year, "%mlops history delays")
    assert "delays:2" in shown(year, "--at {promoted}")


def test_the_dashboard_is_there(year: Notebook) -> None:
    assert "http://127.0.0.1:" in shown(year, "%mlops dashboard")


# ── 03_containers_edge_fpga.ipynb ────────────────────────────────────────────────────────────────────────────────────

_BASE = 'f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"'


@pytest.fixture(scope="module")
def places(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """The notebook, run where an engine, mosquitto and a compiler are; all it started ends with the module."""
    place = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch, settings.using(place / "workspace") as workspace:
        patch.setenv("MLOPS_HOME", str(workspace.root))
        yield run_all("03_containers_edge_fpga.ipynb", place, instead={_BASE: repr(base_image)})
        rollout.down()


def test_a_process_and_a_container_share_the_requests(places: Notebook) -> None:
    assert "'container': " in shown(places, "answered[answer.deployment]") and "'1': " in shown(places, "answered[answer.deployment]")


def test_a_rehearsal_passes(places: Notebook) -> None:
    assert "✓ passed" in shown(places, "%mlops rehearse")


def test_a_device_answers_over_mqtt(places: Notebook) -> None:
    assert "'probabilities'" in shown(places, "requester.ask")
    assert "gate-1" in shown(places, "%mlops edge devices")


def test_a_network_answers_from_the_emulation_of_an_fpga(places: Notebook) -> None:
    assert "fixed<16,6>" in shown(places, '--to fpga --precision "fixed<8,4>"')
    assert "FPGA emulation" in shown(places, "%mlops deploy delays_small:1")
    assert "probabilities" in shown(places, "%mlops deploy delays_small:1")


def test_manifests_are_written_for_a_cluster_and_for_iot_edge(places: Notebook) -> None:
    assert "HTTPRoute" in shown(places, "%mlops manifest")
    assert "$edgeHub" in shown(places, "%mlops edge manifest")


def test_what_was_not_here_is_left_out_in_a_sentence_and_the_notebook_goes_on(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, settings.using(tmp_path / "workspace") as workspace:
        patch.setenv("MLOPS_HOME", str(workspace.root))
        patch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
        patch.setenv("PATH", str(Path(sys.executable).parent))
        try:
            notebook = run_all("03_containers_edge_fpga.ipynb", tmp_path, instead={"/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin": ""})
        finally:
            rollout.down()

    assert "The container is left out: No image of delays:1 was built: The container engine at" in shown(notebook, "%mlops package")
    assert "The device is left out: No MQTT broker is set" in shown(notebook, "%mlops edge broker")
    assert "The FPGA is left out: The emulation of an FPGA is compiled on this machine" in shown(notebook, '--to fpga --precision "fixed<8,4>"')
