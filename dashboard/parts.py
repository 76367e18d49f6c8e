"""What every page is made of.  The URL is the state: a choice is written there, and read from there, so a page can be shared.

A user's words reach the page only through `st.text`, tables, code blocks and `plain`.
"""

from __future__ import annotations

import csv as csv_format
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from mlops_nb import cards
from mlops_nb import targets as places
from mlops_nb.errors import MlopsError
from mlops_nb.safety import checked_url
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import Deployment, Reason

ROWS = 50
"""How many rows of a long table stand on one page of it."""

PERIODS = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}
MARKS = {
    "healthy": ("●", "green"),
    "healthy, untried": ("◐", "orange"),
    "pending": ("◌", "gray"),
    "starting": ("◔", "blue"),
    "restarting": ("↻", "orange"),
    "unhealthy": ("▲", "orange"),
    "failed": ("■", "red"),
    "stopped": ("○", "gray"),
    "drift": ("◆", "orange"),
    "no drift": ("●", "green"),
    "not tested": ("○", "gray"),
    "too few rows to tell": ("○", "gray"),
    "nothing was compared": ("○", "gray"),
    "small change": ("◇", "gray"),
    "noted": ("○", "gray"),
    "silenced": ("◈", "gray"),
    "alert": ("▲", "red"),
    "running": ("◔", "blue"),
    "held": ("▲", "orange"),
    "paused": ("‖", "gray"),
    "done": ("●", "green"),
    "rolled back": ("■", "red"),
    "cancelled": ("○", "gray"),
    "kept": ("●", "green"),
    "violated": ("■", "red"),
    "beyond, not proven": ("▲", "orange"),
}
"""A shape beside every colour, so that neither has to be told apart alone."""

_CARRIED = ("endpoint", "period", "target", "hardware")
"""Choices that go along from page to page."""


# ── around every page ────────────────────────────────────────────────────────────────────────────────────────────────


_TIDY = """<style>
[data-testid="stMainBlockContainer"] { padding: 3.2rem 2.5rem 3rem; }
[data-testid="stSidebarHeader"] { height: 2.2rem; margin-bottom: 0; }
[data-testid="stMain"] h1 { font-size: 2rem; padding-top: 0; }
[data-testid="stMain"] h2, [data-testid="stMain"] h3 { font-size: 1.25rem; }
[data-testid="stCaptionContainer"] { color: light-dark(#50535f, #c2c4cc); opacity: 1; }
[data-testid="stCode"] .token { color: light-dark(#30333d, #d5d7dd) !important; }
[data-testid="stCode"] .token:is(.string, .inserted, .inserted-sign, .inserted-sign .token) { color: light-dark(#0b6b43, #7ee2a8) !important; }
[data-testid="stCode"] .token:is(.keyword, .number, .boolean, .builtin, .function, .class-name) { color: light-dark(#1557b0, #8ab4f8) !important; }
[data-testid="stCode"] .token:is(.deleted, .deleted-sign, .deleted .token, .deleted-sign .token) { color: light-dark(#a61b1b, #ff9a9a) !important; }
[data-testid="stCode"] .token:is(.comment, .coord) { color: light-dark(#50535f, #c2c4cc) !important; }
</style>"""


def tidy() -> None:
    """Less room around a page than Streamlit leaves, headings of a size for reading, and small print with the contrast that WCAG asks for."""
    st.html(_TIDY)


def sidebar(groups: Mapping[str, Sequence[Any]]) -> None:
    """The workspace's name and the links, which take the choice of endpoint and period along."""
    carried = {name: st.query_params[name] for name in _CARRIED if name in st.query_params}
    with st.sidebar:
        st.markdown("#### :primary[:material/deployed_code:] mlops_nb")
        for group, pages in groups.items():
            if group:
                st.caption(group)
            for page in pages:
                st.page_link(page, query_params=carried, width="stretch")
        st.space("small")
        root = Workspace.current().root
        st.caption(f"Workspace  \n{plain('/'.join(root.parts[-2:]))}", help=plain(root))


def header(title: str, intro: str) -> None:
    """A page's name and the question it answers."""
    st.title(title, anchor=False)
    st.caption(intro)


def links(*targets: tuple[str, str, str, dict[str, str]]) -> None:
    """Links to other pages in a row: page, label (words of ours), icon and what the page shall show."""
    with st.container(horizontal=True):
        for page, label, icon, params in targets:
            st.page_link(f"views/{page}.py", label=label, icon=f":material/{icon}:", query_params=params)


