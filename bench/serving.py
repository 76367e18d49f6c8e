"""The local server's speed: straight and through Envoy, beside a bare Granian echo and a bare ONNX Runtime loop.

Every request carries other rows.  A processor learns the way through a forest when the same 64 rows come again and again:
no caller ever sees how fast ONNX Runtime is then, and the table has that loop too.

On two cores the server has one to itself and the load the other.  CPU for each request is that of the server's process alone, which
other work on the machine disturbs less than it does the clock.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from mlops_nb import artifacts, hardware, keys, registry, rollout, store
from mlops_nb.ports import free_port
from mlops_nb.profiling import load as schedule
from mlops_nb.profiling.servers import cores_for, pin
from mlops_nb.serving.spec import ServerSpec
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments
from mlops_nb.targets.local import run_folder

from . import examples, load, processes, table, workspaces
from .table import Figure

if TYPE_CHECKING:
    from mlops_nb.store.models import ModelVersion

SIZES = {"1 row": 1, "64 rows": 64}
INFER = "/v2/models/forest/infer"
ROUNDS = 3
STARTS = 5
_HALF_LOAD_SECONDS = 5
_SETTLE_SECONDS = 240
_MOST_CONNECTIONS = 64
"""On a schedule: where all of them wait for answers, what is due waits too, and that is counted."""
BODIES = 64
"""As many different requests are sent in turn."""
_CASES = {
    "echo": "Granian echo",
    "loop": "ONNX Runtime loop",
    "repeated": "ONNX Runtime loop, the same rows again and again",
    "direct": "server, direct",
    "binary": "server, direct, binary",
    "gateway": "server, through Envoy",
    "named": "server, direct, /score, 30 named columns",
}
_GOALS: dict[tuple[str, str], list[tuple[str, float | None]]] = {
    ("1 row", "direct"): [("echo", 0.8)],
    ("64 rows", "direct"): [("loop", 0.4)],
    ("64 rows", "binary"): [("loop", 0.7)],
    ("1 row", "gateway"): [("direct", 0.6)],
    ("64 rows", "gateway"): [("direct", 0.95)],
    ("1 row", "named"): [("echo", None)],
}
"""What a figure is compared with, and the least ratio asked for."""
_CAPTURE_GOAL = 0.95
_PAIRS = 4
"""So many processes keep payloads and as many do not: two of one kind differ by more than keeping them costs."""

Asked = tuple[int, int, str, list[bytes], dict[str, str]]
"""The server's process, its port, and the path, bodies and headers to ask with."""


class Speed(NamedTuple):
    """What came of one burst."""

    per_second: float
    cpu_us: float
    """CPU time of the answering process for each request, in µs."""


Speeds = Callable[[], Speed]


def measure(*, minutes: float = 1) -> list[Figure]:
    """A forest of 100 trees on 30 features as ONNX, 16 connections, one server process; memory is watched over *minutes* of load."""
    if why := load.missing():
        return [Figure(name=f"{size}: {words}", value=None, unit="req/s", note=why) for size in SIZES for words in _CASES.values()]
    with workspaces.fresh() as workspace, processes.bare_server() as echo:
        version, data = registered_forest()
        deploy(workspace, "forest", capture_payload_percent=100)
        fresh = _memory("forest")
        by_name, _ = examples.forest(named=_named)
        _registered(by_name, _named(data), name="named")
        deploy(workspace, "named", capture_payload_percent=100)
        pairs = [(f"kept{number}", f"unkept{number}") for number in range(_PAIRS)]
        figures: list[Figure] = []
        for words, part in {
            "1 row": lambda: _rate_figures("1 row", _median_speeds(_cases(workspace, version, data, "1 row", echo=echo))),
            "64 rows": lambda: _rate_figures("64 rows", _median_speeds(_cases(workspace, version, data, "64 rows", echo=echo))),
            "captured": lambda: _capture_figures(workspace, version, data, pairs),
            "1 row: half load": lambda: _half_load(workspace, data),
            "server: start to ready": _starts,
            "memory": lambda: _memory_under_load(workspace, version, data, fresh, minutes=minutes),
        }.items():
            figures += _told(words, part)
    return figures


def _told(words: str, part: Callable[[], list[Figure]]) -> list[Figure]:
    """What *part* measures; a part that fails says why, and leaves the others theirs."""
    print(f"  {words} …", file=sys.stderr, flush=True)
    try:
        figures = part()
        print(table.as_text(figures), file=sys.stderr, flush=True)  # at once: what comes later may be interrupted
        return figures
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return [Figure(name=words, value=None, unit="", note=" ".join(str(error).split())[:300])]


