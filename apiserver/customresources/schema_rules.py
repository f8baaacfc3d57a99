"""What makes a schema structural, and its defaults and lists sound."""

from collections.abc import Iterator, Mapping
from typing import Any

from apiserver.customresources import rule_costs, structural, validation
from apiserver.registry.kind import duplicate, forbidden, invalid, required, unsupported
from machinery.api.patterns import compile_pattern
from machinery.errors import Cause

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_ONLY_OUTSIDE = (
    "description", "type", "default", "title", "nullable", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
)  # fmt: skip
_UNSUPPORTED = ("definitions", "dependencies", "patternProperties", "additionalItems", "$ref", "id")


def schema_causes(schema: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """Yield what is wrong with the schema of a version."""
    if schema.get("type") != "object":
        kind = schema.get("type", "")
        yield (
            invalid(f"{path}.type", kind, "must be object at the root") if kind
            else required(f"{path}.type", "must not be empty at the root")
        )  # fmt: skip
        return
    found = list(_node_causes(schema, path))
    found += _metadata_causes(schema, path)
    yield from found
    if not found:
        yield from _default_causes(structural.compile_schema(schema), path)
        yield from validation.rule_causes(structural.compile_schema(schema), path)
        yield from rule_costs.cost_causes(structural.compile_schema(schema), path)


def _metadata_causes(schema: Mapping[str, Any], path: str) -> Iterator[Cause]:
    metadata = (schema.get("properties") or {}).get("metadata") or {}
    for name in metadata.get("properties") or ():
        if name not in ("name", "generateName"):
            yield forbidden(
                f"{path}.properties[metadata]", "must not specify anything other than name and generateName, but "
                "metadata is implicitly specified",
            )  # fmt: skip


def _node_causes(node: Mapping[str, Any], path: str) -> Iterator[Cause]:
    yield from _type_causes(node, path)
    yield from _forbidden_causes(node, path)
    yield from _list_causes(node, path)
    for name, child in (node.get("properties") or {}).items():
        if isinstance(child, Mapping):
            yield from _node_causes(child, f"{path}.properties[{name}]")
    if isinstance(node.get("additionalProperties"), Mapping):
        yield from _node_causes(node["additionalProperties"], f"{path}.additionalProperties")
    if isinstance(node.get("items"), Mapping):
        yield from _node_causes(node["items"], f"{path}.items")
    elif node.get("type") == "array":
        yield (
            forbidden(f"{path}.items", "items must be a schema object and not an array")
            if node.get("items") else required(f"{path}.items", "must be specified")
        )  # fmt: skip
    if not node.get("x-kubernetes-int-or-string"):  # which may say so by types in anyOf
        for name in _JUNCTORS:
            for index, child in enumerate(node.get(name) or ()):
                yield from _junctor_causes(child, f"{path}.{name}[{index}]")
    if isinstance(node.get("not"), Mapping):
        yield from _junctor_causes(node["not"], f"{path}.not")


def _forbidden_causes(node: Mapping[str, Any], path: str) -> Iterator[Cause]:
    for name in _UNSUPPORTED:
        if node.get(name):
            yield forbidden(f"{path}.{name}", f"{name} is not supported")
    if node.get("uniqueItems"):
        yield forbidden(
            f"{path}.uniqueItems", "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        )
    if node.get("additionalProperties") and node.get("properties"):
        yield forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    if node.get("additionalProperties") is False:
        yield forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
    if "pattern" in node:
        try:
            compile_pattern(node["pattern"])
        except ValueError as error:
            yield invalid(f"{path}.pattern", node["pattern"], f"must be a valid regular expression, but isn't: {error}")


def _type_causes(node: Mapping[str, Any], path: str) -> Iterator[Cause]:
    kind = node.get("type", "")
    if node.get("x-kubernetes-int-or-string"):
        if kind:
            yield forbidden(f"{path}.type", "must be empty if x-kubernetes-int-or-string is true")
    elif not kind:
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            yield required(f"{path}.type", "must not be empty for specified object fields")
    elif kind not in _TYPES:
        yield unsupported(f"{path}.type", kind, _TYPES)
    if node.get("x-kubernetes-embedded-resource"):
        if kind != "object":
            yield invalid(f"{path}.type", kind, "must be object if x-kubernetes-embedded-resource is true")
        if not node.get("x-kubernetes-preserve-unknown-fields") and not node.get("properties"):
            yield required(
                f"{path}.properties",
                "must not be empty if x-kubernetes-embedded-resource is true without "
                "x-kubernetes-preserve-unknown-fields",
            )
    if node.get("x-kubernetes-preserve-unknown-fields") is False:
        yield invalid(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined")


def _list_causes(node: Mapping[str, Any], path: str) -> Iterator[Cause]:
    list_type, keys = node.get("x-kubernetes-list-type"), node.get("x-kubernetes-list-map-keys") or ()
    if list_type is not None and node.get("type") != "array":
        yield invalid(f"{path}.type", node.get("type", ""), "must be array if x-kubernetes-list-type is specified")
    if list_type is not None and list_type not in ("atomic", "set", "map"):
        yield unsupported(f"{path}.x-kubernetes-list-type", list_type, ("atomic", "map", "set"))
    if keys and list_type != "map":
        yield invalid(
            f"{path}.x-kubernetes-list-type", list_type or "", "must be map if x-kubernetes-list-map-keys is non-empty"
        )
    if list_type == "map":
        yield from _map_list_causes(node, keys, path)


def _map_list_causes(node: Mapping[str, Any], keys: Any, path: str) -> Iterator[Cause]:
    if not keys:
        yield required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
    items = node.get("items") or {}
    seen: set[str] = set()
    for index, key in enumerate(keys):
        at = f"{path}.x-kubernetes-list-map-keys[{index}]"
        child = (items.get("properties") or {}).get(key)
        if key in seen:
            yield duplicate(at, key)
        seen.add(key)
        if child is None:
            yield invalid(at, key, "entries must all be names of item properties")
        elif key not in (items.get("required") or ()) and "default" not in child:
            yield required(
                f"{path}.items.properties[{key}].default",
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            )


def _junctor_causes(node: Mapping[str, Any], path: str) -> Iterator[Cause]:
    for name in _ONLY_OUTSIDE:
        if node.get(name):
            yield forbidden(f"{path}.{name}", "must be empty to be structural")
    for name, child in (node.get("properties") or {}).items():
        yield from _junctor_causes(child, f"{path}.properties[{name}]")
    if isinstance(node.get("items"), Mapping):
        yield from _junctor_causes(node["items"], f"{path}.items")


def _default_causes(schema: structural.Structural, path: str) -> Iterator[Cause]:
    """Defaults must hold to the schema they stand in, and hold nothing it would prune."""
    for name, child in schema.properties.items():
        at = f"{path}.properties[{name}]"
        if child.default is not structural.NO_DEFAULT:
            wrapped = {"default": child.default}
            inside = structural.Structural({}, type="object", properties={"default": child})
            for cause in validation.Rules(inside, with_rules=False).causes(wrapped, None, is_root=False):
                yield Cause(cause.reason, cause.message, f"{at}.{cause.field}")
        yield from _default_causes(child, at)
    if schema.items is not None:
        yield from _default_causes(schema.items, f"{path}.items")
    if isinstance(schema.additional, structural.Structural):
        yield from _default_causes(schema.additional, f"{path}.additionalProperties")
