"""How good answers were, where their truth is known, and how good they are expected to be where it is not."""

from __future__ import annotations

import figures
import parts
import queries
import streamlit as st

from mlops_nb import performance

BY = ("all", *performance.PERIODS)

parts.header("Performance", "How good answers were where labels came, and how good they are expected to be where they did not.")
found = queries.split(parts.asked("endpoint"))
if not found.endpoint:
    parts.nothing_yet("No endpoint to judge yet.", "%mlops deploy delays:1 --endpoint delays", "%mlops labels delays --data df")
    st.stop()

columns = queries.inputs(found.endpoint)
by, segment = parts.asked("by", BY, otherwise="day"), parts.asked("segment", columns, otherwise=parts.ALL)
with st.container(horizontal=True, vertical_alignment="bottom"):
    parts.choose("Endpoint", found.endpoints, param="endpoint", value=found.endpoint, width=220)
    parts.choose_place(found.deployments)
    parts.switch("By", BY, param="by", value=by)
    parts.choose("Segment", [parts.ALL, *columns], param="segment", value=segment, width=220)

judged = queries.performance(found.endpoint, by=None if by == "all" else by, segment=None if segment == parts.ALL else segment)
if judged is None:
    parts.nothing_yet("No request was answered yet.", f"%mlops invoke {found.endpoint} --data X.head()")
    st.stop()
if not judged.labelled:
    parts.nothing_yet(f"None of {judged.answered:,} answers has a label yet.", f"%mlops labels {found.endpoint} --data df")
    st.stop()


def placed(groups: list[performance.Group]) -> list[performance.Group]:
    """Those of deployments on the target and hardware chosen; without a choice also of those withdrawn since."""
    everywhere = parts.ALL == parts.asked("target", otherwise=parts.ALL) == parts.asked("hardware", otherwise=parts.ALL)
    names = {d.name for d in parts.filtered(found.deployments)}
    return [group for group in groups if everywhere or group.deployment in names]


def show_lag(groups: list[performance.Group]) -> None:
    """How far behind labels are."""
    if not any(group.period for group in groups):
        return
    reached = max((group.period for group in groups if group.period and group.labelled), default=None)
    newest = max(group.period for group in groups if group.period)
    if reached is None:
        st.caption("None of these rows has a label yet.")
    elif reached < newest:
        st.caption(
            f"Labels reach to the {by} from {reached:%Y-%m-%d %H:%M}; answers go on to that from {newest:%Y-%m-%d %H:%M}, and are estimated where they can be."
        )
    else:
        share = sum(group.labelled for group in groups if group.period == newest) / max(sum(g.answered for g in groups if g.period == newest), 1)
        st.caption(f"Labels reach to the newest {by}, of which {share:.0%} of the rows have one.")
    parts.chart(figures.labelled(groups), key="labelled", alt="The share of rows that have a label, over time and by deployment")


def show_metric(groups: list[performance.Group]) -> None:
    """One measure over the groups, with its intervals, and its estimate."""
    names = list(dict.fromkeys(figure.metric for group in groups for figure in group.figures if figure.value is not None))
    if not names:
        return
    metric = parts.asked("metric", names, otherwise=names[0])
    parts.choose("Measure", names, param="metric", value=metric, width=220)
    words = f"{metric} per deployment with 95 % intervals, measured and estimated; the table below has the numbers"
    parts.chart(figures.performance(groups, metric), key="metric-over-time", alt=words)


def show_calibration(groups: list[performance.Group]) -> None:
    """Whether probabilities meant what they said."""
    curves = [group for group in groups if group.calibration]
    if not curves:
        st.caption("No calibration curve: the answers come without probabilities.")
        return
    parts.chart(figures.calibration(curves), key="calibration", alt="The share that came true by the probability that was said, with 95 % intervals")


def show_groups(groups: list[performance.Group]) -> None:
    """A row for each group."""
    skip = parts.skipped(len(groups), parts.page_number())
    parts.table([row_of(group) for group in groups[skip : skip + parts.ROWS]], alt="Measures with their counts per deployment, time and segment")
    parts.page_turner(len(groups), skip)


def row_of(group: performance.Group) -> dict[str, object]:
    """One group in words."""
    estimate = group.expected("accuracy")
    return {
        "deployment": group.deployment, "model": group.model, "from": f"{group.period:%Y-%m-%d %H:%M}" if group.period else "", "segment": group.segment,
        "labelled": group.labelled, "answered": group.answered, **{figure.metric: str(figure) for figure in group.figures},
        "estimated accuracy": str(estimate) if estimate else "", "estimate": group.estimated,
    }  # fmt: skip


groups = placed(judged.groups)
if not groups:
    parts.nothing_yet("No deployment on that target and hardware answered.", f"%mlops performance {found.endpoint}")
    st.stop()
labelled, answered = sum(group.labelled for group in groups), sum(group.answered for group in groups)
st.text(f"{labelled:,} of {answered:,} answered rows have a label")
left, right = st.columns([3, 2])
with left:
    show_metric(groups)
    show_lag(groups)
with right:
    st.subheader("Calibration", anchor=False)
    show_calibration(placed(queries.overall(found.endpoint)))
show_groups(groups)
for note in judged.notes:
    st.caption(f":material/info: {parts.plain(note)}")
