"""What runs, what wants a look, what happened last."""

from __future__ import annotations

import parts
import queries
import streamlit as st

found = queries.overview()

parts.header("Overview", "What runs here, what wants a look, what happened last.")
if not found.versions and not found.deployments:
    parts.nothing_yet(
        "This workspace is empty. Four lines make it live:",
        "%load_ext mlops_nb",
        '%mlops dataset register flights df --description "what the rows are"',
        "%mlops register clf --name delays --data flights --metric auc=0.71",
        "%mlops deploy delays:1 --endpoint delays",
    )
    st.stop()

alerts = queries.alerts(found)
healthy = sum(d.status == "healthy" for d in found.live)
names, versions, data, live, wanted = st.columns(5)
names.metric("Models", found.models, border=True)
versions.metric("Versions", found.versions, border=True)
data.metric("Datasets", found.datasets, border=True)
live.metric("Healthy deployments", f"{healthy} of {len(found.live)}", border=True)
wanted.metric("Alerts", len(alerts), border=True, help="Deployments that are not well, rules that fire, and endpoints whose last check found drift.")

if alerts:
    st.subheader("Wants a look", anchor=False)
    for alert in alerts[: parts.ROWS]:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(f"{parts.coloured(alert.status)} **{parts.plain(alert.subject)}**", width="content")
            st.text(alert.line)
            st.page_link(alert.page, label="Why", icon=":material/arrow_forward:", query_params=alert.params)

st.subheader("Live endpoints", anchor=False)
if found.live:
    period = parts.period()
    parts.switch("Period", list(parts.PERIODS), param="period", value=period, label_visibility="collapsed")
    totals = {name: queries.totals(name, period) for name in {d.endpoint for d in found.live}}
    pulses = {name: queries.pulses(name, period) for name in totals}
    rows = []
    for d in found.live:
        seen = totals[d.endpoint].get(d.name, {})
        rows.append(
            {
                "endpoint": d.endpoint,
                "deployment": d.name,
                "model": d.model_ref,
                "status": parts.marked(queries.standing(d, found.untried)),
                "target": d.target,
                "hardware": parts.runs_on(d),
                "wanted share": found.shares.get(d.endpoint, {}).get(d.name, 0),
                "live share": seen.get("share", 0.0) * 100,
                "requests/s": seen.get("requests_per_second", 0.0),
                "p95 ms": seen.get("p95_ms"),
                "errors": seen.get("errors", 0),
                "traffic": pulses[d.endpoint].get(d.name, []),
            }
        )
    parts.table(
        rows,
        alt="Every deployment that should run: its model, health, target, hardware, share of traffic, rate, latency and errors",
        column_config={
            "wanted share": st.column_config.NumberColumn(format="%d %%"),
            "live share": st.column_config.NumberColumn(format="%.0f %%"),
            "requests/s": st.column_config.NumberColumn(format="%.2f"),
            "p95 ms": st.column_config.NumberColumn(format="%.1f"),
            "traffic": st.column_config.AreaChartColumn(width="medium", y_min=0, color="#2f7ed8"),
        },
    )
else:
    parts.nothing_yet("No endpoint yet.", "%mlops deploy delays:1 --endpoint delays")

st.subheader("Latest events", anchor=False)
parts.table(
    [{"when": parts.ago(event.time), "what": event.type.removeprefix("mlops."), "about": event.subject} for event in found.events],
    alt="The latest events, newest first",
)
st.page_link("views/events.py", label="All events", icon=":material/arrow_forward:")
