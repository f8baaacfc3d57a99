"""What Services ask of a node's network: from Services and EndpointSlices to routes; pure.

A route is one address, protocol and port, and the endpoints its connections are given to. Which endpoints those are is
kube-proxy's rule. Sources: https://kubernetes.io/docs/reference/networking/virtual-ips/,
https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
SERVICE_LABEL = "kubernetes.io/service-name"
# Services that bear one of these are another proxy's, or nobody's.
FOREIGN_LABELS = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")
AFFINITY_SECONDS = 10800
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


@dataclass(frozen=True, slots=True)
class Frontend:
    """Where connections come in; an empty address is any of the node's own."""

    address: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Backend:
    """Where connections go."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Affinity:
    """Clients keep their endpoint: under which name, and for how long after their last connection."""

    name: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Route:
    """The endpoints of one frontend.

    Attributes:
        backends: for clients in the cluster, and for all when `outside` is None.
        outside: for clients outside the cluster, who then keep their source address.
        has_any: whether there is an endpoint somewhere: without, connections are refused, else lost.
        sources: address ranges that may connect; empty for all.
    """

    frontend: Frontend
    backends: tuple[Backend, ...]
    outside: tuple[Backend, ...] | None = None
    has_any: bool = True
    affinity: Affinity | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where this node is."""

    node: str
    zone: str = ""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    ip: str
    port: int
    node: str
    ready: bool
    serving: bool
    terminating: bool
    zones: tuple[str, ...]
    nodes: tuple[str, ...]


def is_ours(obj: Object) -> bool:
    """Say whether a Service or EndpointSlice is for this proxy."""
    labels = obj["metadata"].get("labels") or {}
    return not any(label in labels for label in FOREIGN_LABELS)


def routes_of(service: Object, slices: Sequence[Object], place: Place, family: int) -> list[Route]:
    """Return the routes of one Service.

    Args:
        service: the Service.
        slices: its EndpointSlices, of all families.
        place: this node's.
        family: 4 or 6; addresses of the other are left out.
    """
    spec = service["spec"]
    if not is_ours(service) or spec.get("type") == "ExternalName" or spec.get("clusterIP") in (None, "", "None"):
        return []
    kind = f"IPv{family}"
    endpoints = [one for one in slices if one.get("addressType") == kind and is_ours(one)]
    found: list[Route] = []
    for port in spec.get("ports") or ():
        found += _port_routes(service, port, list(_endpoints(endpoints, port.get("name", ""))), place, family)
    return found


def _port_routes(
    service: Object, port: Mapping[str, Any], endpoints: Sequence[_Endpoint], place: Place, family: int
) -> Iterator[Route]:
    spec = service["spec"]
    protocol = _PROTOCOLS[port.get("protocol", "TCP")]
    everywhere, here = _chosen(endpoints, place), _usable([one for one in endpoints if one.node == place.node])
    affinity = _affinity(service, port, protocol)
    inner = here if spec.get("internalTrafficPolicy") == "Local" else everywhere
    outside = here if spec.get("externalTrafficPolicy") == "Local" else None
    has_any = bool(everywhere)
    for address in _family(spec.get("clusterIPs") or (spec["clusterIP"],), family):
        yield Route(Frontend(address, protocol, port["port"]), inner, None, has_any, affinity)
    for address in _family(spec.get("externalIPs") or (), family):
        yield Route(Frontend(address, protocol, port["port"]), everywhere, outside, has_any, affinity)
    sources = _ranges(_family(spec.get("loadBalancerSourceRanges") or (), family))
    for address in _family(balancer_addresses(service), family):
        yield Route(Frontend(address, protocol, port["port"]), everywhere, outside, has_any, affinity, sources)
    if number := port.get("nodePort"):
        yield Route(Frontend("", protocol, number), everywhere, outside, has_any, affinity)


def balancer_addresses(service: Object) -> list[str]:
    """Return the addresses of a load balancer that delivers to the address itself."""
    if service["spec"].get("type") != "LoadBalancer":
        return []
    rows = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [row["ip"] for row in rows if row.get("ip") and row.get("ipMode", "VIP") == "VIP"]


