"""Replays: past requests asked again of a candidate, on a server of its own, before it is given any live one.

The requests are sent at the pace in which they came, or so many times faster, whether or not earlier answers are there (an open loop, see
`profiling.load`).  The candidate's server stands in a scratch workspace: its answers and latencies are read from its own telemetry, in the same
form and measured in the same place as those they are compared with.
"""

from __future__ import annotations

import getpass
import http.client
import itertools
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from . import agreement, client, guards, performance, registry, settings, store, targets, telemetry, truth
from .agreement import Comparison, Side
from .errors import BadOption, HungUp, NothingToCompare, ReplayFailed
from .profiling import measure, servers
from .profiling.servers import Server
from .progress import SILENT, Reporter
from .reference import ModelRef
from .splits import COPY_MARK
from .store import deployments as table
from .store import events, replays
from .store.deployments import DeploymentSpec
from .store.models import ModelVersion
from .store.replays import Replay
from .telemetry import labels
from .telemetry.labels import Answers

MOST = 100_000
"""Requests that are replayed at most, the newest."""
_CONNECTIONS = 16
_WRITTEN_SECONDS = 20.0
_DEPLOYMENT = "profiled"


class Past(NamedTuple):
    """A request that is asked again."""

    id: str
    due: float
    """Seconds after the first."""
    inputs: dict[str, Any]
    rows: int
    status: int
    latency_ms: float


def replay(
    ref: ModelRef | str,
    *,
    endpoint: str | None = None,
    deployment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    speed: float | None = None,
    promises: Sequence[str] = (),
    tolerance: float = agreement.TOLERANCE,
    most: int = MOST,
    report: Reporter = SILENT,
) -> Replay:
    """Ask a model version what *endpoint* (its model's name unless given) was asked, compare the answers, keep and return what came of it.

    Only requests whose inputs were kept can be asked again; *most* of them are, the newest.  *speed* is how many times their pace they are sent at,
    None as fast as it goes.  Labels that have come give both sides their measures.  *promises* are guards as a canary has them, judged here by what
    was seen.  A version whose packages differ from those here runs in an environment of its own, as for a profile.
    Raises ModelNotFound, EndpointNotFound, DeploymentNotFound, BadOption, NothingToCompare, DeploymentFailed when the candidate does not start;
    ReplayFailed when it does not keep a promise: the replay is kept then too.
    """
    began, watched = time.monotonic(), [guards.parse(promise) for promise in promises]
    if speed is not None and not 0 < speed < 1e6:
        raise BadOption(f"{speed:g} is no pace.", hint="--speed 10x or --speed max")
    if since and until and since >= until:
        raise BadOption(f"No request was both after {since:%Y-%m-%d %H:%M} (--from) and before {until:%Y-%m-%d %H:%M} (--to).", hint="--from 7d --to 1d")
    version = registry.get(ref)
    endpoint = endpoint or version.model
    past, left_out = _past(endpoint, deployment, since, until, most)
    window = min(one.time for one in past), max(one.time for one in past)
    asked = _asked(past)
    mine, others = servers.cores_for(1)
    environment = measure.environment_for(version)
    with servers.started(version, DeploymentSpec(isolated=environment is not None), environment, on=mine or others, report=report) as server:
        sent = _Sending(server, asked, version, speed, report)
        sent.run()
        candidate, answered = _answers(server, version, asked, sent, performance.inputs_of(endpoint))
    before = _before(endpoint, deployment, window, asked)
    compared = _compared(before, candidate, asked, answered, tolerance)
    kept = Replay(
        id=uuid.uuid4().hex[:12], endpoint=endpoint, deployment=deployment or "", model=version.model, version=version.version, since=window[0],
        until=window[1], speed=speed, requests=len(asked), left_out=left_out, late_ms=sent.late_ms, first_error=sent.first_error,
        comparison=msgspec.to_builtins(compared), guards={str(guard): _keeps(guard, compared) for guard in watched}, words=_words(compared, sent.first_error),
        seconds=time.monotonic() - began, author=getpass.getuser(), time=store.now(),
    )  # fmt: skip
    return _kept(kept)


def of(ref: ModelRef | str | None = None) -> list[Replay]:
    """Replays (to a model, to one version of it), newest first.  Raises ModelNotFound and its kin."""
    given = ModelRef.parse(ref) if isinstance(ref, str) else ref
    if given:
        registry.get(given)
    with store.reading() as tx:
        return replays.latest(tx, given.name if given else None, given.version if given else None)


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Asked(msgspec.Struct, frozen=True):
    """What was kept of one request."""

    time: datetime
    past: Past


