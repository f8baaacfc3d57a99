"""kubectl's JSON paths: `{.items[*].metadata.name}`, ranges, filters, slices, unions, recursive descent.

Source: https://kubernetes.io/docs/reference/kubectl/jsonpath/
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import click
import orjson

from cli.framework import LEADING


class PathError(click.ClickException):
    """A path that can't be read, or leads outside a list."""


_NAME = re.compile(r"(?:\\.|[^.\[\]{}\s\\,()'\"])+")
_ESCAPED = re.compile(r"\\(.)")
Step = Callable[[list[Any]], list[Any]]


def _steps(path: str) -> list[Step]:
    found: list[Step] = []
    at = 0
    while at < len(path):
        if path.startswith("..", at):
            found.append(_descend)
            at += 2 if path[at + 2 : at + 3] == "[" else 1
            at = _name_step(path, at, found) if path[at : at + 1] == "." else at
        elif path[at] == ".":
            at = _name_step(path, at, found)
        elif path[at] == "[":
            end = _closing(path, at)
            found.append(_bracket(path[at + 1 : end]))
            at = end + 1
        else:
            match = _NAME.match(path, at)
            if match is None:
                raise PathError(f"unrecognized character in action: U+{ord(path[at]):04X} '{path[at]}'")
            found.append(_field(_ESCAPED.sub(r"\1", match[0])))
            at = match.end()
    return found


def _name_step(path: str, at: int, found: list[Step]) -> int:
    """Read what stands behind the point at `at`; returns where to go on."""
    match = _NAME.match(path, at + 1)
    if match is None:
        return at + 1  # a lone point, or one before a bracket
    name = match[0]
    found.append(_wildcard if name == "*" else _field(_ESCAPED.sub(r"\1", name)))
    return match.end()


