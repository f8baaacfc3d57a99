"""Which FlowSchema a request belongs to. Pure.

Source: https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#flowschema
"""

from collections.abc import Mapping
from typing import Any

from apiserver.auth.tokens import ACCOUNT_PREFIX
from apiserver.auth.user import User
from apiserver.request import RequestInfo

JSON = Mapping[str, Any]


def matches(schema: JSON, user: User, info: RequestInfo) -> bool:
    """Whether one of a schema's rules is for a request."""
    for rule in schema["spec"].get("rules") or ():
        if not any(_is_subject(one, user) for one in rule.get("subjects") or ()):
            continue
        if info.is_resource:
            if any(_is_resource(one, info) for one in rule.get("resourceRules") or ()):
                return True
        elif any(_is_path(one, info) for one in rule.get("nonResourceRules") or ()):
            return True
    return False


def distinguisher(schema: JSON, user: User, info: RequestInfo) -> str:
    """Return what tells flows of one schema apart."""
    match (schema["spec"].get("distinguisherMethod") or {}).get("type"):
        case "ByUser":
            return user.name
        case "ByNamespace":
            return info.namespace
    return ""


def _is_subject(one: JSON, user: User) -> bool:
    match one.get("kind"):
        case "User":
            return one["user"]["name"] in ("*", user.name)
        case "Group":
            return one["group"]["name"] == "*" or one["group"]["name"] in user.groups
        case "ServiceAccount":
            namespace, _, name = user.name.removeprefix(ACCOUNT_PREFIX).partition(":")
            account = one["serviceAccount"]
            is_account = user.name.startswith(ACCOUNT_PREFIX) and namespace == account["namespace"]
            return is_account and account["name"] in ("*", name)
    return False


def _has(values: Any, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)


def _is_resource(rule: JSON, info: RequestInfo) -> bool:
    if not _has(rule.get("verbs"), info.verb) or not _has(rule.get("apiGroups"), info.group):
        return False
    asked = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    if not _has(rule.get("resources"), asked):
        return False
    return _has(rule.get("namespaces"), info.namespace) if info.namespace else bool(rule.get("clusterScope"))


def _is_path(rule: JSON, info: RequestInfo) -> bool:
    if not _has(rule.get("verbs"), info.verb):
        return False
    return any(
        url in ("*", info.path) or (url.endswith("/*") and info.path.startswith(url[:-1]))
        for url in rule.get("nonResourceURLs") or ()
    )
