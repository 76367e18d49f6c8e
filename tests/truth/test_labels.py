"""Labels find the answers they belong to, whenever and however they come."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_nb import cards, labels, performance, store, telemetry
from mlops_nb.errors import BadOption, EndpointNotFound, UnknownColumn
from mlops_nb.splits import COPY_MARK
from mlops_nb.store import events
from mlops_nb.telemetry import files
from mlops_nb.telemetry import labels as kept

from .conftest import Answered

Calls = Callable[..., pd.DataFrame]


def truths(deployment: str = "1") -> dict[tuple[str, int], str | None]:
    return {(id, int(row)): truth for one in kept.answers("delays", deployment=deployment) for id, row, truth in zip(one.id, one.row, one.truth, strict=True)}


def test_labels_are_joined_by_request_and_told_in_numbers(calls: Calls) -> None:
    given = calls(100)[["request_id", "late"]]

    added = labels.record("delays", pd.concat([given.head(40), pd.DataFrame({"request_id": ["nobody's"], "late": [1]})]))

    assert (added.given, added.matched, added.unmatched, added.new) == (41, 40, 1, 41)
    assert [truths()[(f"r{n}", 0)] for n in range(41)] == [str(value) for value in given["late"].head(40)] + [None]


def test_the_same_labels_again_change_nothing(calls: Calls) -> None:
    given = calls(50)[["request_id", "late"]]
    labels.record("delays", given)

    again = labels.record("delays", given)

    assert (again.new, again.changed, again.repeated) == (0, 0, 50)
    assert kept.count("delays") == 50


def test_of_several_labels_of_one_row_the_last_wins(calls: Calls) -> None:
    calls(3)
    labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1", "r0"], "late": [0, 0, 1]}))

    changed = labels.record("delays", pd.DataFrame({"request_id": ["r1"], "late": [1]}))

    assert (truths()[("r0", 0)], truths()[("r1", 0)], changed.changed) == ("1", "1", 1)


def test_labels_go_with_the_telemetry_that_is_kept_also_out_of_files_that_many_became(calls: Calls, monkeypatch) -> None:
    calls(1)
    clock = time.time_ns
    for day in range(90):
        monkeypatch.setattr(kept.time, "time_ns", lambda day=day: clock() + day * 86_400 * 10**9)
        labels.record("delays", pd.DataFrame({"request_id": [f"day {day}"], "late": [1]}))

    assert 30 <= kept.count("delays") <= 55


def test_a_label_given_twice_is_counted_as_a_duplicate(calls: Calls) -> None:
    calls(3)

    assert labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1", "r0"], "late": [0, 0, 1]})).duplicates == 1


def test_a_row_within_a_request_is_told_by_its_place(answered: Answered) -> None:
    answered.by("1", pd.DataFrame({"x": range(6)}), {"label": [0, 1, 0, 1, 0, 1]}, batch=3)

    labels.record("delays", pd.DataFrame({"request_id": ["r0", "r0", "r1"], "row": [0, 2, 1], "truth": [1, 0, 1]}))

    assert truths() == {("r0", 0): "1", ("r0", 1): None, ("r0", 2): "0", ("r1", 0): None, ("r1", 1): "1", ("r1", 2): None}


def test_labels_without_rows_of_requests_with_several_are_told(answered: Answered) -> None:
    answered.by("1", pd.DataFrame({"x": range(6)}), {"label": [0, 1, 0, 1, 0, 1]}, batch=3)

    assert labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1"], "truth": [1, 0]})).of_several_rows == 2


@pytest.mark.parametrize("truth", [[1, 0], [1.0, 0.0], ["1", "0"], [True, False]], ids=["int", "float", "text", "bool"])
def test_one_is_one_whatever_type_it_comes_in(answered: Answered, truth: list) -> None:
    answered.by("1", pd.DataFrame({"x": [1, 2]}), {"label": [1, 0]})

    labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1"], "truth": truth}))

    one = kept.answers("delays")[0]
    assert list(one.truth) == list(one.label) == ["1", "0"]


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_labels_come_from_files_too(calls: Calls, tmp_path: Path, ending: str) -> None:
    given, file = calls(20)[["request_id", "late"]], tmp_path / f"truth.{ending}"
    if ending == "csv":
        given.to_csv(file, index=False)
    elif ending == "parquet":
        given.to_parquet(file)
    else:
        given.to_json(file, orient="records")

    assert labels.record("delays", file).matched == 20


def test_text_labels_and_ids_keep_their_zeros_in_a_csv(answered: Answered, tmp_path: Path) -> None:
    answered.by("1", pd.DataFrame({"x": [1, 2]}), {"label": ["01", "02"]}, ids="00")
    (tmp_path / "truth.csv").write_text("request_id,truth\n000,01\n001,03\n")

    labels.record("delays", tmp_path / "truth.csv")

    assert truths() == {("000", 0): "01", ("001", 0): "03"}


def test_records_and_columns_are_tables_as_well(calls: Calls) -> None:
    calls(4)

    assert labels.record("delays", [{"request_id": "r0", "late": 1}, {"request_id": "r1", "late": 0}]).matched == 2
    assert labels.record("delays", {"request_id": ["r2"], "late": [1]}).matched == 1


def test_a_label_that_is_missing_is_left_out(calls: Calls) -> None:
    calls(4)

    added = labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1", None], "late": [1.0, np.nan, 1.0]}))

    assert (added.new, added.without_label) == (1, 2)


def test_labels_may_come_before_their_answers(answered: Answered, calls: Calls) -> None:
    answered.by("2", pd.DataFrame({"x": [1]}), {"label": [1]}, ids="other")
    early = labels.record("delays", pd.DataFrame({"request_id": ["r0"], "late": [1]}))

    calls(1)

    assert (early.unmatched, truths()[("r0", 0)]) == (1, "1")


def test_labels_stay_joined_when_telemetry_is_compacted(calls: Calls) -> None:
    labels.record("delays", calls(30)[["request_id", "late"]])
    before = truths()

    telemetry.compact()

    assert truths() == before
    assert None not in before.values()


def test_many_small_files_of_labels_become_few(calls: Calls) -> None:
    given = calls(30)
    for number in range(30):
        labels.record("delays", given.iloc[number : number + 1][["request_id", "late"]])

    assert len(kept._files("delays")) < 10
    assert kept.count("delays") == 30


def test_what_a_killed_writer_left_goes_with_the_next_labels_and_what_is_being_written_stays(calls: Calls) -> None:
    labels.record("delays", calls(2)[["request_id", "late"]].head(1))
    folder = files.folder("delays", "1").parent / "labels"
    left, written = folder / ".1.tmp", folder / ".2.tmp"
    for path in (left, written):
        path.touch()
    os.utime(left, (time.time() - 7200,) * 2)

    labels.record("delays", pd.DataFrame({"request_id": ["r1"], "late": [1]}))

    assert (left.exists(), written.exists()) == (False, True)


def test_a_shadows_answers_are_judged_by_the_labels_of_what_they_copy(answered: Answered, calls: Calls) -> None:
    given = calls(2)
    answered.by("twin", pd.DataFrame({"distance": [1.0], "carrier": ["AA"]}), {"label": [1]}, ids="x")
    folder = next(iter(answered._folder("twin").glob("closed-*")))
    folder.write_text(folder.read_text().replace('"x0"', '"r0~shadow"'))

    labels.record("delays", given[["request_id", "late"]])

    assert truths("twin") == {("r0", 0): str(given["late"][0])}


@pytest.mark.parametrize(("options", "missing"), [({"id": "reqest_id"}, "reqest_id"), ({"row": "line"}, "line"), ({"label": "lat"}, "lat")])
def test_an_unknown_column_is_refused_with_the_nearest(calls: Calls, options: dict, missing: str) -> None:
    with pytest.raises(UnknownColumn, match=missing):
        labels.record("delays", calls(3), **options)
    assert kept.count("delays") == 0


def test_a_label_that_could_be_any_of_several_columns_is_asked_for(calls: Calls) -> None:
    with pytest.raises(BadOption, match="Which of late, carrier is the label"):
        labels.record("delays", calls(3))


def test_rows_that_are_no_numbers_are_refused_before_anything_is_kept(calls: Calls) -> None:
    calls(3)
    with pytest.raises(BadOption, match="cannot be read"):
        labels.record("delays", pd.DataFrame({"request_id": ["r0"], "row": ["first"], "late": [1]}))
    assert kept.count("delays") == 0


@pytest.mark.parametrize("row", [0.5, -1, "1.5"])
def test_rows_that_can_be_no_place_are_refused_before_anything_is_kept(calls: Calls, row: float | str) -> None:
    calls(1)

    with pytest.raises(BadOption, match=f"1 of these labels belong to no row: their 'row' is {row}"):
        labels.record("delays", pd.DataFrame({"request_id": ["r0", "r0"], "row": [type(row)(0), row], "late": [1, 1]}))
    assert kept.count("delays") == 0


def test_an_endpoint_nobody_has_gets_no_labels(calls: Calls) -> None:
    calls(3)
    with pytest.raises(EndpointNotFound):
        labels.record("dealys", pd.DataFrame({"request_id": ["r0"], "late": [1]}))


def test_new_labels_are_an_event(calls: Calls) -> None:
    labels.record("delays", calls(5)[["request_id", "late"]])

    with store.reading() as tx:
        assert events.latest(tx, subject="delays")[0].data == {"new": 5, "changed": 0, "matched": 5}


def test_a_sample_is_of_the_same_requests_with_their_labels_in_lines_and_in_files(calls: Calls) -> None:
    labels.record("delays", calls(4000)[["request_id", "late"]])
    (lines,) = kept.answers("delays", most=200)

    telemetry.compact()
    (files,) = kept.answers("delays", most=200)
    (larger,) = kept.answers("delays", most=1300)

    assert sorted(lines.id) == sorted(files.id) and set(files.id) < set(larger.id)
    assert 140 < len(files) < len(larger) < 320 and files.of == larger.of == 4000
    assert files.labelled.all() and larger.labelled.all()
    assert (kept.answers("delays", most=1400)[0].of, len(kept.answers("delays", most=1400)[0])) == (0, 4000)


def test_a_sample_of_copies_is_of_the_same_requests(calls: Calls) -> None:
    calls(1000)
    calls(1000, deployment="2")
    (closed,) = telemetry.files.folder("delays", "2").glob("closed-*.jsonl")
    closed.write_text(re.sub(r'"id": "(r\d+)"', rf'"id": "\1{COPY_MARK}"', closed.read_text()))
    telemetry.compact()

    one, two = (sorted(kept.answers("delays", deployment=name, most=50)[0].id) for name in ("1", "2"))

    assert one == two and 20 < len(one) < 90


def test_a_performance_of_a_sample_says_so(calls: Calls) -> None:
    labels.record("delays", calls(2000)[["request_id", "late"]])

    judged, whole = performance.of("delays", most=100), performance.of("delays")

    assert judged.notes[0] == f"1 is judged by a sample: {judged.answered:,} of 2,000 answered rows." and judged.answered < 150
    assert judged.groups[0].figures[0].metric == whole.groups[0].figures[0].metric and not any("sample" in note for note in whole.notes)


def test_labels_of_another_kind_than_the_answers_are_told_with_both(calls: Calls) -> None:
    given = calls(40)[["request_id", "late"]]

    added = labels.record("delays", given.assign(late=given["late"].map({0: "benign", 1: "malignant"})))

    assert (added.matched, added.unlike) == (40, "labels are benign, malignant, answers are 0, 1")
    card = cards.as_text(added)
    assert "none is a value that delays answers" in card and "labels are benign, malignant, answers are 0, 1" in card and "✓" not in card


def test_one_word_for_a_number_tells_the_kind(answered: Answered) -> None:
    answered.by("1", pd.DataFrame({"x": [1]}), {"label": [0]})

    assert labels.record("delays", pd.DataFrame({"request_id": ["r0"], "truth": ["late"]})).unlike == "labels are late, answers are 0"


def test_a_class_that_was_not_answered_yet_is_no_other_kind(answered: Answered) -> None:
    answered.by("1", pd.DataFrame({"x": [1, 2]}), {"label": ["a", "a"], "probabilities": [[0.9, 0.1, 0.0], [0.8, 0.1, 0.1]]})

    assert labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1"], "truth": ["b", "c"]})).unlike == ""
    assert labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1"], "truth": ["a", "d"]})).unlike == ""


def test_words_are_unlike_the_numbers_of_a_regressor(answered: Answered) -> None:
    answered.by("1", pd.DataFrame({"x": [1, 2]}), {"prediction": [0.5, 1.5]})

    assert labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1"], "truth": ["low", "high"]})).unlike == "labels are high, low, answers are numbers"
    assert labels.record("delays", pd.DataFrame({"request_id": ["r0", "r1"], "truth": ["0.4", "high"]})).unlike == ""
