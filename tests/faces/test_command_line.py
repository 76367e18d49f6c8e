"""The command line: data on stdout, talk on stderr, exit codes, JSON."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest

from mlops_nb import commands, datasets, grammar, store
from mlops_nb.cli import Terminal
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments
from mlops_nb.store.deployments import Deployment, DeploymentSpec

# ── on an empty workspace ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_workspace_says_what_to_type_first(mlops: Any) -> None:
    done = mlops("models")

    assert (done.returncode, done.stdout) == (0, "No model version yet\nTry: mlops register MODEL --name NAME\n")


@pytest.mark.parametrize("words", [("--json", "models"), ("models", "--json"), ("models", "--tag", "a=b", "--json")])
def test_json_is_taken_anywhere_on_the_line(mlops: Any, words: tuple[str, ...]) -> None:
    assert json.loads(mlops(*words).stdout) == {"ok": True, "result": []}


def test_the_workspace_can_be_chosen_on_either_side_of_the_command(mlops: Any, tmp_path: Any) -> None:
    (tmp_path / "other").mkdir()
    before = mlops.result("--workspace", str(tmp_path / "other"), "status")
    after = mlops.result("status", "--workspace", str(tmp_path / "other"))

    assert before["workspace"] == after["workspace"] == str(tmp_path / "other")


@pytest.mark.parametrize("words", [("--workspace", "typo", "status"), ("models", "--workspace", "typo"), ("down", "--workspace", "typo")])
def test_a_workspace_that_is_not_there_is_not_made_by_looking(mlops: Any, tmp_path: Any, words: tuple[str, ...]) -> None:
    answered = mlops(*[str(tmp_path / word) if word == "typo" else word for word in words])

    assert answered.returncode == 3 and f"No workspace in {tmp_path / 'typo'}" in answered.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("words", "exit_code", "code", "hint"),
    [
        (["depoly"], 2, "UnknownCommand", "did you mean deploy?"),
        (["deploy", "a:1", "--trafic", "10"], 2, "UnknownOption", "did you mean --traffic?"),
        (["models", "--compare", "a:2"], 2, "UnknownOption", "mlops models --help"),
        (["causes", "delays", "--html", "x.html"], 2, "UnknownOption", "mlops causes --help"),
        (["deploy", "a:1", "--traffic", "300"], 2, "BadOption", "a whole number such as 10"),
        (["deploy", "a:1", "--traffic", "10%"], 3, "ModelNotFound", None),
        (["traffic", "delays", "1=half", "2=half"], 2, "BadOption", "whole percentages that sum to 100, such as 1=90 2=10"),
        (["traffic", "delays", "1=nan", "2=50"], 2, "BadOption", "whole percentages that sum to 100, such as 1=90 2=10"),
        (["traffic", "delays", "1=50%", "2=50%"], 3, "EndpointNotFound", None),
        (["traffic", "delays", "--at", "9999999d", "1=100"], 2, "BadOption", "2h, 7d or 2026-01-31T08:00"),
        (["agreement", "delays/1", "--since", "9999999d"], 2, "BadOption", "2h, 7d or 2026-01-31T08:00"),
        (["deploy", "a:0"], 2, "BadReference", "churn:3, churn@champion or churn (the newest)"),
        (["deploy", "a:1", "--to", "locl"], 2, "BadOption", "--to local"),
        (["deploy", "a:1", "--hardware", "gpx"], 2, "BadOption", "did you mean gpu?"),
        (["deploy", "a:1", "--memory", "lots"], 2, "BadOption", "512m or 2g"),
        (["deploy"], 2, "UsageError", "mlops deploy churn:3, or mlops deploy --form"),
        (["deploy", "--form"], 2, "UsageError", None),
        (["register", "m.onnx"], 2, "UsageError", None),
        (["endpoints", "kee", "delays"], 2, "UnknownCommand", "did you mean key?"),
        (["environments", "--pip"], 2, "UsageError", "mlops environments NAME --pip"),
        (["register", "missing.onnx", "--name", "m"], 3, "FileMissing", None),
        (["models", "nope"], 3, "ModelNotFound", "mlops models"),
        (["deploy", "score.py"], 3, "ModelNotFound", "mlops register FOLDER --name NAME --entry score.py, and then deploy NAME"),
        (["traffic", "nope"], 3, "EndpointNotFound", "mlops endpoints"),
        (["datasets", "nope"], 3, "DatasetNotFound", "mlops datasets"),
        (["events", "nope"], 3, "LineageRootNotFound", "mlops models"),
        (["traffic", "e", "1=50", "1=50"], 2, "UsageError", "mlops traffic e 1=100"),
    ],
)
def test_a_refusal_has_its_exit_code_and_one_json_object(mlops: Any, words: list[str], exit_code: int, code: str, hint: str | None) -> None:
    done = mlops(*words, "--json")
    told = json.loads(done.stdout)

    assert (done.returncode, told["ok"], told["code"]) == (exit_code, False, code)
    assert hint is None or told["hint"] == hint


def test_without_json_a_refusal_is_two_lines_of_talk(mlops: Any) -> None:
    done = mlops("models", "nope")

    assert done.stdout == ""
    assert done.stderr == "ModelNotFound: No model named 'nope'. Registered: none yet.\nTry: mlops models\n"


def test_an_option_without_its_value_is_a_json_refusal_too(mlops: Any) -> None:
    assert mlops.json("register", "m.onnx", "--name")["ok"] is False


def test_the_version_and_help_are_data(mlops: Any) -> None:
    assert mlops("--version").stdout.strip().count(".") == 2
    assert mlops("deploy", "--help").stdout.startswith("Usage: mlops deploy")
    assert mlops().stdout.startswith("Usage: mlops")


def test_a_data_set_is_registered_from_a_file(mlops: Any) -> None:
    (mlops.folder / "rows.csv").write_text("x,y\n1,2\n3,4\n")

    made = mlops.result("dataset", "register", "rows", "rows.csv", "--tag", "a=1", "b=2", "--description", "two rows")

    assert (made["name"], made["version"], made["rows"], made["tags"]) == ("rows", 1, 2, {"a": "1", "b": "2"})


def test_progress_is_talk(mlops: Any) -> None:
    (mlops.folder / "rows.csv").write_text("x,y\n1,2\n")

    done = mlops("dataset", "register", "rows", "rows.csv")

    assert "copying, hashing and profiling" in done.stderr
    assert done.stdout.startswith("rows:1  (data set)")


def coloured(mlops: Any, **env: str) -> str:
    """What a terminal gets to see of `mlops status`."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mlops_nb", "models", "nope"]
    subprocess.run(command, stdout=theirs, stderr=theirs, env={"TERM": "xterm"} | {k: v for k, v in mlops.env.items() if k != "NO_COLOR"} | env, check=False)
    os.close(theirs)
    seen = os.read(ours, 10_000).decode()
    os.close(ours)
    return seen


