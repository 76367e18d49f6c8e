"""A real mosquitto with TLS, a password file and persistence, to be started, killed and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from mlops_nb.edge.broker import Broker
from mlops_nb.ports import free_port

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
USER, PASSWORD = "gate", "s3cret-of-the-gate"


class Mosquitto:
    """A broker on a port of its own on 127.0.0.1; what it holds survives `kill`, as far as it has written it down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.port = free_port()
        make_certificates(folder)
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(folder / "passwords"), USER, PASSWORD], check=True)
        (folder / "credentials").write_text(f"{USER}\n{PASSWORD}\n")
        (folder / "credentials").chmod(0o600)
        (folder / "data").mkdir(exist_ok=True)
        (folder / "mosquitto.conf").write_text(
            f"""listener {self.port} 127.0.0.1
cafile {folder}/ca.crt
certfile {folder}/server.crt
keyfile {folder}/server.key
password_file {folder}/passwords
allow_anonymous false
persistence true
persistence_location {folder}/data/
autosave_interval 1
autosave_on_changes true
max_queued_messages 100000
max_inflight_messages 100
log_dest none
user {os.environ.get("USER") or "root"}
"""
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def broker(self) -> Broker:
        """As a spec or the settings name it."""
        return Broker(url=f"mqtts://127.0.0.1:{self.port}", ca_file=str(self.folder / "ca.crt"), credentials_file=str(self.folder / "credentials"))

    def start(self) -> Mosquitto:
        """Start, and return once it listens."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log)
        deadline = time.monotonic() + 15
        while not _listens(self.port):
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """SIGKILL: no goodbye, nothing written down at the end."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def make_certificates(folder: Path) -> None:
    """A CA, and a certificate of it for 127.0.0.1."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    may = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.crt", *may)
    openssl("req", *key, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    ca = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl("x509", "-req", "-in", "server.csr", *ca, "-days", "2", "-extfile", "names", "-out", "server.crt")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
