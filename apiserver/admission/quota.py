"""ResourceQuota: what a new or changed object uses is taken from its namespace's quotas, or it is refused.

Source: https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal

from apiserver.registry.kind import Kind, Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.quantity import format_quantity, parse_quantity
from machinery.api.quota import Usage, falls_under, sum_requests, usage_of
from machinery.api.resources import RESOURCE_QUOTAS

Replace = Callable[[str, str, Callable[[Object], Object]], Awaitable[object]]
"""Writes a quota's status: namespace, name, and what makes the new object of the newest one."""

_COMPUTED = ("cpu", "memory", "ephemeral-storage")


async def charge(
    cache: WatchCache, replace: Replace, kind: Kind, namespace: str, obj: Object, old: Object | None, *, dry_run: bool
) -> None:  # fmt: skip
    """Take what an object uses (more than before) from each quota it falls under. Raises: Forbidden."""
    plural = RESOURCE_QUOTAS.group_resource
    quotas = [entry.object() for entry in cache.collection(plural).entries(f"/registry/{plural}/{namespace}/")]
    if not quotas:
        return
    delta = _delta(kind, obj, old)
    for quota in quotas:
        hard = (quota.get("spec") or {}).get("hard") or {}
        if not falls_under(quota.get("spec") or {}, kind.resource, obj):
            continue
        touched = {name: value for name, value in delta.items() if name in hard}
        if old is None and kind.built_in_kind == "Pod":
            _check_specified(kind, obj, quota, hard)
        if not any(value > 0 for value in touched.values()):
            continue

        def taken(newest: Object, touched: Usage = touched) -> Object:
            _take(kind, obj, newest, touched)
            return newest

        if dry_run:
            taken(quota)
        else:
            await replace(namespace, quota["metadata"]["name"], taken)


def _delta(kind: Kind, obj: Object, old: Object | None) -> Usage:
    used = usage_of(kind.resource, obj)
    before = usage_of(kind.resource, old) if old is not None else {}
    return {name: value - before.get(name, Decimal()) for name, value in used.items()}


def _take(kind: Kind, obj: Object, quota: Object, delta: Usage) -> None:
    """Add to a quota's used. Raises: Forbidden when that is more than it has."""
    status = quota.setdefault("status", {})
    hard, used = status.get("hard") or {}, dict(status.get("used") or {})
    name = quota["metadata"]["name"]
    unknown = sorted(one for one in delta if one not in hard)
    if unknown:
        raise _forbidden(kind, obj, f"status unknown for quota: {name}, resources: {','.join(unknown)}")
    over = [
        one for one, value in sorted(delta.items())
        if value > 0 and parse_quantity(used.get(one, "0")) + value > parse_quantity(hard[one])
    ]  # fmt: skip
    if over:
        asked = _listed((one, format_quantity(delta[one])) for one in over)
        had = _listed((one, used.get(one, "0")) for one in over)
        limited = _listed((one, hard[one]) for one in over)
        raise _forbidden(kind, obj, f"exceeded quota: {name}, requested: {asked}, used: {had}, limited: {limited}")
    for one, value in delta.items():
        used[one] = format_quantity(parse_quantity(used.get(one, "0")) + value)
    status["used"] = used


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return ",".join(f"{name}={value}" for name, value in pairs)


def _check_specified(kind: Kind, pod: Object, quota: Object, hard: Object) -> None:
    """A pod must say what it asks of each computed resource that is limited."""
    wanted: dict[str, tuple[str, str]] = {}
    for name in hard:
        prefix, dot, rest = name.partition(".")
        if name in _COMPUTED:
            wanted[name] = ("requests", name)
        elif dot and prefix in ("requests", "limits") and rest in _COMPUTED:
            wanted[name] = (prefix, rest)
    missing = {}
    for name, (field, resource) in wanted.items():
        lacking = [
            one["name"] for one in pod["spec"].get("containers") or ()
            if resource not in ((one.get("resources") or {}).get(field) or {})
        ]  # fmt: skip
        if lacking and resource not in sum_requests({"overhead": pod["spec"].get("overhead")}, field):
            missing[name] = lacking
    if missing:
        text = "; ".join(f"{name} for: {','.join(lacking)}" for name, lacking in sorted(missing.items()))
        raise _forbidden(kind, pod, f"failed quota: {quota['metadata']['name']}: must specify {text}")


def _forbidden(kind: Kind, obj: Object, why: str) -> errors.Forbidden:
    name = obj["metadata"].get("name", "")
    return errors.Forbidden(
        f'{kind.resource.group_resource} "{name}" is forbidden: {why}',
        group=kind.resource.group, kind=kind.resource.plural, name=name,
    )  # fmt: skip
