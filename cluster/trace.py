"""Where a pod's connection to a Service goes: `wherry net trace`.

The rule, the endpoints, and the policies that judge it; computed from the API by the very code that writes the rules.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from agent.network.policies import EGRESS, INGRESS
from agent.network.policy_views import NetworkPolicy
from agent.network.routes import SERVICE_LABEL, Place, Route, routes_of
from cli.connection import Connection
from machinery.api.selectors import from_label_selector

Object = Mapping[str, Any]
_ZONE = "topology.kubernetes.io/zone"


def trace(connection: Connection, namespace: str, pod_name: str, service_name: str) -> Iterator[str]:
    """Yield what there is to say. Raises: APIError, NotFound when the pod or the service is not there."""

    def get(path: str) -> Any:
        return json.loads(connection.request("GET", path))

    target_namespace, _, name = service_name.rpartition("/")
    target_namespace = target_namespace or namespace
    pod = get(f"/api/v1/namespaces/{namespace}/pods/{pod_name}")
    service = get(f"/api/v1/namespaces/{target_namespace}/services/{name}")
    selector = {"labelSelector": f"{SERVICE_LABEL}={name}"}
    path = f"/apis/discovery.k8s.io/v1/namespaces/{target_namespace}/endpointslices"
    slices = json.loads(connection.request("GET", path, params=selector))["items"]
    node = get(f"/api/v1/nodes/{pod['spec']['nodeName']}")
    place = Place(node["metadata"]["name"], (node["metadata"].get("labels") or {}).get(_ZONE, ""))
    policies = get("/apis/networking.k8s.io/v1/networkpolicies")["items"]
    yield f"pod {namespace}/{pod_name} ({(pod.get('status') or {}).get('podIP', 'no address yet')}) on {place.node}"
    yield from _judged(pod, policies, EGRESS)
    yield from _service(service, slices, place)
    for one in _targets(slices):
        whose = get(f"/api/v1/namespaces/{one['namespace']}/pods/{one['name']}")
        told = list(_judged(whose, policies, INGRESS))
        if told:
            yield f"endpoint {one['namespace']}/{one['name']}"
            yield from told


def _service(service: Object, slices: Sequence[Object], place: Place) -> Iterator[str]:
    metadata, spec = service["metadata"], service["spec"]
    whose = f"service {metadata['namespace']}/{metadata['name']}"
    if spec.get("type") == "ExternalName":
        yield f"{whose}: DNS answers with the alias {spec.get('externalName')}; no rule"
        return
    if spec.get("clusterIP") == "None":
        yield f"{whose}: headless; DNS answers with the endpoints' own addresses; no rule"
        return
    yield whose
    for family in (4, 6):
        for route in routes_of(service, slices, place, family):
            yield from _route(route)


def _route(route: Route) -> Iterator[str]:
    frontend = route.frontend
    where = frontend.address or "every address of the node"
    kind = "services" if frontend.address else "nodeports"
    chain = f"{'affine-' if route.affinity else ''}{kind}-{len(route.backends)}"
    if route.backends:
        yield f"  {where} {frontend.protocol}/{frontend.port} -> chain {chain}"
        yield from (f"    {one.ip}:{one.port}" for one in route.backends)
        if route.affinity:
            yield f"    a client keeps its endpoint for {route.affinity.seconds} s after its last connection"
    elif route.has_any:
        yield f"  {where} {frontend.protocol}/{frontend.port} -> dropped: its policy wants an endpoint on this node"
    else:
        yield f"  {where} {frontend.protocol}/{frontend.port} -> refused: nobody is behind it"
    if route.sources:
        yield f"    only from {', '.join(route.sources)}"


def _judged(pod: Object, policies: Sequence[Object], direction: str) -> Iterator[str]:
    metadata = pod["metadata"]
    for one in policies:
        policy = msgspec.convert(one, NetworkPolicy)
        if policy.metadata.namespace != metadata["namespace"] or not policy.spec.isolates(direction):
            continue
        if from_label_selector(policy.spec.podSelector).matches(metadata.get("labels") or {}):
            rules = len(policy.spec.rules(direction))
            what = "allows nothing" if not rules else f"allows what its {rules} rule(s) name"
            yield f"  {direction.lower()} is judged by policy {policy.metadata.name}: {what}"


def _targets(slices: Sequence[Object]) -> Iterator[Mapping[str, str]]:
    for one in slices:
        for endpoint in one.get("endpoints") or ():
            target = endpoint.get("targetRef") or {}
            if target.get("kind") == "Pod":
                yield target
