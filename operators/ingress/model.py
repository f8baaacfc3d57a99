"""What all Ingresses together ask: routes in the order they are tried, backends with their servers, certificates; pure.

Source: https://kubernetes.io/docs/concepts/services-networking/ingress/
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from operators.ingress.grants import Grants
from operators.ingress.views import EndpointSlice, Ingress, Secret, Service

EXACT, PREFIX = "Exact", "Prefix"
_HOST = re.compile(r"(\*\.)?[a-z0-9.-]*")
_PATH = re.compile(r"/[!-~]*")
_OLD_CLASS = "kubernetes.io/ingress.class"


@dataclass(frozen=True, slots=True)
class Need:
    """What else a request must be: "tls" or "plain", of a "method", or with a "header" or "param" of a value."""

    kind: str
    name: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Requests of a host and path go to a backend. An empty host is any; one that begins with "*." any label there."""

    host: str
    path: str
    kind: str
    backend: str
    needs: tuple[Need, ...] = ()

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Routes are tried in the order of this: exact hosts, then wildcards; exact paths, then the longest."""
        of_host = 2 if not self.host else 1 if self.host.startswith("*.") else 0
        return of_host, 0 if self.kind == EXACT else 1, -len(self.path), -len(self.needs)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, PEM, and the hosts it is shown for; none for all."""

    name: str
    pem: bytes
    hosts: tuple[str, ...]


@dataclass
class Model:
    """All of it."""

    routes: list[Route] = field(default_factory=list)
    backends: dict[str, list[str]] = field(default_factory=dict)  # name -> servers, host:port
    filters: dict[str, list[str]] = field(default_factory=dict)  # backend -> what HAProxy does to requests on the way
    certificates: list[Certificate] = field(default_factory=list)
    default: str = ""  # the backend of requests that no route takes


@dataclass(frozen=True, slots=True)
class Cluster:
    """Finds what Ingresses name."""

    service: Callable[[str, str], Service | None]
    slices: Callable[[str, str], Sequence[EndpointSlice]]
    secret: Callable[[str, str], Secret | None]
    labels: Callable[[str], Mapping[str, str] | None] = lambda _: None  # a namespace's
    grants: Callable[[], Grants] = Grants


def is_ours(ingress: Ingress, classes: frozenset[str], *, is_default: bool) -> bool:
    """Say whether an Ingress is for us. Args: `is_default` whether those without a class are."""
    name = ingress.spec.ingressClassName or ingress.metadata.annotations.get(_OLD_CLASS)
    return name in classes if name else is_default


def build(ingresses: Iterable[Ingress], cluster: Cluster) -> Model:
    """Return what they ask. Of two that want one host and path the older has it."""
    model = Model()
    taken: set[tuple[str, str, str]] = set()
    ordered = sorted(
        ingresses, key=lambda one: (one.metadata.creationTimestamp, one.metadata.namespace, one.metadata.name)
    )
    for ingress in ordered:
        for host, path in _paths(ingress):
            kind = EXACT if path.get("pathType") == EXACT else PREFIX
            key = (host, path.get("path") or "/", kind)
            backend = _backend(model, ingress, path.get("backend") or {}, cluster)
            # What users write ends up in a file of directives: nothing may end a line or a word there.
            if backend and key not in taken and _HOST.fullmatch(host) and _PATH.fullmatch(key[1]):
                taken.add(key)
                model.routes.append(Route(*key, backend))
        if ingress.spec.defaultBackend and not model.default:
            model.default = _backend(model, ingress, ingress.spec.defaultBackend, cluster)
        _certificates(model, ingress, cluster)
    model.routes.sort(key=lambda one: one.rank)
    return model


def _paths(ingress: Ingress) -> Iterator[tuple[str, Any]]:
    for rule in ingress.spec.rules or ():
        paths = (rule.get("http") or {}).get("paths") or ()
        for path in paths:
            yield (rule.get("host") or "").lower(), path
        if not paths and ingress.spec.defaultBackend:
            yield (rule.get("host") or "").lower(), {"path": "/", "backend": ingress.spec.defaultBackend}


def _backend(model: Model, ingress: Ingress, backend: dict[str, Any], cluster: Cluster) -> str:
    """Return the name of a backend, entered with its servers; "" when it names no Service."""
    named = backend.get("service") or {}
    if not named.get("name"):
        return ""
    namespace, port = ingress.metadata.namespace, named.get("port") or {}
    wanted = port.get("name") or port.get("number") or 0
    name = f"{namespace}_{named['name']}_{wanted}"
    if name not in model.backends:
        model.backends[name] = list(servers(namespace, named["name"], wanted, cluster))
    return name


def servers(namespace: str, name: str, wanted: str | int, cluster: Cluster) -> Iterator[str]:
    """Yield host:port of each server behind a port of a Service, named or numbered."""
    service = cluster.service(namespace, name)
    if service is None:
        return
    ports = [one for one in service.spec.ports if wanted in (one.name, one.port)]
    if not ports:
        return
    if service.spec.type == "ExternalName":
        if _HOST.fullmatch(service.spec.externalName):
            yield f"{service.spec.externalName}:{ports[0].port}"
        return
    found: dict[str, None] = {}
    for one in cluster.slices(namespace, name):
        numbers = [port["port"] for port in one.ports or () if (port.get("name") or "") == ports[0].name]
        for endpoint in one.endpoints or ():
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                address = endpoint["addresses"][0]
                host = f"[{address}]" if ":" in address else address
                found.update(dict.fromkeys(f"{host}:{number}" for number in numbers if number))
    yield from sorted(found)


def _certificates(model: Model, ingress: Ingress, cluster: Cluster) -> None:
    for one in ingress.spec.tls or ():
        found = certificate(ingress.metadata.namespace, one.get("secretName") or "", one.get("hosts") or (), cluster)
        if found is not None:
            model.certificates.append(found)


def certificate(namespace: str, name: str, hosts: Sequence[str], cluster: Cluster) -> Certificate | None:
    """Return the certificate of a Secret for hosts; None when there is none in it."""
    secret = cluster.secret(namespace, name)
    data = (secret.data or {}) if secret is not None else {}
    if "tls.crt" not in data or "tls.key" not in data:
        return None
    pem = base64.b64decode(data["tls.crt"]).rstrip() + b"\n" + base64.b64decode(data["tls.key"])
    return Certificate(f"{namespace}_{name}", pem, tuple(host for host in hosts if _HOST.fullmatch(host)))
