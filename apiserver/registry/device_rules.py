"""Rules of claims of devices, their classes, and the slices that drivers publish.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from collections.abc import Iterator, Sequence

import orjson

from apiserver.registry import names
from apiserver.registry.csi_rules import driver_name_causes
from apiserver.registry.kind import Object, duplicate, forbidden, immutable, invalid, required, too_many, unsupported
from apiserver.registry.slice_rules import binding_causes, name_causes, qualified_causes, toleration_causes
from machinery.errors import Cause

_MODES = ("All", "ExactCount")
_MAX_REQUESTS, _MAX_SELECTORS, _MAX_CONFIGS, _MAX_ALTERNATIVES = 32, 32, 32, 8
_MAX_USERS = 256
_MAX_EXPRESSION, _MAX_PARAMETERS = 10 * 1024, 10 * 1024
_NATIVE = "kubernetes.io/"


def claim_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the spec of a claim at `path`."""
    devices, at = spec.get("devices") or {}, f"{path}.devices"
    requests = devices.get("requests") or ()
    if len(requests) > _MAX_REQUESTS:
        yield too_many(f"{at}.requests", len(requests), _MAX_REQUESTS)
    known: set[str] = set()
    for index, request in enumerate(requests):
        place, name = f"{at}.requests[{index}]", request.get("name", "")
        yield from name_causes(name, f"{place}.name")
        if name in known:
            yield duplicate(f"{place}.name", name)
        known.add(name)
        yield from _request_causes(request, place)
        known |= {f"{name}/{one.get('name', '')}" for one in request.get("firstAvailable") or ()}
    for index, one in enumerate(devices.get("constraints") or ()):
        place = f"{at}.constraints[{index}]"
        yield from _reference_causes(one.get("requests") or [], known, f"{place}.requests")
        yield from _constraint_causes(one, place)
    if len(configs := devices.get("config") or ()) > _MAX_CONFIGS:
        yield too_many(f"{at}.config", len(configs), _MAX_CONFIGS)
    for index, one in enumerate(configs):
        yield from _reference_causes(one.get("requests") or [], known, f"{at}.config[{index}].requests")
        yield from _config_causes(one, f"{at}.config[{index}]")


def _constraint_causes(constraint: Object, path: str) -> Iterator[Cause]:
    field = next((one for one in ("matchAttribute", "distinctAttribute") if constraint.get(one)), None)
    if field is None:
        why = 'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set'
        yield required(path, why)
        return
    name = constraint[field]
    yield from qualified_causes(name, f"{path}.{field}")
    if "/" not in name:
        why = "a fully qualified name must be a domain and a name separated by a slash"
        yield invalid(f"{path}.{field}", name, why)


def _config_causes(config: Object, path: str) -> Iterator[Cause]:
    """What a driver is told goes through unread; it must be an object, and not large."""
    opaque, at = config.get("opaque"), f"{path}.opaque"
    if opaque is None:
        yield required(at)
        return
    yield from driver_name_causes(opaque.get("driver", ""), f"{at}.driver")
    parameters = opaque.get("parameters")
    if parameters is None:
        yield required(f"{at}.parameters")
    elif len(orjson.dumps(parameters)) > _MAX_PARAMETERS:
        yield _too_long(f"{at}.parameters", _MAX_PARAMETERS)
    elif not isinstance(parameters, dict):
        yield invalid(f"{at}.parameters", "<value omitted>", "must be a valid JSON object")


def _too_long(path: str, most: int) -> Cause:
    return Cause("FieldValueTooLong", f"Too long: may not be more than {most} bytes", path)


def _request_causes(request: Object, path: str) -> Iterator[Cause]:
    exactly, alternatives = request.get("exactly"), request.get("firstAvailable") or []
    if exactly is None and not alternatives:
        yield required(path, "exactly one of `exactly` or `firstAvailable` is required")
    elif exactly is not None and alternatives:
        why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"
        yield invalid(path, None, why)
    elif exactly is not None:
        yield from _wish_causes(exactly, f"{path}.exactly")
    if len(alternatives) > _MAX_ALTERNATIVES:
        yield too_many(f"{path}.firstAvailable", len(alternatives), _MAX_ALTERNATIVES)
    seen = set()
    for index, one in enumerate(alternatives):
        at, name = f"{path}.firstAvailable[{index}]", one.get("name", "")
        yield from name_causes(name, f"{at}.name")
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
    for key in (wish.get("capacity") or {}).get("requests") or ():
        yield from qualified_causes(key, f"{path}.capacity.requests[{key}]")


