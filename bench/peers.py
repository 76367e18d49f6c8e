"""`python -m bench.peers [PEER…]`: other servers of models beside ours, the same forest behind each, in one run.

Each peer gets an environment of its own below bench/out/peers, made with uv the first time, and serves as its documentation has it
(`peer_servers.py`).  They are loaded one after the other in rounds, ours among them, by wrk over 16 connections; every request
carries other rows.  Only ratios within one run count; on a machine that others use too, those of requests per second of CPU time
(of the server and all its processes) are the ones to read.  A peer that cannot be installed or started today says so in its line.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import numpy as np
import psutil

from mlops_nb.errors import listed
from mlops_nb.ports import free_port

from . import load, processes, serving, table, workspaces
from .table import Figure

PEERS = {"mlserver": "MLServer", "litserve": "LitServe", "mlflow": "MLflow", "bentoml": "BentoML"}
GOALS = {("MLServer", "1 row"): 13.0, ("MLServer", "64 rows"): 5.0, ("MLServer", "64 rows, binary"): 8.0}
OUT = Path(__file__).parent / "out"
ROUNDS = 3
_BESIDE = ("onnxruntime", "onnx", "numpy", "scikit-learn")
_START_SECONDS = 90

Asked = tuple[int, str, list[bytes], dict[str, str]]
"""Port, path, bodies and headers."""


class Speed(NamedTuple):
    """Requests answered in a second, and in a second of CPU time."""

    by_the_clock: float
    by_cpu_time: float


class PeerMissing(Exception):
    """A peer that cannot be measured here today, and why."""


def main(words: Sequence[str]) -> int:
    """Measure ours and the peers called (all unless given); argparse ends it for one that is not there."""
    asked = argparse.ArgumentParser(prog="python -m bench.peers", description="Other servers of models beside ours.")
    asked.add_argument("names", nargs="*", metavar="PEER", help=f"{listed(PEERS)}; all unless given")
    names = asked.parse_args(words).names
    if unknown := [name for name in names if name not in PEERS]:
        asked.error(f"no peer called {unknown[0]}; there are {listed(PEERS)}")
    if why := load.missing():
        print(why, file=sys.stderr)
        return 1
    figures = measure([name for name in PEERS if name in names or not names])
    print(f"load: wrk, {load.CONNECTIONS} connections, {load.SECONDS} s × {ROUNDS} rounds, medians; {os.cpu_count()} cores\n")
    print(table.as_text(figures))
    table.write(figures, OUT / "peers.json")
    return 0


def measure(names: Sequence[str]) -> list[Figure]:
    """Requests a second of ours and of each peer, ours as a multiple of each peer's."""
    with workspaces.fresh() as workspace:
        version, data = serving.registered_forest()
        serving.deploy(workspace, "forest", capture_payload_percent=100)
        pid = serving.pid("forest")
        ours = {size: partial(_speed, workspace.root, pid, *asked) for size, asked in _ours(version, data).items()}
        rates: dict[str, dict[str, Speed] | str] = {}
        for name in names:
            print(f"measuring {PEERS[name]} …", file=sys.stderr, flush=True)
            try:
                rates[name] = _beside(name, serving.file_of(version), data, ours, workspace.root)
            except PeerMissing as missing:
                rates[name] = str(missing)
            print(table.as_text(_figures(PEERS[name], rates[name])), file=sys.stderr, flush=True)
    return [figure for name in names for figure in _figures(PEERS[name], rates[name])]


def _figures(peer: str, rates: dict[str, Speed] | str) -> list[Figure]:
    if isinstance(rates, str):
        return [Figure(name=f"{peer}: not measured", value=None, unit="req/s", note=rates)]
    figures = []
    for place, unit in enumerate(Speed._fields):
        for size in ("1 row", "64 rows", "64 rows, binary"):
            words = unit.replace("_", " ")
            theirs = f"{peer}, {words}: {size if f'peer {size}' in rates else '64 rows'}"
            if f"peer {size}" in rates:
                figures.append(Figure(name=theirs, value=rates[f"peer {size}"][place], unit="req/s"))
            goal, ours = GOALS.get((peer, size)), rates[size][place]
            figures.append(Figure(name=f"ours beside {peer}, {words}: {size}", value=ours, unit="req/s", baseline=theirs, ratio_at_least=goal))
    return figures


