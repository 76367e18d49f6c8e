"""The page of edge devices."""

from __future__ import annotations

from mlops_nb import store
from mlops_nb.store import devices


def test_the_fleet_shows_which_device_is_online_what_it_runs_and_what_it_could_not(open_page, busy):
    told = {"device": "gate-1", "state": "failed", "model": "delays:1", "reason": "bad *file*", "queued": 7, "dropped": 2, "requests": 1234, "p95_ms": 0.5}
    with store.writing() as tx:
        devices.note(tx, "gate-1", seen_at=store.now(), online=True, reported=told)
        devices.note(tx, "gate-2", seen_at=None, online=False)

    page = open_page("fleet", device="gate-1")

    assert not page.exception
    rows = page.dataframe[0].value.set_index("device")
    assert list(rows.loc["gate-1", ["link", "runs", "state", "queue", "dropped"]]) == ["● online", "delays:1", "failed", 7, 2]
    assert list(rows.loc["gate-2", ["link", "seen"]]) == ["○ offline", "never"]
    assert r"bad \*file\*" in page.error[0].value
    assert [metric.value for metric in page.metric] == ["2", "1", "7", "2"]
