"""Three choke points: a name becomes a path, a user's text enters a generated file, a URL is called.  Nothing else may do these."""

from __future__ import annotations

import html
import ipaddress
import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from .errors import BadName, UnsafePath, UnsafeText, UnsafeUrl

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_DEVICES = frozenset({"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(10)})


def checked_name(name: str, *, what: str = "name") -> str:
    """*name*, fit to be a file name, a URL segment and a label.  Raises BadName."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or name.endswith(".") or name.split(".")[0].lower() in _DEVICES:
        raise BadName(name, what=what)
    return name


def path_inside(root: Path, *parts: str) -> Path:
    """The path of *parts* (relative, `/`-separated) below *root*, symlinks resolved.  Raises UnsafePath when it leads elsewhere."""
    text = "/".join(parts)
    segments = text.split("/")
    if not text or any(_leads_astray(segment) for segment in segments):
        raise UnsafePath(text)
    base = root.resolve()
    path = base.joinpath(*segments).resolve()
    if not path.is_relative_to(base) or path == base:
        raise UnsafePath(text)
    return path


def _leads_astray(segment: str) -> bool:
    return (
        segment in ("", ".", "..")
        or bool(_CONTROL.search(segment))
        or any(mark in segment for mark in ("\\", ":", "#", "?", "%"))
        or segment != segment.strip()
        or len(segment.encode()) > 255
    )


def text_for(kind: Literal["html", "yaml", "shell", "dockerfile", "prometheus"], text: object) -> str:
    """*text* as one inert token of a generated file: an escaped HTML string, a quoted YAML scalar, one shell word, one word of a Dockerfile
    or the quoted value of a label that Prometheus scrapes.

    Raises UnsafeText for control characters (line ends included), which no one-line token can carry safely.
    """
    text = str(text)
    if kind == "html":
        return html.escape(_CONTROL.sub(" ", text), quote=True)
    if _CONTROL.search(text):
        raise UnsafeText(text, where=f"a {kind} file")
    if kind == "yaml":
        return json.dumps(text, ensure_ascii=False)
    if kind == "dockerfile":  # double quotes, within which a backslash takes their meaning from these three and variables are named by `$` alone
        return '"' + re.sub(r'([\\"$])', r"\\\1", text) + '"'
    if kind == "prometheus":
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return shlex.quote(text)


def names_a_secret(variable: str) -> bool:
    """Whether an environment variable of this name holds a secret, going by the usual words."""
    return bool(_SECRET.search(variable))


def checked_url(url: str, *, allowed_hosts: Collection[str] = ()) -> str:
    """*url* when it is plain http(s) to this machine's loopback or to a host the user allowed.  Raises UnsafeUrl."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except (ValueError, AttributeError):
        raise UnsafeUrl(url, why="it cannot be read as an address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UnsafeUrl(url, why="only http and https addresses are")
    if _CONTROL.search(url) or parts.username is not None or "\\" in url or " " in url:
        raise UnsafeUrl(url, why="it holds a user name, a backslash or a control character")
    if host in allowed_hosts or host == "localhost" or _is_loopback(host):
        return url
    raise UnsafeUrl(url, why=f"{host} is not an allowed host")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
