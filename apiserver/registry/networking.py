"""The group networking.k8s.io: ingresses, network policies, service ranges.

Sources: https://kubernetes.io/docs/concepts/services-networking/ingress/,
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

import ipaddress
from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.affinity_rules import label_selector_causes
from apiserver.registry.columns import AGE, NAME, NONE, selector_text, text_at, value_at
from apiserver.registry.ingress_rules import class_causes, ingress_causes, new_ingress_causes
from apiserver.registry.kind import (
    STATUS,
    Column,
    Kind,
    Object,
    default_text,
    forbidden,
    immutable,
    invalid,
    required,
    status_judged,
    unsupported,
)  # fmt: skip
from apiserver.registry.pod_rules import port_name_problem
from apiserver.registry.status_rules import ingress_status_causes
from machinery.api import resources
from machinery.errors import Cause

NETWORKING = "io.k8s.api.networking.v1."
_DIRECTIONS = ("Ingress", "Egress")
_MAX_CIDRS = 2
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_BLOCK_RULE = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


# -- ingresses


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
    yield from label_selector_causes(spec.get("podSelector") or {}, "spec.podSelector")
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                yield from _port_causes(port, f"{path}.ports[{number}]")
            for number, peer in enumerate(rule.get(side) or ()):
                yield from _peer_causes(peer, f"{path}.{side}[{number}]")
    if len(spec["policyTypes"]) > len(_DIRECTIONS):
        yield invalid("spec.policyTypes", spec["policyTypes"], "may not specify more than two policyTypes")
        return
    for index, kind in enumerate(spec["policyTypes"]):
        if kind not in _DIRECTIONS:
            yield unsupported(f"spec.policyTypes[{index}]", kind, _DIRECTIONS)


def _port_causes(port: Object, path: str) -> Iterator[Cause]:
    if port["protocol"] not in _PROTOCOLS:
        yield unsupported(f"{path}.protocol", port["protocol"], _PROTOCOLS)
    number, end = port.get("port"), port.get("endPort")
    if number is None:
        if end is not None:
            yield invalid(f"{path}.endPort", end, "may not be specified when `port` is not specified")
    elif isinstance(number, str):
        if end is not None:
            yield invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric")
        if wrong := port_name_problem(number):
            yield invalid(f"{path}.port", number, wrong)
    else:
        yield from _number_causes(number, f"{path}.port")
        if end is not None and end < number:
            yield invalid(f"{path}.endPort", end, "must be greater than or equal to `port`")
        if end is not None:
            yield from _number_causes(end, f"{path}.endPort")


def _number_causes(number: int, path: str) -> Iterator[Cause]:
    if not 0 < number < 65536:
        yield invalid(path, number, "must be between 1 and 65535, inclusive")


def _peer_causes(peer: Object, path: str) -> Iterator[Cause]:
    given = [field for field in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(field) is not None]
    for field in ("podSelector", "namespaceSelector"):
        yield from label_selector_causes(peer.get(field) or {}, f"{path}.{field}")
    if "ipBlock" in given:
        yield from _block_causes(peer["ipBlock"], f"{path}.ipBlock")
    if not given:
        yield required(path, "must specify a peer")
    elif "ipBlock" in given and len(given) > 1:
        yield forbidden(path, "may not specify both ipBlock and another peer")


def _block_causes(block: Object, path: str) -> Iterator[Cause]:
    if not block.get("cidr"):
        yield required(f"{path}.cidr")
        return
    network = _block(block["cidr"])
    if network is None:
        yield invalid(f"{path}.cidr", block["cidr"], _BLOCK_RULE)
        return
    for index, text in enumerate(block.get("except") or ()):
        at, inner = f"{path}.except[{index}]", _block(text)
        if inner is None:
            yield invalid(at, text, _BLOCK_RULE)
        elif inner.version != network.version or not inner.subnet_of(network) or inner == network:  # type: ignore[arg-type]
            yield invalid(at, text, "must be a strict subset of `cidr`")


def _block(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return a range of addresses; None for what is none, or a lone address."""
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


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
    elif len(cidrs) > _MAX_CIDRS:
        yield invalid("spec.cidrs", service_cidr["spec"], f"may only hold up to {_MAX_CIDRS} values")
    else:
        blocks = [_block(cidr) for cidr in cidrs]
        for index, (cidr, block) in enumerate(zip(cidrs, blocks, strict=True)):
            if block is None:
                yield invalid(f"spec.cidrs[{index}]", cidr, _BLOCK_RULE)
            elif str(block) != cidr:
                why = f'must be in canonical form ("{block}")'
                yield invalid(f"spec.cidrs[{index}]", cidr, why)
        versions = [block.version for block in blocks if block is not None]
        if len(set(versions)) < len(versions):
            why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
            yield invalid("spec.cidrs", cidrs, why)


