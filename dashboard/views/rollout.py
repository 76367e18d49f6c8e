"""How an endpoint's requests are split, and how each deployment answers them, as it happens."""

from __future__ import annotations

from datetime import datetime

import figures
import flow
import hands
import parts
import queries
import streamlit as st

from mlops_nb import canary_figures, store, traffic
from mlops_nb.store.rollouts import Rollout

REFRESH_SECONDS = 5

parts.header("Rollout traffic", "Which share each deployment should have, which it has, and how it answers.")
found = queries.split(parts.asked("endpoint"))
if not found.endpoint:
    parts.nothing_yet("No endpoint yet.", "%mlops deploy delays:1 --endpoint delays", "%mlops deploy delays:2 --endpoint delays --traffic 10")
    st.stop()

period = parts.period("15m")
with st.container(horizontal=True, vertical_alignment="bottom"):
    parts.choose("Endpoint", found.endpoints, param="endpoint", value=found.endpoint, width=200)
    parts.choose_place(found.deployments)
    parts.switch("Period", list(parts.PERIODS), param="period", value=period)
    paused = st.toggle("Pause", key="paused", help=f"While it runs, the figures are read again every {REFRESH_SECONDS} s.")


@st.fragment(run_every=1)
def age() -> None:
    """How old the figures are."""
    updated: datetime | None = st.session_state.get("updated")
    if updated:
        state = "paused" if paused else "live"
        st.caption(f"{':material/pause:' if paused else ':green[●]'} {state}, updated {parts.ago(updated)}")


@st.fragment(run_every=None if paused else REFRESH_SECONDS)
def live() -> None:
    """Figures that follow the traffic."""
    split = queries.split(found.endpoint)
    totals, rows = queries.totals(split.endpoint, period), queries.traffic(split.endpoint, period)
    plans = traffic.of(split.endpoint)
    st.session_state["updated"] = store.now()
    show_flow(split, totals)
    hands.show(split.endpoint, split.wanted, next((plan for plan in plans if plan.going), None))
    show_rollout(plans)
    st.subheader("Shares, rates and latencies", anchor=False)
    show_shares(split, totals)
    names = {d.name for d in parts.filtered(split.deployments)} if "target" in st.query_params or "hardware" in st.query_params else None
    drawn = [row for row in rows if names is None or row["deployment"] in names]
    if not drawn:
        parts.nothing_yet("No request in this period.", f"%mlops invoke {split.endpoint} --data X.head()")
        return
    words = f"Share, rate, latency and errors of {split.endpoint}'s deployments over the last {period}; the table above has the totals"
    parts.chart(figures.traffic(drawn, split.changes), key="traffic", alt=words)
    st.caption("Dotted lines mark changes of the split. Times are UTC.")


def show_flow(split: queries.Split, totals: dict) -> None:
    """The way of the requests."""
    ways = flow.ways(split, totals)
    if ways:
        parts.chart(flow.figure(split.endpoint, ways), key="flow", alt=flow.told(split.endpoint, ways))
        st.caption(f"A line is as wide as the share of the requests of the last {period}; dashed are copies whose answers no caller gets.")


def show_rollout(plans: list[Rollout]) -> None:
    """The rollout that the URL names, else the one under way, else the latest: its steps, and of a canary what it saw."""
    if not plans:
        st.caption(f"No canary, ramp or schedule yet. To have one: `%mlops canary {parts.plain(found.endpoint)}/NAME`")
        return
    st.subheader("Rollout", anchor=False)
    named = {plan.id: plan for plan in plans}
    plan = named.get(parts.asked("rollout")) or next((plan for plan in plans if plan.going), plans[0])
    if len(plans) > 1:
        words = {one.id: f"{one.kind} of {one.deployment or one.endpoint}, {one.created_at:%Y-%m-%d %H:%M:%S}, {one.status}" for one in plans}
        parts.choose("Rollout", list(named), param="rollout", value=plan.id, format_func=lambda id: words.get(id, id), width=420)
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"#### {parts.coloured(plan.status)}")
        st.text(f"{plan.kind} of {plan.endpoint}/{plan.deployment}" if plan.deployment else f"{plan.kind} of {plan.endpoint}")
        st.text(steps_of(plan))
        if plan.reason:
            st.text(plan.reason)
        due = f", next look or step {plan.next_time:%H:%M:%S} UTC" if plan.going else f", ended {parts.ago(plan.changed_at)}"
        st.caption(parts.plain(f"by {plan.author or 'nobody known'}{f': {plan.why}' if plan.why else ''}, begun {parts.ago(plan.created_at)}{due}"))
    show_evidence(plan)


