"""Pools of devices, made of the slices that drivers publish; and what others have of them.

A pool may be spread over several slices, which a driver replaces one by one: a newer generation makes the older ones
void, and until all its slices are there, the pool is incomplete and nothing is taken from it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from machinery.api.quantity import parse_quantity
from scheduler.cluster import Cluster

Object = Mapping[str, Any]
DeviceKey = tuple[str, str, str]
"""Driver, pool, name."""
PoolKey = tuple[str, str]
CounterKey = tuple[str, str]
"""A counter set, and a counter in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """One device, and what says from which nodes it can be reached."""

    key: DeviceKey
    object: Object
    place: Object
    matched: dict[str, bool] = field(default_factory=dict)
    """What is known of expressions about it."""

    @property
    def pool(self) -> PoolKey:
        """The pool it belongs to."""
        return self.key[:2]

    @property
    def is_shared(self) -> bool:
        """Whether several claims may have it at once."""
        return bool(self.object.get("allowMultipleAllocations"))

    def attribute(self, name: str) -> tuple[str, Any] | None:
        """Return type and value of an attribute; one without a domain is the driver's own. None when it has none."""
        attributes = self.object.get("attributes") or {}
        found = attributes.get(name)
        if found is None:
            domain, _, rest = name.partition("/")
            found = attributes.get(rest) if domain == self.key[0] else None
        return next(iter(found.items()), None) if found else None

    def counters(self) -> Iterator[tuple[CounterKey, Decimal]]:
        """Yield what it takes of its pool's counters."""
        for consumed in self.object.get("consumesCounters") or ():
            for name, counter in (consumed.get("counters") or {}).items():
                yield (consumed["counterSet"], name), parse_quantity(counter["value"])

    def variables(self) -> dict[str, Any]:
        """Return what CEL expressions see as `device`: attributes and capacities by domain."""
        return {
            "driver": self.key[0],
            "allowMultipleAllocations": self.is_shared,
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


@dataclass(slots=True, eq=False)
class Pool:
    """The devices of the newest generation of one driver's pool."""

    key: PoolKey
    devices: list[Device] = field(default_factory=list)
    counters: dict[CounterKey, Decimal] = field(default_factory=dict)
    """How much there is of what its devices share."""
    is_incomplete: bool = False
    """Some of its slices are not there yet."""
    invalid: str = ""
    """What is wrong with it."""

    @property
    def is_usable(self) -> bool:
        """Whether devices may be taken from it."""
        return not self.is_incomplete and not self.invalid


@dataclass(slots=True)
class Taken:
    """What claims have already."""

    devices: set[DeviceKey] = field(default_factory=set)
    """Those that a claim has for itself."""
    shares: dict[DeviceKey, dict[str, Decimal]] = field(default_factory=dict)
    """What all claims together have of the capacities of a device they share."""

    def add(self, allocation: Object) -> None:
        """Count what a claim was given; administrators take nothing from others."""
        for one in (allocation.get("devices") or {}).get("results") or ():
            key = (one["driver"], one["pool"], one["device"])
            if one.get("adminAccess"):
                continue
            if not one.get("shareID"):
                self.devices.add(key)
                continue
            consumed = self.shares.setdefault(key, {})
            for name, text in (one.get("consumedCapacity") or {}).items():
                own = name.removeprefix(f"{one['driver']}/")
                consumed[own] = consumed.get(own, Decimal(0)) + parse_quantity(text)

    def has(self, key: DeviceKey) -> bool:
        """Say whether anybody has a device, or a share of it."""
        return key in self.devices or key in self.shares


def taken_by_claims(cluster: Cluster) -> Taken:
    """Return what claims have, or are promised."""
    found = Taken()
    for claim in cluster.device_claims():
        allocation = (claim.get("status") or {}).get("allocation")
        if allocation and claim["metadata"]["uid"] not in cluster.promised:
            found.add(allocation)
    for allocation in cluster.promised.values():
        found.add(allocation)
    return found


class PoolReader:
    """Makes pools of slices, and remembers devices of slices that have not changed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Object, list[Device]]] = {}
        self._slices: list[Object] = []
        self._pools: list[Pool] = []

    def pools(self, slices: Iterable[Object]) -> list[Pool]:
        """Return the pools, in the order in which devices are taken from them: those that wait for nothing first."""
        given = list(slices)
        if len(given) == len(self._slices) and all(map(_same, given, self._slices)):
            return self._pools
        self._slices = given
        self._known = {id(one): self._known.get(id(one)) or (one, list(_devices_of(one))) for one in given}
        by_pool: dict[PoolKey, list[Object]] = {}
        for one in sorted(given, key=_name):
            by_pool.setdefault((one["spec"]["driver"], one["spec"]["pool"]["name"]), []).append(one)
        self._pools = sorted((self._pool(key, parts) for key, parts in by_pool.items()), key=_rank)
        return self._pools

    def _pool(self, key: PoolKey, slices: Sequence[Object]) -> Pool:
        newest = max(_generation(one) for one in slices)
        current = [one for one in slices if _generation(one) == newest]
        pool = Pool(key, is_incomplete=len(current) != current[0]["spec"]["pool"].get("resourceSliceCount"))
        sets: list[str] = []
        for one in current:
            pool.devices += self._known[id(one)][1]
            for counter_set in one["spec"].get("sharedCounters") or ():
                sets.append(counter_set["name"])
                for name, counter in (counter_set.get("counters") or {}).items():
                    pool.counters[counter_set["name"], name] = parse_quantity(counter["value"])
        pool.devices.sort(key=_waits)
        pool.invalid = _wrong(pool, sets)
        return pool


def _same(one: Object, other: Object) -> bool:
    return one is other


def _name(one: Object) -> str:
    return str(one["metadata"]["name"])


def _generation(one: Object) -> int:
    return int(one["spec"]["pool"].get("generation") or 0)


def _waits(device: Device) -> bool:
    return bool(device.object.get("bindingConditions"))


def _rank(pool: Pool) -> tuple[bool, PoolKey]:
    return any(map(_waits, pool.devices)), pool.key


def _devices_of(one: Object) -> Iterator[Device]:
    spec = one["spec"]
    for device in spec.get("devices") or ():
        place = device if spec.get("perDeviceNodeSelection") else spec
        yield Device((spec["driver"], spec["pool"]["name"], device["name"]), device, place)


def _wrong(pool: Pool, sets: Sequence[str]) -> str:
    for group, names in (("device", [one.key[2] for one in pool.devices]), ("counter set", sets)):
        twice = next((name for name, number in Counter(names).items() if number > 1), None)
        if twice is not None:
            return f"duplicate {group} name {twice}"
    for device in pool.devices:
        for key, _ in device.counters():
            if key not in pool.counters:
                return f"counter {key[1]} of counter set {key[0]} of device {device.key[2]} is not there"
    return ""
