"""What a request takes of a device's capacities.

A device that several claims share says how its capacities may be divided: in certain values, or in steps within a
range; what is asked is rounded up to that. One that says nothing about it gives what is asked, or all of it.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#consumable-capacity
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from machinery.api.quantity import form_of, format_quantity, parse_quantity
from scheduler.devices.pools import Device

Object = Mapping[str, Any]
Amounts = Mapping[str, tuple[Decimal, str]]
"""By the name the device has for it: how much, and how that is written."""


def needed(request: Object | None, device: Device) -> Amounts | None:
    """Return what a request takes of each capacity; None when the device does not give that."""
    asked = _asked(request, device)
    if asked is None:
        return None
    found: dict[str, tuple[Decimal, str]] = {}
    for name, capacity in (device.object.get("capacity") or {}).items():
        value = _rounded(asked.get(name), capacity)
        if not _is_allowed(value[0], capacity.get("requestPolicy") or {}):
            return None
        found[name] = value
    return found


def _asked(request: Object | None, device: Device) -> dict[str, str] | None:
    """Return what is asked, under the device's own names; None when it has no such capacity."""
    has, driver = device.object.get("capacity") or {}, device.key[0]
    found: dict[str, str] = {}
    for name, text in ((request or {}).get("requests") or {}).items():
        own = name.removeprefix(f"{driver}/")
        known = next((one for one in (name, own, f"{driver}/{own}") if one in has), None)
        if known is None:
            return None
        found[known] = text
    return found


def _rounded(asked: str | None, capacity: Object) -> tuple[Decimal, str]:
    policy = capacity.get("requestPolicy") or {}
    if asked is None:
        return _read(policy.get("default") or capacity["value"])
    value = parse_quantity(asked)
    limits, values = policy.get("validRange") or {}, policy.get("validValues") or ()
    if limits.get("min") is not None:
        least = parse_quantity(limits["min"])
        if value < least:
            return _read(limits["min"])
        if limits.get("step") is not None:
            step = parse_quantity(limits["step"])
            whole, rest = divmod(value - least, step)
            value = least + step * (whole + bool(rest))
            return value, format_quantity(value, form_of(limits["step"]))
    elif values:
        return _read(next((one for one in values if value <= parse_quantity(one)), asked))
    return _read(asked)


def _read(text: str) -> tuple[Decimal, str]:
    return parse_quantity(text), str(text)


def _is_allowed(value: Decimal, policy: Object) -> bool:
    if policy.get("default") is not None and value == parse_quantity(policy["default"]):
        return True
    limits, values = policy.get("validRange") or {}, policy.get("validValues") or ()
    if limits:
        if limits.get("max") is not None and value > parse_quantity(limits["max"]):
            return False
        if limits.get("step") is not None:
            return (value - parse_quantity(limits.get("min") or 0)) % parse_quantity(limits["step"]) == 0
        return True
    return not values or any(value == parse_quantity(one) for one in values)
