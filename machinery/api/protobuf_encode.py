"""Kubernetes protobuf, written from the dicts of JSON: for clients that take nothing else.

The numbers of fields are those that protobuf.py reads by.
Source of the form: https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
"""

import base64
import struct
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from machinery.api.meta import parse_time
from machinery.api.protobuf import MAGIC, Field, message_name, messages

_VARINT, _DOUBLE, _BYTES = 0, 1, 2


def encode(obj: Mapping[str, Any]) -> bytes:
    """Return an object in its envelope. Raises: ValueError for kinds that have no message."""
    version, kind = str(obj.get("apiVersion", "")), str(obj.get("kind", ""))
    name = message_name(version, kind)
    if not name:
        raise ValueError(f"{kind} in {version} has no protobuf form")
    about = text(1, version) + text(2, kind)
    return MAGIC + part(1, about) + part(2, _message(obj, name)) + text(3, "") + text(4, "")


def watch_frame(type_: str, obj: Mapping[str, Any]) -> bytes:
    """Return one event of a watch: its length in four bytes, then a meta/v1 WatchEvent."""
    event = text(1, type_) + part(2, part(1, encode(obj)))
    return struct.pack(">I", len(event)) + event


def _message(obj: Any, name: str) -> bytes:
    special = _SPECIAL.get(name)
    if special is not None:
        return special(obj)
    found = bytearray()
    for number, field in messages()[name].items():
        if field.inline:
            found += part(number, _message(obj, field.kind))
        elif (value := obj.get(field.name)) is not None:
            found += _field(number, field, value)
    return bytes(found)


def _field(number: int, field: Field, value: Any) -> bytes:
    if field.form == "*":
        return b"".join(_value(number, field.kind, one) for one in value)
    if field.form == "{":
        return b"".join(part(number, text(1, key) + _value(2, field.kind, one)) for key, one in value.items())
    return _value(number, field.kind, value)


def _value(number: int, kind: str, value: Any) -> bytes:
    match kind:
        case "s":
            return text(number, value)
        case "b":
            return truth(number, value)
        case "i":
            return whole(number, int(value))
        case "d":
            return _tag(number, _DOUBLE) + struct.pack("<d", value)
        case "y":
            return part(number, base64.b64decode(value))
    return part(number, _message(value, kind))


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative ones in two's complement
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def part(number: int, data: bytes) -> bytes:
    """Return a field that holds a message or bytes."""
    return _tag(number, _BYTES) + _varint(len(data)) + data


def text(number: int, value: str) -> bytes:
    """Return a field that holds text."""
    return part(number, value.encode())


def truth(number: int, value: bool) -> bytes:
    """Return a field that holds a truth."""
    return _tag(number, _VARINT) + (b"\x01" if value else b"\x00")


def whole(number: int, value: int) -> bytes:
    """Return a field that holds a whole number."""
    return _tag(number, _VARINT) + _varint(value)


def _quantity(value: Any) -> bytes:
    return text(1, str(value))


def _int_or_string(value: Any) -> bytes:
    of_text = isinstance(value, str)
    number, words = (0, value) if of_text else (value, "")
    return whole(1, int(of_text)) + whole(2, number) + text(3, words)


def _time(value: str) -> bytes:
    moment = parse_time(value)
    return _value(1, "i", int(moment.timestamp())) + _value(2, "i", moment.microsecond * 1000)


def _json(value: Any) -> bytes:
    return part(1, orjson.dumps(value))


def _listed(value: Any) -> bytes:
    return b"".join(text(1, one) for one in value)


def _schema_or_array(value: Any) -> bytes:
    name = "apiextensions.v1.JSONSchemaProps"
    if isinstance(value, list):
        return b"".join(part(2, _message(one, name)) for one in value)
    return part(1, _message(value, name))


def _schema_or_bool(value: Any) -> bytes:
    if isinstance(value, bool):
        return _value(1, "b", value)
    return _value(1, "b", True) + part(2, _message(value, "apiextensions.v1.JSONSchemaProps"))


def _schema_or_names(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(text(2, one) for one in value)
    return part(1, _message(value, "apiextensions.v1.JSONSchemaProps"))


_SPECIAL: dict[str, Callable[[Any], bytes]] = {
    "resource.Quantity": _quantity, "intstr.IntOrString": _int_or_string, "meta.v1.Time": _time,
    "meta.v1.MicroTime": _time, "meta.v1.FieldsV1": _json, "runtime.RawExtension": _json,
    "apiextensions.v1.JSON": _json,
    "meta.v1.Verbs": _listed, "authentication.v1.ExtraValue": _listed, "authorization.v1.ExtraValue": _listed,
    "certificates.v1.ExtraValue": _listed, "apiextensions.v1.JSONSchemaPropsOrArray": _schema_or_array,
    "apiextensions.v1.JSONSchemaPropsOrBool": _schema_or_bool,
    "apiextensions.v1.JSONSchemaPropsOrStringArray": _schema_or_names,
}  # fmt: skip
