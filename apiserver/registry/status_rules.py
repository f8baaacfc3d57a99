"""Rules of what statuses tell: conditions, addresses of load balancers, numbers of pods."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from apiserver.registry import names, templates
from apiserver.registry.kind import Object, duplicate, forbidden, invalid, required, unsupported
from machinery.errors import Cause

_STATUSES = ("False", "True", "Unknown")
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_REASON_RULE = (
    "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric "
    "characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or "
    "'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is "
    "'[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
)
_MAX_REASON, _MAX_MESSAGE = 1024, 32768
_MODES = ("Proxy", "VIP")


def budget_status_causes(new: Object, _: Object) -> list[Cause]:
    """Return what is wrong with the status of a disruption budget."""
    status = new.get("status") or {}
    numbers = ("currentHealthy", "desiredHealthy", "expectedPods")
    return [
        *condition_causes(status.get("conditions") or (), "status.conditions"),
        *(
            invalid("status.podDisruptionsAllowed", one, "must be greater than or equal to 0")
            for one in (status.get("disruptionsAllowed") or 0,)
            if one < 0
        ),
        *templates.non_negative(status, *numbers, path="status"),
    ]


def autoscaler_status_causes(new: Object, _: Object) -> list[Cause]:
    """Return what is wrong with the status of an autoscaler."""
    return list(templates.non_negative(new.get("status") or {}, "currentReplicas", "desiredReplicas", path="status"))


def condition_causes(conditions: Any, path: str) -> Iterator[Cause]:
    """Yield what is wrong with conditions, of which there is one of each type."""
    seen = set()
    for index, condition in enumerate(conditions):
        at, kind = f"{path}[{index}]", condition.get("type", "")
        if kind in seen:
            yield duplicate(f"{at}.type", kind)
        seen.add(kind)
        if not kind:
            yield required(f"{at}.type")
        elif wrong := names.qualified_name(kind):
            yield invalid(f"{at}.type", kind, wrong)
        if condition.get("status", "") not in _STATUSES:
            yield unsupported(f"{at}.status", condition.get("status", ""), _STATUSES)
        yield from templates.non_negative(condition, "observedGeneration", path=at)
        if not condition.get("lastTransitionTime"):
            yield required(f"{at}.lastTransitionTime", "must be set")
        yield from _reason_causes(condition, at)


def _reason_causes(condition: Object, path: str) -> Iterator[Cause]:
    reason = condition.get("reason", "")
    if not reason:
        yield required(f"{path}.reason", "must be set")
    elif not _REASON.fullmatch(reason):
        yield invalid(f"{path}.reason", reason, _REASON_RULE)
    if len(reason) > _MAX_REASON:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {_MAX_REASON} bytes", f"{path}.reason")
    if len(condition.get("message", "")) > _MAX_MESSAGE:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {_MAX_MESSAGE} bytes", f"{path}.message")


def default_ip_mode(new: Object, _: Object) -> None:
    """Say that a load balancer's address is one that nodes may answer for, unless it tells otherwise."""
    for address in _addresses(new):
        if address.get("ip") and address.get("ipMode") is None:
            address["ipMode"] = "VIP"


def service_status_causes(new: Object, old: Object) -> list[Cause]:
    """Return what is wrong with the status of a service."""
    if new["spec"].get("type") != "LoadBalancer" and _addresses(new):
        return [forbidden("status.loadBalancer.ingress", "may only be used when `spec.type` is 'LoadBalancer'")]
    return list(_address_causes(new, old, modes=True))


def ingress_status_causes(new: Object, old: Object) -> list[Cause]:
    """Return what is wrong with the status of an ingress."""
    return list(_address_causes(new, old, modes=False))


def _addresses(obj: Object) -> list[Object]:
    return ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []


def _address_causes(new: Object, old: Object, *, modes: bool) -> Iterator[Cause]:
    known = {one.get("ip") for one in _addresses(old)}
    for index, address in enumerate(_addresses(new)):
        at, ip, host = f"status.loadBalancer.ingress[{index}]", address.get("ip"), address.get("hostname")
        if ip and ip not in known and (wrong := _address_error(ip)):
            yield invalid(f"{at}.ip", ip, wrong)
        mode = address.get("ipMode")
        if modes and mode is not None and not ip:
            yield forbidden(f"{at}.ipMode", "may not be specified when `ip` is not set")
        elif modes and mode is not None and mode not in _MODES:
            yield unsupported(f"{at}.ipMode", mode, _MODES)
        if host and (wrong := names.dns_subdomain(host)):
            yield invalid(f"{at}.hostname", host, wrong)
        if host and not _address_error(host):
            yield invalid(f"{at}.hostname", host, "must be a DNS name, not an IP address")


def _address_error(text: str) -> str | None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    return None
