"""`%mlops` in a real kernel."""

from __future__ import annotations

import ast
from typing import Any

import pytest


def test_a_line_returns_what_it_made_and_shows_it_as_a_card(kernel: Any) -> None:
    ran = kernel.ok("%mlops models delays:1")

    assert "mlops-card" in ran.html
    assert ran.text.startswith("delays:1  (model version)")


def test_a_line_can_be_assigned_and_then_shows_nothing(kernel: Any) -> None:
    ran = kernel.ok("version = %mlops models delays@champion\nprint(type(version).__name__, version.ref)")

    assert ran.stdout == "ModelVersion delays:1\n"
    assert not ran.displays


def test_every_line_of_a_cell_shows_its_card(kernel: Any) -> None:
    ran = kernel.ok("%mlops datasets\nfor name in ['delays']:\n    %mlops models {name}\n%mlops endpoints")

    assert [shown["text/plain"].split("\n")[0] for shown in ran.displays] == ["1 data set", "2 model versions"]
    assert ran.text.startswith("delays  (endpoint)")


def test_a_line_with_a_trailing_semicolon_shows_nothing(kernel: Any) -> None:
    ran = kernel.ok("%mlops models ;")

    assert not ran.displays


def test_commands_on_one_line_are_carried_out_in_turn(kernel: Any) -> None:
    ran = kernel.ok("%mlops datasets ; %mlops models delays:2")

    assert ran.displays[0]["text/plain"].startswith("1 data set")
    assert ran.text.startswith("delays:2")


def test_a_cell_carries_out_each_of_its_lines(kernel: Any) -> None:
    ran = kernel.ok("%%mlops\n# what there is\ndatasets\nmodels delays:1")

    assert ran.displays[0]["text/plain"].startswith("1 data set")
    assert ran.text.startswith("delays:1")


def test_names_are_filled_in(kernel: Any) -> None:
    kernel.ok("name, number = 'delays', 1")

    assert kernel.ok("%mlops models {name}:$number").text.startswith("delays:1")


def test_a_name_local_to_a_function_is_filled_in(kernel: Any) -> None:
    assert kernel.ok("def show(local_name):\n    x = %mlops models {local_name}:2\n    return x.ref\nshow('delays')").text == "'delays:2'"


def test_a_data_set_is_meant_where_a_variable_has_its_name(kernel: Any) -> None:
    kernel.ok("flights = X.assign(late=late)")

    assert kernel.ok("%mlops register clf --name same_name --data flights\nv = %mlops models same_name:1\nv.dataset").text == "'flights:1'"
    kernel.ok("del flights\n%mlops delete same_name:1 --yes")


def test_an_undefined_name_is_named_and_nothing_is_done(kernel: Any) -> None:
    ran = kernel.run("%mlops deploy {nme}:1")

    assert ran.error == "UnknownVariable"
    assert ran.traceback[0] == "UnknownVariable: No variable named 'nme' in this notebook."


def test_a_mistake_is_two_lines_and_stops_the_cell(kernel: Any) -> None:
    ran = kernel.run("%mlops depoly delays:1\nprint('went on')")

    assert ran.traceback == ["UnknownCommand: %mlops has no command 'depoly'.", "Did you mean deploy?"]
    assert ran.stdout == ""


def test_a_misspelt_object_gets_the_nearest_name(kernel: Any) -> None:
    kernel.ok("flights_of_may = X")
    ran = kernel.run("%mlops dataset register may flights_of_mai")

    assert ran.traceback == ["UnknownVariable: No variable named 'flights_of_mai' in this notebook.", "Did you mean flights_of_may?"]


@pytest.mark.parametrize(
    "expression", ["X.head()", "X[X.delay > 0].head(5)", "X[['distance', 'delay']][:5]", "X.head({rows})", "{'distance': [1.0] * 5, 'delay': [0.5] * 5}"]
)
def test_rows_are_given_as_an_expression(kernel: Any, expression: str) -> None:
    kernel.ok("rows = 5")

    assert kernel.ok(f"answer = %mlops invoke delays --data {expression}\nlen(answer.outputs['label'])").text == "5"


def test_an_expression_that_fails_says_how(kernel: Any) -> None:
    ran = kernel.run("%mlops invoke delays --data X.heads()")

    assert ran.error == "BadExpression"
    assert "X.heads() raised AttributeError" in ran.traceback[0]


def test_json_gives_the_object_of_the_command_line(kernel: Any, terminal: Any) -> None:
    answer = ast.literal_eval(kernel.ok("answer = %mlops models delays:1 --json\nprint(answer)").stdout)

    assert answer == terminal.json("models", "delays:1")


def test_progress_is_one_output_that_ends_short(kernel: Any) -> None:
    ran = kernel.ok("made = %mlops dataset register flights X")

    assert len(ran.displays) == 1
    assert ran.updates[-1]["text/plain"].startswith("✓ flights:1 holds 200 rows · ")


def test_a_failed_step_is_marked_so(kernel: Any) -> None:
    ran = kernel.run("class NoModel: pass\nnothing = NoModel()\n%mlops register nothing --name nothing")

    assert ran.error == "NotAModel"
    assert ran.updates[-1]["text/plain"].startswith("✗ ")


@pytest.mark.parametrize("line", ["delete delays:2", "endpoints delete delays"])
def test_deleting_needs_yes(kernel: Any, line: str) -> None:
    ran = kernel.run(f"%mlops {line}")

    assert ran.error == "UsageError"
    assert ran.traceback[-1] == "Try: add --yes"


def test_a_key_is_not_shown_in_a_notebook_that_will_be_saved(kernel: Any, terminal: Any) -> None:
    key = terminal.result("endpoints", "key", "delays")["key"]
    ran = kernel.ok("key = %mlops endpoints key delays\nkey")

    assert key not in ran.text + ran.html
    assert kernel.ok("key.key").text == repr(key)


def test_help_is_text(kernel: Any) -> None:
    ran = kernel.ok("%mlops deploy --help")

    assert "  %mlops deploy delays:1 --endpoint delays" in ran.text
    assert "text/html" not in ran.result


def test_an_interrupted_command_leaves_the_notebook_usable(kernel: Any) -> None:
    ran = kernel.interrupted("%mlops logs delays/1 --follow", after="deployment.started")

    assert ran.error == "KeyboardInterrupt"
    assert kernel.ok("%mlops endpoints").text.startswith("delays")


def test_the_extension_can_be_loaded_again_and_taken_away(kernel: Any) -> None:
    kernel.ok("%reload_ext mlops_nb")
    assert len(kernel.ok("%mlops datasets\n%mlops datasets").displays) == 1

    kernel.ok("%unload_ext mlops_nb")
    try:
        assert kernel.ok("'mlops' in get_ipython().magics_manager.magics['line']").text == "False"
    finally:
        kernel.ok("%load_ext mlops_nb")
