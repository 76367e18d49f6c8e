"""What the panel's handlers answer, and to whom."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.error
import urllib.parse
import urllib.request

import pytest

from mlops_nb import settings, store
from mlops_nb.store import models
from mlops_nb.store.models import ModelVersion

pytestmark = pytest.mark.xdist_group("engine")  # one server for all of these
ROUTES = [("mlops_nb/summary", None), ("mlops_nb/deploy", {"model": "delays:1"}), ("mlops_nb/dashboard", {})]


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_anonymous_caller_is_refused(lab, path, body):
    assert lab.ask(path, body=body, token=False)[0] == 403


@pytest.mark.parametrize(("path", "body"), ROUTES[1:])
def test_other_site_in_the_same_browser_cannot_act(lab, path, body):
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    browser.open(f"{lab.url}lab?token={lab.token}").close()  # now it holds the session's cookie, as a browser that is logged in

    with pytest.raises(urllib.error.HTTPError) as refused:
        browser.open(urllib.request.Request(lab.url + path, data=json.dumps(body).encode()))

    assert refused.value.code == 403


def test_summary_is_one_object_with_ok(lab):
    status, answer = lab.ask("mlops_nb/summary")

    assert status == 200
    assert answer["ok"] is True
    assert answer["result"]["models"] == []


def test_summary_holds_the_newest_versions_and_those_with_an_alias(lab):
    with store.writing() as tx:
        for number in range(1, 31):
            models.add(tx, delays(number))
        models.set_alias(tx, delays(3), "champion", author="ada")

    (model,) = lab.ask("mlops_nb/summary")[1]["result"]["models"]

    assert (model["newest"], model["count"]) == (30, 30)
    assert [version["version"] for version in model["versions"]] == [30, 29, 28, 27, 26, 3]


def test_summary_of_many_models_holds_those_registered_last_and_counts_the_rest(lab):
    with store.writing() as tx:
        for number in range(60):
            models.add(tx, delays(1, model=f"m{number:02}"))

    summary = lab.ask("mlops_nb/summary")[1]["result"]

    assert summary["model_count"] == 60
    assert [model["name"] for model in summary["models"]] == [f"m{number:02}" for number in range(10, 60)]


def test_deploying_an_unknown_model_is_not_found_with_a_suggestion(lab):
    with store.writing() as tx:
        models.add(tx, delays(1))

    status, answer = lab.ask("mlops_nb/deploy", body={"model": "delay:1"})

    assert status == 404
    assert (answer["ok"], answer["code"]) == (False, "ModelNotFound")
    assert "delays" in answer["hint"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": 3},
        {"model": "../x:1"},
        {"model": "delays:1", "endpoint": "a/../b"},
        {"model": "delays:1", "traffic": 101},
        {"model": "delays:1", "traffic": "all"},
        {"model": "delays:1", "trust": True},
        ["delays:1"],
    ],
)
def test_a_request_that_cannot_be_right_says_so(lab, body):
    status, answer = lab.ask("mlops_nb/deploy", body=body)

    assert status == 400
    assert answer["ok"] is False
    assert answer["error"]


@pytest.mark.parametrize("folder", ["../..", "/etc", "a/../../..", "a\x00b"])
def test_folder_outside_the_server_is_refused(lab, folder):
    status, answer = lab.ask("mlops_nb/dashboard", body={"folder": folder})

    assert (status, answer["code"]) == (400, "UnsafePath")


@pytest.mark.parametrize("name", ["50% done", "C# work", "to: do", "%2e%2e", "linked"])
def test_a_folder_may_be_called_anything_and_be_a_link(lab, tmp_path, name):
    place = lab.root / name
    place.symlink_to(tmp_path) if name == "linked" else place.mkdir()
    with settings.using(place / ".mlops"), store.writing() as tx:
        models.add(tx, delays(1, model="here"))

    status, answer = lab.ask(f"mlops_nb/summary?folder={urllib.parse.quote(name)}")

    if place.is_symlink():
        place.unlink()
    assert (status, [one["name"] for one in answer["result"]["models"]]) == (200, ["here"])


def delays(number: int, *, model: str = "delays") -> ModelVersion:
    return ModelVersion(model=model, version=number, flavor="sklearn", engine="onnxruntime", hash=str(number), files=[], created_at=store.now())
