"""One deployment: whether it is well, why not, and its log."""

from __future__ import annotations

import parts
import queries
import streamlit as st

from mlops_nb.store.deployments import Deployment

parts.header("Deployments", "Which version runs where, whether it is well, and if not, why.")
found = queries.running(parts.asked("deployment"))
if not found.chosen:
    parts.nothing_yet("Nothing is deployed.", "%mlops deploy delays:1 --endpoint delays")
    st.stop()


def show_reason(d: Deployment) -> None:
    """The user's own exception, where it was raised, and the log around it."""
    reason = d.reason
    if not reason or d.status == "healthy":
        return
    told = [f"**{parts.plain(reason.kind)}**: {parts.plain(reason.message)}"]
    told += [f"Raised at {parts.plain(reason.where)}"] if reason.where else []
    told += [f"Try: {parts.plain(reason.hint)}"] if reason.hint else []
    st.error("  \n".join(told), icon=":material/error:")
    if reason.traceback:
        st.caption("Traceback")
        st.code(reason.traceback, language="python")
    if reason.log:
        st.caption("The log's last lines when it happened")
        st.code(reason.log, language=None)


def show_facts(d: Deployment) -> None:
    """How it was asked to run."""
    parts.facts(
        {
            "model": d.model_ref,
            "target": d.target,
            "hardware": parts.runs_on(d),
            "cores": d.spec.cpus or "all",
            "memory": f"{d.spec.memory_mb} MB" if d.spec.memory_mb else "no limit",
            "limits": parts.limits_of(d) or "none",
            "share wanted": f"{found.shares.get(d.endpoint, {}).get(d.name, 0)} %",
            "restarts": found.restarts.get(d.ref, 0),
            "wanted": d.wanted,
            "deployed": d.created_at,
            "last change": d.changed_at,
            "by": d.author,
        }
    )


def choose_row() -> None:
    """A row was clicked: its deployment goes into the URL."""
    rows = st.session_state["deployments"]["selection"]["rows"]
    if rows:
        st.query_params["deployment"] = shown[rows[0]].ref


with st.container(horizontal=True):
    parts.choose_place(found.deployments)
shown = parts.filtered(found.deployments)[: parts.ROWS]
parts.table(
    [
        {
            "deployment": d.ref,
            "model": d.model_ref,
            "status": parts.marked(queries.standing(d, found.untried)),
            "target": d.target,
            "hardware": parts.runs_on(d),
            "wanted share": found.shares.get(d.endpoint, {}).get(d.name, 0),
            "restarts": found.restarts.get(d.ref, 0),
            "since": parts.ago(d.changed_at),
            "why": "" if d.status == "healthy" else parts.one_line(d.reason),
        }
        for d in shown
    ],
    alt="Deployments with their health, target, hardware and share of traffic",
    key="deployments",
    on_select=choose_row,
    selection_mode="single-row",
    column_config={"wanted share": st.column_config.NumberColumn(format="%d %%")},
)

chosen = found.chosen
parts.choose("Deployment", [d.ref for d in found.deployments], param="deployment", value=chosen.ref, width=320)
st.markdown(f"#### {parts.coloured(queries.standing(chosen, found.untried))}   {parts.plain(chosen.ref)}")
parts.links(
    ("rollout", "Its traffic", "alt_route", {"endpoint": chosen.endpoint}),
    ("models", "Its model", "deployed_code", {"model": chosen.model_ref}),
    ("lineage", "What made it", "account_tree", {"root": f"deployment:{chosen.ref}"}),
)
show_reason(chosen)
facts, log, history = st.tabs(["About", "Log", "History"])
with facts:
    show_facts(chosen)
with log:
    lines = queries.log_lines(chosen)
    if lines:
        st.code("\n".join(lines), language=None, height=420 if len(lines) > 16 else "content")
    else:
        parts.nothing_yet("No log here.", f"%mlops logs {chosen.ref}")
with history:
    parts.table(
        [
            {"time": parts.said(row["time"]), "status": parts.marked(row["status"]), "model": f"{row['model']}:{row['version']}", "target": row["target"],
             "why": (row["reason"] or {}).get("message", "")}
            for row in found.history[: parts.ROWS]
        ],
        alt=f"Changes of status of {chosen.ref}",
    )  # fmt: skip
