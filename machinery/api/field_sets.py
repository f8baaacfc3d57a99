"""Sets of fields of an object, in the form managedFields have: trees of path elements.

A path element is "f:<name>" (a field or key), "k:<json>" (a list item by its keys), "v:<json>" (an item of a set). A
node without children is a member; one with children is a member only where it holds ".".
Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

from collections.abc import Iterator
from typing import Any

import orjson

Tree = dict[str, Any]
SELF = "."


def is_member(node: Tree) -> bool:
    """Whether the path that leads to a node belongs to the set itself."""
    return not node or SELF in node


def union(ours: Tree, theirs: Tree) -> Tree:
    """Return the fields in either set; the arguments are not changed."""
    if not ours:
        return theirs
    if not theirs:
        return ours
    found = dict(ours)
    for element, node in theirs.items():
        if element not in found:
            found[element] = node
        elif element != SELF:
            found[element] = _both(found[element], node)
    return found


def _both(ours: Tree, theirs: Tree) -> Tree:
    merged = union(ours, theirs)
    if merged and SELF not in merged and (is_member(ours) or is_member(theirs)):
        merged = {SELF: {}, **merged}
    return merged


def difference(ours: Tree, theirs: Tree) -> Tree:
    """Return the fields in our set that are not in theirs."""
    if not ours or not theirs:
        return ours
    found: Tree = {}
    for element, node in ours.items():
        other = theirs.get(element)
        if element == SELF or other is None:
            if other is None:
                found[element] = node
            continue
        member = is_member(node) and not is_member(other)
        rest = {key: value for key, value in difference(node, other).items() if key != SELF} if node else {}
        if rest:
            found[element] = {SELF: {}, **rest} if member else rest
        elif member:
            found[element] = {}
    return found


def intersection(ours: Tree, theirs: Tree) -> Tree:
    """Return the fields in both sets."""
    found: Tree = {}
    for element, node in ours.items():
        other = theirs.get(element)
        if other is None or element == SELF:
            continue
        member = is_member(node) and is_member(other)
        rest = {key: value for key, value in intersection(node, other).items() if key != SELF}
        if rest:
            found[element] = {SELF: {}, **rest} if member else rest
        elif member:
            found[element] = {}
    return found


def members(tree: Tree, path: str = "") -> Iterator[str]:
    """Yield the paths of a set as messages name them: .spec.containers[name="web"].image, for one."""
    for element, node in sorted(tree.items()):
        if element == SELF:
            continue
        here = path + element_text(element)
        if is_member(node):
            yield here
        yield from members(node, here)


def element_text(element: str) -> str:
    """Return one path element as messages name it."""
    kind, text = element[0], element[2:]
    if kind == "f":
        return f".{text}"
    if kind == "k":
        pairs = orjson.loads(text).items()
        return "[" + ",".join(f"{key}={orjson.dumps(value).decode()}" for key, value in pairs) + "]"
    return f"[={text}]" if kind == "v" else f"[{text}]"
