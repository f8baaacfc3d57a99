"""The part of Go's text/template that people write behind `-o go-template`.

Fields, variables, pipelines, if/else, range, with, define/template, comments, trimming, and the functions of
text/template and kubectl. Source: https://pkg.go.dev/text/template
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

import click

from cli.jsonpath import is_strict, shown

_ACTION = re.compile(r"\{\{(-\s)?\s*(/\*.*?\*/|(?:`[^`]*`|\"(?:\\.|[^\"\\])*\"|.)*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|`[^`]*`|\$?[\w]*(?:\.[\w]+)+|\$\w*|:=|[(),|=]|-?\d+(?:\.\d+)?|\.|\w+|\S')
NO_VALUE = "<no value>"


class TemplateError(click.ClickException):
    """A template that can't be read or filled in."""


@dataclass
class Node:
    """Text, an action, or a block with its branches."""

    form: str
    text: str = ""
    body: list["Node"] = field(default_factory=list)
    other: list["Node"] = field(default_factory=list)


def parse(template: str) -> list[Node]:
    """Return the nodes of a template. Raises: TemplateError."""
    pieces: list[tuple[str, str]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        pieces.append(("text", text.rstrip() if match[1] else text))
        trim = bool(match[3])
        if not match[2].startswith("/*"):
            pieces.append(("action", match[2].strip()))
        at = match.end()
    pieces.append(("text", template[at:].lstrip() if trim else template[at:]))
    nodes, rest = _block(pieces, 0)
    if rest < len(pieces):
        raise TemplateError(f"template: output:1: unexpected {{{{{pieces[rest][1]}}}}}")
    return nodes


def _block(pieces: Sequence[tuple[str, str]], at: int) -> tuple[list[Node], int]:
    nodes: list[Node] = []
    while at < len(pieces):
        form, text = pieces[at]
        word = text.split(None, 1)[0] if form == "action" and text else ""
        if word in ("end", "else"):
            return nodes, at
        if word in ("if", "range", "with", "define", "block"):
            node, at = _branches(pieces, at, word)
            nodes.append(node)
        elif form == "text":
            nodes.append(Node("text", text))
        else:
            nodes.append(Node("action", text))
        at += 1
    return nodes, at


def _branches(pieces: Sequence[tuple[str, str]], at: int, word: str) -> tuple[Node, int]:
    node = Node(word, pieces[at][1].removeprefix(word).strip())
    node.body, at = _block(pieces, at + 1)
    if at >= len(pieces):
        raise TemplateError("template: output:1: unexpected EOF")
    text = pieces[at][1]
    if text.startswith("else"):
        condition = text.removeprefix("else").strip()
        if condition:  # `else if x` is a block of its own inside, closed by the same end
            inner = [("action", condition), *pieces[at + 1 :]]
            branch, used = _branches(inner, 0, condition.split(None, 1)[0])
            node.other = [branch]
            return node, at + used
        node.other, at = _block(pieces, at + 1)
        if at >= len(pieces):
            raise TemplateError("template: output:1: unexpected EOF")
    return node, at


def fill(template: str, obj: Any) -> str:
    """Return a template filled in with an object. Raises: TemplateError."""
    filler = _Filler(obj)
    return filler.run(parse(template), obj, {"$": obj})


class _Filler:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._defined: dict[str, list[Node]] = {}

    def run(self, nodes: Sequence[Node], dot: Any, variables: dict[str, Any]) -> str:
        return "".join(self._one(node, dot, variables) for node in nodes)

    def _one(self, node: Node, dot: Any, variables: dict[str, Any]) -> str:
        match node.form:
            case "text":
                return node.text
            case "action":
                return self._action(node.text, dot, variables)
            case "if":
                chosen = node.body if _true(self._pipeline(node.text, dot, variables)) else node.other
                return self.run(chosen, dot, dict(variables))
            case "with":
                value = self._pipeline(node.text, dot, variables)
                return self.run(node.body, value, dict(variables)) if _true(value) else self.run(
                    node.other, dot, dict(variables)
                )  # fmt: skip
            case "range":
                return self._range(node, dot, variables)
            case _:
                name, _, rest = node.text.partition(" ")
                self._defined[name.strip('"`')] = node.body
                return self.run(node.body, self._pipeline(rest, dot, variables), {"$": dot}) if rest else ""

    def _range(self, node: Node, dot: Any, variables: dict[str, Any]) -> str:
        names, text = [], node.text
        head, sign, tail = text.partition(":=")
        if sign and head.lstrip().startswith("$"):
            names, text = [name.strip() for name in head.split(",")], tail
        value = self._pipeline(text, dot, variables)
        items: list[tuple[Any, Any]]
        if isinstance(value, dict):
            items = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, int) and not isinstance(value, bool):
            items = [(at, at) for at in range(value)]
        else:
            items = list(enumerate(value or ()))
        if not items:
            return self.run(node.other, dot, dict(variables))
        parts = []
        for key, one in items:
            inner = dict(variables)
            if names:
                inner[names[-1]] = one
            if len(names) > 1:
                inner[names[0]] = key
            parts.append(self.run(node.body, one, inner))
        return "".join(parts)

    def _action(self, text: str, dot: Any, variables: dict[str, Any]) -> str:
        if text.startswith("template "):
            name, _, rest = text.removeprefix("template ").strip().partition(" ")
            body = self._defined.get(name.strip('"`'))
            if body is None:
                raise TemplateError(f"template: no template {name} associated with template")
            given = self._pipeline(rest, dot, variables) if rest.strip() else None
            return self.run(body, given, {"$": given})
        match = re.match(r"(\$\w+)\s*:?=\s*(.+)", text, re.DOTALL)
        if match and not text.startswith("$=="):
            variables[match[1]] = self._pipeline(match[2], dot, variables)
            return ""
        value = self._pipeline(text, dot, variables)
        return NO_VALUE if value is None else _text(value)

    def _pipeline(self, text: str, dot: Any, variables: dict[str, Any]) -> Any:
        tokens = _TOKEN.findall(text)
        value, rest = self._commands(tokens, dot, variables)
        if rest:
            raise TemplateError(f'template: output:1: unexpected "{rest[0]}" in operand')
        return value

    def _commands(self, tokens: list[str], dot: Any, variables: dict[str, Any]) -> tuple[Any, list[str]]:
        piped: tuple[Any, ...] = ()
        while True:
            terms: list[Any] = []
            while tokens and tokens[0] not in ("|", ")"):
                term, tokens = self._term(tokens, dot, variables)
                terms.append(term)
            if not terms:
                raise TemplateError("template: output:1: missing value for command")
            head, *arguments = terms
            value = head(*arguments, *piped) if callable(head) else head
            if not tokens or tokens[0] == ")":
                return value, tokens
            piped, tokens = (value,), tokens[1:]

    def _term(self, tokens: list[str], dot: Any, variables: dict[str, Any]) -> tuple[Any, list[str]]:
        token, rest = tokens[0], tokens[1:]
        if token == "(":  # noqa: S105 - a parenthesis
            value, rest = self._commands(rest, dot, variables)
            if not rest:
                raise TemplateError("template: output:1: unclosed left paren")
            rest = rest[1:]
            if rest and rest[0].startswith(".") and len(rest[0]) > 1:
                return _follow(value, rest[0][1:].split(".")), rest[1:]
            return value, rest
        return self._atom(token, dot, variables), rest

    def _atom(self, token: str, dot: Any, variables: dict[str, Any]) -> Any:
        if token == ".":  # noqa: S105 - a point
            return dot
        if token.startswith("."):
            return _follow(dot, token[1:].split("."))
        if token.startswith("$"):
            name, _, path = token.partition(".")
            if name not in variables:
                raise TemplateError(f'template: output:1: undefined variable "{name}"')
            return _follow(variables[name], path.split(".") if path else [])
        return _literal(token)


