"""Cluster IPs and node ports: each is given to one service at a time.

What is taken is read from the services themselves, so nothing is lost or leaked by a restart.
Source: https://kubernetes.io/docs/reference/networking/virtual-ips/
"""

import ipaddress
import random

from apiserver.admission.service_ranges import SINGLE, ServiceRanges, asked_addresses, choose_families
from apiserver.registry.kind import Object, invalid
from apiserver.registry.service_rules import is_external
from apiserver.storage.watch_cache import WatchCache
from machinery import errors

NODE_PORTS = range(30000, 32768)
_TRIES = 4096


class ServiceAllocator:
    """Gives out addresses; those given to services not yet in the cache are remembered beside it."""

    def __init__(self, cache: WatchCache, service_cidr: str) -> None:
        self._cache = cache
        self._ranges = ServiceRanges(cache, service_cidr)
        self._seen_generation = -1
        self._taken_addresses: set[str] = set()
        self._taken_ports: set[int] = set()
        self._random = random.Random()  # noqa: S311 - spreads addresses, guards nothing

    def allocate(self, service: Object) -> None:
        """Give a new service what its type needs. Raises: Invalid when it asks for what is taken or out of range."""
        self._refresh()
        spec = service["spec"]
        if spec["type"] != "ExternalName":
            self._give_address(service)
        if spec["type"] in ("NodePort", "LoadBalancer"):
            self._give_ports(service)
        self._give_health_port(service)
        service["status"] = {"loadBalancer": {}}

    def reallocate(self, new: Object, old: Object) -> None:
        """Keep a service's address over an update, and follow a change of its type. Raises: Invalid."""
        self._refresh()
        spec, before = new["spec"], old["spec"]
        _leave_behind(spec, before)
        if spec["type"] == "ExternalName":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"):
                spec.pop(field, None)
            self._keep_ports(new, before)
            self._let_go(before, spec)
            return
        self._keep_address(new, before)
        self._keep_ports(new, before)
        if _asks_health(spec) and not spec.get("healthCheckNodePort") and before.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = before["healthCheckNodePort"]
        self._give_health_port(new, own=before.get("healthCheckNodePort"))
        self._let_go(before, spec)

    def _let_go(self, before: Object, after: Object) -> None:
        """Free what an update gives up. Should the update fail, the next look at the services takes it again."""
        self._taken_ports -= set(_node_ports(before)) - set(_node_ports(after))
        self._taken_addresses -= set(asked_addresses(before)) - set(asked_addresses(after))
        self._seen_generation = -1

    def _keep_address(self, new: Object, before: Object) -> None:
        spec = new["spec"]
        if not before.get("clusterIP"):
            self._give_address(new)
            return
        if spec.get("clusterIP") not in (None, "", before["clusterIP"]):
            raise _invalid(new, "spec.clusterIPs[0]", [spec["clusterIP"]], "may not change once set")
        held = asked_addresses(before)
        policy, families = spec.get("ipFamilyPolicy") or before.get("ipFamilyPolicy"), before.get("ipFamilies") or []
        spec["clusterIP"], spec["clusterIPs"] = held[0], held
        spec["ipFamilies"], spec["ipFamilyPolicy"] = families, policy
        if policy == before.get("ipFamilyPolicy"):
            return
        if policy == SINGLE:
            spec["clusterIPs"], spec["ipFamilies"] = held[:1], families[:1]
            return
        spec["ipFamilies"], _ = choose_families(new, held, self._ranges)
        if held[0] != "None":
            added = [self._take(new, family, "") for family in spec["ipFamilies"][len(held) :]]
            spec["clusterIPs"] = [*held, *added]

    def _keep_ports(self, new: Object, before: Object) -> None:
        ports = new["spec"].get("ports") or ()
        if new["spec"]["type"] not in ("NodePort", "LoadBalancer"):
            return
        kept = {(port.get("protocol"), port["port"]): port.get("nodePort") for port in before.get("ports") or ()}
        for port in ports:
            number = port.get("nodePort") or kept.get((port.get("protocol"), port["port"]))
            if number:
                port["nodePort"] = number
        self._give_ports(new, own={number for number in kept.values() if number})

    def release(self, service: Object) -> None:
        """Take back what a deleted service held."""
        self._taken_addresses -= set(asked_addresses(service["spec"]))
        self._taken_ports -= set(_node_ports(service["spec"]))

    def _refresh(self) -> None:
        collection = self._cache.collection("services")
        if collection.generation == self._seen_generation:
            return
        self._seen_generation = collection.generation
        for entry in collection.entries("/registry/services/"):
            spec = entry.object()["spec"]
            self._taken_addresses.update(asked_addresses(spec))
            self._taken_ports |= set(_node_ports(spec))

    def _give_address(self, service: Object) -> None:
        spec = service["spec"]
        asked = asked_addresses(spec)
        families, policy = choose_families(service, asked, self._ranges)
        if asked[:1] == ["None"]:
            found = ["None"]
        else:
            pairs = zip(families, [*asked, "", ""], strict=False)
            found = [self._take(service, family, address) for family, address in pairs]
        spec["clusterIP"], spec["clusterIPs"] = found[0], found
        spec["ipFamilies"], spec["ipFamilyPolicy"] = families, policy

    def _take(self, service: Object, family: str, asked: str) -> str:
        """Give an address of an IP version, the one asked for if any."""
        address = self._checked(service, family, asked) if asked else self._free_address(family)
        self._taken_addresses.add(address)
        return address

    def _checked(self, service: Object, family: str, address: str) -> str:
        path = "spec.clusterIPs"
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError as error:
            rule = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            raise _invalid(service, f"{path}[0]", address, rule) from error
        if not any(parsed in one for one in self._ranges.of(family)):
            why = f"failed to allocate IP {address}: the provided network does not match the current range"
            raise _invalid(service, path, [address], why)
        if address in self._taken_addresses:
            why = f"failed to allocate IP {address}: provided IP is already allocated"
            raise _invalid(service, path, [address], why)
        return address

    def _free_address(self, family: str) -> str:
        for network in self._ranges.of(family):
            # Of an IPv6 range the first 2**64 addresses are enough to draw from.
            size = min(network.num_addresses, 2**64)
            for _ in range(_TRIES):
                address = str(network[self._random.randrange(2, max(size - 1, 3))])
                if address not in self._taken_addresses:
                    return address
        raise errors.InternalError("failed to allocate a serviceIP: range is full")

    def _give_ports(self, service: Object, own: set[int] | None = None) -> None:
        if service["spec"].get("allocateLoadBalancerNodePorts") is False:
            return
        held: dict[int, set[str]] = {}  # one number may serve several protocols of a service
        for index, port in enumerate(service["spec"].get("ports") or ()):
            number, protocol = port.get("nodePort"), port.get("protocol", "TCP")
            path = f"spec.ports[{index}].nodePort"
            if number and number not in NODE_PORTS:
                valid = f"{NODE_PORTS[0]}-{NODE_PORTS[-1]}"
                why = f"provided port is not in the valid range. The range of valid ports is {valid}"
                raise _invalid(service, path, number, why)
            is_shared = bool(number) and number in held and protocol not in held[number]
            is_own = bool(number) and number not in held and number in (own or ())
            if number and number in self._taken_ports and not (is_shared or is_own):
                raise _invalid(service, path, number, "provided port is already allocated")
            if not number:
                number = port["nodePort"] = self._free_port(service, path)
            held.setdefault(number, set()).add(protocol)
            self._taken_ports.add(number)

    def _give_health_port(self, service: Object, own: int | None = None) -> None:
        """Give the port at which load balancers ask a node for endpoints, when traffic must stay on the node."""
        spec, path = service["spec"], "spec.healthCheckNodePort"
        if not _asks_health(spec):
            return
        number = spec.get("healthCheckNodePort")
        if number and number != own and number in self._taken_ports:
            raise _invalid(service, path, number, "provided port is already allocated")
        spec["healthCheckNodePort"] = number or self._free_port(service, path)
        self._taken_ports.add(spec["healthCheckNodePort"])

    def _free_port(self, service: Object, path: str) -> int:
        free = [number for number in NODE_PORTS if number not in self._taken_ports]
        if not free:
            raise _invalid(service, path, 0, "failed to allocate a nodePort: range is full")
        return self._random.choice(free)