def _affinity(service: Object, port: Mapping[str, Any], protocol: str) -> Affinity | None:
    spec, metadata = service["spec"], service["metadata"]
    if spec.get("sessionAffinity") != "ClientIP":
        return None
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    name = f"{metadata['namespace']}/{metadata['name']}:{port.get('name', '')}/{protocol}"
    return Affinity(name, config.get("timeoutSeconds") or AFFINITY_SECONDS)


def _family(texts: Iterable[str], family: int) -> list[str]:
    return [text for text in dict.fromkeys(texts) if (":" in text) == (family == 6)]


def _ranges(texts: Iterable[str]) -> tuple[str, ...]:
    """Address ranges without overlaps: a set of the kernel takes none."""
    found = [ipaddress.ip_network(text.strip(), strict=False) for text in texts]
    return tuple(map(str, ipaddress.collapse_addresses(found)))  # type: ignore[type-var] # they are of one family


def _endpoints(slices: Sequence[Object], name: str) -> Iterator[_Endpoint]:
    for one in slices:
        named = [port for port in one.get("ports") or () if (port.get("name") or "") == name]
        numbers = [port["port"] for port in named if port.get("port")]
        for endpoint in one.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            ready = conditions.get("ready") is not False
            hints = endpoint.get("hints") or {}
            for number in numbers:
                yield _Endpoint(
                    endpoint["addresses"][0], number, endpoint.get("nodeName") or "", ready,
                    ready if conditions.get("serving") is None else conditions["serving"],
                    bool(conditions.get("terminating")),
                    tuple(zone["name"] for zone in hints.get("forZones") or ()),
                    tuple(node["name"] for node in hints.get("forNodes") or ()),
                )  # fmt: skip


def _chosen(endpoints: Sequence[_Endpoint], place: Place) -> tuple[Backend, ...]:
    """The endpoints for policy Cluster: near ones if hints say so, else all that are usable."""
    ready = [one for one in endpoints if one.ready]
    near = [one for one in ready if place.node in one.nodes] if ready and all(one.nodes for one in ready) else []
    if not near and place.zone and ready and all(one.zones for one in ready):
        near = [one for one in ready if place.zone in one.zones]
    return _backends(near) if near else _usable(endpoints)


def _usable(endpoints: Sequence[_Endpoint]) -> tuple[Backend, ...]:
    """Ready ones, or those that still serve while they end when no other is left."""
    ready = [one for one in endpoints if one.ready]
    return _backends(ready or [one for one in endpoints if one.serving and one.terminating])


def _backends(endpoints: Iterable[_Endpoint]) -> tuple[Backend, ...]:
    found = {Backend(one.ip, one.port) for one in endpoints}
    return tuple(sorted(found, key=lambda one: (ipaddress.ip_address(one.ip), one.port)))


def local_count(slices: Iterable[Object], node: str) -> int:
    """Return how many ready endpoints a Service has on a node; what a load balancer's health check asks for."""
    found = {
        endpoint["addresses"][0]
        for one in slices
        for endpoint in one.get("endpoints") or ()
        if endpoint.get("nodeName") == node and (endpoint.get("conditions") or {}).get("ready") is not False
    }
    return len(found)


def host_port_routes(pod: Object, ip: str) -> Iterator[Route]:
    """Yield the routes of a pod's host ports to its address `ip`."""
    spec = pod["spec"]
    if not ip or spec.get("hostNetwork"):
        return
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        for port in container.get("ports") or ():
            if not port.get("hostPort"):
                continue
            host_ip = port.get("hostIP") or ""
            if host_ip and host_ip not in ("0.0.0.0", "::") and (":" in host_ip) != (":" in ip):  # noqa: S104
                continue
            address = "" if host_ip in ("0.0.0.0", "::") else host_ip  # noqa: S104 - a comparison
            frontend = Frontend(address, _PROTOCOLS[port.get("protocol", "TCP")], port["hostPort"])
            yield Route(frontend, (Backend(ip, port["containerPort"]),))
