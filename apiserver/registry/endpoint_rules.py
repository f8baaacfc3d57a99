"""Rules of what stands behind services: Endpoints and EndpointSlices.

Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

from collections.abc import Iterator, Sequence

from apiserver.registry import names
from apiserver.registry.kind import Object, default_text, duplicate, invalid, required, too_many, unsupported
from apiserver.registry.service_rules import PROTOCOLS, address_problem
from machinery.errors import Cause

_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
_SERVICE, _SERVER = "kubernetes.io/service-name", ("default", "kubernetes")
_MAX_ENDPOINTS, _MAX_ADDRESSES, _MAX_PORTS, _MAX_ZONE_HINTS = 1000, 100, 100, 8


def default_endpoints(endpoints: Object) -> None:
    """Ports are TCP's unless they say otherwise."""
    for subset in endpoints.get("subsets") or ():
        for port in subset.get("ports") or ():
            default_text(port, "protocol", "TCP")


def endpoints_causes(endpoints: Object) -> Iterator[Cause]:
    """Yield what is wrong with the subsets of an Endpoints."""
    for index, subset in enumerate(endpoints.get("subsets") or ()):
        path = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            yield required(path, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field) or ()):
                yield from _address_causes(address, endpoints, f"{path}.{field}[{number}]")
        ports = subset.get("ports") or ()
        for number, port in enumerate(ports):
            at = f"{path}.ports[{number}]"
            if len(ports) > 1 and not port.get("name"):
                yield required(f"{at}.name")
            if not 0 < port.get("port", 0) < 65536:
                yield invalid(f"{at}.port", port.get("port", 0), "must be between 1 and 65535, inclusive")
            yield from _port_causes(port, at)


def _problem(address: str, obj: Object) -> str:
    """Return what is wrong with an address; a server without any other stands on loopback itself."""
    metadata = obj["metadata"]
    own = (metadata.get("namespace"), metadata.get("labels", {}).get(_SERVICE, metadata.get("name"))) == _SERVER
    wrong = address_problem(address)
    return "" if own and "loopback" in wrong else wrong


def _address_causes(address: Object, endpoints: Object, path: str) -> Iterator[Cause]:
    if problem := _problem(address.get("ip", ""), endpoints):
        yield invalid(f"{path}.ip", address.get("ip", ""), problem)
    if (name := address.get("hostname")) and (wrong := names.dns_label(name)):
        yield invalid(f"{path}.hostname", name, wrong)
    node = address.get("nodeName")
    if node is not None and (wrong := names.dns_subdomain(node)):
        yield invalid(f"{path}.nodeName", node, wrong)


def _port_causes(port: Object, path: str) -> Iterator[Cause]:
    if (name := port.get("name")) and (wrong := names.dns_label(name)):
        yield invalid(f"{path}.name", name, wrong)
    if port["protocol"] not in PROTOCOLS:
        yield unsupported(f"{path}.protocol", port["protocol"], PROTOCOLS)
    protocol = port.get("appProtocol")
    if protocol is not None and (wrong := names.qualified_name(protocol)):
        yield invalid(f"{path}.appProtocol", protocol, wrong)


def slice_causes(endpoint_slice: Object) -> Iterator[Cause]:
    """Yield what is wrong with an EndpointSlice."""
    kind = endpoint_slice.get("addressType", "")
    if kind and kind not in _ADDRESS_TYPES:
        yield unsupported("addressType", kind, _ADDRESS_TYPES)
    endpoints, ports = endpoint_slice.get("endpoints") or (), endpoint_slice.get("ports") or ()
    if len(endpoints) > _MAX_ENDPOINTS:
        yield too_many("endpoints", len(endpoints), _MAX_ENDPOINTS)
    else:
        for index, endpoint in enumerate(endpoints):
            yield from _endpoint_causes(endpoint, endpoint_slice, f"endpoints[{index}]")
    if len(ports) > _MAX_PORTS:
        yield too_many("ports", len(ports), _MAX_PORTS)
        return
    seen = set()
    for index, port in enumerate(ports):
        yield from _port_causes(port, f"ports[{index}]")
        if port["name"] in seen:
            yield duplicate(f"ports[{index}].name", port["name"])
        seen.add(port["name"])


def _endpoint_causes(endpoint: Object, endpoint_slice: Object, path: str) -> Iterator[Cause]:
    addresses = endpoint.get("addresses") or ()
    if not addresses:
        yield required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > _MAX_ADDRESSES:
        yield too_many(f"{path}.addresses", len(addresses), _MAX_ADDRESSES)
    for at, address in enumerate(addresses):
        if wrong := _wrong_address(address, endpoint_slice):
            yield invalid(f"{path}.addresses[{at}]", address, wrong)
    for field, rule in (("nodeName", names.dns_subdomain), ("hostname", names.dns_label)):
        text = endpoint.get(field)
        if text is not None and (wrong := rule(text)):
            yield invalid(f"{path}.{field}", text, wrong)
    yield from _zone_causes((endpoint.get("hints") or {}).get("forZones") or (), f"{path}.hints.forZones")


def _zone_causes(zones: Sequence[Object], path: str) -> Iterator[Cause]:
    if len(zones) > _MAX_ZONE_HINTS:
        yield too_many(path, len(zones), _MAX_ZONE_HINTS)
        return
    seen = set()
    for at, zone in enumerate(zones):
        name = zone.get("name", "")
        if name in seen:
            yield duplicate(f"{path}[{at}].name", name)
        elif wrong := names.label_value(name):
            yield invalid(f"{path}[{at}].name", name, wrong)
        seen.add(name)


def _wrong_address(address: str, endpoint_slice: Object) -> str | None:
    kind = endpoint_slice.get("addressType", "")
    if kind == "FQDN":
        parts = address.removesuffix(".").split(".")
        if len(parts) < 2:
            return "should be a domain with at least two segments separated by dots"
        return names.dns_subdomain(address.removesuffix("."))
    if kind not in _ADDRESS_TYPES:
        return None
    wrong = _problem(address, endpoint_slice)
    if not wrong.startswith("must") and (":" in address) != (kind == "IPv6"):
        return f"must be an {kind} address"
    return wrong or None
