"""Every model version: what it is, what made it, how it differs from another."""

from __future__ import annotations

import parts
import queries
import streamlit as st

from mlops_nb.fpga import figures

parts.header("Models", "Every registered version: what it is, what made it, and how it differs from another.")
text = parts.search("Search", param="q", placeholder="name, description or tag", icon=":material/search:")
found = queries.model_versions(text, chosen=parts.asked("model"), other=parts.asked("with"), page=parts.page_number())


def show_version(card: queries.Card) -> None:
    """One version, a tab per question."""
    version = card.version
    st.subheader(parts.plain(version.ref), anchor=False)
    if version.description:
        st.text(version.description)
    parts.links(("lineage", "What made it, what it reached", "account_tree", {"root": f"model:{version.ref}"}))
    about, signature, data, environment, made_by, files = st.tabs(["About", "Signature", "Data", "Environment", "Code", "Files"])
    with about:
        parts.facts(
            {
                "aliases": version.aliases,
                "metrics": version.metrics,
                "tags": version.tags,
                "flavor": version.flavor,
                "answered by": version.engine,
                "ONNX form": said_of_conversion(version.conversion),
                "many rows are quickest in": version.conversion.get("batch_engine"),
                "dataset": version.dataset,
                "environment": version.environment,
                "registered": version.created_at,
                "author": version.author,
                "size": f"{version.bytes:,} bytes",
                "content": f"sha256 {version.hash[:16]}…",
            }
        )
        show_conversion(version.conversion)
        show_fpga(version.conversion.get("fpga"))
        show_deployments(card)
    with signature:
        show_signature(version.signature)
    with data:
        show_data(card)
    with environment:
        show_environment(card)
    with made_by:
        show_code(card)
    with files:
        parts.table([{"file": f.path, "bytes": f.bytes, "sha256": f.sha256} for f in version.files], alt="The files of this version")


def said_of_conversion(report: dict) -> str:
    """How the ONNX form compares with the model itself, in a line."""
    if not report:
        return ""
    if "reason" in report:
        return f"none: {report['reason']}"
    sides = [("rows", report), ("rows beside its trees' thresholds", report.get("beside"))]
    spans = [f"{side['rows']:,} {where}, largest difference {parts.said(side.get('max_difference'))}" for where, side in sides if side]
    same = "same answers" if report.get("equal") else f"answers differ, {report.get('labels_differ', 0)} labels"
    made = f", {report['quantized_nodes']} operators in {report['quantized']}" if "quantized" in report else ""
    return f"{same} on {' and on '.join(spans)}{made}"


def show_conversion(report: dict) -> None:
    """How fast each form is, and the rows they answer differently."""
    if speed := report.get("speed"):
        st.caption("The model itself and its ONNX form, in milliseconds")
        rows = [{"rows": f["rows"], "threads": f["threads"], "itself": f["original_ms"], "ONNX": f["onnx_ms"], "ONNX is": f"×{f['ratio']:g}"} for f in speed]
        parts.table(rows, alt="Speed of the model and of its ONNX form")
    if differing := report.get("differing"):
        st.caption("Rows that the ONNX form answers differently")
        shown = [
            {"row": d["row"] if d["rows"] == "sample" else "beside a threshold"} | {side: parts.said(d[side]) for side in ("inputs", "original", "onnx")}
            for d in differing
        ]
        parts.table(shown, alt="Rows answered differently")


def show_fpga(form: dict | None) -> None:
    """The trade-off of its FPGA forms, as the emulation answered; what resources are estimates says so."""
    if not form:
        return
    st.caption(f"FPGA emulation: {parts.plain(form['described'])} for {parts.plain(form['part'])}")
    parts.chart(figures.trade_off(form), key="fpga", alt=figures.told(form))
    if may_be_off := figures.band(form["points"][0]["resources"]):
        st.caption(f":material/info: Resources and latency are estimates, no synthesis; one may be off by {may_be_off}.")
    rows = [
        {"precision": p["precision"], "chosen": "★" if p["precision"] == form["chosen"] else "", "alike": p["agreement"]["agreement"]}
        | {"largest error": p["agreement"]["max_error"]}
        | {name: p["resources"][name] for name in ("dsp", "lut", "ff", "bram", "latency_cycles")}
        | {"latency ns": p["resources"]["latency_cycles"] * p["resources"]["clock_ns"]}
        | {"resources from": p["resources"]["source"], "notes": "; ".join(p["notes"])}
        for p in form["points"]
    ]
    parts.table(rows, alt="The FPGA forms of this version")


def show_deployments(card: queries.Card) -> None:
    """Where this version runs, or the line that makes it run."""
    if not card.deployments:
        parts.nothing_yet("It runs nowhere.", f"%mlops deploy {card.version.ref} --endpoint {card.version.model}")
        return
    for d in card.deployments:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"{parts.coloured(d.status)} on {parts.plain(d.target)}, {parts.plain(parts.runs_on(d))}", width="content")
            st.page_link("views/deployments.py", label=parts.plain(d.ref), icon=":material/rocket_launch:", query_params={"deployment": d.ref})


