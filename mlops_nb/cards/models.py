"""Cards of what is made before anything serves: data sets, versions, conversions, profiles, packages, rehearsals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .card import Card, Mark, Table, ago, paired, shortened, size, those_given


def model_version(version: Any) -> Card:
    """A version: where it came from, what it takes and gives, and how it is computed."""
    return Card(
        title=version.ref,
        kind="model version",
        facts=those_given(
            ("flavor", f"{version.flavor}, served by {_ENGINES.get(version.engine, version.engine)}"),
            ("description", version.description),
            ("aliases", ", ".join(version.aliases)),
            ("tags", paired(version.tags)),
            ("metrics", paired(version.metrics)),
            ("data", version.dataset),
            ("environment", version.environment),
            ("conversion", _conversion(version.conversion)),
            ("speed", _speed(version.conversion)),
            ("FPGA", _fpga(version.conversion.get("fpga"))),
            ("inputs", _columns(version.signature, "inputs")),
            ("outputs", _columns(version.signature, "outputs")),
            ("files", f"{len(version.files)}, {size(version.bytes)}"),
            ("registered", f"{ago(version.created_at)} by {version.author}" if version.author else ago(version.created_at)),
        ),
        line=f"deploy {version.ref}",
    )


_ENGINES = {"onnxruntime": "ONNX Runtime", "python": "Python, as the object itself", "script": "its entry script"}


def _conversion(report: Mapping[str, Any]) -> str:
    if not report:
        return ""
    if report.get("reason"):
        return f"stays as it is: {report['reason']}"
    same = "the same answers" if report.get("equal") else "other answers"
    beside = f" and {report['beside']['rows']:,} beside its trees' thresholds" if "beside" in report else ""
    spans = [side.get("max_difference") or 0 for side in (report, report.get("beside", {}))]
    made = f" in {report['quantized']}" if "quantized" in report else ""
    return f"to {report.get('to', 'onnx').upper()}{made}: {same} on {report.get('rows', 0):,} rows{beside}, largest difference {max(spans):.2g}"


def _speed(report: Mapping[str, Any]) -> str:
    """How many times faster ONNX is, by rows, with the threads a server has."""
    figures = report.get("speed") or []
    most = max((figure["threads"] for figure in figures), default=0)
    times = [f"×{figure['ratio']:g} for {figure['rows']:,} row{'s' * (figure['rows'] > 1)}" for figure in figures if figure["threads"] == most]
    many = f"; many rows are quicker in {_ENGINES[report['batch_engine']]}" if report.get("batch_engine") != report.get("engine") else ""
    return f"ONNX is {', '.join(times)}{many}" if times else ""


def converted(converted: Any) -> Card:
    """What a conversion led to: equal or not, and how much faster."""
    version = converted.version
    report = version.conversion
    rows = [[f"{f['rows']:,}", str(f["threads"]), f"{f['original_ms']:g}", f"{f['onnx_ms']:g}", f"×{f['ratio']:g}"] for f in report.get("speed", [])]
    sides = [side for side in (report, report.get("beside")) if side]
    return Card(
        title=version.ref,
        kind="model version",
        mark=Mark("good", "converted"),
        facts=those_given(
            ("conversion", _conversion(report)),
            ("labels", " and ".join(f"{side['labels_differ']:,} of {side['rows']:,} differ" for side in sides)),
            ("made", _made(report)),
            ("single requests", f"answered by {_ENGINES.get(version.engine, version.engine)}"),
            ("many rows", f"quickest in {_ENGINES.get(report.get('batch_engine', ''), '')}"),
        ),
        tables=[Table(["#rows", "#threads", "#original, ms", "#ONNX, ms", "#ONNX is"], rows)],
        line=f"deploy {version.ref}",
    )


def _fpga(form: Mapping[str, Any] | None) -> str:
    """A version's FPGA form in a line."""
    if not form:
        return ""
    point = next(point for point in form["points"] if point["precision"] == form["chosen"])
    return f"{form['described']} in {form['chosen']}, answers {_percent(point['agreement']['agreement'])} of the rows alike in emulation"


