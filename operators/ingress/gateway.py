"""What Gateways and HTTPRoutes ask, as routes and backends of the same model that Ingresses make; pure.

Listeners for HTTP and TLS that is ended here; hosts, paths, methods, headers; filters of rules; weights. What
is asked beyond that is refused in the object's status, by the conditions that the API names for it.
Source: https://gateway-api.sigs.k8s.io/reference/spec/
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from machinery.api.meta import Resource, now
from machinery.api.selectors import from_label_selector
from operators.ingress import filters
from operators.ingress.model import EXACT, PREFIX, Certificate, Cluster, Model, Need, Route, certificate, servers

GROUP = "gateway.networking.k8s.io"
GATEWAY_CLASSES = Resource(GROUP, "v1", "gatewayclasses", "GatewayClass", namespaced=False)
GATEWAYS = Resource(GROUP, "v1", "gateways", "Gateway")
HTTP_ROUTES = Resource(GROUP, "v1", "httproutes", "HTTPRoute")
REFERENCE_GRANTS = Resource(GROUP, "v1beta1", "referencegrants", "ReferenceGrant")
CONTROLLER = "wherry.dev/ingress"

_HOST = re.compile(r"(\*\.)?[a-z0-9.-]+")
_PATH = re.compile(r"/[!-~]*")
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_TEXT = re.compile(r"[ -~]*")
_MAX_WEIGHT = 256  # HAProxy's

Object = Mapping[str, Any]


@dataclass
class Answer:
    """What all of it comes to: more of the model, and what to tell each object, by (resource, namespace, name)."""

    statuses: dict[tuple[Resource, str, str], dict[str, Any]] = field(default_factory=dict)


@dataclass
class _Listener:
    gateway: Object
    spec: Object
    reason: str = ""  # why it takes no routes
    unresolved: str = ""  # why its certificate isn't there
    attached: int = 0

    @property
    def host(self) -> str:
        return str(self.spec.get("hostname") or "").lower()

    @property
    def takes(self) -> bool:
        return not self.reason and not self.unresolved


def extend(
    model: Model, classes: Iterable[Object], gateways: Iterable[Object], routes: Iterable[Object], cluster: Cluster,
    addresses: Sequence[str], ports: tuple[int, int],
) -> Answer:  # fmt: skip
    """Add to a model what Gateways of our classes and their routes ask.

    Args: `ports` are those for HTTP and for TLS at which HAProxy is reached.
    """
    answer = Answer()
    ours = {one["metadata"]["name"]: one for one in classes if one["spec"].get("controllerName") == CONTROLLER}
    for name, one in ours.items():
        known = _conditions(one.get("status") or {}, one, ("Accepted", "True", "Accepted"))
        answer.statuses[(GATEWAY_CLASSES, "", name)] = {"conditions": known}
    listeners: dict[tuple[str, str], list[_Listener]] = {}
    for one in sorted(gateways, key=_age):
        if one["spec"].get("gatewayClassName") in ours:
            key = (one["metadata"]["namespace"], one["metadata"]["name"])
            listeners[key] = [_listener(model, one, spec, cluster, ports) for spec in one["spec"]["listeners"]]
    for route in sorted(routes, key=_age):
        parents = list(_attach(model, route, listeners, cluster, ports))
        others = [
            one for one in (route.get("status") or {}).get("parents") or () if one.get("controllerName") != CONTROLLER
        ]
        if parents or len(others) != len((route.get("status") or {}).get("parents") or ()):
            metadata = route["metadata"]
            answer.statuses[(HTTP_ROUTES, metadata["namespace"], metadata["name"])] = {"parents": [*others, *parents]}
    for (namespace, name), found in listeners.items():
        answer.statuses[(GATEWAYS, namespace, name)] = _gateway_status(found, addresses)
    model.routes.sort(key=lambda one: one.rank)
    return answer


def _age(one: Object) -> tuple[str, str, str]:
    metadata = one["metadata"]
    return metadata.get("creationTimestamp", ""), metadata.get("namespace", ""), metadata["name"]


def _listener(model: Model, gateway: Object, spec: Object, cluster: Cluster, ports: tuple[int, int]) -> _Listener:
    found = _Listener(gateway, spec)
    protocol = spec.get("protocol")
    if protocol not in ("HTTP", "HTTPS") or (spec.get("tls") or {}).get("mode", "Terminate") != "Terminate":
        found.reason = "UnsupportedProtocol"
    elif spec["port"] != ports[0 if protocol == "HTTP" else 1]:
        found.reason = "PortUnavailable"
    elif protocol == "HTTPS":
        found.unresolved = _take_certificates(model, found, cluster)
    return found


def _take_certificates(model: Model, listener: _Listener, cluster: Cluster) -> str:
    """Enter the certificates of a listener. Return why one isn't there, "" when all are."""
    namespace = listener.gateway["metadata"]["namespace"]
    taken: list[Certificate] = []
    for one in (listener.spec.get("tls") or {}).get("certificateRefs") or ():
        if one.get("group") or one.get("kind", "Secret") != "Secret":
            return "InvalidCertificateRef"
        place, name = one.get("namespace", namespace), one.get("name", "")
        if not cluster.grants().permit(GROUP, "Gateway", namespace, "Secret", place, name):
            return "RefNotPermitted"
        found = certificate(place, name, [listener.host] if listener.host else [], cluster)
        if found is None:
            return "InvalidCertificateRef"
        taken.append(found)
    model.certificates += taken
    return "" if taken else "InvalidCertificateRef"