def _cidr_update(new: Object, old: Object) -> list[Cause]:
    """A range of the other family may come to the one that is there; nothing else changes."""
    before, after = (value_at(obj, "spec", "cidrs") or [] for obj in (old, new))
    if len(before) != len(after) and (len(before), len(after)) != (1, 2):
        return [invalid("spec.cidrs", after, "field is immutable")]
    return [
        invalid(f"spec.cidrs[{index}]", after[index], "field is immutable")
        for index, cidr in enumerate(before)
        if cidr != after[index]
    ]


def _address_causes(address: Object) -> Iterator[Cause]:
    parent = value_at(address, "spec", "parentRef")
    if parent is None:
        yield required("spec.parentRef")
        return
    path = "spec.parentRef"
    if (group := parent.get("group")) and (wrong := names.dns_subdomain(group)):
        yield invalid(f"{path}.group", group, wrong)
    for field in ("resource", "name", "namespace"):
        text = parent.get(field)
        if not text and field != "namespace":
            yield required(f"{path}.{field}")
        elif text and (wrong := names.path_segment(text)):
            yield invalid(f"{path}.{field}", text, wrong)


def _parent(address: Object) -> str:
    parent = value_at(address, "spec", "parentRef") or {}
    group = f".{parent['group']}" if parent.get("group") else ""
    return f"{parent.get('resource', '')}{group}/{parent.get('namespace', '')}/{parent.get('name', '')}"


def _fixed_parent(new: Object, old: Object) -> list[Cause]:
    return immutable("spec.parentRef", value_at(new, "spec", "parentRef"), value_at(old, "spec", "parentRef"))


def _default_class(ingress_class: Object) -> None:
    if (parameters := value_at(ingress_class, "spec", "parameters")) is not None:
        default_text(parameters, "scope", "Cluster")


KINDS = (
    Kind(
        resources.INGRESSES, NETWORKING + "Ingress", "ingress", ("ing",),
        subresources={"status": status_judged(ingress_status_causes)},
        columns=(
            NAME, Column("Class", text_at("spec", "ingressClassName", absent=NONE)), Column("Hosts", _hosts),
            Column("Address", _address),
            Column("Ports", lambda obj: "80, 443" if value_at(obj, "spec", "tls") else "80"), AGE,
        ),
        validate=lambda obj: list(ingress_causes(obj)), validate_create=new_ingress_causes,
        prepare_create=lambda obj: obj.update(status={"loadBalancer": {}}), has_generation=True,
    ),
    Kind(
        resources.INGRESS_CLASSES, NETWORKING + "IngressClass", "ingressclass",
        columns=(NAME, Column("Controller", text_at("spec", "controller")), Column("Parameters", _parameters), AGE),
        default=_default_class, validate=lambda obj: list(class_causes(obj)),
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
        validate=lambda obj: list(_cidr_causes(obj)), validate_update=_cidr_update,
    ),
    Kind(
        resources.IP_ADDRESSES, NETWORKING + "IPAddress", "ipaddress", ("ip",),
        columns=(NAME, Column("ParentRef", _parent), AGE), validate_name=_address_name,
        validate=lambda obj: list(_address_causes(obj)), validate_update=_fixed_parent,
        has_generation=True,
    ),
)  # fmt: skip
