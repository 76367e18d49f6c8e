"""How things look to people: each noun becomes one `Card`, and a card is written as text or as HTML, light and dark.

Nothing but `as_html` writes HTML, and it escapes every word it is given, so markup in a name or a tag is inert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from .safety import checked_url, text_for

Tone = Literal["good", "bad", "warn", "idle"]
_SHAPES: dict[Tone, str] = {"good": "✓", "bad": "✗", "warn": "!", "idle": "○"}
_TONES: dict[str, Tone] = {"healthy": "good", "failed": "bad", "unhealthy": "bad", "restarting": "warn", "starting": "warn", "pending": "warn"}
_MOST_ROWS = 50


class Mark(msgspec.Struct, frozen=True):
    """A word with a tone: told by colour and by shape."""

    tone: Tone
    text: str

    def __str__(self) -> str:
        return f"{_SHAPES[self.tone]} {self.text}"


class Share(msgspec.Struct, frozen=True):
    """A percentage, drawn as a bar where there is room."""

    percent: float

    def __str__(self) -> str:
        return f"{self.percent:g} %"


class Link(msgspec.Struct, frozen=True):
    """An address on this machine that a browser can open."""

    url: str

    def __str__(self) -> str:
        return self.url


Cell = str | Mark | Share | Link


class Table(msgspec.Struct, frozen=True):
    """Columns and rows; numbers are set right where the heading says so with a leading `#`."""

    columns: list[str]
    rows: list[list[Any]]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a person needs to see of one thing."""

    title: str
    kind: str = ""
    mark: Mark | None = None
    facts: list[tuple[str, Any]] = []
    tables: list[Table] = []
    log: str = ""
    note: str = ""
    line: str = ""
    """A line to say next, without its prompt."""


def card_of(thing: Any) -> Card:
    """The card of anything a command gives back."""
    for kind in type(thing).__mro__:
        if draw := _CARDS.get(f"{kind.__module__}.{kind.__qualname__}"):
            return draw(thing)
    return _plain(thing)


def knows(thing: Any) -> bool:
    """Whether *thing* has a card of its own."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}" in _CARDS


def as_text(thing: Any, *, prompt: str = "%mlops") -> str:
    """The card as plain text, aligned, with no markup and no colour."""
    card = thing if isinstance(thing, Card) else card_of(thing)
    head = "  ".join(part for part in (card.title, f"({card.kind})" if card.kind else "", str(card.mark or "")) if part)
    width = max((len(label) for label, _ in card.facts), default=0)
    facts = "\n".join(f"  {label:<{width}}  {_oneline(value)}" for label, value in card.facts)
    tables = [_table_as_text(table) for table in card.tables if table.rows]
    line = f"Try: {prompt} {card.line}" if card.line else ""
    return "\n".join(part for part in (head, facts, *tables, card.log, card.note, line) if part)


def as_html(thing: Any, *, prompt: str = "%mlops") -> str:
    """The card as HTML that needs nothing else: it follows JupyterLab's or VS Code's theme, else the system's."""
    card = thing if isinstance(thing, Card) else card_of(thing)
    kind = f'<span class="kind">{_safe(card.kind)}</span>' if card.kind else ""
    parts = [f'<div class="head"><strong>{_safe(card.title)}</strong>{kind}{_cell(card.mark) if card.mark else ""}</div>']
    if card.facts:
        parts.append("<dl>" + "".join(f"<dt>{_safe(label)}</dt><dd>{_cell(value)}</dd>" for label, value in card.facts) + "</dl>")
    parts += [_table_as_html(table) for table in card.tables if table.rows]
    if card.log:
        parts.append("<pre>" + "\n".join(_safe(line) for line in card.log.splitlines()) + "</pre>")
    if card.note:
        parts.append(f"<p>{_safe(card.note)}</p>")
    if card.line:
        parts.append(f"<p>Try: <code>{_safe(f'{prompt} {card.line}')}</code></p>")
    return f'{_STYLE}<div class="mlops-card">{"".join(parts)}</div>'


def ago(moment: datetime, *, now: datetime | None = None) -> str:
    """`2 minutes ago`, for people."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 5:
        return "just now"
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def size(count: float) -> str:
    """`1.2 MB`, for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError  # pragma: no cover


# ── written ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _oneline(value: Any) -> str:
    return " ".join(str(value).split("\n"))


