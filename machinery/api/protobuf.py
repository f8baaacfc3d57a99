"""Kubernetes protobuf, read into the dicts that its JSON would give. kubectl's typed commands send it.

The numbers of fields stand in protobuf_fields.txt, one message a line: `name=NUMBER` and what it holds: s text,
b truth, i whole number, d real number, y bytes, `:message`; `*` before it for lists, `{` for maps from text; `+` before
a name whose fields JSON shows in its parent; `?` behind for what JSON shows also when it is zero or empty (pointers and
required fields of the types), where a zero of others is only what is not set.
Source of the form: https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
"""

import base64
import functools
import importlib.resources
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

MAGIC = b"k8s\x00"
_MAX_DEPTH = 100


class Field(NamedTuple):
    """One field of a message."""

    name: str
    kind: str  # s b i d y, or a message's name
    form: str  # "", "*" or "{"
    inline: bool
    keeps_zero: bool


@functools.cache
def messages() -> dict[str, dict[int, Field]]:
    """Return the fields of each message by number."""
    text = (importlib.resources.files("machinery.api") / "protobuf_fields.txt").read_text()
    found: dict[str, dict[int, Field]] = {}
    for line in text.splitlines():
        message, *fields = line.split()
        found[message] = dict(_field(field) for field in fields)
    return found


def _field(text: str) -> tuple[int, Field]:
    name, _, rest = text.partition("=")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    form = rest[digits] if rest[digits] in "*{" else ""
    kind = rest[digits + len(form) :].removeprefix(":").removesuffix("?")
    return int(rest[:digits]), Field(name.removeprefix("+"), kind, form, name.startswith("+"), rest.endswith("?"))


def decode(body: bytes) -> dict[str, Any]:
    """Return the object of a body. Raises: ValueError when it is malformed, or of a kind that is not known."""
    if not body.startswith(MAGIC):
        raise ValueError("provided data does not appear to be a protobuf message, expected prefix 'k8s\\x00'")
    try:
        envelope = {number: value for number, _, value in _fields(memoryview(body)[len(MAGIC) :])}
        about = {number: bytes(value).decode() for number, _, value in _fields(envelope.get(1, memoryview(b"")))}
        version, kind = about.get(1, ""), about.get(2, "")
        obj = _message(envelope.get(2, memoryview(b"")), _known_name(version, kind), 0)
    except (IndexError, struct.error, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"malformed protobuf: {error}") from error
    return {"kind": kind, "apiVersion": version, **obj}


def message_name(version: str, kind: str) -> str:
    """Return the name of a kind's message; empty when there is none."""
    group, _, number = version.rpartition("/")
    if "." not in group or group.endswith("k8s.io"):
        for name in (f"{group.partition('.')[0] or 'core'}.{number}.{kind}", f"meta.v1.{kind}"):
            if name in messages():
                return name
    return ""


