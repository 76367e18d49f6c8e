"""`python -m mlops_nb.serving.contained SPEC.json`: what a packaged image runs; the environment says what the image cannot know.

MLOPS_TOKEN_FILE     where the token is mounted; every request but health must bring it as `Authorization: Bearer` or in x-mlops-token
MLOPS_ENDPOINT, MLOPS_DEPLOYMENT   the names it answers under  [default: those it was packaged with]
MLOPS_OPEN=1         answer whoever reaches the port, without a token
MLOPS_CAPTURE_FOLDER where requests are written down  [default: nowhere]
MLOPS_PORT           where it listens  [default: 8080]
MLOPS_DEPLOYMENT_FILE a JSON file with fields of ServerSpec as this deployment wants them, such as its name  [default: as packaged]
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .__main__ import run
from .spec import ServerSpec

_IN_MEMORY = Path("/dev/shm")  # writable also where the image's own file system is read-only


def main() -> None:
    """Serve what the image holds.  Ends with a sentence and exit code 1 where nobody said who may ask."""
    packaged = as_deployed(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ServerSpec), os.environ)
    if why := refusal(packaged, os.environ):
        sys.exit(why)
    run(as_started(packaged, os.environ))


def as_deployed(packaged: ServerSpec, variables: Mapping[str, str]) -> ServerSpec:
    """The packaged spec with the fields that a deployment's file has."""
    file = variables.get("MLOPS_DEPLOYMENT_FILE")
    if not file:
        return packaged
    fields: dict[str, Any] = msgspec.json.decode(Path(file).read_bytes())
    return msgspec.convert(msgspec.to_builtins(packaged) | fields, ServerSpec)


def as_started(packaged: ServerSpec, variables: Mapping[str, str]) -> ServerSpec:
    """The packaged spec with what *variables* say."""
    return msgspec.structs.replace(
        packaged,
        endpoint=variables.get("MLOPS_ENDPOINT", packaged.endpoint),
        deployment=variables.get("MLOPS_DEPLOYMENT", packaged.deployment),
        port=int(variables.get("MLOPS_PORT", packaged.port)),
        token_file="" if _open(variables) else _token_file(packaged, variables),
        capture_folder=variables.get("MLOPS_CAPTURE_FOLDER", packaged.capture_folder),
        run_folder=packaged.run_folder or tempfile.mkdtemp(dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None),
    )


def refusal(packaged: ServerSpec, variables: Mapping[str, str]) -> str:
    """Why it must not start with these variables; empty when it may."""
    token_file = Path(_token_file(packaged, variables))
    if _open(variables) or os.access(token_file, os.R_OK):
        return ""
    there = "cannot be read by this user" if token_file.exists() else "is not there"
    return f"The token {token_file} {there}: mount a file with a word of your choice there, or set MLOPS_OPEN=1 to answer whoever reaches the port."


def _open(variables: Mapping[str, str]) -> bool:
    return variables.get("MLOPS_OPEN") == "1"


def _token_file(packaged: ServerSpec, variables: Mapping[str, str]) -> str:
    return variables.get("MLOPS_TOKEN_FILE", packaged.token_file)


if __name__ == "__main__":
    main()
