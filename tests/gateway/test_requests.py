"""What a caller gets from a running gateway."""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import Callable

import pytest

from mlops_nb import gateway, keys
from mlops_nb.settings import Workspace

from .conftest import Gate, Server, a_gate, ask_on, eventually


def test_the_endpoint_is_taken_off_the_path(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    asked = ["/delays", "/delays/", "/delays/score", "/delays/v2/models/delays/infer?x=1&y=%2F", "//delays//v2"]
    assert [gate.ask(path).body["path"] for path in asked] == ["/", "/", "/score", "/v2/models/delays/infer?x=1&y=%2F", "/v2"]


def test_an_address_that_is_no_endpoint_is_not_found(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    for path in ("/", "/prices/score", "/delaysx/score", "/DELAYS/score", "/delays/../prices"):
        reply = gate.ask(path)
        assert (reply.status, reply.body["code"], reply.body["ok"], reply.body["hint"]) == (404, "EndpointNotFound", False, "%mlops endpoints")
        assert reply.headers["content-type"] == "application/json"


def test_the_root_names_no_endpoint(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    assert "delays" not in str(gate.ask("/", key=None).body)


@pytest.mark.parametrize("path", ["/delays/score", "/delays/v2/health/ready", "/delays/", "/delays"])
@pytest.mark.parametrize("key", [None, "wrong", "x" * 43])
def test_a_caller_without_the_key_is_refused(gate: Gate, red: Server, path: str, key: str | None) -> None:
    gate.send(red.taking(100))

    reply = gate.ask(path, key=key)

    assert (reply.status, reply.body["code"], reply.body["hint"]) == (401, "KeyRequired", "%mlops endpoints key delays")
    assert reply.headers["www-authenticate"] == "Bearer"


def test_the_key_of_another_endpoint_does_not_open_this_one(gate: Gate, red: Server, blue: Server) -> None:
    gate.apply(gate.route(red.taking(100)), gate.route(blue.taking(100), endpoint="prices"))

    assert gate.ask("/delays/score", key=keys.key("prices")).status == 401
    assert gate.ask("/delays/../prices/score").status == 401
    assert gate.ask("/prices/score", key=keys.key("prices")).body["name"] == "blue"


def test_a_rotated_key_counts_from_the_next_apply_on(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))
    old, new = keys.key("delays"), keys.rotate("delays")
    gate.send(red.taking(100))

    assert (gate.ask(key=old).status, gate.ask(key=new).status) == (401, 200)


def test_a_server_sees_its_token_and_never_the_callers_key(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    headers = gate.ask(headers={"x-mlops-token": "forged"}).body["headers"]

    assert headers["x-mlops-token"] == red.token
    assert "authorization" not in headers


def test_a_forged_token_does_not_pass_even_to_a_server_without_one(gate: Gate, red: Server) -> None:
    gate.send(gateway.Backend("red", red.port, "", 100))

    assert gate.ask(headers={"x-mlops-token": red.token}).status == 401


def test_a_request_id_is_kept_and_given_back(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    reply = gate.ask(headers={"x-request-id": "mine"})

    assert (reply.body["headers"]["x-request-id"], reply.headers["x-request-id"]) == ("mine", "mine")


def test_requests_are_split_by_weight(gate: Gate, red: Server, blue: Server) -> None:
    gate.send(red.taking(70), blue.taking(30))

    answered = Counter(gate.ask().body["name"] for _ in range(1000))

    assert 630 < answered["red"] < 770


def test_one_deployment_can_be_picked_whatever_its_weight(gate: Gate, red: Server, blue: Server) -> None:
    gate.send(red.taking(100), blue.taking(0))

    assert {gate.ask().body["name"] for _ in range(20)} == {"red"}
    assert gate.ask(headers={"azureml-model-deployment": "blue"}).body["name"] == "blue"
    assert gate.ask(headers={"azureml-model-deployment": "blue"}).body["headers"]["x-mlops-token"] == blue.token


@pytest.mark.parametrize("picked", ["green", "", "re", "RED", "red,blue"])
def test_picking_a_deployment_that_is_not_there_names_those_that_are(gate: Gate, red: Server, blue: Server, picked: str) -> None:
    gate.send(red.taking(100), blue.taking(0))

    reply = (
        gate.ask(headers={"azureml-model-deployment": picked})
        if picked.strip() == picked
        else gate.ask(headers={"azureml-model-deployment": picked.strip() + "x"})
    )

    assert (reply.status, reply.body["code"]) == (404, "DeploymentNotFound")
    assert "red, blue" in reply.body["error"]


def test_picking_needs_the_key_too(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    for name in ("red", "green"):
        assert gate.ask(key=None, headers={"azureml-model-deployment": name}).status == 401


def test_an_endpoint_whose_deployments_take_no_traffic_says_which_could(gate: Gate, red: Server) -> None:
    gate.send(red.taking(0))

    reply = gate.ask()

    assert (reply.status, reply.body["code"], reply.body["hint"]) == (503, "NoTraffic", "%mlops traffic delays red=100")


def test_an_endpoint_without_deployments_says_how_to_get_one(gate: Gate) -> None:
    gate.send()

    assert gate.ask().body == {
        "ok": False,
        "error": "No deployment of delays takes traffic.",
        "code": "NoTraffic",
        "hint": "%mlops deploy MODEL:VERSION --endpoint delays",
    }


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.1", "metadata"])
def test_a_host_name_that_is_not_ours_is_refused(gate: Gate, red: Server, host: str) -> None:
    gate.send(red.taking(100))

    assert (gate.ask(headers={"host": host}).status, gate.ask(headers={"host": host}).body["code"]) == (403, "HostNotAllowed")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.1:8000", "LOCALHOST:1"])
def test_our_own_host_names_are_answered_on_any_port(gate: Gate, red: Server, host: str) -> None:
    gate.send(red.taking(100))

    assert gate.ask(headers={"host": host}).status == 200


def test_a_body_of_60_mb_arrives_whole_and_one_of_65_is_refused(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    assert gate.ask(body=bytes(60 * 1024**2)).body["bytes"] == 60 * 1024**2
    assert (gate.ask(body=bytes(65 * 1024**2)).status, gate.ask(body=bytes(65 * 1024**2)).body["code"]) == (413, "RequestTooLarge")


def test_a_large_body_without_the_key_is_refused_before_it_is_read(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=20)
    connection.putrequest("POST", "/delays/score")
    connection.putheader("content-length", str(60 * 1024**2))
    connection.endheaders(bytes(1000))

    assert connection.getresponse().status == 401
    connection.close()


def test_a_servers_own_error_passes_unchanged(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    assert (gate.ask("/delays/fail").status, gate.ask("/delays/fail").body["name"]) == (500, "red")


def test_a_server_that_hangs_up_is_named(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))

    reply = gate.ask("/delays/hang-up")

    assert (reply.status, reply.body["code"], reply.body["hint"]) == (503, "DeploymentUnreachable", "%mlops logs delays/red")
    assert reply.headers["content-type"] == "application/json"


def test_a_dead_server_is_named(gate: Gate, a_server: Callable[[str], Server]) -> None:
    green = a_server("green.1")
    gate.send(green.taking(100))
    green.kill()

    reply = gate.ask()

    assert (reply.status, reply.body["code"], reply.body["hint"]) == (503, "DeploymentUnreachable", "%mlops logs delays/green.1")


def test_a_server_that_is_not_ready_is_spared_until_it_is(gate: Gate, a_server: Callable[[str], Server]) -> None:
    green = a_server("green")
    gate.send(green.taking(100))
    green.ask("/become-unready")

    refused = eventually(lambda: reply if (reply := gate.ask()).status == 503 else None)
    green.ask("/become-ready")

    assert refused.body["error"] == "delays/green does not pass its health check."
    assert eventually(lambda: gate.ask().status == 200)


def test_an_answer_that_takes_too_long_is_given_up(workspace: Workspace, red: Server) -> None:
    workspace.root.mkdir()
    (workspace.root / "config.toml").write_text("request_timeout_seconds = 0.3")
    with a_gate() as gate:
        gate.send(red.taking(100))
        reply = gate.ask("/delays/sleep=5")

    assert (reply.status, reply.body["code"], reply.body["hint"]) == (504, "DeploymentTimedOut", "%mlops logs delays/red")


def test_one_connection_serves_many_requests(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=20)

    replies = [ask_on(connection, "/delays/score", headers={"authorization": f"Bearer {keys.key('delays')}"}) for _ in range(50)]

    assert {reply.status for reply in replies} == {200}
    connection.close()
