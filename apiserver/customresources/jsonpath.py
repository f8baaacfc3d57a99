"""The part of JSONPath that definitions may use: fields, array indices, wildcards and simple filters.

Source: https://kubernetes.io/docs/reference/kubectl/jsonpath/
"""

import re
from collections.abc import Callable
from typing import Any

import orjson

from apiserver.registry.kind import Object, Since

_STEP = re.compile(
    r"""\.(?P<field>(?:[^.\[\]\\]|\\.)+) | \[(?P<index>-?\d+)\] | \[(?P<all>\*)\] | \.(?P<every>\*)
    | \[['"](?P<quoted>[^'"]*)['"]\]
    | \[\?\(@\.(?P<left>[\w.\-]+)\s*(?P<test>==|!=)\s*(?P<right>"[^"]*"|'[^']*'|[\w.\-]+)\)\]""",
    re.VERBOSE,
)
_INTEGERS = (int,)


class PathError(ValueError):
    """The path is none of those that may be used."""


Step = Callable[[Any], list[Any]]


def compile_path(path: str) -> list[Step]:
    """Return the steps of a path. Raises: PathError."""
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    steps: list[Step] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise PathError(f"invalid path {path}: unexpected {text[at:]!r}")
        steps.append(_step(match))
        at = match.end()
    return steps


def _step(match: re.Match[str]) -> Step:
    name = match["field"] or match["quoted"]
    if match["all"] or match["every"] or name == "*":
        return lambda v: list(v.values()) if isinstance(v, dict) else list(v) if isinstance(v, list) else []
    if name is not None:
        key = re.sub(r"\\(.)", r"\1", name)
        return lambda v: [v[key]] if isinstance(v, dict) and key in v else []
    if match["index"] is not None:
        index = int(match["index"])
        return lambda v: [v[index]] if isinstance(v, list) and -len(v) <= index < len(v) else []
    return _filter(match["left"].split("."), match["test"] == "==", match["right"])


def _filter(path: list[str], equal: bool, literal: str) -> Step:
    wanted: Any = literal[1:-1] if literal[0] in "\"'" else {"true": True, "false": False}.get(literal, literal)

    def value(one: Any) -> Any:
        for part in path:
            one = one.get(part) if isinstance(one, dict) else None
        return one if isinstance(one, bool | str) else str(one)

    return lambda v: [one for one in v if (value(one) == wanted) is equal] if isinstance(v, list) else []


def find(obj: Any, steps: list[Step]) -> list[Any]:
    """Return the values a path leads to."""
    values = [obj]
    for step in steps:
        values = [found for value in values for found in step(value)]
    return values


def column_value(path: str, kind: str) -> Callable[[Object], Any]:
    """Return what reads a printer column's cell: None where there is nothing of its type to show."""
    steps = compile_path(path)

    def cell(obj: Object) -> Any:
        values = find(obj, steps)
        if not values or values[0] is None:
            return None
        return _cell(values, kind)

    return cell


def _cell(values: list[Any], kind: str) -> Any:
    value = values[0]
    if kind == "integer":
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind == "number":
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "date":
        return Since(value) if isinstance(value, str) else None
    return ",".join(one if isinstance(one, str) else orjson.dumps(one).decode() for one in values)


def field_text(path: str) -> Callable[[Object], str]:
    """Return what reads a selectable field as text; empty where it is absent."""
    steps = compile_path(path)

    def text(obj: Object) -> str:
        values = find(obj, steps)
        if not values or values[0] is None:
            return ""
        return values[0] if isinstance(values[0], str) else orjson.dumps(values[0]).decode()

    return text


def value_at(obj: Object, path: str) -> Any:
    """Return the value at a path of plain fields, None where there is none."""
    values = find(obj, compile_path(path))
    return values[0] if values else None


def set_at(obj: Object, path: str, value: Any) -> None:
    """Set the value at a path of plain fields, making objects on the way."""
    *parents, last = path.removeprefix(".").split(".")
    for name in parents:
        obj = obj.setdefault(name, {})
    obj[last] = value