def _literal(token: str) -> Any:
    """Return what a word stands for: text, a number, a truth value, or a function. Raises: TemplateError."""
    if token[0] == '"':
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), token[1:-1])
    if token[0] == "`":
        return token[1:-1]
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if re.fullmatch(r"-?\d+(\.\d+)?", token):
        return float(token) if "." in token else int(token)
    function = _FUNCTIONS.get(token)
    if function is None:
        raise TemplateError(f'template: output:1: function "{token}" not defined')
    return function


_CONSTANTS = {"true": True, "false": False, "nil": None}


def _follow(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        if is_strict() and isinstance(value, dict) and name not in value:
            raise TemplateError(f'template: output:1: map has no entry for key "{name}"')
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _true(value: Any) -> bool:
    return bool(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_text, value)) + "]"
    return NO_VALUE if value is None else shown(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise TemplateError(f"error calling index: index out of range: {key}")
            value = value[key]
        else:
            raise TemplateError(f"error calling index: can't index item of type {type(value).__name__}")
    return value


def _printf(form: str, *values: Any) -> str:
    python = re.sub(r"%([-+0 #]*\d*(?:\.\d+)?)([vdsqxXfTt%])", _verb, form)
    shown_values = tuple(
        value if isinstance(value, int | float) and not isinstance(value, bool) else _text(value) for value in values
    )
    try:
        return python % shown_values
    except TypeError as error:
        raise TemplateError(f"error calling printf: {error}") from error


def _verb(match: re.Match[str]) -> str:
    flags, form = match[1], match[2]
    if form == "q":
        return f'"%{flags}s"'
    return f"%{flags}{'s' if form in 'vTt' else form}"


def _decoded(text: Any) -> str:
    return base64.b64decode(text or "").decode(errors="replace")


def _exists(value: Any, *keys: Any) -> bool:
    for key in keys:
        if (isinstance(value, dict) and key in value) or (
            isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value)
        ):
            value = value[key]
        else:
            return False
    return True


def _and(*values: Any) -> Any:
    return next((value for value in values if not _true(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if _true(value)), values[-1])


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": lambda value: len(value or ()),
    "index": _index,
    "printf": _printf,
    "print": lambda *values: "".join(map(_text, values)),
    "println": lambda *values: " ".join(map(_text, values)) + "\n",
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": _and,
    "or": _or,
    "not": lambda value: not _true(value),
    "slice": lambda value, *bounds: value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] :],
    "html": lambda value: _text(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
    "urlquery": lambda value: quote_plus(_text(value)),
    "js": lambda value: _text(value).replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"'),
    "base64decode": _decoded,
    "exists": _exists,
}
