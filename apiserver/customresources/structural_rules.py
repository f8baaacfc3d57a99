"""What makes a schema structural: types on the outside, conditions on values within.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from collections.abc import Iterator, Mapping
from typing import Any

from apiserver.registry.kind import forbidden, invalid, required
from machinery.api.patterns import compile_pattern
from machinery.errors import Cause

Node = Mapping[str, Any]

_EMBEDDED = "x-kubernetes-embedded-resource"
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]
_ROOT, _FIELD, _ITEM = "at the root", "for specified object fields", "for specified array items"
# What may only stand on the outside, and how that is told.
_ONLY_OUTSIDE = {
    "type": "empty", "additionalProperties": "undefined", "default": "undefined", "title": "empty",
    "description": "empty", "nullable": "false", "externalDocs": "undefined",
    "x-kubernetes-preserve-unknown-fields": "false", "x-kubernetes-embedded-resource": "false",
    "x-kubernetes-int-or-string": "false", "x-kubernetes-list-map-keys": "empty",
    "x-kubernetes-list-type": "undefined", "x-kubernetes-map-type": "undefined", "x-kubernetes-validations": "empty",
}  # fmt: skip
_SET = frozenset(
    {"additionalProperties", "default", "externalDocs", "x-kubernetes-list-type", "x-kubernetes-map-type"}
)  # those that must not even be there


def structural_causes(schema: Node, path: str) -> list[Cause]:
    """Return what keeps a schema from being structural, in the order of the texts."""
    found = [*_node_causes(schema, path, _ROOT), *_completeness_causes(schema, schema, path, path)]
    return sorted(found, key=lambda cause: f"{cause.field}: {cause.message}")


def _node_causes(node: Node, path: str, level: str) -> Iterator[Cause]:
    kind, items, extra = node.get("type") or "", node.get("items"), node.get("additionalProperties")
    if kind == "array" and items is None:
        yield required(f"{path}.items", "must be specified")
    if isinstance(items, Mapping):
        yield from _node_causes(items, f"{path}.items", _ITEM)
    for name, child in (node.get("properties") or {}).items():
        yield from _node_causes(child, f"{path}.properties[{name}]", _FIELD)
    if extra is not None and level == _ROOT:
        yield forbidden(f"{path}.additionalProperties", "must not be used at the root")
    if isinstance(extra, Mapping):
        yield from _node_causes(extra, f"{path}.additionalProperties", _FIELD)
    yield from _extension_causes(node, path)
    yield from _value_causes(node, path)
    yield from _type_causes(node, kind, path, level)
    if level == _ROOT or node.get("x-kubernetes-embedded-resource"):
        yield from _own_field_causes(node, path, level)


def _extension_causes(node: Node, path: str) -> Iterator[Cause]:
    if node.get("x-kubernetes-int-or-string"):
        for name in ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"):
            if node.get(name):
                yield invalid(f"{path}.{name}", True, "must be false if x-kubernetes-int-or-string is true")
    if node.get("x-kubernetes-embedded-resource"):
        if node.get("additionalProperties") is not None:
            why = "must not be used if x-kubernetes-embedded-resource is set"
            yield forbidden(f"{path}.additionalProperties", why)
        if not node.get("x-kubernetes-preserve-unknown-fields") and not node.get("properties"):
            why = f"must not be empty if {_EMBEDDED} is true without x-kubernetes-preserve-unknown-fields"
            yield required(f"{path}.properties", why)


def _type_causes(node: Node, kind: str, path: str, level: str) -> Iterator[Cause]:
    at = f"{path}.type"
    if node.get("x-kubernetes-embedded-resource") and kind != "object":
        why = "must be object if x-kubernetes-embedded-resource is true"
        yield invalid(at, kind, why) if kind else required(at, why)
    elif not kind and not any(
        node.get(name) for name in ("x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields")
    ):
        yield required(at, f"must not be empty {level}")
    if level == _ROOT and kind not in ("", "object"):
        yield invalid(at, kind, "must be object at the root")


def _own_field_causes(node: Node, path: str, level: str) -> Iterator[Cause]:
    """Yield what is wrong with what a schema says of the fields that all objects have."""
    properties = node.get("properties") or {}
    for name, wanted in (("kind", "string"), ("apiVersion", "string"), ("metadata", "object")):
        if name in properties and properties[name].get("type") != wanted:
            yield invalid(f"{path}.properties[{name}].type", properties[name].get("type") or "", f"must be {wanted}")
    metadata = properties.get("metadata")
    if metadata is None or level != _ROOT:
        return
    others = set(metadata.get("properties") or ()) - {"name", "generateName"}
    others |= {field for field, value in metadata.items() if value and field in _ONLY_OUTSIDE} - {"type", "default"}
    if others:
        why = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        yield forbidden(f"{path}.properties[metadata]", why)


def _value_causes(node: Node, path: str, *, skip_any: bool = False) -> Iterator[Cause]:
    """Yield what is wrong with the conditions on values at a place, and with those within them."""
    parts = [(name, index, child) for name in _JUNCTORS for index, child in enumerate(node.get(name) or ())]
    as_either = node.get("anyOf") == _INT_OR_STRING
    for name, index, child in parts:
        if name == "anyOf" and (as_either or skip_any):
            continue
        first = name == "allOf" and index == 0 and child.get("anyOf") == _INT_OR_STRING
        yield from _nested_causes(child, f"{path}.{name}[{index}]", skip_any=first)
    if isinstance(node.get("not"), Mapping):
        yield from _nested_causes(node["not"], f"{path}.not")
    if node.get("pattern"):
        try:
            compile_pattern(node["pattern"])
        except ValueError as error:
            yield invalid(f"{path}.pattern", node["pattern"], f"must be a valid regular expression, but isn't: {error}")


def _nested_causes(node: Node, path: str, *, skip_any: bool = False) -> Iterator[Cause]:
    yield from _value_causes(node, path, skip_any=skip_any)
    if isinstance(node.get("items"), Mapping):
        yield from _nested_causes(node["items"], f"{path}.items")
    for name, child in (node.get("properties") or {}).items():
        yield from _nested_causes(child, f"{path}.properties[{name}]")
    for name, wanted in _ONLY_OUTSIDE.items():
        if node.get(name) or (name in _SET and node.get(name) is not None):
            yield forbidden(f"{path}.{name}", f"must be {wanted} to be structural")
    if "metadata" in (node.get("properties") or {}):
        yield forbidden(f"{path}.properties[metadata]", "must not be specified in a nested context")


def _completeness_causes(node: Node, outside: Node | None, path: str, at: str) -> Iterator[Cause]:
    """Yield fields that a condition speaks of and the schema outside of it does not.

    Args: `path` leads to what is outside, `at` to the condition.
    """
    parts = [(f"{name}[{index}]", child) for name in _JUNCTORS for index, child in enumerate(node.get(name) or ())]
    if node.get("not") is not None:
        parts.insert(0, ("not", node["not"]))
    for step, child in parts:
        if isinstance(child, Mapping):
            yield from _nested_completeness_causes(child, outside, path, f"{at}.{step}")


def _nested_completeness_causes(node: Node, outside: Node | None, path: str, at: str) -> Iterator[Cause]:
    if outside is None:
        yield required(path, f"because it is defined in {at}")
        return
    yield from _completeness_causes(node, outside, path, at)
    if isinstance(node.get("items"), Mapping):
        items = outside.get("items")
        inner = items if isinstance(items, Mapping) else None
        yield from _nested_completeness_causes(node["items"], inner, f"{path}.items", f"{at}.items")
    known = outside.get("properties") or {}
    for name, child in (node.get("properties") or {}).items():
        place, told = f"{path}.properties[{name}]", f"{at}.properties[{name}]"
        if name not in known:
            yield required(place, f"because it is defined in {told}")
        elif isinstance(child, Mapping):
            yield from _nested_completeness_causes(child, known[name], place, told)
