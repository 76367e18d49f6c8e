"""The workspace's page for Prometheus: what it says is right, can be parsed, and is what the Grafana dashboard draws."""

from __future__ import annotations

import json
import re
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import a_busy_workspace
import msgspec
import numpy as np
import pytest
from a_canary_under_way import a_canary
from living import X, churn_model, wait_for
from prometheus_client.parser import text_string_to_metric_families

from mlops_nb import agent, alerts, cards, commands, errors, metrics, rollout, scraping, store, telemetry
from mlops_nb.cli import Terminal
from mlops_nb.settings import Workspace
from mlops_nb.store import checks, events
from mlops_nb.store.checks import DriftCheck
from mlops_nb.telemetry import Counted

pytestmark = pytest.mark.xdist_group("metrics")

GRAFANA = Path(__file__).parents[2] / "docs" / "grafana.json"


def families(text: str) -> dict[str, list]:
    """Family → samples, read by Prometheus' own client."""
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Two deployments of churn, one of which was asked forty times, with a canary, a check, a rule and limits; one for the file."""
    root = tmp_path_factory.mktemp("asked") / "workspace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_HOME", str(root))
        _fill()
        yield Workspace(root)
        rollout.down()


def _fill() -> None:
    churn_model()
    rollout.deploy("churn:1")
    rollout.deploy("churn:1", name="2", traffic=0)
    for _ in range(40):
        rollout.invoke("churn", X.head(1))
    with store.writing() as tx:
        checks.add_drift_check(tx, a_busy_workspace.drift_check(3, days=0, endpoint="churn"))
        tx.execute('UPDATE deployments SET spec = json_merge_patch(spec::JSON, \'{"memory_mb": 4096, "cpus": 2}\')')
    a_canary("churn", "2")
    alerts.add("churn", "no requests for 1h")


def test_every_metric_the_grafana_dashboard_draws_is_on_the_page(asked: Workspace) -> None:
    page = metrics.exposition()
    names = {sample.name for samples in families(page).values() for sample in samples}

    board = json.loads(GRAFANA.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    drawn = {name for expression in expressions for name in re.findall(r"mlops_[a-z_]+", expression)}
    assert len(drawn) > 15 and drawn - names == set()
    assert {panel["title"] for panel in board["panels"]} >= {"Errors", "Latency of callers", "Saturation: requests in flight"}


def test_the_page_counts_what_callers_asked_by_deployment_target_and_hardware(asked: Workspace) -> None:
    found = families(metrics.exposition("churn"))
    labels = {"endpoint": "churn", "deployment": "1", "target": "local", "hardware": "cpu"}

    (requests,) = [sample for sample in found["mlops_requests"] if sample.labels["deployment"] == "1"]
    assert requests.value == 40 and labels.items() <= requests.labels.items() and requests.labels["status"] == "200"
    window = {sample.labels["deployment"]: sample.value for sample in found["mlops_window_requests"]}
    assert window == {"1": 40, "2": 0}
    assert [sample.value for sample in found["mlops_deployment_up"]] == [1, 1]
    assert all(sample.value > 0 for sample in found["mlops_memory_bytes"])
    assert "mlops_build_info" not in found
    with pytest.raises(errors.EndpointNotFound):
        metrics.exposition("nobody")


def test_a_quantile_is_told_at_most_one_percent_too_high_and_never_too_low() -> None:
    latencies = np.sort(np.random.default_rng(1).lognormal(1.0, 1.0, 200_000))
    places = np.clip(np.ceil(np.log(latencies / 0.001) / np.log(1.01)), 0, 1999).astype(int)
    counted = Counted(requests=len(latencies), latencies={int(place): int(count) for place, count in zip(*np.unique(places, return_counts=True), strict=True)})
    for quantile in (0.5, 0.95, 0.99, 0.999):
        true = latencies[int(np.ceil(quantile * len(latencies))) - 1]
        assert true <= metrics.quantile_ms(counted, quantile) <= true * 1.01 * (1 + 1e-9)


def test_words_of_users_stay_labels(workspace: Workspace) -> None:
    a_busy_workspace.fill()
    a_busy_workspace.vandalise()

    (vandal,) = [sample for sample in families(metrics.exposition())["mlops_deployment_up"] if sample.labels["endpoint"] == "vandal"]
    assert vandal.labels["hardware"] == a_busy_workspace.MARKUP


def test_the_agent_serves_the_page_to_whoever_has_the_token_and_to_nobody_else(asked: Workspace) -> None:
    scraped = scraping.begin()
    agent.ensure()
    token = Path(scraped.token_file).read_text()
    assert stat.S_IMODE(Path(scraped.token_file).stat().st_mode) == 0o600
    assert token not in scraped.configuration and token not in repr(scraped)

    text = wait_for(lambda: answered(scraped.url, token)[1], what="the page")
    assert families(text)["mlops_deployment_up"]
    assert answered(scraped.url, "no")[0] == 401
    assert answered(scraped.url.replace("/metrics", "/"), token)[0] == 404
    assert scraping.begin().url == scraped.url

    scraping.end()
    wait_for(lambda: answered(scraped.url, token)[0] == 0, what="its end")


def answered(url: str, token: str) -> tuple[int, str]:
    """Status and text; 0 where nobody listens."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def test_what_hardware_carries_is_the_sum_of_its_deployments(asked: Workspace) -> None:
    found = families(metrics.exposition())
    labels = {"target": "local", "hardware": "cpu"}

    (deployments,), (requests,) = found["mlops_hardware_deployments"], found["mlops_hardware_window_requests"]
    assert (deployments.labels, deployments.value, requests.value) == (labels, 2, 40)
    for name in ("cpu_cores", "memory_bytes", "requests_in_flight", "requests_waiting", "window_refused"):
        parts = [sample.value for sample in found[f"mlops_{name}"]]
        assert found[f"mlops_hardware_{name}"][0].value == pytest.approx(sum(parts))
    tails = [sample.value for sample in found["mlops_window_latency_seconds"] if sample.labels["quantile"] == "0.999"]
    assert [sample.value for sample in found["mlops_hardware_window_latency_seconds"] if sample.labels["quantile"] == "0.999"] == tails
    assert all(0 < sample.value < 1 for sample in found["mlops_memory_share"])