# ── requests a second ────────────────────────────────────────────────────────────────────────────────────────────────


def _rate_figures(size: str, speeds: dict[str, Speed]) -> list[Figure]:
    rates = {case: speed.per_second for case, speed in speeds.items()}
    figures = []
    for case, rate in rates.items():
        name = f"{size}: {_CASES[case]}"
        for beside, goal in _compared(size, case, rates):
            baseline = f"{size}: {_CASES[beside]}" if beside else None
            figures.append(Figure(name=name, value=rate, unit="req/s", baseline=baseline, ratio_at_least=goal))
            name = f"{size}: {_CASES[case]} ({_CASES[beside]})" if beside else name
    return [*figures, *_cpu_figures(size, speeds)]


def _cpu_figures(size: str, speeds: Mapping[str, Speed]) -> list[Figure]:
    return [
        Figure(name=f"{size}: CPU for each request, {_CASES[case]}", value=speed.cpu_us, unit="µs")
        for case, speed in speeds.items()
        if case != "gateway"  # Envoy's is not counted
    ]


def _compared(size: str, case: str, rates: Mapping[str, float]) -> list[tuple[str, float | None]]:
    return [pair for pair in _GOALS.get((size, case), []) if pair[0] in rates] or [("", None)]


def _capture_figures(workspace: Workspace, version: ModelVersion, data: np.ndarray, pairs: Sequence[tuple[str, str]]) -> list[Figure]:
    """Payloads kept beside not kept: the mean over processes of each kind, which are asked by turns, by the clock and by CPU."""
    for pair in pairs:
        for endpoint, percent in zip(pair, (100, 0), strict=True):
            deploy(workspace, endpoint, model="forest", capture_payload_percent=percent)
    figures = []
    for size, rows in SIZES.items():
        binary, said = binary_bodies(version, data, rows)
        ways = {"JSON": (infer_bodies(version, data, rows), {})} | ({"binary": (binary, said)} if rows > 1 else {})
        for words, (bodies, headers) in ways.items():
            asked = {name: (pid(name), *server(name, INFER), bodies, token(name) | headers) for pair in pairs for name in pair}
            speeds = _median_speeds({name: partial(_speed, workspace.root, *request) for name, request in asked.items()})
            kept, unkept = (Speed(*(fmean(speeds[name][place] for name in kind) for place in range(2))) for kind in zip(*pairs, strict=True))
            name, note = f"{size}: {words}, {len(pairs)} servers,", f"by CPU {unkept.cpu_us / kept.cpu_us:.0%}"
            figures += [
                Figure(name=f"{name} payloads not captured", value=unkept.per_second, unit="req/s"),
                Figure(
                    name=f"{name} captured", value=kept.per_second, unit="req/s", baseline=f"{name} payloads not captured", ratio_at_least=_CAPTURE_GOAL,
                    note=note,
                ),
            ]  # fmt: skip
    for pair in pairs:
        for endpoint in pair:
            rollout.undeploy(endpoint)
    return figures


def _median_speeds(cases: dict[str, Speeds]) -> dict[str, Speed]:
    rounds = [{name: case() for name, case in cases.items()} for _ in range(ROUNDS)]
    return {name: Speed(*(median(each[name][place] for each in rounds) for place in range(2))) for name in cases}


def _cases(workspace: Workspace, version: ModelVersion, data: np.ndarray, size: str, *, echo: processes.Bare) -> dict[str, Speeds]:
    """Every way to ask for so many rows, each proved once before it is timed."""
    rows = SIZES[size]
    infer = infer_bodies(version, data, rows)
    gateway = int(rollout.url_of("forest").split(":")[2].split("/")[0])
    forest = pid("forest")
    asked: dict[str, Asked] = {
        "echo": (echo.pid, echo.port, "/", infer, {}),
        "direct": (forest, *server("forest", INFER), infer, token("forest")),
        "gateway": (forest, gateway, f"/forest{INFER}", infer, {"authorization": f"Bearer {keys.key('forest')}"}),
        "named": _asked_by_name(data, rows),
    }
    if rows > 1:
        binary, said = binary_bodies(version, data, rows)
        asked["binary"] = (forest, *server("forest", INFER), binary, token("forest") | said)
    for name, (_, port, path, bodies, headers) in asked.items():
        status, answer = processes.ask(port, path, bodies[0], headers)
        if status != 200 or not (name == "echo" or b"probabilities" in answer):
            raise RuntimeError(f"{name} answered {status}: {answer[:500].decode(errors='replace')}")
    loops = {"loop": partial(_loop, version, parts(data, rows))} | ({"repeated": partial(_loop, version, parts(data, rows)[:1])} if rows > 1 else {})
    speeds: dict[str, Speeds] = {name: partial(_speed, workspace.root, *request) for name, request in asked.items()} | loops
    return {name: speeds[name] for name in _CASES if name in speeds}