def converted_to_fpga(converted: Any) -> Card:
    """The HLS projects by precision: accuracy of the emulation, and estimates."""
    from ..fpga import figures

    version = converted.version
    form = version.conversion["fpga"]
    estimated = all(point["resources"]["source"] == "estimate" for point in form["points"])
    sizes = "estimated, not synthesised" if estimated else f"reported by {form['points'][0]['resources']['source']}"
    notes = [f"{point['precision']}: {note}" for point in form["points"] for note in point["notes"]]
    return Card(
        title=version.ref,
        kind="model version",
        mark=Mark("good", "emulated"),
        facts=those_given(
            ("logic", f"{form['described']} ({form['kind']}, written by {form['by']})"),
            ("part", f"{form['part']}, reuse {form['reuse']}"),
            ("answers", f"of the bit-accurate emulation in C++, beside the float model's on {form['points'][0]['agreement']['rows']:,} rows"),
            ("resources", sizes),
            ("an estimate may be off", figures.band(form["points"][0]["resources"])),
            ("chosen", form["chosen"]),
        ),
        tables=[Table(_FPGA_COLUMNS, [_fpga_row(point, form["chosen"]) for point in form["points"]])],
        note=" · ".join(notes),
        line=f"deploy {version.ref} --to fpga",
    )


_FPGA_COLUMNS = ["precision", "#rows alike", "#largest error", "#right", "#DSP", "#LUT", "#FF", "#BRAM", "#ns"]


def _fpga_row(point: Mapping[str, Any], chosen: str) -> list[Any]:
    """One precision: how it answers, and what it takes."""
    agreement, takes = point["agreement"], point["resources"]
    right = next((f"{name} {agreement[name]:.3f} of {agreement[f'float_{name}']:.3f}" for name in ("auc", "accuracy", "r2") if agreement[name] is not None), "")
    figures = [f"{takes[name]:,}" for name in ("dsp", "lut", "ff", "bram")]
    alike = [_percent(agreement["agreement"]), f"{agreement['max_error']:.3g}", right]
    return [point["precision"] + (" ★" if point["precision"] == chosen else ""), *alike, *figures, f"{takes['latency_cycles'] * takes['clock_ns']:g}"]


def _percent(share: float) -> str:
    return f"{share:.2%}".replace(".00%", "%")


def _made(report: Mapping[str, Any]) -> str:
    """What the graph is, in a few words."""
    words = [f"operator set {report['opset']}", f"{size(report['bytes'])}"] if "opset" in report else []
    words += [f"{report['bits']}-bit floats"] if "bits" in report else []
    words += [f"{report['quantized_nodes']} operators in int8, {size(report['bytes_before'])} before"] if "quantized" in report else []
    words += [f"optimised: {report['optimized']}"] if "optimized" in report else []
    return ", ".join(words)


def _columns(signature: Mapping[str, Any] | None, which: str) -> str:
    columns = (signature or {}).get(which) or []
    told = [f"{column['name']} {column['type']}{'?' if column.get('nullable') else ''}" for column in columns]
    return ", ".join(told[:10]) + (f" and {len(told) - 10} more" if len(told) > 10 else "")


def registered(registered: Any) -> Card:
    """The version that was registered, with what is worth knowing of it."""
    card = model_version(registered.version)
    same = f"The very same bytes are registered as {registered.same_as}." if registered.same_as else ""
    return msgspec.structs.replace(card, mark=Mark("good", "registered"), note=" ".join(part for part in (same, registered.note) if part))


def dataset_version(version: Any) -> Card:
    """A data set: its rows, columns and how they are spread."""
    rows = [[c["column_name"], c["column_type"], *_spread_of(c)] for c in version.profile]
    return Card(
        title=version.ref,
        kind="data set",
        facts=those_given(
            ("description", version.description),
            ("rows", f"{version.rows:,}"),
            ("size", size(version.bytes)),
            ("tags", paired(version.tags)),
            ("hash", version.hash[:12]),
            ("registered", f"{ago(version.created_at)} by {version.author}" if version.author else ago(version.created_at)),
        ),
        tables=[Table(["column", "type", "#missing", "#distinct", "#lowest", "#highest", "#mean"], rows)],
        line=f"register MODEL --name NAME --data {version.ref}",
    )


