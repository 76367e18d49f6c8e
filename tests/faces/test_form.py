"""The deploy form, by its widgets, in a real kernel."""

from __future__ import annotations

import ast
from typing import Any


def test_a_form_starts_with_what_was_given(kernel: Any) -> None:
    ran = kernel.ok("form = %mlops deploy delays@champion --form --traffic 20 --memory 512m\nprint(form.line)")

    assert ran.stdout == "%mlops deploy delays:1 --traffic 20 --memory 512m\n"


def test_words_that_no_field_shows_are_refused_rather_than_lost(kernel: Any) -> None:
    ran = kernel.run("%mlops deploy delays:1 --form --env REGION=eu --isolated --traffic 20")

    assert ran.traceback == ["UsageError: The form has no field for --isolated, --env.", "Try: say it without --form"]


def test_a_shown_form_leaves_html_that_needs_no_kernel(kernel: Any) -> None:
    ran = kernel.ok("%mlops deploy delays --form")
    live, still = ran.displays

    assert "application/vnd.jupyter.widget-view+json" in live
    assert "%mlops deploy delays" in live["text/html"]
    assert list(still) == ["text/plain", "text/html"]


def test_the_line_follows_the_fields(kernel: Any) -> None:
    kernel.ok("form = %mlops deploy --form\nform")
    ran = kernel.ok("form.fields['endpoint'].value = 'late'\nform.fields['version'].value = '2'\nprint(form.line)")

    assert ran.stdout == "%mlops deploy delays:2 --endpoint late\n"
    assert ran.updates[-1]["text/plain"] == "%mlops deploy delays:2 --endpoint late"


def test_each_mistake_is_told_under_its_field_and_turns_the_button_off(kernel: Any) -> None:
    kernel.ok("form = %mlops deploy delays:1 --form")
    kernel.ok("for name, text in dict(traffic='300', cpus='1000', memory_mb='lots', endpoint='a b').items():\n    form.fields[name].value = text")
    problems, messages, off, why = ast.literal_eval(
        kernel.ok("print((form.problems(), [form.messages[n].value for n in form.problems()], form.button.disabled, form.reason.value))").stdout
    )

    assert list(problems) == ["endpoint", "cpus", "memory_mb", "traffic"]
    assert "percentage from 0 to 100" in problems["traffic"]
    assert "this machine has" in problems["cpus"]
    assert all(messages)
    assert off
    assert why.startswith("Deploy is off. Endpoint: ")


def test_a_mended_field_turns_the_button_on_again(kernel: Any) -> None:
    kernel.ok("form = %mlops deploy delays:1 --form --traffic 20\nform.fields['traffic'].value = 'x'")
    ran = kernel.ok("form.fields['traffic'].value = '30'\nprint(form.button.disabled, [m.value for m in form.messages.values() if m.value])")

    assert ran.stdout == "False []\n"


def test_markup_typed_into_a_field_is_inert(kernel: Any) -> None:
    ran = kernel.ok("form = %mlops deploy --form\nform.fields['endpoint'].value = '<img src=x>'\nprint(form.messages['endpoint'].value)")

    assert "<img" not in ran.stdout
    assert "&lt;img" in ran.stdout


def test_the_button_carries_out_the_line_and_leaves_a_card(kernel: Any) -> None:
    kernel.ok("form = %mlops deploy delays:1 --form --endpoint delays\nform")
    ran = kernel.ok("form.button.click(); form.running.join()\nprint(form.failure, form.result.status, form.button.disabled)\nprint(form.progress.value)")

    assert ran.stdout.startswith("None healthy False\n")
    assert "✓ delays/1 is healthy" in ran.stdout
    assert "mlops-card" in ran.updates[-1]["text/html"]


def test_a_deploy_that_is_refused_says_why_below_the_form(kernel: Any) -> None:
    kernel.ok("form = %mlops deploy delays:2 --form --endpoint delays --as 1\nform")
    ran = kernel.ok("form.button.click(); form.running.join()\nprint(type(form.failure).__name__, form.button.disabled)")

    assert ran.stdout == "NameTaken False\n"
    assert "already runs delays:1" in ran.updates[-1]["text/plain"]


def test_a_workspace_without_models_says_what_to_do_first(kernel: Any, tmp_path: Any) -> None:
    ran = kernel.ok(f"form = %mlops --workspace {tmp_path} deploy --form\nprint(form.button.disabled, form.reason.value)")

    assert ran.stdout == "True Deploy is off. Model: no model is registered; %mlops register MODEL --name NAME\n"
