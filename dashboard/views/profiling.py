"""How fast, how large, and what to deploy with: measured on servers of a version's own, or on a deployment as it runs."""

from __future__ import annotations

import figures
import parts
import queries
import streamlit as st

parts.header("Profiling", "Latency, throughput, CPU and memory of versions and deployments by hardware, cores and batch size, and what they advise.")
found = queries.measured()
if not found.profiles:
    one = next((d.ref for d in found.deployments if d.wanted == "running"), "delays:1")
    parts.nothing_yet("No profile yet.", f"%mlops profile {one}")
    st.stop()

OWN, ALL = "own server", parts.ALL
targets = {d.ref: d.target for d in found.deployments}


def place_of(profile: queries.Profile) -> str:
    """The target of a profile's deployment, while that is there."""
    return targets.get(profile.subject, "gone") if profile.endpoint else OWN


def name_of(profile: queries.Profile) -> str:
    """The endpoint of a deployment, the model of a version."""
    return profile.endpoint or profile.model


names = sorted({name_of(profile) for profile in found.profiles})
places, kinds = sorted({place_of(profile) for profile in found.profiles}), sorted({profile.hardware for profile in found.profiles})
name, target = parts.asked("endpoint", names, otherwise=ALL), parts.asked("target", places, otherwise=ALL)
hardware = parts.asked("hardware", kinds, otherwise=ALL)
with st.container(horizontal=True):
    parts.choose("Model or endpoint", [ALL, *names], param="endpoint", value=name, width=200)
    parts.choose("Target", [ALL, *places], param="target", value=target, width=200)
    parts.choose("Hardware", [ALL, *kinds], param="hardware", value=hardware, width=260)

shown = [p for p in found.profiles if p.points and name in (ALL, name_of(p)) and target in (ALL, place_of(p)) and hardware in (ALL, p.hardware)]
newest = list({(p.subject, p.hardware): p for p in reversed(shown)}.values())[-len(figures.COLOURS) :]
if not shown:
    st.text("No profile on that target and hardware.")
    st.stop()

if advised := [p for p in reversed(newest) if p.advice]:
    st.subheader("Advice", anchor=False)
    rows = [
        {
            "measured": p.subject,
            "objective": p.advice["objective"],
            "kept": "✓ can be kept" if p.advice["possible"] else "✗ cannot be kept",
            "hardware": p.advice["hardware"],
            "cores": p.advice["cpus"] or None,
            "memory MB": p.advice["memory_mb"] or None,
            "instances": p.advice["instances"] or None,
            "batch": p.advice["batch"] or None,
            "requests/s": p.advice["rate"] or None,
            "price of a million": p.advice["price_per_million"],
            "why": " ".join([p.advice["why"], *p.advice["notes"]]),
        }
        for p in advised
    ]
    numbers = {"requests/s": st.column_config.NumberColumn(format="%.0f"), "price of a million": st.column_config.NumberColumn(format="%.3g")}
    st.text(f"{advised[0].subject}: {rows[0]['why']}")
    parts.table(rows, alt="What to deploy each version with for its objective, and why", column_config=numbers)
    st.caption("  \n".join(dict.fromkeys(parts.plain(p.advice["measured"]) for p in advised if p.advice["measured"])))

left, right = st.columns(2)
with left:
    st.subheader("Latency against throughput", anchor=False)
    parts.chart(figures.frontier(newest), key="frontier", alt="p95 latency against rows per second, a line per version and hardware, a point per batch size")
    st.caption(
        "A point is a batch size, at the highest rate that keeps the objective; hollow where none does, one request after the other."
        " Low and to the right is better; a star is what is advised."
    )
with right:
    st.subheader("Memory", anchor=False)
    parts.chart(figures.memory(newest), key="memory", alt="The most resident memory per batch size, version and hardware")
    st.caption("The most that was resident in the scoring server.")

if tried := next((p for p in reversed(newest) if any(point.get("curve") for point in p.points)), None):
    st.subheader(f"Rates tried: {parts.plain(tried.subject)}", anchor=False)
    parts.chart(figures.curves(tried), key="curves", alt="p95 latency against requests per second, a line per setting, hollow where the objective did not hold")
    st.caption("Latency counts from when a request was due. Hollow marks did not keep the objective.")

st.subheader("Measurements", anchor=False)
held = {p.subject: f"{p.settings['limits']}; environment: {p.settings.get('environment') or 'as here'}" for p in shown if p.settings.get("limits")}
st.caption("  \n".join(parts.plain(f"{subject}: {words}") for subject, words in held.items()))
rows = [
    {
        "measured": p.subject,
        "model": f"{p.model}:{p.version}",
        "target": place_of(p),
        "hardware": figures.on(p, point),
        "batch": point["batch"],
        "advised": "★" if figures.is_advised(p, point) else "",
        "requests/s": point.get("rate"),
        "p50 ms": point["p50_ms"],
        "p95 ms": point["p95_ms"],
        "p99 ms": point["p99_ms"],
        "rows/s": point["rows_per_second"],
        "CPU %": point["cpu_percent"],
        "memory MB": point["memory_mb"],
        "peak MB": point.get("peak_memory_mb"),
        "cold start s": point.get("cold_start_seconds"),
        "environment": p.settings.get("environment") or "as here",
        "limits": p.settings.get("limits", ""),
        "when": parts.ago(p.time),
    }
    for p in shown
    for point in p.points
]
numbers = {name: st.column_config.NumberColumn(format="%.2f") for name in ("p50 ms", "p95 ms", "p99 ms", "cold start s")}
numbers |= {name: st.column_config.NumberColumn(format="%.0f") for name in ("requests/s", "rows/s", "CPU %", "memory MB", "peak MB")}
skip = parts.skipped(len(rows), parts.page_number())
parts.table(rows[skip : skip + parts.ROWS], alt="Latency, throughput, CPU and memory by version, hardware and batch size", column_config=numbers)
parts.page_turner(len(rows), skip)
