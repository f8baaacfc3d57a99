"""What is in an object although nobody wrote it: structs and booleans that Go can't leave out.

A field that the definitions call required is a value in Go, not a pointer: an absent struct is an empty one, whose own
fields are then judged, and an absent boolean is false. Strings and numbers are left out here, for "" and 0 are seldom
what a field may be, and the rules tell of them in their own words.
"""

from collections.abc import Mapping
from typing import Any

from machinery.api.schema import Shape

# Required structs that are pointers in Go: these may be absent, and then they are missed.
_POINTERS = frozenset(
    [
        ("DaemonSetSpec", "selector"),
        ("DeploymentSpec", "selector"),
        ("IPAddressSpec", "parentRef"),
        ("ReplicaSetSpec", "selector"),
        ("ScaleIOPersistentVolumeSource", "secretRef"),
        ("ScaleIOVolumeSource", "secretRef"),
        ("StatefulSetSpec", "selector"),
    ]
)
_plans: dict[int, tuple[tuple[tuple[str, type], ...], Mapping[str, Shape]]] = {}


def fill(value: dict[str, Any], shape: Shape, *, leaving: frozenset[str] = frozenset()) -> None:
    """Put empty structs and false where a required one is absent, in place.

    Args: `leaving` are fields of `value` itself that are not looked into. Shapes are those of built-in types.
    """
    absent, below = _plan(shape)
    for name, make in absent:
        if name not in leaving and value.get(name) is None:
            value[name] = make()
    for name, child in below.items():
        if name not in leaving and (item := value.get(name)):
            _fill_in(item, child)


def _fill_in(item: Any, shape: Shape) -> None:
    if shape.form == "object":
        if isinstance(item, dict):
            fill(item, shape)
    elif shape.items is not None:
        held = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        for one in held:
            _fill_in(one, shape.items)


def _plan(shape: Shape) -> tuple[tuple[tuple[str, type], ...], Mapping[str, Shape]]:
    """Return what a type's objects are given, and its fields that hold such types; found once a type."""
    found = _plans.get(id(shape))
    if found is None:
        _plans[id(shape)] = ((), {})  # first: types may hold themselves
        below = {name: child for name, child in shape.fields.items() if _needs(child, set())}
        found = _plans[id(shape)] = (_own(shape), below)
    return found


def _own(shape: Shape) -> tuple[tuple[str, type], ...]:
    kinds = {"object": dict, "boolean": bool}
    return tuple(
        (name, kinds[form]) for name in shape.required
        if (form := shape.fields[name].form) in kinds and name != "metadata" and (shape.name, name) not in _POINTERS
    )  # fmt: skip


def _needs(shape: Shape, seen: set[int]) -> bool:
    if id(shape) in seen:
        return False
    seen.add(id(shape))
    if shape.form == "object" and _own(shape):
        return True
    below = [*shape.fields.values(), *((shape.items,) if shape.items is not None else ())]
    return any(_needs(one, seen) for one in below)
