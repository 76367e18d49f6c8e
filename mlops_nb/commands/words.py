"""What a word on a line leads to: rows, files, percentages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..errors import BadOption
from ..grammar import face
from ..reference import DeploymentRef, ModelRef
from ..shapes import Lines


def request_body(sample: str | None, data: str | None, *, raw: bool = True) -> bytes | None:
    """A request's body: written out, or rows as an endpoint is sent them."""
    from .. import client

    if sample is not None or data is None:
        return None if sample is None else sample.encode()
    meant = face().meaning(data)
    if isinstance(meant, Path):
        meant = _text_in(meant) if meant.suffix.lower() == ".json" else table_in(meant)
    return client.body(meant, takes_raw=raw)


def model_files(model: str | None) -> Path | ModelRef | None:
    """What `--model` names: a path when there is one, else a registered version."""
    return None if model is None else Path(model) if Path(model).expanduser().exists() else ModelRef.parse(model)


def takes_raw(ref: ModelRef) -> bool:
    """Whether the version is an entry script, which is sent a body as it is."""
    from .. import registry

    return registry.get(ref).engine == "script"


def rows_to_send(data: Any, endpoint: str) -> Any:
    """What goes to an endpoint: live data as it is, a file's or a text's content."""
    if isinstance(data, Path) and data.suffix.lower() != ".json":
        return table_in(data, text=_text_columns(endpoint))
    if isinstance(data, Path | str):
        return _json_rows(_text_in(data) if isinstance(data, Path) else data)
    return data


def _text_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadOption(f"{file} is not text in UTF-8: {error.reason} at byte {error.start}.", hint="save it as UTF-8") from None


def _json_rows(text: str) -> Any:
    import msgspec

    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadOption(f"The data is not JSON: {error}", hint='[{"column": 1}] or {"column": [1, 2]}') from None
    already_a_request = isinstance(data, dict) and bool({"inputs", "data", "input_data"} & set(data))
    return text.encode() if already_a_request else [data] if _is_record(data) else data


def _is_record(data: Any) -> bool:
    return isinstance(data, dict) and not any(isinstance(value, list) for value in data.values())


def table_in(file: Path, *, text: Sequence[str] = ()) -> Any:
    """The rows of a CSV, Parquet or JSON file; the columns *text* stay text."""
    from .. import datasets

    return datasets.read(file, text=text)


def _text_columns(endpoint: str) -> list[str]:
    """The columns that the endpoint's models take as text, whatever a CSV file makes them look like."""
    from .. import store
    from ..store import deployments as table
    from ..store import models as model_table

    with store.reading() as tx:
        versions = [model_table.get(tx, ModelRef(d.model, version=d.version)) for d in table.of(tx, endpoint)]
    return [column["name"] for version in versions for column in (version.signature or {}).get("inputs", []) if column["type"] == "string"]


def whole_percent(share: float) -> int:
    """*share* as a whole number.  Raises BadOption for a fraction."""
    if share != int(share):
        raise BadOption(f"{share} is not a whole percentage.", hint="%mlops traffic churn 1=90 2=10")
    return int(share)


def follow_logs(ref: DeploymentRef, lines: int) -> Lines:
    """Say the last lines of each log, then those that come; Ctrl-C ends it."""
    import time

    from .. import rollout

    said: dict[str, list[str]] = {}
    while True:
        logs = rollout.logs_of_each(ref, lines=max(lines, 500))
        for name, latest in logs.items():
            for line in new_lines(said[name], latest) if name in said else latest[-lines:]:
                face().say(f"{name}: {line}" if len(logs) > 1 else line)
        said = logs
        time.sleep(0.3)


def refusals(ref: DeploymentRef) -> list[str]:
    """What callers got wrong in the last day, each message with how often it was answered and when last, the most frequent first."""
    from .. import store, telemetry

    found = telemetry.refused(ref.endpoint, deployment=ref.name, since=store.now() - timedelta(days=1))
    said = [f"{'' if ref.name else row['deployment'] + ': '}{_refusal(row)}" for row in found]
    return ["What callers got wrong in the last day:", *said] if said else []


def _refusal(row: Mapping[str, Any]) -> str:
    message = "".join(char if char.isprintable() else " " for char in row["error"])[:300]  # it may quote what a caller sent
    return f"{row['requests']:,} × {row['status']} {message or 'without a message'} (last {row['time']:%Y-%m-%d %H:%M:%S} UTC)"


def new_lines(before: Sequence[str], latest: Sequence[str]) -> Sequence[str]:
    """What came since: both are the last lines of one growing log, seen through a window of one size."""
    kept = next((count for count in range(min(len(before), len(latest)), 0, -1) if before[-count:] == latest[:count]), 0)
    return latest[kept:]
