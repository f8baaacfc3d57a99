"""Services, endpoints, slices, ingresses and network policies."""

from collections.abc import Callable, Sequence
from typing import Any

from cli.describing.writer import NONE, Object, Writer, annotations, head, mapping, selector, timestamp


def service(out: Writer, obj: Object, slices: Sequence[Object]) -> None:
    """Write a service; `slices` are its endpoint slices."""
    spec, status = obj["spec"], obj.get("status") or {}
    head(out, obj)
    out.write(0, f"Selector:\t{_labels(spec.get('selector'))}")
    out.write(0, f"Type:\t{spec.get('type', '')}")
    if spec.get("ipFamilyPolicy"):
        out.write(0, f"IP Family Policy:\t{spec['ipFamilyPolicy']}")
    families = ",".join(spec.get("ipFamilies") or ())
    out.write(0, f"IP Families:\t{families or NONE}")
    out.write(0, f"IP:\t{spec.get('clusterIP', '')}")
    out.write(0, f"IPs:\t{','.join(spec.get('clusterIPs') or ()) or NONE}")
    if spec.get("externalIPs"):
        out.write(0, f"External IPs:\t{','.join(spec['externalIPs'])}")
    if spec.get("loadBalancerIP"):
        out.write(0, f"Desired LoadBalancer IP:\t{spec['loadBalancerIP']}")
    if spec.get("externalName"):
        out.write(0, f"External Name:\t{spec['externalName']}")
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    if ingress:
        shown = [
            one.get("ip", "") + (f" ({one['ipMode']})" if one.get("ipMode") else "")
            if one.get("ip")
            else one.get("hostname", "")
            for one in ingress
        ]
        out.write(0, f"LoadBalancer Ingress:\t{', '.join(shown)}")
    for port in spec.get("ports") or ():
        _port(out, port, slices)
    out.write(0, f"Session Affinity:\t{spec.get('sessionAffinity', '')}")
    _policies(out, spec)


def _labels(values: Any) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((values or {}).items())) or NONE


def _port(out: Writer, port: Object, slices: Sequence[Object]) -> None:
    name, protocol = port.get("name") or "<unset>", port.get("protocol", "TCP")
    out.write(0, f"Port:\t{name}\t{port['port']}/{protocol}")
    out.write(0, f"TargetPort:\t{port.get('targetPort', '')}/{protocol}")
    if port.get("nodePort"):
        out.write(0, f"NodePort:\t{name}\t{port['nodePort']}/{protocol}")
    out.write(0, f"Endpoints:\t{endpoints_of(port.get('name', ''), slices)}")


def endpoints_of(port: str, slices: Sequence[Object]) -> str:
    """Return the addresses that answer for a service's port, the first three of them."""
    found = [
        f"{address}:{one['port']}"
        for part in slices for one in part.get("ports") or ()
        if one.get("name", "") == port
        for endpoint in part.get("endpoints") or () if (endpoint.get("conditions") or {}).get("ready", True)
        for address in endpoint.get("addresses") or ()
    ]  # fmt: skip
    return _some(found)


def _some(found: list[str], count: int = 3) -> str:
    if not found:
        return ""
    more = f" + {len(found) - count} more..." if len(found) > count else ""
    return ",".join(found[:count]) + more


def _policies(out: Writer, spec: Object) -> None:
    if spec.get("externalTrafficPolicy"):
        out.write(0, f"External Traffic Policy:\t{spec['externalTrafficPolicy']}")
    if spec.get("internalTrafficPolicy"):
        out.write(0, f"Internal Traffic Policy:\t{spec['internalTrafficPolicy']}")
    if spec.get("trafficDistribution"):
        out.write(0, f"Traffic Distribution:\t{spec['trafficDistribution']}")
    if spec.get("healthCheckNodePort"):
        out.write(0, f"HealthCheck NodePort:\t{spec['healthCheckNodePort']}")
    if spec.get("loadBalancerSourceRanges"):
        out.write(0, f"LoadBalancer Source Ranges:\t{','.join(spec['loadBalancerSourceRanges'])}")


def endpoints(out: Writer, obj: Object) -> None:
    """Write endpoints."""
    head(out, obj)
    out.write(0, "Subsets:")
    for one in obj.get("subsets") or ():
        for title, field in (("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")):
            found = ",".join(address["ip"] for address in one.get(field) or ())
            out.write(1, f"{title}:\t{found or NONE}")
        if one.get("ports"):
            out.write(1, "Ports:")
            out.write(2, "Name\tPort\tProtocol")
            out.write(2, "----\t----\t--------")
            for port in one["ports"]:
                out.write(2, f"{port.get('name') or '<unset>'}\t{port['port']}\t{port.get('protocol', 'TCP')}")
        out.write(0, "")


def endpoint_slice(out: Writer, obj: Object) -> None:
    """Write an endpoint slice."""
    head(out, obj)
    out.write(0, f"AddressType:\t{obj['addressType']}")
    if obj.get("ports"):
        out.write(0, "Ports:")
        out.write(1, "Name\tPort\tProtocol")
        out.write(1, "----\t----\t--------")
        for port in obj["ports"]:
            out.write(
                1, f"{port.get('name') or '<unset>'}\t{port.get('port', '<unset>')}\t{port.get('protocol', 'TCP')}"
            )
    else:
        out.write(0, "Ports: <unset>")
    if not obj.get("endpoints"):
        out.write(0, "Endpoints: <none>")
        return
    out.write(0, "Endpoints:")
    for one in obj["endpoints"]:
        out.write(1, f"- Addresses:\t{', '.join(one.get('addresses') or ()) or NONE}")
        out.write(2, "Conditions:")
        ready = (one.get("conditions") or {}).get("ready")
        out.write(3, f"Ready:\t{'<unset>' if ready is None else str(bool(ready)).lower()}")
        out.write(2, f"Hostname:\t{one.get('hostname', '<unset>')}")
        if one.get("targetRef"):
            out.write(2, f"TargetRef:\t{one['targetRef']['kind']}/{one['targetRef']['name']}")
        out.write(2, f"NodeName:\t{one.get('nodeName', '<unset>')}")
        out.write(2, f"Zone:\t{one.get('zone', '<unset>')}")


