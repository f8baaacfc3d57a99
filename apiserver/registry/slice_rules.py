"""Rules of the slices in which drivers publish devices.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from apiserver.registry import names
from apiserver.registry.affinity_rules import node_selector_causes
from apiserver.registry.csi_rules import driver_name_causes
from apiserver.registry.kind import Object, duplicate, forbidden, invalid, required, too_many, unsupported
from machinery.api.quantity import canonical, parse_quantity
from machinery.errors import Cause

_MAX_DEVICES, _MAX_DEVICES_WITH_MORE = 128, 64
_MAX_PARTS, _MAX_TAINTS, _MAX_CONSUMED, _MAX_SETS, _MAX_COUNTERS, _MAX_CONDITIONS, _MAX_VALUES = 32, 16, 2, 8, 32, 4, 10
_MAX_TEXT = 64
_PLACES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
_DEVICE_PLACES = _PLACES[:3]
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_IDENTIFIER_RULE = (
    "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters "
    "or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"
)
_NUMBER, _PRE = r"(0|[1-9]\d*)", r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRE}(\.{_PRE})*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?", re.ASCII
)
_VALUES = ("int", "bool", "string", "version")
_EFFECTS = ("NoExecute", "NoSchedule", "None")
_OPERATORS = ("Equal", "Exists")


def name_causes(name: str, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the name of a device, a request, or a counter."""
    if not name:
        yield required(path)
    elif wrong := names.dns_label(name):
        yield invalid(path, name, wrong)


