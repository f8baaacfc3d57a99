"""Whether the expressions of an admission policy fit the types of what they are asked about. Pure.

The engine knows no types of ours. So each `object.spec.replicas` is looked up in the schema and given to it as a
variable of that field's type, under a name as long as the path: what it then says of types and places is right.
Source: https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from machinery.api.schema import Shape, definitions, shape_of
from machinery.cel.bindings import without_strings
from machinery.cel.program import CompileError, compile_expression

_PATH = re.compile(r"\b(?:object|oldObject)(?:\.[A-Za-z_]\w*)+")
_TYPES = {"integer": "int", "number": "double", "boolean": "bool", "string": "string"}
_ROOTS = ("object", "oldObject", "request", "params", "namespaceObject", "authorizer", "variables")
_FIELDS = ("expression", "messageExpression")


@functools.cache
def _by_kind() -> Mapping[tuple[str, str, str], str]:
    found = {}
    for name, definition in definitions().items():
        for one in definition.get("x-kubernetes-group-version-kind") or ():
            found[one.get("group", ""), one["version"], one["kind"]] = name
    return found


def shape_of_kind(group: str, version: str, kind: str) -> Shape | None:
    """Return the shape of a built-in kind."""
    name = _by_kind().get((group, version, kind))
    return shape_of(name) if name is not None else None


def warnings_of(spec: Mapping[str, Any], shapes: Sequence[tuple[str, Shape]]) -> list[dict[str, str]]:
    """Return what is wrong with a policy's expressions, as `status.typeChecking.expressionWarnings`.

    Args:
        spec: the policy's spec.
        shapes: what it is asked about, each with its name as warnings give it ("apps/v1, Kind=Deployment").
    """
    found = []
    for index, validation in enumerate(spec.get("validations") or ()):
        for field in _FIELDS:
            if not validation.get(field):
                continue
            problems = [f"{name}: {text}" for name, shape in shapes for text in _problems(validation[field], shape)]
            if problems:
                found.append({"fieldRef": f"spec.validations[{index}].{field}", "warning": "\n".join(problems)})
    return found


def _problems(expression: str, shape: Shape) -> Iterator[str]:
    variables, typed = dict.fromkeys(_ROOTS, "dyn"), expression
    plain = without_strings(expression)
    for match in reversed(list(_PATH.finditer(plain))):
        text = match[0]
        called = plain[match.end() :].lstrip().startswith("(")
        path = text.rpartition(".")[0] if called else text
        names = path.split(".")[1:]
        missing, kind = _look_up(shape, names)
        if missing:
            yield f"ERROR: <input>:1:{match.start() + 1}: undefined field '{missing}'"
            continue
        if kind is None or not names or plain[: match.start()].rstrip().endswith("has("):
            continue
        variable = path.replace(".", "_")
        variables[variable] = kind
        typed = typed[: match.start()] + variable + typed[match.start() + len(path) :]
    try:
        compile_expression(typed, variables)
    except CompileError as error:
        yield str(error)


def _look_up(shape: Shape, names: Sequence[str]) -> tuple[str, str | None]:
    """Return the first name that is no field, and the type a path leads to, where the engine has one."""
    for name in names:
        if shape.form != "object" or not shape.fields:
            return "", None
        if name not in shape.fields:
            return name, None
        shape = shape.fields[name]
    return "", None if shape.name in ("Time", "MicroTime") else _TYPES.get(shape.form)
