"""Which deployment runs where: on what target and hardware, from which image, how often it was restarted, what it uses now."""

from __future__ import annotations

from datetime import datetime

import parts
import queries
import streamlit as st

from mlops_nb import store

REFRESH_SECONDS = 5

parts.header("Targets", "What runs where, on which hardware, from which image, and what it uses now.")
found = queries.overview()
if not found.live:
    parts.nothing_yet("Nothing runs yet.", "%mlops deploy delays:1 --to local", "%mlops deploy delays:1 --to docker --cpus 1 --memory 512m")
    st.stop()
with st.container(horizontal=True, vertical_alignment="bottom"):
    parts.choose_place(found.live)
    paused = st.toggle("Pause", key="paused", help=f"While it runs, the figures are read again every {REFRESH_SECONDS} s.")


@st.fragment(run_every=1)
def age() -> None:
    """How old the figures are."""
    updated: datetime | None = st.session_state.get("looked")
    if updated:
        state = "paused" if paused else "live"
        st.caption(f"{':material/pause:' if paused else ':green[●]'} {state}, updated {parts.ago(updated)}")


@st.fragment(run_every=None if paused else REFRESH_SECONDS)
def live() -> None:
    """One row for each deployment, as it is now."""
    now = queries.overview()
    shown = parts.filtered(now.live)
    if not shown:
        parts.nothing_yet("Nothing of this choice runs any more.", "%mlops endpoints")
        return
    used = queries.usages(shown[: parts.ROWS])
    st.session_state["looked"] = store.now()
    show_places(shown)
    parts.table(
        [row(d, queries.standing(d, now.untried), used[d.ref], now.restarts.get(d.ref, 0)) for d in shown[: parts.ROWS]],
        alt="Every deployment that should run: its target, what it runs as, hardware, cores and memory in use, restarts and image",
        column_config={
            "restarts": st.column_config.NumberColumn(help="Since it was deployed"),
            "cores": st.column_config.NumberColumn(format="%.2f", help="In use, since it was last looked at"),
            "memory MB": st.column_config.NumberColumn(format="%.0f"),
            "of limit": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100, color="#2f7ed8", width=104),
        },
    )


def show_places(shown: list[queries.Deployment]) -> None:
    """How many run on each target, and how many of them are healthy."""
    names = sorted({d.target for d in shown})
    for column, name in zip(st.columns(max(4, len(names))), names, strict=False):
        there = [d for d in shown if d.target == name]
        column.metric(name, f"{sum(d.status == 'healthy' for d in there)} of {len(there)} healthy", border=True)


def row(d: queries.Deployment, standing: str, used: queries.Usage, restarts: int) -> dict[str, object]:
    """One deployment: where it is, on what, and what it takes."""
    limit = d.spec.memory_mb
    return {
        "deployment": d.ref,
        "status": parts.marked(standing),
        "target": d.target,
        "runs as": used.where,
        "asked for": parts.runs_on(d),
        "proved": used.hardware,
        "cores": used.cpus,
        "core limit": f"{d.spec.cpus:g}" if d.spec.cpus else "all",
        "memory MB": used.memory_mb,
        "of limit": used.memory_mb / limit * 100 if limit and used.memory_mb is not None else None,
        "restarts": restarts + (used.restarts or 0),
        "image": used.image.removeprefix("sha256:")[:12],
        "why": "" if d.status == "healthy" else parts.one_line(d.reason),
    }


age()
live()

images = {d.spec.options["image_id"]: d for d in found.live if d.spec.options.get("image_id")}
if images:
    st.subheader("Images", anchor=False)
    parts.table(
        [{"digest": digest, "model": d.model_ref, "name": d.spec.options.get("image", "")} for digest, d in images.items()],
        alt="The images that deployments run from, with their whole digests",
    )
