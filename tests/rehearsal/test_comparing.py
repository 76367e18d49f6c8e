"""What counts as the same answer, and how one that is not is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mlops_nb.cards import as_html, as_text
from mlops_nb.errors import RehearsalFailed
from mlops_nb.rehearsing import comparing
from mlops_nb.store.rehearsals import Check, Culprit, Rehearsal

EVIL = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("got", "wanted"),
    [(1.0000001, 1.0), (1, 1.0), (2_000_000.5, 2_000_000.0), (None, None), ("late", "late"), ([0.1, 0.9], [0.1, 0.9]), ({"a": [1, None]}, {"a": [1, None]})],
)
def test_the_same(got: Any, wanted: Any):
    assert not comparing.compared("x", [{"y": got}], [{"y": wanted}], 1e-6).differ


@pytest.mark.parametrize(
    ("got", "wanted"),
    [(1.001, 1.0), (1_000_000_001, 1_000_000_000), (True, 1), (None, 0.0), ("1", 1), ("late", "on time"), ([0.1], [0.1, 0.9]), ([0.1, 0.8], [0.1, 0.9])],
)
def test_not_the_same(got: Any, wanted: Any):
    assert comparing.compared("x", [{"y": got}], [{"y": wanted}], 1e-6).differ == 1


def test_another_number_of_answers_is_told_as_such():
    check = comparing.compared("x", [{"y": 1}], [{"y": 1}, {"y": 2}], 1e-6)

    assert check.differ == 2 and check.example == "1 answers where there should be 2"


def test_a_card_and_an_error_keep_markup_inert():
    culprit = Culprit(kind="column", name=EVIL, why=EVIL, where=EVIL, fix=EVIL)
    rehearsal = Rehearsal(
        id="1", model="churn", version=3, passed=False, rows=2, compared_with="the registration", checks=[Check(name=EVIL, rows=2, differ=1, example=EVIL)],
        culprit=culprit, seen=[culprit], seconds=1.0, time=datetime.now(UTC),
    )  # fmt: skip

    assert "<img" not in as_html(rehearsal) and EVIL in as_text(rehearsal)
    assert RehearsalFailed(rehearsal).as_json()["rehearsal"]["culprit"]["name"] == EVIL
