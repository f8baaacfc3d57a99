"""What a name in the cluster's domain stands for. Pure, but for the informers it reads.

Specification: https://github.com/kubernetes/dns/blob/master/docs/specification.md (1.1.0)
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clusterdns.views import Endpoint, EndpointSlice, Service
from machinery.api.meta import ObjectKey
from machinery.client.informer import Informer

VERSION = "1.1.0"
A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 255
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
Labels = Sequence[str]


class Record(NamedTuple):
    """One resource record; `data` is an address, a name, or for SRV (port, name). `name` "" is the name asked for."""

    name: str
    type: int
    data: str | tuple[int, str]


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a question: records, or that there are none of this type (NOERROR) or no such name."""

    code: int = NOERROR
    records: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = field(default_factory=tuple)


_NO_DATA = Found()
_NO_NAME = Found(NXDOMAIN)


class Zone:
    """Answers from what the informers hold now."""

    def __init__(
        self, domain: str, services: Informer[Service], slices: Informer[EndpointSlice], own_address: str
    ) -> None:
        """Args: `own_address` is where clients find this server."""
        self.domain = tuple(domain.strip(".").lower().split("."))
        self._services = services
        self._slices = slices
        self._own_address = own_address
        services.add_index("address", lambda one: one.spec.addresses)
        slices.add_index("service", lambda one: [one.service])
        slices.add_index("address", lambda one: {ip for endpoint in one.endpoints or () for ip in endpoint.addresses})

    def find(self, labels: Labels, kind: int) -> Found | None:
        """Return the answer for a name in lower case, None when it is not of this zone."""
        size = len(self.domain)
        if tuple(labels[-size:]) == self.domain:
            return self._inside(labels[:-size], kind)
        if labels[-1:] == ["arpa"] and (address := reverse_address(labels)):
            names = sorted(self._names_of(address))
            if names:
                return _of_type((Record("", PTR, name) for name in names), kind)
        return None

    def _inside(self, labels: Labels, kind: int) -> Found:
        match labels:
            case []:
                return _of_type([Record("", NS, self._name("ns", "dns"))], kind)
            case ["dns-version"]:
                return _of_type([Record("", TXT, VERSION)], kind)
            case ["ns", "dns"]:
                return _of_type(_addresses("", [self._own_address]), kind)
            case [("svc" | "pod" | "dns")]:
                return _NO_DATA
            case [*rest, "svc"]:
                return self._service(rest, kind)
            case [*rest, "pod"]:
                return self._pod(rest, kind)
        return _NO_NAME

    def _name(self, *labels: str) -> str:
        return ".".join((*labels, *self.domain)) + "."

    # ---- services

    def _service(self, labels: Labels, kind: int) -> Found:
        *below, name, namespace = labels if len(labels) > 1 else ("", *labels)
        if not name:
            return _NO_DATA if self._services.list(namespace) else _NO_NAME
        service = self._services.get(ObjectKey(namespace, name))
        if service is None:
            return _NO_NAME
        if service.spec.type == "ExternalName":
            target = service.spec.externalName.rstrip(".") + "."
            return _NO_NAME if below else Found(NOERROR, (Record("", CNAME, target),))
        match below:
            case []:
                return self._whole(service, kind)
            case [label] if not label.startswith("_"):
                return self._endpoint(service, label, kind)
            case [protocol] if protocol in ("_tcp", "_udp", "_sctp"):
                return _NO_DATA
            case [port, protocol] if port.startswith("_") and protocol.startswith("_"):
                return self._ports(service, port[1:], protocol[1:])
        return _NO_NAME

    def _whole(self, service: Service, kind: int) -> Found:
        if kind == SRV:
            found = [self._ports(service, port.name or "", port.protocol.lower()) for port in service.spec.ports]
            records = dict.fromkeys(record for one in found for record in one.records)
            additional = dict.fromkeys(record for one in found for record in one.additional)
            return Found(NOERROR, tuple(records), tuple(additional))
        addresses = service.spec.addresses or [ip for one in self._ready(service) for ip in one.addresses[:1]]
        return _of_type(_addresses("", addresses), kind)

    def _ready(self, service: Service) -> Iterator[Endpoint]:
        """A Service's endpoints that take connections, each address once."""
        seen = set()
        for one in self._slices_of(service):
            for endpoint in one.ready:
                if endpoint.addresses[0] not in seen:
                    seen.add(endpoint.addresses[0])
                    yield endpoint

    def _slices_of(self, service: Service) -> list[EndpointSlice]:
        return self._slices.by_index("service", f"{service.metadata.namespace}/{service.metadata.name}")

    def _endpoint(self, service: Service, label: str, kind: int) -> Found:
        addresses = [one.addresses[0] for one in self._ready(service) if one.label == label]
        return _of_type(_addresses("", addresses), kind) if addresses else _NO_NAME

    def _ports(self, service: Service, port_name: str, protocol: str) -> Found:
        """SRV records: of a Service with an address one, of a headless one an endpoint each."""
        base = (service.metadata.name, service.metadata.namespace, "svc")
        if service.spec.addresses:
            numbers = [
                one.port for one in service.spec.ports
                if (one.name or "").lower() == port_name and one.protocol.lower() == protocol and one.port
            ]  # fmt: skip
            target = self._name(*base)
            records = tuple(Record("", SRV, (number, target)) for number in numbers)
            return Found(NOERROR, records, _addresses(target, service.spec.addresses)) if records else _NO_NAME
        found: dict[Record, None] = {}
        additional: dict[Record, None] = {}
        for one in self._slices_of(service):
            ports = [port for port in one.ports or () if (port.name or "").lower() == port_name]
            numbers = [port.port for port in ports if port.protocol.lower() == protocol and port.port]
            for endpoint in one.ready if numbers else ():
                target = self._name(endpoint.label, *base)
                found.update(dict.fromkeys(Record("", SRV, (number, target)) for number in numbers))
                additional.update(dict.fromkeys(_addresses(target, endpoint.addresses[:1])))
        return Found(NOERROR, tuple(found), tuple(additional)) if found else _NO_NAME

    # ---- pods and addresses

    def _pod(self, labels: Labels, kind: int) -> Found:
        """A pod by its address: 10-244-0-5.default.pod. As CoreDNS' "insecure" mode, it is not looked for."""
        if len(labels) == 1:
            return _NO_DATA if self._services.list(labels[0]) else _NO_NAME
        if len(labels) != 2:
            return _NO_NAME
        text = labels[0]
        for candidate in (text.replace("-", "."), text.replace("-", ":")):
            try:
                address = str(ipaddress.ip_address(candidate))
            except ValueError:
                continue
            return _of_type(_addresses("", [address]), kind)
        return _NO_NAME

    def _names_of(self, address: str) -> Iterator[str]:
        for service in self._services.by_index("address", address):
            yield self._name(service.metadata.name, service.metadata.namespace, "svc")
        for one in self._slices.by_index("address", address):
            namespace, _, name = one.service.partition("/")
            service_found = self._services.get(ObjectKey(namespace, name))
            if service_found is None or service_found.spec.addresses:
                continue  # the names of endpoints are a headless Service's
            for endpoint in one.ready:
                if address in endpoint.addresses:
                    yield self._name(endpoint.label, name, namespace, "svc")


def _addresses(name: str, addresses: Iterable[str]) -> tuple[Record, ...]:
    return tuple(Record(name, AAAA if ":" in one else A, one) for one in addresses)


def _of_type(records: Iterable[Record], kind: int) -> Found:
    return Found(NOERROR, tuple(one for one in records if kind in (one.type, ANY)))


def reverse_address(labels: Labels) -> str:
    """Return the address that a name below in-addr.arpa or ip6.arpa stands for, "" for none."""
    try:
        if labels[-2:] == ["in-addr", "arpa"]:
            return str(ipaddress.IPv4Address(".".join(reversed(labels[:-2]))))
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
            return str(ipaddress.IPv6Address(bytes.fromhex("".join(reversed(labels[:-2])))))
    except ValueError:
        return ""
    return ""
