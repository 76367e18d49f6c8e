"""The Rollout page: the way of the requests, what a canary saw, and buttons that take two clicks."""

from __future__ import annotations

import a_busy_workspace
import msgspec
import pytest
from a_canary_under_way import GUARDS, a_canary
from living import X, wait_for

from mlops_nb import canary, canary_figures, cards, errors, labels, rollout, store, telemetry, traffic
from mlops_nb.store import deployments
from mlops_nb.truth import Truth


@pytest.fixture
def busy(workspace) -> None:
    a_busy_workspace.fill()


def shares(endpoint: str = "churn") -> dict[str, int]:
    return {d.name: d.traffic for d in rollout.endpoints(endpoint)[0].deployments}


def alts(page) -> list[str]:
    """The words of every figure for those who cannot see it."""
    return [chart.proto.alt for chart in page.get("plotly_chart")]


def test_the_flow_tells_planned_and_measured_share_of_each_deployment(open_page, busy):
    flow = alts(open_page("rollout", endpoint="delays", period="15m"))[0]

    assert "1 (delays:1, healthy) planned 50 %, got " in flow
    assert "% of the requests (" in flow


def test_a_canary_shows_steps_bounds_and_the_evidence_against_each_guard(open_page, busy):
    a_canary(reason="the step has not lasted its time")
    page = open_page("rollout", endpoint="delays")

    assert "✓ 5 %   ▶ 25 %   · 50 %   · 100 %" in [text.value for text in page.text]
    table = page.dataframe[0].value.set_index("guard")
    assert list(table["verdict"]) == [["● kept"], ["● kept"]]
    assert table.loc["error_rate<=+0.5pp", "seen in this step"].startswith("error_rate 0.40% of 1,000, the others 0.40% of 3,000")
    assert "the candidate's error rate lies in" in alts(page)[1]


def test_a_guard_that_what_was_seen_does_not_keep_is_not_called_kept(busy):
    plan = a_canary()
    seen = msgspec.structs.replace(plan, evidence=plan.evidence | {"beyond": [GUARDS[0]]})

    assert [one.verdict for one in canary_figures.judged(seen)] == ["beyond, not proven", "kept"]
    assert "! beyond, not proven" in cards.as_text(seen)


def test_a_link_to_an_earlier_rollout_shows_that_one(open_page, busy):
    a_canary(status="rolled back", error_rate=0.06, reason="error_rate<=+0.5pp violated")
    a_canary()
    page = open_page("rollout", endpoint="delays", rollout="canary-delays-2-rolled-back")

    assert "error_rate<=+0.5pp violated" in [text.value for text in page.text]
    assert page.dataframe[0].value["verdict"][0] == ["■ violated"]


def test_nothing_under_way_leaves_nothing_to_promote_or_cancel(open_page, busy):
    page = open_page("rollout", endpoint="delays")

    assert page.button(key="deed-Promote").disabled and page.button(key="deed-Cancel").disabled
    assert not page.button(key="deed-Roll back").disabled


def test_a_rollback_takes_two_clicks_and_says_before_what_it_will_do(open_page, churn):
    traffic.split("churn", {"1": 50, "2": 50})
    page = open_page("rollout", endpoint="churn")

    page.button(key="deed-Roll back").click().run()
    assert "The split of churn goes from 1 50 %, 2 50 % back to 1 100 %." in [text.value for text in page.text]
    assert shares() == {"1": 50, "2": 50}

    page.button(key="deed-yes").click().run()
    assert not page.exception and shares() == {"1": 100, "2": 0}
    assert traffic_changes("churn")[0].why == "rolled back in the dashboard"


def test_a_canary_is_promoted_or_cancelled_by_hand(open_page, churn):
    traffic.canary("churn/2", [10, 100], every_seconds=600.0)
    wait_for(lambda: shares()["2"] == 10, what="the first step")
    page = open_page("rollout", endpoint="churn")

    page.button(key="deed-Promote").click().run()
    page.button(key="deed-no").click().run()
    assert shares() == {"1": 90, "2": 10}

    page.button(key="deed-Promote").click().run()
    page.button(key="deed-yes").click().run()
    assert shares() == {"1": 0, "2": 100}
    assert (traffic.of("churn")[0].status, traffic.of("churn")[0].reason) == ("done", "promoted in the dashboard")
    with pytest.raises(errors.NothingToPromote):
        traffic.promote("churn")


def stages_of(endpoint: str) -> list[canary.Stage]:
    return canary.evidence_of(traffic.of(endpoint)[0]).stages


def test_a_canarys_figure_is_the_same_in_notebook_and_dashboard_when_its_telemetry_is_long_gone(open_page, churn):
    traffic.canary("churn/2", [50, 100], promises=["error_rate<=+20pp", "p95<=+1000%"], metrics=["auc"], every_seconds=600.0)
    wait_for(lambda: shares()["2"] == 50, what="the first step")
    for _ in range(60):
        rollout.invoke("churn", X.head(1))
    rows = wait_for(lambda: found if len(found := telemetry.requests("churn", most=100)) == 60 else None, what="telemetry")
    labels.record("churn", [{"request_id": row["id"], "left": number % 2} for number, row in enumerate(rows)])
    wait_for(lambda: all(side.count for stage in stages_of("churn") for side in stage.told.get("auc>=-0.02", [Truth()])), what="its labels")
    traffic.cancel("churn")
    plan = traffic.of("churn")[0]
    figure, card, page = canary_figures.figure(plan).to_json(), cards.as_text(plan), open_page("rollout", endpoint="churn")
    shown, table = page.get("plotly_chart")[1].proto, page.dataframe[0].value

    grow_old(churn)
    assert telemetry.captured("churn").rows == 0
    later = traffic.of("churn")[0]
    page = open_page("rollout", endpoint="churn")

    assert (canary_figures.figure(later).to_json(), cards.as_text(later)) == (figure, card)
    now = next(chart.proto for chart in page.get("plotly_chart") if chart.proto.alt == shown.alt)
    assert now.spec == shown.spec and len(now.spec) > 1000
    assert page.dataframe[0].value.equals(table)
    assert "pairs of labels" in card and "auc>=-0.02" in shown.alt


def grow_old(workspace) -> None:
    """What was captured is of years ago, and retention takes it."""
    rollout.down()
    telemetry.compact()
    for day in workspace.telemetry.glob("endpoint=*/deployment=*/date=*"):
        day.rename(day.with_name("date=2020-01-01"))
    telemetry.compact()


def test_a_split_that_changed_between_the_clicks_is_asked_about_anew(open_page, churn):
    traffic.split("churn", {"1": 50, "2": 50})
    page = open_page("rollout", endpoint="churn")
    page.button(key="deed-Roll back").click().run()

    traffic.split("churn", {"1": 30, "2": 70})
    page.run()

    assert any("changed since you asked" in markdown.value for markdown in page.markdown)
    assert "The split of churn goes from 1 30 %, 2 70 % back to 1 50 %, 2 50 %." in [text.value for text in page.text]


def traffic_changes(endpoint: str):
    with store.reading() as tx:
        return deployments.traffic_changes(tx, endpoint)
