"""`mlops debug`: a server in the foreground that takes each save at once, shows exceptions, and stops at breakpoints."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from living import churn_model

from mlops_nb.settings import Workspace

SCRIPT = """
import json
import factor

def init():
    global made
    made = True

def run(raw_data):
    values = json.loads(raw_data)["data"]
    return [factor.BY / value for value in values]
"""


class Debugged:
    """A running `mlops debug`, the lines it said, and a client for it."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "mlops_nb", "debug", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self.lines: list[str] = []
        self._new: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        header = self.until(r"curl -H @(\S+)")
        self.debugger = int(self.until(r"debugger: 127\.0\.0\.1:(\d+)"))
        self.url = self.until(r"ready: (http://127\.0\.0\.1:\d+)/score")
        name, _, value = Path(header).read_text().strip().partition(": ")
        self.client = httpx.Client(base_url=self.url, headers={name: value}, timeout=60, trust_env=False)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._new.put(line.rstrip("\n"))

    def until(self, pattern: str) -> str:
        """Wait for a line with *pattern* and return its first group, or the line."""
        deadline = time.monotonic() + 60
        while True:
            self.lines.append(self._new.get(timeout=max(0.1, deadline - time.monotonic())))
            if found := re.search(pattern, self.lines[-1]):
                return found[1] if found.groups() else self.lines[-1]

    def ask(self, body: Any) -> httpx.Response:
        return self.client.post("/score", json=body)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def clean(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def debug(workspace: Workspace) -> Iterator[Callable[..., Debugged]]:
    """Starts `mlops debug` with these words."""
    started: list[Debugged] = []

    def start(*words: str) -> Debugged:
        started.append(Debugged(*words))
        return started[-1]

    yield start
    for debugged in started:
        debugged.clean()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "factor.py").write_text("BY = 6\n")
    (tmp_path / "score.py").write_text(SCRIPT)
    return tmp_path / "score.py"


def test_what_is_saved_answers_and_exceptions_show_their_line_and_request(debug: Callable[..., Debugged], script: Path, workspace: Workspace):
    debugged = debug(str(script), "--sample", '{"data": [3]}')
    assert any("[2.0]" in line for line in debugged.lines)
    assert debugged.ask({"data": [2]}).json() == [3]

    script.write_text(SCRIPT.replace("factor.BY /", "-factor.BY /"))
    assert debugged.ask({"data": [2]}).json() == [-3]
    (script.parent / "factor.py").write_text("BY = 8\n")
    assert debugged.ask({"data": [2]}).json() == [-4]

    answer = debugged.ask({"data": [0]})
    assert answer.status_code == 500 and "ZeroDivisionError" in answer.json()["error"] and "score.py:11" in answer.json()["error"]
    debugged.until("✗ ZeroDivisionError")
    assert "score.py:11" in debugged.until("  at ") and '{"data":[0]}' in debugged.until("POST /score")

    script.write_text(SCRIPT.replace("values = ", "values = ="))
    debugged.until("✗ SyntaxError")
    script.write_text(SCRIPT)
    debugged.until("✓ loaded score.py")
    assert debugged.ask({"data": [2]}).json() == [4]

    assert httpx.post(f"{debugged.url}/score", json={}, trust_env=False).status_code == 401
    assert debugged.interrupt() == 0
    assert not list((workspace.run / "debug").iterdir())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_is_ended_it_leaves_no_folder(
    debug: Callable[..., Debugged], script: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    debugged = debug(str(script), "--model", str(tmp_path / "model"))
    assert list((tmp_path / "temporary").iterdir()) and list((workspace.run / "debug").iterdir())

    debugged.process.send_signal(how)

    assert debugged.process.wait(30) == (0 if how == signal.SIGINT else -how)
    if how == signal.SIGKILL:  # nothing can be tidied up by it any more; the next one does
        assert debug(str(script), "--model", str(tmp_path / "model")).interrupt() == 0
    assert not list((tmp_path / "temporary").iterdir()) and not list((workspace.run / "debug").iterdir())


def test_a_debugger_stops_at_a_breakpoint_and_goes_on(debug: Callable[..., Debugged], script: Path):
    debugged = debug(str(script))
    with Debugger(debugged.debugger) as debugger, ThreadPoolExecutor(1) as pool:
        debugger.attach(script, line=10)
        asked = pool.submit(debugged.ask, {"data": [2]})

        stopped = debugger.event("stopped")
        frame = debugger.ask("stackTrace", threadId=stopped["threadId"])["stackFrames"][0]
        values = debugger.ask("evaluate", expression="raw_data", frameId=frame["id"])["result"]
        assert (Path(frame["source"]["path"]).name, frame["line"], values, asked.done()) == ("score.py", 10, repr('{"data":[2]}'), False)

        debugger.ask("continue", threadId=stopped["threadId"])
        assert asked.result().json() == [3]


def test_the_debugger_listens_on_this_machine_only_and_ends_with_the_server(debug: Callable[..., Debugged], script: Path):
    import psutil

    debugged = debug(str(script))
    family = psutil.Process(debugged.process.pid).children(recursive=True)
    listening = {c.laddr.ip for process in family for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}

    debugged.process.kill()  # nothing can be tidied up by it any more

    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def test_a_registered_version_is_debugged_as_it_is(debug: Callable[..., Debugged]):
    churn_model()

    debugged = debug("churn:1")

    answer = debugged.ask({"inputs": {"age": [20, 65], "income": [10.0, 90.0]}})
    assert answer.status_code == 200 and answer.json()["label"] == [0, 1]


class Debugger:
    """The least of a client of the Debug Adapter Protocol."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")
        self._sequence = 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Debugger:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def attach(self, script: Path, *, line: int) -> None:
        self.ask("initialize", adapterID="debugpy", pathFormat="path")
        attaching = self._send("attach", justMyCode=True)
        self.event("initialized")
        set_there = self.ask("setBreakpoints", source={"path": os.path.realpath(script)}, breakpoints=[{"line": line}])
        assert set_there["breakpoints"][0]["verified"]
        self.ask("configurationDone")
        self._answer_to(attaching)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return self._answer_to(self._send(command, **arguments))

    def event(self, name: str) -> dict[str, Any]:
        while True:
            for event in self._events:
                if event["event"] == name:
                    self._events.remove(event)
                    return event.get("body", {})
            self._events.append(self._next("event"))

    def _send(self, command: str, **arguments: Any) -> int:
        self._sequence += 1
        body = json.dumps({"seq": self._sequence, "type": "request", "command": command, "arguments": arguments}).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        return self._sequence

    def _answer_to(self, sequence: int) -> dict[str, Any]:
        while True:
            message = self._message()
            if message["type"] == "event":
                self._events.append(message)
            elif message["type"] == "response" and message["request_seq"] == sequence:
                assert message["success"], message
                return message.get("body", {})

    def _next(self, kind: str) -> dict[str, Any]:
        while (message := self._message())["type"] != kind:
            pass
        return message

    def _message(self) -> dict[str, Any]:
        length = 0
        while line := self._file.readline().strip():
            length = int(line.split(b":")[1])
        return json.loads(self._file.read(length))
