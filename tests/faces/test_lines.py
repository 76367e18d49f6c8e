"""How a magic's line becomes words."""

from __future__ import annotations

import pytest

from mlops_nb.errors import UsageError
from mlops_nb.notebook.lines import commands, fragment_and_words

VALUES = {"name": "delays", "note": "late; \"very\" 'late' {name}", "n": 5, "x.shape[0]": 3}


def words(line: str) -> list[str]:
    (found,) = commands(line, VALUES.__getitem__)
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deploy delays:1 --traffic 10", ["deploy", "delays:1", "--traffic", "10"]),
        ("tag d note='a b' \"c d\"", ["tag", "d", "note=a b", "c d"]),
        ("invoke d --data X[['a', 'b']].head()", ["invoke", "d", "--data", "X[['a', 'b']].head()"]),
        ('invoke d --data df[df["a b"] < 4]', ["invoke", "d", "--data", 'df[df["a b"] < 4]']),
        ("register make(a, b=[1, 2]) --name z", ["register", "make(a, b=[1, 2])", "--name", "z"]),
        ("invoke d --data {'x': [1, 2]}", ["invoke", "d", "--data", "{'x': [1, 2]}"]),
        ("models --text ''", ["models", "--text", ""]),
        ("models --text a\\ b", ["models", "--text", "a b"]),
        ("models --text :-( --json", ["models", "--text", ":-(", "--json"]),
        ("models   # all of them", ["models"]),
        ("models --text C#", ["models", "--text", "C#"]),
    ],
)
def test_a_line_is_split_as_a_person_reads_it(line: str, expected: list[str]) -> None:
    assert words(line) == expected


@pytest.mark.parametrize("place", ["{name}", "$name", "${name}"])
def test_a_name_in_braces_or_after_a_dollar_is_replaced_by_its_value(place: str) -> None:
    assert words(f"deploy {place}:2") == ["deploy", "delays:2"]


def test_an_expression_in_braces_is_evaluated() -> None:
    assert words("models --text rows={x.shape[0]}") == ["models", "--text", "rows=3"]


def test_a_value_is_never_split_whatever_it_holds() -> None:
    assert words("register m --description {note}") == ["register", "m", "--description", VALUES["note"]]


def test_a_value_goes_into_quotes_and_brackets_too() -> None:
    assert words("invoke d --data X.head({n}) --tag 'n={n}'") == ["invoke", "d", "--data", "X.head(5)", "--tag", "n=5"]


def test_doubled_signs_stand_for_themselves() -> None:
    assert words("models --text {{name}} $$name") == ["models", "--text", "{name}", "$name"]


@pytest.mark.parametrize("text", ['{"a": {"b": {"c": [1]}}}', '{"data":[{"x":1}],"more":{"y":{}}}', "X.map({1: {2: 3}})", "a}}b"])
def test_braces_that_end_together_are_as_many_as_they_are(text: str) -> None:
    assert words(f"invoke d --data '{text}'")[-1] == text
    assert words(f"invoke d --data {text}".replace(", ", ","))[-1] == text.replace(", ", ",")


def test_doubled_braces_within_doubled_ones_are_as_many_as_were_meant() -> None:
    assert words("""models --text '{{"a": {{"b": 1}}}}' '}}'""") == ["models", "--text", '{"a": {"b": 1}}', "}}"]


def test_a_semicolon_divides_commands_with_and_without_the_prompt() -> None:
    found = commands("register m --name d ; %mlops deploy d:2 ; models --text 'a ; b'", VALUES.__getitem__)

    assert found == [["register", "m", "--name", "d"], ["deploy", "d:2"], ["models", "--text", "a ; b"]]


def test_an_open_quote_is_named() -> None:
    with pytest.raises(UsageError, match="quote is not closed"):
        words("tag d note='late")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ([], "")),
        ("de", ([], "de")),
        ("deploy ", (["deploy"], "")),
        ("models ; deploy del", (["deploy"], "del")),
        ("models ; ", ([], "")),
        ("tag 'a", None),
    ],
)
def test_the_fragment_before_the_cursor_is_told_from_the_finished_words(line: str, expected: object) -> None:
    assert fragment_and_words(line) == expected
