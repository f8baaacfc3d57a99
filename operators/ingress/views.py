"""What is read of Ingresses and of what they lead to."""

from typing import Any

import msgspec


class Metadata(msgspec.Struct, frozen=True):
    """Names."""

    name: str = ""
    namespace: str = ""
    creationTimestamp: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class IngressSpec(msgspec.Struct, frozen=True):
    """Rules, kept as they are written."""

    ingressClassName: str | None = None
    defaultBackend: dict[str, Any] | None = None
    tls: list[dict[str, Any]] | None = None
    rules: list[dict[str, Any]] | None = None


class Ingress(msgspec.Struct, frozen=True):
    """An Ingress."""

    metadata: Metadata
    spec: IngressSpec = msgspec.field(default_factory=IngressSpec)
    status: dict[str, Any] = msgspec.field(default_factory=dict)


class ServicePort(msgspec.Struct, frozen=True):
    """A port of a Service."""

    port: int
    name: str = ""


class ServiceSpec(msgspec.Struct, frozen=True):
    """A Service's ports."""

    ports: list[ServicePort] = msgspec.field(default_factory=list)
    type: str = "ClusterIP"
    externalName: str = ""


class Service(msgspec.Struct, frozen=True):
    """A Service."""

    metadata: Metadata
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)


class EndpointSlice(msgspec.Struct, frozen=True):
    """Endpoints of a Service."""

    metadata: Metadata
    endpoints: list[dict[str, Any]] | None = None
    ports: list[dict[str, Any]] | None = None


class Secret(msgspec.Struct, frozen=True):
    """A certificate and its key."""

    metadata: Metadata
    type: str = ""
    data: dict[str, str] | None = None


class Namespace(msgspec.Struct, frozen=True):
    """A namespace's labels."""

    metadata: Metadata


class IngressClass(msgspec.Struct, frozen=True):
    """Who is to see to Ingresses of a class."""

    metadata: Metadata
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
