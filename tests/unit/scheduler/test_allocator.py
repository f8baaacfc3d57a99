"""The search for devices against a plain one that tries every assignment, one after the other, and judges it as a whole."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.devices.allocator import Allocator
from scheduler.devices.matching import matches
from scheduler.devices.pools import Device, PoolReader, Taken

DRIVER = "d.example.com"
CLASSES: Mapping[str, Any] = {"any": {"metadata": {"name": "any"}, "spec": {}}}
Pick = tuple[str, tuple[str, str]]  # request as in results, pool and device


# ---- the plain version


def plain(claims: Sequence[Any], devices: Sequence[Device], others: Sequence[Any], sets: Mapping[str, Any]) -> Any:
    """Return the first assignment that is right, as [[(request, (pool, device))]] by claim; None when there is none."""
    requests = [(at, request) for at, claim in enumerate(claims) for request in claim["spec"]["devices"]["requests"]]
    for choice in product(*(list(_options(request, devices, others)) for _, request in requests)):
        picks = [(at, *option) for (at, _), option in zip(requests, choice, strict=True)]
        if _is_right(claims, picks, devices, others, sets):
            found: list[list[Pick]] = [[] for _ in claims]
            for at, name, _wish, chosen in picks:
                found[at] += [(name, one.key[1:]) for one in chosen]
            return found
    return None


def _options(
    request: Any, devices: Sequence[Device], others: Sequence[Any]
) -> Iterator[tuple[str, Any, tuple[Device, ...]]]:
    wishes = [(f"{request['name']}/{one['name']}", one) for one in request.get("firstAvailable", ())]
    wishes += [(request["name"], request["exactly"])] if "exactly" in request else []
    for name, wish in wishes:
        suited = [one for one in devices if _matches(one, wish)]
        if wish.get("allocationMode") == "All":
            if roomy := [one for one in suited if _has_room(one, wish, others)]:
                yield name, wish, tuple(roomy)
        else:
            for chosen in combinations(suited, wish["count"]):
                yield name, wish, chosen


def _has_room(device: Device, wish: Any, others: Sequence[Any]) -> bool:
    """All devices are all that have room for what is asked beside what was given before."""
    share = _share(device, wish)
    of_it = [one for one in others if (one["pool"], one["device"]) == device.key[1:]]
    used = sum(int(one["consumedCapacity"]["gb"]) for one in of_it if "shareID" in one)
    return share is not None and used + share <= int(device.object["capacity"]["gb"]["value"])


def _matches(device: Device, wish: Any) -> bool:
    kind = wish.get("kind")
    return kind is None or device.object["attributes"]["kind"]["string"] == kind


def _is_right(
    claims: Sequence[Any], picks: Sequence[Any], devices: Sequence[Device], others: Sequence[Any], sets: Any
) -> bool:
    taken = [(one["pool"], one["device"]) for one in others if "shareID" not in one]
    users: dict[tuple[str, str], list[int]] = defaultdict(list)
    consumed: dict[tuple[str, str], int] = defaultdict(int)
    for one in others:
        if "shareID" in one:
            consumed[one["pool"], one["device"]] += int(one["consumedCapacity"]["gb"])
    active = {(one["pool"], one["device"]) for one in others}
    for at, _name, wish, chosen in picks:
        for device in chosen:
            key, shared = device.key[1:], bool(device.object.get("allowMultipleAllocations"))
            admin = bool(wish.get("adminAccess"))
            if not shared and admin and at in users[key]:
                return False
            if not admin and (key in taken or (not shared and (users[key] or key in consumed))):
                return False
            if not shared:
                users[key].append(at)
            share = _share(device, wish)
            if share is None or (device.object.get("taints") and not wish.get("tolerations")):
                return False
            if not admin:
                active.add(key)
                consumed[key] = share + (consumed[key] if shared else 0)
                if consumed[key] > int(device.object["capacity"]["gb"]["value"]):
                    return False
    return _counters_hold(active, devices, sets, others) and _constraints_hold(claims, picks)


def _share(device: Device, wish: Any) -> int | None:
    capacity = device.object["capacity"]["gb"]
    policy = capacity.get("requestPolicy")
    asked = wish.get("capacity", {}).get("requests", {}).get("gb")
    if asked is None:
        return int(policy["default"]) if policy else int(capacity["value"])
    if not policy:
        return int(asked)
    allowed = range(int(policy["validRange"]["min"]), int(policy["validRange"]["max"]) + 1)
    steps = [one for one in allowed if (one - allowed.start) % int(policy["validRange"]["step"]) == 0]
    return next((one for one in steps if one >= int(asked)), None)


def _counters_hold(active: Any, devices: Sequence[Device], sets: Any, others: Sequence[Any]) -> bool:
    before = {(one["pool"], one["device"]) for one in others}
    needed: dict[tuple[str, str], int] = defaultdict(int)
    grew = set()
    for device in devices:
        for use in device.object.get("consumesCounters", ()):
            at = (device.key[1], use["counterSet"])
            if device.key[1:] in active:
                needed[at] += int(use["counters"]["units"]["value"])
                if device.key[1:] not in before:
                    grew.add(at)
    return all(needed[at] <= int(sets[at]) for at in grew)  # too much from before is not ours to judge


def _constraints_hold(claims: Sequence[Any], picks: Sequence[Any]) -> bool:
    for at, claim in enumerate(claims):
        for constraint in claim["spec"]["devices"].get("constraints", ()):
            named = constraint.get("requests")
            about = [
                one.object["attributes"].get("numa")
                for claim_at, name, _, chosen in picks
                if claim_at == at and (not named or name in named or name.split("/")[0] in named)
                for one in chosen
            ]
            values = [str(one) for one in about]
            if None in about or ("matchAttribute" in constraint and len(set(values)) > 1):
                return False
            if "distinctAttribute" in constraint and len(set(values)) < len(values):
                return False
    return True


# ---- random clusters


@st.composite
def _devices(draw: Any, pool: str) -> Any:
    found = []
    for at in range(draw(st.integers(1, 3))):
        attributes: dict[str, Any] = {"kind": {"string": draw(st.sampled_from("ab"))}}
        if draw(st.booleans()):
            attributes["numa"] = draw(st.sampled_from([{"int": 0}, {"int": 1}, {"bool": True}]))
        device: dict[str, Any] = {"name": f"{pool}{at}", "attributes": attributes, "capacity": {"gb": {"value": "8"}}}
        if draw(st.booleans()):
            device["allowMultipleAllocations"] = True
            if draw(st.booleans()):
                least, step = draw(st.integers(1, 2)), draw(st.integers(1, 3))
                limits = {"min": str(least), "max": str(least + 2 * step), "step": str(step)}
                device["capacity"]["gb"]["requestPolicy"] = {"default": str(least), "validRange": limits}
        if draw(st.booleans()):
            units = {"units": {"value": str(draw(st.integers(1, 3)))}}
            device["consumesCounters"] = [{"counterSet": "s", "counters": units}]
        if draw(st.integers(0, 4)) == 0:
            device["taints"] = [{"key": "broken", "effect": "NoSchedule"}]
        found.append(device)
    return found


@st.composite
def _wish(draw: Any) -> Any:
    wish: dict[str, Any] = {"deviceClassName": "any"}
    if draw(st.integers(0, 5)) == 0:
        wish["allocationMode"] = "All"
    else:
        wish |= {"allocationMode": "ExactCount", "count": draw(st.integers(1, 2))}
    if draw(st.booleans()):
        wish["kind"] = draw(st.sampled_from("ab"))
        wish["selectors"] = [{"cel": {"expression": f'device.attributes["{DRIVER}"].kind == "{wish["kind"]}"'}}]
    if draw(st.booleans()):
        wish["capacity"] = {"requests": {"gb": str(draw(st.integers(1, 9)))}}
    if draw(st.integers(0, 4)) == 0:
        wish["tolerations"] = [{"operator": "Exists"}]
    return wish


@st.composite
def _claims(draw: Any) -> Any:
    claims = []
    for at in range(draw(st.integers(1, 2))):
        requests: list[dict[str, Any]] = []
        for number in range(draw(st.integers(1, 2))):
            name = f"r{number}"
            if draw(st.booleans()):
                exactly = draw(_wish())
                if draw(st.integers(0, 3)) == 0:
                    exactly["adminAccess"] = True
                requests.append({"name": name, "exactly": exactly})
            else:
                ways = [{"name": f"w{way}", **draw(_wish())} for way in range(draw(st.integers(1, 2)))]
                requests.append({"name": name, "firstAvailable": ways})
        devices: dict[str, Any] = {"requests": requests}
        if draw(st.booleans()):
            kind = draw(st.sampled_from(["matchAttribute", "distinctAttribute"]))
            named = draw(st.sampled_from([{}, {"requests": ["r0"]}, {"requests": ["r0/w0"]}]))
            devices["constraints"] = [{kind: f"{DRIVER}/numa", **named}]
        claims.append({"metadata": {"name": f"c{at}", "namespace": "n"}, "spec": {"devices": devices}})
    return claims


@st.composite
def _worlds(draw: Any) -> Any:
    slices, sets, others = [], {}, []
    for pool in ("p", "q")[: draw(st.integers(1, 2))]:
        devices = draw(_devices(pool))
        sets[pool, "s"] = draw(st.integers(1, 5))
        for part, more in (
            ("counters", {"sharedCounters": [{"name": "s", "counters": {"units": {"value": str(sets[pool, "s"])}}}]}),
            ("devices", {"devices": devices}),
        ):
            about = {"driver": DRIVER, "pool": {"name": pool, "generation": 1, "resourceSliceCount": 2}}
            slices.append({"metadata": {"name": f"{pool}-{part}"}, "spec": {**about, "allNodes": True, **more}})
        for device in devices:
            if draw(st.integers(0, 3)) == 0:
                result = {"request": "r", "driver": DRIVER, "pool": pool, "device": device["name"]}
                if device.get("allowMultipleAllocations"):
                    result |= {"shareID": "x", "consumedCapacity": {"gb": str(draw(st.integers(1, 8)))}}
                others.append(result)
    return slices, sets, others, draw(_claims())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_worlds())
def test_the_search_finds_what_trying_everything_finds(world: Any) -> None:
    slices, sets, others, claims = world
    pools = PoolReader().pools(slices)
    devices = [device for pool in pools for device in pool.devices]
    taken = Taken()
    taken.add({"devices": {"results": others}})
    chosen = Allocator(CLASSES.get, matches, taken, pools).allocate(claims, devices)
    found = chosen and [[(one.part.name, one.device.key[1:]) for one in of_claim] for of_claim in chosen]
    assert found == plain(claims, devices, others, sets)
