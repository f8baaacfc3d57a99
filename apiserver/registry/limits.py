"""What a namespace may use: limit ranges and resource quotas.

Sources: https://kubernetes.io/docs/concepts/policy/limit-range/, https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

from collections.abc import Iterable, Iterator

from apiserver.registry import names
from apiserver.registry.columns import AGE, NAME, value_at
from apiserver.registry.kind import STATUS, Column, Kind, Object, forbidden, immutable, invalid, required
from machinery.api import resources
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

CORE = "io.k8s.api.core.v1."
_SCOPES = (
    "BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating",
    "VolumeAttributesClass",
)  # fmt: skip
_OBJECTS = (
    "configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services",
    "services.loadbalancers", "services.nodeports",
)  # fmt: skip
_USED_BY_PODS = (
    "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory", "ephemeral-storage",
    "limits.ephemeral-storage", "requests.ephemeral-storage",
)  # fmt: skip
_STORAGE = ("requests.storage",)
# What objects of a scope use.
_OF_SCOPES = {
    **dict.fromkeys(_SCOPES, ("pods", *_USED_BY_PODS[:6])),
    "BestEffort": ("pods",),
    "VolumeAttributesClass": ("persistentvolumeclaims", *_STORAGE),
}
_EXISTING = frozenset({"BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"})
_EXISTING_RULE = (
    "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
    "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)
_HUGE_PAGES = ("hugepages-", "requests.hugepages-")
_BOUNDS = ("min", "default", "defaultRequest", "max")


def _default_range(limit_range: Object) -> None:
    """A container's missing defaults come from its maximum, the request's from the default limit or the minimum."""
    for item in limit_range.setdefault("spec", {}).setdefault("limits", []):
        if item.get("type") != "Container":
            continue
        limits, requests = dict(item.get("default") or {}), dict(item.get("defaultRequest") or {})
        for name, value in (item.get("max") or {}).items():
            limits.setdefault(name, value)
        for source in (limits, item.get("min") or {}):
            for name, value in source.items():
                requests.setdefault(name, value)
        if limits:
            item["default"] = limits
        if requests:
            item["defaultRequest"] = requests


def _range_causes(limit_range: Object) -> Iterator[Cause]:
    seen = set()
    for index, item in enumerate(limit_range["spec"].get("limits") or ()):
        path, kind = f"spec.limits[{index}]", item.get("type", "")
        if kind in seen:
            yield Cause("FieldValueDuplicate", f'Duplicate value: "{kind}"', f"{path}.type")
        seen.add(kind)
        if kind == "Pod":
            for field in ("default", "defaultRequest"):
                if item.get(field):
                    yield forbidden(f"{path}.{field}", "may not be specified when `type` is 'Pod'")
        elif kind == "PersistentVolumeClaim" and not any("storage" in (item.get(one) or {}) for one in ("min", "max")):
            why = "either minimum or maximum storage value is required, but neither was provided"
            yield required(f"{path}.limits", why)
        yield from _order_causes(item, path)


def _order_causes(item: Object, path: str) -> Iterator[Cause]:
    """Yield a cause where min ≤ defaultRequest ≤ default ≤ max does not hold."""
    present = {name for field in (*_BOUNDS, "maxLimitRequestRatio") for name in item.get(field) or ()}
    for name in sorted(present):
        given = {field: item[field][name] for field in _BOUNDS if name in (item.get(field) or {})}
        for low, high, words in (
            ("min", "max", "min value {} is greater than max value {}"),
            ("min", "defaultRequest", "min value {} is greater than default request value {}"),
            ("min", "default", "min value {} is greater than default value {}"),
            ("defaultRequest", "max", "default request value {} is greater than max value {}"),
            ("default", "max", "default value {} is greater than max value {}"),
            ("defaultRequest", "default", "default request value {} is greater than default limit value {}"),
        ):
            if low in given and high in given and parse_quantity(given[low]) > parse_quantity(given[high]):
                blamed = "defaultRequest" if low == "defaultRequest" else low if high == "max" else high
                yield invalid(f"{path}.{blamed}[{name}]", given[blamed], words.format(given[low], given[high]))
        ratio = (item.get("maxLimitRequestRatio") or {}).get(name)
        if ratio is not None and parse_quantity(ratio) < 1:
            yield invalid(f"{path}.maxLimitRequestRatio[{name}]", ratio, f"ratio {ratio} is less than 1")


def _quota_causes(quota: Object) -> Iterator[Cause]:
    spec = quota.get("spec") or {}
    for name, value in (spec.get("hard") or {}).items():
        if parse_quantity(value) < 0:
            yield invalid(f"spec.hard[{name}]", value, "must be greater than or equal to 0")
        yield from _counted_causes(name, value)
    yield from _scope_causes(spec)
    yield from _selected_causes(spec)


def _counted_causes(name: str, value: str) -> Iterator[Cause]:
    """Yield what is wrong with what a quota counts."""
    path = f"spec.hard[{name}]"
    if wrong := names.qualified_name(name):
        yield invalid(path, name, wrong)
    elif "/" not in name and name not in (*_OBJECTS, *_USED_BY_PODS, *_STORAGE) and not name.startswith(_HUGE_PAGES):
        yield invalid(path, name, "must be a standard resource type or fully qualified")
        yield invalid(path, name, "must be a standard resource for quotas")
    if name in _OBJECTS and parse_quantity(value) % 1:
        yield invalid(path, value, "must be an integer")


def _scope_causes(spec: Object) -> Iterator[Cause]:
    scopes = spec.get("scopes") or []
    for scope in scopes:
        if scope not in _SCOPES:
            yield invalid("spec.scopes", scopes, "unsupported scope")
        for _ in _not_counted(scope, spec):
            yield invalid("spec.scopes", scopes, "unsupported scope applied to resource")
    for _ in _conflicts(scopes):
        yield invalid("spec.scopes", scopes, "conflicting scopes")


def _not_counted(scope: str, spec: Object) -> list[str]:
    """Return what a quota counts that objects of a scope do not use."""
    counted = _OF_SCOPES.get(scope)
    known = (*_OBJECTS, *_USED_BY_PODS, *_STORAGE)
    return [name for name in spec.get("hard") or () if counted is not None and name in known and name not in counted]


def _conflicts(scopes: Iterable[str]) -> list[set[str]]:
    pairs = ({"BestEffort", "NotBestEffort"}, {"Terminating", "NotTerminating"})
    return [pair for pair in pairs if pair <= set(scopes)]


def _selected_causes(spec: Object) -> Iterator[Cause]:
    """Yield what is wrong with a quota's selector of scopes; rules are told of together, as upstream does."""
    selector = spec.get("scopeSelector")
    rules, path = value_at(selector or {}, "matchExpressions") or (), "spec.scopeSelector.matchExpressions"
    for rule in rules:
        scope, operator, values = rule.get("scopeName", ""), rule.get("operator", ""), rule.get("values") or []
        if scope not in _SCOPES:
            yield invalid(f"{path}.scopeName", scope, "unsupported scope")
        for _ in _not_counted(scope, spec):
            yield invalid(path, selector, "unsupported scope applied to resource")
        if scope in _EXISTING and operator != "Exists":
            yield invalid(f"{path}.operator", operator, _EXISTING_RULE)
        if operator in ("In", "NotIn") and not values:
            why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            yield required(f"{path}.values", why)
        elif operator in ("Exists", "DoesNotExist") and values:
            why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
            yield invalid(f"{path}.values", values, why)
        elif operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            yield invalid(f"{path}.operator", operator, "not a valid selector operator")
    for _ in _conflicts(rule.get("scopeName", "") for rule in rules):
        yield invalid(path, spec.get("scopes"), "conflicting scopes")


