"""Rules of services beside those of their names and ports: policies, external names, ranges of sources.

Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/
"""

import ipaddress
from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, forbidden, invalid, required, unsupported
from apiserver.registry.pod_rules import port_name_problem
from machinery.errors import Cause

PROTOCOLS = ("SCTP", "TCP", "UDP")
_POLICIES = ("Cluster", "Local")
_CHOICES = {
    "internalTrafficPolicy": _POLICIES,
    "ipFamilyPolicy": ("PreferDualStack", "RequireDualStack", "SingleStack"),
    "trafficDistribution": ("PreferClose", "PreferSameNode", "PreferSameZone"),
}
_BALANCERS_ALONE = "may only be used when `type` is 'LoadBalancer'"
_MAX_AFFINITY_SECONDS = 86400
_AGENT_PORT = 10250
_LOCAL_MULTICAST = {4: ipaddress.ip_network("224.0.0.0/24"), 6: ipaddress.ip_network("ff02::/16")}


def is_external(spec: Object) -> bool:
    """Whether a service can be reached from outside the cluster."""
    return spec["type"] in ("NodePort", "LoadBalancer") or (
        spec["type"] == "ClusterIP" and bool(spec.get("externalIPs"))
    )


def service_causes(spec: Object) -> Iterator[Cause]:
    """Yield what is wrong with a service's spec."""
    for index, port in enumerate(spec.get("ports") or ()):
        yield from _port_causes(port, spec["type"], f"spec.ports[{index}]")
    if spec["type"] == "ExternalName":
        yield from _external_name_causes(spec.get("externalName", ""))
    elif spec["type"] in ("NodePort", "LoadBalancer") and spec.get("clusterIP") == "None":
        yield invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {spec['type']} services")
    yield from _affinity_causes(spec)
    yield from _policy_causes(spec)
    for index, address in enumerate(spec.get("externalIPs") or ()):
        if wrong := address_problem(address):
            yield invalid(f"spec.externalIPs[{index}]", address, wrong)
    yield from _balancer_causes(spec)


def _affinity_causes(spec: Object) -> Iterator[Cause]:
    if spec["sessionAffinity"] == "ClientIP":
        seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        if not 0 < seconds <= _MAX_AFFINITY_SECONDS:
            why = f"must be greater than 0 and less than {_MAX_AFFINITY_SECONDS}"
            yield invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, why)


def _policy_causes(spec: Object) -> Iterator[Cause]:
    external = spec.get("externalTrafficPolicy")
    if external and not is_external(spec):
        yield invalid("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services")
    elif external and external not in _POLICIES:
        yield unsupported("spec.externalTrafficPolicy", external, _POLICIES)
    health = spec.get("healthCheckNodePort")
    if health and (spec["type"] != "LoadBalancer" or external != "Local"):
        why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield invalid("spec.healthCheckNodePort", health, why)
    for field, known in _CHOICES.items():
        if (given := spec.get(field)) and given not in known:
            yield unsupported(f"spec.{field}", given, known)


def _balancer_causes(spec: Object) -> Iterator[Cause]:
    """Yield what is wrong with the fields of load balancers."""
    of_balancers = spec["type"] == "LoadBalancer"
    for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
        if spec.get(field) is not None and not of_balancers:
            yield forbidden(f"spec.{field}", _BALANCERS_ALONE)
    blocks = spec.get("loadBalancerSourceRanges") or ()
    if blocks and not of_balancers:
        yield forbidden("spec.LoadBalancerSourceRanges", _BALANCERS_ALONE)
    for index, block in enumerate(blocks):
        if not _is_block(block.strip()):
            why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            yield invalid(f"spec.LoadBalancerSourceRanges[{index}]", block, why)


def _port_causes(port: Object, kind: str, path: str) -> Iterator[Cause]:
    if port["protocol"] not in PROTOCOLS:
        yield unsupported(f"{path}.protocol", port["protocol"], PROTOCOLS)
    target = port.get("targetPort")
    if isinstance(target, str) and (wrong := port_name_problem(target)):
        yield invalid(f"{path}.targetPort", target, wrong)
    elif isinstance(target, int) and not 0 < target < 65536:
        yield invalid(f"{path}.targetPort", target, "must be between 1 and 65535, inclusive")
    if (protocol := port.get("appProtocol")) is not None and (wrong := names.qualified_name(protocol)):
        yield invalid(f"{path}.appProtocol", protocol, wrong)
    if kind == "ClusterIP" and port.get("nodePort"):
        yield forbidden(f"{path}.nodePort", "may not be used when `type` is 'ClusterIP'")
    if kind == "LoadBalancer" and port.get("port") == _AGENT_PORT:
        why = f"may not expose port {_AGENT_PORT} externally since it is used by kubelet"
        yield invalid(path, {"port": port["port"]}, why)


def _external_name_causes(name: str) -> Iterator[Cause]:
    if not name:
        yield required("spec.externalName")
    elif wrong := names.dns_subdomain(name.removesuffix(".")):
        yield invalid("spec.externalName", name, wrong)


def address_problem(text: str) -> str:
    """Return what is wrong with an address from outside; empty when nothing is."""
    try:
        address = ipaddress.ip_address(text)
        address = getattr(address, "ipv4_mapped", None) or address
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    if address.is_unspecified:
        return f"may not be unspecified ({text})"
    if address.is_loopback:
        return "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    if address.is_link_local:
        return "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    if address in _LOCAL_MULTICAST[address.version]:
        return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    return ""


def _is_block(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text
