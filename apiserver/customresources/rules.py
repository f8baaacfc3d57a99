"""The rules in CEL that schemas hold (x-kubernetes-validations).

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules
"""

import base64
import binascii
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from apiserver.customresources.structural import Structural
from apiserver.registry.kind import Object, forbidden, invalid, required, unsupported
from machinery.cel.bindings import without_strings
from machinery.cel.program import CompileError, EvaluationError, Program, compile_expression
from machinery.errors import Cause

# All rules of one object together; upstream bounds their cost, which comes to about this.
MAX_SECONDS = 1.0
# How our bounds and the engine's are told of.
_COSTLY = ("cost limit exceeded", "Iteration budget exceeded")
_VARIABLES = {"self": "dyn", "oldSelf": "dyn"}
# An optional can't be handed to the engine: it is made inside, out of a map that holds the old value or nothing.
_OPTIONAL = "[has(oldSelfMap.v) ? optional.of(oldSelfMap.v) : optional.none()].map(oldSelf, {})[0]"
_OPTIONAL_VARIABLES = {"self": "dyn", "oldSelfMap": "dyn"}
_RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_ESCAPES = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))
_REASONS = ("FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate")
_ABSENT: Any = object()
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|h|m|s)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class _Rule:
    """One rule, compiled."""

    given: Mapping[str, Any]
    program: Program
    message: Program | None

    @property
    def is_transition(self) -> bool:
        return "oldSelf" in self.program.uses or "oldSelfMap" in self.program.uses


class Programs:
    """The compiled rules of one schema, by the node they stand at."""

    def __init__(self, schema: Structural) -> None:
        self._schema = schema
        self._rules: dict[int, list[_Rule]] = {}
        self._has: set[int] = set()  # nodes with rules at or below them
        self._collect(schema)

    def _collect(self, schema: Structural) -> bool:
        given = schema.raw.get("x-kubernetes-validations") or ()
        if given:
            self._rules[id(schema)] = [_compiled(one) for one in given]
        below = [self._collect(child) for _, child in schema.children()]
        if given or any(below):
            self._has.add(id(schema))
        return id(schema) in self._has

    def causes(self, new: Object, old: Object | None) -> list[Cause]:
        """Return the rules an object breaks."""
        if id(self._schema) not in self._has:
            return []
        found: list[Cause] = []
        deadline = time.monotonic() + MAX_SECONDS
        self._walk(new, _ABSENT if old is None else old, self._schema, "", found, deadline)
        return found

    def _walk(self, value: Any, old: Any, schema: Structural, path: str, found: list[Cause], deadline: float) -> None:
        if id(schema) not in self._has or value is None:
            return
        for rule in self._rules.get(id(schema), ()):
            if time.monotonic() > deadline:
                text = "validation failed due to running out of cost budget, no further validation rules will be run"
                found.append(invalid(path or "<nil>", schema.type, text))
                return
            found += _broken(rule, value, old, schema, path)
        if isinstance(value, dict):
            before = old if isinstance(old, dict) else {}
            for name, one in value.items():
                child = schema.child(name)
                if child is not None:
                    at = f"{path}.{name}" if path else name
                    self._walk(one, before.get(name, _ABSENT), child, at, found, deadline)
        elif isinstance(value, list) and schema.items is not None:
            known = _by_key(old, schema)
            for index, one in enumerate(value):
                before_one = known.get(_key(one, schema), _ABSENT) if known else _ABSENT
                self._walk(one, before_one, schema.items, f"{path}[{index}]", found, deadline)


def _compiled(given: Mapping[str, Any]) -> _Rule:
    message = given.get("messageExpression")
    return _Rule(given, _program(given["rule"], given), _program(message, given) if message else None)


def _program(text: str, given: Mapping[str, Any]) -> Program:
    """Return the program of a rule or of its message. Raises: CompileError."""
    if given.get("optionalOldSelf") and "oldSelf" in text:
        return compile_expression(_OPTIONAL.format(text), _OPTIONAL_VARIABLES)
    return compile_expression(text, _VARIABLES)


def _by_key(old: Any, schema: Structural) -> dict[bytes, Any]:
    """Return the items of the old list by their keys; only lists of type map tell which item is which."""
    if not isinstance(old, list) or schema.raw.get("x-kubernetes-list-type") != "map":
        return {}
    return {_key(one, schema): one for one in old}


def _key(item: Any, schema: Structural) -> bytes:
    keys = schema.raw.get("x-kubernetes-list-map-keys") or ()
    return orjson.dumps([item.get(key) for key in keys] if isinstance(item, dict) else item)


