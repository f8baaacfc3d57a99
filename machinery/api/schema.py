"""The shape of every built-in type, compiled from the public OpenAPI definitions of the API level.

One walk over an object checks its types, drops what the type does not know (and says so), drops nulls as a typed
decoder would, and brings quantities to their canonical form. The same compiled shapes drive strategic merge patch.
Source: the package `kubernetes-validate`, which carries the definitions of each Kubernetes release.
"""

import functools
import importlib.util
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson

from machinery.api.quantity import canonical

API_LEVEL = "v1.36.0"
REFERENCE = "#/$defs/"
# Depth of nesting a body may have; a chain of owners' fields never comes near it.
MAX_DEPTH = 200

# Stands around keys of maps in paths; Go tells of fields alone, and neither of keys nor of places in lists.
_KEY = "\0"
_MARKED_KEY = re.compile(r"\.\0([^\0]*)\0")
_NO_FIELD = re.compile(r"\.\0[^\0]*\0|\[\d+\]")
_QUANTITY_RULE = "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_QUANTITY = re.compile(_QUANTITY_RULE[1:-1])
_GO_INTEGER = {"int32": "int32", "int64": "int64", None: "int"}
_JSON_NAMES = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}


class SchemaMismatch(ValueError):
    """A value is of another type than its field; the message is worded as a Go JSON decoder words it."""


@dataclass(slots=True)
class Shape:
    """One type: what it holds, and how lists and maps in it merge.

    `form` is one of object, map, array, string, time, integer, number, boolean, int-or-string, quantity, any.
    """

    form: str
    name: str = ""
    fields: dict[str, "Shape"] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    items: "Shape | None" = None
    integer: str = ""
    merge_key: str = ""
    merges: bool = False
    retains_keys: bool = False
    list_type: str = ""
    map_keys: tuple[str, ...] = ()
    atomic: bool = False
    demanding: "dict[str, Shape] | None" = None  # its fields that have required ones within; None until first asked
    preserves: bool = False  # an object that keeps fields it does not know, of any form (custom resources)

    def go_type(self) -> str:
        """Return the Go name of this type, for messages."""
        match self.form:
            case "array":
                return "[]" + (self.items.go_type() if self.items else "interface {}")
            case "map":
                return "map[string]" + (self.items.go_type() if self.items else "interface {}")
            case "object":
                return f"v1.{self.name}"
            case "boolean":
                return "bool"
            case "integer":
                return self.integer
            case "int-or-string":
                return "int32"
            case "number":
                return "float64"
            case _:
                return self.form


@dataclass(slots=True)
class Findings:
    """What a walk found that a strict reader would refuse."""

    unknown: list[str] = field(default_factory=list)


class _File(msgspec.Struct):
    """The file of definitions, each of them left as it stands there."""

    defs: dict[str, msgspec.Raw] = msgspec.field(name="$defs")


