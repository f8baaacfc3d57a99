"""What a schema of a definition may say beside being structural: types, lists and maps, defaults, rules.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from apiserver.customresources import rule_costs, rules, structural, validation
from apiserver.customresources.structural_rules import structural_causes
from apiserver.registry.kind import forbidden, invalid, required, unsupported
from machinery.errors import Cause

Node = Mapping[str, Any]

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_UNSUPPORTED = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_LIST_TYPES, _MAP_TYPES = ("atomic", "set", "map"), ("atomic", "granular")
_JUNCTORS = ("allOf", "oneOf", "anyOf")
_OWN_FIELDS = ("metadata", "kind", "apiVersion")
# What a schema may say at its root where the status is validated apart from the rest: in upstream's order and spelling.
_AT_ROOT = (
    "Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength",
    "MinLength", "Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties",
    "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations",
)  # fmt: skip
_FIELDS_AT_ROOT = frozenset(
    {name[0].lower() + name[1:] for name in _AT_ROOT[:-2]}
    | {"x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations"}
)
_REQUIRED_KEY = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
_NULLABLE_KEY = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a schema a node is."""

    no_defaults: str = ""  # why it may have no default
    in_metadata: bool = False
    is_root: bool = False


def schema_causes(schema: Node, path: str, *, has_status: bool = False) -> Iterator[Cause]:
    """Yield what is wrong with the schema of a version. Args: `has_status` says that it has the subresource."""
    found: list[Cause] = []
    if has_status:
        found += _root_causes(schema, path)
    if schema.get("nullable"):
        found.append(forbidden(f"{path}.nullable", "nullable cannot be true at the root"))
    shaped = structural_causes(schema, path)
    compiled = structural.compile_schema(schema) if not shaped else None
    if compiled is not None:
        shaped = list(_default_causes(compiled, path))
    found += shaped
    found += _node_causes(schema, path, _Place(is_root=True))
    yield from found
    if not found and compiled is not None:
        yield from rules.rule_causes(compiled, path)
        yield from rule_costs.cost_causes(compiled, path)


def _root_causes(schema: Node, path: str) -> Iterator[Cause]:
    if (kind := schema.get("type")) and kind != "object":
        why = 'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
        yield invalid(f"{path}.type", kind, why)
    elif any(value and field not in _FIELDS_AT_ROOT for field, value in schema.items()):
        allowed = f"[{' '.join(_AT_ROOT)}]"
        why = f"only {allowed} fields are allowed at the root of the schema if the status subresource is enabled"
        yield invalid(path, dict(schema), why)


def _node_causes(node: Node, path: str, place: _Place) -> Iterator[Cause]:
    yield from _standard_causes(node, path, place)
    within = replace(place, is_root=False)
    extra = node.get("additionalProperties")
    if extra is not None and node.get("properties") and extra is not True:
        yield forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    if isinstance(extra, Mapping):
        why = "inside additionalProperties applying to object metadata" if place.in_metadata else place.no_defaults
        yield from _node_causes(extra, f"{path}.additionalProperties", replace(within, no_defaults=why))
    is_resource = place.is_root or bool(node.get("x-kubernetes-embedded-resource"))
    for name, child in (node.get("properties") or {}).items():
        inner = within
        if is_resource and name in _OWN_FIELDS:
            why = f"in top-level {name}" if place.is_root else place.no_defaults
            inner = replace(within, in_metadata=True, no_defaults=why)
        yield from _node_causes(child, f"{path}.properties[{name}]", inner)
    if isinstance(node.get("items"), Mapping):
        yield from _node_causes(node["items"], f"{path}.items", within)
    parts = [(f"{name}[{at}]", one) for name in _JUNCTORS for at, one in enumerate(node.get(name) or ())]
    for step, child in [*parts, ("not", node.get("not"))]:
        if child:
            yield from _node_causes(child, f"{path}.{step}", within)
    yield from _map_causes(node, path)
    yield from _list_causes(node, path)
    yield from _rule_causes(node, path)


def _rule_causes(node: Node, path: str) -> Iterator[Cause]:
    for index, rule in enumerate(node.get("x-kubernetes-validations") or ()):
        at, field = f"{path}.x-kubernetes-validations[{index}]", rule.get("fieldPath") or ""
        yield from rules.text_causes(rule, at)
        if field and not rules.leads_somewhere(field, node):
            yield invalid(f"{at}.fieldPath", field, "fieldPath must be a valid path")