def _broken(rule: _Rule, value: Any, old: Any, schema: Structural, path: str) -> Iterator[Cause]:
    optional = bool(rule.given.get("optionalOldSelf"))
    if rule.is_transition and old is _ABSENT and not optional:
        return
    if not rule.is_transition and old is not _ABSENT and old == value:
        return  # unchanged: what was stored before the rule came is let be
    given = {"self": bound(value, schema)}
    if rule.is_transition:
        if optional:
            given["oldSelfMap"] = {} if old is _ABSENT else {"v": bound(old, schema)}
        else:
            given["oldSelf"] = bound(old, schema)
    message = _message(rule, given)
    try:
        holds = rule.program.evaluate(given)
    except EvaluationError as error:
        if any(sign in str(error) for sign in _COSTLY):
            told = "no further validation rules will be run due to call cost exceeds limit for rule"
            yield _cause(rule, schema, path, f"'operation cancelled: actual cost limit exceeded': {told}: {message}")
        else:
            yield _cause(rule, schema, path, f"{error} evaluating rule: {message}")
        return
    if holds is not True:
        yield _cause(rule, schema, path, message)


def _message(rule: _Rule, given: Mapping[str, Any]) -> str:
    if rule.message is not None:
        try:
            made = rule.message.evaluate(given)
        except EvaluationError:
            made = None
        if isinstance(made, str) and made.strip() and "\n" not in made:
            return made
    return str(rule.given.get("message") or f"failed rule: {rule.given['rule'].strip()}")


def _cause(rule: _Rule, schema: Structural, path: str, message: str) -> Cause:
    at = path + rule.given.get("fieldPath", "")
    at = at.removeprefix(".") or "<nil>"
    match rule.given.get("reason"):
        case "FieldValueRequired":
            return required(at, message)
        case "FieldValueForbidden":
            return forbidden(at, message)
        case "FieldValueDuplicate":
            return Cause("FieldValueDuplicate", f'Duplicate value: "{schema.type}": {message}', at)
        case _:
            return invalid(at, schema.type, message)


def bound(value: Any, schema: Structural | None) -> Any:
    """Return a value as CEL sees it: names escaped, dates and durations of their own types."""
    if schema is None or value is None:
        return value
    if isinstance(value, dict):
        named = schema.properties
        return {
            (escaped(name) if name in named else name): bound(one, schema.child(name)) for name, one in value.items()
        }
    if isinstance(value, list):
        return [bound(one, schema.items) for one in value]
    if isinstance(value, str):
        return _typed(value, schema.raw.get("format", ""))
    return float(value) if schema.type == "number" and isinstance(value, int) else value


def _typed(value: str, form: str) -> Any:
    """Return a text as what its format says it is; the engine takes times within objects as protobuf's types alone."""
    try:
        if form in ("date-time", "date"):
            from google.protobuf.timestamp_pb2 import Timestamp

            found = datetime.fromisoformat(value.upper().replace("Z", "+00:00"))
            stamp = Timestamp()
            stamp.FromDatetime(found if found.tzinfo else found.replace(tzinfo=UTC))
            return stamp
        if form == "duration":
            from google.protobuf.duration_pb2 import Duration

            length = Duration()
            seconds = sum(float(one[1]) * _SECONDS[one[2]] for one in _DURATION.finditer(value))
            length.FromTimedelta(timedelta(seconds=seconds))
            return length
        return base64.b64decode(value, validate=True) if form == "byte" else value
    except (ValueError, binascii.Error):
        return value


def escaped(name: str) -> str:
    """Return a field's name as rules write it."""
    if name in _RESERVED:
        return f"__{name}__"
    for mark, text in _ESCAPES:
        name = name.replace(mark, text)
    return name


def rule_causes(schema: Structural, path: str, *, uncorrelatable: str = "") -> Iterator[Cause]:
    """Yield what is wrong with the rules of a schema.

    Args: `uncorrelatable` is the path to what a change can't be followed through, if the schema is within such.
    """
    for index, given in enumerate(schema.raw.get("x-kubernetes-validations") or ()):
        at = f"{path}.x-kubernetes-validations[{index}]"
        yield from _one_rule_causes(given, at, uncorrelatable)
        if problem := undefined_field(given.get("rule", ""), schema, is_root=path.endswith(".openAPIV3Schema")):
            yield invalid(f"{at}.rule", given["rule"], f"compilation failed: {problem}")
    of_members = uncorrelatable or (path if schema.raw.get("x-kubernetes-map-type") == "atomic" else "")
    for name, child in schema.properties.items():
        yield from rule_causes(child, f"{path}.properties[{name}]", uncorrelatable=of_members)
    if schema.items is not None:
        of_items = uncorrelatable or ("" if schema.raw.get("x-kubernetes-list-type") == "map" else path)
        yield from rule_causes(schema.items, f"{path}.items", uncorrelatable=of_items)
    if isinstance(schema.additional, Structural):
        yield from rule_causes(schema.additional, f"{path}.additionalProperties", uncorrelatable=uncorrelatable)


