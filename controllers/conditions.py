"""Conditions of a status as they are written: replaced by type, their times moved only when something changed."""

from collections.abc import Iterable, Mapping
from typing import Any

from machinery.api.meta import now

Conditions = tuple[Mapping[str, Any], ...]


def find(conditions: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    """Return the condition of a type, if it is there."""
    return next((condition for condition in conditions if condition["type"] == kind), None)


def without(conditions: Iterable[Mapping[str, Any]], kind: str) -> Conditions:
    """Return the conditions but the one of a type."""
    return tuple(condition for condition in conditions if condition["type"] != kind)


def made(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    """Return a new condition with `lastTransitionTime` now."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}


def with_condition(conditions: Conditions, new: Mapping[str, Any]) -> Conditions:
    """Return the conditions with `new` in place of its type's.

    One of the same status and reason stays as it is; one of the same status keeps its time of transition.
    """
    old = find(conditions, str(new["type"]))
    if old is not None and old["status"] == new["status"]:
        if old.get("reason") == new.get("reason"):
            return conditions
        new = {**new, "lastTransitionTime": old.get("lastTransitionTime", new["lastTransitionTime"])}
    return (*without(conditions, str(new["type"])), new)


def without_zeros(status: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    """Return a status for a merge patch in which these counts are absent where they are 0, as upstream's are."""
    return {name: None if name in fields and value == 0 else value for name, value in status.items()}
