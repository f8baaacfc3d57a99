"""Which requests a webhook or a policy is about: rules of operations and resources, selectors of labels.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-rules
"""

from collections.abc import Iterable, Mapping
from typing import Any

from apiserver.admission.attributes import Attributes
from apiserver.storage.watch_cache import WatchCache
from machinery.api.resources import NAMESPACES
from machinery.api.selectors import from_label_selector

JSON = Mapping[str, Any]


def any_rule_takes(rules: Iterable[JSON], request: Attributes) -> bool:
    """Whether one of the rules is about a request."""
    return any(_rule_takes(rule, request) for rule in rules)


def _rule_takes(rule: JSON, request: Attributes) -> bool:
    resource = request.kind.resource
    if not _has(rule.get("operations"), request.operation):
        return False
    if not _has(rule.get("apiGroups"), resource.group) or not _has(rule.get("apiVersions"), resource.version):
        return False
    scope = rule.get("scope") or "*"
    namespaced = resource.namespaced
    if (scope == "Namespaced" and not namespaced) or (scope == "Cluster" and namespaced):
        return False
    names = rule.get("resourceNames") or ()
    if names and request.name not in names:
        return False
    return any(_names(pattern, resource.plural, request.subresource) for pattern in rule.get("resources") or ())


def _has(values: Any, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)


def _names(pattern: str, plural: str, subresource: str) -> bool:
    asked, slash, asked_sub = pattern.partition("/")
    if asked not in ("*", plural):
        return False
    return asked_sub in ("*", subresource) if slash else not subresource


def selectors_take(cache: WatchCache, config: JSON, request: Attributes) -> bool:
    """Whether the namespaceSelector and objectSelector of a webhook or policy take a request."""
    return _namespace_taken(cache, config.get("namespaceSelector"), request) and _object_taken(
        config.get("objectSelector"), request
    )


def _namespace_taken(cache: WatchCache, selector: Any, request: Attributes) -> bool:
    if not selector:
        return True
    resource = request.kind.resource
    if resource.group_resource == NAMESPACES.group_resource:
        labels = (request.present.get("metadata") or {}).get("labels") or {}
    elif not resource.namespaced:
        return True
    else:
        labels = namespace_labels(cache, request.namespace)
    return from_label_selector(selector).matches(labels)


def namespace_labels(cache: WatchCache, name: str) -> dict[str, str]:
    """Return the labels of a namespace."""
    entry = cache.collection(NAMESPACES.group_resource).get(f"/registry/namespaces/{name}")
    return (entry.object()["metadata"].get("labels") or {}) if entry is not None else {}


def _object_taken(selector: Any, request: Attributes) -> bool:
    if not selector:
        return True
    parsed = from_label_selector(selector)
    found = (obj for obj in (request.obj, request.old) if obj is not None)
    return any(parsed.matches((obj.get("metadata") or {}).get("labels") or {}) for obj in found)
