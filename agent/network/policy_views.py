"""What network policies are made of: policies, namespaces, pods."""

from typing import Any

import msgspec


class Metadata(msgspec.Struct, frozen=True):
    """Names and labels."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class PolicySpec(msgspec.Struct, frozen=True):
    """A policy; peers and ports are kept as they are written."""

    podSelector: dict[str, Any] = msgspec.field(default_factory=dict)
    policyTypes: list[str] | None = None
    ingress: list[dict[str, Any]] | None = None
    egress: list[dict[str, Any]] | None = None

    def isolates(self, direction: str) -> bool:
        """Whether it is about "Ingress" or "Egress"."""
        if self.policyTypes:
            return direction in self.policyTypes
        return direction == "Ingress" or bool(self.egress)

    def rules(self, direction: str) -> list[dict[str, Any]]:
        """Return the rules of a direction."""
        return (self.ingress if direction == "Ingress" else self.egress) or []


class NetworkPolicy(msgspec.Struct, frozen=True):
    """A NetworkPolicy."""

    metadata: Metadata
    spec: PolicySpec = msgspec.field(default_factory=PolicySpec)


class Namespace(msgspec.Struct, frozen=True):
    """A namespace."""

    metadata: Metadata


class ContainerPort(msgspec.Struct, frozen=True):
    """A port that a rule may name."""

    containerPort: int = 0
    name: str = ""
    protocol: str = "TCP"


class Container(msgspec.Struct, frozen=True):
    """A container's ports."""

    ports: list[ContainerPort] | None = None


class PodSpec(msgspec.Struct, frozen=True):
    """Where a pod is."""

    nodeName: str = ""
    hostNetwork: bool = False
    containers: list[Container] = msgspec.field(default_factory=list)
    initContainers: list[Container] | None = None


class PodIP(msgspec.Struct, frozen=True):
    """An address."""

    ip: str = ""


class PodStatus(msgspec.Struct, frozen=True):
    """How a pod is reached."""

    phase: str = ""
    podIPs: list[PodIP] | None = None


class Pod(msgspec.Struct, frozen=True):
    """A pod."""

    metadata: Metadata
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def ips(self) -> list[str]:
        """Its own addresses; none when they are its node's, or when it has ended and another pod may have them."""
        if self.spec.hostNetwork or self.status.phase in ("Succeeded", "Failed"):
            return []
        return [one.ip for one in self.status.podIPs or () if one.ip]

    def ports(self) -> list[ContainerPort]:
        """Return the ports of all its containers."""
        everyone = [*self.spec.containers, *(self.spec.initContainers or ())]
        return [port for container in everyone for port in container.ports or ()]