def _spread_of(column: Mapping[str, Any]) -> list[str]:
    missing = float(column.get("null_percentage") or 0)
    shorten = str if column["column_type"] == "VARCHAR" else shortened  # "001" is no number
    spread = ("" if column.get(which) is None else shorten(column[which])[:24] for which in ("min", "max", "avg"))
    distinct = f"{column['unique']:,}" if "unique" in column else f"≈ {column.get('approx_unique') or 0:,}"
    return [f"{missing:g} %", distinct, *spread]


_PROFILED = {
    "hardware": "hardware", "cpus": "#cores", "batch": "#rows each", "rate": "#requests/s", "rows_per_second": "#rows/s", "p50_ms": "#p50 ms",
    "p95_ms": "#p95 ms", "p99_ms": "#p99 ms", "cpu_percent": "#CPU %", "memory_mb": "#memory MB", "peak_memory_mb": "#peak MB",
}  # fmt: skip


def profile(profile: Any) -> Card:
    """Latency and throughput by batch, and what is advised."""
    advice, settings = profile.advice, profile.settings
    rows = [[_figure(point.get(name)) for name in _PROFILED] for point in profile.points]
    cold = [point["cold_start_seconds"] for point in profile.points if point.get("cold_start_seconds")]
    kept = "" if profile.complete else "Not all of it is measured; --resume measures the rest. "
    return Card(
        title=profile.subject,
        kind="profile",
        mark=_verdict(profile),
        facts=those_given(
            ("model", f"{profile.model}:{profile.version}"),
            ("hardware", profile.hardware),
            *((f"{kind} is not here", reason) for kind, reason in settings.get("unavailable", {}).items()),
            ("environment", settings.get("environment")),
            ("not as it was made", ", ".join(settings.get("other_packages", [])[:4])),
            ("limits", settings.get("limits")),
            ("cold start", f"{max(cold):.1f} s" if cold else ""),
            *_advised(advice),
            ("measured", ago(profile.time)),
            ("how", advice.get("measured")),
        ),
        tables=[Table(list(_PROFILED.values()), rows)],
        note=kept + " ".join(advice.get("notes", [])),
        line="" if not advice.get("possible") or profile.endpoint else _deploy_line(profile),
    )


def _verdict(profile: Any) -> Mark | None:
    if not profile.advice:
        return None
    objective = profile.advice["objective"]
    if not profile.complete:
        return Mark("warn", "not complete")
    return Mark("good", f"{objective} can be kept") if profile.advice["possible"] else Mark("bad", f"{objective} cannot be kept")