# ── one peer ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _beside(name: str, model: Path, data: np.ndarray, ours: dict[str, Any], folder: Path) -> dict[str, Speed]:
    """Median speeds of the peer (`peer 1 row`) and of ours (`1 row`), taken in turn."""
    with _serving(name, model) as (port, pid):
        asked = {f"peer {size}": _theirs(name, port, data, rows) for size, rows in serving.SIZES.items()}
        for each in asked.values():
            _until_it_answers(each)
        cases = {size: partial(_speed, folder, pid, *each) for size, each in asked.items()} | ours
        rounds = [{case: rate() for case, rate in cases.items()} for _ in range(ROUNDS)]
    return {case: Speed(*(median(each[case][place] for each in rounds) for place in range(2))) for case in cases}


def _speed(folder: Path, pid: int, port: int, path: str, bodies: list[bytes], headers: dict[str, str]) -> Speed:
    began = processes.cpu_seconds(pid)
    loaded = load.posted(f"http://127.0.0.1:{port}{path}", bodies, headers, folder=folder)
    return Speed(loaded.per_second, loaded.requests / max(0.01, processes.cpu_seconds(pid) - began))


def _ours(version: Any, data: np.ndarray) -> dict[str, Asked]:
    server = (*serving.server("forest", serving.INFER),)
    token = serving.token("forest")
    asked = {size: (*server, serving.infer_bodies(version, data, rows), token) for size, rows in serving.SIZES.items()}
    bodies, headers = serving.binary_bodies(version, data, serving.SIZES["64 rows"])
    return asked | {"64 rows, binary": (*server, bodies, token | headers)}


def _theirs(name: str, port: int, data: np.ndarray, rows: int) -> Asked:
    """The request in the peer's own words."""
    parts = serving.parts(data, rows)
    if name == "mlserver":
        flat = [{"inputs": [{"name": "input", "shape": part.shape, "datatype": "FP32", "data": part.ravel().tolist()}]} for part in parts]
        return port, "/v2/models/forest/infer", [msgspec.json.encode(body) for body in flat], {}
    if name == "mlflow":
        return port, "/invocations", [msgspec.json.encode({"inputs": part.tolist()}) for part in parts], {}
    return port, "/predict", [msgspec.json.encode({"input": part.tolist()}) for part in parts], {}


def _until_it_answers(asked: Asked) -> None:
    """Ask until the peer answers 200 with as many labels as rows were sent.  Raises PeerMissing."""
    port, path, bodies, headers = asked
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            status, answer = processes.ask(port, path, bodies[0], headers)
        except OSError as error:
            status, answer = 0, str(error).encode()
        if status == 200:
            return
        if time.monotonic() > until:
            raise PeerMissing(f"it does not answer: {status} {answer[:200].decode(errors='replace')}")
        time.sleep(0.2)


@contextmanager
def _serving(name: str, model: Path) -> Iterator[tuple[int, int]]:
    """Port and pid of the peer's server, which may not answer yet; it and what it started are ended with the block.  Raises PeerMissing."""
    python, port = installed(name, [name, *_BESIDE]), free_port()
    log = (OUT / "peers" / f"{name}.log").open("wb")
    command = [str(python), "-P", str(Path(__file__).with_name("peer_servers.py")), name, str(model), str(port)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with ExitStack() as stack:
        stack.callback(log.close)
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=OUT, start_new_session=True)
        stack.callback(_end, process)
        yield port, process.pid


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server's group and whatever else it started: some start workers in sessions of their own."""
    workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass  # the next signal cannot be ignored
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of it has gone already
    for worker in workers:
        if worker.is_running():
            worker.kill()
    process.wait()


def installed(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of the peer's environment of these *requirements*, made unless it is there.  Raises PeerMissing."""
    folder = OUT / "peers" / name
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise PeerMissing("uv is missing")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "-p", str(python), *requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerMissing(f"cannot be installed today: {' '.join(done.stderr.split())[:200]}")
    ready.touch()
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