def _asked_by_name(data: np.ndarray, rows: int) -> Asked:
    return (pid("named"), *server("named", "/score"), _named_bodies(data, rows), token("named"))


def _speed(folder: Path, pid: int, port: int, path: str, bodies: list[bytes], headers: dict[str, str]) -> Speed:
    began = processes.cpu_seconds(pid)
    loaded = load.posted(f"http://127.0.0.1:{port}{path}", bodies, headers, folder=folder)
    return Speed(loaded.per_second, (processes.cpu_seconds(pid) - began) / loaded.requests * 1e6)


def _loop(version: ModelVersion, given: list[np.ndarray]) -> Speed:
    """Runs a second of a session in this process, on one thread, as the server has it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file_of(version)), options, providers=["CPUExecutionProvider"])
    name, runs, cpu, began = session.get_inputs()[0].name, 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - began < load.SECONDS:
        session.run(None, {name: given[runs % len(given)]})
        runs += 1
    return Speed(runs / (time.perf_counter() - began), (time.process_time() - cpu) / runs * 1e6)


# ── latency, start, memory ───────────────────────────────────────────────────────────────────────────────────────────


def _half_load(workspace: Workspace, data: np.ndarray) -> list[Figure]:
    """Latencies of one-row requests sent on a schedule, half as many as wrk gets answered on the same core at most; waiting is counted."""
    deployment, (on, beside) = _deployment("named"), cores_for(1)
    asked = _asked_by_name(data, 1)
    job = schedule.Job(
        port=deployment.handle["port"], token_file=deployment.handle["token_file"], bodies=[body.decode() for body in asked[3]], seconds=_HALF_LOAD_SECONDS,
        connections=_MOST_CONNECTIONS,
    )  # fmt: skip
    _settle(workspace)
    pin(pid("named"), on)
    try:
        rate = _speed(workspace.root, *asked).per_second / 2
        halves = sorted((_sent(msgspec.structs.replace(job, rate=rate), beside) for _ in range(ROUNDS)), key=lambda half: half.p99_ms)
    finally:
        pin(pid("named"), hardware.cores())
    half = halves[len(halves) // 2]
    p99s = ", ".join(f"{each.p99_ms:.2f}" for each in halves)
    late = f"the load itself was late by {half.sent_late_p99_ms:.2f} ms (p99){', TOO LATE TO TELL' if half.limited else ''}"
    note = f"{rate:,.0f} req/s on a schedule; p99 of {ROUNDS} rounds {p99s} ms; {late}"
    return [
        Figure(name="1 row: p50 at half load", value=half.p50_ms, unit="ms"),
        Figure(name="1 row: p99 at half load", value=half.p99_ms, unit="ms", at_most=2, note=note),
    ]


def _settle(workspace: Workspace) -> None:
    """Wait until the telemetry of earlier bursts, of which there is more than anybody's load leaves behind, is in its resting form."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while next(workspace.telemetry.rglob("closed-*.jsonl"), None) and time.monotonic() < deadline:
        time.sleep(0.5)


