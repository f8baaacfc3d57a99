"""What DNS reads of Services and EndpointSlices."""

import msgspec


class Metadata(msgspec.Struct, frozen=True):
    """Names."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}


class Port(msgspec.Struct, frozen=True):
    """A port of a Service, or of all endpoints of a slice."""

    name: str | None = ""
    port: int | None = 0
    protocol: str = "TCP"


class ServiceSpec(msgspec.Struct, frozen=True):
    """The addresses of a Service."""

    type: str = "ClusterIP"
    clusterIP: str = ""
    clusterIPs: list[str] = []
    externalName: str = ""
    ports: list[Port] = []
    selector: dict[str, str] | None = None

    @property
    def addresses(self) -> list[str]:
        """The cluster addresses; none for a headless Service."""
        found = self.clusterIPs or [self.clusterIP]
        return [one for one in found if one not in ("", "None")]


class Service(msgspec.Struct, frozen=True):
    """A Service."""

    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()


class Conditions(msgspec.Struct, frozen=True):
    """Whether an endpoint takes connections; unknown is read as yes."""

    ready: bool | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """One backend."""

    addresses: list[str] = []
    hostname: str | None = None
    conditions: Conditions = Conditions()

    @property
    def label(self) -> str:
        """Its own name below the Service's: its hostname, or its address with dashes."""
        return self.hostname or self.addresses[0].replace(".", "-").replace(":", "-")


class EndpointSlice(msgspec.Struct, frozen=True):
    """Some backends of a Service."""

    metadata: Metadata
    endpoints: list[Endpoint] | None = None
    ports: list[Port] | None = None

    @property
    def service(self) -> str:
        """The Service's key, "namespace/name"."""
        return f"{self.metadata.namespace}/{self.metadata.labels.get('kubernetes.io/service-name', '')}"

    @property
    def ready(self) -> list[Endpoint]:
        """Backends that take connections."""
        return [one for one in self.endpoints or () if one.conditions.ready is not False and one.addresses]


class ConfigMap(msgspec.Struct, frozen=True):
    """The settings administrators give."""

    metadata: Metadata
    data: dict[str, str] | None = None
