"""Label and field selectors: parsing, matching, printing; errors in upstream's words.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class SelectorError(ValueError):
    """The text or object is not a selector."""


class Operator(StrEnum):
    """What a requirement asks of a label."""

    IN = "in"
    NOT_IN = "notin"
    EQUALS = "="
    DOUBLE_EQUALS = "=="
    NOT_EQUALS = "!="
    GREATER_THAN = "gt"
    LESS_THAN = "lt"
    EXISTS = "exists"
    DOES_NOT_EXIST = "!"


_POSITIVE = frozenset((Operator.IN, Operator.EQUALS, Operator.DOUBLE_EQUALS))
_NEGATIVE = frozenset((Operator.NOT_IN, Operator.NOT_EQUALS))
_ORDERED = frozenset((Operator.GREATER_THAN, Operator.LESS_THAN))
_SYMBOLS = {"=": Operator.EQUALS, "==": Operator.DOUBLE_EQUALS, "!=": Operator.NOT_EQUALS,
            ">": Operator.GREATER_THAN, "<": Operator.LESS_THAN}  # fmt: skip
_WORDS = {"in": Operator.IN, "notin": Operator.NOT_IN}
_BINARY_OPERATORS = "in, notin, =, ==, !=, gt, lt"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether labels meet the condition; an absent label meets the negative ones."""
        value = labels.get(self.key)
        operator = self.operator
        if operator in _POSITIVE:
            return value is not None and value in self.values
        if operator in _NEGATIVE:
            return value is None or value not in self.values
        if operator in _ORDERED:
            return value is not None and self._compares(value)
        return (value is not None) is (operator is Operator.EXISTS)

    def _compares(self, value: str) -> bool:
        bound = int(next(iter(self.values)))
        if not _INTEGER.fullmatch(value):
            return False
        return int(value) > bound if self.operator is Operator.GREATER_THAN else int(value) < bound

    def __str__(self) -> str:
        """Return the canonical text, as client-go prints it."""
        if self.operator is Operator.EXISTS:
            return self.key
        if self.operator is Operator.DOES_NOT_EXIST:
            return f"!{self.key}"
        values = ",".join(sorted(self.values))
        if self.operator in (Operator.IN, Operator.NOT_IN):
            return f"{self.key} {self.operator} ({values})"
        return f"{self.key}{_PRINTED.get(self.operator, self.operator)}{values}"


_PRINTED = {Operator.GREATER_THAN: ">", Operator.LESS_THAN: "<"}
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; with none, everything matches, unless it `selects_nothing`."""

    requirements: tuple[Requirement, ...] = ()
    selects_nothing: bool = False

    @property
    def empty(self) -> bool:
        """Say whether it matches everything."""
        return not self.requirements and not self.selects_nothing

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """Say whether an object with these labels is selected."""
        if self.selects_nothing:
            return False
        labels = labels or {}
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        """Return the canonical text, which parses to the same selector."""
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(selects_nothing=True)


def from_labels(labels: Mapping[str, str]) -> LabelSelector:
    """Return the selector of a map such as a Service's: each label must have its value. Values are not checked."""
    return LabelSelector(
        tuple(Requirement(key, Operator.EQUALS, frozenset((value,))) for key, value in sorted(labels.items()))
    )


_OBJECT_OPERATORS = {
    "In": Operator.IN, "NotIn": Operator.NOT_IN, "Exists": Operator.EXISTS, "DoesNotExist": Operator.DOES_NOT_EXIST,
}  # fmt: skip


def from_label_selector(selector: Mapping[str, Any] | None) -> LabelSelector:
    """Return the selector a meta/v1 LabelSelector stands for: None matches nothing, {} everything.

    Raises: SelectorError.
    """
    if selector is None:
        return NOTHING
    found = [
        _requirement(key, Operator.EQUALS, (value,))
        for key, value in sorted((selector.get("matchLabels") or {}).items())
    ]
    for expression in selector.get("matchExpressions") or ():
        operator = _OBJECT_OPERATORS.get(expression.get("operator", ""))
        if operator is None:
            raise SelectorError(f'"{expression.get("operator", "")}" is not a valid label selector operator')
        found.append(_requirement(expression["key"], operator, expression.get("values") or ()))
    return LabelSelector(tuple(sorted(found, key=lambda requirement: requirement.key)))