def test_an_endpoints_card_says_what_its_deployments_have_to_carry(asked: Workspace) -> None:
    (view,) = commands.run(["endpoints", "churn"], Terminal(quiet=True))
    one, two = (deployment.load for deployment in view.deployments)

    assert (one.in_flight, one.waiting, one.most, one.window.requests, one.window.refused, one.cpus_limit) == (0, 0, 512, 40, 0, 2)
    assert one.p999_ms > 0 and 0 < one.memory_share < 1 and two.p999_ms is None
    text = cards.as_text(view)
    assert "in flight" in text and "0 of 512" in text and "of 4,096" in text
    assert "in flight" not in cards.as_text(rollout.endpoints("churn")[0])


def test_the_log_ends_with_what_callers_got_wrong(asked: Workspace) -> None:
    """The last of this module: it asks deployment 2 something wrong."""
    for _ in range(3):
        with pytest.raises(errors.MlopsError):
            rollout.invoke("churn", {"age": ["\x1b[31mold"], "income": [1.0]}, deployment="2")
    wait_for(lambda: sum(row["requests"] for row in telemetry.refused("churn")) == 3, what="the captured requests")

    whole, one, other = (commands.run(["logs", ref], Terminal(quiet=True)) for ref in ("churn", "churn/2", "churn/1"))

    assert whole[-2] == "What callers got wrong in the last day:"
    assert whole[-1].startswith("2: 3 × 400 ") and "age" in whole[-1] and "\x1b" not in whole[-1]
    assert one[-1] == whole[-1].removeprefix("2: ")
    assert not any("got wrong" in line for line in other)


def _watched(**check: object) -> DriftCheck:
    """What the only endpoint's last drift check found."""
    found = a_busy_workspace.drift_check(3, days=0, endpoint="delays")
    return msgspec.structs.replace(found, id="the last", **check)


def _of_the_checked() -> dict[str, float]:
    """Metric → value of the deployment that check was of."""
    samples = [sample for many in families(metrics.exposition("delays")).values() for sample in many]
    return {sample.name: sample.value for sample in samples if sample.labels.get("deployment") == _watched().deployment}


def test_a_check_that_could_not_tell_is_neither_drift_nor_none(workspace: Workspace) -> None:
    a_busy_workspace.fill()
    few = [feature | {"test": "none", "is_drift": False} for feature in _watched().report["features"]]
    with store.writing() as tx:
        checks.add_drift_check(tx, _watched(is_drift=False, report={**_watched().report, "features": few}))

    found = _of_the_checked()

    assert "mlops_drift" not in found and "mlops_drift_features" not in found and found["mlops_drift_check_time_seconds"]


def test_features_that_were_judged_together_are_not_counted(workspace: Workspace) -> None:
    a_busy_workspace.fill()
    whole = {"name": "all features together", "type": "together", "test": "MMD²", "is_drift": True}
    with store.writing() as tx:
        checks.add_drift_check(tx, _watched(report={**_watched().report, "features": [whole]}))

    found = _of_the_checked()

    assert found["mlops_drift"] == 1 and "mlops_drift_features" not in found


def test_restarts_do_not_fall_when_a_steady_minute_has_passed(workspace: Workspace) -> None:
    a_busy_workspace.fill()
    with store.writing() as tx:
        for _ in range(2):
            events.record(tx, "DeploymentRestarting", subject="delays/1")
        tx.execute("UPDATE deployments SET restarts = 0")

    restarts = {sample.labels["deployment"]: sample.value for sample in families(metrics.exposition("delays"))["mlops_deployment_restarts"]}

    assert restarts["1"] == 2 and set(restarts.values()) == {0, 2}
