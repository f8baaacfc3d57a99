"""The variable `authorizer` of admission's expressions: asks whether somebody may do something.

As the engine hands only plain data to and fro, what is asked about is a map, as other values of the library are; who
answers is set for the time of an evaluation.
Source: https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-authorizer-library
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

Decide = Callable[[Mapping[str, str]], bool]
"""Says whether what is asked is allowed: its verb; path, or group, resource, subresource, namespace, name; user."""

DECIDE: ContextVar[Decide] = ContextVar("authorizer")
_ASKER, _CHECK, _DECISION = "kubernetes.authorizer", "kubernetes.authorizercheck", "kubernetes.decision"


def authorizer(**resource: str) -> dict[str, Any]:
    """Return the variable; `resource` is what the request itself is about."""
    return {_ASKER: {}, "requestResource": {_CHECK: resource}}


def _of(kind: str, value: Any) -> Mapping[str, Any]:
    found = value.get(kind) if isinstance(value, Mapping) else None
    if not isinstance(found, Mapping):
        raise ValueError("no such overload")
    return found


def _begun(field: str) -> Callable[[Any, str], Any]:
    def begin(asker: Any, text: str) -> dict[str, Any]:
        return {_CHECK: {**_of(_ASKER, asker), field: text}}

    return begin


def _told(field: str) -> Callable[[Any, str], Any]:
    def tell(check: Any, text: str) -> dict[str, Any]:
        return {_CHECK: {**_of(_CHECK, check), field: text}}

    return tell


def _account(asker: Any, namespace: str, name: str) -> dict[str, Any]:
    _of(_ASKER, asker)
    return {_ASKER: {"user": f"system:serviceaccount:{namespace}:{name}"}}


def _check(check: Any, verb: str) -> dict[str, Any]:
    asked = _of(_CHECK, check)
    allowed = DECIDE.get()({**asked, "verb": verb})
    return {_DECISION: {"allowed": allowed, "reason": "", "error": ""}}


# name, kind of result, parameters beside the receiver (all texts), what it does
FUNCTIONS: tuple[tuple[str, str, int, Callable[..., Any]], ...] = (
    ("path", "dyn", 1, _begun("path")),
    ("group", "dyn", 1, _begun("group")),
    ("serviceAccount", "dyn", 2, _account),
    ("resource", "dyn", 1, _told("resource")),
    ("subresource", "dyn", 1, _told("subresource")),
    ("namespace", "dyn", 1, _told("namespace")),
    ("name", "dyn", 1, _told("name")),
    ("fieldSelector", "dyn", 1, _told("field_selector")),
    ("labelSelector", "dyn", 1, _told("label_selector")),
    ("check", "dyn", 1, _check),
    ("allowed", "bool", 0, lambda decision: bool(_of(_DECISION, decision)["allowed"])),
    ("reason", "string", 0, lambda decision: str(_of(_DECISION, decision)["reason"])),
    ("errored", "bool", 0, lambda decision: bool(_of(_DECISION, decision)["error"])),
    ("error", "string", 0, lambda decision: str(_of(_DECISION, decision)["error"])),
)
