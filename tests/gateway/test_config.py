"""What is generated for Envoy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.errors import BadName
from mlops_nb.gateway import Backend, Route, config
from mlops_nb.gateway.process import binary
from mlops_nb.safety import checked_name


def is_name(text: str) -> bool:
    try:
        return bool(checked_name(text))
    except BadName:
        return False


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True).filter(is_name)
backends = st.lists(
    st.builds(Backend, names, st.integers(1, 65535), st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1), st.integers(0, 100)),
    max_size=5,
    unique_by=lambda backend: backend.name,
)
routes = st.lists(st.builds(Route, names, st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True), backends), max_size=4, unique_by=lambda route: route.endpoint)


@given(names, names)
def test_a_deployments_name_survives_envoys_statistics(endpoint: str, deployment: str) -> None:
    stat = config.stat_name(config.cluster_name(endpoint, Backend(deployment, 9000, "token", 100)))

    assert "." not in stat
    assert config.named_by(stat) == (endpoint, deployment)


@given(routes)
def test_every_backend_is_one_cluster_under_its_own_name(given_routes: list[Route]) -> None:
    clusters = msgspec.json.decode(msgspec.json.encode(config.clusters(given_routes)))["resources"]

    assert sorted(cluster["name"] for cluster in clusters) == sorted(f"{r.endpoint}/{b.name}@{b.port}" for r in given_routes for b in r.backends)


@given(routes)
def test_every_route_leads_to_a_cluster_that_exists(given_routes: list[Route]) -> None:
    clusters = {cluster["name"] for cluster in config.clusters(given_routes)["resources"]}
    rules = config.routing(given_routes, timeout_seconds=60)["resources"][0]["virtual_hosts"][0]["routes"]
    led_to = {rule["route"]["cluster"] for rule in rules if "cluster" in rule.get("route", {})}
    led_to |= {share["name"] for rule in rules for share in rule.get("route", {}).get("weighted_clusters", {}).get("clusters", [])}

    assert led_to == clusters


@given(routes)
def test_no_backend_is_reached_without_its_endpoints_key(given_routes: list[Route]) -> None:
    rules = config.routing(given_routes, timeout_seconds=60)["resources"][0]["virtual_hosts"][0]["routes"]
    wanted = {f"/{route.endpoint}": {"name": "authorization", "string_match": {"exact": f"Bearer {route.key}"}} for route in given_routes}

    assert all(wanted[rule["match"]["path_separated_prefix"]] in rule["match"]["headers"] for rule in rules if "route" in rule)


@pytest.mark.parametrize("name", ["a/b", "a b", "a@1", "%2e", "ünïcode", "a\nb", "..", "x" * 101])
def test_a_name_that_is_none_gets_no_configuration(name: str) -> None:
    with pytest.raises(BadName):
        config.routing([Route(name, "key", [])], timeout_seconds=60)


def test_an_endpoint_without_a_key_gets_no_configuration() -> None:
    with pytest.raises(ValueError, match="no key for delays"):
        config.routing([Route("delays", "", [Backend("1", 9000, "token", 100)])], timeout_seconds=60)


def test_the_same_routes_give_the_same_bytes() -> None:
    once, twice = ([Route("delays", "key", [Backend("1", 9000, "token", 100)])] for _ in range(2))

    assert msgspec.json.encode(config.routing(once, timeout_seconds=60)) == msgspec.json.encode(config.routing(twice, timeout_seconds=60))


@pytest.mark.parametrize("name", ["a", "a.b-c_d", "0", "x" * 100, "A.B", "metadata", "true", "9.9"])
def test_envoy_finds_the_configuration_valid(name: str, tmp_path: Path) -> None:
    many = [Backend(f"{name[:90]}{i}", 9000 + i, 'to"ken %REQ(x)% {}', i * 10) for i in range(9)]
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(all_in_one([Route(name, "key", many), Route("empty", "key2", [])])))

    said = subprocess.run([binary(), "--mode", "validate", "-c", str(file)], capture_output=True, text=True, timeout=60)

    assert said.returncode == 0, said.stderr[-1000:]


def all_in_one(routes: list[Route]) -> dict:
    """The same resources in one file, which is what Envoy's validation looks at."""
    listener = untyped(config.listeners(9999, Path("unused"))["resources"][0])
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = untyped(config.routing(routes, timeout_seconds=60)["resources"][0])
    return {"static_resources": {"listeners": [listener], "clusters": [untyped(c) for c in config.clusters(routes)["resources"]]}}


def untyped(resource: dict) -> dict:
    return {name: value for name, value in resource.items() if name != "@type"}
