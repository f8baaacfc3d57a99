"""OpenAPI v2 in protobuf, as older kubectl and helm read it.

The numbers are those of the messages in gnostic's OpenAPIv2.proto, of which clients read what is here.
Source: https://github.com/google/gnostic/blob/main/openapiv2/OpenAPIv2.proto
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from machinery.api.protobuf_encode import part, text, truth, whole

_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}
_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_NUMBERS = {"multipleOf": 6, "maximum": 7, "minimum": 9}
_TRUTHS = {"exclusiveMaximum": 8, "exclusiveMinimum": 10, "uniqueItems": 16}
_WHOLE = {
    "maxLength": 11, "minLength": 12, "maxItems": 14, "minItems": 15, "maxProperties": 17, "minProperties": 18,
}  # fmt: skip


def encode(document: Mapping[str, Any]) -> bytes:
    """Return a document as an openapi.v2.Document."""
    info = document.get("info") or {}
    paths = b"".join(part(2, _named(path, _path(item))) for path, item in document["paths"].items())
    definitions = _all_named(document["definitions"], _schema)
    return (
        text(1, document["swagger"]) + part(2, text(1, info.get("title", "")) + text(2, info.get("version", "")))
        + part(8, paths) + part(9, definitions)
    )  # fmt: skip


def _named(name: str, value: bytes) -> bytes:
    return text(1, name) + part(2, value)


def _all_named(values: Mapping[str, Any], encoded: Callable[[Any], bytes]) -> bytes:
    return b"".join(part(1, _named(name, encoded(value))) for name, value in values.items())


def _any(value: Any) -> bytes:
    """Return a value as YAML, of which JSON is a part."""
    return text(2, orjson.dumps(value).decode())


def _extensions(number: int, values: Mapping[str, Any]) -> Iterator[bytes]:
    for name, value in values.items():
        if name.startswith("x-"):
            yield part(number, _named(name, _any(value)))


def _path(item: Mapping[str, Any]) -> bytes:
    operations = [part(number, _operation(item[method])) for method, number in _METHODS.items() if method in item]
    return b"".join([*operations, *(part(9, part(1, _parameter(one))) for one in item.get("parameters") or ())])


def _operation(operation: Mapping[str, Any]) -> bytes:
    parameters = (part(8, part(1, _parameter(one))) for one in operation.get("parameters") or ())
    responses = (operation.get("responses") or {}).items()
    listed = b"".join(part(1, _named(code, part(1, _response(response)))) for code, response in responses)
    found = [text(5, operation.get("operationId", "")), *parameters, part(9, listed)]
    return b"".join([*found, *_extensions(13, operation)])


def _response(response: Mapping[str, Any]) -> bytes:
    schema = response.get("schema")
    told = text(1, response.get("description", ""))
    return told + (part(2, part(1, _schema(schema))) if schema else b"")


def _parameter(parameter: Mapping[str, Any]) -> bytes:
    name = parameter["name"]
    if parameter["in"] == "body":
        return part(1, text(2, name) + text(3, "body") + truth(4, True) + part(5, _schema(parameter["schema"])))
    unique, told = bool(parameter.get("uniqueItems")), text(2, parameter["in"]) + text(4, name)
    if parameter["in"] == "path":
        return part(2, part(4, truth(1, True) + told + text(5, parameter["type"]) + truth(19, unique)))
    return part(2, part(3, told + text(6, parameter["type"]) + truth(20, unique)))


def _schema(schema: Mapping[str, Any]) -> bytes:
    return b"".join(_schema_parts(schema))


def _schema_parts(schema: Mapping[str, Any]) -> Iterator[bytes]:
    yield from _simple_parts(schema)
    yield from (text(19, name) for name in schema.get("required") or ())
    yield from (part(20, _any(value)) for value in schema.get("enum") or ())
    if "default" in schema:
        yield part(5, _any(schema["default"]))
    if (more := schema.get("additionalProperties")) is not None:
        yield part(21, truth(2, more) if isinstance(more, bool) else part(1, _schema(more)))
    if given := schema.get("type"):
        yield part(22, b"".join(text(1, one) for one in _listed(given)))
    if (items := schema.get("items")) is not None:
        yield part(23, b"".join(part(1, _schema(one)) for one in _listed(items)))
    yield from (part(24, _schema(one)) for one in schema.get("allOf") or ())
    if properties := schema.get("properties"):
        yield part(25, _all_named(properties, _schema))
    yield from _extensions(31, schema)


def _simple_parts(schema: Mapping[str, Any]) -> Iterator[bytes]:
    for name, number in _TEXTS.items():
        if schema.get(name):
            yield text(number, schema[name])
    for name, number in _NUMBERS.items():
        if schema.get(name) is not None:
            yield bytes([number << 3 | 1]) + struct.pack("<d", schema[name])
    for name, number in _TRUTHS.items():
        if schema.get(name):
            yield truth(number, True)
    for name, number in _WHOLE.items():
        if schema.get(name) is not None:
            yield whole(number, schema[name])


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]
