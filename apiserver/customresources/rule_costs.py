"""What a rule in CEL may cost at most, told from its schema before any object is there.

Upstream adds up the cost of every call; we count turns of loops alone, over lists and maps as long as a request can
hold them. So we refuse what upstream refuses for its loops, and nothing that it takes.
Source: https://kubernetes.io/docs/reference/using-api/cel/#resource-constraints
"""

import re
from collections.abc import Iterator, Mapping

from apiserver.customresources.structural import NO_DEFAULT, Structural
from apiserver.registry.kind import forbidden
from machinery.cel.bindings import without_strings
from machinery.errors import Cause

_REQUEST_BYTES = 3 * 1024 * 1024
_RULE_LIMIT = 10_000_000
_TINY = {"string": 2, "boolean": 4, "array": 2, "object": 2}
_HINT = "adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared"
_LOOP = re.compile(
    r"(?<![\w.)\]])([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,"
)


def cost_causes(schema: Structural, path: str) -> Iterator[Cause]:
    """Yield the rules of a whole schema that may cost too much."""
    yield from _causes(schema, path, 1)


def _causes(schema: Structural, path: str, times: int) -> Iterator[Cause]:
    for index, given in enumerate(schema.raw.get("x-kubernetes-validations") or ()):
        cost = times * turns(given.get("rule", ""), schema)
        if cost > _RULE_LIMIT:
            yield forbidden(f"{path}.x-kubernetes-validations[{index}].rule", _too_much(cost / _RULE_LIMIT))
    for name, child in schema.properties.items():
        yield from _causes(child, f"{path}.properties[{name}]", times)
    if schema.items is not None:
        yield from _causes(schema.items, f"{path}.items", times * _longest(schema))
    if isinstance(schema.additional, Structural):
        yield from _causes(schema.additional, f"{path}.additionalProperties", times * _longest(schema))


def _too_much(factor: float) -> str:
    told = "estimated rule cost exceeds budget by factor of"
    if factor > 100:
        return f"{told} more than 100x (try simplifying the rule, or {_HINT})"
    return f"{told} {f'{factor:f}' if factor < 1.5 else f'{factor:.1f}'}x (try {_HINT})"


def turns(rule: str, schema: Structural) -> int:
    """Return how often the loops of a rule may turn at most; 1 without loops."""
    return max(1, _turns(without_strings(rule), {"self": schema, "oldSelf": schema}))


def _turns(text: str, known: Mapping[str, Structural | None]) -> int:
    found, at = 0, 0
    while (match := _LOOP.search(text, at)) is not None:
        end = _closing(text, text.index("(", match.end(1)))
        over = _resolved(match[1], known)
        inner = {**known, match[2]: over.items if over is not None else None}
        found += (_longest(over) if over is not None else 1) * max(1, _turns(text[match.end() : end], inner))
        at = end
    return found


def _closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return len(text)


def _resolved(path: str, known: Mapping[str, Structural | None]) -> Structural | None:
    """Return the schema of what a path such as `self.spec.items` leads to, if that is known."""
    first, *rest = path.split(".")
    node = known.get(first)
    for name in rest:
        node = node.properties.get(name) if node is not None else None
    return node


def _longest(schema: Structural) -> int:
    """Return how many items or members a request can hold of a list or a map at most."""
    for limit in ("maxItems", "maxProperties"):
        if (given := schema.raw.get(limit)) is not None:
            return int(given)
    if schema.items is not None:
        return (_REQUEST_BYTES - 2) // (_fewest_bytes(schema.items) + 1)
    if isinstance(schema.additional, Structural):
        return (_REQUEST_BYTES - 2) // (_fewest_bytes(schema.additional) + 4)
    return 1


def _fewest_bytes(schema: Structural) -> int:
    """Return the length of the shortest JSON that a schema lets pass."""
    if schema.preserves or schema.int_or_string:
        return 1
    found = _TINY.get(schema.type, 1)
    for name in schema.raw.get("required") or ():
        child = schema.properties.get(name)
        if child is not None and child.default is NO_DEFAULT:
            found += len(name) + 4 + _fewest_bytes(child)
    return found