def test_a_terminal_gets_colour(mlops: Any) -> None:
    assert "\x1b[31m" in coloured(mlops, TERM="xterm")


def test_no_color_is_heeded(mlops: Any) -> None:
    assert "\x1b" not in coloured(mlops, TERM="xterm", NO_COLOR="1")


def test_the_shell_completes_commands(mlops: Any) -> None:
    mlops.env |= {"_MLOPS_COMPLETE": "bash_complete", "COMP_WORDS": "mlops de", "COMP_CWORD": "1"}

    assert mlops().stdout.split() == ["plain,delete", "plain,deploy", "plain,debug", "plain,detectors"]


# ── on a workspace with a model, a data set and an endpoint ──────────────────────────────────────────────────────────


def test_models_are_listed_with_what_scripts_rely_on(terminal: Any) -> None:
    newest, first = terminal.result("models", "delays")

    assert (first["name"], first["version"], first["aliases"], first["tags"], first["flavor"]) == ("delays", 1, ["champion"], {"team": "ops"}, "sklearn")
    assert first["created_at"].startswith("20")
    assert newest["version"] == 2


def test_models_are_found_by_tag_metric_and_text(terminal: Any) -> None:
    found = [terminal.result("models", *words) for words in (("delays", "--tag", "team=ops"), ("--metric", "auc>0.7"), ("--text", "ops"))]

    assert [[version["ref"] for version in versions] for versions in found] == [["delays:1"]] * 3