def _past(endpoint: str, deployment: str | None, since: datetime | None, until: datetime | None, most: int) -> tuple[list[_Asked], int]:
    """The requests to ask again, by time, and how many cannot be.  Raises EndpointNotFound, DeploymentNotFound, TargetCannot, NothingToCompare."""
    with store.reading() as tx:
        table.endpoint(tx, endpoint)
        if deployment:
            table.get(tx, endpoint, deployment)
    found = [row for row in telemetry.requests(endpoint, deployment=deployment, since=since, until=until, most=most) if not row["id"].endswith(COPY_MARK)]
    whole = {row["id"]: row for row in reversed(found) if _is_table(row["inputs"]) and row["status"] != HungUp.http_status}
    if not whole:
        targets.require_kept(endpoint)
        who = f"{endpoint}/{deployment}" if deployment else endpoint
        raise NothingToCompare.no_requests(who, endpoint, since=since, over_http=targets.over_http(endpoint))
    ordered = sorted(whole.values(), key=lambda row: row["time"])
    first = ordered[0]["time"]
    asked = [
        _Asked(row["time"], Past(row["id"], (row["time"] - first).total_seconds(), row["inputs"], row["rows"] or 1, row["status"], row["latency_ms"]))
        for row in ordered
    ]
    return asked, len(found) - len(asked)


def _is_table(inputs: Any) -> bool:
    return isinstance(inputs, dict) and bool(inputs) and all(isinstance(values, list) for values in inputs.values())


def _asked(past: Sequence[_Asked]) -> list[Past]:
    return [one.past for one in past]


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Sending:
    """Sends each request when it is due, over a few connections that stay open; the number of a request is its id there."""

    def __init__(self, server: Server, asked: Sequence[Past], version: ModelVersion, speed: float | None, report: Reporter) -> None:
        self.statuses = [0] * len(asked)
        self.first_error = ""
        self._server, self._asked, self._speed, self._report = server, asked, speed, report
        self._takes_raw = version.engine == "script"
        self._numbers = itertools.count()
        self._late: list[float] = []
        self._lock = threading.Lock()
        self._token = Path(server.token_file).read_text(encoding="utf-8").strip()
        self._ended = threading.Event()

    @property
    def late_ms(self) -> float:
        """By how much 95 % were late at most; 0 when there was no pace to keep."""
        return float(np.quantile(self._late, 0.95)) if self._late else 0.0

    def run(self) -> None:
        """Send all of it.  KeyboardInterrupt ends it."""
        began = time.perf_counter() + 0.01
        connections = min(_CONNECTIONS, len(self._asked))
        with ThreadPoolExecutor(connections, thread_name_prefix="replay") as pool:
            try:
                for work in [pool.submit(self._work, began) for _ in range(connections)]:
                    work.result()
            finally:
                self._ended.set()

    def _work(self, began: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=settings.Settings().request_timeout_seconds)
        while (number := next(self._numbers)) < len(self._asked) and not self._ended.is_set():
            one = self._asked[number]
            body = client.body(one.inputs, takes_raw=self._takes_raw)
            if self._speed:
                due = began + one.due / self._speed
                self._ended.wait(max(0.0, due - time.perf_counter()))
                self._late.append((time.perf_counter() - due) * 1000)
            self.statuses[number] = self._status(connection, number, body)
            if number % 500 == 499:
                self._report.step(f"{number + 1:,} of {len(self._asked):,} requests")
        connection.close()

    def _status(self, connection: http.client.HTTPConnection, number: int, body: bytes) -> int:
        """What it answers; 0 when it does not."""
        headers = {"content-type": "application/json", "x-mlops-token": self._token, "x-request-id": str(number)}
        try:
            connection.request("POST", "/score", body, headers)
            response = connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._note_error(f"{type(error).__name__}: {error}", None)
            return 0
        if response.status >= 400:
            self._note_error(_in_words(said), response.status)
        return response.status

    def _note_error(self, said: str, status: int | None) -> None:
        """The first is looked at while its exception is still the latest."""
        with self._lock:
            if self.first_error:
                return
            self.first_error = f"{said} (answered {status})" if status else said
            if status is None or status >= 500:
                reason = self._server.trouble()
                if reason:
                    self.first_error = self._server.worded(f"{reason.message}{f' ({reason.where})' if reason.where else ''}")


def _in_words(said: bytes) -> str:
    try:
        told = msgspec.json.decode(said)
    except msgspec.DecodeError:
        return said.decode(errors="replace")[:300]
    return str(told.get("error", told) if isinstance(told, dict) else told)[:300]


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _answers(server: Server, version: ModelVersion, asked: Sequence[Past], sent: _Sending, columns: Sequence[str]) -> tuple[list[Answers], dict[int, dict]]:
    """What the candidate said, under the ids of the requests that it was asked again, and its own record of each."""
    with settings.using_here(server.workspace):
        wanted, deadline = sum(status > 0 for status in sent.statuses), time.monotonic() + _WRITTEN_SECONDS
        while len(rows := _recorded(version, len(asked))) < wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        said = labels.answers(version.model, deployment=_DEPLOYMENT, columns=columns)
    named = [msgspec.structs.replace(one, id=np.array([asked[int(id)].id for id in one.id], dtype=object)) for one in said]
    return named, {int(row["id"]): row for row in rows}


