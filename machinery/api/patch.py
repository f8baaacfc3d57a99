"""JSON patch, JSON merge patch and strategic merge patch, each a pure function from object to object.

Sources: RFC 6902, RFC 7386, and the directives `$patch`, `$deleteFromPrimitiveList/…`, `$setElementOrder/…`,
`$retainKeys` of https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from machinery.api.digits import is_number
from machinery.api.schema import Shape

DELETE_FROM_LIST = "$deleteFromPrimitiveList/"
ELEMENT_ORDER = "$setElementOrder/"
RETAIN_KEYS = "$retainKeys"
DIRECTIVE = "$patch"


class PatchError(ValueError):
    """The patch is malformed (`syntax`), or does not apply to this object."""

    def __init__(self, message: str, *, syntax: bool = False) -> None:
        super().__init__(message)
        self.syntax = syntax


def apply_merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` changed as RFC 7386 says; neither argument is changed."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = apply_merge_patch(result.get(name), value)
    return result


def apply_json_patch(target: Any, operations: Any) -> Any:
    """Return `target` changed by the operations of RFC 6902, all or none.

    Raises: PatchError when an operation is malformed, its path is not there, or a test fails.
    """
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise PatchError("a JSON patch is a list of operations", syntax=True)
    document = {"": copy.deepcopy(target)}
    for operation in operations:
        _apply_operation(document, operation)
    return document[""]


def _apply_operation(document: dict[str, Any], operation: Mapping[str, Any]) -> None:
    name, path = operation.get("op"), operation.get("path")
    if not isinstance(path, str):
        raise PatchError("missing path in JSON patch operation")
    tokens = _tokens(path)
    match name:
        case "add":
            _add(document, tokens, copy.deepcopy(_value(operation)))
        case "remove":
            _remove(document, tokens)
        case "replace":
            parent, key = _parent(document, tokens)
            _lookup(parent, key, path)
            parent[_index(parent, key)] = copy.deepcopy(_value(operation))
        case "move":
            _add(document, tokens, _remove(document, _tokens(_source(operation))))
        case "copy":
            parent, key = _parent(document, _tokens(_source(operation)))
            _add(document, tokens, copy.deepcopy(_lookup(parent, key, path)))
        case "test":
            parent, key = _parent(document, tokens)
            found = _lookup(parent, key, path) if _has(parent, key) else None
            if found != _value(operation):
                raise PatchError(f"testing value {path} failed")
        case _:
            raise PatchError(f"Unexpected kind: {name}")


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchError("missing value in JSON patch operation")
    return operation["value"]


def _source(operation: Mapping[str, Any]) -> str:
    source = operation.get("from")
    if not isinstance(source, str):
        raise PatchError("missing from in JSON patch operation")
    return source


def _tokens(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise PatchError(f"doc is missing path: {path}: missing value")
    return [token.replace("~1", "/").replace("~0", "~") for token in path.split("/")]


def _parent(document: dict[str, Any], tokens: Sequence[str]) -> tuple[Any, str]:
    at: Any = document
    for token in tokens[:-1]:
        at = _lookup(at, token, "/".join(tokens))
    return at, tokens[-1]


def _has(parent: Any, key: str) -> bool:
    if isinstance(parent, dict):
        return key in parent
    return isinstance(parent, list) and is_number(key) and int(key) < len(parent)


def _index(parent: Any, key: str) -> Any:
    return int(key) if isinstance(parent, list) else key


def _lookup(parent: Any, key: str, path: str) -> Any:
    if not _has(parent, key):
        raise PatchError(f"doc is missing path: {path}: missing value")
    return parent[_index(parent, key)]


def _add(document: dict[str, Any], tokens: Sequence[str], value: Any) -> None:
    parent, key = _parent(document, tokens)
    if isinstance(parent, dict):
        parent[key] = value
    elif isinstance(parent, list) and (key == "-" or (is_number(key) and int(key) <= len(parent))):
        parent.insert(len(parent) if key == "-" else int(key), value)
    else:
        raise PatchError(f"add operation does not apply: doc is missing path: {'/'.join(tokens)}: missing value")


def _remove(document: dict[str, Any], tokens: Sequence[str]) -> Any:
    if len(tokens) == 1:  # nothing would be left
        raise PatchError("remove operation does not apply: doc is missing path: : missing value")
    parent, key = _parent(document, tokens)
    value = _lookup(parent, key, "/".join(tokens))
    if isinstance(parent, list):
        parent.pop(int(key))
    else:
        del parent[key]
    return value


def apply_strategic_merge_patch(target: Mapping[str, Any], patch: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return `target` changed by a strategic merge patch, lists merging as `shape` says; `target` is not changed.

    Raises: PatchError when the patch breaks the rules of its directives.
    """
    return _merge_object(copy.deepcopy(dict(target)), patch, shape)


