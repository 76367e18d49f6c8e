"""What models can run on here, what not and why, and what each deployment really runs on."""

from __future__ import annotations

import parts
import queries
import streamlit as st

parts.header("Hardware", "ONNX Runtime's execution providers, the devices behind them and their limits; what each deployment asked for, and what it got.")
st.code("%mlops hardware", language=None)
rows = [
    {
        "hardware": one.name,
        "here": "✓ here" if one.available else "○ not here",
        "provider": one.provider,
        "device": one.device,
        "cores": one.cores,
        "memory MB": one.memory_mb,
        "why not": one.reason,
    }
    for one in queries.hardware_here()
]
device = {"device": st.column_config.TextColumn(width="medium")}
parts.table(rows, alt="Each kind of hardware, whether it can be used here, and why not", column_config=device)

st.subheader("Deployments", anchor=False)
running = queries.running_on()
if not running:
    st.text("Nothing runs.")
    st.stop()
rows = [
    {
        "deployment": d.ref,
        "model": d.model_ref,
        "status": parts.marked(standing),
        "asked for": d.spec.hardware,
        "runs on": ", ".join(providers) or "it does not say",
        "cores": f"{d.spec.cpus:g}" if d.spec.cpus else "all",
        "memory MB": d.spec.memory_mb,
    }
    for d, standing, providers in running
]
parts.table(rows, alt="What each deployment asked for and which execution providers its server says it uses")
st.caption("What a deployment runs on is what its server says of itself; memory and cores are its limits.")
