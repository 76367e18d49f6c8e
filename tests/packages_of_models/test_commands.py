"""`package` and `packages`, as they are said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlops_nb.registry import Provenance


def said(*words: str, **variables: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of one line in a terminal."""
    command = [sys.executable, "-m", "mlops_nb", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    return done.returncode, json.loads(done.stdout)


def test_a_context_is_written_and_listed_without_any_engine(churn: Provenance, tmp_path: Path) -> None:
    nobody = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}

    code, made = said("package", "churn:1", "--no-build", "--output", str(tmp_path / "churn-1"), **nobody)
    assert code == 0 and made["result"]["folder"] == str(tmp_path / "churn-1") and (tmp_path / "churn-1" / "Dockerfile").is_file()

    code, listed = said("packages", "churn:1", **nobody)
    assert code == 0 and [package["content"] for package in listed["result"]] == [made["result"]["content"]]


def test_without_an_engine_the_answer_is_where_the_context_is_and_how_to_build_it(churn: Provenance) -> None:
    code, error = said("package", "churn:1", DOCKER_HOST="unix:///nowhere/docker.sock")

    assert code == 1 and error["code"] == "ImageNotBuilt"
    assert "Its build context is in" in error["error"] and error["hint"].startswith("docker build --platform linux/amd64 --tag mlops/churn:1 ")


def test_words_that_cannot_be_are_refused_before_anything_is_written(churn: Provenance, tmp_path: Path) -> None:
    for words, meant in (
        (["--push", "127.0.0.1:5000/team", "--no-build"], "cannot be pushed"),
        (["--base", "a b"], "is no name of a base image"),
        (["--tag", "$(touch x)"], "is no name of an image"),
        (["--push", "https://registry/x"], "is no name of an image in a registry"),
        (["--secret", "a b=HOME"], "cannot be a secret"),
        (["--platform", "linux/s390x"], "No platform"),
    ):
        code, error = said("package", "churn:1", "--output", str(tmp_path / "out"), *words)
        assert code == 2 and meant in error["error"], error
        assert not (tmp_path / "out").exists()