def _quota_update(new: Object, old: Object) -> list[Cause]:
    def scopes(obj: Object) -> list[str]:
        return sorted((obj.get("spec") or {}).get("scopes") or ())

    return immutable("spec.scopes", scopes(new), scopes(old))


def _usage(prefix: bool) -> Column:
    """The column of requests (or limits): used and hard of each resource."""

    def read(quota: Object) -> str:
        status = quota.get("status") or {}
        used, hard = status.get("used") or {}, status.get("hard") or {}
        parts = [
            f"{name}: {used.get(name, '0')}/{hard[name]}"
            for name in sorted(hard)
            if name.startswith("limits.") is prefix
        ]
        return ", ".join(parts)

    return Column("Limit" if prefix else "Request", read)


KINDS = (
    Kind(
        resources.LIMIT_RANGES, CORE + "LimitRange", "limitrange", ("limits",), creates_on_update=True,
        columns=(
            NAME, Column("Created At", lambda obj: obj["metadata"].get("creationTimestamp", ""), type="date"),
        ),
        default=_default_range, validate=lambda obj: list(_range_causes(obj)),
    ),
    Kind(
        resources.RESOURCE_QUOTAS, CORE + "ResourceQuota", "resourcequota", ("quota",),
        subresources={"status": STATUS},
        columns=(NAME, _usage(prefix=False), _usage(prefix=True), AGE),
        validate=lambda obj: list(_quota_causes(obj)), validate_update=_quota_update,
        returns_deleted=True,
    ),
)  # fmt: skip
