"""The page of edge devices."""

from __future__ import annotations

import a_busy_workspace
import msgspec
import pytest

from mlops_nb import store
from mlops_nb.store import checks, deployments, devices


@pytest.fixture
def fleet(busy) -> None:
    """Two devices of `delays`: gate-1 could not run what was wanted, and gate-2 is offline; gate-1's requests drifted after gate-2's had not."""
    told = {"device": "gate-1", "state": "failed", "model": "delays:1", "reason": "bad *file*", "queued": 7, "dropped": 2, "requests": 1234, "p95_ms": 0.5}
    with store.writing() as tx:
        devices.note(tx, "gate-1", seen_at=store.now(), online=True, reported=told)
        devices.note(tx, "gate-2", seen_at=None, online=False)
        for number, name in enumerate(("gate-2", "gate-1")):
            spec = deployments.DeploymentSpec(options={"device": name})
            a_busy_workspace._deploy(tx, "delays", name, 1, "healthy", target="edge", spec=spec, hours=3)
            check = a_busy_workspace.drift_check(4 * number, days=0.1)
            checks.add_drift_check(tx, msgspec.structs.replace(check, id=f"check-of-{name}", deployment=name))


def test_the_fleet_shows_which_device_is_online_what_it_runs_and_what_it_could_not(open_page, fleet):
    page = open_page("fleet", device="gate-1")

    assert not page.exception
    rows = page.dataframe[0].value.set_index("device")
    assert list(rows.loc["gate-1", ["link", "runs", "state", "queue", "dropped"]]) == ["● online", "delays:1", "failed", 7, 2]
    assert list(rows.loc["gate-2", ["link", "seen"]]) == ["○ offline", "never"]
    assert r"bad \*file\*" in page.error[0].value
    assert [metric.value for metric in page.metric] == ["2", "1", "7", "2"]


def test_the_fleet_shows_drift_by_device_and_leads_to_the_check(open_page, fleet):
    page = open_page("fleet", device="gate-1")

    rows = page.dataframe[0].value.set_index("device")
    assert list(rows.loc["gate-1", ["drift", "of"]]) == ["◆ drift", "hour, temp, visib"]
    assert list(rows.loc["gate-2", ["drift", "of"]]) == ["● no drift", ""]
    assert page.code[0].value == "%mlops edge drift gate-1"
    (link,) = [link for link in page.get("page_link") if link.proto.label == "Its drift"]
    assert link.proto.query_string == "endpoint=delays&check=check-of-gate-1"
    drift = open_page("drift", endpoint="delays", check="check-of-gate-1")
    assert any("delays/gate-1" in text.value for text in drift.text)
