"""Reading an expression's text: what names it uses, how deep its loops nest, and the macro `cel.bind`."""

import itertools
import re

_TOKEN = re.compile(
    r"""(?P<string>[rRbB]{0,2}(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))
    | (?P<name>[A-Za-z_]\w*) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_BIND = "cel.bind("


def identifiers(text: str) -> frozenset[str]:
    """Return all names in an expression, outside of strings."""
    return frozenset(match["name"] for match in _TOKEN.finditer(text) if match["name"])


def without_strings(text: str) -> str:
    """Return the expression with blanks in place of strings; positions are kept."""
    return _TOKEN.sub(lambda match: " " * len(match[0]) if match["string"] else match[0], text)


def nested_loops(text: str, loop: re.Pattern[str]) -> int:
    """Return how many loops lie within each other at most."""
    plain = without_strings(text)
    starts = {match.end() - 1 for match in loop.finditer(plain)}
    stack: list[bool] = []
    deepest = 0
    for at, letter in enumerate(plain):
        if letter in "([{":
            stack.append(at in starts)
            deepest = max(deepest, sum(stack))
        elif letter in ")]}" and stack:
            stack.pop()
    return deepest


def expanded(text: str) -> str:
    """Return the expression with `cel.bind(name, value, body)` said as a loop over a list of one."""
    plain = without_strings(text)
    at = plain.find(_BIND)
    if at < 0:
        return text
    cuts = [at + len(_BIND) - 1]
    depth = 0
    for position in range(cuts[0], len(plain)):
        letter = plain[position]
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 1:
            cuts.append(position)
        elif depth == 0:
            cuts.append(position)
            break
    if depth or len(cuts) != 4:
        raise ValueError("cel.bind() takes a name, a value and an expression")
    name, value, body = (text[start + 1 : end].strip() for start, end in itertools.pairwise(cuts))
    return expanded(f"{text[:at]}([{value}].map({name}, {body})[0]){text[cuts[3] + 1 :]}")