class _Definitions(Mapping[str, Any]):
    """The definitions, each decoded when it is asked for: all of them as dicts take six times the file's size.

    The file is mapped, so that of what nobody asks for not even the text is in memory.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            text = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._raw = msgspec.json.decode(text, type=_File).defs
        text.madvise(mmap.MADV_DONTNEED)

    def __getitem__(self, name: str) -> Any:
        return orjson.loads(memoryview(self._raw[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


@functools.cache
def definitions() -> Mapping[str, Any]:
    """Return the raw OpenAPI definitions of the API level, by full name ("io.k8s.api.core.v1.Pod")."""
    # Found and not imported: the package would load a validator that nobody here uses.
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("kubernetes_validate")
    root = Path(spec.submodule_search_locations[0]) / "kubernetes-json-schema"
    return _Definitions(root / f"{API_LEVEL}-local" / "_definitions.json")


_compiled: dict[str, Shape] = {}


def shape_of(definition: str) -> Shape:
    """Return the compiled shape of a definition. Raises: KeyError when there is none."""
    shape = _compiled.get(definition)
    if shape is None:
        shape = _compiled[definition] = Shape("any", definition.rpartition(".")[2])  # first: types may hold themselves
        _fill(shape, definitions()[definition], definition)
    return shape


def _fill(shape: Shape, raw: Mapping[str, Any], definition: str = "") -> None:
    if definition.endswith("api.resource.Quantity"):
        shape.form = "quantity"
        return
    if "oneOf" in raw:
        shape.form = "int-or-string"
        return
    if (head := definition.partition("PropsOr")[0]).endswith(".JSONSchema") and head != definition:
        shape.items = shape_of(f"{head}Props")  # a schema, or something simpler
        return
    kind = _type_name(raw)
    if kind == "object":
        _fill_object(shape, raw)
    elif kind == "array":
        shape.form = "array"
        shape.items = _field_shape(raw["items"])
    elif kind == "integer":
        shape.form, shape.integer = "integer", _GO_INTEGER.get(raw.get("format"), "int")
    elif kind == "string" and raw.get("format") == "date-time":
        shape.form = "time"
    elif kind in ("string", "number", "boolean"):
        shape.form = kind


def _fill_object(shape: Shape, raw: Mapping[str, Any]) -> None:
    if "properties" in raw:
        shape.form = "object"
        shape.fields = {name: _field_shape(value) for name, value in raw["properties"].items()}
        shape.required = tuple(raw.get("required", ()))
    elif "additionalProperties" in raw:
        shape.form = "map"
        shape.items = _field_shape(raw["additionalProperties"])
    shape.atomic = raw.get("x-kubernetes-map-type") == "atomic"


def _type_name(raw: Mapping[str, Any]) -> str:
    kind = raw.get("type", "")
    return next((one for one in kind if one != "null"), "") if isinstance(kind, list) else str(kind)


def _field_shape(raw: Mapping[str, Any]) -> Shape:
    """Return the shape of one field: that of its type, with the merge rules of the field itself."""
    if "$ref" not in raw:
        shape = Shape("any")
        _fill(shape, raw)
    else:
        target = shape_of(raw["$ref"].removeprefix(REFERENCE))
        if not any(rule.startswith("x-kubernetes-") for rule in raw):
            return target
        shape = _Alias(target)
    _add_merge_rules(shape, raw)
    return shape


def _Alias(target: Shape) -> Shape:  # noqa: N802 - reads as a constructor: the same type under other merge rules
    return Shape(
        target.form, target.name, target.fields, target.required, target.items, target.integer, atomic=target.atomic
    )


def _add_merge_rules(shape: Shape, raw: Mapping[str, Any]) -> None:
    strategies = str(raw.get("x-kubernetes-patch-strategy", "")).split(",")
    shape.merges = "merge" in strategies
    shape.retains_keys = "retainKeys" in strategies
    shape.merge_key = raw.get("x-kubernetes-patch-merge-key", "")
    shape.list_type = raw.get("x-kubernetes-list-type", "")
    shape.map_keys = tuple(raw.get("x-kubernetes-list-map-keys", ()))
    shape.atomic = shape.atomic or raw.get("x-kubernetes-map-type") == "atomic"


def conform(value: dict[str, Any], shape: Shape) -> Findings:
    """Bring `value` in place to what a typed decoder would have read of it.

    Returns: the paths of fields the type does not know; they are gone from `value`.
    Raises: SchemaMismatch when a field holds another type than it should.
    """
    findings = Findings()
    _conform_object(value, shape, "", findings)
    findings.unknown = [_MARKED_KEY.sub(r".\1", path) for path in findings.unknown]
    return findings


_EXACT = {"string": str, "integer": int, "boolean": bool}


def _conform_object(value: dict[str, Any], shape: Shape, path: str, findings: Findings) -> None:
    fields = shape.fields
    dropped: list[str] = []
    for name, item in value.items():
        child = fields.get(name)
        if child is None:
            findings.unknown.append(f"{path}.{name}" if path else name)
            dropped.append(name)
        elif item is None:
            if child.form != "any":
                dropped.append(name)
        elif (exact := _EXACT.get(child.form)) is not None:  # most fields; the rest take the longer way
            if type(item) is not exact or (type(item) is int and not _fits(item, child)):
                raise _mismatch(item, child, shape.name, f"{path}.{name}" if path else name)
        else:
            at = f"{path}.{name}" if path else name
            value[name] = _conform_value(item, child, shape.name, at, findings)
    for name in dropped:
        del value[name]


def _conform_value(item: Any, shape: Shape, owner: str, path: str, findings: Findings) -> Any:
    form, kind = shape.form, type(item)
    if form == "object" and kind is dict:
        _conform_object(item, shape, path, findings)
    elif form == "map" and kind is dict:
        _conform_map(item, shape, owner, path, findings)
    elif form == "array" and kind is list:
        _conform_array(item, shape, owner, path, findings)
    elif form == "any" and shape.items is not None:
        _conform_alternative(item, shape.items, path, findings)
    elif form == "quantity" and kind in (str, int, float):
        return _conform_quantity(item)
    elif form == "time" and kind is str:
        _check_time(item)
    elif not _is_scalar(form, kind) or (kind is int and not _fits(item, shape)):
        raise _mismatch(item, shape, owner, path)
    return item


def _fits(number: int, shape: Shape) -> bool:
    """Whether Go's type of a field holds a whole number."""
    if -0x80000000 <= number <= 0x7FFFFFFF:
        return True
    if shape.form == "int-or-string" or (shape.form == "integer" and shape.integer == "int32"):
        return False
    return shape.form != "integer" or -(2**63) <= number < 2**63


