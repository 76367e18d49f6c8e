"""Whether requests still look like the data the model was trained on."""

from __future__ import annotations

import figures
import heat
import parts
import queries
import streamlit as st

from mlops_nb import monitoring

parts.header("Drift", "Whether requests still look like the data the model was trained on.")
found = queries.drift(parts.asked("endpoint"))
if not found.endpoint:
    parts.nothing_yet("No endpoint to watch yet.", "%mlops deploy delays:1 --endpoint delays", "%mlops drift delays")
    st.stop()

placed = {d.name for d in parts.filtered(found.deployments)}
everywhere = parts.ALL == parts.asked("target", otherwise=parts.ALL) == parts.asked("hardware", otherwise=parts.ALL)
asked = {check.id: {d.name for d in found.deployments if check.deployment in (None, d.name)} for check in found.checks}
checks = [check for check in found.checks if everywhere or (asked[check.id] and asked[check.id] <= placed)]
check = next((c for c in checks if c.id == parts.asked("check")), next(iter(checks), None))


def verdict_of(feature: monitoring.FeatureDrift) -> str:
    """In a word."""
    if feature.is_drift:
        return "silenced" if feature.silenced else "drift"
    return "not tested" if feature.test == "none" else "small change" if feature.is_small_change else "no drift"


def asked_of(check: queries.DriftCheck) -> list[queries.Deployment]:
    """The deployments whose requests were compared, as far as they are still there."""
    return [d for d in found.deployments if check.deployment in (None, d.name)]


def show_verdict(check: queries.DriftCheck, report: monitoring.DriftReport) -> None:
    """Drift or not, and between what and what."""
    where = f"{check.endpoint}/{check.deployment}" if check.deployment else f"all deployments of {check.endpoint}"
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"#### {parts.coloured(check.verdict)}")
        st.text(report.differing)
        if check.cost:
            st.text(f"What it costs: {check.cost}")
        st.text(f"{report.window.rows:,} requested rows ({where}) against {report.reference.rows:,} rows of {report.reference.dataset or check.dataset}")
        st.caption(parts.plain(f"{report.how}, {report.reference.kind}, checked {parts.ago(check.time)}"))
        for note in filter(None, [report.promise and f"It {report.promise}.", *report.notes]):
            st.caption(f":material/info: {parts.plain(note)}")


def show_features(features: list[monitoring.FeatureDrift]) -> None:
    """A row per feature, those that drift first."""
    skip = parts.skipped(len(features), parts.page_number())
    rows = [
        {
            "feature": feature.name,
            "of": feature.side,
            "verdict": parts.marked(verdict_of(feature)),
            "what changed": f"{feature.summary}{f' ({feature.silenced})' if feature.silenced else ''}",
            "effect": feature.effect,
            "p adjusted": feature.p_adjusted,
            "test": feature.test,
            "empty in data": feature.missing_reference * 100,
            "empty in requests": feature.missing_window * 100,
            "type": feature.type,
        }
        for feature in features[skip : skip + parts.ROWS]
    ]
    numbers = {name: st.column_config.NumberColumn(format="%.3g") for name in ("effect", "p adjusted")}
    numbers |= {name: st.column_config.NumberColumn(format="%.1f %%") for name in ("empty in data", "empty in requests")}
    texts = {"what changed": st.column_config.TextColumn(width="medium"), "feature": st.column_config.TextColumn(width=150)}
    parts.table(rows, alt="Verdict, effect size and test per feature, those that drift first", column_config=numbers | texts)
    parts.page_turner(len(features), skip)


def show_quality(found: list[monitoring.Finding]) -> None:
    """What is wrong with the data themselves, alarms first."""
    if not found:
        return
    st.markdown("**Data quality**")
    rows = [
        {
            "column": one.feature,
            "verdict": parts.marked("alert" if one.is_alarm else "noted"),
            "what": one.kind,
            "share": None if one.share is None else one.share * 100,
            "counts from": None if one.threshold is None else one.threshold * 100,
            "in words": one.words,
            "is": "kept within the budget" if one.by_chance else "a fact",
        }
        for one in found[: parts.ROWS]
    ]
    percent = {name: st.column_config.NumberColumn(format="%.1f %%") for name in ("share", "counts from")}
    parts.table(rows, alt="What is wrong with the data of the requests, alarms first", column_config=percent)


def show_causes(check: queries.DriftCheck) -> None:
    """Why it drifted, where that was asked for; the line that asks, and the report as a file."""
    found = queries.causes_of(check)
    if found:
        st.markdown("**Causes**")
        parts.card(found)
    elif check.is_drift:
        st.caption(f"Which rows, since when and at what cost: `%mlops causes {parts.plain(check.endpoint)}`")
    st.download_button(
        "Download report", data=lambda: queries.report_page(check), file_name=f"drift-{check.endpoint}.html", mime="text/html", icon=":material/download:",
        on_click="ignore",
    )  # fmt: skip


def show_one(features: list[monitoring.FeatureDrift]) -> None:
    """The chosen feature's distribution."""
    names = [feature.name for feature in features]
    name = parts.asked("feature", names, otherwise=names[0])
    parts.choose("Feature of this check", names, param="feature", value=name)
    words = "How the chosen feature was distributed in the training data and is in the requests"
    parts.chart(monitoring.distribution_figure(check, name), key="distribution", alt=words)


def show_check(check: queries.DriftCheck) -> None:
    """One check: every feature, what is wrong with the data, and why."""
    report = queries.report_of(check)
    if report.features:
        left, right = st.columns(2)
        with left:
            parts.chart(monitoring.figure(check), key="effects", alt="Effect size per feature; the table below has the numbers")
        with right:
            show_one(report.features)
        show_features(report.features)
    show_quality(report.quality)
    show_causes(check)


def show_checks() -> None:
    """Every check, newest first."""
    rows = [
        {
            "time": parts.said(c.time),
            "verdict": parts.marked(c.verdict),
            "deployment": c.deployment or "all",
            "target": ", ".join(sorted({d.target for d in asked_of(c)})),
            "hardware": ", ".join(sorted({parts.runs_on(d) for d in asked_of(c)})),
            "dataset": c.dataset,
            "engine": c.engine,
        }
        for c in checks[: parts.ROWS]
    ]
    parts.table(rows, alt=f"Drift checks of {found.endpoint}, newest first")


with st.container(horizontal=True, vertical_alignment="bottom"):
    parts.choose("Endpoint", found.endpoints, param="endpoint", value=found.endpoint, width=220)
    parts.choose_place(found.deployments)
    if check:
        titles = {c.id: f"{parts.said(c.time)} · {parts.marked(c.verdict)}" for c in checks}
        parts.choose("Check", list(titles), param="check", value=check.id, format_func=titles.__getitem__, width=340)

if check:
    show_verdict(check, queries.report_of(check))
else:
    parts.nothing_yet("Not checked yet." if everywhere else "Not checked on that target and hardware.", f"%mlops drift {found.endpoint}")

st.subheader("Features over time", anchor=False)
heat.show(found.endpoint, found.deployments)

if check:
    st.subheader(f"The check of {parts.said(check.time)}", anchor=False)
    show_check(check)
    st.subheader("All checks", anchor=False)
    parts.chart(figures.drift_over_time(checks), key="over-time", alt="How many features differed at each check")
    show_checks()
