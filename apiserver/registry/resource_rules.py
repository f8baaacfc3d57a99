"""What containers and pods may ask for of resources: names, amounts, requests within limits, devices by claim.

Source: https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
"""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal

from apiserver.registry import names
from apiserver.registry.kind import Object, duplicate, forbidden, invalid, not_found, required, unsupported
from machinery.api.quantity import format_quantity, parse_quantity
from machinery.errors import Cause

_OF_CONTAINERS = ("cpu", "ephemeral-storage", "memory")
# Names without a domain that mean something somewhere: in quotas, for nodes or for claims.
_STANDARD = frozenset(
    {*_OF_CONTAINERS, "configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas",
     "secrets", "services", "services.loadbalancers", "services.nodeports", "storage", "requests.storage"}
    | {f"{group}.{name}" for group in ("limits", "requests") for name in _OF_CONTAINERS}
)  # fmt: skip
_OF_PODS = ("cpu", "hugepages-", "memory")
_HUGE = "hugepages-"
_MAX_QUOTA_NAME = 63


def resource_causes(resources: Object, path: str, claims: Iterable[str] = ()) -> Iterator[Cause]:
    """Yield what is wrong with what a container asks for. Args: `claims` are the names of the pod's claims."""
    yield from _causes(resources, path, _container_name_causes)
    if given := resources.get("claims"):
        yield from _claim_causes(given, f"{path}.claims", sorted(claims))


def pod_resource_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with what a pod asks for as a whole; its containers share it."""
    resources: Object = spec.get("resources") or {}
    if not resources:
        return
    if resources.get("claims"):
        yield forbidden(f"{path}.claims", "claims cannot be set for Resources at pod-level")
    yield from _causes(resources, path, _pod_name_causes)
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, total in _requested(spec).items():
        had = requests.get(name, "0")
        if total > parse_quantity(had):
            why = f"must be greater than or equal to aggregate container requests of {format_quantity(total)}"
            yield invalid(f"{path}.requests[{name}]", had, why)
    for index, container in enumerate(spec.get("containers") or ()):
        for name, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            if name in limits and parse_quantity(amount) > parse_quantity(limits[name]):
                why = f"must be less than or equal to pod limits of {limits[name]}"
                yield invalid(f"{path}.containers[{index}][{name}].limits", amount, why)


def default_pod_requests(spec: Object) -> None:
    """Let a pod that says what it may have at most ask for what its containers do, else for all of it."""
    resources: Object = spec["resources"]
    limits = resources.get("limits")
    if not limits:
        return
    requests = {**(resources.get("requests") or {})}
    for name, total in _requested(spec).items():
        if name not in requests and _may_exceed(name):
            requests[name] = format_quantity(total)
    resources["requests"] = {**{name: value for name, value in limits.items() if _is_shared(name)}, **requests}


def _requested(spec: Object) -> dict[str, Decimal]:
    """Return what the containers of a pod ask for at most at the same time."""
    total: dict[str, Decimal] = {}
    beside: dict[str, Decimal] = {}
    at_start: dict[str, Decimal] = {}
    for container in spec.get("initContainers") or ():
        asked = _amounts(container)
        if container.get("restartPolicy") == "Always":
            beside = _sum(beside, asked)
            asked = beside
        else:
            asked = _sum(beside, asked)
        at_start = {name: max(at_start.get(name, Decimal(0)), asked.get(name, Decimal(0))) for name in at_start | asked}
    for container in spec.get("containers") or ():
        total = _sum(total, _amounts(container))
    total = _sum(total, beside)
    return {name: max(total.get(name, Decimal(0)), at_start.get(name, Decimal(0))) for name in total | at_start}


def _amounts(container: Object) -> dict[str, Decimal]:
    requests = (container.get("resources") or {}).get("requests") or {}
    return {name: parse_quantity(value) for name, value in requests.items() if _is_shared(name)}


def _is_shared(name: str) -> bool:
    """Whether a resource may be given to a pod as a whole."""
    return name in _OF_PODS or name.startswith(_HUGE)


def _sum(one: dict[str, Decimal], other: dict[str, Decimal]) -> dict[str, Decimal]:
    return {name: one.get(name, Decimal(0)) + other.get(name, Decimal(0)) for name in one | other}


def _causes(resources: Object, path: str, judge: Callable[[str, str], Iterator[Cause]]) -> Iterator[Cause]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for group, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            at = f"{path}.{group}[{name}]"
            yield from judge(name, at)
            yield from _amount_causes(name, value, at)
    for name, value in requests.items():
        yield from _request_causes(name, value, limits, path)
    huge = any(name.startswith(_HUGE) for name in (*limits, *requests))
    if huge and not any(name in ("cpu", "memory") for name in (*limits, *requests)):
        yield forbidden(path, "HugePages require cpu or memory")


def name_causes(name: str, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the name of a resource of any sort."""
    if wrong := names.qualified_name(name):
        yield invalid(path, name, wrong)
    elif "/" not in name and name not in _STANDARD and not name.startswith(_HUGE):
        yield invalid(path, name, "must be a standard resource type or fully qualified")