def _conform_alternative(item: Any, shape: Shape, path: str, findings: Findings) -> None:
    """A schema, a list of schemas, or a value that needs no look."""
    for one in item if isinstance(item, list) else [item]:
        if isinstance(one, dict):
            _conform_object(one, shape, path, findings)


def _is_scalar(form: str, kind: type) -> bool:
    match form:
        case "any":
            return True
        case "string":
            return kind is str
        case "integer":
            return kind is int
        case "boolean":
            return kind is bool
        case "number":
            return kind in (int, float)
        case "int-or-string":
            return kind in (int, str)
        case _:
            return False


def _conform_map(item: dict[str, Any], shape: Shape, owner: str, path: str, findings: Findings) -> None:
    values = shape.items
    if values is None:
        return
    for key, one in item.items():
        if one is None:
            item[key] = _zero(values)
        elif not (values.form == "string" and type(one) is str):
            item[key] = _conform_value(one, values, owner, f"{path}.{_KEY}{key}{_KEY}", findings)


def _zero(shape: Shape) -> Any:
    match shape.form:
        case "string":
            return ""
        case "object" | "map":
            return {}
        case "array":
            return []
        case "quantity":
            return "0"
        case _:
            return None


def _conform_array(item: list[Any], shape: Shape, owner: str, path: str, findings: Findings) -> None:
    values = shape.items
    if values is None:
        return
    for index, one in enumerate(item):
        if one is None:
            item[index] = _zero(values)
        else:
            item[index] = _conform_value(one, values, owner, f"{path}[{index}]", findings)


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")