def only_from_here() -> None:
    """Raises UnsafeUrl for a browser that came by a name which is not this machine's: a web page may have its own name lead here, to read along."""
    if host := st.context.headers.get("Host"):
        checked_url(f"http://{host}/", allowed_hosts=Workspace.current().settings().allowed_hosts)


def mistake(error: MlopsError) -> None:
    """An error of ours, in its two lines."""
    st.error(plain(str(error)), icon=":material/error:")
    if error.hint:
        st.text(f"Try: {error.hint}")


def nothing_yet(words: str, *lines: str) -> None:
    """An empty state: what is missing, and what to paste into a cell to have it."""
    with st.container(border=True):
        st.markdown(f":material/content_paste: **{words}**")
        st.caption("Paste into a notebook cell:")
        st.code("\n".join(lines), language=None)


# ── choices, kept in the URL ─────────────────────────────────────────────────────────────────────────────────────────


def asked(param: str, options: Iterable[str] | None = None, *, otherwise: str = "") -> str:
    """What the URL says for *param*; *otherwise* when it says nothing, or nothing that is among *options*."""
    value = st.query_params.get(param, "")
    return value if value and (options is None or value in options) else otherwise


def choose(label: str, options: Sequence[str], *, param: str, value: str, **shown: Any) -> None:
    """A list to choose from; the choice goes into the URL and the page runs again."""
    st.selectbox(label, list(options), key=_follow(param, value), on_change=_put, args=(param,), **shown)


def switch(label: str, options: Sequence[str], *, param: str, value: str, **shown: Any) -> None:
    """A few words side by side to choose from."""
    st.segmented_control(label, list(options), key=_follow(param, value), on_change=_put, args=(param,), required=True, **shown)


def search(label: str, *, param: str, **shown: Any) -> str:
    """A box for free text, and what it says."""
    value = asked(param)
    st.text_input(label, key=_follow(param, value), on_change=_put, args=(param,), **shown)
    return value


def period(otherwise: str = "1h") -> str:
    """The chosen stretch of time, a key of PERIODS."""
    return asked("period", PERIODS, otherwise=otherwise)


def since(chosen: str) -> datetime:
    """When a period, counted back from now, begins."""
    return datetime.now(UTC) - PERIODS[chosen]


def page_number() -> int:
    """Which page of a long table the URL asks for, from 1."""
    asked_for = asked("page", otherwise="1")
    return max(int(asked_for), 1) if asked_for.isascii() and asked_for.isdigit() and len(asked_for) < 9 else 1


def skipped(total: int, page: int) -> int:
    """How many of *total* rows stand on the pages before *page*, or before the last page there is."""
    return (min(page, max(1, math.ceil(total / ROWS))) - 1) * ROWS


def page_turner(total: int, skip: int) -> None:
    """Which rows these are of how many, and buttons to the ones before and after."""
    shown = f"{skip + 1:,}–{min(skip + ROWS, total):,} of {total:,}" if total else "none"
    if total <= ROWS:
        st.caption(shown)
        return
    page = skip // ROWS + 1
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Previous", icon=":material/chevron_left:", disabled=page == 1, on_click=_turn, args=(page - 1,), key="page-before")
        st.caption(shown, width="content")
        st.button("Next", icon=":material/chevron_right:", disabled=skip + ROWS >= total, on_click=_turn, args=(page + 1,), key="page-after")


def _follow(param: str, value: str) -> str:
    """The widget's key, its state made to say what the URL says."""
    key = f"choice-{param}"
    st.session_state[key] = value
    return key


def _put(param: str) -> None:
    value = st.session_state[f"choice-{param}"]
    if value:
        st.query_params[param] = value
    else:
        st.query_params.pop(param, None)
    st.query_params.pop("page", None)


def _turn(page: int) -> None:
    st.query_params["page"] = str(page)


# ── where it runs ────────────────────────────────────────────────────────────────────────────────────────────────────


ALL = "all"


def runs_on(deployment: Deployment) -> str:
    """What a deployment was asked to run on; of an emulation, that it is one."""
    return places.hardware(deployment)


def limits_of(deployment: Deployment) -> str:
    """What holds a deployment to its cores and memory; nothing when nothing does."""
    return places.limits(deployment)