def ingress(out: Writer, obj: Object, behind: Callable[[str, Object], str]) -> None:
    """Write an ingress; `behind` returns the endpoints of a service's port, or why there are none."""
    spec, status = obj["spec"], obj.get("status") or {}
    out.write(0, f"Name:\t{obj['metadata']['name']}")
    mapping(out, 0, "Labels", obj["metadata"].get("labels"))
    out.write(0, f"Namespace:\t{obj['metadata'].get('namespace', '')}")
    found = (status.get("loadBalancer") or {}).get("ingress") or ()
    out.write(0, f"Address:\t{','.join(one.get('ip') or one.get('hostname', '') for one in found)}")
    out.write(0, f"Ingress Class:\t{spec.get('ingressClassName', NONE)}")
    default = spec.get("defaultBackend")
    out.write(0, f"Default backend:\t{_backend(default, behind) if default else '<default>'}")
    if spec.get("tls"):
        out.write(0, "TLS:")
        for one in spec["tls"]:
            hosts = ",".join(one.get("hosts") or ())
            out.write(1, f"{one['secretName']} terminates {hosts}" if one.get("secretName") else f"SNI routes {hosts}")
    out.write(0, "Rules:\n  Host\tPath\tBackends")
    out.write(1, "----\t----\t--------")
    for rule in spec.get("rules") or ():
        out.write(1, f"{rule.get('host') or '*'}\t")
        for path in (rule.get("http") or {}).get("paths") or ():
            out.write(2, f"\t{path.get('path', '')} \t{_backend(path['backend'], behind)}")
    if not spec.get("rules"):
        out.write(1, f"*\t*\t{_backend(default, behind) if default else '<default>'}")
    annotations(out, 0, "Annotations", obj["metadata"].get("annotations"))


def _backend(backend: Object, behind: Callable[[str, Object], str]) -> str:
    if "resource" in backend:
        one = backend["resource"]
        return f"APIGroup: {one.get('apiGroup', '')}, Kind: {one['kind']}, Name: {one['name']}"
    port = (backend["service"].get("port")) or {}
    name = backend["service"]["name"]
    return f"{name}:{port.get('number') or port.get('name', '')} ({behind(name, port)})"


def network_policy(out: Writer, obj: Object) -> None:
    """Write a network policy."""
    spec = obj["spec"]
    out.write(0, f"Name:\t{obj['metadata']['name']}")
    out.write(0, f"Namespace:\t{obj['metadata'].get('namespace', '')}")
    out.write(0, f"Created on:\t{_created(obj)}")
    mapping(out, 0, "Labels", obj["metadata"].get("labels"))
    annotations(out, 0, "Annotations", obj["metadata"].get("annotations"))
    out.write(0, "Spec:")
    chosen = selector(spec.get("podSelector"))
    all_pods = "<none> (Allowing the specific traffic to all pods in this namespace)"
    out.write(1, f"PodSelector:     {all_pods if chosen == NONE else chosen}")
    for kind, title, field, side in (("Ingress", "ingress", "from", "From"), ("Egress", "egress", "to", "To")):
        if kind in (spec.get("policyTypes") or ()):
            out.write(1, f"Allowing {title} traffic:")
            _rules(out, spec.get(title) or (), field, side, title)
        else:
            out.write(1, f"Not affecting {title} traffic")
    out.write(1, f"Policy Types: {', '.join(spec.get('policyTypes') or ())}")


def _created(obj: Object) -> str:
    from machinery.api.meta import parse_time

    stamp = obj["metadata"].get("creationTimestamp")
    return parse_time(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z") if stamp else timestamp(stamp)


def _rules(out: Writer, rules: Sequence[Object], field: str, side: str, word: str) -> None:
    if not rules:
        out.write(2, f"<none> (Selected pods are isolated for {word} connectivity)")
        return
    for at, rule in enumerate(rules):
        if at:
            out.write(2, "----------")
        if rule.get("ports"):
            for port in rule["ports"]:
                out.write(2, f"To Port: {port.get('port', '<any>')}/{port.get('protocol', 'TCP')}")
        else:
            out.write(2, "To Port: <any> (traffic allowed to all ports)")
        if not rule.get(field):
            out.write(2, f"{side}: <any> (traffic not restricted by {'source' if side == 'From' else 'destination'})")
        for peer in rule.get(field) or ():
            out.write(2, f"{side}:")
            _peer(out, peer)


def _peer(out: Writer, peer: Object) -> None:
    if "ipBlock" in peer:
        out.write(3, "IPBlock:")
        out.write(4, f"CIDR: {peer['ipBlock']['cidr']}")
        out.write(4, f"Except: {', '.join(peer['ipBlock'].get('except') or ())}")
        return
    if "namespaceSelector" in peer:
        out.write(3, f"NamespaceSelector: {selector(peer['namespaceSelector'])}")
    if "podSelector" in peer:
        out.write(3, f"PodSelector: {selector(peer['podSelector'])}")
