"""Endpoint keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mlops_nb import gateway, keys
from mlops_nb.errors import BadName
from mlops_nb.settings import Workspace


def test_a_key_is_made_on_first_use_and_stays(workspace: Workspace) -> None:
    assert keys.key("delays") == keys.key("delays")


def test_a_key_is_long_and_not_another_endpoints(workspace: Workspace) -> None:
    assert len(keys.key("delays")) >= 43
    assert keys.key("delays") != keys.key("prices")


def test_only_the_owner_can_read_a_key(workspace: Workspace) -> None:
    keys.key("delays")
    keys.rotate("delays")

    assert [(file.name, file.stat().st_mode & 0o777) for file in workspace.keys.iterdir()] == [("delays", 0o600)]
    assert workspace.keys.stat().st_mode & 0o777 == 0o700


def test_all_who_ask_first_at_the_same_moment_get_one_key(workspace: Workspace) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(keys.key, ["delays"] * 64))) == 1


def test_a_rotated_key_replaces_the_old_one(workspace: Workspace) -> None:
    old = keys.key("delays")
    new = keys.rotate("delays")

    assert keys.key("delays") == new != old


def test_an_endpoint_whose_key_was_forgotten_gets_a_new_one(workspace: Workspace) -> None:
    old = keys.key("delays")
    keys.forget("delays")
    keys.forget("delays")

    assert keys.key("delays") != old


def test_an_emptied_key_file_never_means_an_empty_key(workspace: Workspace) -> None:
    keys.key("delays")
    (workspace.keys / "delays").write_text("\n")

    assert len(keys.key("delays")) >= 43


@pytest.mark.parametrize("name", ["../delays", "a/b", "", ".hidden", "a\0b", "%2e%2e"])
def test_a_name_that_leads_elsewhere_has_no_key(workspace: Workspace, name: str) -> None:
    with pytest.raises(BadName):
        keys.key(name)


def test_keys_and_tokens_do_not_show_when_routes_are_printed() -> None:
    route = gateway.Route("delays", "the-key", [gateway.Backend("1", 1, "the-token", 100)])

    assert "the-key" not in f"{route!r} {route}"
    assert "the-token" not in f"{route!r} {route}"
