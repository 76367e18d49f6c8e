"""The dashboard: `%mlops dashboard`, or `streamlit run dashboard/app.py` with MLOPS_HOME set.

The pages stand in `views/`: beside a folder called `pages/` Streamlit takes the first visitor who comes by a link past this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import parts  # noqa: E402 - a sibling, importable from here on as it is under `streamlit run`

from mlops_nb.errors import MlopsError  # noqa: E402

st.set_page_config(page_title="mlops_nb", page_icon=str(Path(__file__).parent / "icon.svg"), layout="wide")

GROUPS = {
    "": [st.Page("views/overview.py", title="Overview", icon=":material/dashboard:", default=True)],
    "Made": [
        st.Page("views/models.py", title="Models", icon=":material/deployed_code:"),
        st.Page("views/lineage.py", title="Lineage", icon=":material/account_tree:"),
        st.Page("views/profiling.py", title="Profiling", icon=":material/speed:"),
        st.Page("views/hardware.py", title="Hardware", icon=":material/memory:"),
    ],
    "Running": [
        st.Page("views/deployments.py", title="Deployments", icon=":material/rocket_launch:"),
        st.Page("views/rollout.py", title="Rollout traffic", icon=":material/alt_route:"),
        st.Page("views/targets.py", title="Targets", icon=":material/dns:"),
        st.Page("views/fleet.py", title="Fleet", icon=":material/sensors:"),
        st.Page("views/performance.py", title="Performance", icon=":material/target:"),
        st.Page("views/drift.py", title="Drift", icon=":material/ssid_chart:"),
        st.Page("views/events.py", title="Events", icon=":material/list_alt:"),
    ],
}

try:
    parts.only_from_here()
except MlopsError as error:
    parts.mistake(error)
    st.stop()
page = st.navigation([page for pages in GROUPS.values() for page in pages], position="hidden")
parts.tidy()
parts.sidebar(GROUPS)
try:
    page.run()
except MlopsError as error:
    parts.mistake(error)
