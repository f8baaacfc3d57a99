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
    about = _text(1, version) + _text(2, kind)
    return MAGIC + _part(1, about) + _part(2, _message(obj, name)) + _text(3, "") + _text(4, "")


def watch_frame(type_: str, obj: Mapping[str, Any]) -> bytes:
    """Return one event of a watch: its length in four bytes, then a meta/v1 WatchEvent."""
    event = _text(1, type_) + _part(2, _part(1, encode(obj)))
    return struct.pack(">I", len(event)) + event


def _message(obj: Any, name: str) -> bytes:
    special = _SPECIAL.get(name)
    if special is not None:
        return special(obj)
    found = bytearray()
    for number, field in messages()[name].items():
        if field.inline:
            found += _part(number, _message(obj, field.kind))
        elif (value := obj.get(field.name)) is not None:
            found += _field(number, field, value)
    return bytes(found)


def _field(number: int, field: Field, value: Any) -> bytes:
    if field.form == "*":
        return b"".join(_value(number, field.kind, one) for one in value)
    if field.form == "{":
        return b"".join(_part(number, _text(1, key) + _value(2, field.kind, one)) for key, one in value.items())
    return _value(number, field.kind, value)


def _value(number: int, kind: str, value: Any) -> bytes:
    match kind:
        case "s":
            return _text(number, value)
        case "b":
            return _tag(number, _VARINT) + (b"\x01" if value else b"\x00")
        case "i":
            return _tag(number, _VARINT) + _varint(int(value))
        case "d":
            return _tag(number, _DOUBLE) + struct.pack("<d", value)
        case "y":
            return _part(number, base64.b64decode(value))
    return _part(number, _message(value, kind))


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


def _part(number: int, data: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(data)) + data


def _text(number: int, text: str) -> bytes:
    return _part(number, text.encode())


def _quantity(value: Any) -> bytes:
    return _text(1, str(value))


def _int_or_string(value: Any) -> bytes:
    of_text = isinstance(value, str)
    number, text = (0, value) if of_text else (value, "")
    return _value(1, "i", int(of_text)) + _value(2, "i", number) + _text(3, text)


def _time(value: str) -> bytes:
    moment = parse_time(value)
    return _value(1, "i", int(moment.timestamp())) + _value(2, "i", moment.microsecond * 1000)


def _json(value: Any) -> bytes:
    return _part(1, orjson.dumps(value))


def _listed(value: Any) -> bytes:
    return b"".join(_text(1, one) for one in value)


def _schema_or_array(value: Any) -> bytes:
    name = "apiextensions.v1.JSONSchemaProps"
    if isinstance(value, list):
        return b"".join(_part(2, _message(one, name)) for one in value)
    return _part(1, _message(value, name))


def _schema_or_bool(value: Any) -> bytes:
    if isinstance(value, bool):
        return _value(1, "b", value)
    return _value(1, "b", True) + _part(2, _message(value, "apiextensions.v1.JSONSchemaProps"))


def _schema_or_names(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(_text(2, one) for one in value)
    return _part(1, _message(value, "apiextensions.v1.JSONSchemaProps"))


_SPECIAL: dict[str, Callable[[Any], bytes]] = {
    "resource.Quantity": _quantity, "intstr.IntOrString": _int_or_string, "meta.v1.Time": _time,
    "meta.v1.MicroTime": _time, "meta.v1.FieldsV1": _json, "runtime.RawExtension": _json,
    "apiextensions.v1.JSON": _json,
    "meta.v1.Verbs": _listed, "authentication.v1.ExtraValue": _listed, "authorization.v1.ExtraValue": _listed,
    "certificates.v1.ExtraValue": _listed, "apiextensions.v1.JSONSchemaPropsOrArray": _schema_or_array,
    "apiextensions.v1.JSONSchemaPropsOrBool": _schema_or_bool,
    "apiextensions.v1.JSONSchemaPropsOrStringArray": _schema_or_names,
}  # fmt: skip
