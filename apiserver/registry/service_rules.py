"""Rules of services beside those of their names and ports: policies, external names, ranges of sources.

Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/
"""

import ipaddress
from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, invalid, required, unsupported
from apiserver.registry.pod_rules import port_name_problem
from machinery.errors import Cause

_PROTOCOLS = ("SCTP", "TCP", "UDP")
_POLICIES = ("Cluster", "Local")


def service_causes(spec: Object) -> Iterator[Cause]:
    """Yield what is wrong with a service's spec."""
    for index, port in enumerate(spec.get("ports") or ()):
        yield from _port_causes(port, f"spec.ports[{index}]")
    if spec["type"] == "ExternalName":
        yield from _external_name_causes(spec.get("externalName", ""))
    for field in ("externalTrafficPolicy", "internalTrafficPolicy"):
        if (policy := spec.get(field)) and policy not in _POLICIES:
            yield unsupported(f"spec.{field}", policy, _POLICIES)
    for index, address in enumerate(spec.get("externalIPs") or ()):
        if not _is_address(address):
            why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            yield invalid(f"spec.externalIPs[{index}]", address, why)
    for index, block in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        if not _is_block(block.strip()):
            why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            yield invalid(f"spec.loadBalancerSourceRanges[{index}]", block, why)


def _port_causes(port: Object, path: str) -> Iterator[Cause]:
    if port["protocol"] not in _PROTOCOLS:
        yield unsupported(f"{path}.protocol", port["protocol"], _PROTOCOLS)
    target = port.get("targetPort")
    if isinstance(target, str) and (wrong := port_name_problem(target)):
        yield invalid(f"{path}.targetPort", target, wrong)
    elif isinstance(target, int) and not 0 < target < 65536:
        yield invalid(f"{path}.targetPort", target, "must be between 1 and 65535, inclusive")


def _external_name_causes(name: str) -> Iterator[Cause]:
    if not name:
        yield required("spec.externalName")
    elif wrong := names.dns_subdomain(name.removesuffix(".")):
        yield invalid("spec.externalName", name, wrong)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_block(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text
