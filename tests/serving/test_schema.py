"""Whatever the OpenAPI document allows, and much that it does not, is answered and never stumbled over."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from .scoring_servers import Running


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", ["/score", "/v2/models/delays/infer"])
def test_no_request_makes_the_server_stumble_and_answers_are_as_described(onnx_server: Running, path: str, mode: GenerationMode):
    token = {"x-mlops-token": onnx_server.token}
    schema = schemathesis.openapi.from_dict(onnx_server.client.get("/swagger.json").json())

    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    @settings(max_examples=60, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case) -> None:
        answer = case.call(base_url=onnx_server.url, headers=token)
        case.validate_response(answer, checks=[not_a_server_error, response_schema_conformance, content_type_conformance])

    ask()