def qualified_causes(name: str, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the name of an attribute or a capacity, with or without a domain."""
    domain, slash, rest = name.partition("/")
    if slash:
        yield from driver_name_causes(domain, path)
    if not _IDENTIFIER.fullmatch(rest if slash else domain):
        yield invalid(path, rest if slash else domain, _IDENTIFIER_RULE)


def toleration_causes(toleration: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a toleration of devices' taints."""
    key, value, operator = toleration.get("key", ""), toleration.get("value", ""), toleration.get("operator", "")
    if key and (wrong := names.qualified_name(key)):
        yield invalid(f"{path}.key", key, wrong)
    if operator == "Exists" and value:
        yield invalid(f"{path}.value", value, "must be empty for operator `Exists`")
    elif operator == "Equal" and (wrong := names.label_value(value)):
        yield invalid(f"{path}.value", value, wrong)
    elif not operator:
        yield required(f"{path}.operator")
    elif operator not in _OPERATORS:
        yield unsupported(f"{path}.operator", operator, _OPERATORS)
    if (effect := toleration.get("effect")) and effect not in _EFFECTS:
        yield unsupported(f"{path}.effect", effect, _EFFECTS)


def binding_causes(given: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the conditions that the binding of a pod waits for."""
    waits, fails = given.get("bindingConditions") or [], given.get("bindingFailureConditions") or []
    for field, found in (("bindingConditions", waits), ("bindingFailureConditions", fails)):
        at = f"{path}.{field}"
        if len(found) > _MAX_CONDITIONS:
            yield too_many(at, len(found), _MAX_CONDITIONS)
        for index, name in enumerate(found):
            if wrong := names.qualified_name(name):
                yield invalid(f"{at}[{index}]", name, wrong)
            if name in found[:index]:
                yield duplicate(f"{at}[{index}]", name)
    for index, name in enumerate(fails):
        if name in waits:
            why = "bindingFailureConditions must not overlap with bindingConditions"
            yield invalid(f"{path}.bindingFailureConditions[{index}]", name, why)
    if fails and not waits:
        why = "bindingConditions are required to use bindingFailureConditions"
        yield invalid(f"{path}.bindingConditions", waits, why)
    if waits and not fails:
        why = "bindingFailureConditions are required to use bindingConditions"
        yield invalid(f"{path}.bindingFailureConditions", fails, why)


def slice_causes(resource_slice: Object) -> Iterator[Cause]:
    """Yield what is wrong with a ResourceSlice."""
    spec = resource_slice.get("spec") or {}
    yield from driver_name_causes(spec.get("driver", ""), "spec.driver")
    yield from _pool_causes(spec.get("pool") or {}, "spec.pool")
    rule = f"exactly one of {_quoted(_PLACES)} is required"
    given = [place for place in _PLACES if spec.get(place)]
    yield from _place_causes(spec, _PLACES, "spec")
    if not given:
        yield required("spec", rule)
    elif len(given) > 1:
        yield invalid("spec", f"{{{_quoted(given)}}}", f"{rule}, but multiple fields are set")
    if spec.get("sharedCounters") is not None and spec.get("devices") is not None:
        yield invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed")
    devices = spec.get("devices") or []
    has_more = any(one.get("taints") or one.get("consumesCounters") for one in devices)
    most = _MAX_DEVICES_WITH_MORE if has_more else _MAX_DEVICES
    if len(devices) > most:
        yield too_many("spec.devices", len(devices), most)
        return
    for index, device in enumerate(devices):
        yield from _device_causes(device, f"spec.devices[{index}]", per_device=bool(spec.get("perDeviceNodeSelection")))
    yield from _duplicates([one.get("name", "") for one in devices], "spec.devices", ".name")
    yield from _counted_causes(spec.get("sharedCounters") or [], "name", _MAX_SETS, "spec.sharedCounters")


def _quoted(fields: Iterable[str]) -> str:
    return ", ".join(f"`{field}`" for field in fields)


def _duplicates(found: Sequence[str], path: str, field: str = "") -> Iterator[Cause]:
    for index, one in enumerate(found):
        if one in found[:index]:
            yield duplicate(f"{path}[{index}]{field}", one)


def _place_causes(given: Object, fields: Sequence[str], path: str) -> Iterator[Cause]:
    for field in fields:
        value = given.get(field)
        if field == "nodeName" and value is not None:
            if not value:
                why = "must be either unset or set to a non-empty string" if path == "spec" else "must not be empty"
                yield invalid(f"{path}.nodeName", value, why)
            elif wrong := names.dns_subdomain(value):
                yield invalid(f"{path}.nodeName", value, wrong)
        elif field == "nodeSelector" and value is not None:
            yield from node_selector_causes(value, f"{path}.nodeSelector")
            if path == "spec" and len(value.get("nodeSelectorTerms") or ()) != 1:
                at = f"{path}.nodeSelector.nodeSelectorTerms"
                yield invalid(at, value.get("nodeSelectorTerms"), "must have exactly one node selector term")
        elif value is False:
            yield invalid(f"{path}.{field}", value, "must be either unset or set to true")


def _pool_causes(pool: Object, path: str) -> Iterator[Cause]:
    name, count, generation = pool.get("name", ""), pool.get("resourceSliceCount", 0), pool.get("generation", 0)
    if not name:
        yield required(f"{path}.name")
    for part in name.split("/") if name else ():
        if wrong := names.dns_subdomain(part):
            yield invalid(f"{path}.name", part, wrong)
    if count <= 0:
        yield invalid(f"{path}.resourceSliceCount", count, "must be greater than zero")
    if generation < 0:
        yield invalid(f"{path}.generation", generation, "must be greater than or equal to zero")


def _device_causes(device: Object, path: str, *, per_device: bool) -> Iterator[Cause]:
    yield from name_causes(device.get("name", ""), f"{path}.name")
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if (number := len(attributes) + len(capacity)) > _MAX_PARTS:
        yield invalid(path, number, f"the total number of attributes and capacities must not exceed {_MAX_PARTS}")
    for key, value in attributes.items():
        yield from _attribute_causes(key, value, f"{path}.attributes[{key}]")
    for key, value in capacity.items():
        yield from qualified_causes(key, f"{path}.capacity[{key}]")
        at = f"{path}.capacity[{key}].requestPolicy"
        if (policy := value.get("requestPolicy")) is not None:
            if device.get("allowMultipleAllocations"):
                yield from _policy_causes(policy, value["value"], at)
            else:
                yield forbidden(at, "allowMultipleAllocations must be true")
    yield from _taint_causes(device.get("taints") or [], f"{path}.taints")
    yield from _counted_causes(
        device.get("consumesCounters") or [], "counterSet", _MAX_CONSUMED, f"{path}.consumesCounters"
    )
    yield from _own_place_causes(device, path, per_device=per_device)
    yield from binding_causes(device, path)


def _attribute_causes(key: str, value: Any, path: str) -> Iterator[Cause]:
    yield from qualified_causes(key, path)
    count = sum(value.get(one) is not None for one in _VALUES)
    if not count:
        yield required(path, "exactly one value must be specified")
    elif count > 1:
        yield invalid(path, value, "exactly one value must be specified")
    for field in ("string", "version"):
        text = value.get(field)
        if text is not None and len(text.encode()) > _MAX_TEXT:
            yield Cause("FieldValueTooLong", f"Too long: may not be more than {_MAX_TEXT} bytes", f"{path}.{field}")
    if (version := value.get("version")) is not None and not _VERSION.fullmatch(version):
        yield invalid(f"{path}.version", version, "must be a string compatible with semver.org spec 2.0.0")


def _taint_causes(taints: Sequence[Object], path: str) -> Iterator[Cause]:
    if len(taints) > _MAX_TAINTS:
        yield too_many(path, len(taints), _MAX_TAINTS)
    for index, taint in enumerate(taints):
        at, key, value, effect = f"{path}[{index}]", taint.get("key", ""), taint.get("value", ""), taint.get("effect")
        if wrong := names.qualified_name(key):
            yield invalid(f"{at}.key", key, wrong)
        if value and (wrong := names.label_value(value)):
            yield invalid(f"{at}.value", value, wrong)
        if not effect:
            yield required(f"{at}.effect")
        elif effect not in _EFFECTS:
            yield unsupported(f"{at}.effect", effect, _EFFECTS)


def _counted_causes(given: Sequence[Object], naming: str, most: int, path: str) -> Iterator[Cause]:
    """Judge counter sets, and what devices consume of them; `naming` is the field with a set's name."""
    if len(given) > most:
        yield too_many(path, len(given), most)
    for index, one in enumerate(given):
        yield from name_causes(one.get(naming, ""), f"{path}[{index}].{naming}")
        yield from _counter_causes(one.get("counters") or {}, f"{path}[{index}].counters")
    yield from _duplicates([one.get(naming, "") for one in given], path)


def _counter_causes(counters: Mapping[str, Any], path: str) -> Iterator[Cause]:
    if not counters:
        yield required(path)
    elif len(counters) > _MAX_COUNTERS:
        yield too_many(path, len(counters), _MAX_COUNTERS)
    for name in counters:
        yield from name_causes(name, path)


def _own_place_causes(device: Object, path: str, *, per_device: bool) -> Iterator[Cause]:
    given = [field for field in _DEVICE_PLACES if device.get(field)]
    rule = "`nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true"
    if not per_device:
        if any(device.get(field) is not None for field in _DEVICE_PLACES):
            why = "can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
            yield invalid(path, None, f"`nodeName`, `nodeSelector` and `allNodes` {why}")
        return
    yield from _place_causes(device, _DEVICE_PLACES, path)
    if not given:
        yield required(path, f"exactly one of {rule} in the ResourceSlice spec")
    elif len(given) > 1:
        yield invalid(path, f"{{{_quoted(given)}}}", f"exactly one of {rule} in the ResourceSlice spec")


def _policy_causes(policy: Object, most: str, path: str) -> Iterator[Cause]:
    """How a capacity may be divided among those who share a device."""
    values, limits, default = policy.get("validValues") or [], policy.get("validRange"), policy.get("default")
    if values and limits is not None:
        why = 'exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time'
        yield forbidden(path, why)
    elif (values or limits is not None) and default is None:
        yield required(f"{path}.default", f"required when {'validValues' if values else 'validRange'} is defined")
    elif values:
        yield from _allowed_causes(values, str(default), most, f"{path}.validValues")
    elif limits is not None:
        yield from _range_causes(limits, str(default), most, f"{path}.validRange")


def _allowed_causes(values: Sequence[str], default: str, most: str, path: str) -> Iterator[Cause]:
    if len(values) > _MAX_VALUES:
        yield too_many(path, len(values), _MAX_VALUES)
    amounts = [parse_quantity(one) for one in values]
    for index, (before, after) in enumerate(pairwise(amounts), 1):
        if before > after:
            yield invalid(f"{path}[{index}]", canonical(values[index]), "values must be sorted in ascending order")
    for index, amount in enumerate(amounts):
        if amount > parse_quantity(most):
            why = f"option is larger than capacity value: {canonical(most)}"
            yield invalid(f"{path}[{index}]", canonical(values[index]), why)
        if amount in amounts[:index]:
            yield duplicate(f"{path}[{index}]", str(int(amount)))
    if parse_quantity(default) not in amounts:
        yield invalid(path, canonical(default), "default value is not valid according to the requestPolicy")


def _range_causes(limits: Object, default: str, most: str, path: str) -> Iterator[Cause]:
    least, highest, step = limits.get("min"), limits.get("max"), limits.get("step")
    if least is None:
        yield required(f"{path}.min", "required when validRange is defined")
        return
    low, wanted, top = parse_quantity(least), parse_quantity(default), parse_quantity(most)
    if low > top:
        yield invalid(f"{path}.min", canonical(least), f"min is larger than capacity value: {canonical(most)}")
    if wanted < low:
        yield invalid(f"{path}.default", canonical(default), f"default is less than min: {canonical(least)}")
    if highest is not None:
        if low > parse_quantity(highest):
            yield invalid(f"{path}.max", canonical(least), f"min is larger than max: {canonical(highest)}")
        if parse_quantity(highest) > top:
            yield invalid(f"{path}.max", canonical(highest), f"max is larger than capacity value: {canonical(most)}")
        if wanted > parse_quantity(highest):
            yield invalid(f"{path}.default", canonical(default), f"default is more than max: {canonical(highest)}")
    if step is not None:
        yield from _step_causes(step, least, [one for one in (default, highest) if one is not None], most, path)


def _step_causes(step: str, least: str, others: Sequence[str], most: str, path: str) -> Iterator[Cause]:
    at, size, low = f"{path}.step", parse_quantity(step), parse_quantity(least)
    if size <= 0:
        yield invalid(at, canonical(step), "must be greater than zero")
        return
    if low + size > parse_quantity(most):
        yield invalid(at, canonical(step), f"one step is larger than capacity value: {canonical(most)}")
    for one in others:
        if (parse_quantity(one) - low) % size:
            why = f"value is not a multiple of a given step ({canonical(step)}) from ({canonical(least)})"
            yield invalid(at, canonical(one), why)
