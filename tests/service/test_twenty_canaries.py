"""Twenty canaries in a row leave the gateway as a single deployment would."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from living import X, wait_for

from mlops_nb import errors, rollout, traffic
from mlops_nb.gateway import admin, files
from mlops_nb.settings import Workspace


@contextmanager
def asked(endpoint: str = "churn") -> Iterator[list[str]]:
    """A caller at work; what went wrong is in the list."""
    ended, troubles = threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            try:
                rollout.invoke(endpoint, X.head(1))
            except errors.MlopsError as error:
                troubles.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield troubles
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(600)
def test_twenty_canaries_in_a_row_leave_one_deployment_one_cluster_and_one_route(churn: Workspace) -> None:
    rollout.undeploy("churn/2")
    with asked() as troubles:
        for number in range(1, 21):
            before, name = ("1" if number == 1 else f"c{number - 1}"), f"c{number}"
            rollout.deploy("churn:2", name=name, traffic=0)
            traffic.canary(f"churn/{name}", [50, 100], promises=["error_rate<=50%"], every_seconds=0.1, least=1, needed=3)
            wait_for(lambda: not traffic.of("churn")[0].going, seconds=60, what=f"the end of canary {number}")
            assert traffic.of("churn")[0].status == "done", traffic.of("churn")[0].reason
            rollout.undeploy(f"churn/{before}")

    assert troubles == []
    assert [(d.name, d.traffic) for d in rollout.endpoints("churn")[0].deployments] == [("c20", 100)]
    assert len(traffic.of("churn")) == 20
    wait_for(lambda: clusters_in_force() == ["churn/c20"], what="the gateway's clusters")
    assert routed_to() == ["churn/c20"]
    assert [len(clusters) for clusters in shared_out()] == [1]


def clusters_in_force() -> list[str]:
    """The deployments that Envoy has a cluster for."""
    found = json.loads(admin.ask("/clusters?format=json"))["cluster_statuses"]
    return sorted(cluster["name"].rpartition("@")[0] for cluster in found if "@" in cluster["name"])


def routed_to() -> list[str]:
    """The same by the routes that Envoy has taken: the one picked by header, and the one that is shared out."""
    text = json.dumps(json.loads(admin.ask("/config_dump?resource=dynamic_route_configs")))
    return sorted({name.rpartition("@")[0] for name in re.findall(r'"(churn/[^"]+@\d+)"', text)})


def shared_out() -> list[list[str]]:
    """The weighted shares of every route of the file that it watches."""
    hosts = files.read("routing.json")["resources"][0]["virtual_hosts"]
    routes = [route["route"] for host in hosts for route in host["routes"] if "route" in route]
    return [[cluster["name"] for cluster in route["weighted_clusters"]["clusters"]] for route in routes if "weighted_clusters" in route]
