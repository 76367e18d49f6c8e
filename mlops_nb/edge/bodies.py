"""What stands in a message: JSON or CBOR, the rows of `/score` or the Open Inference Protocol's request; the answer is in the same.

A message says which by MQTT 5's content type; without one, its first byte tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..errors import MissingExtra, SignatureMismatch
from ..serving import protocol, score

if TYPE_CHECKING:
    import numpy as np

    from ..signature import Signature

JSON, CBOR = "application/json", "application/cbor"
MOST_BYTES = 64 << 20
_encode = msgspec.json.Encoder(enc_hook=protocol.plain).encode


class Asked(NamedTuple):
    """A request, read."""

    columns: dict[str, Any]
    infer: protocol.InferRequest | None
    """The request, where it was the Open Inference Protocol's."""


def kind_of(body: bytes, content_type: str | None) -> str:
    """JSON or CBOR.  Raises SignatureMismatch for another content type."""
    if content_type:
        plain = content_type.partition(";")[0].strip().lower()
        if plain == CBOR or plain.endswith("+cbor"):
            return CBOR
        if plain in (JSON, "text/json", "text/plain") or plain.endswith("+json"):
            return JSON
        raise SignatureMismatch(f"Content type {plain[:80]!r} is not taken.", hint=f"{JSON} or {CBOR}")
    return JSON if body.lstrip()[:1] in (b"{", b"[") else CBOR


def decode(body: bytes, kind: str) -> Any:
    """What *body* says.  Raises SignatureMismatch."""
    if len(body) > MOST_BYTES:
        raise SignatureMismatch(f"The message has {len(body)} bytes; {MOST_BYTES} are taken.")
    if kind == JSON:
        try:
            return score.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SignatureMismatch(f"The message is not JSON: {error}.") from None
    cbor2 = _cbor2()
    try:
        return cbor2.loads(body)
    except (cbor2.CBORDecodeError, ValueError, RecursionError, OverflowError, TypeError) as error:
        raise SignatureMismatch(f"The message is not CBOR: {error}.") from None


def asked(said: Any, signature: Signature | None) -> Asked:
    """Columns out of what was said.  Raises SignatureMismatch."""
    if isinstance(said, dict) and isinstance(said.get("inputs"), list) and said["inputs"] and all(_is_tensor(tensor) for tensor in said["inputs"]):
        try:
            infer = msgspec.convert(said, protocol.InferRequest)
        except msgspec.ValidationError as error:
            raise SignatureMismatch(f"The request is not as the protocol wants it: {error}.") from None
        return Asked(protocol.columns(infer, signature), infer)
    return Asked(score.columns(_rows(said), signature), None)


def id_of(said: Any) -> str:
    """The id that a body gives itself, if any."""
    given = said.get("id") if isinstance(said, dict) and _holds_rows(said) else None
    return str(given)[:200] if isinstance(given, str | int) and not isinstance(given, bool) else ""


def answer(outputs: Mapping[str, np.ndarray], request: Asked, *, model: str, version: str, id: str, kind: str) -> bytes:
    """The answer's body: by output name, or as the protocol words it.  Raises SignatureMismatch for an output that is not there."""
    if request.infer:
        body = protocol.answer(_without_binary(request.infer), id, model, version, outputs)[1]
        return body if kind == JSON else _cbor2().dumps(msgspec.json.decode(body))
    said = {"id": id, "model": f"{model}:{version}", "outputs": score.answer(outputs)}
    return encode(said, kind)


def encode(said: Any, kind: str) -> bytes:
    """*said* in JSON or CBOR."""
    return _encode(said) if kind == JSON else _cbor2().dumps(said, default=lambda encoder, value: encoder.encode(protocol.plain(value)))


def _rows(said: Any) -> Any:
    """The rows, without the id beside them."""
    return {name: value for name, value in said.items() if name != "id"} if isinstance(said, dict) and _holds_rows(said) else said


def _holds_rows(said: dict[str, Any]) -> bool:
    """Whether rows stand beside what else is said, so that `id` is no column."""
    return any(wrapper in said for wrapper in ("input_data", "inputs", "data", "dataframe_split", "dataframe_records", "instances"))


def _is_tensor(tensor: Any) -> bool:
    return isinstance(tensor, dict) and {"name", "shape", "datatype"} <= tensor.keys()


def _cbor2() -> Any:
    try:
        import cbor2
    except ImportError:
        raise MissingExtra("cbor2", extra="edge", doing="CBOR") from None
    return cbor2


def _without_binary(request: protocol.InferRequest) -> protocol.InferRequest:
    """The request, its outputs wanted as numbers: a message has no second part for bytes."""
    outputs = [protocol.Wanted(name=wanted.name) for wanted in request.outputs] if request.outputs else None
    return msgspec.structs.replace(request, parameters=None, outputs=outputs)
