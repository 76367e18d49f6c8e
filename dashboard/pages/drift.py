"""Whether requests still look like the data the model was trained on."""

from __future__ import annotations

import figures
import parts
import queries
import streamlit as st

from mlops_nb import monitoring

parts.header("Drift", "Whether requests still look like the data the model was trained on.")
found = queries.drift(parts.asked("endpoint"))
if not found.endpoint:
    parts.nothing_yet("No endpoint to watch yet.", "%mlops deploy delays:1 --endpoint delays", "%mlops drift delays")
    st.stop()

by_name = {d.name: d for d in found.deployments}
placed = {d.name for d in parts.filtered(found.deployments)}
everywhere = parts.ALL == parts.asked("target", otherwise=parts.ALL) == parts.asked("hardware", otherwise=parts.ALL)
checks = [check for check in found.checks if everywhere or check.deployment in placed]
check = next((c for c in checks if c.id == parts.asked("check")), next(iter(checks), None))
features = check.report.get("features", []) if check else []
strongest = sorted(features, key=lambda feature: (not feature.get("is_drift"), -abs(feature.get("effect") or 0)))


def show_verdict(check: queries.DriftCheck) -> None:
    """Drift or not, and between what and what."""
    report, hit = check.report, [feature["name"] for feature in features if feature.get("is_drift")]
    reference, window = report.get("reference", {}), report.get("window", {})
    with st.container(border=True):
        st.markdown(f"#### {parts.coloured('drift' if check.is_drift else 'no drift')}")
        st.text(f"{len(hit)} of {len(features)} features differ" + (f": {', '.join(hit[:8])}{' …' * (len(hit) > 8)}" if hit else ""))
        where = f"{check.endpoint}/{check.deployment}" if check.deployment else f"all deployments of {check.endpoint}"
        st.text(f"{window.get('rows', 0):,} requested rows ({where}) against {reference.get('rows', 0):,} rows of {check.dataset}")
        st.caption(
            f"{parts.plain(check.engine)}, α = {parts.said(report.get('alpha'))}, correction: {parts.plain(report.get('correction', 'none'))}, "
            f"checked {parts.ago(check.time)}"
        )
        for note in report.get("notes", []):
            st.text(f"Note: {note}")


def show_features() -> None:
    """A row per feature, the strongest first."""
    skip = parts.skipped(len(strongest), parts.page_number())
    rows = [
        {
            "feature": feature["name"],
            "verdict": parts.marked("drift" if feature.get("is_drift") else "no drift"),
            "effect": feature.get("effect"),
            "measured as": feature.get("effect_name"),
            "p adjusted": feature.get("p_adjusted"),
            "p": feature.get("p_value"),
            "test": feature.get("test"),
            "statistic": feature.get("statistic"),
            "type": feature.get("type"),
            "empty in data": feature.get("missing_reference"),
            "empty in requests": feature.get("missing_window"),
        }
        for feature in strongest[skip : skip + parts.ROWS]
    ]
    numbers = {name: st.column_config.NumberColumn(format="%.3g") for name in ("effect", "p adjusted", "p", "statistic", "empty in data", "empty in requests")}
    parts.table(rows, alt="Test, effect size and verdict per feature, strongest first", column_config=numbers)
    parts.page_turner(len(strongest), skip)


def show_checks() -> None:
    """Every check, newest first."""
    rows = [
        {
            "time": parts.said(c.time),
            "verdict": parts.marked("drift" if c.is_drift else "no drift"),
            "deployment": c.deployment or "all",
            "target": by_name[c.deployment].target if c.deployment in by_name else "",
            "hardware": by_name[c.deployment].spec.hardware if c.deployment in by_name else "",
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
        titles = {c.id: f"{parts.said(c.time)} · {parts.marked('drift' if c.is_drift else 'no drift')}" for c in checks}
        parts.choose("Check", list(titles), param="check", value=check.id, format_func=titles.__getitem__, width=340)

if not check:
    parts.nothing_yet("Not checked yet." if everywhere else "Not checked on that target and hardware.", f"%mlops drift {found.endpoint}")
    st.stop()

show_verdict(check)
if features:
    left, right = st.columns(2)
    with left:
        st.subheader("Effect per feature", anchor=False)
        parts.chart(monitoring.figure(check), key="effects", alt="Effect size per feature; the table below has the numbers")
    with right:
        names = [feature["name"] for feature in strongest]
        name = parts.asked("feature", names, otherwise=names[0])
        st.subheader("One feature, then and now", anchor=False)
        parts.choose("Feature", names, param="feature", value=name, label_visibility="collapsed")
        parts.chart(
            monitoring.distribution_figure(check, name), key="distribution", alt="Distribution of one feature in the training data and in the requests")  # fmt: skip
        summary = next((feature.get("summary") for feature in features if feature["name"] == name), None)
        if isinstance(summary, str):
            st.text(summary)
    st.subheader("Features", anchor=False)
    show_features()

st.subheader("Over time", anchor=False)
parts.chart(figures.drift_over_time(checks), key="over-time", alt="How many features differed at each check")
show_checks()
