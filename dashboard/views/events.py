"""Everything that happened, newest first."""

from __future__ import annotations

import parts
import queries
import streamlit as st

parts.header("Events", "Everything that happened, newest first, as CloudEvents.")
ALL = "all"
what, subject = parts.asked("type", otherwise=ALL), parts.asked("about")
found = queries.happened(what="" if what == ALL else what, subject=subject, page=parts.page_number())

if not found.kinds:
    parts.nothing_yet("Nothing happened yet.", "%mlops register clf --name delays")
    st.stop()

with st.container(horizontal=True, vertical_alignment="bottom"):
    parts.choose("Type", [ALL, *found.kinds], param="type", value=what if what in found.kinds else ALL, width=260)
    parts.search("About", param="about", placeholder="delays, delays:2 or delays/2", icon=":material/search:", width=320)
    st.download_button(
        "Download CSV",
        data=lambda: parts.csv(queries.every_event(what="" if what == ALL else what, subject=subject)),
        file_name="events.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
        disabled=not found.total,
    )

if found.events:
    parts.table(
        [queries.event_row(event) | {"time": parts.said(event.time)} for event in found.events],
        alt="Events, newest first",
        column_order=("time", "type", "subject", "data"),
        column_config={"time": st.column_config.TextColumn(width="medium"), "data": st.column_config.TextColumn(width="large")},
    )
else:
    st.text("No such event.")
parts.page_turner(found.total, found.skip)
