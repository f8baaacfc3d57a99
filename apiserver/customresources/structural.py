"""Structural schemas: what of an object is kept, what is filled in, and how it merges.

The rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from machinery.api.schema import Shape, conform, shape_of

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
NO_DEFAULT: Any = object()
_OWN_FIELDS = ("apiVersion", "kind", "metadata")


@dataclass(slots=True)
class Structural:
    """One node of a schema, compiled; `raw` keeps the rules for values that validation reads."""

    raw: Mapping[str, Any]
    type: str = ""
    nullable: bool = False
    default: Any = NO_DEFAULT
    properties: dict[str, "Structural"] = field(default_factory=dict)
    additional: "Structural | bool" = False
    items: "Structural | None" = None
    preserves: bool = False
    embedded: bool = False
    int_or_string: bool = False
    has_defaults: bool = False

    def child(self, name: str) -> "Structural | None":
        """Return the schema of a member of an object, if there is one."""
        found = self.properties.get(name)
        if found is None and isinstance(self.additional, Structural):
            return self.additional
        return found

    def children(self) -> Iterator[tuple[str, "Structural"]]:
        """Yield the schemas within, with the path steps that lead to them."""
        for name, child in self.properties.items():
            yield f".{name}", child
        if isinstance(self.additional, Structural):
            yield "[*]", self.additional
        if self.items is not None:
            yield "[*]", self.items


def compile_schema(raw: Mapping[str, Any]) -> Structural:
    """Return the compiled form of a structural openAPIV3Schema."""
    found = Structural(
        raw, type=raw.get("type", ""), nullable=bool(raw.get("nullable")), default=raw.get("default", NO_DEFAULT),
        preserves=bool(raw.get("x-kubernetes-preserve-unknown-fields")),
        embedded=bool(raw.get("x-kubernetes-embedded-resource")),
        int_or_string=bool(raw.get("x-kubernetes-int-or-string")),
    )  # fmt: skip
    found.properties = {name: compile_schema(one) for name, one in (raw.get("properties") or {}).items()}
    additional = raw.get("additionalProperties")
    if isinstance(additional, Mapping):
        found.additional = compile_schema(additional)
    elif additional:
        found.additional = True
    if isinstance(raw.get("items"), Mapping):
        found.items = compile_schema(raw["items"])
    found.has_defaults = any(c.default is not NO_DEFAULT or c.has_defaults for _, c in found.children())
    return found


def prune(obj: dict[str, Any], schema: Structural, *, is_root: bool = True) -> list[str]:
    """Drop in place what the schema does not specify.

    Returns: the paths of what went, in the order it was met.
    """
    gone: list[str] = []
    _prune(obj, schema, "", gone, is_resource=is_root)
    return gone


def _prune(value: Any, schema: Structural | None, path: str, gone: list[str], *, is_resource: bool = False) -> None:
    if isinstance(value, list):
        items = schema.items if schema is not None else None
        if schema is None or not schema.preserves or items is not None:
            for index, one in enumerate(value):
                _prune_within(one, items, f"{path}[{index}]", gone)
    elif isinstance(value, dict):
        own = is_resource or (schema is not None and schema.embedded)
        for name in list(value):
            if own and name in _OWN_FIELDS:
                continue
            at = f"{path}.{name}" if path else name
            child = schema.child(name) if schema is not None else None
            if child is not None:
                _prune_within(value[name], child, at, gone)
            elif schema is None or not (schema.preserves or schema.additional):
                del value[name]
                gone.append(at)
            elif not schema.preserves:
                _prune_within(value[name], None, at, gone)


def _prune_within(value: Any, schema: Structural | None, path: str, gone: list[str]) -> None:
    if isinstance(value, dict | list):
        _prune(value, schema, path, gone)


def fill_defaults(value: Any, schema: Structural) -> None:
    """Set in place what is left out, or null where null is not allowed, and has a default."""
    if not schema.has_defaults:
        return
    if isinstance(value, dict):
        for name, child in schema.properties.items():
            if child.default is not NO_DEFAULT and (name not in value or (value[name] is None and not child.nullable)):
                value[name] = copy.deepcopy(child.default)
        for name, one in value.items():
            inner = schema.child(name)
            if inner is not None and isinstance(one, dict | list):
                fill_defaults(one, inner)
    elif isinstance(value, list) and schema.items is not None:
        for one in value:
            fill_defaults(one, schema.items)


def coerce_metadata(value: Any, schema: Structural, gone: list[str], path: str = "", *, is_root: bool = True) -> None:
    """Bring metadata, of the object and of those embedded in it, to the shape of ObjectMeta.

    Raises: SchemaMismatch when a member is of another type.
    """
    if isinstance(value, dict):
        if (is_root or schema.embedded) and isinstance(value.get("metadata"), dict):
            at = f"{path}.metadata" if path else "metadata"
            gone += [f"{at}.{one}" for one in conform(value["metadata"], shape_of(OBJECT_META)).unknown]
        for name, one in value.items():
            child = schema.child(name)
            if child is not None and isinstance(one, dict | list) and not (is_root and name in _OWN_FIELDS):
                coerce_metadata(one, child, gone, f"{path}.{name}" if path else name, is_root=False)
    elif isinstance(value, list) and schema.items is not None:
        for index, one in enumerate(value):
            coerce_metadata(one, schema.items, gone, f"{path}[{index}]", is_root=False)


_FORMS = {"boolean": "boolean", "string": "string", "number": "number"}


def merge_shape(schema: Structural, name: str) -> Shape:
    """Return the type of the objects for merging: that of the schema, with metadata as every object has it."""
    shape = _shape(schema, name)
    if shape.form != "object":
        shape.form, shape.fields = "object", {}
    text = Shape("string")
    shape.fields = {**shape.fields, "apiVersion": text, "kind": text, "metadata": shape_of(OBJECT_META)}
    return shape


def _shape(schema: Structural, name: str) -> Shape:
    raw = schema.raw
    if schema.int_or_string:
        return Shape("int-or-string", name)
    if schema.type == "array" and schema.items is not None:
        shape = Shape("array", name, items=_shape(schema.items, name))
        shape.list_type = raw.get("x-kubernetes-list-type", "atomic")
        shape.map_keys = tuple(raw.get("x-kubernetes-list-map-keys") or ())
        return shape
    if schema.type == "integer":
        return Shape("integer", name, integer=raw.get("format", "int64"))
    if schema.type in _FORMS:
        return Shape(_FORMS[schema.type], name)
    if schema.type != "object":
        return Shape("any", name)
    shape = Shape("any", name, atomic=raw.get("x-kubernetes-map-type") == "atomic")
    if schema.properties or schema.embedded:
        shape.form = "object"
        shape.fields = {one: _shape(child, one) for one, child in schema.properties.items()}
        if schema.embedded:
            text = Shape("string")
            shape.fields |= {"apiVersion": text, "kind": text, "metadata": shape_of(OBJECT_META)}
        shape.preserves = schema.preserves
    elif isinstance(schema.additional, Structural):
        shape.form, shape.items = "map", _shape(schema.additional, name)
    return shape
