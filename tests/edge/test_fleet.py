"""What devices tell, taken into the workspace: each line of telemetry once, whatever is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from living import wait_for

from mlops_nb import errors, store, telemetry
from mlops_nb.fleet import devices, provisioning
from mlops_nb.fleet.listening import Fleet
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments as table
from mlops_nb.store.deployments import Deployment, DeploymentSpec
from mlops_nb.store.models import ModelVersion

from .brokers import Mosquitto
from .devices import Device, desired, publish
from .test_outages import ask_near

pytestmark = pytest.mark.xdist_group("mosquitto")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def wanted(churn: ModelVersion) -> ModelVersion:
    """`churn:1`, wanted on gate-1, so that its telemetry is known to be ours."""
    deployment = Deployment(
        endpoint="churn", name="gate-1", model="churn", version=1, target="edge", spec=DeploymentSpec(options={"device": "gate-1"}), wanted="running",
        generation=1, status="healthy", created_at=store.now(), changed_at=store.now(),
    )  # fmt: skip
    with store.writing() as tx:
        table.ensure_endpoint(tx, "churn", author="somebody")
        table.put(tx, deployment)
    return churn


@pytest.fixture
def fleet(workspace: Workspace, mosquitto: Mosquitto) -> Iterator[Callable[[], Fleet]]:
    """`fleet()` begins to listen; the one before it ends."""
    listening: list[Fleet] = []

    def start() -> Fleet:
        while listening:
            listening.pop().stop()
        listening.append(Fleet(mosquitto.broker))
        listening[0].start()
        return listening[0]

    yield start
    while listening:
        listening.pop().stop()


def rows_here() -> int:
    """Requests in the workspace's telemetry."""
    return sum(row["requests"] for row in telemetry.totals("churn", since=LONG_AGO))


def test_each_captured_request_arrives_once_though_broker_workspace_and_device_go_away_meanwhile(
    mosquitto: Mosquitto, device: Callable[..., Device], fleet: Callable[[], Fleet], wanted: ModelVersion
) -> None:
    publish(mosquitto.broker, desired(wanted, "g1"))
    gate = device()
    gate.until_running("g1")
    fleet()
    for total, (count, gone) in enumerate(
        ((100, lambda: None), (200, lambda: (mosquitto.kill(), mosquitto.start())), (300, fleet), (0, lambda: (gate.kill(), gate.start()))), start=1
    ):
        ask_near(mosquitto, 100, first=1000 * total)
        gate.until(lambda s, count=count: s.reported.requests >= count, "the answers")  # a killed broker may forget what nobody had yet
        gone()
        gate.until(lambda s: s.link == "", "the link")

    wait_for(lambda: rows_here() >= 400, seconds=60, what="all lines")
    gate.until(lambda s: s.reported.telemetry_waiting == 0, "the device to hear of it")
    assert rows_here() == telemetry.captured("churn", deployment="gate-1").rows == 400
    assert telemetry.inputs("churn")["age"].tolist() == [40] * 400


def test_a_device_is_seen_with_what_it_runs_and_when_it_was_heard(
    mosquitto: Mosquitto, device: Callable[..., Device], fleet: Callable[[], Fleet], wanted: ModelVersion
) -> None:
    fleet()
    publish(mosquitto.broker, desired(wanted, "g1"))
    gate = device()
    view = wait_for(lambda: (there := {view.name: view for view in devices.every()}.get("gate-1")) and there.state == "running" and there, what="its report")
    assert (view.online, view.model, view.wanted, view.drift) == (True, "churn:1", "churn:1", "")
    assert view.seen_at and (store.now() - view.seen_at).total_seconds() < 60

    gate.kill()

    wait_for(lambda: not devices.one("gate-1").online, what="its last will")


def test_telemetry_of_what_never_ran_on_a_device_goes_nowhere(
    mosquitto: Mosquitto, device: Callable[..., Device], fleet: Callable[[], Fleet], churn: ModelVersion
) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device()
    gate.until_running("g1")
    fleet()
    ask_near(mosquitto, 3)

    gate.until(lambda s: s.reported.requests == 3 and s.reported.telemetry_waiting == 0, "the lines to be passed over")
    assert rows_here() == 0


def test_a_device_that_nobody_heard_is_named_with_those_that_were(workspace: Workspace) -> None:
    with pytest.raises(errors.DeviceNotFound, match="No device named 'gate-9'"):
        devices.one("gate-9")


def test_a_provisioned_folder_is_all_a_device_needs(mosquitto: Mosquitto, workspace: Workspace, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.root.mkdir(parents=True)
    settings = {"edge_broker": mosquitto.broker.url, "edge_ca": mosquitto.broker.ca_file, "edge_credentials": mosquitto.broker.credentials_file}
    (workspace.root / "config.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))

    folder = provisioning.write("gate-7", tmp_path / "gate-7")

    assert {place.name for place in folder.iterdir()} == {"spec.json", "twin.key", "ca.crt", "credentials"}
    assert {oct(place.stat().st_mode & 0o777) for place in folder.iterdir()} == {"0o600"}
    with pytest.raises(errors.BadOption, match="already there"):
        provisioning.write("gate-7", folder)
    gate = Device.of(folder)
    try:
        gate.start()
        gate.until(lambda s: s.link == "", "the link")
    finally:
        gate.kill()
