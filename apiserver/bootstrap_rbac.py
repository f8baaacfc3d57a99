"""What becomes of a default role or binding when a server starts: it gains what it lacks, and loses nothing.

Administrators may add to the default roles; an upgrade brings them new rules. The annotation
`rbac.authorization.kubernetes.io/autoupdate: "false"` keeps an object as it is.
Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#auto-reconciliation
"""

from collections.abc import Iterator, Sequence
from typing import Any

from apiserver.auth.escalation import Rule, covers, simple
from apiserver.registry.kind import Object

AUTO_UPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_SUBJECT = ("kind", "apiGroup", "namespace", "name")


def marked(wanted: Object) -> Object:
    """Return a default object with the annotation that says so."""
    metadata = wanted["metadata"]
    return {**wanted, "metadata": {**metadata, "annotations": {AUTO_UPDATE: "true", **metadata.get("annotations", {})}}}


def must_be_replaced(present: Object, wanted: Object) -> bool:
    """Whether a binding leads to another role than it should: that can't be changed, so it is made anew."""
    return not is_protected(present) and present.get("roleRef") != wanted.get("roleRef")


def is_protected(present: Object) -> bool:
    """Whether its owner wants it left alone."""
    return (present["metadata"].get("annotations") or {}).get(AUTO_UPDATE) == "false"


def reconciled(present: Object, wanted: Object) -> Object:
    """Return a default object with what it lacks of `wanted`; itself when there is nothing, or it is protected."""
    if is_protected(present):
        return present
    found = {**present, "metadata": _with_marks(present["metadata"], wanted["metadata"])}
    if "aggregationRule" in wanted:
        found |= _with_selectors(present, wanted)
    elif missing := list(missing_rules(present.get("rules") or (), wanted.get("rules") or ())):
        found["rules"] = [*(present.get("rules") or ()), *missing]
    if lacking := _missing_subjects(present, wanted):
        found["subjects"] = [*(present.get("subjects") or ()), *lacking]
    return found


def _with_marks(present: Object, wanted: Object) -> Object:
    """Return metadata with the labels and annotations it lacks; those that are there stay as they are."""
    found = dict(present)
    for name in ("labels", "annotations"):
        if wanted.get(name):
            found[name] = {**wanted[name], **(present.get(name) or {})}
    return found


def _with_selectors(present: Object, wanted: Object) -> Object:
    rule = present.get("aggregationRule") or {}
    selectors = list(rule.get("clusterRoleSelectors") or ())
    missing = [one for one in wanted["aggregationRule"]["clusterRoleSelectors"] if one not in selectors]
    return {"aggregationRule": {**rule, "clusterRoleSelectors": [*selectors, *missing]}} if missing else {}


def missing_rules(present: Sequence[Rule], wanted: Sequence[Rule]) -> Iterator[dict[str, Any]]:
    """Yield what `wanted` gives and `present` does not: verbs of the same things in one rule."""
    merged: dict[str, dict[str, Any]] = {}
    for one in simple(wanted):
        if not any(covers(rule, one) for rule in present):
            things = {name: value for name, value in one.items() if name != "verbs"}
            merged.setdefault(repr(things), {**things, "verbs": []})["verbs"] += one["verbs"]
    yield from merged.values()


def _missing_subjects(present: Object, wanted: Object) -> list[Object]:
    known = {tuple(one.get(name, "") for name in _SUBJECT) for one in present.get("subjects") or ()}
    return [one for one in wanted.get("subjects") or () if tuple(one.get(name, "") for name in _SUBJECT) not in known]
