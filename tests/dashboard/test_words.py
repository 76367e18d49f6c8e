"""A user's words are only ever words: in Markdown, in tables, in a file for a spreadsheet."""

from __future__ import annotations

import re
import shlex
import sys

import a_busy_workspace
import pytest

from mlops_nb import commands, dashboards, grammar
from mlops_nb.cli import Terminal

PAGES = {
    "overview": {},
    "models": {"model": "vandal:1"},
    "lineage": {"root": "vandal:1"},
    "profiling": {"endpoint": "vandal"},
    "deployments": {"deployment": "vandal/1"},
    "rollout": {"endpoint": "vandal"},
    "drift": {"endpoint": "vandal", "feature": a_busy_workspace.MARKUP},
    "events": {},
    "targets": {},
    "fleet": {},
}


@pytest.fixture
def parts():
    sys.path.insert(0, str(dashboards.folder()))
    import parts

    return parts


@pytest.mark.parametrize("name", PAGES)
def test_markup_in_a_users_words_never_reaches_markdown_or_html(open_page, vandalised, name):
    page = open_page(name, **PAGES[name])

    assert not page.exception
    spoken = [element for kind in (page.markdown, page.caption, page.error, page.subheader, page.info, page.warning) for element in kind]
    assert not [element.value for element in spoken if re.search(r"(?<!\\)(<img|\*\*bold|\[click|:red\[red|\$x)", element.value)]
    assert not [element.value for element in spoken if getattr(element, "allow_html", False)]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("filled", ["busy", "workspace"])
def test_each_line_that_a_page_shows_can_be_said(request, open_page, filled, name):
    request.getfixturevalue(filled)
    shown = [code.value for code in open_page(name).code if code.value.startswith("%mlops ")]

    for line in (line for lines in shown for line in lines.splitlines()):
        grammar.parsed(commands.mlops, shlex.split(line.removeprefix("%mlops ")), Terminal(quiet=True))


def test_a_spreadsheet_takes_no_text_of_an_export_for_a_formula(parts):
    rows = [{"subject": text, "count": -3} for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "delays:2")]

    lines = parts.csv(rows).decode().splitlines()

    assert lines == ["subject,count", "'=1+1,-3", "'+1,-3", "'-1,-3", "'@SUM(A1),-3", "'\t=1,-3", "delays:2,-3"]


def test_text_that_was_made_plain_reads_the_same(parts):
    assert parts.plain("delays:2 **not bold** a_b") == r"delays\:2 \*\*not bold\*\* a\_b"


def test_every_status_has_a_shape_of_its_own_within_its_family(parts):
    statuses = ("healthy", "pending", "starting", "restarting", "unhealthy", "failed", "stopped")

    assert len({parts.MARKS[status][0] for status in statuses}) == len(statuses)
