"""Objects that expressions write down by their types: `Object.spec{replicas: 3}`, `JSONPatch{op: "add"}`.

The engine knows no such types, so the text is brought to maps: `{"replicas": 3}`. What a map may hold is judged later,
by the schema of the object it is put into.
Source: https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/
"""

import itertools
import re

from machinery.cel.bindings import without_strings

_TYPE = re.compile(r"\b(?:Object(?:\s*\.\s*\w+)*|JSONPatch)\s*(?=\{)")
_KEY = re.compile(r"(?<=[{,])(\s*\??\s*)([A-Za-z_]\w*)(?=\s*:)")
_ESCAPE = "jsonpatch.escapeKey("


def as_maps(text: str) -> str:
    """Return an expression with typed literals said as maps. Raises: ValueError for braces that do not match."""
    text = _without_escapes(text)
    plain = without_strings(text)
    match = _TYPE.search(plain)
    while match is not None:
        end = _closing(plain, match.end())
        inside = _quoted(text, plain, match.end(), end)
        text = text[: match.start()] + inside + text[end + 1 :]
        plain = without_strings(text)
        match = _TYPE.search(plain)
    return text


def _closing(plain: str, start: int) -> int:
    depth = 0
    for position in range(start, len(plain)):
        depth += (plain[position] in "([{") - (plain[position] in ")]}")
        if depth == 0:
            return position
    raise ValueError("a brace is not closed")


def _quoted(text: str, plain: str, start: int, end: int) -> str:
    """Return a literal's braces and what is in them, with the names of its own fields as strings."""
    cuts, depth = [start], 0
    for position in range(start, end + 1):
        depth += (plain[position] in "([{") - (plain[position] in ")]}")
        if (plain[position] == "," and depth == 1) or depth == 0:
            cuts.append(position)
    parts = []
    for begin, stop in itertools.pairwise(cuts):
        found = _KEY.match(plain, begin + 1) if begin + 1 <= stop else None
        if found is None:
            parts.append(text[begin:stop])
        else:
            parts.append(f'{text[begin]}{found[1]}"{found[2]}"{text[found.end() : stop]}')
    return "".join(parts) + "}"


def _without_escapes(text: str) -> str:
    """Return an expression with jsonpatch.escapeKey(x) said by the functions of strings."""
    at = without_strings(text).find(_ESCAPE)
    if at < 0:
        return text
    opening = at + len(_ESCAPE) - 1
    end = _closing(without_strings(text), opening)
    inner = text[opening + 1 : end]
    return _without_escapes(f'{text[:at]}({inner}).replace("~", "~0").replace("/", "~1"){text[end + 1 :]}')
