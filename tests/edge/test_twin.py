"""What a device is told to run, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle
import msgspec
import pytest
from living import wait_for

from mlops_nb import artifacts, errors, registry
from mlops_nb.edge import twin
from mlops_nb.edge.broker import Broker, properties
from mlops_nb.edge.link import connected, publish_once
from mlops_nb.edge.requester import Answered, Requester
from mlops_nb.store.models import ModelVersion

from .brokers import Mosquitto
from .devices import Device, chunks, desired, hearing, publish

pytestmark = pytest.mark.xdist_group("mosquitto")
Start = Callable[..., Device]


def model_of(mosquitto: Mosquitto, topic: str = "gates/in") -> str:
    """Which version answers."""
    got: list[Answered] = []
    requester = Requester(mosquitto.broker, topic, got.append)
    try:
        requester.ask({"data": [{"age": 40, "income": 50.0}]})
        return wait_for(lambda: got and got[0].said["model"], what="an answer")
    finally:
        requester.close()


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_answering_and_the_device_says_why(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device()
    gate.until_running("g1")
    broken = [artifacts.keep(b"this is no ONNX", path="model.onnx")]

    publish(mosquitto.broker, msgspec.structs.replace(desired(churn, "g2"), files=broken, version=2))

    told = gate.until(lambda s: s.reported.generation == "g2" and s.reported.state == "failed", "g2 to be refused").reported
    assert (told.model == "churn:1" and "Protobuf" in told.reason) or "INVALID" in told.reason.upper()
    assert model_of(mosquitto) == "churn:1"
    gate.kill()
    gate.start()
    gate.until(lambda s: s.reported.model == "churn:1" and s.link == "", "the old one to run again")


def test_the_next_model_takes_over_without_an_unanswered_request_and_the_one_before_is_kept(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    gate = device()
    gate.until_running("g1")

    publish(mosquitto.broker, msgspec.structs.replace(desired(churn, "g2", topic_in="gates/other"), version=2))

    told = gate.until_running("g2").reported
    assert (told.model, told.previous) == ("churn:2", "churn:1")
    assert model_of(mosquitto, "gates/other") == "churn:2"


def test_a_state_that_is_not_signed_with_the_devices_key_is_refused(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    publish(mosquitto.broker, desired(churn, "forged"), key=b"another key")
    told = device().until(lambda s: s.reported.state == "failed", "a refusal").reported
    assert told.generation == "forged" and "not signed" in told.reason


def test_python_code_is_not_run_on_a_device_without_a_key(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    publish(mosquitto.broker, msgspec.structs.replace(desired(churn, "g1"), engine="python"))
    told = device(twin_key_file="").until(lambda s: s.reported.state == "failed", "a refusal").reported
    assert "no key" in told.reason


def test_a_file_with_another_hash_is_refused_before_anything_is_loaded(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    file = next(file for file in churn.files if file.path == "model.onnx")
    wrong = [(topic, b"x" * len(body), more) for topic, body, more in chunks(file, twin.CHUNK_BYTES)]
    publish_once(mosquitto.broker, wrong)
    publish(mosquitto.broker, msgspec.structs.replace(desired(churn, "g1"), files=[file]), files=False)
    told = device().until(lambda s: s.reported.state == "failed", "a refusal").reported
    assert "no longer what was registered" in told.reason


def test_a_file_that_never_comes_is_named(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    publish(mosquitto.broker, desired(churn, "g1"), files=False)
    told = device(fetch_timeout_seconds=0.5).until(lambda s: s.reported.state == "failed", "a refusal").reported
    assert "has not come within" in told.reason


def test_files_may_lie_in_a_mounted_folder(mosquitto: Mosquitto, device: Start, churn: ModelVersion, tmp_path: Any) -> None:
    for file in churn.files:
        (tmp_path / file.sha256).write_bytes(artifacts.address(file.sha256).read_bytes())
    publish(mosquitto.broker, desired(churn, "g1"), files=False)
    device(files_folder=str(tmp_path)).until_running("g1")


def test_a_large_file_comes_in_pieces_and_an_empty_one_at_all(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    blob = artifacts.keep(bytes(range(256)) * 4000, path="weights.bin")
    empty = artifacts.keep(b"", path="code/__init__.py")
    publish(mosquitto.broker, msgspec.structs.replace(desired(churn, "g1"), files=[*churn.files, blob, empty], chunk_bytes=10_000))
    device().until_running("g1")


def test_a_path_that_leads_out_of_the_folder_is_refused(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    astray = msgspec.structs.replace(artifacts.keep(b"x", path="x"), path="../../escaped")
    publish(mosquitto.broker, msgspec.structs.replace(desired(churn, "g1"), files=[*churn.files, astray]))
    told = device().until(lambda s: s.reported.state == "failed", "a refusal").reported
    assert "leads outside" in told.reason


def test_the_last_will_says_that_a_killed_device_is_gone(mosquitto: Mosquitto, device: Start) -> None:
    gate = device()
    with hearing(mosquitto.broker, twin.status_topic("gate-1"), twin.reported_topic("gate-1")) as heard:
        heard(lambda got: any(b'"online":true' in message.body for message in got), "it to be online")
        heartbeats = list(heard(lambda got: [message for message in got if message.topic.endswith("/reported")], "a heartbeat"))
        gate.kill()
        heard(lambda got: any(b'"online":false' in message.body for message in got), "its last will")
    told = msgspec.json.decode(next(m.body for m in heartbeats if m.topic.endswith("/reported")), type=twin.Reported)
    assert (told.device, told.state, told.queued) == ("gate-1", "empty", 0)


def test_a_request_that_comes_twice_is_answered_once(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    device().until_running("g1")
    body = b'{"data": [{"age": 40, "income": 50.0}]}'

    with hearing(mosquitto.broker, "gates/out") as heard, connected(mosquitto.broker) as client:
        for id in ("1", "1", "1", "2"):
            client.publish("gates/in", body, qos=1, properties=properties("PUBLISH", CorrelationData=id.encode()))
        got = heard(lambda got: any(message.user["id"] == "2" for message in got), "the second answer")

    assert [message.user["id"] for message in got] == ["1", "2"]
    assert [message.correlation for message in got] == [b"1", b"2"]
    assert [message.qos for message in got] == [1, 1]


def test_what_is_wrong_with_a_request_is_its_answer(mosquitto: Mosquitto, device: Start, churn: ModelVersion) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    device().until_running("g1")
    bodies = [b"{", b"\xff\xff", b'{"data": [{"age": 40}]}', b'{"data": []}', b"5"]

    with hearing(mosquitto.broker, "gates/out") as heard, connected(mosquitto.broker) as client:
        for number, body in enumerate(bodies):
            client.publish("gates/in", body, qos=1, properties=properties("PUBLISH", UserProperty=("id", str(number))))
        got = heard(lambda got: len(got) == len(bodies), "the answers")

    assert {message.user["status"] for message in got} == {"400"}
    assert "income" in got[2].body.decode()


def test_a_python_model_runs_on_a_device_that_has_a_key(mosquitto: Mosquitto, device: Start, workspace: Any) -> None:
    class Doubler:
        def predict(self, rows: Any) -> Any:
            return rows * 2

    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))
    version = registry.register(Doubler(), name="doubler").version
    publish(mosquitto.broker, desired(version, "g1"))
    device().until_running("g1")

    got: list[Answered] = []
    requester = Requester(mosquitto.broker, "gates/in", got.append)
    requester.ask({"data": [{"x": 21}]})
    wait_for(lambda: got, what="an answer")
    requester.close()
    assert got[0].said["outputs"] == {"output": [42]}


def test_a_wrong_password_is_said_and_nothing_is_answered(mosquitto: Mosquitto, device: Start, tmp_path: Any) -> None:
    (tmp_path / "wrong").write_text("gate\nanother\n")
    (tmp_path / "wrong").chmod(0o600)
    gate = Device(tmp_path / "d", msgspec.structs.replace(mosquitto.broker, credentials_file=str(tmp_path / "wrong"))).start()
    try:
        gate.until(lambda s: "Not authorized" in s.link or "user name" in s.link, "the refusal")
    finally:
        gate.kill()
    assert "another" not in gate.log


def test_a_broker_whose_certificate_another_ca_signed_is_not_entered(mosquitto: Mosquitto, tmp_path: Any) -> None:
    stranger = Mosquitto(tmp_path / "stranger")
    with pytest.raises(errors.BrokerUnreachable, match="certificate"), connected(msgspec.structs.replace(mosquitto.broker, ca_file=stranger.broker.ca_file)):
        pass


def test_a_secret_that_others_can_read_is_not_used(mosquitto: Mosquitto) -> None:
    (mosquitto.folder / "credentials").chmod(0o644)
    with pytest.raises(errors.SecretReadable, match="others than its owner"):
        mosquitto.broker.checked()


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "mqtt://user:secret@host", "mqtts://host/path", "mqtt://ho st", "mqtt://h:port"])
def test_what_is_no_brokers_address_is_refused(url: str) -> None:
    with pytest.raises(errors.BadOption, match="no broker's address"):
        Broker(url=url).checked()


def test_a_password_does_not_travel_in_the_clear(mosquitto: Mosquitto) -> None:
    with pytest.raises(errors.BadOption, match="in the clear"):
        msgspec.structs.replace(mosquitto.broker, url="mqtt://broker.example.org").checked()
