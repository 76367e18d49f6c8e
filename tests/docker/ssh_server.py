"""Another machine, as far as ssh can tell: a real sshd on loopback, with a host key and one authorized key of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil

_SERVER = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/pid
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
UsePAM no
MaxStartups 100
SetEnv HOME={folder}/home DOCKER_HOST={engine}
"""
_CLIENT = """
Host *
    IdentityFile {folder}/me
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known
"""


class SshServer:
    """`address` of an engine behind it, which its own docker command finds too, by way of `host`; it can go and come back."""

    def __init__(self, folder: Path, port: int, engine: str) -> None:
        self.host = f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
        self.address = f"{self.host}{engine.removeprefix('unix://')}"
        self.port = port
        self.config = folder / "config"
        self._folder = folder
        (folder / "home").mkdir()  # an empty one: what the user's own shell does first may take its time
        for name in ("host", "me"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copyfile(folder / "me.pub", folder / "authorized")
        (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        (folder / "sshd_config").write_text(_SERVER.format(port=port, folder=folder, engine=engine))
        self.config.write_text(_CLIENT.format(folder=folder))
        self.start()

    def start(self) -> None:
        """Take connections; returns once it does."""
        Path("/run/sshd").mkdir(exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            command = [shutil.which("sshd", path="/usr/sbin:/usr/bin"), "-D", "-e", "-f", str(self._folder / "sshd_config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)  # type: ignore[arg-type]
        deadline = time.monotonic() + 30
        while b"Server listening" not in (self._folder / "log").read_bytes():
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Be gone, with every connection there is."""
        everything = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in everything:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._process.wait()
        (self._folder / "log").unlink()
