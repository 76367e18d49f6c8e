"""An engine that speaks TLS and lets in only whom its authority signed: a dockerd of these tests' own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_nb import engine
from mlops_nb.errors import NoContainerEngine
from mlops_nb.settings import Workspace

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, `cert.pem` and `key.pem`, as DOCKER_CERT_PATH has them; they are the server's too."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *key, "-subj", "/CN=127.0.0.1", "-keyout", "key.pem", "-out", "request")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "cert.pem")
    return folder


@pytest.fixture(scope="module")
def bridge() -> Iterator[str]:
    """A network bridge for it alone: without one, or with none at all, it would take away the bridge of another engine of this machine."""
    name = f"mnb-tls{os.getpid() % 10**7}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", "172.29.77.1/24", "dev", name], check=True)
    yield name
    subprocess.run(["ip", "link", "delete", name], check=True)


@pytest.fixture(scope="module")
def tls_engine(certificates: Path, bridge: str) -> Iterator[str]:
    """Its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    home = Path(tempfile.mkdtemp(prefix="mlops-nb-tls-"))
    places = [f"--data-root={home}/root", f"--exec-root={home}/exec", f"--pidfile={home}/pid", f"--host={address}", "--storage-driver=vfs"]
    network = [f"--bridge={bridge}", "--iptables=false", "--ip6tables=false"]
    files = [f"--tlscacert={certificates}/ca.pem", f"--tlscert={certificates}/cert.pem", f"--tlskey={certificates}/key.pem"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(["dockerd", *places, *network, "--tlsverify", *files], stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while b"API listen on" not in (home / "log").read_bytes():
        assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()[-3000:]
        time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(timeout=60)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def let_in(tls_engine: str, certificates: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address, where DOCKER_HOST leads to it and the certificates are named as the docker command wants them."""
    monkeypatch.setenv("DOCKER_HOST", tls_engine)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    monkeypatch.setattr(engine, "_clients", {})
    return tls_engine


def test_the_certificates_that_the_environment_names_are_shown(let_in: str) -> None:
    facts = engine.facts()

    assert (facts.address, facts.local) == (let_in, True)


def test_whom_this_machine_trusts_on_the_web_does_not_matter(let_in: str, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = tmp_path / "others.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=The web", "-keyout", tmp_path / "k", "-out", others], check=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(others))

    assert engine.facts().address == let_in


def test_an_address_in_the_settings_is_spoken_to_with_them_too(let_in: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST")
    workspace.root.mkdir(parents=True)
    (workspace.root / "config.toml").write_text(f'container_engine = "{let_in}"\n')

    assert engine.facts().address == let_in


def test_a_process_that_was_started_without_them_finds_an_engine_that_answered_before(let_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.client()

    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(engine, "_clients", {})

    assert engine.client(at=let_in).ping()


def test_a_context_brings_its_own_and_hands_them_to_the_docker_command(
    let_in: str, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    shown = ",".join(f"{name}={certificates}/{name}.pem" for name in ("ca", "cert", "key"))
    subprocess.run(["docker", "context", "create", "guarded", "--docker", f"host={let_in},{shown}"], check=True, capture_output=True)
    monkeypatch.setenv("DOCKER_CONTEXT", "guarded")

    assert engine.facts().address == let_in
    said = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], env=os.environ | engine.variables(), capture_output=True, check=True)
    assert said.stdout.decode().strip() == engine.facts().version


def test_one_without_certificates_is_told_what_to_say(let_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_TLS_VERIFY")
    monkeypatch.delenv("DOCKER_CERT_PATH")

    with pytest.raises(NoContainerEngine, match=r"it speaks TLS \(DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"):
        engine.client()


def test_certificates_that_are_not_there_are_named(let_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "nowhere"))

    with pytest.raises(NoContainerEngine, match=r"not all of cert.pem, key.pem and ca.pem are in .*nowhere"):
        engine.client()


def test_an_engine_that_another_authority_signed_is_refused(let_in: str, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("cert.pem", "key.pem"):
        shutil.copy(certificates / file, tmp_path / file)
    shutil.copy(certificates / "cert.pem", tmp_path / "ca.pem")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))

    with pytest.raises(NoContainerEngine, match=r"its certificate was not signed by the ca\.pem it is to be known by"):
        engine.client()