def steps_of(plan: Rollout) -> str:
    """`✓ 5 %  ▶ 25 %  · 50 %  · 100 %`."""
    if plan.kind == "schedule":
        return ", ".join(f"{name}: {weight} %" for name, weight in plan.settings["weights"].items()) + f" at {plan.next_time:%Y-%m-%d %H:%M:%S} UTC"
    marks = ["✓" if place < plan.step or plan.status == "done" else "▶" if place == plan.step else "·" for place in range(1, len(plan.steps) + 1)]
    return "   ".join(f"{mark} {percent} %" for mark, percent in zip(marks, plan.steps, strict=True))


def show_evidence(plan: Rollout) -> None:
    """A row for each guard, and the figure of all looks."""
    judged = canary_figures.judged(plan) if plan.kind == "canary" else []
    if not judged:
        st.caption("A canary's evidence stands here from its first look on." if plan.kind == "canary" else "A ramp and a schedule judge nothing.")
        return
    rows = [
        {
            "guard": one.guard,
            "verdict": parts.marked(one.verdict),
            "seen in this step": one.seen,
            "evidence against it": one.words,
            "on the way to a rollback": one.share * 100,
        }
        for one in judged
    ]
    bar = st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100, color="#d9622b", width=150)
    parts.table(rows, alt="Each guard, whether it is kept, and the evidence against it", column_config={"on the way to a rollback": bar})
    parts.chart(canary_figures.figure(plan), key="evidence", alt=canary_figures.told(plan))
    st.caption(parts.plain(canary_figures.rates_told(canary_figures.evidence_of(plan))))


def show_shares(split: queries.Split, totals: dict) -> None:
    """Wanted beside live, a row per deployment."""
    standing = {d.name: d for d in parts.filtered(split.deployments)}
    gone = [name for name in totals if name not in {d.name for d in split.deployments}] if standing else []
    rows = [share_row(name, standing.get(name), split.untried, split.wanted.get(name, 0), totals.get(name, {})) for name in [*standing, *gone]]
    percent = {
        name: st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100, color="#2f7ed8", width=104)
        for name in ("wanted share", "live share")
    }
    numbers = {name: st.column_config.NumberColumn(format="%.1f") for name in ("p50 ms", "p95 ms", "p99 ms")}
    numbers |= {"per second": st.column_config.NumberColumn(format="%.2f")}
    parts.table(rows, alt="Wanted and live share, rate, latency and errors per deployment", column_config=percent | numbers)


def share_row(name: str, deployment: queries.Deployment | None, untried: set[str], wanted: int, seen: dict) -> dict:
    """One deployment: where it runs, what it should get and what it got."""
    return {
        "deployment": name,
        "model": deployment.model_ref if deployment else "",
        "status": parts.marked(queries.standing(deployment, untried)) if deployment else "· withdrawn",
        "runs on": f"{deployment.target} · {parts.runs_on(deployment)}" if deployment else "",
        "wanted share": wanted,
        "live share": seen.get("share", 0.0) * 100,
        "requests": seen.get("requests", 0),
        "per second": seen.get("requests_per_second", 0.0),
        "p50 ms": seen.get("p50_ms"),
        "p95 ms": seen.get("p95_ms"),
        "p99 ms": seen.get("p99_ms"),
        "errors": f"{seen.get('errors', 0)} ({seen.get('error_rate', 0.0):.1%})",
    }


age()
live()

st.subheader("Changes of the split", anchor=False)
if found.changes:
    parts.table(
        [
            {
                "time": parts.said(change.time),
                "split": ", ".join(f"{name}: {weight} %" for name, weight in change.weights.items()),
                "by": change.author,
                "why": change.why,
            }
            for change in found.changes[: parts.ROWS]
        ],
        alt=f"Every split {found.endpoint} had, newest first",
    )
else:
    parts.nothing_yet("The split was never set.", f"%mlops traffic {found.endpoint} 1=100")
