"""What comes in a message: JSON and CBOR, sound or not."""

from __future__ import annotations

from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb import signature
from mlops_nb.edge import bodies, twin
from mlops_nb.errors import BadOption, SignatureMismatch

TABLE = signature.infer({"age": np.array([1, 2]), "name": np.array(["a", "b"], dtype=object)})
INFER = {
    "id": "7",
    "inputs": [{"name": "age", "shape": [1], "datatype": "INT64", "data": [40]}, {"name": "name", "shape": [1], "datatype": "BYTES", "data": ["x"]}],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
}


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b' {"a": 1}', None, bodies.JSON),
        (b"[1]", None, bodies.JSON),
        (cbor2.dumps({"a": 1}), None, bodies.CBOR),
        (cbor2.dumps([1]), "application/cbor", bodies.CBOR),
        (b"{}", "application/vnd.x+json; charset=utf-8", bodies.JSON),
    ],
)
def test_the_content_type_says_what_it_is_and_else_the_first_byte(body: bytes, content_type: str | None, kind: str) -> None:
    assert bodies.kind_of(body, content_type) == kind


def test_another_content_type_is_refused() -> None:
    with pytest.raises(SignatureMismatch, match=r"image/png.*not taken"):
        bodies.kind_of(b"x", "image/png")


@pytest.mark.parametrize("kind", [bodies.JSON, bodies.CBOR])
def test_a_request_of_the_open_inference_protocol_is_answered_as_one(kind: str) -> None:
    asked = bodies.asked(bodies.decode(bodies.encode(INFER, kind), kind), TABLE)
    said = bodies.decode(bodies.answer({"y": np.array([1.5])}, asked, model="m", version="3", id="7", kind=kind), kind)

    assert asked.columns == {"age": [40], "name": ["x"]}
    assert (said["model_name"], said["model_version"], said["id"]) == ("m", "3", "7")
    assert said["outputs"] == [{"name": "y", "shape": [1], "datatype": "FP64", "data": [1.5]}]


def test_an_id_stands_beside_rows_and_is_no_column() -> None:
    said = {"id": 12, "data": [{"age": 1, "name": "a"}]}
    assert bodies.id_of(said) == "12"
    assert bodies.asked(said, TABLE).columns == {"age": [1], "name": ["a"]}
    assert bodies.id_of([{"id": 1}]) == bodies.id_of({"id": "column"}) == ""


def _read(body: bytes, kind: str) -> None:
    try:
        TABLE.check(bodies.asked(bodies.decode(body, kind), TABLE).columns)
    except SignatureMismatch:
        pass


@given(st.binary(max_size=200), st.sampled_from([bodies.JSON, bodies.CBOR]))
def test_no_bytes_are_more_than_a_wrong_request(body: bytes, kind: str) -> None:
    _read(body, kind)


_words = st.sampled_from(["data", "inputs", "id", "age", "name", "columns", "shape", "datatype"])
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["data", "inputs", "id", "age", "name", "columns", "shape", "datatype"]), inner)
    ),
)


@given(_anything)
def test_nothing_that_cbor_can_say_is_more_than_a_wrong_request(said: Any) -> None:
    _read(cbor2.dumps(said), bodies.CBOR)


@given(st.binary(), st.text())
def test_a_desired_state_is_read_only_when_it_is_signed(body: bytes, mac: str) -> None:
    with pytest.raises(BadOption):
        twin.read_desired(body, mac, key=b"key", device="gate-1")
    with pytest.raises(BadOption):
        twin.read_desired(body, twin.sign(body, b"key", device="gate-2"), key=b"key", device="gate-1")


@given(st.text())
def test_no_topic_leads_to_the_twins_or_to_several(topic: str) -> None:
    try:
        twin.checked_topic(topic, what="a topic")
    except BadOption:
        return
    assert not topic.startswith(("mlops/", "$")) and not set("+#\0") & set(topic)