def _asks_health(spec: Object) -> bool:
    """Whether load balancers ask nodes for a service's endpoints, because its traffic must stay on the node."""
    return spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _leave_behind(spec: Object, before: Object) -> None:
    """Drop what a service had for its former type alone, unless an update changes it: that is judged later."""
    if is_external(before) and not is_external(spec):
        _drop_unchanged(spec, before, "externalTrafficPolicy")
    if _asks_health(before) and not _asks_health(spec):
        _drop_unchanged(spec, before, "healthCheckNodePort")
    if before["type"] == "LoadBalancer" and spec["type"] != "LoadBalancer":
        _drop_unchanged(spec, before, "allocateLoadBalancerNodePorts", "loadBalancerClass")
    has_ports = ("NodePort", "LoadBalancer")
    if before["type"] in has_ports and spec["type"] not in has_ports:
        held = _node_ports(before)
        for port in spec.get("ports") or ():
            if port.get("nodePort") in held:
                del port["nodePort"]


def _drop_unchanged(spec: Object, before: Object, *fields: str) -> None:
    for field in fields:
        if spec.get(field) == before.get(field):
            spec.pop(field, None)


def _node_ports(spec: Object) -> list[int]:
    """All ports of nodes that a service holds."""
    found = [port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")]
    return found + ([spec["healthCheckNodePort"]] if spec.get("healthCheckNodePort") else [])


def _invalid(service: Object, path: str, value: object, why: str) -> errors.Invalid:
    name = service["metadata"].get("name", "")
    cause = invalid(path, value, why)
    return errors.Invalid(
        f'Service "{name}" is invalid: {path}: {cause.message}', kind="Service", name=name, causes=[cause]
    )
