"""Devices that drivers publish, and giving them to claims: structured parameters. Pure.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from machinery.api.placement import untolerated

Object = Mapping[str, Any]
DeviceKey = tuple[str, str, str]
"""Driver, pool, name."""
Matches = Callable[["Device", str], bool]
"""Whether a device meets a CEL expression."""


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """One device, and the slice that tells of it."""

    key: DeviceKey
    object: Object

    def attribute(self, name: str) -> Any:
        """Return the value of an attribute; one without a domain is the driver's own. None when it has none."""
        attributes = self.object.get("attributes") or {}
        own = name.removeprefix(f"{self.key[0]}/")
        found = attributes.get(name, attributes.get(own))
        return next(iter(found.values()), None) if found else None

    def variables(self) -> dict[str, Any]:
        """Return what CEL expressions see as `device`: attributes and capacities by domain."""
        return {
            "driver": self.key[0],
            "attributes": self._by_domain("attributes", _attribute),
            "capacity": self._by_domain("capacity", lambda value: {"kubernetes.quantity": str(value["value"])}),
        }

    def _by_domain(self, field: str, read: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, value in (self.object.get(field) or {}).items():
            domain, _, rest = name.rpartition("/")
            found.setdefault(domain or self.key[0], {})[rest] = read(value)
        return found


def _attribute(typed: Mapping[str, Any]) -> Any:
    """Return an attribute's value as machinery.cel takes it."""
    kind, value = next(iter(typed.items()))
    return {"kubernetes.semver": value} if kind == "version" else value


def devices_of(slices: Iterable[Object]) -> Iterator[tuple[Device, Object]]:
    """Yield the devices of the newest generation of each pool, each with what says where it can be reached."""
    known = list(slices)
    newest: dict[tuple[str, str], int] = {}
    for one in known:
        pool = (one["spec"]["driver"], one["spec"]["pool"]["name"])
        newest[pool] = max(newest.get(pool, 0), int(one["spec"]["pool"].get("generation") or 0))
    for one in known:
        spec = one["spec"]
        pool = (spec["driver"], spec["pool"]["name"])
        if int(spec["pool"].get("generation") or 0) != newest[pool]:
            continue
        for device in spec.get("devices") or ():
            place = device if spec.get("perDeviceNodeSelection") else spec
            yield Device((*pool, device["name"]), device), place


@dataclass(slots=True)
class _Part:
    """A request, or one of the alternatives of a request."""

    name: str
    object: Object

    @property
    def admin(self) -> bool:
        return bool(self.object.get("adminAccess"))


class Allocator:
    """Gives devices to claims."""

    def __init__(self, classes: Callable[[str], Object | None], matches: Matches, in_use: frozenset[DeviceKey]) -> None:
        """Args: `classes` looks DeviceClasses up; `in_use` are devices that others have."""
        self._classes, self._matches, self._in_use = classes, matches, in_use

    def allocate(self, claims: Sequence[Object], devices: Sequence[Device]) -> list[list[dict[str, Any]]] | None:
        """Return the results for each claim (as in its `status.allocation`); None when they can't all have theirs."""
        taken: set[DeviceKey] = set()
        found = []
        for claim in claims:
            results = self._claim(claim["spec"].get("devices") or {}, devices, taken)
            if results is None:
                return None
            found.append(results)
        return found

    def _claim(self, spec: Object, devices: Sequence[Device], taken: set[DeviceKey]) -> list[dict[str, Any]] | None:
        requests = list(spec.get("requests") or ())
        chosen: list[tuple[_Part, Device]] = []
        if not self._next(requests, 0, spec.get("constraints") or (), devices, taken, chosen):
            return None
        return [
            {
                "request": part.name, "driver": device.key[0], "pool": device.key[1], "device": device.key[2],
                **({"adminAccess": True} if part.admin else {}),
            }
            for part, device in chosen
        ]  # fmt: skip

    def _next(
        self,
        requests: Sequence[Object],
        at: int,
        constraints: Sequence[Object],
        devices: Sequence[Device],
        taken: set[DeviceKey],
        chosen: list[tuple[_Part, Device]],
    ) -> bool:
        """Serve the requests from `at` on, going back where a choice leads nowhere."""
        if at == len(requests):
            return True
        for part in _alternatives(requests[at]):
            suited = [one for one in devices if self._suits(one, part)]
            for picked in self._picks(part, suited, taken, constraints, chosen):
                before = len(chosen)
                chosen += [(part, one) for one in picked]
                mine = {one.key for one in picked} if not part.admin else set()
                taken |= mine
                if self._next(requests, at + 1, constraints, devices, taken, chosen):
                    return True
                taken -= mine
                del chosen[before:]
        return False

    def _suits(self, device: Device, part: _Part) -> bool:
        found = self._classes(part.object["deviceClassName"])
        if found is None:
            return False
        selectors = [*((found.get("spec") or {}).get("selectors") or ()), *(part.object.get("selectors") or ())]
        if not all(self._matches(device, one["cel"]["expression"]) for one in selectors):
            return False
        taints = device.object.get("taints") or ()
        return untolerated(taints, part.object.get("tolerations") or (), ("NoSchedule", "NoExecute")) is None

    def _picks(
        self,
        part: _Part,
        suited: Sequence[Device],
        taken: set[DeviceKey],
        constraints: Sequence[Object],
        chosen: Sequence[tuple[_Part, Device]],
    ) -> Iterator[list[Device]]:
        """Yield the sets of devices a request may have."""
        free = [one for one in suited if part.admin or (one.key not in taken and one.key not in self._in_use)]
        if part.object.get("allocationMode") == "All":
            if suited and len(free) == len(suited) and _agree(constraints, [*chosen, *((part, one) for one in free)]):
                yield free
            return
        yield from _combinations(free, int(part.object.get("count") or 1), part, constraints, list(chosen))


def _combinations(
    free: Sequence[Device], count: int, part: _Part, constraints: Sequence[Object], chosen: list[tuple[_Part, Device]]
) -> Iterator[list[Device]]:
    if count == 0:
        yield []
        return
    for at, one in enumerate(free[: len(free) - count + 1]):
        together = [*chosen, (part, one)]
        if _agree(constraints, together):
            for rest in _combinations(free[at + 1 :], count - 1, part, constraints, together):
                yield [one, *rest]


def _alternatives(request: Object) -> Iterator[_Part]:
    for one in request.get("firstAvailable") or ():
        yield _Part(f"{request['name']}/{one['name']}", one)
    if (exactly := request.get("exactly")) is not None:
        yield _Part(request["name"], exactly)


def _agree(constraints: Sequence[Object], chosen: Sequence[tuple[_Part, Device]]) -> bool:
    """Say whether chosen devices meet the constraints that are about their requests."""
    for one in constraints:
        names = one.get("requests") or ()
        about = [
            device for part, device in chosen if not names or part.name in names or part.name.split("/")[0] in names
        ]
        attribute = one.get("matchAttribute") or one.get("distinctAttribute")
        if attribute is None:
            continue
        values = [device.attribute(attribute) for device in about]
        if None in values:
            return False
        if one.get("matchAttribute") and len(set(values)) > 1:
            return False
        if one.get("distinctAttribute") and len(set(values)) < len(values):
            return False
    return True
