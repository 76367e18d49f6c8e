"""Requests as fast as a server answers them: wrk, which costs less of the machine than any generator in Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

SECONDS = 3
CONNECTIONS = 16
_SCRIPT = Path(__file__).with_name("post.lua")


class Loaded(msgspec.Struct, frozen=True):
    """What came of one burst."""

    requests: int
    seconds: float
    failed: int
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests answered each second."""
        return self.requests / self.seconds


def missing() -> str:
    """How to get wrk where it is missing, or nothing; as root on Debian it is installed."""
    if not shutil.which("wrk") and shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL, "check": False}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)  # type: ignore[call-overload]
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "wrk"], **quiet)  # type: ignore[call-overload]
    return "" if shutil.which("wrk") else "wrk is missing: sudo apt-get install wrk, or brew install wrk"


def posted(url: str, bodies: Sequence[bytes], headers: Mapping[str, str], *, folder: Path, seconds: float = SECONDS) -> Loaded:
    """POST *bodies* to *url* in turn.  Headers, which may hold a key, travel in a file.  Raises RuntimeError when a request failed."""
    files = {"BODIES": folder / "bodies", "HEADERS": folder / "headers"}
    files["BODIES"].write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies))
    files["HEADERS"].touch(mode=0o600)
    files["HEADERS"].write_text("".join(f"{name}: {value}\n" for name, value in {"content-type": "application/json", **headers}.items()))
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds:.0f}s", "--timeout", "10s", "--script", str(_SCRIPT), url]
    done = subprocess.run(command, env=os.environ | {name: str(file) for name, file in files.items()}, capture_output=True, text=True, check=True)
    loaded = msgspec.json.decode(done.stdout.splitlines()[-1], type=Loaded)
    if loaded.failed or not loaded.requests:
        raise RuntimeError(f"{loaded.failed} of {loaded.requests} requests to {url} failed\n{done.stdout}")
    return loaded
