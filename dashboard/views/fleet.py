"""Edge devices: which there are, what each runs, how its queue stands, and whether what it is asked drifted."""

from __future__ import annotations

import parts
import streamlit as st

from mlops_nb.fleet import devices
from mlops_nb.fleet.devices import DeviceView

parts.header("Fleet", "Edge devices as they last told of themselves: what they run, what waits on them, and drift by device.")
found = devices.every()
if not found:
    parts.nothing_yet("No edge device yet.", "%mlops deploy delays:1 --to edge --device gate-1")
    st.stop()

online = sum(view.online for view in found)
waiting, dropped = sum(view.queued for view in found), sum(view.dropped for view in found)
for column, (label, value) in zip(
    st.columns(4), {"devices": len(found), "online": online, "answers waiting": waiting, "answers dropped": dropped}.items(), strict=True
):
    column.metric(label, f"{value:,}")


def row(view: DeviceView) -> dict[str, object]:
    """One device, with what it runs beside what it should."""
    return {
        "device": view.name,
        "link": "● online" if view.online else "○ offline",
        "runs": view.model,
        "wanted": view.wanted,
        "state": view.state,
        "seen": parts.ago(view.seen_at) if view.seen_at else "never",
        "requests": view.requests,
        "errors": view.errors,
        "p95 ms": view.p95_ms,
        "queue": view.queued,
        "dropped": view.dropped,
        "drift": parts.marked(view.drift) if view.drift else "not checked",
        "of": ", ".join(view.drifted),
        "why": view.reason,
    }


parts.table([row(view) for view in found[: parts.ROWS]], alt="Edge devices with what they run, when they were seen, their queue and their drift")

names = [view.name for view in found]
chosen = next((view for view in found if view.name == parts.asked("device")), found[0])
parts.choose("Device", names, param="device", value=chosen.name, width=320)
if chosen.state == "failed":
    st.error(f"It could not run what was wanted: {parts.plain(chosen.reason)}", icon=":material/error:")
if chosen.deployment:
    parts.links(
        ("deployments", "Its deployment", "rocket_launch", {"deployment": chosen.deployment}),
        ("drift", "Its drift", "ssid_chart", {"endpoint": chosen.endpoint} | ({"check": chosen.drift_check} if chosen.drift else {})),
    )
parts.facts(
    {
        "runs": chosen.model or "nothing",
        "wanted": chosen.wanted or "nothing",
        "module": chosen.module,
        "rows scored": f"{chosen.rows:,}",
        "p50 / p95": f"{chosen.p50_ms} / {chosen.p95_ms} ms" if chosen.p50_ms is not None else "—",
        "telemetry waiting": f"{chosen.telemetry_waiting:,} lines",
        "telemetry dropped": f"{chosen.telemetry_dropped:,} lines",
        "last heard": chosen.seen_at or "never",
        "drift": f"{chosen.drift}, checked {parts.ago(chosen.drift_checked_at)}" if chosen.drift_checked_at else "not checked",
    }
)
st.code(f"%mlops edge drift {chosen.name}" if chosen.deployment else f"%mlops edge devices {chosen.name}", language=None)
