"""`/swagger.json`: what this deployment takes and gives, as OpenAPI 3.0 out of the signature."""

from __future__ import annotations

from typing import Any

from ..signature import Column, Signature
from .protocol import DATATYPES
from .spec import ServerSpec

_FORMATS = {"int32": "int32", "int64": "int64", "float32": "float", "float64": "double", "datetime": "date-time"}


def document(spec: ServerSpec, signature: Signature | None, outputs: list[Column]) -> dict[str, Any]:
    """The OpenAPI document; addresses are relative, so that it holds behind the gateway too."""
    takes = _body(signature) if signature and spec.engine != "script" else {"description": "The body that run(raw_data) reads."}
    gives = {"type": "object", "properties": {column.name: _list_of(column) for column in outputs}} if outputs else {}
    score = {
        "operationId": "score", "summary": f"Ask {spec.model}:{spec.version}.", "security": [{"key": []}],
        "requestBody": {"required": True, "content": {"application/json": _with_example(takes, signature)}},
        "responses": {"200": _said("The answer, by output name.", gives), "default": _said("What was wrong.", _ERROR)},
    }  # fmt: skip
    return {
        "openapi": "3.0.3",
        "info": {"title": spec.endpoint, "version": str(spec.version), "description": f"{spec.model}:{spec.version}, deployment {spec.deployment}"},
        "servers": [{"url": "."}],
        "paths": {"/score": {"post": score}} | ({f"/v2/models/{spec.endpoint}/infer": {"post": _infer(spec, signature)}} if spec.engine != "script" else {}),
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _infer(spec: ServerSpec, signature: Signature | None) -> dict[str, Any]:
    """The Open Inference Protocol's request and answer, in JSON."""
    named = {"enum": [column.name for column in signature.inputs]} if signature and signature.inputs else {}
    free = {"type": "object", "additionalProperties": True}
    tensor = {
        "type": "object", "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"type": "string", **named}, "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string", "enum": list(DATATYPES)}, "data": {"type": "array", "items": {}}, "parameters": free,
        },
    }  # fmt: skip
    wanted = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "parameters": free}}
    properties = {"id": {"type": "string"}, "parameters": free, "inputs": {"type": "array", "items": tensor}, "outputs": {"type": "array", "items": wanted}}
    takes = {"type": "object", "required": ["inputs"], "properties": properties}
    gives = {
        "type": "object", "required": ["model_name", "model_version", "id", "outputs"],
        "properties": {name: {"type": "string"} for name in ("model_name", "model_version", "id")} | {"outputs": {"type": "array", "items": tensor}},
    }  # fmt: skip
    return {
        "operationId": "infer", "summary": f"Ask {spec.model}:{spec.version} by the Open Inference Protocol.", "security": [{"key": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": takes}}},
        "responses": {"200": _said("The answer.", gives), "default": _said("What was wrong.", _ERROR)},
    }  # fmt: skip


_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


def _said(told: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": told, "content": {"application/json": {"schema": schema}}}


def _with_example(schema: dict[str, Any], signature: Signature | None) -> dict[str, Any]:
    sample = signature.sample if signature else None
    if not sample:
        return {"schema": schema}
    return {"schema": schema, "example": {"data": sample[:1]} if isinstance(sample, list) else {"inputs": {name: rows[:1] for name, rows in sample.items()}}}


def _body(signature: Signature) -> dict[str, Any]:
    if signature.kind == "tensors":
        names = [column.name for column in signature.inputs]
        inputs = {"type": "object", "properties": {column.name: _nested(column) for column in signature.inputs}, "required": names}
        return {"type": "object", "properties": {"inputs": inputs}, "required": ["inputs"]}
    record = {
        "type": "object",
        "properties": {column.name: _value(column) for column in signature.inputs},
        "required": [column.name for column in signature.inputs if not column.nullable],
        "additionalProperties": False,
    }
    return {"type": "object", "properties": {"data": {"type": "array", "items": record}}, "required": ["data"]}


def _value(column: Column) -> dict[str, Any]:
    if column.type == "json":
        return {}
    kind = "boolean" if column.type == "bool" else "string" if column.type in ("string", "datetime") else "integer" if "int" in column.type else "number"
    schema: dict[str, Any] = {"type": kind} | ({"format": _FORMATS[column.type]} if column.type in _FORMATS else {})
    return schema | ({"minimum": 0} if column.type.startswith("uint") else {}) | ({"nullable": True} if column.nullable else {})


def _list_of(column: Column) -> dict[str, Any]:
    return _nested(column) if column.shape else {"type": "array", "items": _value(column)}


def _nested(column: Column) -> dict[str, Any]:
    schema = _value(column)
    for size in reversed(column.shape or [None]):
        schema = {"type": "array", "items": schema} | ({"minItems": size, "maxItems": size} if size is not None else {})
    return schema