def _standard_causes(node: Node, path: str, place: _Place) -> Iterator[Cause]:
    kind = node.get("type") or ""
    if kind and kind not in _TYPES:
        yield unsupported(f"{path}.type", kind, _TYPES)
    if node.get("default") is not None and place.no_defaults:
        yield forbidden(f"{path}.default", f"must not be set {place.no_defaults}")
    for name in _UNSUPPORTED:
        if node.get(name):
            yield forbidden(f"{path}.{name}", f"{name} is not supported")
    if kind == "null":
        yield forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
    if isinstance(node.get("items"), list) and node["items"]:
        yield forbidden(f"{path}.items", "items must be a schema object and not an array")
    if place.in_metadata and node.get("x-kubernetes-embedded-resource"):
        yield forbidden(f"{path}.x-kubernetes-embedded-resource", "must not be used inside of resource meta")
    if node.get("uniqueItems"):
        why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield forbidden(f"{path}.uniqueItems", why)
    if node.get("x-kubernetes-preserve-unknown-fields") is False:
        yield invalid(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined")


def _map_causes(node: Node, path: str) -> Iterator[Cause]:
    kind, chosen = node.get("type") or "", node.get("x-kubernetes-map-type")
    if chosen is None:
        return
    if kind != "object":
        why = "must be object if x-kubernetes-map-type is specified"
        yield invalid(f"{path}.type", kind, why) if kind else required(f"{path}.type", why)
    if chosen not in _MAP_TYPES:
        yield unsupported(f"{path}.x-kubernetes-map-type", chosen, _MAP_TYPES)


def _list_causes(node: Node, path: str) -> Iterator[Cause]:
    kind, chosen, keys = (node.get(name) for name in ("type", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"))
    items = node.get("items") if isinstance(node.get("items"), Mapping) else None
    at = f"{path}.x-kubernetes-list-type"
    if chosen is not None and kind != "array":
        why = "must be array if x-kubernetes-list-type is specified"
        yield invalid(f"{path}.type", kind, why) if kind else required(f"{path}.type", why)
    elif chosen == "set" and items is not None:
        yield from _set_causes(items, f"{path}.items")
    if chosen is not None and chosen not in _LIST_TYPES:
        yield unsupported(at, chosen, _LIST_TYPES)
    if keys and chosen != "map":
        why = "must be map if x-kubernetes-list-map-keys is non-empty"
        yield required(at, why) if chosen is None else invalid(at, chosen, why)
    if chosen == "map":
        yield from _keyed_list_causes(node, items, keys or (), path)
    if chosen in ("set", "map") and items is not None and items.get("nullable"):
        yield forbidden(f"{path}.items.nullable", f"cannot be nullable when x-kubernetes-list-type is {chosen}")


def _set_causes(items: Node, path: str) -> Iterator[Cause]:
    """Yield what keeps the items of a set from being compared as a whole."""
    why = "must be atomic as item of a list with x-kubernetes-list-type=set"
    inner = items.get("x-kubernetes-list-type")
    if items.get("type") == "array" and inner not in (None, "atomic"):
        yield invalid(f"{path}.x-kubernetes-list-type", inner, why)
    if items.get("type") == "object" and items.get("x-kubernetes-map-type") != "atomic":
        yield invalid(f"{path}.x-kubernetes-map-type", inner, why)


def _keyed_list_causes(node: Node, items: Node | None, keys: Any, path: str) -> Iterator[Cause]:
    at = f"{path}.x-kubernetes-list-map-keys"
    if not keys:
        yield required(at, "must not be empty if x-kubernetes-list-type is map")
    if node.get("items") is None:
        yield required(f"{path}.items", "must have a schema if x-kubernetes-list-type is map")
    if items is None:
        return
    if items.get("type") != "object":
        why = "must be object if parent array's x-kubernetes-list-type is map"
        yield invalid(f"{path}.items.type", items.get("type") or "", why)
    else:
        yield from _key_causes(items, keys, path)
    properties, needed = items.get("properties") or {}, items.get("required") or ()
    for key in keys:
        child = properties.get(key) or {}
        place = f"{path}.items.properties[{key}]"
        if key in properties and key not in needed and child.get("default") is None:
            yield required(f"{place}.default", _REQUIRED_KEY)
        if child.get("nullable"):
            yield forbidden(f"{place}.nullable", _NULLABLE_KEY)


def _key_causes(items: Node, keys: Any, path: str) -> Iterator[Cause]:
    properties, seen = items.get("properties") or {}, set()
    for key in keys:
        if key not in properties:
            why = "entries must all be names of item properties"
            yield invalid(f"{path}.x-kubernetes-list-map-keys", list(keys), why)
        elif properties[key].get("type") in ("array", "object"):
            why = "must be a scalar type if parent array's x-kubernetes-list-type is map"
            yield invalid(f"{path}.items.properties[{key}].type", "object", why)
        if key in seen:
            yield invalid(f"{path}.x-kubernetes-list-map-keys", list(keys), "must not contain duplicate entries")
        seen.add(key)


def _default_causes(schema: structural.Structural, path: str) -> Iterator[Cause]:
    """Defaults must hold to the schema they stand in, and hold nothing it would prune."""
    for name, child in schema.properties.items():
        at = f"{path}.properties[{name}]"
        if child.default is not structural.NO_DEFAULT:
            yield from _one_default_causes(child, at)
        yield from _default_causes(child, at)
    if schema.items is not None:
        yield from _default_causes(schema.items, f"{path}.items")
    if isinstance(schema.additional, structural.Structural):
        yield from _default_causes(schema.additional, f"{path}.additionalProperties")


def _one_default_causes(schema: structural.Structural, path: str) -> Iterator[Cause]:
    wrapped = {"default": copy.deepcopy(schema.default)}
    inside = structural.Structural({}, type="object", properties={"default": schema})
    if structural.prune(wrapped, inside, is_root=False):
        yield invalid(f"{path}.default", schema.default, "must not have unknown fields")
        return
    for cause in validation.Rules(inside, with_rules=False).causes(wrapped, None, is_root=False):
        yield Cause(cause.reason, cause.message, f"{path}.{cause.field}")
