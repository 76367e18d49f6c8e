"""How fast, how large: measured on the running server itself."""

from __future__ import annotations

import figures
import parts
import queries
import streamlit as st

parts.header("Profiling", "Latency, CPU and memory of each deployment by batch size, per target and hardware.")
found = queries.measured()
if not found.profiles:
    one = next((d.ref for d in found.deployments if d.wanted == "running"), "delays/1")
    parts.nothing_yet("No profile yet.", f"%mlops profile {one}")
    st.stop()

targets = {d.ref: d.target for d in found.deployments}


def place_of(profile: queries.Profile) -> str:
    """The target of a profile's deployment, while that is there."""
    return targets.get(f"{profile.endpoint}/{profile.deployment}", "gone")


ALL = parts.ALL
endpoints = sorted({profile.endpoint for profile in found.profiles})
places, kinds = sorted({place_of(profile) for profile in found.profiles}), sorted({profile.hardware for profile in found.profiles})
endpoint, target = parts.asked("endpoint", endpoints, otherwise=ALL), parts.asked("target", places, otherwise=ALL)
hardware = parts.asked("hardware", kinds, otherwise=ALL)
with st.container(horizontal=True):
    parts.choose("Endpoint", [ALL, *endpoints], param="endpoint", value=endpoint, width=200)
    parts.choose("Target", [ALL, *places], param="target", value=target, width=200)
    parts.choose("Hardware", [ALL, *kinds], param="hardware", value=hardware, width=260)

shown = [p for p in found.profiles if endpoint in (ALL, p.endpoint) and target in (ALL, place_of(p)) and hardware in (ALL, p.hardware)]
newest = list({(p.endpoint, p.deployment, p.hardware): p for p in reversed(shown)}.values())[-len(figures.COLOURS) :]
if not shown:
    st.text("No profile on that target and hardware.")
    st.stop()

left, right = st.columns(2)
with left:
    st.subheader("Latency against throughput", anchor=False)
    parts.chart(figures.frontier(newest), key="frontier", alt="p95 latency against rows per second, a line per deployment, a point per batch size")
    st.caption("A point is a batch size. Low and to the right is better.")
with right:
    st.subheader("Memory", anchor=False)
    parts.chart(figures.memory(newest), key="memory", alt="Resident memory per batch size and deployment")
    st.caption("Resident memory of the scoring server.")

st.subheader("Measurements", anchor=False)
rows = [
    {
        "deployment": f"{p.endpoint}/{p.deployment}",
        "model": f"{p.model}:{p.version}",
        "target": place_of(p),
        "hardware": p.hardware,
        "batch": point["batch"],
        "p50 ms": point["p50_ms"],
        "p95 ms": point["p95_ms"],
        "p99 ms": point["p99_ms"],
        "rows/s": point["rows_per_second"],
        "CPU %": point["cpu_percent"],
        "memory MB": point["memory_mb"],
        "measured": parts.ago(p.time),
    }
    for p in shown
    for point in p.points
]
numbers = {name: st.column_config.NumberColumn(format="%.2f") for name in ("p50 ms", "p95 ms", "p99 ms")}
numbers |= {name: st.column_config.NumberColumn(format="%.0f") for name in ("rows/s", "CPU %", "memory MB")}
skip = parts.skipped(len(rows), parts.page_number())
parts.table(rows[skip : skip + parts.ROWS], alt="Latency, throughput, CPU and memory by deployment, hardware and batch size", column_config=numbers)
parts.page_turner(len(rows), skip)
