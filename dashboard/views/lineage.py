"""What came from what."""

from __future__ import annotations

from collections import defaultdict

import figures
import parts
import streamlit as st

from mlops_nb import lineage

EVERYTHING = "everything"
DRAWN_AT_MOST = 80

parts.header("Lineage", "Data → run → model → environment → deployment → endpoint: what made this, and what did it reach?")
whole = lineage.graph()
if not whole.nodes:
    parts.nothing_yet("Nothing to trace yet.", "%mlops dataset register flights df", "%mlops register clf --name delays --data flights")
    st.stop()

newest_first = whole.nodes[::-1]
labels = {node.id: f"{node.kind} {node.label}" for kind in ("endpoint", "model", "dataset", "environment") for node in newest_first if node.kind == kind}


def chosen_root() -> str:
    """The node the URL names, by id or as a person says it; else everything when that can be drawn, else what comes first."""
    asked = parts.asked("root")
    if asked and asked != EVERYTHING:
        try:
            return lineage.root(whole, asked)
        except lineage.LineageRootNotFound as error:
            parts.mistake(error)
    return EVERYTHING if asked == EVERYTHING or len(whole.nodes) <= DRAWN_AT_MOST else next(iter(labels))


def show_answers(root: str) -> None:
    """The two questions, answered in words."""
    made_from, reached = lineage.upstream(whole, root), lineage.downstream(whole, root)
    left, right = st.columns(2, border=True)
    with left:
        st.markdown("**Made from**")
        show_links(made_from, otherwise="nothing recorded")
    with right:
        st.markdown("**Reached**")
        show_links(reached, otherwise="nothing yet")
        live = lineage.live_endpoints(whole, root)
        st.caption(f"Live endpoints: {parts.plain(', '.join(live)) or 'none'}")


def show_links(nodes: list[lineage.Node], *, otherwise: str) -> None:
    """Names with their kind, at most a dozen."""
    for node in nodes[:12]:
        note = figures.note_of(node)
        st.text(f"{figures.KIND_LOOKS[node.kind][0]} {node.kind} {figures.name_of(node)}{f' ({note})' if note else ''}")
    if len(nodes) > 12:
        st.caption(f"and {len(nodes) - 12} more, in the table below")
    if not nodes:
        st.caption(otherwise)


root = chosen_root()
options = list(dict.fromkeys([EVERYTHING, root, *list(labels)[:500]]))
parts.choose("Around", options, param="root", value=root, format_func=lambda id: labels.get(id, id), width=420)
shown = whole if root == EVERYTHING else lineage.around(whole, root)

if len(shown.nodes) <= DRAWN_AT_MOST:
    words = f"Lineage of {len(shown.nodes)} things; the table below says the same in words"
    parts.chart(figures.lineage(shown, root), key="lineage", alt=words)
    st.caption("From left to right: what was used, what came of it. A star after a commit means uncommitted changes.")
else:
    st.caption(f"{len(shown.nodes)} things are too many to draw: choose one above. The table has them all.")
if root != EVERYTHING:
    show_answers(root)

st.subheader("The same as a table", anchor=False)
names = {node.id: f"{node.kind} {figures.name_of(node)}" for node in shown.nodes}
into = defaultdict(list)
for edge in shown.edges:
    into[edge.target].append(names[edge.source])
parts.table(
    [
        {"kind": node.kind, "name": node.label, "what": figures.note_of(node), "made from": ", ".join(into[node.id])}
        for node in sorted(shown.nodes[: parts.ROWS], key=lambda node: lineage.KINDS.index(node.kind))
    ],
    alt="Every node of the drawing with what went into it",
)
