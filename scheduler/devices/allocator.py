"""Giving devices to claims: a search that goes back where a choice leads nowhere, and takes the first way that works.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from machinery.api.placement import untolerated
from machinery.api.quantity import parse_quantity
from scheduler.devices.capacity import Amounts, needed
from scheduler.devices.pools import CounterKey, Device, DeviceKey, Pool, PoolKey, Taken

Object = Mapping[str, Any]
Matches = Callable[[Device, str], bool]
"""Whether a device meets a CEL expression. Raises: ValueError when that can't be said."""
Rule = tuple[str, str]
"""A CEL expression, and whose it is."""

MAX_RESULTS = 32
"""So many devices a claim can have."""
MAX_STEPS, MAX_ALL_STEPS = 10_000, 30_000
"""So many choices are tried for one node, and for all: a search could last for ever, and everybody waits meanwhile."""


class AllocationError(Exception):
    """Something is wrong with a claim or a class, whatever the node; users read the text."""


class TooHard(Exception):
    """The search was given up."""


@dataclass(slots=True, eq=False)
class Part:
    """A request, or one of the alternatives of a request."""

    name: str
    """As in results: an alternative bears its request's name before a slash."""
    request: str
    place: int
    """Which of the alternatives it is."""
    object: Object
    device_class: Object
    rules: Sequence[Rule]
    count: int = 1
    suited: list[Device] = field(default_factory=list)
    """Those that match, on the node at hand."""

    @property
    def is_admin(self) -> bool:
        """Whether it asks to look at devices that others have."""
        return bool(self.object.get("adminAccess"))

    @property
    def wants_all(self) -> bool:
        """Whether it asks for all devices that match."""
        return self.object.get("allocationMode") == "All"

    def tolerates(self, device: Device) -> bool:
        """Say whether the device's taints are no hindrance."""
        taints = device.object.get("taints") or ()
        return not taints or untolerated(taints, self.object.get("tolerations") or (), _HINDERING) is None