def filtered(deployments: Sequence[Deployment]) -> list[Deployment]:
    """Those on the target and hardware that the URL names."""
    target, hardware = asked("target", otherwise=ALL), asked("hardware", otherwise=ALL)
    return [d for d in deployments if target in (ALL, d.target) and hardware in (ALL, runs_on(d))]


def choose_place(deployments: Sequence[Deployment]) -> None:
    """Lists of the targets and the hardware there are."""
    targets, kinds = sorted({d.target for d in deployments}), sorted({runs_on(d) for d in deployments})
    choose("Target", [ALL, *targets], param="target", value=asked("target", targets, otherwise=ALL), width=140)
    choose("Hardware", [ALL, *kinds], param="hardware", value=asked("hardware", kinds, otherwise=ALL), width=140)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain(text: object) -> str:
    """*text* with every mark that Markdown, Streamlit's directives or HTML would act on made inert, on one line."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def marked(status: str) -> str:
    """`● healthy`, for a table."""
    return f"{MARKS.get(status, ('·', 'gray'))[0]} {status}"


def coloured(status: str) -> str:
    """`● healthy` in its colour, for Markdown; *status* is a word of ours."""
    return f":{MARKS.get(status, ('·', 'gray'))[1]}[{marked(status)}]"


def one_line(reason: Reason | None) -> str:
    """Why, in one line: the user's own exception and its place."""
    if not reason:
        return ""
    said = next(iter(reason.message.splitlines()), "") or reason.kind
    return f"{said} ({reason.where})" if reason.where else said


def ago(time: datetime) -> str:
    """`8 s ago`, `3 min ago`, `2 h ago`, else the date."""
    seconds = max(0, int((datetime.now(UTC) - time).total_seconds()))
    if seconds < 60:
        return f"{seconds} s ago"
    if seconds < 3600:
        return f"{seconds // 60} min ago"
    return f"{seconds // 3600} h ago" if seconds < 48 * 3600 else f"{time:%Y-%m-%d}"


def said(value: Any) -> str:
    """A value of any kind, short, for a cell of a table of text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={said(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(said(item) for item in value)
    return "" if value is None else str(value)


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(rows: Sequence[Mapping[str, Any]], *, alt: str, column_config: Mapping[str, Any] | None = None, **shown: Any) -> Any:
    """Rows as a table whose words are only ever words; *alt* says what is in it.  A column called `status` or `verdict` gets its colours."""
    import pandas as pd

    config = {name: _status_column() for name in ("status", "verdict") if rows and name in rows[0]} | dict(column_config or {})
    frame = pd.DataFrame([{name: [value] if name in ("status", "verdict") else value for name, value in row.items()} for row in rows])
    return st.dataframe(frame, hide_index=True, alt=alt, column_config=config, placeholder="–", height="content" if len(rows) <= ROWS else "auto", **shown)


def _status_column() -> Any:
    words = {marked(status): colour for status, (_, colour) in MARKS.items()}
    return st.column_config.MultiselectColumn(options=list(words), color=list(words.values()), width=124)


def chart(figure: Any, *, key: str, alt: str) -> None:
    """A Plotly figure; *alt* says what it shows to those who cannot see it."""
    st.plotly_chart(figure, key=key, alt=alt, config={"displayModeBar": False})


def facts(pairs: Mapping[str, Any]) -> None:
    """Names (words of ours) and values, those without a value left out."""
    known = {name: plain(said(value)) for name, value in pairs.items() if value not in (None, "", [], {})}
    st.table([{"what": f"**{name}**", "is": value} for name, value in known.items()], hide_header=True, hide_index=True, border="horizontal", width="content")


def card(thing: Any) -> None:
    """What a notebook's card shows of *thing*, below its title."""
    card = cards.card_of(thing)
    facts({name: str(value) for name, value in card.facts})
    for shown in card.tables:
        names = [name.lstrip("#") for name in shown.columns]
        if shown.rows:
            rows = [dict(zip(names, map(str, row), strict=True)) for row in shown.rows[:ROWS]]
            table(rows, alt=f"{card.kind}: {', '.join(names)}")
    if card.note:
        st.caption(plain(card.note))


def csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows, their names words of ours, as CSV in which no text can act as a spreadsheet's formula.

    A leading = + - @ (or tab, or line end) gets an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv_format.DictWriter(out, fieldnames=list(rows[0]) if rows else ["time"])
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in row.items()} for row in rows)
    return out.getvalue().encode()


def _inert(value: Any) -> Any:
    if isinstance(value, int | float):
        return value
    text = said(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
