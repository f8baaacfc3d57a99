"""The group networking.k8s.io: ingresses, network policies, service ranges.

Sources: https://kubernetes.io/docs/concepts/services-networking/ingress/,
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

import ipaddress
from collections.abc import Iterator
from typing import Any

from apiserver.registry import names
from apiserver.registry.columns import AGE, NAME, NONE, selector_text, text_at, value_at
from apiserver.registry.kind import (
    STATUS,
    Column,
    Kind,
    Object,
    forbidden,
    immutable,
    invalid,
    required,
    unsupported,
)  # fmt: skip
from machinery.api import resources, selectors
from machinery.errors import Cause

NETWORKING = "io.k8s.api.networking.v1."
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_DIRECTIONS = ("Egress", "Ingress")


# -- ingresses


def _ingress_causes(ingress: Object) -> Iterator[Cause]:
    spec = ingress.get("spec") or {}
    if not spec.get("rules") and not spec.get("defaultBackend"):
        yield invalid("spec", spec, "either `defaultBackend` or `rules` must be specified")
    if spec.get("defaultBackend"):
        yield from _backend_causes(spec["defaultBackend"], "spec.defaultBackend")
    if (name := spec.get("ingressClassName")) and (wrong := names.dns_subdomain(name)):
        yield invalid("spec.ingressClassName", name, wrong)
    for index, rule in enumerate(spec.get("rules") or ()):
        path = f"spec.rules[{index}]"
        if host := rule.get("host"):
            yield from _host_causes(host, f"{path}.host")
        http = rule.get("http")
        if http is not None and not http.get("paths"):
            yield required(f"{path}.http.paths")
        for number, one in enumerate((http or {}).get("paths") or ()):
            yield from _path_causes(one, f"{path}.http.paths[{number}]")
    for index, tls in enumerate(spec.get("tls") or ()):
        for number, host in enumerate(tls.get("hosts") or ()):
            yield from _host_causes(host, f"spec.tls[{index}].hosts[{number}]")


def _host_causes(host: str, path: str) -> Iterator[Cause]:
    try:
        ipaddress.ip_address(host)
        yield invalid(path, host, "must be a DNS name, not an IP address")
        return
    except ValueError:
        pass
    if wrong := names.dns_subdomain(host.removeprefix("*.")):
        yield invalid(path, host, wrong)


def _path_causes(one: Object, path: str) -> Iterator[Cause]:
    kind, text = one.get("pathType"), one.get("path", "")
    if kind is None:
        yield required(f"{path}.pathType", "pathType must be specified")
    elif kind not in _PATH_TYPES:
        yield unsupported(f"{path}.pathType", kind, _PATH_TYPES)
    elif kind != "ImplementationSpecific" or text:
        if not text.startswith("/"):
            yield invalid(f"{path}.path", text, "must be an absolute path")
        for part in ("//", "/./", "/../", "%2f", "%2F") if kind != "ImplementationSpecific" else ():
            if part in text:
                yield invalid(f"{path}.path", text, f"must not contain '{part}'")
    yield from _backend_causes(one.get("backend") or {}, f"{path}.backend")


def _backend_causes(backend: Object, path: str) -> Iterator[Cause]:
    service, resource = backend.get("service"), backend.get("resource")
    if service and resource:
        yield invalid(path, backend, "cannot set both resource and service backends")
    elif not service and not resource:
        yield required(path, "resource or service backend is required")
    elif service:
        if not service.get("name"):
            yield required(f"{path}.service.name")
        port = service.get("port") or {}
        if bool(port.get("name")) == bool(port.get("number")):
            why = "cannot set both port name & port number" if port.get("name") else "port name or number is required"
            yield required(f"{path}.service.port", why) if not port else invalid(path, backend, why)
        elif port.get("number") and not 0 < port["number"] < 65536:
            yield invalid(f"{path}.service.port.number", port["number"], "must be between 1 and 65535, inclusive")


def _hosts(ingress: Object) -> str:
    hosts = [rule["host"] for rule in value_at(ingress, "spec", "rules") or () if rule.get("host")]
    return ",".join(hosts[:3]) + (f" + {len(hosts) - 3} more..." if len(hosts) > 3 else "") or "*"


def _address(ingress: Object) -> str:
    points = value_at(ingress, "status", "loadBalancer", "ingress") or ()
    return ",".join(point.get("ip") or point.get("hostname", "") for point in points)


def _parameters(ingress_class: Object) -> str:
    reference = value_at(ingress_class, "spec", "parameters")
    if not reference:
        return NONE
    group = f".{reference['apiGroup']}" if reference.get("apiGroup") else ""
    return f"{reference['kind']}{group}/{reference['name']}"


# -- network policies


def _default_policy(policy: Object) -> None:
    spec = policy.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress"] + (["Egress"] if spec.get("egress") else [])
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            for port in rule.get("ports") or ():
                port.setdefault("protocol", "TCP")


def _policy_causes(policy: Object) -> Iterator[Cause]:
    spec = policy["spec"]
    yield from _selector_causes(spec.get("podSelector"), "spec.podSelector")
    if len(spec["policyTypes"]) > 2:
        yield invalid("spec.policyTypes", spec["policyTypes"], "may not specify more than two policyTypes")
    for index, kind in enumerate(spec["policyTypes"]):
        if kind not in _DIRECTIONS:
            yield unsupported(f"spec.policyTypes[{index}]", kind, _DIRECTIONS)
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                yield from _port_causes(port, f"{path}.ports[{number}]")
            for number, peer in enumerate(rule.get(side) or ()):
                yield from _peer_causes(peer, f"{path}.{side}[{number}]")


def _selector_causes(selector: Any, path: str) -> Iterator[Cause]:
    if selector is None:
        return
    try:
        selectors.from_label_selector(selector)
    except ValueError as error:
        yield invalid(path, selector, str(error))


def _port_causes(port: Object, path: str) -> Iterator[Cause]:
    if port["protocol"] not in ("SCTP", "TCP", "UDP"):
        yield unsupported(f"{path}.protocol", port["protocol"], ("SCTP", "TCP", "UDP"))
    number, end = port.get("port"), port.get("endPort")
    if isinstance(number, int) and not 0 < number < 65536:
        yield invalid(f"{path}.port", number, "must be between 1 and 65535, inclusive")
    if end is None:
        return
    if number is None:
        yield required(f"{path}.port", "may not be empty when `endPort` is specified")
    elif isinstance(number, str):
        yield invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric")
    elif end < number:
        yield invalid(f"{path}.endPort", end, "must be greater than or equal to `port`")


def _peer_causes(peer: Object, path: str) -> Iterator[Cause]:
    block = peer.get("ipBlock")
    if not peer:
        yield required(path, "must specify a peer")
    if block and len(peer) > 1:
        yield forbidden(path, "may not specify both ipBlock and another peer")
    for field in ("podSelector", "namespaceSelector"):
        yield from _selector_causes(peer.get(field), f"{path}.{field}")
    if not block:
        return
    try:
        network = ipaddress.ip_network(block.get("cidr", ""), strict=False)
    except ValueError:
        rule = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        yield invalid(f"{path}.ipBlock.cidr", block.get("cidr", ""), rule)
        return
    for index, text in enumerate(block.get("except") or ()):
        at = f"{path}.ipBlock.except[{index}]"
        try:
            inner = ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield invalid(at, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
            continue
        if inner.version != network.version or not inner.subnet_of(network) or inner == network:  # type: ignore[arg-type]
            yield invalid(at, text, f"must be a strict subset of `cidr`: {block['cidr']}")


# -- service ranges


def _address_name(name: str) -> str | None:
    try:
        return None if str(ipaddress.ip_address(name)) == name else "must be in canonical form"
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def _cidr_causes(service_cidr: Object) -> Iterator[Cause]:
    cidrs = value_at(service_cidr, "spec", "cidrs") or []
    if not cidrs:
        yield required("spec.cidrs", "at least one CIDR required")
    for index, cidr in enumerate(cidrs):
        try:
            ipaddress.ip_network(cidr)
        except ValueError:
            rule = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            yield invalid(f"spec.cidrs[{index}]", cidr, rule)


def _parent(address: Object) -> str:
    parent = value_at(address, "spec", "parentRef") or {}
    group = f".{parent['group']}" if parent.get("group") else ""
    return f"{parent.get('resource', '')}{group}/{parent.get('namespace', '')}/{parent.get('name', '')}"


def _fixed_spec(new: Object, old: Object) -> list[Cause]:
    return immutable("spec", new.get("spec"), old.get("spec"))


KINDS = (
    Kind(
        resources.INGRESSES, NETWORKING + "Ingress", "ingress", ("ing",),
        subresources={"status": STATUS},
        columns=(
            NAME, Column("Class", text_at("spec", "ingressClassName", absent=NONE)), Column("Hosts", _hosts),
            Column("Address", _address),
            Column("Ports", lambda obj: "80, 443" if value_at(obj, "spec", "tls") else "80"), AGE,
        ),
        validate=lambda obj: list(_ingress_causes(obj)),
        prepare_create=lambda obj: obj.update(status={"loadBalancer": {}}), has_generation=True,
    ),
    Kind(
        resources.INGRESS_CLASSES, NETWORKING + "IngressClass", "ingressclass",
        columns=(NAME, Column("Controller", text_at("spec", "controller")), Column("Parameters", _parameters), AGE),
        validate_update=lambda new, old: immutable(
            "spec.controller", value_at(new, "spec", "controller"), value_at(old, "spec", "controller")
        ),
        has_generation=True,
    ),
    Kind(
        resources.NETWORK_POLICIES, NETWORKING + "NetworkPolicy", "networkpolicy", ("netpol",),
        columns=(NAME, Column("Pod-Selector", lambda obj: selector_text(obj["spec"].get("podSelector"))), AGE),
        default=_default_policy, validate=lambda obj: list(_policy_causes(obj)), has_generation=True,
        optional_required=frozenset({"spec.podSelector"}),
    ),
    Kind(
        resources.SERVICE_CIDRS, NETWORKING + "ServiceCIDR", "servicecidr",
        subresources={"status": STATUS},
        columns=(NAME, Column("CIDRs", lambda obj: ",".join(value_at(obj, "spec", "cidrs") or ())), AGE),
        validate=lambda obj: list(_cidr_causes(obj)), validate_update=_fixed_spec,
    ),
    Kind(
        resources.IP_ADDRESSES, NETWORKING + "IPAddress", "ipaddress", ("ip",),
        columns=(NAME, Column("ParentRef", _parent), AGE), validate_name=_address_name, validate_update=_fixed_spec,
        has_generation=True,
    ),
)  # fmt: skip