def _merge_object(target: dict[str, Any], patch: Mapping[str, Any], shape: Shape | None) -> dict[str, Any]:
    directive = patch.get(DIRECTIVE)
    if directive == "replace":
        return {name: _without_directives(value) for name, value in patch.items() if name != DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise PatchError(f"Unknown patch type found: {directive}", syntax=True)
    if not isinstance(patch.get(RETAIN_KEYS, []), list):
        raise PatchError("invalid patch format of retainKeys", syntax=True)
    if RETAIN_KEYS in patch:
        target = {name: value for name, value in target.items() if name in patch[RETAIN_KEYS]}
    before = dict(target)
    for name, value in patch.items():
        if name.startswith("$"):
            if name.startswith(DELETE_FROM_LIST):
                _delete_from_list(target, name.removeprefix(DELETE_FROM_LIST), value)
            continue
        _merge_field(target, name, value, _child(shape, name))
    _reorder_lists(before, target, patch, shape)
    return target


def _child(shape: Shape | None, name: str) -> Shape | None:
    if shape is None:
        return None
    return shape.items if shape.form == "map" else shape.fields.get(name)


def _merge_field(target: dict[str, Any], name: str, value: Any, shape: Shape | None) -> None:
    if value is None:
        target.pop(name, None)
    elif isinstance(value, dict):
        present = target.get(name)
        if value.get(DIRECTIVE) == "delete":
            target.pop(name, None)
        else:
            target[name] = _merge_object(present if isinstance(present, dict) else {}, value, shape)
    elif isinstance(value, list) and shape is not None and shape.merges:
        present = target.get(name)
        target[name] = _merge_list(present if isinstance(present, list) else [], value, shape)
    else:
        target[name] = _without_directives(value)


def _merge_list(target: list[Any], patch: list[Any], shape: Shape) -> list[Any]:
    if not shape.merge_key:  # a set of primitives
        merged = target + [value for value in patch if value not in target]
        return _ordered(merged, patch, target, "")
    if any(isinstance(one, dict) and one == {DIRECTIVE: "replace"} for one in patch):
        return [_without_directives(one) for one in patch if one != {DIRECTIVE: "replace"}]
    result = list(target)
    for one in patch:
        if not isinstance(one, dict) or shape.merge_key not in one:
            if isinstance(one, dict) and one.get(DIRECTIVE) == "replace":
                return [_without_directives(item) for item in patch if item is not one]
            raise PatchError(f"map: {one} does not contain declared merge key: {shape.merge_key}", syntax=True)
        _merge_item(result, one, shape)
    return _ordered(result, patch, target, shape.merge_key)


def _merge_item(result: list[Any], one: dict[str, Any], shape: Shape) -> None:
    key = one[shape.merge_key]
    at = next((i for i, item in enumerate(result) if item.get(shape.merge_key) == key), None)
    if one.get(DIRECTIVE) == "delete":
        result[:] = [item for item in result if item.get(shape.merge_key) != key]
    elif one.get(DIRECTIVE) == "replace":
        replacement = _without_directives(one)
        if at is None:
            result.append(replacement)
        else:
            result[at] = replacement
    elif at is None:
        result.append(_merge_object({}, one, shape.items))
    else:
        result[at] = _merge_object(result[at], one, shape.items)


def _delete_from_list(target: dict[str, Any], name: str, values: Any) -> None:
    if not isinstance(values, list):
        raise PatchError("invalid patch format of primitive list", syntax=True)
    if isinstance(target.get(name), list):
        target[name] = [value for value in target[name] if value not in values]


def _reorder_lists(
    before: Mapping[str, Any], target: dict[str, Any], patch: Mapping[str, Any], shape: Shape | None
) -> None:
    """Put merged lists in the order that `$setElementOrder/name` asks."""
    for directive, order in patch.items():
        if not directive.startswith(ELEMENT_ORDER):
            continue
        if not isinstance(order, list):
            raise PatchError("invalid patch format of setElementOrder list", syntax=True)
        name = directive.removeprefix(ELEMENT_ORDER)
        child = _child(shape, name)
        if isinstance(target.get(name), list) and child is not None:
            target[name] = _ordered(target[name], order, before.get(name) or [], child.merge_key)


def _ordered(merged: list[Any], asked: list[Any], before: list[Any], key: str) -> list[Any]:
    """Sort a merged list: what the patch names as `asked` has it, the rest as it stood, each before what it was before.

    So an item that a patch adds comes first, and kubectl's order is kept around what others have added.
    Source: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config/#how-apply-calculates-differences-and-merges-changes
    """

    def name_of(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted, stood = [name_of(one) for one in asked], [name_of(one) for one in before]
    named = sorted((one for one in merged if name_of(one) in wanted), key=lambda one: wanted.index(name_of(one)))
    rest = [one for one in merged if name_of(one) not in wanted]
    rest.sort(key=lambda one: stood.index(name_of(one)) if name_of(one) in stood else len(stood))
    result: list[Any] = []
    while named and rest:
        ours, theirs = name_of(rest[0]), name_of(named[0])
        is_before = ours in stood and theirs in stood and stood.index(ours) < stood.index(theirs)
        result.append(rest.pop(0) if is_before else named.pop(0))
    return result + named + rest


def _without_directives(value: Any) -> Any:
    """Return a copy of `value` as it is stored: no directive, no null."""
    if isinstance(value, dict):
        return {
            name: _without_directives(item)
            for name, item in value.items()
            if item is not None and not name.startswith(("$patch", DELETE_FROM_LIST, ELEMENT_ORDER, RETAIN_KEYS))
        }
    if isinstance(value, list):
        return [_without_directives(item) for item in value]
    return value