def show_signature(signature: dict | None) -> None:
    """Columns in and out, and rows to try."""
    if not signature:
        st.caption("No signature: register it with --data to have requests checked.")
        return
    for side in ("inputs", "outputs"):
        st.caption(side.capitalize())
        columns = signature.get(side) or []
        rows = [{"name": c["name"], "type": c["type"], "shape": parts.said(c.get("shape")), "may be empty": bool(c.get("nullable"))} for c in columns]
        parts.table(rows, alt=f"The signature's {side}")
    if sample := signature.get("sample"):
        st.caption("First rows")
        st.json(sample, expanded=False)


def show_data(card: queries.Card) -> None:
    """The training data's columns, as they were when it was registered."""
    if not card.dataset:
        st.caption("Registered without --data.")
        return
    data = card.dataset
    st.caption(f"{parts.plain(data.ref)}: {data.rows:,} rows, {data.bytes:,} bytes, registered {parts.ago(data.created_at)}")
    if data.description:
        st.text(data.description)
    unique = "unique" if all("unique" in column for column in data.profile) else "approx_unique"
    wanted = ("column_name", "column_type", "min", "max", unique, "avg", "null_percentage")
    parts.table([{name: parts.said(column.get(name)) for name in wanted} for column in data.profile], alt=f"Profile of {data.ref}")


def show_environment(card: queries.Card) -> None:
    """The packages it was made with."""
    if not card.environment:
        st.caption("No environment recorded.")
        return
    env = card.environment
    st.caption(f"{parts.plain(env.ref)}: Python {parts.plain(env.python)} on {parts.plain(env.platform)}, {len(env.packages)} packages")
    rows = [{"package": p.name, "version": p.version, "imported by the model": p.direct} for p in sorted(env.packages, key=lambda p: (not p.direct, p.name))]
    parts.table(rows, alt=f"Packages of {env.ref}")


def show_code(card: queries.Card) -> None:
    """The cells that had been executed, and the state of the repository around them."""
    run = card.run
    if not run:
        st.caption("No run recorded.")
        return
    git = run.git
    state = f"{git.commit[:12]} on {git.branch}{', with uncommitted changes' * git.dirty}" if git else None
    parts.facts({"notebook": run.notebook, "by": f"{run.author}@{run.host}", "Python": run.python, "git": state, "started": run.started_at})
    if run.cells:
        st.code(queries.code(run), language="python", height=420 if len(run.cells) > 3 else "content")
    if git and git.diff:
        with st.expander("Uncommitted changes"):
            st.code(git.diff, language="diff")


def show_differences(one: queries.Card, two: queries.Card) -> None:
    """Only what is not the same."""
    rows = queries.differences(one, two)
    st.caption(f"{len(rows)} difference{'s' * (len(rows) != 1)} between {parts.plain(one.version.ref)} and {parts.plain(two.version.ref)}")
    if rows:
        parts.table(rows, alt="What differs between the two versions")
    if changed := queries.code_difference(one, two):
        st.caption("Code")
        st.code(changed, language="diff")


def choose_row() -> None:
    """A row was clicked: its version goes into the URL."""
    rows = st.session_state["versions"]["selection"]["rows"]
    if rows:
        st.query_params["model"] = found.versions[rows[0]].ref
        st.query_params.pop("with", None)


if not found.total and text:
    st.text(f"No version has {text!r} in its name, description or tags.")
    st.stop()
if not found.total:
    parts.nothing_yet("No model yet.", "%mlops register clf --name delays --data flights --metric auc=0.71")
    st.stop()
parts.table(
    [
        {
            "version": v.ref,
            "aliases": v.aliases,
            "metrics": parts.said(v.metrics),
            "tags": [f"{key}={value}" for key, value in v.tags.items()],
            "flavor": v.flavor,
            "dataset": v.dataset,
            "registered": parts.ago(v.created_at),
            "author": v.author,
        }
        for v in found.versions
    ],
    alt="Model versions, newest first",
    column_config={"tags": st.column_config.ListColumn(width="medium"), "aliases": st.column_config.ListColumn(width="small")},
    key="versions",
    on_select=choose_row,
    selection_mode="single-row",
)
parts.page_turner(found.total, found.skip)

if not found.card:
    st.stop()
ref = found.card.version.ref
first, second = st.columns(2)
with first:
    refs = list(dict.fromkeys([ref, *(v.ref for v in found.versions), *found.siblings]))
    parts.choose("Version", refs, param="model", value=ref)
with second:
    others = [sibling for sibling in found.siblings if sibling != ref]
    other = found.other.version.ref if found.other and found.other.version.ref in others else ""
    parts.choose("Compare with", ["", *others], param="with", value=other, format_func=lambda r: r or "nothing", disabled=not others)
if other and found.other:
    show_differences(found.other, found.card)
else:
    show_version(found.card)