_ACCESS = re.compile(r"(?<![\w.])(?:self|oldSelf)((?:\.[A-Za-z_]\w*(?!\w)(?!\s*\())+)")


def undefined_field(rule: str, schema: Structural, *, is_root: bool) -> str:
    """Return what the type checker would say of a field that the schema does not have; empty when all are there.

    The engine is told nothing of schemas, so the fields that `self` is followed by are looked up here.
    """
    for match in _ACCESS.finditer(without_strings(rule)):
        node: Structural | None = schema
        at = match.start(1)
        for name in match[1][1:].split("."):
            if node is None or node.type != "object" or node.preserves or node.additional:
                break
            own = ("apiVersion", "kind", "metadata") if (is_root and node is schema) or node.embedded else ()
            if name in own:
                break
            fields = {escaped(one): child for one, child in node.properties.items()}
            if name not in fields:
                return f"ERROR: <input>:1:{at + 1}: undefined field '{name}'\n | {rule}\n | {'.' * at}^"
            node, at = fields[name], at + len(name) + 1
    return ""


def text_causes(given: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """Yield what is wrong with the texts of a rule, before anybody asks what they mean."""
    rule, message = given.get("rule") or "", given.get("message") or ""
    if not rule.strip():
        yield required(f"{path}.rule", "rule is not specified")
    elif message and not message.strip():
        yield invalid(f"{path}.message", message, "message must be non-empty if specified")
    elif _has_breaks(message.strip()):
        yield invalid(f"{path}.message", message, "message must not contain line breaks")
    elif _has_breaks(rule.strip()) and not message.strip():
        yield required(f"{path}.message", "message must be specified if rule contains line breaks")
    if (expression := given.get("messageExpression")) and not expression.strip():
        yield required(f"{path}.messageExpression", "messageExpression must be non-empty if specified")
    if (reason := given.get("reason")) is not None and reason not in _REASONS:
        yield unsupported(f"{path}.reason", reason, sorted(_REASONS))
    field = given.get("fieldPath") or ""
    if field and not field.strip():
        yield invalid(f"{path}.fieldPath", field, "fieldPath must be non-empty if specified")
    if _has_breaks(field):
        yield invalid(f"{path}.fieldPath", field, "fieldPath must not contain line breaks")


def _has_breaks(text: str) -> bool:
    return "\n" in text or "\r" in text


_STEP = re.compile(r"\.([^.\[\]]+)|\['((?:[^'\\]|\\.)*)'\]")


def leads_somewhere(field: str, schema: Mapping[str, Any]) -> bool:
    """Whether a path of fields and of keys of maps leads to something that a schema knows."""
    at, node = 0, schema
    while at < len(field):
        step = _STEP.match(field, at)
        if step is None:
            return False
        at, extra = step.end(), node.get("additionalProperties")
        found = (node.get("properties") or {}).get(step[1] or step[2])
        if found is None and isinstance(extra, Mapping) and step[2] is not None:
            found = extra
        if not isinstance(found, Mapping):
            return False
        node = found
    return bool(field)


def _one_rule_causes(given: Mapping[str, Any], path: str, uncorrelatable: str) -> Iterator[Cause]:
    text = given.get("rule", "")
    try:
        program = _program(text, given)
    except CompileError as error:
        yield invalid(f"{path}.rule", text, f"compilation failed: {error}")
        return
    if program.result not in ("bool", "dyn"):
        yield invalid(f"{path}.rule", text, "cel expression must evaluate to a bool")
    if program.uses.isdisjoint(("oldSelf", "oldSelfMap")):
        if (optional := given.get("optionalOldSelf")) is not None:
            yield invalid(f"{path}.optionalOldSelf", optional, "may not be set if oldSelf is not used in rule")
    elif uncorrelatable:
        why = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {uncorrelatable}"
        yield invalid(f"{path}.rule", text, why)
    if given.get("messageExpression"):
        yield from _message_causes(given, f"{path}.messageExpression")


def _message_causes(given: Mapping[str, Any], path: str) -> Iterator[Cause]:
    text = given["messageExpression"]
    try:
        program = _program(text, given)
    except CompileError as error:
        yield invalid(path, text, f"messageExpression compilation failed: {error}")
        return
    if program.result not in ("string", "dyn"):
        yield invalid(path, text, "messageExpression must evaluate to a string")