def _advised(advice: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if not advice:
        return []
    if not advice["possible"]:
        return [("advice", advice["why"])]
    cores = f"{advice['cpus']} core{'s' if advice['cpus'] > 1 else ''}"
    rows = f"{advice['batch']:,} row{'s' if advice['batch'] > 1 else ''} a request"
    instances = f"{advice['instances']} instance{'s' if advice['instances'] > 1 else ''}"
    price = advice.get("price_per_million")
    return [
        ("advice", f"{instances} on {advice['hardware']} with {cores} and {advice['memory_mb']} MB, {rows}"),
        ("why", advice["why"]),
        ("price", "" if price is None else f"{price:.3g} for a million predictions"),
    ]


def _deploy_line(profile: Any) -> str:
    advice = profile.advice
    hardware = "" if advice["hardware"] == "cpu" else f" --hardware {advice['hardware']}"
    isolated = " --isolated" if profile.settings.get("environment") else ""
    return f"deploy {profile.subject} --cpus {advice['cpus']} --memory {advice['memory_mb']}m{hardware}{isolated}"


def hardware(one: Any) -> list[Any]:
    """A line of what this machine can or cannot compute with."""
    limits = ", ".join(filter(None, [f"{one.cores} cores" if one.cores else "", f"{one.memory_mb / 1000:.0f} GB" if one.memory_mb else ""]))
    return [one.name, Mark("good", "here") if one.available else Mark("idle", "not here"), one.provider, one.device, limits, one.reason]


def _figure(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def lineage(lineage: Any) -> Card:
    """What a thing was made of, and what was made of it."""
    labels = {node.id: (node.kind, node.label) for node in lineage.nodes}
    rows = [[*_node(labels, edge.source), edge.label, *_node(labels, edge.target)] for edge in lineage.edges]
    return Card(
        title=f"{len(lineage.nodes)} things, {len(lineage.edges)} links",
        kind="lineage",
        tables=[Table(["", "from", "", "", "to"], rows)] if rows else [Table(["", "thing"], [[n.kind, n.label] for n in lineage.nodes])],
        line="" if lineage.nodes else "register MODEL --name NAME",
    )


def _node(labels: Mapping[str, tuple[str, str]], id: str) -> tuple[str, str]:
    kind, label = labels.get(id, ("", id))
    return kind, label[:12] if kind == "run" else label


def rehearsal(rehearsal: Any) -> Card:
    """Whether a rebuilt version answers as the notebook had it, and the culprit where not."""
    rows = [[check.name, *_agreement(check), check.example] for check in rehearsal.checks]
    culprit = rehearsal.culprit
    seen = "; ".join(f"{_kind_of(one)} ({one.where})" for one in rehearsal.seen[:4])
    return Card(
        title=rehearsal.ref,
        kind="rehearsal",
        mark=Mark("good", "passed") if rehearsal.passed else Mark("bad", "failed"),
        facts=those_given(
            ("culprit", str(culprit) if culprit else ""),
            ("fix", culprit.fix if culprit else ""),
            ("environment", f"{rehearsal.environment}, rebuilt with {rehearsal.packages} packages" if rehearsal.packages else rehearsal.environment),
            ("compared with", f"the answers of {rehearsal.compared_with}" if rehearsal.compared_with else "itself: no answers were kept"),
            ("also depends on", seen),
            ("took", f"{rehearsal.seconds:.1f} s, {ago(rehearsal.time)}"),
        ),
        tables=[Table(["asked", "", "#rows", "#largest difference", "first that differs"], rows)],
        line=f"deploy {rehearsal.ref}" if rehearsal.passed else "",
    )


def _agreement(check: Any) -> list[Any]:
    mark = Mark("bad", f"{check.differ:,} differ") if check.differ else Mark("good", "same")
    return [mark, f"{check.rows:,}", "" if check.max_difference is None else f"{check.max_difference:.2g}"]


def _kind_of(one: Any) -> str:
    return one.why if one.kind == "cell" else f"{one.kind} {one.name}"


def environment(environment: Any) -> Card:
    """The packages a model needs."""
    direct = [f"{p.name} {p.version}" for p in environment.packages if p.direct]
    return Card(
        title=environment.ref,
        kind="environment",
        facts=those_given(
            ("python", environment.python),
            ("platform", environment.platform),
            ("imported", ", ".join(direct)),
            ("packages", f"{len(environment.packages)} in all"),
            ("hash", environment.hash[:12]),
            ("captured", ago(environment.created_at)),
        ),
        line=f"environments {environment.ref} --pip",
    )


def package(package: Any) -> Card:
    """A build context and its image."""
    of_base = f"{size(package.bytes - package.base_bytes)} on top of {size(package.base_bytes)}" if package.image else ""
    return Card(
        title=package.ref,
        kind="package",
        mark=Mark("good", "image built") if package.image else Mark("idle", "build context only"),
        facts=those_given(
            ("image", package.image),
            ("digest", package.digest[:19]),
            ("size", of_base),
            ("base", package.base),
            ("platform", package.platform),
            ("pushed", package.pushed),
            ("build context", package.folder),
            ("content", package.content[:12]),
            ("made", ago(package.time)),
        ),
        line=f"packages {package.ref}",
    )
