"""Which requests are noted, how much of them, and at which stages.

Source: https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/#audit-policy
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apiserver.auth.user import User
from apiserver.request import RequestInfo

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")
RECEIVED, STARTED, COMPLETE = STAGES[:3]
_VERSIONS = ("audit.k8s.io/v1",)
_MOST_KNOWN = 10_000


class PolicyError(ValueError):
    """An audit policy makes no sense; the message says where."""


class Decision(NamedTuple):
    """What is noted of a request: an index into LEVELS, the stages left out, and whether managedFields are."""

    level: int
    omitted: frozenset[str] = frozenset()
    omit_managed_fields: bool = False


NOTHING = Decision(0)


class AuditPolicy:
    """Rules, of which the first that is for a request decides."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read a Policy. Raises: PolicyError."""
        if document.get("kind") != "Policy" or document.get("apiVersion") not in _VERSIONS:
            raise PolicyError(f"it is no Policy of {_VERSIONS[0]}")
        self._rules: Sequence[Mapping[str, Any]] = document.get("rules") or ()
        if not self._rules:
            raise PolicyError("rules: Required value")
        self._omitted = frozenset(document.get("omitStages") or ())
        self._omit_managed_fields = bool(document.get("omitManagedFields"))
        self._known: dict[tuple[Any, ...], Decision] = {}
        for index, rule in enumerate(self._rules):
            _check_rule(rule, f"rules[{index}]")
        if unknown := self._omitted - set(STAGES):
            raise PolicyError(f"omitStages: Invalid value: {sorted(unknown)}")

    def decide(self, user: User, info: RequestInfo) -> Decision:
        """Return what is noted of a user's request; found once for all that are alike."""
        key = (
            user.name, user.groups, info.verb, info.group, info.resource, info.subresource, info.namespace,
            info.name if info.is_resource else info.path,
        )  # fmt: skip
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = self._first(user, info)
        return found

    def _first(self, user: User, info: RequestInfo) -> Decision:
        for rule in self._rules:
            if _is_for(rule, user, info):
                omitted = self._omitted | frozenset(rule.get("omitStages") or ())
                managed = rule.get("omitManagedFields")
                return Decision(
                    LEVELS.index(rule["level"]),
                    omitted,
                    self._omit_managed_fields if managed is None else bool(managed),
                )
        return NOTHING


def read_policy(path: Path) -> AuditPolicy:
    """Read a policy file. Raises: PolicyError, OSError."""
    import yaml

    try:
        return AuditPolicy(yaml.safe_load(path.read_text()) or {})
    except (PolicyError, yaml.YAMLError) as error:
        raise PolicyError(f"{path}: {error}") from error


def _check_rule(rule: Mapping[str, Any], path: str) -> None:
    if rule.get("level") not in LEVELS:
        known = ", ".join(f'"{one}"' for one in LEVELS)
        raise PolicyError(f'{path}.level: Unsupported value: "{rule.get("level")}": supported values: {known}')
    if rule.get("nonResourceURLs") and (rule.get("resources") or rule.get("namespaces")):
        raise PolicyError(f"{path}.nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs")
    for url in rule.get("nonResourceURLs") or ():
        if url != "*" and (not url.startswith("/") or "*" in url[:-1]):
            raise PolicyError(f"{path}.nonResourceURLs: Invalid value: {url!r}")
    if unknown := set(rule.get("omitStages") or ()) - set(STAGES):
        raise PolicyError(f"{path}.omitStages: Invalid value: {sorted(unknown)}")


def _is_for(rule: Mapping[str, Any], user: User, info: RequestInfo) -> bool:
    if rule.get("users") and user.name not in rule["users"]:
        return False
    if rule.get("userGroups") and not set(rule["userGroups"]) & set(user.groups):
        return False
    if rule.get("verbs") and info.verb not in rule["verbs"]:
        return False
    resources, namespaces, urls = rule.get("resources"), rule.get("namespaces"), rule.get("nonResourceURLs")
    if not info.is_resource:
        if resources or namespaces:
            return False
        return not urls or any(_matches(url, info.path) for url in urls)
    if urls or (namespaces and info.namespace not in namespaces):
        return False
    return not resources or any(_names(one, info) for one in resources)


def _matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def _names(one: Mapping[str, Any], info: RequestInfo) -> bool:
    if (one.get("group") or "") != info.group:
        return False
    if one.get("resourceNames") and info.name not in one["resourceNames"]:
        return False
    asked = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    for pattern in one.get("resources") or ("*",):
        if pattern in ("*", asked) or pattern == f"*/{info.subresource}" or pattern == f"{info.resource}/*":
            return True
    return False