def _closing(path: str, at: int) -> int:
    depth, quote = 0, ""
    for position in range(at, len(path)):
        char = path[position]
        if quote:
            quote = "" if char == quote and path[position - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if depth == 0:
                return position
    raise PathError("unterminated array")


def is_strict() -> bool:
    """Whether a missing key is an error: --allow-missing-template-keys=false."""
    return LEADING.get("allow_missing_template_keys") is False


def _field(name: str) -> Step:
    def step(values: list[Any]) -> list[Any]:
        found = [one[name] for one in values if isinstance(one, dict) and name in one]
        if values and not found and is_strict():
            raise PathError(f"Error executing template: {name} is not found")
        return found

    return step


def _wildcard(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for one in values:
        if isinstance(one, dict):
            found += [one[key] for key in sorted(one)]
        elif isinstance(one, list):
            found += one
    return found


def _descend(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for one in values:
        if isinstance(one, dict | list):
            found.append(one)
            found += _descend(_wildcard([one]))
    return found


def _bracket(inside: str) -> Step:
    text = inside.strip()
    if text == "*":
        return _wildcard
    if text.startswith("?(") and text.endswith(")"):
        return _filter(text[2:-1])
    parts = _split_union(text)
    if len(parts) > 1:
        steps = [_bracket(part) for part in parts]
        return lambda values: [found for one in values for step in steps for found in step([one])]
    if text[:1] in "'\"" and text:
        return _field(_ESCAPED.sub(r"\1", text[1:-1]))
    if re.fullmatch(r"-?\d*(:-?\d*){0,2}", text):
        return _slice(text)
    raise PathError(f"invalid array index {text}")


def _split_union(text: str) -> list[str]:
    parts, quote = [""], ""
    for char in text:
        if char == "," and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        parts[-1] += char
    return parts


def _slice(text: str) -> Step:
    numbers = [int(part) if part else None for part in text.split(":")]

    def step(values: list[Any]) -> list[Any]:
        found: list[Any] = []
        for one in values:
            if not isinstance(one, list):
                continue
            if len(numbers) > 1:
                found += one[slice(*numbers)]
                continue
            index = numbers[0] or 0
            if not -len(one) <= index < len(one):
                raise PathError(f"array index out of bounds: index {index}, length {len(one)}")
            found.append(one[index])
        return found

    return step


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b, ">": lambda a, b: a > b,
}  # fmt: skip
_COMPARISON = re.compile(r"(.+?)\s*(==|!=|<=|>=|<|>)\s*(.+)", re.DOTALL)


def _filter(text: str) -> Step:
    match = _COMPARISON.fullmatch(text.strip())
    if match is None:
        present = _operand(text.strip())
        return lambda values: [one for item in values for one in _items(item) if present(one)]
    left, operator, right = _operand(match[1].strip()), _OPERATORS[match[2]], _operand(match[3].strip())

    def keeps(one: Any) -> bool:
        here, there = left(one), right(one)
        if not here or not there:
            return False
        try:
            return operator(here[0], there[0])
        except TypeError:
            return False

    return lambda values: [one for item in values for one in _items(item) if keeps(one)]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []


def _operand(text: str) -> Callable[[Any], list[Any]]:
    if text[:1] in ("@", "$", "."):
        steps = _steps(text.lstrip("@$"))
        return lambda one: _walk(steps, [one])
    if text[:1] in "'\"" and text:
        literal: Any = _ESCAPED.sub(r"\1", text[1:-1])
    elif text in ("true", "false"):
        literal = text == "true"
    else:
        try:
            literal = float(text) if "." in text else int(text)
        except ValueError:
            raise PathError(f"unrecognized identifier {text}") from None
    return lambda _: [literal]


def _walk(steps: list[Step], values: list[Any]) -> list[Any]:
    for step in steps:
        values = step(values)
    return values


def compiled(path: str) -> Callable[[Any], list[Any]]:
    """Return a function from an object to the values a path leads to. Raises: PathError.

    Args: `path` is relaxed as in custom-columns and --sort-by: `.a.b`, `{.a.b}` and `a.b` mean the same.
    """
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1].strip()
    steps = _steps(text.lstrip("$@"))
    return lambda obj: _walk(steps, [obj])


def path_values(obj: Any, path: str) -> list[Any]:
    """Return what a path leads to in an object; nothing where a key is missing. Raises: PathError."""
    return compiled(path)(obj)


def shown(value: Any) -> str:
    """Return a value as kubectl prints it in text."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, dict | list):
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parts(template: str) -> Iterator[tuple[str, str]]:
    """Yield ("text", …) and ("action", …) parts; braces inside quotes and filters do not end an action."""
    at = 0
    while at < len(template):
        start = template.find("{", at)
        if start < 0:
            yield "text", template[at:]
            return
        if start > at:
            yield "text", template[at:start]
        quote, position = "", start + 1
        while position < len(template):
            char = template[position]
            if quote:
                if char == quote and template[position - 1] != "\\":
                    quote = ""
            elif char in "'\"":
                quote = char
            elif char == "}":
                break
            position += 1
        else:
            raise PathError("unclosed action")
        yield "action", template[start + 1 : position].strip()
        at = position + 1


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


def fill(template: str, obj: Any) -> str:
    """Return a template's text with its actions filled in. Raises: PathError."""
    text, end = _fill(list(_parts(template)), 0, obj, obj)
    if end is not None:
        raise PathError("not in range, nothing to end")
    return text


def _fill(parts: list[tuple[str, str]], at: int, root: Any, here: Any) -> tuple[str, int | None]:
    """Fill from part `at` up to an `end` or the last; returns the text and the end's place."""
    result: list[str] = []
    while at < len(parts):
        form, text = parts[at]
        if form == "text":
            result.append(text)
        elif text == "end":
            return "".join(result), at
        elif text == "range" or text.startswith(("range ", "range\t")):
            at = _range(parts, at, root, here, result)
        else:
            result.append(_action(text, root, here))
        at += 1
    return "".join(result), None


def _range(parts: list[tuple[str, str]], at: int, root: Any, here: Any, result: list[str]) -> int:
    values = _expression(parts[at][1].removeprefix("range").strip(), root, here)
    end: int | None = None
    for one in values:
        text, end = _fill(parts, at + 1, root, one)
        result.append(text)
    if end is None:
        _, end = _skip(parts, at + 1)
    return end


def _skip(parts: list[tuple[str, str]], at: int) -> tuple[str, int]:
    depth = 0
    for position in range(at, len(parts)):
        form, text = parts[position]
        if form == "action" and text.startswith("range"):
            depth += 1
        elif form == "action" and text == "end":
            if depth == 0:
                return "", position
            depth -= 1
    raise PathError("unterminated range")


def _action(text: str, root: Any, here: Any) -> str:
    pieces = []
    for word in _words(text):
        if word[:1] in "'\"":
            pieces.append(re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), word[1:-1]))
        else:
            pieces.append(" ".join(shown(value) for value in _expression(word, root, here)))
    return "".join(pieces)


def _words(text: str) -> list[str]:
    """Cut an action at blanks outside quotes, brackets and parentheses."""
    words, quote, depth = [""], "", 0
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "[(":
            depth += 1
        elif char in "])":
            depth -= 1
        elif char.isspace() and depth == 0:
            words.append("")
            continue
        words[-1] += char
    return [word for word in words if word]


def _expression(text: str, root: Any, here: Any) -> list[Any]:
    start = root if text.startswith("$") else here
    return _walk(_steps(text.lstrip("$@")), [start])