def test_one_version_is_one_object(terminal: Any) -> None:
    assert terminal.result("models", "delays@champion")["ref"] == "delays:1"


def test_endpoints_are_listed_with_what_scripts_rely_on(terminal: Any) -> None:
    (endpoint,) = terminal.result("endpoints")
    (deployment,) = [d for d in endpoint["deployments"] if d["name"] == "1"]

    assert endpoint["name"] == "delays"
    assert endpoint["url"].startswith("http://127.0.0.1:")
    assert (deployment["model"], deployment["target"], deployment["status"], deployment["traffic"]) == ("delays:1", "local", "healthy", 100)


def test_deploying_what_runs_already_answers_with_what_scripts_rely_on(terminal: Any) -> None:
    made = terminal.result("deploy", "delays:1", "--endpoint", "delays")

    assert {"endpoint", "deployment", "model", "target", "status", "url"} <= set(made)
    assert (made["endpoint"], made["deployment"], made["model"], made["status"]) == ("delays", "delays/1", "delays:1", "healthy")


def test_the_key_alone_is_printed(terminal: Any) -> None:
    key = terminal.result("endpoints", "key", "delays")["key"]

    assert terminal("endpoints", "key", "delays").stdout.strip() == key


@pytest.mark.parametrize("rows", ['[{"distance": 1.0, "delay": 2.0}]', '{"distance": [1.0], "delay": [2.0]}', '{"distance": 1.0, "delay": 2.0}'])
def test_rows_piped_in_as_json_are_answered(terminal: Any, rows: str) -> None:
    answer = terminal.result("invoke", "delays", "--data", "-", stdin=rows)

    assert (answer["deployment"], len(answer["outputs"]["label"])) == ("1", 1)


@pytest.mark.parametrize(
    ("name", "text"), [("rows.csv", "distance,delay\n1.0,2.0\n0.5,-3.5\n"), ("rows.json", '[{"distance": 1, "delay": 2}, {"distance": 0.5, "delay": -3.5}]')]
)
def test_rows_in_a_file_are_answered(terminal: Any, name: str, text: str) -> None:
    (terminal.folder / name).write_text(text)

    assert terminal.result("invoke", "delays", "--data", name)["outputs"]["label"] == [1, 0]


def test_what_a_model_takes_as_text_stays_text_in_a_csv_file(tmp_path: Any) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("code,it's\n001,12\n")

    assert datasets.read(file, text=["code", "other"]) == {"code": ["001"], "it's": [12]}
    assert datasets.read(file, text=["it's"])["it's"] == ["12"]


def test_data_that_is_not_json_is_refused(terminal: Any) -> None:
    assert terminal.json("invoke", "delays", "--data", "-", stdin="{nope")["code"] == "BadOption"


def test_a_deployed_version_is_busy(terminal: Any) -> None:
    done = terminal("delete", "delays:1", "--yes", "--json")

    assert (done.returncode, json.loads(done.stdout)["code"]) == (4, "VersionInUse")


def test_deleting_asks_and_keeps_the_version_where_nobody_can_be_asked(terminal: Any) -> None:
    done = terminal("delete", "delays:2", "--json")

    assert (done.returncode, json.loads(done.stdout)["hint"]) == (2, "add --yes")
    assert terminal.result("models", "delays:2")["version"] == 2


@pytest.mark.parametrize(("said", "exit_code", "left"), [("n", 2, True), ("y", 0, False)])
def test_a_person_at_a_terminal_is_asked_before_anything_is_deleted(terminal: Any, kernel: Any, said: str, exit_code: int, left: bool) -> None:
    ref = kernel.ok("made = %mlops register clf --name doomed\nprint(made.version.ref)").stdout.strip()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mlops_nb", "delete", ref]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=terminal.env) as asking:
        question = b""
        while b"[y/N]" not in question:
            question += os.read(ours, 1000)
        os.write(ours, said.encode() + b"\n")
        assert asking.wait(timeout=30) == exit_code
    os.close(theirs)
    os.close(ours)

    assert f"Delete {ref} and " in question.decode()
    assert terminal.json("models", ref)["ok"] is left