def _sent(job: schedule.Job, cores: Sequence[int]) -> schedule.Loaded:
    """The load in a process of its own, on *cores*."""
    with subprocess.Popen([sys.executable, "-m", "mlops_nb.profiling"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pin(process.pid, cores)
        told, _ = process.communicate(msgspec.json.encode(job) + b"\n")
    loaded = msgspec.json.decode(told, type=schedule.Loaded)
    if loaded.status or not loaded.requests:
        raise RuntimeError(f"the load on a schedule was answered {loaded.status}: {loaded.error}")
    return loaded


def _starts() -> list[Figure]:
    """Seconds from starting a server's process to its first ready answer."""
    return [Figure(name="server: start to ready", value=median(_start() for _ in range(STARTS)), unit="s", at_most=0.7)]


def _start() -> float:
    folder = run_folder(_deployment("forest"))
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=ServerSpec)
    port, beside = free_port(), folder / "start.json"
    beside.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, port=port, capture_folder=str(folder / "start"))))
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mlops_nb.serving", str(beside)], stderr=subprocess.DEVNULL)
    try:
        processes.ready(port)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def _memory_under_load(workspace: Workspace, version: ModelVersion, data: np.ndarray, fresh: float, *, minutes: float) -> list[Figure]:
    """What the served forest holds when fresh, after the first tenth of the load, and at its end."""
    port, path = server("forest", INFER)
    asked = f"http://127.0.0.1:{port}{path}", infer_bodies(version, data, 1), token("forest")
    load.posted(*asked, folder=workspace.root, seconds=max(1, minutes * 6))
    early = _memory("forest")
    load.posted(*asked, folder=workspace.root, seconds=max(1, minutes * 54))
    size = file_of(version).stat().st_size / 1e6
    name = f"memory of a served model of {size:.1f} MB"
    return [
        Figure(name=f"{name}, fresh", value=fresh, unit="MB", at_most=120),
        Figure(name=f"{name}, after all rates and {minutes / 10:g} min of load", value=early, unit="MB", at_most=120),
        Figure(name=f"{name}, after {minutes:g} min of load", value=_memory("forest"), unit="MB", at_most=120),
    ]


def _memory(endpoint: str) -> float:
    import psutil

    return psutil.Process(pid(endpoint)).memory_info().rss / 1e6


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def parts(data: np.ndarray, rows: int) -> list[np.ndarray]:
    """Different runs of so many rows."""
    return [np.ascontiguousarray(data[place * rows : (place + 1) * rows]) for place in range(BODIES)]


def infer_bodies(version: ModelVersion, data: np.ndarray, rows: int) -> list[bytes]:
    """Requests of the protocol, in JSON."""
    name = _input(version)
    return [msgspec.json.encode({"inputs": [{"name": name, "shape": p.shape, "datatype": "FP32", "data": p.ravel().tolist()}]}) for p in parts(data, rows)]


def binary_bodies(version: ModelVersion, data: np.ndarray, rows: int) -> tuple[list[bytes], dict[str, str]]:
    """Requests of the protocol with binary tensors both ways, and the headers that say so."""
    size = rows * data.shape[1] * 4
    tensor = {"name": _input(version), "shape": [rows, data.shape[1]], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = msgspec.json.encode({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return [head + part.astype("<f4").tobytes() for part in parts(data, rows)], headers


def _named_bodies(data: np.ndarray, rows: int) -> list[bytes]:
    return [msgspec.json.encode({"inputs": {name: values.tolist() for name, values in _named(part).items()}}) for part in parts(data, rows)]


def _input(version: ModelVersion) -> str:
    return (version.signature or {})["inputs"][0]["name"]


def _named(rows: np.ndarray) -> Any:
    import pandas as pd

    return pd.DataFrame(rows, columns=[f"feature_{number}" for number in range(rows.shape[1])])


# ── what answers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def registered_forest() -> tuple[ModelVersion, np.ndarray]:
    """The forest in the current workspace, and its rows."""
    model, data = examples.forest()
    return _registered(model, data, name="forest"), data


def _registered(model: Any, sample: Any, *, name: str) -> ModelVersion:
    version = registry.register(model, name=name, sample=sample[:1000]).version
    if version.engine != "onnxruntime":
        raise RuntimeError(f"{version.ref} did not become ONNX: {version.conversion}")
    return version


def deploy(workspace: Workspace, endpoint: str, *, model: str | None = None, capture_payload_percent: int) -> None:
    """Serve a model of the current workspace; servers read the setting when they start."""
    (workspace.root / "config.toml").write_text(f"capture_payload_percent = {capture_payload_percent}\n")
    rollout.deploy(model or endpoint, endpoint=endpoint)


def server(endpoint: str, path: str) -> tuple[int, str]:
    """Port and path of an endpoint's server itself."""
    return _deployment(endpoint).handle["port"], path


def token(endpoint: str) -> dict[str, str]:
    """The header without which the server answers nobody."""
    return {"x-mlops-token": Path(_deployment(endpoint).handle["token_file"]).read_text()}


def pid(endpoint: str) -> int:
    """The process of an endpoint's server."""
    return _deployment(endpoint).handle["pid"]


def _deployment(endpoint: str) -> deployments.Deployment:
    with store.reading() as tx:
        return deployments.get(tx, endpoint, "1")


def file_of(version: ModelVersion) -> Path:
    """The model's ONNX file."""
    return artifacts.address(next(file.sha256 for file in version.files if file.path == "model.onnx"))