def _table_as_text(table: Table) -> str:
    rows = [[name.lstrip("#") for name in table.columns], *([_oneline(cell) for cell in row] for row in table.rows[:_MOST_ROWS])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    right = [name.startswith("#") for name in table.columns]
    lines = [
        "  " + "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(row, widths, right, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *_rest(table)])


def _rest(table: Table) -> list[str]:
    hidden = len(table.rows) - _MOST_ROWS
    return [f"  … and {hidden} more"] if hidden > 0 else []


def _table_as_html(table: Table) -> str:
    head = "".join(f'<th scope="col"{_aligned(name)}>{_safe(name.lstrip("#"))}</th>' for name in table.columns)
    rows = (
        "<tr>" + "".join(f"<td{_aligned(name)}>{_cell(cell)}</td>" for name, cell in zip(table.columns, row, strict=True)) + "</tr>"
        for row in table.rows[:_MOST_ROWS]
    )
    rest = "".join(f"<p>{_safe(line)}</p>" for line in _rest(table))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{rest}'


def _aligned(name: str) -> str:
    return ' class="number"' if name.startswith("#") else ""


def _cell(value: Any) -> str:
    if isinstance(value, Mark):
        return f'<span class="mark {value.tone}"><span aria-hidden="true">{_SHAPES[value.tone]}</span> {_safe(value.text)}</span>'
    if isinstance(value, Share):
        return f'<span class="share"><span style="width:{max(0.0, min(100.0, value.percent)):.0f}%"></span></span> {_safe(value)}'
    if isinstance(value, Link):
        return f'<a href="{_safe(checked_url(value.url))}" target="_blank" rel="noopener">{_safe(value.url)}</a>'
    return _safe(value)


def _safe(text: object) -> str:
    return text_for("html", text)


# A doubled class outweighs what JupyterLab says of tables and lists in outputs.
_STYLE = """<style>
.mlops-card{--fg:var(--jp-ui-font-color1,var(--vscode-editor-foreground,#1f2328));--soft:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#57606a));
--line:var(--jp-border-color2,var(--vscode-panel-border,#d0d7de));--tint:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#f6f8fa));
--good:#1a7f37;--bad:#c8102e;--warn:#8a5700;color:var(--fg);border:1px solid var(--line);border-radius:6px;padding:10px 14px;margin:4px 0;max-width:60em;
font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif)}
@media (prefers-color-scheme:dark){.mlops-card{--fg:var(--jp-ui-font-color1,var(--vscode-editor-foreground,#e6edf3));
--soft:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#9198a1));--line:var(--jp-border-color2,var(--vscode-panel-border,#3d444d));
--tint:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#151b23));--good:#3fb950;--bad:#ff7b72;--warn:#e3b341}}
body[data-jp-theme-light="true"] .mlops-card{--good:#1a7f37;--bad:#c8102e;--warn:#8a5700}
body[data-jp-theme-light="false"] .mlops-card,body.vscode-dark .mlops-card{--good:#3fb950;--bad:#ff7b72;--warn:#e3b341}
.mlops-card .head{display:flex;gap:10px;align-items:baseline;flex-wrap:wrap}.mlops-card .head strong{font-size:15px}.mlops-card .kind{color:var(--soft)}
.mlops-card.mlops-card dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:6px 0 0}
.mlops-card.mlops-card dt{color:var(--soft);width:auto;float:none;font-weight:400;white-space:nowrap}
.mlops-card.mlops-card dd{margin:0;width:auto;float:none;overflow-wrap:anywhere}
.mlops-card .wide{overflow-x:auto}
.mlops-card.mlops-card table{border-collapse:collapse;margin:8px 0 0;color:inherit;font-size:13px;table-layout:auto}
.mlops-card.mlops-card tr{background:none}
.mlops-card.mlops-card th,.mlops-card.mlops-card td{text-align:left;padding:3px 14px 3px 0;border-bottom:1px solid var(--line);background:none}
.mlops-card.mlops-card th{color:var(--soft);font-weight:500}
.mlops-card.mlops-card .number{text-align:right;font-variant-numeric:tabular-nums}.mlops-card .mark{white-space:nowrap}.mlops-card .good{color:var(--good)}
.mlops-card .bad{color:var(--bad)}.mlops-card .warn{color:var(--warn)}.mlops-card .idle{color:var(--soft)}
.mlops-card .share{display:inline-block;width:60px;height:8px;border:1px solid var(--line);border-radius:4px;overflow:hidden}
.mlops-card .share span{display:block;height:100%;background:var(--soft)}
.mlops-card pre{background:var(--tint);color:inherit;padding:8px;overflow-x:auto;margin:8px 0 0;font-size:12px}.mlops-card p{color:var(--soft);margin:6px 0 0}
.mlops-card code{background:var(--tint);color:inherit;padding:1px 4px;user-select:all}
</style>"""


# ── each noun's card ─────────────────────────────────────────────────────────────────────────────────────────────────


def _plain(thing: Any) -> Card:
    fields = msgspec.structs.asdict(thing) if isinstance(thing, msgspec.Struct) else thing if isinstance(thing, Mapping) else {"": thing}
    return Card(title=type(thing).__name__, facts=[(_words(name), _brief(value)) for name, value in fields.items()])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _brief(value: Any) -> str:
    if isinstance(value, datetime):
        return ago(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return _pairs(value)
    if isinstance(value, list | tuple):
        return ", ".join(_brief(item) for item in value[:8]) + (" …" if len(value) > 8 else "")
    return "" if value is None else str(value)


def _pairs(pairs: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in pairs.items())


def _given(*facts: tuple[str, Any]) -> list[tuple[str, Any]]:
    """Those facts that say something."""
    return [(label, value) for label, value in facts if value not in (None, "", [], {})]


def _status(word: str) -> Mark:
    return Mark(_TONES.get(word, "idle"), word)


def _facts(facts: Mapping[str, Any]) -> Card:
    (label, value), *rest = facts.items()
    return Card(title=f"{_words(label)}: {_brief(value)}", facts=[(_words(name), _brief(said)) for name, said in rest])


def _dashboard(dashboard: Any) -> Card:
    return Card(title="dashboard", mark=Mark("good", "running"), facts=[("url", Link(dashboard.url))])


def _key(key: Any) -> Card:
    return Card(title=key.endpoint, kind="endpoint key", note="Its .key is left out here, because a notebook is saved with what it shows.")


def _model_version(version: Any) -> Card:
    return Card(
        title=version.ref,
        kind="model version",
        facts=_given(
            ("flavor", f"{version.flavor}, served by {_ENGINES.get(version.engine, version.engine)}"),
            ("description", version.description),
            ("aliases", ", ".join(version.aliases)),
            ("tags", _pairs(version.tags)),
            ("metrics", _pairs(version.metrics)),
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


def _converted(converted: Any) -> Card:
    version = converted.version
    report = version.conversion
    rows = [[f"{f['rows']:,}", str(f["threads"]), f"{f['original_ms']:g}", f"{f['onnx_ms']:g}", f"×{f['ratio']:g}"] for f in report.get("speed", [])]
    sides = [side for side in (report, report.get("beside")) if side]
    return Card(
        title=version.ref,
        kind="model version",
        mark=Mark("good", "converted"),
        facts=_given(
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


def _converted_to_fpga(converted: Any) -> Card:
    version = converted.version
    form = version.conversion["fpga"]
    estimated = all(point["resources"]["source"] == "estimate" for point in form["points"])
    sizes = "estimated, not synthesised" if estimated else f"reported by {form['points'][0]['resources']['source']}"
    notes = [f"{point['precision']}: {note}" for point in form["points"] for note in point["notes"]]
    return Card(
        title=version.ref,
        kind="model version",
        mark=Mark("good", "emulated"),
        facts=_given(
            ("logic", f"{form['described']} ({form['kind']}, written by {form['by']})"),
            ("part", f"{form['part']}, reuse {form['reuse']}"),
            ("answers", f"of the bit-accurate emulation in C++, beside the float model's on {form['points'][0]['agreement']['rows']:,} rows"),
            ("resources", sizes),
            ("an estimate may be off", _band(form["points"][0]["resources"]["band"]) if estimated else ""),
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


def _band(band: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name.removesuffix('_cycles').upper()} ×{low:g} to ×{high:g}" for name, (low, high) in band.items())


def _percent(share: float) -> str:
    return f"{share:.2%}".replace(".00%", "%")


def _place(deployment: Any) -> str:
    """Where it runs, and on what where that is not the CPU alone; an emulation is named as one."""
    return deployment.target if deployment.hardware == "cpu" else f"{deployment.target}, {deployment.hardware}"


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


def _registered(registered: Any) -> Card:
    card = _model_version(registered.version)
    same = f"The very same bytes are registered as {registered.same_as}." if registered.same_as else ""
    return msgspec.structs.replace(card, mark=Mark("good", "registered"), note=" ".join(part for part in (same, registered.note) if part))


def _dataset_version(version: Any) -> Card:
    rows = [[c["column_name"], c["column_type"], *_spread_of(c)] for c in version.profile]
    return Card(
        title=version.ref,
        kind="data set",
        facts=_given(
            ("description", version.description),
            ("rows", f"{version.rows:,}"),
            ("size", size(version.bytes)),
            ("tags", _pairs(version.tags)),
            ("hash", version.hash[:12]),
            ("registered", f"{ago(version.created_at)} by {version.author}" if version.author else ago(version.created_at)),
        ),
        tables=[Table(["column", "type", "#missing", "#distinct", "#lowest", "#highest", "#mean"], rows)],
        line=f"register MODEL --name NAME --data {version.ref}",
    )


def _spread_of(column: Mapping[str, Any]) -> list[str]:
    missing = float(column.get("null_percentage") or 0)
    shorten = str if column["column_type"] == "VARCHAR" else _short  # "001" is no number
    spread = ("" if column.get(which) is None else shorten(column[which])[:24] for which in ("min", "max", "avg"))
    return [f"{missing:g} %", f"{column.get('approx_unique') or 0:,}", *spread]


def _short(value: Any) -> str:
    try:
        return f"{float(value):.5g}"
    except ValueError:
        return str(value)


def _answering(deployment: Any) -> Mark:
    """Its status, and that nothing was asked of it yet."""
    return Mark("warn", f"{deployment.status}, untried") if deployment.untried else _status(deployment.status)


_UNTRIED = "Nothing was asked of it yet: it came without rows to try it on, so nobody knows whether it answers."


def _deployed(deployed: Any) -> Card:
    return Card(
        title=deployed.deployment,
        kind="deployment",
        mark=_answering(deployed),
        note=_UNTRIED if deployed.untried else "",
        facts=_given(
            ("model", deployed.model),
            ("target", _place(deployed)),
            ("limits", deployed.limits),
            ("traffic", Share(deployed.traffic)),
            ("url", deployed.url),
        ),
        line="edge devices" if deployed.target == "edge" else f"invoke {deployed.endpoint if deployed.traffic else deployed.deployment} --data DATA",
    )


def _endpoint(view: Any) -> Card:
    rows = [[d.name, d.model, _answering(d), _taken(d), _place(d), ago(d.since)] for d in view.deployments]
    troubled = min((d for d in view.deployments if d.reason), key=lambda d: d.status == "healthy", default=None)
    return Card(
        title=view.name,
        kind="endpoint",
        facts=_given(("url", view.url), ("callers known by", view.sticky)),
        tables=[Table(["deployment", "model", "status", "traffic", "target", "since"], rows), *_loads(view.deployments)],
        log=_reason(troubled) if troubled else "",
        note="" if rows else "It has no deployment.",
        line=f"logs {view.name}/{troubled.name}" if troubled else "" if rows else f"deploy MODEL --endpoint {view.name}",
    )


def _loads(deployments: Sequence[Any]) -> list[Table]:
    """What each has to carry now, and had to in the last five minutes; nothing where nobody looked."""
    rows = [[d.name, *_load(d.load)] for d in deployments if d.load]
    columns = ["deployment", "#in flight", "#waiting", "#answered in 5 min", "#refused (429)", "#p99.9", "#cores", "#memory"]
    return [Table(columns, rows)] if rows else []


def _load(load: Any) -> list[Any]:
    in_flight = "" if load.in_flight is None else f"{load.in_flight} of {load.most}"
    waiting = "" if load.waiting is None else str(load.waiting)
    latency = "" if load.p999_ms is None else f"{load.p999_ms:,.3g} ms"
    cores = "" if load.cpus is None else f"{load.cpus:.2f}{f' of {load.cpus_limit:g} ({load.cpu_share:.0%})' if load.cpus_limit else ''}"
    of_limit = f" of {load.memory_limit_mb:,.0f} ({load.memory_share:.0%})" if load.memory_limit_mb else ""
    memory = "" if load.memory_mb is None else f"{load.memory_mb:,.0f}{of_limit} MB"
    return [in_flight, waiting, f"{load.window.requests:,}", f"{load.window.refused:,}", latency, cores, memory]


def _taken(deployment: Any) -> Any:
    """Its share of the requests; of a shadow, that it is sent copies."""
    return f"{deployment.traffic} % and copies of {deployment.copies} %" if deployment.copies else Share(deployment.traffic)


def _rollout(plan: Any) -> Card:
    given = [("steps", _steps(plan)), ("each lasts", f"{plan.every_seconds:,.0f} s" if plan.steps else ""), ("why", plan.why), ("", plan.reason)]
    due = [("next", f"{plan.next_time:%Y-%m-%d %H:%M:%S} UTC")] if plan.going and plan.status != "paused" else []
    rates, rows = _evidence(plan)
    return Card(
        title=f"{plan.endpoint}/{plan.deployment}" if plan.deployment else plan.endpoint, kind=plan.kind, mark=_status(plan.status),
        facts=_given(*given, *due, *rates), tables=[Table(["guard", "kept", "seen", "#evidence against it", "#rolls back at"], rows)],
        line="up" if plan.status == "paused" else f"rollouts cancel {plan.endpoint}" if plan.going else "",
    )  # fmt: skip


def _evidence(plan: Any) -> tuple[list[tuple[str, str]], list[list[Any]]]:
    """Of a canary that has looked: the error rates in words, and a row for each guard."""
    if plan.kind != "canary" or not plan.evidence.get("trail"):
        return [], []
    from . import canary_figures

    rows = []
    for one in canary_figures.judged(plan):
        against, level = one.words.split(" of ")
        rows.append([one.guard, Mark("bad", "violated") if one.violated else Mark("good", "so far" if plan.going else "yes"), one.seen, against, level])
    return [("error rates", canary_figures.rates_told(canary_figures.evidence_of(plan)))], rows


def _alert(rule: Any) -> Card:
    return Card(
        title=rule.condition, kind=f"alert {rule.id}", mark=_stands(rule),
        facts=_given(("endpoint", rule.endpoint), ("seen", rule.value), ("since", ago(rule.since) if rule.since else ""), ("watched by", rule.author)),
        line=f"alerts acknowledge {rule.id}" if rule.firing and not rule.quiet else "",
    )  # fmt: skip


def _stands(rule: Any) -> Mark:
    if rule.firing:
        return Mark("warn", f"seen by {rule.acknowledged}") if rule.acknowledged else Mark("warn" if rule.quiet else "bad", "fires")
    return Mark("idle", "snoozed") if rule.quiet else Mark("good", "quiet")


def _scraped(scraped: Any) -> Card:
    return Card(
        title="metrics", kind="for Prometheus", mark=Mark("good", "served"), facts=[("url", Link(scraped.url)), ("token in", scraped.token_file)],
        log=scraped.configuration, note="This goes below scrape_configs of Prometheus' configuration; docs/grafana.json is a dashboard of it.",
    )  # fmt: skip


def _steps(plan: Any) -> str:
    """`1 5 [25] 50 100`: the step reached is in brackets."""
    if plan.kind == "schedule":
        return " ".join(f"{name}={share}" for name, share in plan.settings["weights"].items())
    return " ".join(f"[{percent}]" if place == plan.step else str(percent) for place, percent in enumerate(plan.steps, start=1))


def _reason(deployment: Any) -> str:
    reason = deployment.reason
    which = "its last error was " if deployment.status == "healthy" else ""
    return f"{deployment.name}: {which}{reason.message}{f' ({reason.where})' if reason.where else ''}"


def _answer(answer: Any) -> Card:
    return Card(
        title=answer.endpoint,
        kind="answer",
        facts=_given(("answered by", answer.deployment), ("took", f"{answer.latency_ms:.1f} ms"), ("request", answer.request_id)),
        tables=_outputs(answer.outputs),
        note="" if isinstance(answer.outputs, Mapping) else _brief(answer.outputs),
    )


def _outputs(outputs: Any) -> list[Table]:
    """One row per scored row, where the answer is columns."""
    columns = outputs.get("outputs", outputs) if isinstance(outputs, Mapping) else None
    if not isinstance(columns, Mapping) or not columns or not all(isinstance(values, list) for values in columns.values()):
        return [Table(["output", "value"], [[name, _brief(value)] for name, value in columns.items()])] if isinstance(columns, Mapping) else []
    rows = [[_brief(value) for value in row] for row in zip(*columns.values(), strict=False)]
    return [Table([f"#{name}" for name in columns], rows)]


def _drift(check: Any) -> Card:
    report = check.report
    reference, window = report.get("reference", {}), report.get("window", {})
    features = sorted(report.get("features", []), key=lambda f: (not f.get("is_drift"), f.get("p_adjusted") if f.get("p_adjusted") is not None else 1))
    drifted = [str(f.get("name")) for f in features if f.get("is_drift")]
    rows = [
        [f.get("name"), _drift_verdict(f), f.get("test", ""), _p(f.get("p_adjusted")), _effect(f), f.get("silenced") or f.get("summary", "")] for f in features
    ]
    return Card(
        title=check.endpoint,
        kind="drift check",
        mark=_drift_mark(check, drifted, len(features)),
        facts=_given(
            ("requests", f"{window.get('rows', 0):,} rows {f'of {check.deployment}' if check.deployment else ''}".strip()),
            ("compared with", f"{check.dataset}, {reference.get('rows', 0):,} rows"),
            ("by", f"{check.engine}, alpha {report.get('alpha', 0):.4g}, {report.get('correction', '')}"),
            ("thresholds", report.get("promise", "")),
            ("checked", ago(check.time)),
        ),
        tables=[Table(["feature", "verdict", "test", "#p adjusted", "#effect", "what is seen"], rows), *_quality(report)],
        note=" ".join(str(note) for note in report.get("notes", [])),
    )


def _causes(causes: Any) -> Card:
    features = [[f.feature, f"{f.effect:.1%}", _began(f.began), f.summary] for f in causes.features]
    segments = [[s.feature, s.segment, *_among(s)] for s in causes.segments]
    examples = [[e.request, str(e.row), _clock(e.time), _brief(e.values)] for e in causes.examples]
    losses = [[loss.metric, "" if loss.before is None else f"{loss.before:.3g}", _interval(loss), loss.how] for loss in causes.losses]
    return Card(
        title=f"{causes.endpoint}/{causes.deployment}" if causes.deployment else causes.endpoint,
        kind="causes of drift",
        mark=Mark("warn", ", ".join(f.feature for f in causes.features[:3]) or "nothing by itself") if causes.is_drift else Mark("good", "no drift"),
        facts=_given(("began", _began(causes.began)), ("where", "; ".join(dict.fromkeys(s.segment for s in causes.segments)))),
        tables=[
            Table(["feature", "#moved", "since", "what is seen"], features),
            Table(["change of", "among", "is", "#of rows", "#moved there", "#moved elsewhere", "#p adjusted"], segments),
            Table(["measure", "#before", "#since (95 %)", "how"], losses),
            Table(["request", "#row", "time", "values"], examples),
        ],
        note=" ".join(causes.notes),
    )


def _among(segment: Any) -> list[str]:
    if segment.kind == "mix":
        return ["another mix", "", f"explains {segment.inside:.0%}", "", ""]
    return [segment.kind, f"{segment.rows:.1%}", f"{segment.inside:.1%}", f"{segment.outside:.1%}", _p(segment.p_adjusted)]


def _began(began: Any) -> str:
    if began is None:
        return ""
    if began.from_first:
        return f"{_clock(began.time)}, the first request kept"
    return f"{_clock(began.time)} ({_clock(began.low)} to {_clock(began.high)})"


def _interval(loss: Any) -> str:
    return f"{loss.since:.3g}" if loss.low is None else f"{loss.since:.3g} ({loss.low:.3g} to {loss.high:.3g})"


def _drift_mark(check: Any, drifted: Sequence[str], features: int) -> Mark:
    if check.is_drift:
        return Mark("warn", f"drift in {len(drifted)} of {features} features")
    faults = {str(finding.get("feature")) for finding in check.report.get("quality", []) if finding.get("is_alarm")}
    return Mark("warn", f"no drift, but {', '.join(sorted(faults))}: see data quality") if faults else Mark("good", "no drift")


def _drift_verdict(feature: Mapping[str, Any]) -> Mark:
    if feature.get("is_drift"):
        return Mark("idle", "drift, silenced") if feature.get("silenced") else Mark("warn", "drift")
    return Mark("good", "same, small change" if feature.get("is_small_change") else "same")


def _quality(report: Mapping[str, Any]) -> list[Table]:
    rows = [_finding(finding) for finding in report.get("quality", [])]
    return [Table(["column", "data quality", "kind", "#share", "#counts from", "alarms are", "what is seen"], rows)] if rows else []


def _finding(finding: Mapping[str, Any]) -> list[Any]:
    share, bound = finding.get("share"), finding.get("threshold")
    mark = Mark("bad", "alarm") if finding.get("is_alarm") else Mark("idle", "told")
    how = "within the budget" if finding.get("by_chance") else "a fact"
    shares = ["" if value is None else f"{value:.2%}" for value in (share, bound)]
    return [finding.get("feature"), mark, finding.get("kind"), *shares, how, finding.get("words", "")]


def _schedule(schedule: Any) -> Card:
    facts = _given(
        ("checks", schedule.words if " " not in schedule.words else f"{schedule.words} (UTC)"), ("next", _clock(schedule.next_time)),
        ("with", ", ".join(f"{name} {value}" for name, value in schedule.options.items())),
        ("latest", f"{schedule.outcome} ({ago(schedule.last_time)})" if schedule.last_time else ""), ("by", schedule.author),
    )  # fmt: skip
    return Card(title=schedule.endpoint, kind=f"schedule {schedule.id}", mark=_went(schedule), facts=facts, line=f"schedules delete {schedule.id}")


def _went(schedule: Any) -> Mark:
    outcome = schedule.outcome
    if not outcome:
        return Mark("idle", "not yet checked")
    return Mark("good", "no drift") if outcome == "no drift" else Mark("warn", "drift") if outcome.startswith("drift") else Mark("bad", "not made")


def _clock(time: Any) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _silence(silence: Any) -> Card:
    until = _clock(silence.until) if silence.until else "until it is over" if silence.kind == "acknowledged" else ""
    return Card(
        title=f"{silence.endpoint}: {silence.feature or 'all drift'}", kind="drift", mark=Mark("idle", silence.kind),
        facts=_given(("until", until), ("why", silence.why), ("by", silence.author)),
        line="" if silence.kind == "over" else f"snooze {silence.endpoint}{f' --feature {silence.feature!r}' if silence.feature else ''} --end",
    )  # fmt: skip


def _p(value: float | None) -> str:
    return "" if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _effect(feature: Mapping[str, Any]) -> str:
    effect = feature.get("effect")
    return "" if effect is None else f"{effect:.3f} {feature.get('effect_name', '')}".strip()


_PROFILED = {
    "hardware": "hardware", "cpus": "#cores", "batch": "#rows each", "rate": "#requests/s", "rows_per_second": "#rows/s", "p50_ms": "#p50 ms",
    "p95_ms": "#p95 ms", "p99_ms": "#p99 ms", "cpu_percent": "#CPU %", "memory_mb": "#memory MB", "peak_memory_mb": "#peak MB",
}  # fmt: skip


def _profile(profile: Any) -> Card:
    advice, settings = profile.advice, profile.settings
    rows = [[_figure(point.get(name)) for name in _PROFILED] for point in profile.points]
    cold = [point["cold_start_seconds"] for point in profile.points if point.get("cold_start_seconds")]
    kept = "" if profile.complete else "Not all of it is measured; --resume measures the rest. "
    return Card(
        title=profile.subject,
        kind="profile",
        mark=_verdict(profile),
        facts=_given(
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


def _hardware(one: Any) -> list[Any]:
    limits = ", ".join(filter(None, [f"{one.cores} cores" if one.cores else "", f"{one.memory_mb / 1000:.0f} GB" if one.memory_mb else ""]))
    return [one.name, Mark("good", "here") if one.available else Mark("idle", "not here"), one.provider, one.device, limits, one.reason]


def _figure(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _lineage(lineage: Any) -> Card:
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


def _event(event: Any) -> Card:
    return Card(
        title=event.type.removeprefix("mlops."), kind="event", facts=[("subject", event.subject), ("time", ago(event.time)), ("data", _brief(event.data))]
    )


def _labelled(labelled: Any) -> Card:
    taken = ", ".join(f"{name} from {column}" for name, column in labelled.columns.items())
    several = (
        f"{labelled.of_several_rows:,} belong to requests of several rows and were taken for the first; --row says which" if labelled.of_several_rows else ""
    )
    counts = [(name, getattr(labelled, name.replace(" ", "_"))) for name in ("new", "changed", "repeated", "duplicates", "unmatched", "without label")]
    return Card(
        title=f"{labelled.matched:,} of {labelled.given:,} labels belong to an answer", kind=f"labels of {labelled.endpoint}",
        mark=Mark("good", "kept") if labelled.matched else Mark("warn", "none belongs to an answer that is kept"),
        facts=_given(("taken", taken), *((name, f"{count:,}") for name, count in counts if count)), note=several, line=f"performance {labelled.endpoint}",
    )  # fmt: skip


def _replay(replay: Any) -> Card:
    kept = [Mark("good", promise) if held else Mark("bad", promise) for promise, held in replay.guards.items()]
    pace = f", sent at {replay.speed:g} times their pace" if replay.speed else ""
    late = f"95 % within {replay.late_ms:.3g} ms of when they were due" if replay.speed else ""
    mark = None if not kept else Mark("good", "keeps its guards") if replay.passed else Mark("bad", "a guard is violated")
    return Card(
        title=replay.ref, kind="replay", mark=mark,
        facts=_given(
            ("asked", f"{replay.requests:,} requests of {replay.endpoint}{f'/{replay.deployment}' if replay.deployment else ''}{pace}"),
            ("came", f"{replay.since:%Y-%m-%d %H:%M:%S} to {replay.until:%Y-%m-%d %H:%M:%S} UTC"), ("sent", late),
            ("left out", f"{replay.left_out:,} of which no inputs are kept" if replay.left_out else ""), *_compared(replay.comparison),
            ("first error", replay.first_error), ("guards", ", ".join(map(str, kept))),
        ),
        tables=_comparison_tables(replay.comparison), line=f"deploy {replay.ref} --endpoint {replay.endpoint} --traffic 0" if replay.passed else "",
    )  # fmt: skip


def _shadow_report(report: Any) -> Card:
    comparison = msgspec.to_builtins(report.comparison)
    return Card(
        title=f"{report.endpoint}/{report.deployment}", kind="shadow", facts=_given(*_compared(comparison)), tables=_comparison_tables(comparison),
        line=f"canary {report.endpoint}/{report.deployment}",
    )  # fmt: skip


def _compared(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Agreement and differences in words."""
    share, apart = found["agreement"], found["differences"]
    said = f"{share['value']:.2%} of {found['rows']:,} rows (95 %: {share['low']:.2%} to {share['high']:.2%})" if share["value"] is not None else ""
    spread = ", ".join(f"{name} {value:.3g}" for name, value in apart.items())
    return [("agreement", said), (f"{found['what']} apart", spread), ("labels", f"{found['labelled']:,} rows" if found["labelled"] else "")]


def _comparison_tables(found: Mapping[str, Any]) -> list[Table]:
    """Both sides, the segments where most differ, and the rows farthest apart."""
    sides = (found["before"], found["candidate"])
    rows = [["requests", *(f"{one['requests']:,}" for one in sides)], ["errors", *(f"{one['errors']:,}" for one in sides)]]
    rows += [[f"{name}, ms", *(f"{one[f'{name}_ms']:.3g}" for one in sides)] for name in ("p50", "p95", "p99")]
    told = [{figure["metric"]: figure for figure in one["figures"] if figure["value"] is not None} for one in sides]
    rows += [[name, *(f"{one[name]['value']:.4g} ({one[name]['low']:.4g} to {one[name]['high']:.4g})" for one in told)] for name in told[0] if name in told[1]]
    most = [one for one in found["segments"] if one["differ"]][:8]
    segments = [[one["segment"], f"{one['rows']:,}", f"{one['differ'] / one['rows']:.1%}", "more than elsewhere" if one["stands_out"] else ""] for one in most]
    differing = [[one["id"], str(one["row"]), _short(one["before"]), _short(one["candidate"]), _short(one["truth"] or "")] for one in found["differing"][:5]]
    return [
        Table(["", "#answered then", "#candidate"], rows),
        Table(["segment", "#rows", "#differ", ""], segments),
        Table(["request", "#row", "answered then", "candidate", "truth"], differing),
    ]


_MEASURES = {"classifier": ("auc", "accuracy", "precision", "recall", "f1", "log_loss", "brier", "ece"), "regressor": ("rmse", "mae", "r2", "bias")}


def _performance(found: Any) -> Card:
    kinds = [kind for kind in _MEASURES if any(group.kind == kind for group in found.groups)]
    single = found.groups[0] if len(found.groups) == 1 else None
    tables = [_figures_of(single)] if single else [_groups([group for group in found.groups if group.kind == kind], kind) for kind in kinds]
    return Card(
        title=f"{found.endpoint}{f'/{single.deployment}' if single else ''}", kind="performance",
        facts=_given(
            ("since", f"{found.since:%Y-%m-%d %H:%M} UTC" if found.since else ""), ("labelled", f"{found.labelled:,} of {found.answered:,} rows"),
            ("model", single.model if single else ""), ("estimate", single.estimated if single else ""),
        ),
        tables=tables, note=" ".join(["Ranges are 95 % confidence intervals."] * bool(found.labelled) + found.notes),
        line="" if found.labelled else f"labels {found.endpoint} --data df",
    )  # fmt: skip


def _figures_of(group: Any) -> Table:
    """A row for each measure of the only group, with its estimate."""
    rows = [[name, *_measured(group.figure(name)), _bare(group.expected(name))] for name in _MEASURES[group.kind]]
    return Table(["measure", "#value", "95 %", "#rows", "estimated where no label came"], [row for row in rows if row[1] or row[4]])


def _groups(groups: Sequence[Any], kind: str) -> Table:
    """A row for each group, with the measures that fit in."""
    names = _MEASURES[kind][:4] if kind == "classifier" else _MEASURES[kind]
    head = ["deployment", "from", "segment", "#labelled", "#answered", *names, *(["estimated accuracy"] if kind == "classifier" else [])]
    rows = [
        [
            group.deployment, f"{group.period:%Y-%m-%d %H:%M}".removesuffix(" 00:00") if group.period else "", group.segment, f"{group.labelled:,}",
            f"{group.answered:,}", *(_bare(group.figure(name)) for name in names), *([_bare(group.expected("accuracy"))] if kind == "classifier" else []),
        ]
        for group in groups
    ]  # fmt: skip
    return Table(head, rows)


def _measured(figure: Any) -> list[str]:
    return [f"{figure.value:.4g}", f"{figure.low:.4g} to {figure.high:.4g}", f"{figure.count:,}"] if figure else ["", "", ""]


def _bare(figure: Any) -> str:
    return str(figure) if figure else ""


def _serving(serving: Any) -> Card:
    rows = [[d.deployment, d.model, _status(d.status), Share(d.traffic), d.target] for d in serving.deployments]
    return Card(
        title=serving.endpoint,
        kind=f"as it was on {serving.time:%Y-%m-%d at %H:%M:%S} UTC",
        tables=[Table(["deployment", "model", "status", "traffic", "target"], rows)],
        note="" if rows else "Nothing served it then.",
        line=f"history {serving.endpoint}",
    )


def _rehearsal(rehearsal: Any) -> Card:
    rows = [[check.name, *_agreement(check), check.example] for check in rehearsal.checks]
    culprit = rehearsal.culprit
    seen = "; ".join(f"{_kind_of(one)} ({one.where})" for one in rehearsal.seen[:4])
    return Card(
        title=rehearsal.ref,
        kind="rehearsal",
        mark=Mark("good", "passed") if rehearsal.passed else Mark("bad", "failed"),
        facts=_given(
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


def _environment(environment: Any) -> Card:
    direct = [f"{p.name} {p.version}" for p in environment.packages if p.direct]
    return Card(
        title=environment.ref,
        kind="environment",
        facts=_given(
            ("python", environment.python),
            ("platform", environment.platform),
            ("imported", ", ".join(direct)),
            ("packages", f"{len(environment.packages)} in all"),
            ("hash", environment.hash[:12]),
            ("captured", ago(environment.created_at)),
        ),
        line=f"environments {environment.ref} --pip",
    )


def _package(package: Any) -> Card:
    of_base = f"{size(package.bytes - package.base_bytes)} on top of {size(package.base_bytes)}" if package.image else ""
    return Card(
        title=package.ref,
        kind="package",
        mark=Mark("good", "image built") if package.image else Mark("idle", "build context only"),
        facts=_given(
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


def _workspace(status: Any) -> Card:
    rows = [[f"{e.name}/{d.name}", d.model, _status(d.status), Share(d.traffic), e.url] for e in status.endpoints for d in e.deployments]
    return Card(
        title=status.workspace,
        kind="workspace",
        facts=_given(
            ("agent", Mark("good", "running") if status.agent else Mark("idle", "not running")),
            ("gateway", _gateway(status)),
            ("dashboard", Link(status.dashboard) if status.dashboard else Mark("idle", "not running")),
            ("models", str(status.models)),
            ("deployments", str(len(rows))),
        ),
        tables=[Table(["deployment", "model", "status", "traffic", "url"], rows)],
        line=("" if status.agent else "up") if rows else "deploy MODEL:VERSION" if status.models else "register MODEL --name NAME",
    )


def _gateway(status: Any) -> str | Mark:
    if status.gateway_trouble:
        return Mark("bad", status.gateway_trouble)
    answering = any(d.status in ("healthy", "unhealthy", "restarting") for e in status.endpoints for d in e.deployments)
    return "" if status.gateway.endswith(":0") else status.gateway if status.agent or answering else Mark("idle", f"not running ({status.gateway})")


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _listing(listing: Any) -> Card:
    count = len(listing)
    if not count:
        return Card(title=f"No {listing.what} yet", line=listing.line)
    name = f"{type(listing[0]).__module__}.{type(listing[0]).__qualname__}"
    columns, row = _ROWS.get(name, (None, None))
    if name == "mlops_nb.rollout.EndpointView":
        return _endpoints(listing)
    if name == "mlops_nb.store.rollouts.Rollout" and (shown := next((plan for plan in listing if plan.evidence.get("trail")), None)):
        latest = _rollout(shown)  # what the newest canary has seen, above the list
        table = Table(columns or [], [row(item) for item in listing] if row else [])
        return msgspec.structs.replace(latest, tables=[*latest.tables, table])
    if columns is None or row is None:
        fields = list(listing[0].__struct_fields__)
        columns, row = [_words(field) for field in fields], lambda item: [_brief(getattr(item, field)) for field in fields]
    return Card(title=f"{count} {listing.what}{'s' if count > 1 else ''}", tables=[Table(columns, [row(item) for item in listing])])


def _endpoints(listing: Sequence[Any]) -> Card:
    if len(listing) == 1:
        return _endpoint(listing[0])
    rows = [[e.name, d.name, d.model, _answering(d), Share(d.traffic), d.target] for e in listing for d in e.deployments]
    urls = [(e.name, e.url) for e in listing]
    return Card(title=f"{len(listing)} endpoints", facts=urls, tables=[Table(["endpoint", "deployment", "model", "status", "traffic", "target"], rows)])


_ROWS: dict[str, tuple[list[str], Callable[[Any], list[Any]]]] = {
    "mlops_nb.store.models.ModelVersion": (
        ["model", "aliases", "flavor", "metrics", "tags", "data", "registered"],
        lambda v: [v.ref, ", ".join(v.aliases), v.flavor, _pairs(v.metrics), _pairs(v.tags), v.dataset or "", ago(v.created_at)],
    ),
    "mlops_nb.store.datasets.DatasetVersion": (
        ["data set", "#rows", "#columns", "#size", "description", "registered"],
        lambda d: [d.ref, f"{d.rows:,}", str(len(d.schema)), size(d.bytes), d.description, ago(d.created_at)],
    ),
    "mlops_nb.store.environments.Environment": (
        ["environment", "python", "#packages", "imported", "captured"],
        lambda e: [e.ref, e.python, str(len(e.packages)), ", ".join(p.name for p in e.packages if p.direct), ago(e.created_at)],
    ),
    "mlops_nb.store.rehearsals.Rehearsal": (
        ["model", "rehearsal", "#rows", "#largest difference", "culprit", "time"],
        lambda r: [
            r.ref,
            Mark("good", "passed") if r.passed else Mark("bad", "failed"),
            f"{r.rows:,}",
            "" if r.max_difference is None else f"{r.max_difference:.2g}",
            str(r.culprit or ""),
            ago(r.time),
        ],
    ),
    "mlops_nb.store.replays.Replay": (
        ["candidate", "requests of", "#requests", "#agreement", "guards", "time"],
        lambda r: [
            r.ref,
            f"{r.endpoint}/{r.deployment}" if r.deployment else r.endpoint,
            f"{r.requests:,}",
            f"{1 - r.comparison['differ'] / r.comparison['rows']:.2%}",
            "" if not r.guards else Mark("good", "kept") if r.passed else Mark("bad", "violated"),
            ago(r.time),
        ],
    ),
    "mlops_nb.history.Change": (
        ["time (UTC)", "deployment", "model", "change", "by", "why"],
        lambda c: [f"{c.time:%Y-%m-%d %H:%M:%S}", c.deployment, c.model, f"split {c.what}" if not c.deployment else _status(c.what), c.author, c.why],
    ),
    "mlops_nb.store.rollouts.Rollout": (
        ["rollout", "endpoint", "deployment", "steps", "status", "why", "by", "started"],
        lambda r: [r.kind, r.endpoint, r.deployment, _steps(r), _status(r.status), r.reason or r.why, r.author, ago(r.created_at)],
    ),
    "mlops_nb.store.alerts.Rule": (
        ["alert", "endpoint", "condition", "is", "seen", "since", "watched by"],
        lambda r: [r.id, r.endpoint, r.condition, _stands(r), r.value, ago(r.since) if r.since else "", r.author],
    ),
    "mlops_nb.store.schedules.Schedule": (
        ["schedule", "endpoint", "when", "is", "latest", "checked", "next", "by"],
        lambda s: [s.id, s.endpoint, s.words, _went(s), s.outcome, ago(s.last_time) if s.last_time else "", _clock(s.next_time), s.author],
    ),
    "mlops_nb.store.packages.Package": (
        ["model", "image", "#on top of base", "base", "platform", "digest", "pushed", "made"],
        lambda p: [p.ref, p.image or "not built", size(p.bytes - p.base_bytes) if p.image else "", p.base, p.platform, p.digest[:19], p.pushed, ago(p.time)],
    ),
    "mlops_nb.fleet.devices.DeviceView": (
        ["device", "is", "runs", "state", "seen", "#requests", "#p95", "#queued", "#dropped", "drift", "why"],
        lambda d: [
            d.name,
            Mark("good", "online") if d.online else Mark("bad", "offline"),
            d.model,
            d.state,
            ago(d.seen_at) if d.seen_at else "never",
            f"{d.requests:,}",
            f"{d.p95_ms:.1f} ms" if d.p95_ms is not None else "",
            f"{d.queued:,}",
            f"{d.dropped:,}",
            d.drift,
            d.reason,
        ],
    ),
    "mlops_nb.hardware.Hardware": (["hardware", "is", "provider", "device", "limits", "why not"], _hardware),
    "mlops_nb.monitoring.detectors.Listed": (
        ["detector", "is", "what", "takes", "looks at", "reads", "tells", "licence", "to have it"],
        lambda d: [
            d.detector.name,
            Mark("good", "ready") if d.ready else Mark("idle", "not here"),
            d.detector.what,
            d.detector.takes,
            d.detector.looks,
            d.detector.reads,
            d.detector.tells,
            d.licence,
            d.lacks,
        ],
    ),
    "mlops_nb.store.events.Event": (
        ["time", "event", "subject", "data"],
        lambda e: [ago(e.time), e.type.removeprefix("mlops."), e.subject, _brief(e.data)[:80]],
    ),
}

_CARDS: dict[str, Callable[[Any], Card]] = {
    "mlops_nb.shapes.Listing": _listing,
    "mlops_nb.shapes.Facts": _facts,
    "mlops_nb.shapes.Key": _key,
    "mlops_nb.shapes.Dashboard": _dashboard,
    "mlops_nb.store.models.ModelVersion": _model_version,
    "mlops_nb.registry.Registered": _registered,
    "mlops_nb.converting.Converted": _converted,
    "mlops_nb.hls.ConvertedToFpga": _converted_to_fpga,
    "mlops_nb.store.datasets.DatasetVersion": _dataset_version,
    "mlops_nb.rollout.Deployed": _deployed,
    "mlops_nb.rollout.EndpointView": _endpoint,
    "mlops_nb.store.rollouts.Rollout": _rollout,
    "mlops_nb.store.alerts.Rule": _alert,
    "mlops_nb.scraping.Scraped": _scraped,
    "mlops_nb.rollout.WorkspaceStatus": _workspace,
    "mlops_nb.client.Answer": _answer,
    "mlops_nb.store.checks.DriftCheck": _drift,
    "mlops_nb.monitoring.causes.Causes": _causes,
    "mlops_nb.store.schedules.Schedule": _schedule,
    "mlops_nb.store.silences.Silence": _silence,
    "mlops_nb.store.checks.Profile": _profile,
    "mlops_nb.lineage.Lineage": _lineage,
    "mlops_nb.history.Serving": _serving,
    "mlops_nb.labels.Labelled": _labelled,
    "mlops_nb.performance.Performance": _performance,
    "mlops_nb.store.replays.Replay": _replay,
    "mlops_nb.agreement.ShadowReport": _shadow_report,
    "mlops_nb.store.events.Event": _event,
    "mlops_nb.store.environments.Environment": _environment,
    "mlops_nb.store.rehearsals.Rehearsal": _rehearsal,
    "mlops_nb.store.packages.Package": _package,
}
"""By full name, so that a card costs no import of what it shows."""
