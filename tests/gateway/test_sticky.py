"""A caller who is known meets the same deployment again; copies go beside."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest

from mlops_nb import splits
from mlops_nb.gateway import Route

from .conftest import Gate, Reply, Server, eventually

USERS = [f"user-{number}" for number in range(150)]


def known(gate: Gate, red: Server, blue: Server, by: str, slots: list[tuple[str, int]]) -> Route:
    shares = {name: sum(count for one, count in slots if one == name) for name in ("red", "blue")}
    route = gate.route(red.taking(shares["red"]), blue.taking(shares["blue"]))
    return msgspec.structs.replace(route, slots=tuple(slots), sticky=splits.sticky(by))


def ask_as(gate: Gate, by: str, user: str) -> Reply:
    kind, _, name = by.partition(":")
    if kind == "field":
        keys = name.split(".")
        body: object = user
        for key in reversed(keys):
            body = {key: body}
        return gate.ask(body=json.dumps(body | {"inputs": [[1.0] * 50]}).encode(), headers={"content-type": "application/json"})
    return gate.ask(headers={name: user} if kind == "header" else {"cookie": f"theme=dark; {name}={user}"})


@pytest.mark.parametrize("by", ["header:x-user", "cookie:uid", "field:user", "field:parameters.user.id"])
def test_a_known_caller_meets_the_same_deployment_and_moves_only_with_the_split(gate: Gate, red: Server, blue: Server, by: str) -> None:
    first = splits.slots({"red": 70, "blue": 30})
    gate.apply(known(gate, red, blue, by, first))
    met = {user: {ask_as(gate, by, user).body["name"] for _ in range(3)} for user in USERS}
    assert all(len(names) == 1 for names in met.values())
    shares = Counter(next(iter(names)) for names in met.values())
    assert 0.15 < shares["blue"] / len(USERS) < 0.45

    gate.apply(known(gate, red, blue, by, splits.slots({"red": 40, "blue": 60}, first)))

    for user in USERS:
        before, now = next(iter(met[user])), ask_as(gate, by, user).body["name"]
        assert now == before or (before, now) == ("red", "blue"), f"{user} moved from {before} to {now}, though blue only grew"


@pytest.mark.parametrize("said", ["application/json; charset=utf-8", "application/x-www-form-urlencoded", ""])
def test_a_caller_known_by_a_field_is_known_whatever_the_content_type_says(gate: Gate, red: Server, blue: Server, said: str) -> None:
    gate.apply(known(gate, red, blue, "field:user", [("red", 50), ("blue", 50)]))
    headers = {"content-type": said} if said else {}
    for user in USERS[:10]:
        assert len({gate.ask(body=json.dumps({"user": user}).encode(), headers=headers).body["name"] for _ in range(8)}) == 1, user


@pytest.mark.parametrize("user", ["two\nlines", "nul\x00", "carriage\r"])
def test_a_field_that_no_header_can_hold_makes_a_caller_known_all_the_same(gate: Gate, red: Server, blue: Server, user: str) -> None:
    gate.apply(known(gate, red, blue, "field:user", [("red", 50), ("blue", 50)]))
    answers = [ask_as(gate, "field:user", user) for _ in range(8)]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["name"] for answer in answers}) == 1


def test_callers_who_are_not_known_go_by_chance(gate: Gate, red: Server, blue: Server) -> None:
    gate.apply(known(gate, red, blue, "field:user", [("red", 50), ("blue", 50)]))
    assert {gate.ask(body=b"{}", headers={"content-type": "application/json"}).body["name"] for _ in range(60)} == {"red", "blue"}
    assert {gate.ask(body=b"no json", headers={"content-type": "application/json"}).status for _ in range(5)} == {200}


def test_a_caller_cannot_choose_with_the_header_we_use_inside(gate: Gate, red: Server, blue: Server) -> None:
    gate.apply(known(gate, red, blue, "field:user", [("red", 50), ("blue", 50)]))
    headers = {"content-type": "application/json", "x-mlops-sticky": "always-this"}
    assert len({gate.ask(body=b"{}", headers=headers).body["name"] for _ in range(60)}) == 2


def test_a_shadow_is_sent_copies_with_its_own_token_and_callers_get_none_of_its_answers(gate: Gate, red: Server, blue: Server) -> None:
    gate.apply(msgspec.structs.replace(gate.route(red.taking(100), blue.taking(0)), mirrors=(("blue", 100),)))
    before = served(blue)

    answers = [gate.ask() for _ in range(20)]

    assert {(a.status, a.body["name"]) for a in answers} == {(200, "red")}
    eventually(lambda: served(blue) >= before + 20)


def test_callers_do_not_wait_for_a_shadow_that_hangs_or_is_gone(gate: Gate, red: Server, blue: Server) -> None:
    gate.apply(msgspec.structs.replace(gate.route(red.taking(100), blue.taking(0)), mirrors=(("blue", 100),)))
    assert gate.ask("/delays/hang-up").status in (502, 503)  # what red itself does with it
    assert gate.ask().body["name"] == "red"


def test_a_caller_is_answered_while_the_shadow_still_holds_its_copy(gate: Gate, red: Server, blue: Server) -> None:
    gate.apply(msgspec.structs.replace(gate.route(red.taking(100), blue.taking(0)), mirrors=(("blue", 100),)))
    before = served(blue)

    assert gate.ask("/delays/hold").body["name"] == "red"

    eventually(lambda: served(blue) == before + 1)
    blue.ask("/release")


def test_a_shadow_is_sent_copies_of_the_percentage_that_was_said(gate: Gate, red: Server, blue: Server) -> None:
    gate.apply(msgspec.structs.replace(gate.route(red.taking(100), blue.taking(0)), mirrors=(("blue", 20),)))
    before = served(blue)
    for _ in range(400):
        gate.ask()

    eventually(lambda: served(blue) >= before + 40)
    assert served(blue) <= before + 130


def served(server: Server) -> int:
    """How many copies it was sent: it counts what it accepted with its own token."""
    return int(server.ask("/copies").body["copies"])
