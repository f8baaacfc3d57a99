"""LimitRanger: defaults for what containers leave open, and bounds for what pods and claims ask.

Source: https://kubernetes.io/docs/concepts/policy/limit-range/
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from apiserver.registry.kind import Kind, Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.quantity import format_quantity, parse_quantity
from machinery.api.quota import sum_requests
from machinery.api.resources import LIMIT_RANGES

_ANNOTATION = "kubernetes.io/limit-ranger"


def _ranges(cache: WatchCache, namespace: str) -> Iterator[Object]:
    plural = LIMIT_RANGES.group_resource
    for entry in cache.collection(plural).entries(f"/registry/{plural}/{namespace}/"):
        yield from (entry.object().get("spec") or {}).get("limits") or ()


def set_defaults(cache: WatchCache, namespace: str, pod: Object) -> None:
    """Give a new pod's containers the requests and limits their namespace has for those that name none."""
    told: list[str] = []
    for item in _ranges(cache, namespace):
        if item.get("type") == "Container":
            for group in ("containers", "initContainers"):
                for container in pod["spec"].get(group) or ():
                    told += _default_container(container, item, init=group != "containers")
    if told:
        metadata = pod["metadata"]
        metadata["annotations"] = {**(metadata.get("annotations") or {})}
        metadata["annotations"][_ANNOTATION] = "LimitRanger plugin set: " + "; ".join(told)


def _default_container(container: Object, item: Object, *, init: bool) -> Iterator[str]:
    resources = container.setdefault("resources", {})
    kind = "init container" if init else "container"
    for field, source in (("requests", "defaultRequest"), ("limits", "default")):
        given = resources.get(field) or {}
        missing = {name: value for name, value in (item.get(source) or {}).items() if name not in given}
        if missing:
            resources[field] = {**given, **missing}
            what = ", ".join(sorted(missing))
            yield f"{what} {field.removesuffix('s')} for {kind} {container.get('name', '')}"


def check(cache: WatchCache, kind: Kind, namespace: str, obj: Object) -> None:
    """Refuse a pod or claim that asks for more or less than its namespace allows. Raises: Forbidden."""
    wrong: list[str] = []
    for item in _ranges(cache, namespace):
        if kind.built_in_kind == "Pod":
            wrong += _pod_errors(obj["spec"], item)
        elif item.get("type") == "PersistentVolumeClaim":
            asked = (obj["spec"].get("resources") or {}).get("requests") or {}
            wrong += _claim_errors(asked, item)
    if not wrong:
        return
    name = obj["metadata"].get("name", "")
    text = wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]"
    raise errors.Forbidden(
        f'{kind.resource.group_resource} "{name}" is forbidden: {text}', kind=kind.resource.plural, name=name
    )


def _pod_errors(spec: Object, item: Object) -> Iterator[str]:
    if item.get("type") == "Container":
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
            resources = container.get("resources") or {}
            yield from _bound_errors(
                item, "Container", _amounts(resources.get("requests")), _amounts(resources.get("limits"))
            )
    elif item.get("type") == "Pod":
        yield from _bound_errors(item, "Pod", sum_requests(spec, "requests"), sum_requests(spec, "limits"))


def _amounts(values: Mapping[str, Any] | None) -> dict[str, Decimal]:
    return {name: parse_quantity(value) for name, value in (values or {}).items()}


def _bound_errors(
    item: Object, kind: str, requests: Mapping[str, Decimal], limits: Mapping[str, Decimal]
) -> Iterator[str]:
    for name, value in sorted((item.get("min") or {}).items()):
        yield from _too_low(
            f"minimum {name} usage per {kind} is {value}", parse_quantity(value), name, requests, limits
        )
    for name, value in sorted((item.get("max") or {}).items()):
        yield from _too_high(
            f"maximum {name} usage per {kind} is {value}", parse_quantity(value), name, requests, limits
        )
    for name, value in sorted((item.get("maxLimitRequestRatio") or {}).items()):
        request, limit = requests.get(name), limits.get(name)
        rule = f"{name} max limit to request ratio per {kind} is {value}"
        if not request or not limit:
            yield f"{rule}, but no request is specified or request is 0"
        elif limit / request > parse_quantity(value):
            yield f"{rule}, but provided ratio is {float(limit / request):f}"


def _too_low(
    rule: str, least: Decimal, name: str, requests: Mapping[str, Decimal], limits: Mapping[str, Decimal]
) -> Iterator[str]:
    if name not in requests:
        yield f"{rule}.  No request is specified"
    elif requests[name] < least:
        yield f"{rule}, but request is {format_quantity(requests[name])}"
    if name in limits and limits[name] < least:
        yield f"{rule}, but limit is {format_quantity(limits[name])}"


def _too_high(
    rule: str, most: Decimal, name: str, requests: Mapping[str, Decimal], limits: Mapping[str, Decimal]
) -> Iterator[str]:
    if name not in limits:
        yield f"{rule}.  No limit is specified"
    elif limits[name] > most:
        yield f"{rule}, but limit is {format_quantity(limits[name])}"
    if name in requests and requests[name] > most:
        yield f"{rule}, but request is {format_quantity(requests[name])}"


def _claim_errors(asked: Mapping[str, Any], item: Object) -> Iterator[str]:
    for name, value in sorted((item.get("min") or {}).items()):
        if name in asked and parse_quantity(asked[name]) < parse_quantity(value):
            yield f"minimum {name} usage per PersistentVolumeClaim is {value}, but request is {asked[name]}"
    for name, value in sorted((item.get("max") or {}).items()):
        if name in asked and parse_quantity(asked[name]) > parse_quantity(value):
            yield f"maximum {name} usage per PersistentVolumeClaim is {value}, but request is {asked[name]}"
