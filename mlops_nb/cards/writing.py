"""A card written as text, or as HTML in light and dark.

Nothing but `as_html` writes HTML, and it escapes every word it is given, so markup in a name or a tag is inert.
"""

from __future__ import annotations

from typing import Any

from ..safety import checked_url, text_for
from .card import SHAPES, Card, Link, Mark, Share, Table, oneline
from .kinds import card_of

_MOST_ROWS = 50


def as_text(thing: Any, *, prompt: str = "%mlops") -> str:
    """The card as plain text, aligned, with no markup and no colour."""
    card = thing if isinstance(thing, Card) else card_of(thing)
    head = "  ".join(part for part in (card.title, f"({card.kind})" if card.kind else "", str(card.mark or "")) if part)
    width = max((len(label) for label, _ in card.facts), default=0)
    facts = "\n".join(f"  {label:<{width}}  {oneline(value)}" for label, value in card.facts)
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


def _table_as_text(table: Table) -> str:
    rows = [[name.lstrip("#") for name in table.columns], *([oneline(cell) for cell in row] for row in table.rows[:_MOST_ROWS])]
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
        return f'<span class="mark {value.tone}"><span aria-hidden="true">{SHAPES[value.tone]}</span> {_safe(value.text)}</span>'
    if isinstance(value, Share):
        return f'<span class="share"><span style="width:{max(0.0, min(100.0, value.percent)):.0f}%"></span></span> {_safe(value)}'
    if isinstance(value, Link):
        return f'<a href="{_safe(checked_url(value.url))}" target="_blank" rel="noopener">{_safe(value.url)}</a>'
    return _safe(value)


def _safe(text: object) -> str:
    return text_for("html", text)


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
