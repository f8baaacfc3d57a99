"""Objects and sets of their fields: which fields an object has, which changed, merging and removing some.

What merges and what is replaced whole is said by the type (x-kubernetes-list-type and -map-type).
Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from machinery.api.field_sets import SELF, Tree, is_member
from machinery.api.schema import Shape

# Keys of list items that may be left out; the server would fill them in before it looks.
_KEY_DEFAULTS = {"protocol": "TCP"}
_ANY = Shape("any")


class Unmergeable(ValueError):
    """A list has no keys, or twice the same; the message says which."""


def child_of(shape: Shape, name: str) -> Shape:
    """Return the type of a field or of a map's values."""
    if shape.form == "object":
        return shape.fields.get(name, _ANY)
    return shape.items if shape.form == "map" and shape.items is not None else _ANY


def _is_granular_map(value: Any, shape: Shape) -> bool:
    return type(value) is dict and not shape.atomic


def _is_granular_list(value: Any, shape: Shape) -> bool:
    return type(value) is list and shape.form == "array" and shape.list_type in ("map", "set")


def item_element(item: Any, shape: Shape) -> str:
    """Return the path element of a list's item. Raises: Unmergeable when it lacks a key."""
    if shape.list_type == "set":
        return "v:" + orjson.dumps(item).decode()
    if not isinstance(item, dict):
        raise Unmergeable(f"associative list with keys has an element that is no map: {item!r}")
    if len(shape.map_keys) == 1 and type(value := item.get(shape.map_keys[0])) is str:
        return f'k:{{"{shape.map_keys[0]}":{orjson.dumps(value).decode()}}}'  # as below, for most lists and faster
    keys = {key: item.get(key, _KEY_DEFAULTS.get(key)) for key in shape.map_keys}
    found = {key: value for key, value in keys.items() if value is not None}
    if not found:
        raise Unmergeable(f"associative list with keys has an element that omits key field {shape.map_keys[0]!r}")
    return "k:" + orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode()


def items_of(value: Sequence[Any], shape: Shape) -> dict[str, Any]:
    """Return a list's items by their path elements. Raises: Unmergeable."""
    found: dict[str, Any] = {}
    for item in value:
        element = item_element(item, shape)
        if element in found:
            raise Unmergeable(f"duplicate entries for key [{element[2:]}]")
        found[element] = item
    return found


def fields_of(value: Any, shape: Shape, *, dots: bool = False) -> Tree:
    """Return the set of all fields of a value.

    Args: `dots` makes members of maps that have entries too, as writes other than apply own them.
    """
    if type(value) is dict:
        return _map_fields(value, shape, dots) if value and not shape.atomic else {}
    if _is_granular_list(value, shape):
        items = shape.items or _ANY
        found: Tree = {SELF: {}} if dots and value else {}
        for element, one in _lenient_items(value, shape).items():
            below = fields_of(one, items, dots=dots) if shape.list_type == "map" else {}
            found[element] = {SELF: {}, **below} if below else {}
        return found
    return {}


def _map_fields(value: dict[str, Any], shape: Shape, dots: bool) -> Tree:
    """Return the fields of a map that has some; most are scalars, and those are not looked into."""
    if shape.form == "object":
        fields = shape.fields
        return {
            f"f:{name}": {} if type(one) not in _DEEP else _named_fields(one, name, fields, dots)
            for name, one in value.items()
        }
    tree: Tree = {SELF: {}} if dots else {}
    below_shape = child_of(shape, "")
    for name, one in value.items():
        below = fields_of(one, below_shape, dots=dots) if type(one) in _DEEP else {}
        tree[f"f:{name}"] = {SELF: {}, **below} if below and SELF not in below else below
    return tree


def _named_fields(value: Any, name: str, fields: Mapping[str, Shape], dots: bool) -> Tree:
    shape = fields.get(name)
    below = fields_of(value, shape or _ANY, dots=dots)
    return {SELF: {}, **below} if shape is None and below and SELF not in below else below


_DEEP = (dict, list)


def _lenient_items(value: Sequence[Any], shape: Shape) -> dict[str, Any]:
    """Return a list's items by their elements; what a stored object may hold twice counts once."""
    found = {}
    for item in value:
        try:
            found[item_element(item, shape)] = item
        except Unmergeable:
            continue
    return found