_HINDERING = ("NoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True)
class Choice:
    """A device for a request, and what it takes of its capacities where it is shared."""

    part: Part
    device: Device
    consumed: Amounts


class Allocator:
    """Gives devices to claims, node by node."""

    def __init__(
        self,
        classes: Callable[[str], Object | None],
        matches: Matches,
        taken: Taken,
        pools: Sequence[Pool],
    ) -> None:
        """Args: `classes` looks DeviceClasses up; `taken` is what others have; `pools` are all there are."""
        self._classes, self._matches = classes, matches
        self.taken = taken
        self._pools = {pool.key: pool for pool in pools}
        self._plans: dict[int, tuple[Object, list[list[Part]]]] = {}  # by id of claim, which is kept with it
        self._steps_left = MAX_ALL_STEPS
        self._left: dict[PoolKey, dict[CounterKey, Decimal]] = {}

    def allocate(self, claims: Sequence[Object], devices: Sequence[Device]) -> list[list[Choice]] | None:
        """Return what each claim gets of devices that can be reached; None when they can't all have theirs.

        Raises: AllocationError, TooHard.
        """
        here = {device.pool for device in devices}
        usable = [one for one in devices if self._pools[one.pool].is_usable]
        plans = []
        for claim in claims:
            plan = self._plan(claim)
            for part in (part for parts in plan for part in parts):
                self._look_for(claim, part, usable, here)
            least = sum(min(part.count for part in parts) for parts in plan)
            if least > MAX_RESULTS:
                text = f"number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}"
                raise AllocationError(f"claim {_name_of(claim)}: {text}")
            plans.append(_Plan(plan, (claim["spec"].get("devices") or {}).get("constraints") or ()))
        search = _Search(plans, self.taken, self.left, min(MAX_STEPS, self._steps_left))
        try:
            return search.results if search.from_request(0, 0) else None
        finally:
            # Easy searches, one for each node, cost nothing: else the last of many nodes would have none left.
            self._steps_left -= search.steps if search.steps > MAX_STEPS // 10 else 0

    def left(self, pool: PoolKey) -> dict[CounterKey, Decimal]:
        """Return what is left of a pool's counters; less than nothing where a driver changed them in use."""
        found = self._left.get(pool)
        if found is None:
            found = self._left[pool] = dict(self._pools[pool].counters)
            for device in self._pools[pool].devices:
                for key, amount in device.counters() if self.taken.has(device.key) else ():
                    found[key] = found.get(key, Decimal(0)) - amount
        return found

    def _plan(self, claim: Object) -> list[list[Part]]:
        """Return a claim's requests, each as its alternatives: the same for all nodes but for what is suited."""
        known = self._plans.get(id(claim))
        if known is None:
            plan = [
                [self._part(claim, request, *one) for one in enumerate(_alternatives(request))]
                for request in _requests(claim)
            ]
            known = self._plans[id(claim)] = (claim, plan)
        return known[1]

    def _part(self, claim: Object, request: Object, place: int, way: tuple[str, Object]) -> Part:
        name, wish = way
        device_class = self._classes(wish["deviceClassName"])
        if device_class is None:
            text = f"could not retrieve device class {wish['deviceClassName']}"
            raise AllocationError(f"claim {_name_of(claim)}, request {name}: {text}")
        rules = [
            *_rules(f"class {device_class['metadata']['name']}", (device_class.get("spec") or {}).get("selectors")),
            *_rules(f"claim {_name_of(claim)}", wish.get("selectors")),
        ]
        return Part(name, request["name"], place, wish, device_class, rules, int(wish.get("count") or 1))

    def _look_for(self, claim: Object, part: Part, usable: Sequence[Device], here: set[PoolKey]) -> None:
        """Find the devices that match a request, among those that can be reached."""
        part.suited = [one for one in usable if self._suits(one, part.rules)]
        if part.wants_all:
            self._check_all(claim, part, here)
            part.suited = [one for one in part.suited if self._has_room(one, part)]
            part.count = len(part.suited)

    def _check_all(self, claim: Object, part: Part, here: set[PoolKey]) -> None:
        """All devices of a pool are known only once all of its slices are there."""
        for key in sorted(here):
            pool = self._pools[key]
            if not pool.is_usable:
                state = "being updated" if pool.is_incomplete else "invalid"
                text = f"asks for all devices, but resource pool {'/'.join(key)} is currently {state}"
                raise AllocationError(f"claim {_name_of(claim)}, request {part.name.rpartition('/')[2]}: {text}")

    def _has_room(self, device: Device, part: Part) -> bool:
        consumed = needed(part.object.get("capacity"), device)
        return consumed is not None and _fits(device, consumed, self.taken.shares.get(device.key) or {})

    def _suits(self, device: Device, rules: Sequence[Rule]) -> bool:
        for expression, whose in rules:
            known = device.matched.get(expression)
            if not (self._meets(device, expression, whose) if known is None else known):
                return False
        return True

    def _meets(self, device: Device, expression: str, whose: str) -> bool:
        try:
            return self._matches(device, expression)
        except ValueError as error:
            text = f"{whose} on device {'/'.join(device.key)}: CEL runtime error: {error}"
            raise AllocationError(text) from error


def _rules(whose: str, selectors: Sequence[Object] | None) -> list[Rule]:
    return [(one["cel"]["expression"], f"{whose}: selector #{at}") for at, one in enumerate(selectors or ())]


@dataclass(frozen=True, slots=True)
class _Plan:
    requests: Sequence[Sequence[Part]]
    constraints: Sequence[Object]


class _Search:
    """One search: what has been chosen so far, and what that takes."""

    def __init__(
        self,
        plans: Sequence[_Plan],
        taken: Taken,
        left: Callable[[PoolKey], Mapping[CounterKey, Decimal]],
        max_steps: int,
    ) -> None:
        self._plans, self._taken, self._left, self._max_steps = plans, taken, left, max_steps
        self.results: list[list[Choice]] = [[] for _ in plans]
        self._users: dict[DeviceKey, list[int]] = {}
        """By which claims devices are used that are not shared."""
        self._shares: dict[DeviceKey, list[Amounts]] = {}
        self._counters: dict[tuple[PoolKey, CounterKey], Decimal] = {}
        self.steps = 0

    def from_request(self, claim: int, request: int) -> bool:
        """Serve the requests from here on."""
        if claim == len(self._plans):
            return True
        requests = self._plans[claim].requests
        if request == len(requests):
            return self.from_request(claim + 1, 0)
        for part in requests[request]:
            if len(self.results[claim]) + part.count > MAX_RESULTS or not part.count:
                continue
            if self._from_device((claim, request), part, part.count, 0):
                return True
        return False

    def _from_device(self, at: tuple[int, int], part: Part, missing: int, start: int) -> bool:
        """Choose so many more of the devices from `start` on, and go on from there."""
        if not missing:
            return self.from_request(at[0], at[1] + 1)
        last = start + 1 if part.wants_all else len(part.suited) - missing + 1
        for place in range(start, last):
            self.steps += 1
            if self.steps > self._max_steps:
                raise TooHard
            choice = self._choose(at[0], part, part.suited[place])
            if choice is None:
                continue
            self._enter(at[0], choice)
            if self._from_device(at, part, missing - 1, place + 1):
                return True
            self._take_back(at[0], choice)
        return False

    def _choose(self, claim: int, part: Part, device: Device) -> Choice | None:
        """Return what a device would be for a request; None when it can't have it."""
        users = self._users.get(device.key, ())
        in_use = claim in users if part.is_admin else bool(users) or device.key in self._taken.devices
        if in_use:
            return None
        if not part.tolerates(device):
            return None
        consumed = needed(part.object.get("capacity"), device)
        if consumed is None or not (part.is_admin or self._has_room(device, consumed)):
            return None
        if not part.is_admin and not self._has_counters(device):
            return None
        chosen = self.results[claim]
        if not all(_agrees(one, chosen, part, device) for one in self._plans[claim].constraints):
            return None
        return Choice(part, device, consumed if device.is_shared and not part.is_admin else {})

    def _has_room(self, device: Device, consumed: Amounts) -> bool:
        before = self._taken.shares.get(device.key)
        if not device.is_shared:
            return before is None and _fits(device, consumed, {})
        used = dict(before or {})
        for share in self._shares.get(device.key, ()):
            _add(used, device, share)
        return _fits(device, consumed, used)

    def _takes_counters(self, device: Device) -> bool:
        """Say whether a device would be used for the first time: its shares take nothing more of what it shares."""
        return not (device.is_shared and (self._shares.get(device.key) or device.key in self._taken.shares))

    def _has_counters(self, device: Device) -> bool:
        if not self._takes_counters(device):
            return True
        pool = device.pool
        return all(
            self._left(pool)[key] - self._counters.get((pool, key), Decimal(0)) >= amount
            for key, amount in device.counters()
        )

    def _enter(self, claim: int, choice: Choice) -> None:
        device = choice.device
        self.results[claim].append(choice)
        if not choice.part.is_admin:
            self._count(device, 1)
        if not device.is_shared:
            self._users.setdefault(device.key, []).append(claim)
        elif not choice.part.is_admin:
            self._shares.setdefault(device.key, []).append(choice.consumed)

    def _take_back(self, claim: int, choice: Choice) -> None:
        device = choice.device
        self.results[claim].pop()
        if not device.is_shared:
            self._users[device.key].remove(claim)
        elif not choice.part.is_admin:
            self._shares[device.key].pop()
        if not choice.part.is_admin:
            self._count(device, -1)

    def _count(self, device: Device, sign: int) -> None:
        if self._takes_counters(device):
            for key, amount in device.counters():
                at = (device.pool, key)
                self._counters[at] = self._counters.get(at, Decimal(0)) + sign * amount


def _fits(device: Device, consumed: Amounts, used: Mapping[str, Decimal]) -> bool:
    return all(
        used.get(_own(device, name), Decimal(0)) + amount
        <= parse_quantity((device.object.get("capacity") or {})[name]["value"])
        for name, (amount, _) in consumed.items()
    )


def _add(used: dict[str, Decimal], device: Device, share: Amounts) -> None:
    for name, (amount, _) in share.items():
        own = _own(device, name)
        used[own] = used.get(own, Decimal(0)) + amount


def _own(device: Device, name: str) -> str:
    return name.removeprefix(f"{device.key[0]}/")


def _name_of(claim: Object) -> str:
    return f"{claim['metadata'].get('namespace', '')}/{claim['metadata'].get('name', '')}"


def _requests(claim: Object) -> Sequence[Object]:
    return (claim["spec"].get("devices") or {}).get("requests") or ()


def _alternatives(request: Object) -> Iterator[tuple[str, Object]]:
    for one in request.get("firstAvailable") or ():
        yield f"{request['name']}/{one['name']}", one
    if (exactly := request.get("exactly")) is not None:
        yield request["name"], exactly


def _agrees(constraint: Object, chosen: Sequence[Choice], part: Part, device: Device) -> bool:
    """Say whether a device goes with those that were chosen before, as far as a constraint is about them."""
    names = constraint.get("requests") or ()

    def concerns(one: Part) -> bool:
        return not names or one.name in names or one.request in names

    attribute = constraint.get("matchAttribute") or constraint.get("distinctAttribute")
    if attribute is None or not concerns(part):
        return True
    value = device.attribute(attribute)
    if value is None:
        return False
    others = (one.device.attribute(attribute) for one in chosen if concerns(one.part))
    if constraint.get("matchAttribute"):
        return all(other == value for other in others)
    return all(other != value for other in others)
