"""Names as Kubernetes takes them: DNS-1123 labels, label values, quantities.  What does not fit is shortened with a hash, or refused."""

from __future__ import annotations

import hashlib
import re

from ..errors import BadOption

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?", re.ASCII)
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
_IMAGE = re.compile(
    r"[a-zA-Z0-9][a-zA-Z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII
)  # fmt: skip
_LONGEST = 63
_LONGEST_INFERENCE = 48
"""KServe labels a predictor's pods `isvc.NAME-predictor`, and a label's value has 63 characters at most."""


def workload(endpoint: str, deployment: str) -> str:
    """The name of what runs a deployment, `mlops-delays-3`: a DNS label that no other deployment of any endpoint has."""
    name = f"mlops-{endpoint}-{deployment}"
    return name if "-" not in deployment and _fits(name) else _shortened(name, f"{endpoint}/{deployment}")


def inference(endpoint: str, deployment: str) -> str:
    """The name of the InferenceService that runs a deployment, `mlops-delays-3`, short enough for what KServe makes of it."""
    name = workload(endpoint, deployment)
    return name if len(name) <= _LONGEST_INFERENCE else _shortened(name, f"{endpoint}/{deployment}", most=_LONGEST_INFERENCE)


def predictor(inference: str) -> str:
    """What KServe calls the Deployment and the Service that it makes for an InferenceService."""
    return f"{inference}-predictor"


def group(endpoint: str) -> str:
    """The name of what an endpoint's deployments share, `mlops-delays`."""
    name = f"mlops-{endpoint}"
    return name if _fits(name) else _shortened(name, endpoint)


def value(text: str) -> str:
    """*text* as the value of a label: itself where that is allowed."""
    return text if len(text) <= _LONGEST and _VALUE.fullmatch(text) else _shortened(text, text)


def checked_label(text: str, *, what: str) -> str:
    """*text*, fit to name an object or a namespace.  Raises BadOption."""
    if not _fits(text):
        rule = "use lower-case letters, digits and '-', starting and ending with a letter or digit, 63 at most"
        raise BadOption(f"{text[:80]!r} cannot name a {what} on Kubernetes: {rule}.", hint=f"a {what} such as models or team-a")
    return text


def checked_host(text: str) -> str:
    """*text*, when it is a host's name in DNS.  Raises BadOption."""
    if len(text) > 253 or not _HOST.fullmatch(text):
        raise BadOption(f"{text[:80]!r} is not a host's name.", hint="--hostname models.example.org")
    return text


def checked_image(text: str) -> str:
    """*text*, when it is an image's reference: `registry/name:tag@sha256:…`.  Raises BadOption."""
    if len(text) > 512 or not _IMAGE.fullmatch(text):
        raise BadOption(f"{text[:80]!r} is not an image's reference.", hint="--image registry.example.org/delays:3")
    return text


def checked_key(text: str, *, what: str) -> str:
    """*text*, when it is a label's key: `name` or `prefix/name`.  Raises BadOption."""
    prefix, slash, name = text.rpartition("/")
    if not name or len(name) > _LONGEST or not _VALUE.fullmatch(name) or (slash and (len(prefix) > 253 or not _HOST.fullmatch(prefix) or "*" in prefix)):
        raise BadOption(f"{text[:80]!r} cannot be the key of a {what}.", hint=f"a {what} such as kubernetes.io/arch=arm64")
    return text


def checked_value(text: str, *, what: str) -> str:
    """*text*, when a label may have it as its value.  Raises BadOption."""
    if len(text) > _LONGEST or not _VALUE.fullmatch(text):
        raise BadOption(f"{text[:80]!r} cannot be the value of a {what}.", hint="letters, digits, '-', '_' and '.', 63 at most")
    return text


def _fits(name: str) -> bool:
    return len(name) <= _LONGEST and bool(_LABEL.fullmatch(name))


def _shortened(name: str, whole: str, *, most: int = 59) -> str:
    """The beginning of *name*, and a hash of all that it stands for: *most* characters."""
    said = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[: most - 11].strip("-")
    return f"{said}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}".lstrip("-")
