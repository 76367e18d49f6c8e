"""`mlops_nb.Client`: a frame in, a frame out, through the gateway with the endpoint's key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

import mlops_nb
from mlops_nb import gateway, keys
from mlops_nb.errors import InvocationFailed, SignatureMismatch
from mlops_nb.ports import free_port

from .scoring_servers import Running, wait_for


@pytest.fixture
def client(workspace: Any, python_server: Running) -> Iterator[mlops_nb.Client]:
    """A client of the pipeline behind a real gateway."""
    port = free_port()
    backend = gateway.Backend("1", python_server.spec["port"], python_server.token, 100)
    gateway.apply([gateway.Route("delays", keys.key("delays"), [backend])], port=port)
    handle = gateway.start(port)
    client = mlops_nb.Client("delays", url=f"http://127.0.0.1:{port}/delays", key=keys.key("delays"))
    wait_for(lambda: _answers(client), "the gateway's route")
    yield client
    client.close()
    gateway.stop(handle)


def _answers(client: mlops_nb.Client) -> bool:
    try:
        return bool(client.predict({"carrier": ["UA"], "distance": [1.0], "hour": [1]}))
    except mlops_nb.MlopsError:
        return False


@pytest.mark.parametrize("rows", [3, 300])
def test_a_frame_comes_back_as_a_frame_with_its_index(client: mlops_nb.Client, late: Pipeline, flights: pd.DataFrame, rows: int):
    """A few rows travel as JSON, many as bytes."""
    frame = flights.head(rows).set_index(pd.RangeIndex(100, 100 + rows))

    answer = client.predict(frame)

    assert (list(answer.columns), answer.index.tolist()) == (["label", "probabilities_0", "probabilities_1"], frame.index.tolist())
    np.testing.assert_array_equal(answer[["probabilities_0", "probabilities_1"]], late.predict_proba(frame))


def test_columns_come_back_as_arrays(client: mlops_nb.Client, late: Pipeline, flights: pd.DataFrame):
    answer = client.predict({name: flights[name].to_numpy() for name in flights}, outputs=["probabilities"])

    assert list(answer) == ["probabilities"]
    np.testing.assert_array_equal(answer["probabilities"], late.predict_proba(flights))


def test_the_servers_words_are_the_errors(client: mlops_nb.Client):
    with pytest.raises(InvocationFailed, match="Column 'hour'"):
        client.predict({"carrier": ["UA"], "distance": [1.0], "hour": [1.5]})


def test_what_no_request_can_carry_is_refused_before_it_is_sent(client: mlops_nb.Client):
    with pytest.raises(SignatureMismatch):
        client.predict(3)


def test_a_connection_closed_meanwhile_is_opened_anew(client: mlops_nb.Client, flights: pd.DataFrame):
    client.predict(flights.head(2))
    client._open.connection.sock.shutdown(2)

    assert len(client.predict(flights.head(2))) == 2


def test_its_key_is_in_no_text_of_it(client: mlops_nb.Client):
    assert keys.key("delays") not in repr(client)
