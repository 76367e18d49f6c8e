"""Tab, asked of the kernel as JupyterLab asks it."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("%mlops de", ["%mlops delete", "%mlops deploy", "%mlops debug", "%mlops detectors"]),
        ("x = %mlops dep", ["x = %mlops deploy"]),
        ("a = 1\nmade = %mlops dataset re", ["a = 1\nmade = %mlops dataset register"]),
        ("%mlops datasets ; %mlops dep", ["%mlops datasets ; %mlops deploy"]),
        ("%%mlops\ndatasets\ndep", ["%%mlops\ndatasets\ndeploy"]),
        ("%mlops deploy --tr", ["%mlops deploy --traffic"]),
        ("%mlops deploy delays:", ["%mlops deploy delays:2", "%mlops deploy delays:1"]),
        ("%mlops deploy delays@", ["%mlops deploy delays@champion"]),
        ("%mlops deploy delays:1 --endpoint de", ["%mlops deploy delays:1 --endpoint delays"]),
        ("%mlops deploy delays:1 --to ", ["%mlops deploy delays:1 --to local"]),
        ("%mlops undeploy delays/", ["%mlops undeploy delays/1"]),
        ("%mlops traffic delays ", ["%mlops traffic delays 1="]),
        ("%mlops snooze delays --feature ", ["%mlops snooze delays --feature distance", "%mlops snooze delays --feature delay"]),
        ("%mlops acknowledge delays --feature di", ["%mlops acknowledge delays --feature distance"]),
        ("%mlops performance delays --segment de", ["%mlops performance delays --segment delay"]),
        ("%mlops endpoints k", ["%mlops endpoints key"]),
        ("%mlops endpoints key ", ["%mlops endpoints key delays"]),
        ("%mlops datasets fl", ["%mlops datasets flights"]),
        ("%mlops register clf --name n --data fligh", ["%mlops register clf --name n --data flights"]),
        ("%mlops register cl", ["%mlops register clf"]),
        ("%mlops invoke delays --data X.hea", ["%mlops invoke delays --data X.head"]),
        ("%mlops undeploy nothing_of_this_name", ["%mlops undeploy nothing_of_this_name"]),
        ("%mlops invoke delays --data lat", ["%mlops invoke delays --data late"]),
    ],
)
def test_tab_offers_what_can_stand_there(kernel: Any, typed: str, expected: list[str]) -> None:

    assert kernel.completed(typed)[: len(expected)] == expected


def test_what_a_drift_check_looked_at_is_offered_with_its_predictions_as_one_word(kernel: Any, terminal: Any) -> None:
    kernel.ok("%mlops invoke delays --data X")
    terminal.result("drift", "delays")

    offered = [line.removeprefix("%mlops snooze delays --feature ") for line in kernel.completed("%mlops snooze delays --feature ")]
    assert set(offered) >= {"distance", "delay", "'prediction label'"}


def test_a_model_name_is_offered_with_its_versions_and_aliases(kernel: Any) -> None:
    assert kernel.completed("%mlops deploy del") == [f"%mlops deploy {ref}" for ref in ("delays", "delays:2", "delays:1", "delays@champion")]


def test_files_are_offered_where_a_path_may_stand(kernel: Any, terminal: Any) -> None:
    (terminal.folder / "weights.onnx").write_bytes(b"")

    assert kernel.completed("%mlops register wei") == ["%mlops register weights.onnx"]


def test_python_lines_are_left_to_python(kernel: Any) -> None:
    assert "X.head" in kernel.completed("X.hea")


def test_asking_makes_no_store(kernel: Any, tmp_path: Any) -> None:
    kernel.completed(f"%mlops --workspace {tmp_path / 'empty'} deploy ")

    assert not (tmp_path / "empty").exists()