def _known_name(version: str, kind: str) -> str:
    name = message_name(version, kind)
    if not name:
        raise ValueError(f'no kind "{kind}" is registered for version "{version}"')
    return name


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield number, wire type and raw value of each field. Raises: IndexError, ValueError at a malformed one."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, wire, value
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            if at + size > end:
                raise ValueError("malformed protobuf: a number is cut off")
            yield number, wire, data[at : at + size]
            at += size
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("malformed protobuf: a field is cut off")
            yield number, wire, data[at : at + size]
            at += size
        else:
            raise ValueError(f"malformed protobuf: wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("malformed protobuf: a number is too long")


def _message(data: memoryview, name: str, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise ValueError("malformed protobuf: nested too deeply")
    known = messages().get(name, {})
    found: dict[str, Any] = {}
    for number, wire, raw in _fields(data):
        field = known.get(number)
        if field is None:
            continue  # of a newer level than ours
        if field.inline:
            found.update(_message(raw, field.kind, depth + 1))
        elif field.form == "{":
            key, value = _entry(raw, field.kind, depth)
            found.setdefault(field.name, {})[key] = value
        elif field.form == "*":
            found.setdefault(field.name, []).extend(_items(raw, wire, field.kind, depth))
        else:
            value = _value(raw, wire, field.kind, depth)
            if value or isinstance(value, dict) or (field.keeps_zero and value is not None):
                found[field.name] = value
    return found


def _items(raw: Any, wire: int, kind: str, depth: int) -> list[Any]:
    if kind in "bi" and wire == 2:
        numbers, at = [], 0
        while at < len(raw):
            value, at = _varint(raw, at)
            numbers.append(_value(value, 0, kind, depth))
        return numbers
    return [_value(raw, wire, kind, depth)]


def _entry(raw: Any, kind: str, depth: int) -> tuple[str, Any]:
    key: str = ""
    value: Any = _value(memoryview(b""), 2, kind, depth) if kind not in ("b", "i", "d") else 0
    for number, wire, part in _fields(raw):
        if number == 1:
            key = bytes(part).decode()
        elif number == 2:
            value = _value(part, wire, kind, depth)
    return key, value


def _value(raw: Any, wire: int, kind: str, depth: int) -> Any:
    match kind:
        case "s":
            return bytes(raw).decode()
        case "b":
            return bool(raw)
        case "i":
            return raw - (1 << 64) if raw >= 1 << 63 else raw
        case "d":
            return struct.unpack("<d", raw)[0] if wire == 1 else float(raw)
        case "y":
            return base64.b64encode(raw).decode()
    special = _SPECIAL.get(kind)
    return special(raw, depth) if special is not None else _message(raw, kind, depth + 1)


def _quantity(raw: Any, depth: int) -> str:
    return str(_message(raw, "resource.Quantity", depth).get("string", "0"))


def _int_or_string(raw: Any, depth: int) -> int | str:
    found = _message(raw, "intstr.IntOrString", depth)
    return str(found.get("strVal", "")) if found.get("type") else int(found.get("intVal", 0))


def _time(raw: Any, depth: int) -> str | None:
    found = _message(raw, "meta.v1.Time", depth)
    seconds = found.get("seconds", 0)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def _micro_time(raw: Any, depth: int) -> str | None:
    found = _message(raw, "meta.v1.Time", depth)
    if not found.get("seconds"):
        return None
    moment = datetime.fromtimestamp(found["seconds"], UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{found.get('nanos', 0) // 1000:06}Z"


def _json(raw: Any, depth: int) -> Any:
    for number, _, part in _fields(raw):
        if number == 1:
            return orjson.loads(bytes(part))
    return {}


def _listed(raw: Any, depth: int) -> list[str]:
    return [bytes(part).decode() for number, _, part in _fields(raw) if number == 1]


def _schema_or_array(raw: Any, depth: int) -> Any:
    found = _message(raw, "apiextensions.v1.JSONSchemaPropsOrArray", depth + 1)
    return found["schemas"] if "schemas" in found else found.get("schema")


def _schema_or_bool(raw: Any, depth: int) -> Any:
    found = _message(raw, "apiextensions.v1.JSONSchemaPropsOrBool", depth + 1)
    return found.get("schema", found.get("allows", False))


def _schema_or_names(raw: Any, depth: int) -> Any:
    found = _message(raw, "apiextensions.v1.JSONSchemaPropsOrStringArray", depth + 1)
    return found["property"] if "property" in found else found.get("schema")


_SPECIAL = {
    "resource.Quantity": _quantity, "intstr.IntOrString": _int_or_string, "meta.v1.Time": _time,
    "meta.v1.MicroTime": _micro_time, "meta.v1.FieldsV1": _json, "runtime.RawExtension": _json,
    "meta.v1.Verbs": _listed, "authentication.v1.ExtraValue": _listed, "authorization.v1.ExtraValue": _listed,
    "certificates.v1.ExtraValue": _listed, "apiextensions.v1.JSON": _json,
    "apiextensions.v1.JSONSchemaPropsOrArray": _schema_or_array,
    "apiextensions.v1.JSONSchemaPropsOrBool": _schema_or_bool,
    "apiextensions.v1.JSONSchemaPropsOrStringArray": _schema_or_names,
}  # fmt: skip
