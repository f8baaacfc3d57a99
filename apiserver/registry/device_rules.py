"""Rules of claims of devices, their classes, and the slices that drivers publish.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from apiserver.registry import names
from apiserver.registry.csi_rules import driver_name_causes
from apiserver.registry.kind import Object, duplicate, invalid, required, too_many, unsupported
from apiserver.registry.pod_rules import toleration_causes
from machinery.errors import Cause

_MODES = ("All", "ExactCount")
_MAX_REQUESTS, _MAX_SELECTORS, _MAX_DEVICES = 32, 32, 128
_PLACES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_IDENTIFIER_RULE = (
    "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters "
    "or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"
)
_VALUES = ("int", "bool", "string", "version")


def claim_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the spec of a claim at `path`."""
    devices, at = spec.get("devices") or {}, f"{path}.devices"
    requests = devices.get("requests") or ()
    if len(requests) > _MAX_REQUESTS:
        yield too_many(f"{at}.requests", len(requests), _MAX_REQUESTS)
    known: set[str] = set()
    for index, request in enumerate(requests):
        place, name = f"{at}.requests[{index}]", request.get("name", "")
        yield from _name_causes(name, f"{place}.name")
        if name in known:
            yield duplicate(f"{place}.name", name)
        known.add(name)
        yield from _request_causes(request, place)
        known |= {f"{name}/{one.get('name', '')}" for one in request.get("firstAvailable") or ()}
    for group in ("constraints", "config"):
        for index, one in enumerate(devices.get(group) or ()):
            yield from _reference_causes(one.get("requests") or [], known, f"{at}.{group}[{index}].requests")
            if group == "constraints" and not (one.get("matchAttribute") or one.get("distinctAttribute")):
                yield required(f"{at}.constraints[{index}].matchAttribute")


def _name_causes(name: str, path: str) -> Iterator[Cause]:
    if not name:
        yield required(path)
    elif wrong := names.dns_label(name):
        yield invalid(path, name, wrong)


def _request_causes(request: Object, path: str) -> Iterator[Cause]:
    exactly, alternatives = request.get("exactly"), request.get("firstAvailable") or []
    if exactly is None and not alternatives:
        yield required(path, "exactly one of `exactly` or `firstAvailable` is required")
    elif exactly is not None and alternatives:
        why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"
        yield invalid(path, None, why)
    elif exactly is not None:
        yield from _wish_causes(exactly, f"{path}.exactly")
    seen = set()
    for index, one in enumerate(alternatives):
        at, name = f"{path}.firstAvailable[{index}]", one.get("name", "")
        yield from _name_causes(name, f"{at}.name")
        if name in seen:
            yield duplicate(f"{at}.name", name)
        seen.add(name)
        yield from _wish_causes(one, at)


def _wish_causes(wish: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with what one request asks for."""
    name = wish.get("deviceClassName", "")
    if not name:
        yield required(f"{path}.deviceClassName")
    elif wrong := names.dns_subdomain(name):
        yield invalid(f"{path}.deviceClassName", name, wrong)
    yield from selector_causes(wish.get("selectors") or [], f"{path}.selectors")
    mode, count = wish["allocationMode"], wish.get("count", 0)
    if mode not in _MODES:
        yield unsupported(f"{path}.allocationMode", mode, _MODES)
    elif mode == "ExactCount" and count <= 0:
        yield invalid(f"{path}.count", count, "must be greater than zero")
    elif mode == "All" and count:
        yield invalid(f"{path}.count", count, "must not be specified when allocationMode is 'All'")
    for index, toleration in enumerate(wish.get("tolerations") or ()):
        yield from toleration_causes(toleration, f"{path}.tolerations[{index}]")


def _reference_causes(requests: list[str], known: set[str], path: str) -> Iterator[Cause]:
    for index, name in enumerate(requests):
        if name not in known:
            why = (
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
            )
            yield invalid(f"{path}[{index}]", name, why)
        if name in requests[:index]:
            yield duplicate(f"{path}[{index}]", name)


def selector_causes(selectors: list[Object], path: str) -> Iterator[Cause]:
    """Yield what is wrong with expressions that choose devices."""
    if len(selectors) > _MAX_SELECTORS:
        yield too_many(path, len(selectors), _MAX_SELECTORS)
    for index, selector in enumerate(selectors):
        if selector.get("cel") is None:
            yield required(f"{path}[{index}].cel")
            continue
        at, expression = f"{path}[{index}].cel.expression", selector["cel"].get("expression", "")
        if not expression.strip():
            yield required(at)
            continue
        from machinery.cel.program import CompileError, compile_expression  # the engine is large, and seldom needed

        try:
            compiled = compile_expression(expression, {"device": "dyn"})
        except CompileError as error:
            yield invalid(at, expression, f"compilation failed: {error}")
            continue
        if compiled.result not in ("bool", "dyn"):
            yield invalid(
                at, expression, "compilation failed: must evaluate to bool or the unknown type, not " + compiled.result
            )


def class_causes(device_class: Object) -> Iterator[Cause]:
    """Yield what is wrong with a DeviceClass."""
    spec = device_class.get("spec") or {}
    yield from selector_causes(spec.get("selectors") or [], "spec.selectors")
    for index, config in enumerate(spec.get("config") or ()):
        if config.get("opaque") is None:
            yield required(f"spec.config[{index}]", "exactly one field must be set")
        else:
            yield from driver_name_causes(config["opaque"].get("driver", ""), f"spec.config[{index}].opaque.driver")


def slice_causes(resource_slice: Object) -> Iterator[Cause]:
    """Yield what is wrong with a ResourceSlice."""
    spec = resource_slice.get("spec") or {}
    yield from driver_name_causes(spec.get("driver", ""), "spec.driver")
    pool = spec.get("pool") or {}
    yield from _pool_causes(pool, "spec.pool")
    given = [place for place in _PLACES if spec.get(place)]
    rule = f"exactly one of {_quoted(_PLACES)} is required"
    if not given:
        yield required("spec", rule)
    elif len(given) > 1:
        yield invalid("spec", _quoted(given), f"{rule}, but multiple fields are set")
    devices = spec.get("devices") or ()
    if len(devices) > _MAX_DEVICES:
        yield too_many("spec.devices", len(devices), _MAX_DEVICES)
    seen = set()
    for index, device in enumerate(devices):
        path, name = f"spec.devices[{index}]", device.get("name", "")
        yield from _name_causes(name, f"{path}.name")
        if name in seen:
            yield duplicate(f"{path}.name", name)
        seen.add(name)
        for field in ("attributes", "capacity"):
            for key, value in (device.get(field) or {}).items():
                yield from _attribute_causes(key, value, field, f"{path}.{field}[{key}]")


def _quoted(fields: Iterable[str]) -> str:
    return ", ".join(f"`{field}`" for field in fields)


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


def _attribute_causes(key: str, value: Any, field: str, path: str) -> Iterator[Cause]:
    domain, slash, name = key.rpartition("/")
    if slash:
        yield from driver_name_causes(domain, path)
    if not _IDENTIFIER.fullmatch(name):
        yield invalid(path, name, _IDENTIFIER_RULE)
    if field == "attributes":
        count = sum(value.get(one) is not None for one in _VALUES)
        if not count:
            yield required(path, "exactly one value must be specified")
        elif count > 1:
            yield invalid(path, value, "exactly one value must be specified, got several")
