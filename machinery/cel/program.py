"""Compiling and evaluating CEL expressions, within bounds.

The engine is Google's CEL, `cel-expr-python`. It has no meter of cost: expressions are bounded by their length and
depth of nested loops when they are compiled, and by the size of what they are given when they run.
Source: https://kubernetes.io/docs/reference/using-api/cel/
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from machinery.cel import bindings

MAX_EXPRESSION_CHARS = 16 * 1024
MAX_NESTED_LOOPS = 4
# What loops may come to: values given, to the power of the loops within each other.
MAX_STEPS = 50_000_000
_LOOP = re.compile(r"\.(?:all|exists|exists_one|map|filter)\s*\(")
_LOCATION = re.compile(r"\s*\[[A-Z_]+\]\s*$")


class CompileError(ValueError):
    """The expression is not valid; the message says where and why."""


class EvaluationError(ValueError):
    """The expression could not be evaluated on what it was given."""


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression."""

    expression: str
    result: str  # bool, int, string, dyn, ... as the type checker found it
    uses: frozenset[str]
    loops: int
    _compiled: Any

    def evaluate(self, given: Mapping[str, Any]) -> Any:
        """Return the value of the expression as plain Python data.

        Raises: EvaluationError when it fails, or would take more steps than are allowed.
        """
        if self.loops > 1:
            size = max((_size(value) for name, value in given.items() if name in self.uses), default=0)
            if size**self.loops > MAX_STEPS:
                raise EvaluationError("operation cancelled: actual cost limit exceeded")
        try:
            value = self._compiled.eval(data={name: value for name, value in given.items() if name in self.uses})
        except (RuntimeError, TypeError, ValueError) as error:
            raise EvaluationError(_told(str(error))) from error
        if value.type().name() in ("*error*", "ERROR") or value.type() == _engine().Type.ERROR:
            raise EvaluationError(_told(str(value.plain_value())))
        return value.plain_value()


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_size, value))
    return 1


def _told(message: str) -> str:
    """Return the engine's message in the words of Kubernetes' one."""
    text = _LOCATION.sub("", message)
    text = re.sub(r"^[A-Z_]+: ", "", text)
    missing = re.search(r'Key not found in map : "([^"]*)"', text)
    return f"no such key: {missing[1]}" if missing else text


@functools.cache
def _engine() -> Any:
    """Return the engine's module: 17 MB that a process without rules goes without."""
    from cel_expr_python import cel

    return cel


@functools.lru_cache(maxsize=64)
def _environment(variables: tuple[tuple[str, str], ...]) -> Any:
    from cel_expr_python.ext import ext_encoders, ext_math, ext_optional, ext_strings

    from machinery.cel import library

    cel = _engine()
    types = {name: getattr(cel.Type, kind.upper()) for name, kind in variables}
    extensions = [
        ext_strings.ExtStrings(), ext_optional.ExtOptional(), ext_math.ExtMath(), ext_encoders.ExtEncoders(),
        library.extension(),
    ]  # fmt: skip
    return cel.NewEnv(variables=types, extensions=extensions)


@functools.lru_cache(maxsize=4096)
def _compile(expression: str, variables: tuple[tuple[str, str], ...]) -> Program:
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise CompileError(f"expression exceeds the size limit of {MAX_EXPRESSION_CHARS} characters")
    try:
        text = bindings.expanded(expression)
        compiled = _environment(variables).compile(text)
    except (RuntimeError, ValueError, RecursionError) as error:
        raise CompileError(_LOCATION.sub("", str(error)).removeprefix("INVALID_ARGUMENT: ")) from error
    loops = bindings.nested_loops(text, _LOOP)
    if loops > MAX_NESTED_LOOPS:
        raise CompileError(f"expression nests {loops} loops, at most {MAX_NESTED_LOOPS} are allowed")
    names = bindings.identifiers(text)
    uses = frozenset(name for name, _ in variables if name in names)
    return Program(expression, compiled.return_type().name().lower(), uses, loops, compiled)


def compile_expression(expression: str, variables: Mapping[str, str]) -> Program:
    """Return the program of an expression.

    Args: `variables` are the names it may use with their types: dyn, bool, int, string, timestamp, ...
    Raises: CompileError.
    """
    return _compile(expression, tuple(sorted(variables.items())))