def test_an_endpoint_that_answers_callers_is_not_deleted_where_nobody_can_be_asked(terminal: Any) -> None:
    done = terminal("endpoints", "delete", "delays", "--json")
    told = json.loads(done.stdout)

    assert (done.returncode, told["hint"]) == (2, "add --yes")
    assert "1 (100 %)" in told["error"]
    assert terminal.result("endpoints")[0]["deployments"]


def test_a_name_close_to_a_known_one_is_suggested(terminal: Any) -> None:
    assert [terminal.json(*words)["hint"] for words in (("models", "delay"), ("traffic", "delyas"), ("datasets", "flight"))] == [
        "did you mean delays?",
        "did you mean delays?",
        "did you mean flights?",
    ]


def test_an_environment_comes_as_a_requirements_and_as_a_conda_file(terminal: Any) -> None:
    name = terminal.result("environments")[0]["ref"]

    assert "scikit-learn==" in terminal("environments", name, "--pip").stdout
    assert "dependencies:" in terminal("environments", name, "--conda").stdout


def test_a_followed_log_ends_with_ctrl_c_as_130(terminal: Any) -> None:
    command = [sys.executable, "-m", "mlops_nb", "logs", "delays/1", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=terminal.env) as following:
        assert "deployment.started" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=20) == 130


def test_a_reader_that_goes_away_is_no_failure(terminal: Any) -> None:
    script = f"{sys.executable} -m mlops_nb events --most 100 | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=terminal.env, check=True)

    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_data_that_is_no_text_is_told_as_such(mlops: Any, tmp_path: Any) -> None:
    (tmp_path / "bad.json").write_bytes(b'{"data": "\xff"}')

    by_file = mlops("invoke", "delays", "--data", "bad.json", "--json")
    by_input = subprocess.run(
        [sys.executable, "-m", "mlops_nb", "invoke", "delays", "--data", "-", "--json"], input=b"\xff", capture_output=True, env=mlops.env
    )

    assert (by_file.returncode, json.loads(by_file.stdout)["code"]) == (2, "BadOption")
    assert "not text in UTF-8" in json.loads(by_file.stdout)["error"]
    assert (by_input.returncode, json.loads(by_input.stdout)["code"]) == (2, "UsageError")


def test_an_option_after_several_pairs_is_no_pair() -> None:
    words = ["deploy", "delays:2", "--env", "A=1", "B=2", "--traffic=10", "--endpoint=delays"]

    given = grammar.parsed(commands.mlops, words, Terminal(quiet=True)).params

    assert given["traffic"] == 10 and given["endpoint"] == "delays"
    assert dict(given["variables"]) == {"A": "1", "B": "2"}


def test_of_several_logs_that_are_followed_each_line_is_said_once(mlops: Any, workspace: Workspace) -> None:
    with store.writing() as tx:
        deployments.ensure_endpoint(tx, "delays", author="ada")
        for name in ("blue", "green"):
            deployments.put(tx, deployed(name))
    logs = [workspace.run / "deployments" / "delays" / name / "log" for name in ("blue", "green")]
    for log in logs:
        log.parent.mkdir(parents=True)
        log.write_text("began\n")

    with subprocess.Popen([sys.executable, "-m", "mlops_nb", "logs", "delays", "--follow"], stdout=subprocess.PIPE, text=True, env=mlops.env) as following:
        assert following.stdout
        said = [following.stdout.readline() for _ in range(2)]
        for log in logs:
            with log.open("a") as file:
                file.write("went on\n")
            said.append(following.stdout.readline())
        following.send_signal(signal.SIGINT)
        said += following.stdout.readlines()

    assert said == ["blue: began\n", "green: began\n", "blue: went on\n", "green: went on\n"]


def deployed(name: str) -> Deployment:
    return Deployment(
        endpoint="delays", name=name, model="delays", version=1, target="local", spec=DeploymentSpec(), wanted="running", generation=1, status="healthy",
        created_at=store.now(), changed_at=store.now(),
    )  # fmt: skip