def _reference_causes(requests: list[str], known: set[str], path: str, *, of_one: bool = False) -> Iterator[Cause]:
    for index, name in enumerate(requests):
        at = path if of_one else f"{path}[{index}]"
        if name not in known:
            why = (
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
            )
            yield invalid(at, name, why)
        if name in requests[:index]:
            yield duplicate(at, name)


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
        if len(expression.encode()) > _MAX_EXPRESSION:
            yield _too_long(at, _MAX_EXPRESSION)
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
        yield from _config_causes(config, f"spec.config[{index}]")
    name = spec.get("extendedResourceName")
    if name is not None and not _is_extended(name):
        yield invalid("spec.extendedResourceName", name, "must be a valid extended resource name")


def _is_extended(name: str) -> bool:
    if "/" not in name or _NATIVE in name or name.startswith("requests."):
        return False
    return names.qualified_name(f"requests.{name}") is None


def status_causes(new: Object, old: Object) -> Iterator[Cause]:
    """Yield what is wrong with a change of a claim's status: what it has, and for whom, must fit together."""
    status, before = new.get("status") or {}, old.get("status") or {}
    if status == before:
        return
    allocation, users = status.get("allocation"), status.get("reservedFor") or []
    yield from _user_causes(users, "status.reservedFor")
    if users and allocation is None:
        yield forbidden("status.reservedFor", "may not be specified when `allocated` is not set")
    elif new["metadata"].get("deletionTimestamp") and _came(users, before.get("reservedFor") or ()):
        why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
        yield forbidden("status.reservedFor", why)
    if allocation is not None and before.get("allocation") is not None:
        yield from immutable("status.allocation", allocation, before["allocation"])
    elif allocation is not None:
        yield from _allocation_causes(allocation, _request_names(new), "status.allocation.devices")
    given = {_device_of(one) for one in _results(allocation)}
    seen: set[tuple[str, ...]] = set()
    for index, one in enumerate(status.get("devices") or ()):
        path, device = f"status.devices[{index}]", _device_of(one)
        if device not in given:
            yield invalid(path, "/".join(filter(None, device)), "must be an allocated device in the claim")
        if device in seen:
            yield duplicate(path, "/".join(filter(None, device)))
        seen.add(device)


def _came(users: Sequence[Object], before: Sequence[Object]) -> bool:
    return any(one not in before for one in users)


def _results(allocation: Object | None) -> Sequence[Object]:
    return ((allocation or {}).get("devices") or {}).get("results") or ()


def _device_of(one: Object) -> tuple[str, ...]:
    return tuple(one.get(field) or "" for field in ("driver", "pool", "device", "shareID"))


def _request_names(claim: Object) -> set[str]:
    requests = ((claim.get("spec") or {}).get("devices") or {}).get("requests") or ()
    found = {one["name"] for one in requests}
    return found | {f"{one['name']}/{way['name']}" for one in requests for way in one.get("firstAvailable") or ()}


def _user_causes(users: Sequence[Object], path: str) -> Iterator[Cause]:
    if len(users) > _MAX_USERS:
        yield too_many(path, len(users), _MAX_USERS)
    seen: set[str] = set()
    for index, one in enumerate(users):
        yield from (required(f"{path}[{index}].{field}") for field in ("resource", "name", "uid") if not one.get(field))
        if one.get("uid") in seen:
            yield duplicate(f"{path}[{index}]", one["uid"])
        seen.add(one.get("uid", ""))


def _allocation_causes(allocation: Object, known: set[str], path: str) -> Iterator[Cause]:
    results = _results(allocation)
    if len(results) > _MAX_REQUESTS:
        yield too_many(f"{path}.results", len(results), _MAX_REQUESTS)
    for index, one in enumerate(results):
        at = f"{path}.results[{index}]"
        yield from _reference_causes([one.get("request", "")], known, f"{at}.request", of_one=True)
        yield from driver_name_causes(one.get("driver", ""), f"{at}.driver")
        yield from name_causes(one.get("device", ""), f"{at}.device")
        yield from binding_causes(one, at)