# ---- routes


def _attach(
    model: Model,
    route: Object,
    listeners: Mapping[tuple[str, str], list[_Listener]],
    cluster: Cluster,
    ports: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    """Enter a route at each of its parents that is ours, and yield what is told of it there."""
    namespace, status = route["metadata"]["namespace"], route.get("status") or {}
    for parent in route["spec"].get("parentRefs") or ():
        if parent.get("kind", "Gateway") != "Gateway" or parent.get("group", GROUP) != GROUP:
            continue
        known = listeners.get((parent.get("namespace", namespace), parent["name"]))
        if known is None:
            continue
        accepted, refs = _enter(model, route, parent, known, cluster, ports), _refs_reason(route, cluster)
        before: Object = next((one for one in status.get("parents") or () if one.get("parentRef") == parent), {})
        told = (
            ("Accepted", "True" if not accepted else "False", accepted or "Accepted"),
            ("ResolvedRefs", "True" if not refs else "False", refs or "ResolvedRefs"),
        )
        conditions = _conditions(before, route, *told)
        yield {"parentRef": dict(parent), "controllerName": CONTROLLER, "conditions": conditions}


def _enter(
    model: Model, route: Object, parent: Object, known: Sequence[_Listener], cluster: Cluster, ports: tuple[int, int]
) -> str:
    """Make a route's rules part of the model. Return why it is not accepted, "" when it is."""
    wanted = [
        one for one in known
        if parent.get("sectionName", one.spec["name"]) == one.spec["name"]
        and parent.get("port", one.spec["port"]) == one.spec["port"]
    ]  # fmt: skip
    if not wanted:
        return "NoMatchingParent"
    allowed = [one for one in wanted if _is_allowed(route, one, cluster)]
    if not allowed:
        return "NotAllowedByListeners"
    try:
        lines = [filters.lines_of(rule, ports) for rule in route["spec"].get("rules") or ()]
    except filters.Unsupported:
        return "UnsupportedValue"
    hosts = [(one, _shared_hosts(one.host, route["spec"].get("hostnames") or ())) for one in allowed]
    if not any(found for _, found in hosts):
        return "NoMatchingListenerHostname"
    for listener, found in hosts:
        if found:
            listener.attached += 1
        if found and listener.takes:
            secure = Need("tls" if listener.spec["protocol"] == "HTTPS" else "plain")
            for number, rule in enumerate(route["spec"].get("rules") or ()):
                backend = _backend(model, route, number, rule, cluster)
                model.filters[backend] = lines[number]
                model.routes += [one for host in found for one in _routes(host, rule, backend, secure)]
    return ""


def _is_allowed(route: Object, listener: _Listener, cluster: Cluster) -> bool:
    allowed = listener.spec.get("allowedRoutes") or {}
    kinds = allowed.get("kinds") or ()
    if kinds and not any(one.get("kind") == "HTTPRoute" and one.get("group", GROUP) == GROUP for one in kinds):
        return False
    namespaces = allowed.get("namespaces") or {}
    origin, namespace = namespaces.get("from", "Same"), route["metadata"]["namespace"]
    if origin == "Selector":
        labels = cluster.labels(namespace)
        return labels is not None and _selected(namespaces.get("selector"), labels)
    return origin == "All" or (origin == "Same" and namespace == listener.gateway["metadata"]["namespace"])


def _selected(selector: Any, labels: Mapping[str, str]) -> bool:
    try:
        return selector is not None and from_label_selector(selector).matches(labels)
    except ValueError:
        return False


def _shared_hosts(listener: str, hostnames: Sequence[str]) -> list[str]:
    """Return the hosts that both name; a wildcard takes in whatever ends as it does. "" is any."""
    found = []
    for one in [host.lower() for host in hostnames] or [""]:
        if not listener or not one or one == listener:
            found.append(one or listener)
        elif listener.startswith("*.") and one.endswith(listener[1:]):
            found.append(one)
        elif one.startswith("*.") and listener.endswith(one[1:]):
            found.append(listener)
    return [one for one in found if not one or _HOST.fullmatch(one)]


def _routes(host: str, rule: Object, backend: str, secure: Need) -> Iterator[Route]:
    for match in rule.get("matches") or [{}]:
        path = match.get("path") or {}
        kind, value = path.get("type", "PathPrefix"), path.get("value", "/")
        needs = [secure]
        if method := match.get("method"):
            needs.append(Need("method", method, method))
        headers, params = match.get("headers") or (), match.get("queryParams") or ()
        needs += [Need("header", one.get("name", ""), one.get("value", "")) for one in headers]
        needs += [Need("param", one.get("name", ""), one.get("value", "")) for one in params]
        patterns = [one for one in (*headers, *params) if one.get("type", "Exact") != "Exact"]
        plain = all(_WORD.fullmatch(one.name) and _TEXT.fullmatch(one.value) for one in needs if one.name)
        if kind not in ("Exact", "PathPrefix") or not _PATH.fullmatch(value) or patterns:
            continue  # what can't be told from other requests takes none of them
        if plain:
            yield Route(host, value, EXACT if kind == "Exact" else PREFIX, backend, tuple(needs))


def _backend(model: Model, route: Object, number: int, rule: Object, cluster: Cluster) -> str:
    """Return the name of a rule's backend: the servers of all it names, in the proportion of their weights."""
    namespace = route["metadata"]["namespace"]
    name = f"route_{namespace}_{route['metadata']['name']}_{number}"
    parts = []
    for one in rule.get("backendRefs") or ():
        place, service = one.get("namespace", namespace), one.get("name", "")
        is_granted = _is_granted(route, one, cluster)
        found = list(servers(place, service, one.get("port", 0), cluster)) if is_granted else []
        parts.append((one.get("weight", 1), found))
    share = max((weight / len(found) for weight, found in parts if found), default=0.0)
    model.backends[name] = [
        f"{server} weight {round(weight / len(found) / share * _MAX_WEIGHT)}" if len(parts) > 1 else server
        for weight, found in parts if weight for server in found
    ]  # fmt: skip
    return name


def _is_granted(route: Object, ref: Object, cluster: Cluster) -> bool:
    namespace = route["metadata"]["namespace"]
    place, name = ref.get("namespace", namespace), ref.get("name", "")
    return cluster.grants().permit(GROUP, "HTTPRoute", namespace, "Service", place, name)


def _refs_reason(route: Object, cluster: Cluster) -> str:
    """Return why not all that a route names can be used, "" when it can."""
    for rule in route["spec"].get("rules") or ():
        for one in rule.get("backendRefs") or ():
            if one.get("group") or one.get("kind", "Service") != "Service":
                return "InvalidKind"
            if not _is_granted(route, one, cluster):
                return "RefNotPermitted"
            if cluster.service(one.get("namespace", route["metadata"]["namespace"]), one.get("name", "")) is None:
                return "BackendNotFound"
    return ""


# ---- what is told


def _gateway_status(listeners: Sequence[_Listener], addresses: Sequence[str]) -> dict[str, Any]:
    gateway = listeners[0].gateway
    status = gateway.get("status") or {}
    good = any(one.takes for one in listeners)
    accepted = ("Accepted", "True", "Accepted" if all(one.takes for one in listeners) else "ListenersNotValid")
    programmed = ("Programmed", "True", "Programmed") if good else ("Programmed", "False", "Invalid")
    told = []
    for one in listeners:
        before: Object = next((e for e in status.get("listeners") or () if e.get("name") == one.spec["name"]), {})
        told.append(
            {
                "name": one.spec["name"],
                "attachedRoutes": one.attached,
                "supportedKinds": [{"group": GROUP, "kind": "HTTPRoute"}],
                "conditions": _conditions(
                    before,
                    gateway,
                    ("Accepted", str(not one.reason), one.reason or "Accepted"),
                    ("Programmed", str(one.takes), "Programmed" if one.takes else "Invalid"),
                    ("ResolvedRefs", str(not one.unresolved), one.unresolved or "ResolvedRefs"),
                ),
            }
        )
    return {
        "addresses": [{"type": "IPAddress", "value": address} for address in addresses],
        "conditions": _conditions(status, gateway, accepted, programmed), "listeners": told,
    }  # fmt: skip


def _conditions(before: Object, obj: Object, *wanted: tuple[str, str, str]) -> list[dict[str, Any]]:
    """Return conditions of type, status and reason; one whose status stays keeps the time of its last change."""
    known = {one["type"]: one for one in before.get("conditions") or ()}
    made = []
    for kind, status, reason in wanted:
        old = known.get(kind) or {}
        since = old["lastTransitionTime"] if old.get("status") == status else now()
        made.append({
            "type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": since,
            "observedGeneration": obj["metadata"].get("generation", 0),
        })  # fmt: skip
    return made