@dataclass(slots=True)
class Changes:
    """How one object differs from another."""

    changed: Tree = field(default_factory=dict)
    """Fields that are new or have another value."""
    removed: Tree = field(default_factory=dict)


def compare(old: Any, new: Any, shape: Shape) -> Changes:
    """Return how `new` differs from `old`; both are maps of the same type."""
    if old == new:
        return Changes()
    if _is_granular_map(old, shape) and _is_granular_map(new, shape):
        differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        pairs = {f"f:{name}": (old.get(name), new.get(name), child_of(shape, name)) for name in differing}
        return _compare_parts(pairs, is_map=shape.form != "object")
    if _is_granular_list(old, shape) and _is_granular_list(new, shape):
        ours, theirs, items = _lenient_items(old, shape), _lenient_items(new, shape), shape.items or _ANY
        return _compare_parts({one: (ours.get(one), theirs.get(one), items) for one in {**ours, **theirs}}, is_map=True)
    return Changes(changed={SELF: {}})


def _compare_parts(pairs: Mapping[str, tuple[Any, Any, Shape]], *, is_map: bool) -> Changes:
    found = Changes()
    for element, (before, after, shape) in pairs.items():
        if before == after:
            continue
        if before is None or after is None:
            tree = fields_of(before if after is None else after, shape, dots=True)
            whole = {SELF: {}, **tree} if tree and is_map and SELF not in tree else tree
            (found.removed if after is None else found.changed)[element] = whole
            continue
        below = compare(before, after, shape)
        if SELF in below.changed:  # replaced whole
            found.changed[element] = fields_of(after, shape, dots=True)
            continue
        if below.changed:
            found.changed[element] = below.changed
        if below.removed:
            found.removed[element] = below.removed
    return found


def merged(live: Any, config: Any, shape: Shape) -> Any:
    """Return a live value with a configuration laid over it. Raises: Unmergeable."""
    if _is_granular_map(config, shape):
        if not isinstance(live, dict):
            live = {}
        found = dict(live)
        for name, one in config.items():
            found[name] = merged(live.get(name), one, child_of(shape, name))
        return found
    if _is_granular_list(config, shape):
        return _merged_list(live if isinstance(live, list) else [], config, shape)
    return config


def _merged_list(live: Sequence[Any], config: Sequence[Any], shape: Shape) -> list[Any]:
    """Return the items of both: those only there already where they stood, the others in the configuration's order."""
    ours, theirs, items = _lenient_items(live, shape), items_of(config, shape), shape.items or _ANY
    waiting = list(ours)
    found = []
    for element, item in theirs.items():
        while waiting and waiting[0] != element:
            if waiting[0] not in theirs:
                found.append(ours[waiting.pop(0)])
            elif element in ours:
                waiting.pop(0)  # it comes in the configuration's order
            else:
                break
        if waiting and waiting[0] == element:
            waiting.pop(0)
        found.append(merged(ours.get(element), item, items))
    return found + [ours[element] for element in waiting if element not in theirs]


def without(value: Any, gone: Tree, kept: Tree, shape: Shape) -> Any:
    """Return a value without the fields of `gone`; what holds a field of `kept` stays."""
    if not gone:
        return value
    if _is_granular_map(value, shape):
        found = {}
        for name, one in value.items():
            element = f"f:{name}"
            left = _part_without(one, gone.get(element), kept.get(element), child_of(shape, name))
            if left is not _GONE:
                found[name] = left
        return found
    if _is_granular_list(value, shape):
        items, left_over = shape.items or _ANY, []
        for one in value:
            try:
                element = item_element(one, shape)
            except Unmergeable:
                left_over.append(one)
                continue
            left = _part_without(one, gone.get(element), kept.get(element), items)
            if left is not _GONE:
                left_over.append(left)
        return left_over
    return value


_GONE: Any = object()


def _part_without(value: Any, gone: Tree | None, kept: Tree | None, shape: Shape) -> Any:
    if gone is None:
        return value
    if is_member(gone) and kept is None:
        return _GONE
    left = without(value, gone, kept or {}, shape)
    emptied = value not in ({}, []) and left in ({}, [])
    return _GONE if emptied and kept is None else left
