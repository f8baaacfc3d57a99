"""Nobody may grant what he does not have: roles and bindings are compared with their writer's own rules.

Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from apiserver.auth.rbac import GROUP, Authorizer
from apiserver.auth.user import User
from apiserver.registry.kind import Kind, Object
from apiserver.request import RequestInfo
from machinery import errors

Rule = Mapping[str, Any]
RulesOf = Callable[[str, str, str], Sequence[Rule] | None]
"""Returns the rules of a role: kind, namespace, name; None when it is not there."""


def check(
    authorizer: Authorizer, kind: Kind, namespace: str, obj: Object, old: Object | None, user: User | None
) -> None:
    """Refuse a role or binding that gives more than its writer has. Raises: Forbidden, NotFound (the role)."""
    if kind.resource.group != GROUP or user is None or authorizer.is_master(user):
        return
    if kind.resource.kind in ("Role", "ClusterRole"):
        if old is not None and obj.get("rules") == old.get("rules"):
            return
        rules, verb = obj.get("rules") or (), "escalate"
        asked = RequestInfo(
            verb, "", is_resource=True, group=GROUP, version="v1", namespace=namespace,
            resource=kind.resource.plural, name=obj["metadata"].get("name", ""),
        )  # fmt: skip
    else:
        if old is not None and (obj["roleRef"], obj.get("subjects")) == (old["roleRef"], old.get("subjects")):
            return
        role = obj["roleRef"]
        found = authorizer.rules_of(role["kind"], namespace, role["name"])
        plural = "roles" if role["kind"] == "Role" else "clusterroles"
        asked = RequestInfo(
            "bind", "", is_resource=True, group=GROUP, version="v1", namespace=namespace, resource=plural,
            name=role["name"],
        )  # fmt: skip
        if found is None and not authorizer.allows(user, asked):
            raise errors.NotFound(f'{plural}.{GROUP} "{role["name"]}" not found', group=GROUP, kind=plural)
        rules = found or ()
    if authorizer.allows(user, asked):
        return
    held = [rule for grant in authorizer.grants(user) if grant.namespace in ("", namespace) for rule in grant.rules]
    missing = [one for one in simple(rules) if not any(covers(rule, one) for rule in held)]
    if missing:
        raise _forbidden(kind, obj, user, missing)


def simple(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Yield rules taken apart: one verb, one group, one resource, one name each."""
    for rule in rules:
        for verb in rule.get("verbs") or ():
            for url in rule.get("nonResourceURLs") or ():
                yield {"verbs": [verb], "nonResourceURLs": [url]}
            for group, resource in itertools.product(rule.get("apiGroups") or (), rule.get("resources") or ()):
                names = rule.get("resourceNames") or ()
                base = {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
                if not names:
                    yield base
                for name in names:
                    yield {**base, "resourceNames": [name]}


def covers(held: Rule, wanted: Rule) -> bool:
    """Whether a rule gives all that another gives, one that was taken apart."""
    if not _has(held.get("verbs"), wanted["verbs"][0]):
        return False
    if "nonResourceURLs" in wanted:
        url = wanted["nonResourceURLs"][0]
        return any(
            pattern in ("*", url) or (pattern.endswith("*") and url.startswith(pattern[:-1]))
            for pattern in held.get("nonResourceURLs") or ()
        )
    resources, resource = held.get("resources") or (), wanted["resources"][0]
    below = resource.partition("/")[2]
    if resource not in resources and "*" not in resources and not (below and f"*/{below}" in resources):
        return False
    only = held.get("resourceNames") or ()
    if only and not (wanted.get("resourceNames") and wanted["resourceNames"][0] in only):
        return False
    return _has(held.get("apiGroups"), wanted["apiGroups"][0])


def _has(values: Any, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)


_FIELDS = (
    ("apiGroups", "APIGroups"), ("resources", "Resources"), ("resourceNames", "ResourceNames"),
    ("nonResourceURLs", "NonResourceURLs"), ("verbs", "Verbs"),
)  # fmt: skip


def _forbidden(kind: Kind, obj: Object, user: User, missing: Sequence[Rule]) -> errors.Forbidden:
    merged: dict[tuple[Any, ...], list[str]] = {}
    for rule in missing:
        key = tuple((shown, tuple(rule[field])) for field, shown in _FIELDS if field in rule and field != "verbs")
        merged.setdefault(key, []).extend(rule["verbs"])
    lines = sorted(
        "{"
        + ", ".join(f"{name}:{orjson.dumps(list(values)).decode()}" for name, values in (*key, ("Verbs", verbs)))
        + "}"
        for key, verbs in merged.items()
    )
    name, resource = obj["metadata"].get("name", ""), kind.resource
    groups = orjson.dumps(list(user.groups)).decode()
    return errors.Forbidden(
        f'{resource.group_resource} "{name}" is forbidden: user "{user.name}" (groups={groups}) is attempting to grant '
        "RBAC permissions not currently held:\n" + "\n".join(lines),
        group=resource.group, kind=resource.plural, name=name,
    )  # fmt: skip
