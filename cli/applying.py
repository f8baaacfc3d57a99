"""Works out what apply has to change: what a manifest said the last time, what it says now, and what is there.

What a manifest said the last time stands in an annotation, so that what is no longer said is taken away, and what
others set stays. Source: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config/
"""

import copy
from typing import Any

import orjson

from cli.resources import Known
from machinery.api.meta import Resource

LAST = "kubectl.kubernetes.io/last-applied-configuration"


def annotated(obj: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Return a manifest with itself in its annotation."""
    plain = copy.deepcopy(obj)
    metadata = plain["metadata"]
    annotations = metadata.get("annotations") or {}
    annotations.pop(LAST, None)
    metadata["annotations"] = annotations
    if namespace:
        metadata["namespace"] = namespace
    text = escaped(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode() + "\n")
    result = copy.deepcopy(plain)
    result["metadata"]["annotations"] = {**annotations, LAST: text}
    return result


def escaped(text: str) -> str:
    """Return JSON with <, > and & as Go writes them, so that kubectl finds its own text."""
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def last_applied(current: dict[str, Any]) -> dict[str, Any]:
    """Return what apply was told the last time; empty when it never was."""
    text = (current["metadata"].get("annotations") or {}).get(LAST, "")
    found: dict[str, Any] = orjson.loads(text) if text else {}
    return found


def shape_of_kind(known: Known) -> Any:
    """Return the compiled type of a built-in kind; None for others, which merge as plain JSON."""
    return shape_of(known.resource)


def shape_of(resource: Resource) -> Any:
    """Return the compiled type of a resource's kind; None for kinds that are not built in."""
    from machinery.api import schema

    wanted = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    for name, raw in schema.definitions().items():
        if wanted in (raw.get("x-kubernetes-group-version-kind") or ()):
            return schema.shape_of(name)
    return None


def three_way(last: dict[str, Any], wanted: dict[str, Any], current: dict[str, Any], known: Known) -> dict[str, Any]:
    """Return the patch that takes away what was said and is no longer, and sets what is said and differs."""
    return _difference(last, wanted, current, shape_of_kind(known))


def _difference(last: Any, wanted: dict[str, Any], current: dict[str, Any], shape: Any) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for name, value in wanted.items():
        child = _child(shape, name)
        here = current.get(name)
        before = last.get(name) if isinstance(last, dict) else None
        if isinstance(value, dict) and isinstance(here, dict):
            if inner := _difference(before or {}, value, here, child):
                patch[name] = inner
        elif (
            isinstance(value, list)
            and isinstance(here, list)
            and child is not None
            and child.merges
            and child.merge_key
        ):
            patch.update(_list_difference(name, before or [], value, here, child))
        elif value != here and not (value is None and name not in current):
            patch[name] = value
    for name in last if isinstance(last, dict) else ():
        if name not in wanted and name in current:
            patch[name] = None
    return patch


def _child(shape: Any, name: str) -> Any:
    if shape is None:
        return None
    return shape.items if shape.form == "map" else shape.fields.get(name)


def _list_difference(name: str, last: list[Any], wanted: list[Any], current: list[Any], shape: Any) -> dict[str, Any]:
    key = shape.merge_key
    here = {one.get(key): one for one in current}
    before = {one.get(key): one for one in last}
    changes: list[Any] = []
    for one in wanted:
        present = here.get(one.get(key))
        if present is None:
            changes.append(one)
        elif inner := _difference(before.get(one.get(key)) or {}, one, present, shape.items):
            changes.append({key: one.get(key), **inner})
    said = {one.get(key) for one in wanted}
    changes += [{"$patch": "delete", key: gone} for gone in before if gone not in said and gone in here]
    if not changes:
        return {}
    return {name: changes, f"$setElementOrder/{name}": [{key: one.get(key)} for one in wanted]}