# ---- names and values

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_NAME_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def qualified_name_errors(key: str) -> list[str]:
    """Return what is wrong with the key of a label or annotation, in upstream's words; nothing if it is fine."""
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        return [
            f"a qualified name {_NAME_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    errors = []
    if slash and not prefix:
        errors.append("prefix part must be non-empty")
    elif slash and len(prefix) > 253:
        errors.append("prefix part must be no more than 253 bytes")
    if slash and prefix and not _SUBDOMAIN.fullmatch(prefix):
        errors.append(f"prefix part {_SUBDOMAIN_RULE}")
    if not name:
        errors.append("name part must be non-empty")
    elif len(name) > 63:
        errors.append("name part must be no more than 63 bytes")
    if not _NAME.fullmatch(name):
        errors.append(f"name part {_NAME_RULE}")
    return errors


def label_value_errors(value: str) -> list[str]:
    """Return what is wrong with a label's value, in upstream's words; nothing if it is fine."""
    errors = []
    if len(value) > 63:
        errors.append("must be no more than 63 bytes")
    if value and not _NAME.fullmatch(value):
        errors.append(_VALUE_RULE)
    return errors


def _requirement(key: str, operator: Operator, values: Iterable[str]) -> Requirement:
    """Make a requirement of checked parts. Raises: SelectorError."""
    if errors := qualified_name_errors(key):
        raise SelectorError(f'key: Invalid value: "{key}": {"; ".join(errors)}')
    found = frozenset(values)
    if operator in (Operator.IN, Operator.NOT_IN) and not found:
        raise SelectorError("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and found:
        raise SelectorError(
            f"values: Invalid value: {_go_list(found)}: values set must be empty for exists and does not exist"
        )
    if operator in _ORDERED and not all(_INTEGER.fullmatch(value) for value in found):
        raise SelectorError(
            f"values[0]: Invalid value: {_go_list(found)}: for 'Gt', 'Lt' operators, the value must be an integer"
        )
    for position, value in enumerate(sorted(found)):
        if errors := label_value_errors(value):
            raise SelectorError(f'values[{position}][{key}]: Invalid value: "{value}": {"; ".join(errors)}')
    return Requirement(key, operator, found)


def _go_list(values: Iterable[str]) -> str:
    return "[" + ",".join(f'"{value}"' for value in sorted(values)) + "]"


# ---- the label selector grammar

_TOKEN = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")
_SPECIAL = frozenset(("", "=", "==", "!=", "!", "<", ">", "(", ")", ","))


class _Parser:
    """Recursive descent over the tokens; "" is the end."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = [*_TOKEN.findall(text), ""]
        self._position = 0

    def peek(self) -> str:
        return self._tokens[self._position]

    def take(self) -> str:
        token = self._tokens[self._position]
        self._position = min(self._position + 1, len(self._tokens) - 1)
        return token

    def parse(self) -> Iterator[Requirement]:
        while found := self.peek():
            if found in _SPECIAL and found != "!":
                raise SelectorError(f"found '{found}', expected: !, identifier, or 'end of string'")
            try:
                yield self._parse_requirement()
            except SelectorError as error:
                raise SelectorError(f"unable to parse requirement: {error}") from error
            after = self.take()
            if not after:
                return
            if after != ",":
                raise SelectorError(f"found '{after}', expected: ',' or 'end of string'")
            if (found := self.peek()) in _SPECIAL and found != "!":
                raise SelectorError(f"found '{found}', expected: identifier after ','")

    def _parse_requirement(self) -> Requirement:
        key, negated = self.take(), False
        if key == "!":
            key, negated = self.take(), True
        if key in _SPECIAL:
            raise SelectorError(f"found '{key}', expected: identifier")
        if self.peek() in ("", ","):
            return _requirement(key, Operator.DOES_NOT_EXIST if negated else Operator.EXISTS, ())
        if negated:
            return _requirement(key, Operator.DOES_NOT_EXIST, ())
        token = self.take()
        operator = _WORDS.get(token) or _SYMBOLS.get(token)
        if operator is None:
            raise SelectorError(f"found '{token}', expected: {_BINARY_OPERATORS}")
        values = self._parse_set() if operator in (Operator.IN, Operator.NOT_IN) else {self._parse_value()}
        return _requirement(key, operator, values)

    def _parse_value(self) -> str:
        if self.peek() in ("", ","):
            return ""
        token = self.take()
        if token in _SPECIAL:
            raise SelectorError(f"found '{token}', expected: identifier")
        return token

    def _parse_set(self) -> set[str]:
        if (token := self.take()) != "(":
            raise SelectorError(f"found '{token}' expected: '('")
        if self.peek() == ")":
            self.take()
            return set()
        values: set[str] = set()
        while True:
            token = self.peek()
            if token in (",", ")"):
                values.add("")  # "(,a)", "(a,,b)" and "(a,)" have an empty value
            elif token in _SPECIAL:
                raise SelectorError(f"found '{token}', expected: ',', ')' or identifier")
            else:
                values.add(self.take())
            after = self.take()
            if after == ")":
                return values
            if after != ",":
                raise SelectorError(f"found '{after}', expected: ',' or ')'")


def parse_label_selector(text: str) -> LabelSelector:
    """Read a selector such as `app=web,tier in (a,b),!canary`. Raises: SelectorError."""
    return LabelSelector(tuple(sorted(_Parser(text).parse(), key=lambda requirement: requirement.key)))


# ---- field selectors


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """One field and the value it must have, or must not have."""

    field: str
    value: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All terms must hold; with none, everything matches. Which fields exist is for the resource to say."""

    terms: tuple[FieldTerm, ...] = ()

    def matches(self, value_of: Mapping[str, str] | Callable[[str], str]) -> bool:
        """Say whether an object is selected, given its selectable fields; an absent field is the empty string."""
        read = value_of if callable(value_of) else lambda field: value_of.get(field, "")
        return all((read(term.field) == term.value) is not term.negated for term in self.terms)

    def required_value(self, field: str) -> str | None:
        """Return the one value `field` must have, or None if it may have several."""
        return next((term.value for term in self.terms if term.field == field and not term.negated), None)

    def __str__(self) -> str:
        """Return the canonical text, which parses to the same selector."""
        return ",".join(
            f"{term.field}{'!=' if term.negated else '='}{escape_field_value(term.value)}" for term in self.terms
        )


_FIELD_TERM = re.compile(r"(?:\\.|[^,\\]|\\$)+", re.DOTALL)
_FIELD_OPERATOR = re.compile(r"!=|==|=")


def parse_field_selector(text: str) -> FieldSelector:
    r"""Read a selector such as `status.phase=Running,spec.nodeName!=n1`; `\`, `,` and `=` in values are escaped by `\`.

    Raises: SelectorError.
    """
    terms = []
    for part in sorted(_FIELD_TERM.findall(text)):
        found = _FIELD_OPERATOR.search(part)
        if found is None:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{part}'")
        value = _unescape(part[found.end() :])
        terms.append(FieldTerm(part[: found.start()], value, negated=found.group() == "!="))
    return FieldSelector(tuple(terms))


def escape_field_value(value: str) -> str:
    """Return a value as it stands in a field selector."""
    return re.sub(r"([\\,=])", r"\\\1", value)


def _unescape(text: str) -> str:
    value, letters = [], iter(text)
    for letter in letters:
        if letter in ",=":
            raise SelectorError(f"invalid field selector: unescaped character in value: {letter}")
        if letter == "\\":
            following = next(letters, "")
            if following not in ("\\", ",", "="):
                raise SelectorError(f"invalid field selector: invalid escape sequence: \\{following}")
            letter = following  # noqa: PLW2901  # the escape stands for it
        value.append(letter)
    return "".join(value)
