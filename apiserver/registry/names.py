"""Rules for names, labels and annotations, in the words users know.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
"""

import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

from machinery.errors import Cause

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_UNDERSCORED = re.compile(r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_HTTP_PATH = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_UNDERSCORED_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_WILDCARD_RULE = (
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
    "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', "
    r"regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_FINALIZERS = ("foregroundDeletion", "kubernetes", "orphan")
MAX_ANNOTATIONS_BYTES = 256 * 1024
# What generateName appends: no vowels, so that no words appear.
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_MAX_GENERATED_BASE = 58


def dns_subdomain(name: str) -> str | None:
    """Return what is wrong with a DNS-1123 subdomain (most objects' names), or None."""
    if len(name) > 253:
        return "must be no more than 253 characters"
    return None if _SUBDOMAIN.fullmatch(name) else _SUBDOMAIN_RULE


def dns_subdomain_underscored(name: str) -> str | None:
    """Return what is wrong with a domain to search names in, whose parts may hold underscores, or None."""
    if len(name) > 253:
        return "must be no more than 253 characters"
    return None if _UNDERSCORED.fullmatch(name) else _UNDERSCORED_RULE


def dns_label(name: str) -> str | None:
    """Return what is wrong with a DNS-1123 label (namespaces, containers), or None."""
    if len(name) > 63:
        return "must be no more than 63 characters"
    return None if _LABEL.fullmatch(name) else _LABEL_RULE


def dns_1035_label(name: str) -> str | None:
    """Return what is wrong with a DNS-1035 label (services), or None."""
    if len(name) > 63:
        return "must be no more than 63 characters"
    return None if _LABEL_1035.fullmatch(name) else _LABEL_1035_RULE


def wildcard_subdomain(name: str) -> str | None:
    """Return what is wrong with the name of all hosts of a domain, or None."""
    if len(name) > 253:
        return "must be no more than 253 characters"
    return None if name.startswith("*.") and _SUBDOMAIN.fullmatch(name[2:]) else _WILDCARD_RULE


def domain_path_causes(name: str, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a path that begins with a domain, such as "acme.io/foo"."""
    domain, slash, rest = name.partition("/")
    if not name:
        yield Cause("FieldValueRequired", "Required value", path)
    elif not (slash and domain and rest):
        rule = 'must be a domain-prefixed path (such as "acme.io/foo")'
        yield Cause("FieldValueInvalid", f'Invalid value: "{name}": {rule}', path)
    else:
        if wrong := dns_subdomain(domain):
            yield Cause("FieldValueInvalid", f'Invalid value: "{domain}": {wrong}', path)
        if not re.fullmatch(_HTTP_PATH, rest):
            rule = f"Invalid path (regex used for validation is '{_HTTP_PATH}')"
            yield Cause("FieldValueInvalid", f'Invalid value: "{rest}": {rule}', path)


def path_segment(name: str) -> str | None:
    """Return what is wrong with a name that only has to fit into a path (RBAC objects), or None."""
    if name in (".", ".."):
        return f"may not be '{name}'"
    return next((f"may not contain '{mark}'" for mark in "/%" if mark in name), None)


def qualified_name(name: str) -> str | None:
    """Return what is wrong with a label or annotation key, or None."""
    prefix, slash, part = name.rpartition("/")
    if slash and not prefix:
        return "prefix part must be non-empty"
    if prefix and (wrong := dns_subdomain(prefix)):
        return f"prefix part {wrong}"
    if not part:
        return f"name part must be non-empty; {_QUALIFIED_RULE}"
    if len(part) > 63:
        return "name part must be no more than 63 characters"
    return None if _QUALIFIED.fullmatch(part) else _QUALIFIED_RULE


def finalizer(name: str) -> str | None:
    """Return what is wrong with a finalizer of an object that isn't custom, or None."""
    if wrong := qualified_name(name):
        return wrong
    known = "/" in name or name in _FINALIZERS
    return None if known else "name is neither a standard finalizer name nor is it fully qualified"


def label_value(value: str) -> str | None:
    """Return what is wrong with a label's value, or None."""
    if len(value) > 63:
        return "must be no more than 63 bytes"
    return None if _VALUE.fullmatch(value) else _VALUE_RULE


def generate(base: str) -> str:
    """Return `base` with five random letters, as generateName asks; a long base is cut."""
    return base[:_MAX_GENERATED_BASE] + "".join(random.choices(_SUFFIX_LETTERS, k=5))  # noqa: S311 - no secret


def label_causes(labels: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """Yield a cause for each bad label key or value."""
    for key, value in labels.items():
        if wrong := qualified_name(key):
            yield Cause("FieldValueInvalid", f'Invalid value: "{key}": {wrong}', path)
        if wrong := label_value(value):
            yield Cause("FieldValueInvalid", f'Invalid value: "{value}": {wrong}', path)


def annotation_causes(annotations: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """Yield a cause for each bad annotation key, and one when all together are too long."""
    for key in annotations:
        if wrong := qualified_name(key.lower()):
            yield Cause("FieldValueInvalid", f'Invalid value: "{key}": {wrong}', path)
    total = sum(len(key) + len(value) for key, value in annotations.items())
    if total > MAX_ANNOTATIONS_BYTES:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {MAX_ANNOTATIONS_BYTES} bytes", path)
