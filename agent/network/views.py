"""What the node's network reads of Nodes."""

import ipaddress
from collections.abc import Sequence

import msgspec


class NodeMetadata(msgspec.Struct, frozen=True):
    """Name, labels and annotations."""

    name: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class NodeSpec(msgspec.Struct, frozen=True):
    """The ranges of a node's pods."""

    podCIDR: str = ""
    podCIDRs: list[str] = msgspec.field(default_factory=list)


class NodeAddress(msgspec.Struct, frozen=True):
    """One address of a node."""

    type: str = ""
    address: str = ""


class NodeCondition(msgspec.Struct, frozen=True):
    """One thing said of a node."""

    type: str = ""
    status: str = ""


class NodeStatus(msgspec.Struct, frozen=True):
    """The addresses of a node, and how it is."""

    conditions: list[NodeCondition] = msgspec.field(default_factory=list)
    addresses: list[NodeAddress] = msgspec.field(default_factory=list)


class Node(msgspec.Struct, frozen=True):
    """A machine of the cluster."""

    metadata: NodeMetadata
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    @property
    def pod_cidrs(self) -> Sequence[str]:
        """The ranges of its pods, one of each IP version."""
        return self.spec.podCIDRs or [one for one in (self.spec.podCIDR,) if one]

    @property
    def is_ready(self) -> bool:
        """Whether its agent says that it takes pods."""
        return any(one.type == "Ready" and one.status == "True" for one in self.status.conditions)

    def address(self, version: int) -> str:
        """Return the address at which other nodes reach it, "" when it has none of the IP version."""
        for one in self.status.addresses:
            if one.type == "InternalIP" and ipaddress.ip_address(one.address).version == version:
                return one.address
        return ""