def _container_name_causes(name: str, path: str) -> Iterator[Cause]:
    if name in _OF_CONTAINERS:
        return
    yield from name_causes(name, path)
    if "/" not in name:
        if not name.startswith(_HUGE):
            yield invalid(path, name, "must be a standard resource for containers")
    elif not _is_native(name) and not _is_extended(name):
        yield invalid(path, name, "doesn't follow extended resource name standard")


def _pod_name_causes(name: str, path: str) -> Iterator[Cause]:
    wrong = list(name_causes(name, path))
    yield from wrong
    if not wrong and not _is_shared(name):
        yield unsupported(path, name, _OF_PODS)


def _is_native(name: str) -> bool:
    return "/" not in name or "kubernetes.io/" in name


def _is_extended(name: str) -> bool:
    quota_name = f"requests.{name}"
    part = quota_name.rpartition("/")[2]
    return not name.startswith("requests.") and len(part) <= _MAX_QUOTA_NAME and not names.qualified_name(quota_name)


def _amount_causes(name: str, value: str, path: str) -> Iterator[Cause]:
    amount = parse_quantity(value)
    if amount < 0:
        yield invalid(path, value, "must be greater than or equal to 0")
    if name.startswith(_HUGE):
        if not _is_divisible(name, amount):
            yield invalid(path, value, f"{value} is not positive integer multiple of {name}")
    elif not _may_exceed(name) and amount != int(amount):
        yield invalid(path, value, "must be an integer")


def _is_divisible(name: str, amount: Decimal) -> bool:
    try:
        page = parse_quantity(name.removeprefix(_HUGE))
    except ValueError:
        return False
    return page > 0 and page == int(page) and amount % page == 0


def _request_causes(name: str, value: str, limits: Object, path: str) -> Iterator[Cause]:
    if name not in limits:
        if not _may_exceed(name):
            yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        return
    if value == limits[name]:
        return
    asked, allowed = parse_quantity(value), parse_quantity(limits[name])
    if asked != allowed and not _may_exceed(name):
        yield invalid(f"{path}.requests", value, f"must be equal to {name} limit of {limits[name]}")
    elif asked > allowed:
        yield invalid(f"{path}.requests", value, f"must be less than or equal to {name} limit of {limits[name]}")


def _may_exceed(name: str) -> bool:
    """Whether more of a resource may be promised than there is."""
    return _is_native(name) and not name.startswith(_HUGE)


def _claim_causes(claims: Iterable[Object], path: str, known: list[str]) -> Iterator[Cause]:
    """Yield what is wrong with the claims of devices that a container has a part in."""
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        name, request, at = claim.get("name", ""), claim.get("request", ""), f"{path}[{index}]"
        if not name:
            yield required(at)
            continue
        key = f"{name}/{request}" if request else name
        if name in seen:
            yield duplicate(at, name)
        elif request and (wrong := names.dns_label(request)):
            yield invalid(f"{at}.request", request, wrong)
        elif key in seen or (not request and any(one.startswith(f"{name}/") for one in seen)):
            yield duplicate(at, key)
        seen.add(key)
        if name not in known:
            listed = f": {', '.join(known)}" if known else " which is empty"
            yield not_found(at, name, f"must be one of the names in pod.spec.resourceClaims{listed}")


def pod_claim_causes(claims: Iterable[Object], path: str) -> Iterator[Cause]:
    """Yield what is wrong with the claims of devices that a pod has."""
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        name, at = claim.get("name", ""), f"{path}[{index}]"
        if name in seen:
            yield duplicate(f"{at}.name", name)
        elif name and (wrong := names.dns_label(name)):
            yield invalid(f"{at}.name", name, wrong)
        seen.add(name)
        sources = [
            field for field in ("resourceClaimName", "resourceClaimTemplateName") if claim.get(field) is not None
        ]
        if len(sources) > 1:
            why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            yield invalid(at, claim, why)
        if not sources:
            yield invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
        for field in sources:
            if wrong := names.dns_subdomain(claim[field]):
                yield invalid(f"{at}.{field}", claim[field], wrong)
