"""What a claim was given, as it is written in its status."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scheduler.devices.allocator import Choice

Object = Mapping[str, Any]
_KEPT = ("bindingConditions", "bindingFailureConditions")


def allocation_of(claim: Object, chosen: Sequence[Choice], node_name: str) -> dict[str, Any]:
    """Return the allocation of a claim: devices, the configuration that holds for them, and where they can be used."""
    devices: dict[str, Any] = {"results": [_result(one) for one in chosen]}
    config = list(_config(claim, chosen))
    if config:
        devices["config"] = config
    found: dict[str, Any] = {"devices": devices}
    selector = _node_selector(chosen, node_name)
    if selector is not None:
        found["nodeSelector"] = selector
    return found


def _result(one: Choice) -> dict[str, Any]:
    device, wish = one.device, one.part.object
    found: dict[str, Any] = {
        "request": one.part.name, "driver": device.key[0], "pool": device.key[1], "device": device.key[2],
    }  # fmt: skip
    if one.part.is_admin:
        found["adminAccess"] = True
    if wish.get("tolerations"):
        found["tolerations"] = [dict(toleration) for toleration in wish["tolerations"]]
    if device.is_shared:
        found["shareID"] = str(uuid.uuid4())
    if one.consumed:
        found["consumedCapacity"] = {name: text for name, (_, text) in one.consumed.items()}
    found |= {field: list(device.object[field]) for field in _KEPT if device.object.get(field)}
    return found


def _config(claim: Object, chosen: Sequence[Choice]) -> Iterator[dict[str, Any]]:
    spec = claim["spec"].get("devices") or {}
    parts = {one.part.request: one.part for one in chosen}
    requests = [one["name"] for one in spec.get("requests") or ()]
    of_class: dict[str, tuple[Object, list[str]]] = {}
    for part in (parts[name] for name in requests if name in parts):
        known = of_class.setdefault(part.device_class["metadata"]["name"], (part.device_class, []))
        known[1].append(part.name)
    for device_class, names in of_class.values():
        for one in (device_class.get("spec") or {}).get("config") or ():
            about = {"requests": names} if len(names) < len(requests) else {}
            yield {"source": "FromClass", **about, **one}
    for one in spec.get("config") or ():
        names = one.get("requests") or []
        if not names or any(name in (part.request, part.name) for name in names for part in parts.values()):
            about = {"requests": names} if names and len(names) < len(requests) else {}
            yield {"source": "FromClaim", **about, **{key: value for key, value in one.items() if key != "requests"}}


def _node_selector(chosen: Sequence[Choice], node_name: str) -> dict[str, Any] | None:
    """Return where all devices can be used: on one node, on those all their selectors take, or (None) everywhere."""
    term: dict[str, list[Any]] = {}
    for one in chosen:
        place = one.device.place
        if place.get("nodeName") or one.device.object.get("bindsToNode"):
            rule = {"key": "metadata.name", "operator": "In", "values": [node_name]}
            return {"nodeSelectorTerms": [{"matchFields": [rule]}]}
        for given in (place.get("nodeSelector") or {}).get("nodeSelectorTerms") or ():
            for group in ("matchExpressions", "matchFields"):
                known = term.setdefault(group, [])
                known += [rule for rule in given.get(group) or () if rule not in known]
    term = {group: rules for group, rules in term.items() if rules}
    return {"nodeSelectorTerms": [term]} if term else None
