"""The node's nftables rules, computed from Services and EndpointSlices; pure.

All of it is one table, written in one transaction. A service is not a chain but an entry in a map, so thousands of them
cost one look-up. Endpoints are numbered in maps by how many a service has: `numgen random mod N` picks one.
Source of the behaviour: https://kubernetes.io/docs/reference/networking/virtual-ips/
"""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_PORT_TO_TARGET = "meta l4proto . th dport : ip daddr . th dport"
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a service's traffic may go."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Port:
    """One port of one service: the addresses it is reached at, and what is behind it."""

    name: str  # namespace/name:port, for comments
    protocol: str
    addresses: tuple[str, ...]
    port: int
    node_port: int
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node that leads into a pod."""

    protocol: str
    host_ip: str
    host_port: int
    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Network:
    """What the rules are about."""

    pod_cidr: str
    service_cidr: str
    bridge: str
    ports: Sequence[Port] = field(default_factory=tuple)
    host_ports: Sequence[HostPort] = field(default_factory=tuple)


def service_ports(services: Iterable[Mapping[str, Any]], slices: Iterable[Mapping[str, Any]]) -> list[Port]:
    """Return the ports of all services that have an address, with their ready endpoints."""
    by_service: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for one in slices:
        owner = (one["metadata"].get("labels") or {}).get("kubernetes.io/service-name")
        if owner and one.get("addressType") == "IPv4":
            by_service[one["metadata"]["namespace"], owner].append(one)
    found = []
    for service in services:
        spec, metadata = service["spec"], service["metadata"]
        if spec.get("clusterIP") in (None, "", "None") or spec.get("type") == "ExternalName":
            continue
        behind = by_service[metadata["namespace"], metadata["name"]]
        addresses = (spec["clusterIP"], *(spec.get("externalIPs") or ()))
        whose = f"{metadata['namespace']}/{metadata['name']}"
        found += [_port(whose, addresses, port, behind) for port in spec.get("ports") or ()]
    return sorted(found, key=lambda one: (one.addresses, one.protocol, one.port))


def _port(whose: str, addresses: Sequence[str], port: Mapping[str, Any], slices: Sequence[Mapping[str, Any]]) -> Port:
    name = port.get("name", "")
    return Port(
        f"{whose}:{name}", _PROTOCOLS[port.get("protocol", "TCP")], tuple(one for one in addresses if ":" not in one),
        port["port"], port.get("nodePort", 0), _backends(slices, name),
    )  # fmt: skip


def _backends(slices: Sequence[Mapping[str, Any]], name: str) -> tuple[Backend, ...]:
    ready: set[Backend] = set()
    serving: set[Backend] = set()
    for one in slices:
        numbers = [port["port"] for port in one.get("ports") or () if port.get("name", "") == name and port.get("port")]
        for endpoint in one.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            found = {Backend(endpoint["addresses"][0], number) for number in numbers}
            if conditions.get("ready", True) is not False:
                ready |= found
            elif conditions.get("serving") and conditions.get("terminating"):
                serving |= found  # taken only when nothing else is left
    return tuple(sorted(ready or serving, key=lambda one: (ipaddress.ip_address(one.ip), one.port)))


def compile_rules(network: Network) -> str:
    """Return the whole table as one nft transaction; it replaces what was there."""
    groups: dict[int, list[Port]] = defaultdict(list)
    for port in network.ports:
        if port.backends:
            groups[len(port.backends)].append(port)
    table = f"ip {network.bridge}"  # named by the bridge: several clusters may share a machine
    lines = [f"add table {table}", f"delete table {table}", f"table {table} {{"]
    for size, ports in sorted(groups.items()):
        lines += _maps(size, ports)
    lines += _refused(network)
    lines += _host_ports(network)
    lines += _chains(network, sorted(groups))
    lines.append("}")
    return "\n".join(lines) + "\n"


def _maps(size: int, ports: Sequence[Port]) -> list[str]:
    """Two maps for all services with `size` endpoints: by address and port, and by node port."""
    by_address, by_node = [], []
    for port in ports:
        for number, backend in enumerate(port.backends):
            target = f"{backend.ip} . {backend.port}"
            by_address += [
                f"{number} . {address} . {port.protocol} . {port.port} : {target}" for address in port.addresses
            ]
            if port.node_port:
                by_node.append(f"{number} . {port.protocol} . {port.node_port} : {target}")
    pick = f"numgen random mod {size}"
    lines = _map(f"services-{size}", f"{pick} . ip daddr . {_PORT_TO_TARGET}", by_address)
    return lines + (_map(f"nodeports-{size}", f"{pick} . {_PORT_TO_TARGET}", by_node) if by_node else [])


def _map(name: str, kind: str, elements: Sequence[str]) -> list[str]:
    body = f"    elements = {{ {', '.join(elements)} }}" if elements else ""
    return [f"  map {name} {{", f"    typeof {kind}", *([body] if body else []), "  }"]


def _refused(network: Network) -> list[str]:
    empty = sorted(
        f"{address} . {port.protocol} . {port.port}"
        for port in network.ports
        if not port.backends
        for address in port.addresses
    )
    body = [f"    elements = {{ {', '.join(dict.fromkeys(empty))} }}"] if empty else []
    return ["  set no-endpoints {", "    type ipv4_addr . inet_proto . inet_service", *body, "  }"]


def _host_ports(network: Network) -> list[str]:
    everywhere = [one for one in network.host_ports if one.host_ip in ("", "0.0.0.0")]  # noqa: S104 - a comparison
    bound = [one for one in network.host_ports if one not in everywhere]
    first = dict.fromkeys(f"{one.protocol} . {one.host_port} : {one.ip} . {one.port}" for one in everywhere)
    second = dict.fromkeys(f"{one.host_ip} . {one.protocol} . {one.host_port} : {one.ip} . {one.port}" for one in bound)
    return _map("hostports", _PORT_TO_TARGET, list(first)) + _map(
        "hostports-bound", f"ip daddr . {_PORT_TO_TARGET}", list(second)
    )


def _chains(network: Network, sizes: Sequence[int]) -> list[str]:
    has_node_ports = {len(port.backends) for port in network.ports if port.node_port and port.backends}
    protocols = "meta l4proto { tcp, udp, sctp }"
    dispatch = []
    for size in sizes:
        pick = f"numgen random mod {size}"
        dispatch.append(f"    {protocols} dnat to {pick} . ip daddr . meta l4proto . th dport map @services-{size}")
        if size in has_node_ports:
            dispatch.append(
                f"    fib daddr type local {protocols} dnat to {pick} . meta l4proto . th dport map @nodeports-{size}"
            )
    to_host = [
        f"    {protocols} dnat to ip daddr . meta l4proto . th dport map @hostports-bound",
        f"    fib daddr type local {protocols} dnat to meta l4proto . th dport map @hostports",
    ]
    pods, bridge = network.pod_cidr, f'oifname "{network.bridge}"'
    leave = [
        # A pod that reaches itself through a service; the host, or another machine, reaching a pod through one.
        f'    ip saddr {pods} ct status dnat {bridge} iifname "{network.bridge}" masquerade',
        f"    ct status dnat {bridge} fib saddr type local masquerade",
        f"    ct status dnat {bridge} ip saddr != {pods} masquerade",
        f'    ip saddr {pods} ip daddr != {pods} oifname != "{network.bridge}" masquerade',
    ]
    hook = "    type nat hook"
    return [
        "  chain dispatch {", *dispatch, *to_host, "  }",
        "  chain prerouting {", f"{hook} prerouting priority dstnat; policy accept;", "    jump dispatch", "  }",
        "  chain output {", f"{hook} output priority -100; policy accept;", "    jump dispatch", "  }",
        "  chain postrouting {", f"{hook} postrouting priority srcnat; policy accept;", *leave, "  }",
        *_filters(network),
    ]  # fmt: skip


def _filters(network: Network) -> list[str]:
    """Refuse what is still on its way to a service address after dispatch: nobody is behind it.

    Left alone it would be lost without a word, and its connection remembered without a translation.
    """
    refuse = [
        "    ip daddr . meta l4proto . th dport @no-endpoints meta l4proto tcp reject with tcp reset",
        "    ip daddr . meta l4proto . th dport @no-endpoints reject",
        f"    ip daddr {network.service_cidr} meta l4proto tcp reject with tcp reset",
        f"    ip daddr {network.service_cidr} reject",
    ]
    return [
        "  chain forward {", "    type filter hook forward priority filter; policy accept;", *refuse, "  }",
        "  chain local {", "    type filter hook output priority filter; policy accept;", *refuse, "  }",
    ]  # fmt: skip