def _check_time(text: str) -> None:
    """Refuse what is no time of RFC 3339. Raises: SchemaMismatch."""
    try:
        if _TIME.fullmatch(text):
            datetime.fromisoformat(text)
            return
    except ValueError:
        pass
    raise SchemaMismatch(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "{text}"')


def _conform_quantity(item: str | float) -> str:
    try:
        return canonical(item)
    except ValueError as error:
        if _QUANTITY.fullmatch(str(item)):
            raise SchemaMismatch("unable to parse quantity's suffix") from error
        raise SchemaMismatch(f"quantities must match the regular expression {_QUANTITY_RULE}") from error


def _mismatch(item: Any, shape: Shape, owner: str, path: str) -> SchemaMismatch:
    got = _JSON_NAMES.get(type(item), "value")
    if got == "number" and shape.form in ("integer", "int-or-string"):
        got = f"number {item}"
    fields = _NO_FIELD.sub("", path)
    return SchemaMismatch(
        f"json: cannot unmarshal {got} into Go struct field {owner}.{fields} of type {shape.go_type()}"
    )


def missing_required(value: Mapping[str, Any], shape: Shape) -> list[str]:
    """Return the path of each field a type requires that `value` leaves out, outermost first."""
    return [] if _is_complete(value, shape) else list(_missing(value, shape, ""))


def _is_complete(value: Mapping[str, Any], shape: Shape) -> bool:
    """Whether nothing is missing: the answer for nearly all objects, found without the paths."""
    for name in shape.required:
        if not value.get(name) and _is_missing(value, name, shape.fields[name].form):
            return False
    demanding = _demanding(shape)
    if not demanding:
        return True
    for name, item in value.items():
        if item and (child := demanding.get(name)) is not None and not _is_complete_in(item, child):
            return False
    return True


def _is_complete_in(item: Any, shape: Shape) -> bool:
    if shape.form == "object":
        return not isinstance(item, dict) or _is_complete(item, shape)
    items = shape.items
    if items is None or items.form != "object":
        return True
    if type(item) is list:
        held: Iterable[Any] = item
    else:
        held = [one for _, one in _held(item, shape)]
    return all(type(one) is not dict or _is_complete(one, items) for one in held)


def _held(item: Any, shape: Shape) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what a list, a map or an alternative holds that are objects, and where."""
    found: list[tuple[str, Any]] = []
    if isinstance(item, list):
        found = [(f"[{index}]", one) for index, one in enumerate(item)]
    elif isinstance(item, dict):
        found = [(f".{key}", one) for key, one in item.items()] if shape.form == "map" else [("", item)]
    yield from ((at, one) for at, one in found if isinstance(one, dict))


def _missing(value: Mapping[str, Any], shape: Shape, path: str) -> Iterator[str]:
    for name in shape.required:
        if _is_missing(value, name, shape.fields[name].form):
            yield f"{path}.{name}" if path else name
    for name, item in value.items():
        child = shape.fields.get(name)
        if child is not None and item and isinstance(item, dict | list):
            yield from _missing_in(item, child, f"{path}.{name}" if path else name)


def _demanding(shape: Shape) -> dict[str, Shape]:
    """Return the fields of a type that have required fields or hold some that have; found once a type."""
    if shape.demanding is None:
        shape.demanding = {}  # first: types may hold themselves
        shape.demanding = {name: child for name, child in shape.fields.items() if _demands(child, set())}
    return shape.demanding


def _demands(shape: Shape, seen: set[int]) -> bool:
    if shape.required:
        return True
    seen.add(id(shape))
    below = [*shape.fields.values(), *((shape.items,) if shape.items is not None else ())]
    return any(_demands(one, seen) for one in below if id(one) not in seen)


def _is_missing(value: Mapping[str, Any], name: str, form: str) -> bool:
    """Whether a required field is absent or empty; a zero and an empty object say something."""
    item = value.get(name)
    return item is None or (item in ("", [], {}) and form not in ("integer", "object"))


def _missing_in(item: Any, shape: Shape, path: str) -> Iterator[str]:
    if shape.form == "object":
        yield from _missing(item, shape, path)
    elif shape.items is not None and shape.items.form == "object":
        for at, one in _held(item, shape):
            yield from _missing(one, shape.items, path + at)
    elif shape.form == "map" and shape.items is not None and shape.items.form == "object":
        for key, one in item.items():
            yield from _missing(one, shape.items, f"{path}.{key}")