def _recorded(version: ModelVersion, most: int) -> list[dict[str, Any]]:
    return telemetry.requests(version.model, deployment=_DEPLOYMENT, most=most)


def _before(endpoint: str, deployment: str | None, window: tuple[datetime, datetime], asked: Sequence[Past]) -> list[Answers]:
    """What was answered then, of all deployments together where they gave the same kind of answer."""
    ids = {one.id for one in asked}
    found = labels.answers(endpoint, deployment=deployment, since=window[0], columns=performance.inputs_of(endpoint), copies=False)
    return [kept for one in found if len(kept := one.where(np.fromiter((id in ids for id in one.id), bool, len(one))))]


def _compared(before: Sequence[Answers], candidate: Sequence[Answers], asked: Sequence[Past], answered: dict[int, dict], tolerance: float) -> Comparison:
    there = [(one, answered.get(number)) for number, one in enumerate(asked)]
    failed = sum(one.rows for one, row in there if (one.status < 400) != (row is not None and row["status"] < 400))
    of_before = agreement.side([one.latency_ms for one in asked], [one.status for one in asked])
    of_candidate = agreement.side([row["latency_ms"] for _, row in there if row], [row["status"] for _, row in there if row])
    unanswered = sum(row is None for _, row in there)
    of_candidate = msgspec.structs.replace(of_candidate, requests=len(asked), errors=of_candidate.errors + unanswered)
    return agreement.compare(before, candidate, of_before, of_candidate, failed=failed, tolerance=tolerance)


def _keeps(guard: guards.Guard, found: Comparison) -> bool:
    """Whether what was seen keeps the promise; a promise about which nothing was seen is not kept."""
    before, candidate = found.before, found.candidate
    if guard.metric == "agreement":
        return found.rows > 0 and 1 - found.differ / found.rows >= guard.bound
    if guard.metric == "error_rate":
        return _error_rate(candidate) <= guard.bound + (_error_rate(before) if guard.relative else 0)
    if guard.by_labels:
        return _keeps_by_labels(guard, candidate, before)
    mine_ms, theirs_ms = (getattr(side, f"{guard.metric}_ms") for side in (candidate, before))
    return mine_ms <= (theirs_ms * (1 + guard.bound) if guard.relative else guard.bound)


def _keeps_by_labels(guard: guards.Guard, candidate: Side, before: Side) -> bool:
    mine, theirs = (figure.value if (figure := side.figure(guard.metric)) else None for side in (candidate, before))
    if mine is None or (guard.relative and theirs is None):
        return False
    base = (theirs or 0.0) if guard.relative else 0.0
    bound = base * (1 + guard.bound) if guard.relative and guard.metric in ("rmse", "mae") else base + guard.bound
    return mine >= bound - 1e-12 if guard.metric in truth.RATES else mine <= bound + 1e-12


def _error_rate(side: Side) -> float:
    return side.errors / side.requests if side.requests else 1.0


def _words(found: Comparison, first_error: str) -> list[str]:
    """What was seen, a line each."""
    worst = next((one for one in found.segments if one.stands_out), None)
    errors = f"errors {found.candidate.errors:,} of {found.candidate.requests:,}, before {found.before.errors:,}"
    told = [
        f"{found.rows - found.differ:,} of {found.rows:,} answers agree ({found.agreement})",
        f"p95 {found.candidate.p95_ms:.3g} ms, before {found.before.p95_ms:.3g} ms",
        f"{errors}; the first: {first_error}" if first_error else errors,
    ]
    if worst:
        told.append(f"most differ where {worst.segment}: {worst.differ:,} of {worst.rows:,}")
    pairs = [(name, found.candidate.figure(name), found.before.figure(name)) for name in ("auc", "accuracy", "rmse", "mae")]
    told += [f"{name} {mine}, before {theirs}, by {found.labelled:,} labels" for name, mine, theirs in pairs if mine and theirs]
    return told


def _kept(replay: Replay) -> Replay:
    """Recorded, and told as an event.  Raises ReplayFailed."""
    broken = [promise for promise, kept in replay.guards.items() if not kept]
    with store.writing() as tx:
        replays.add(tx, replay)
        events.record(tx, "ReplayCompleted", subject=replay.ref, data={"replay": replay.id, "endpoint": replay.endpoint, "broken": broken})
    if broken:
        raise ReplayFailed(replay, broken)
    return replay


def comparison_of(replay: Replay) -> Comparison:
    """What a replay found, as nouns."""
    return msgspec.convert(replay.comparison, Comparison)
