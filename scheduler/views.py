"""The few fields the scheduler reads of what is neither node nor pod."""

from typing import Any

import msgspec


class Labelled(msgspec.Struct):
    """Metadata with labels."""

    name: str = ""
    labels: dict[str, str] | None = None


class NamespaceOnly(msgspec.Struct):
    """A namespace: its name and labels."""

    metadata: Labelled


class _NodeSpec(msgspec.Struct):
    unschedulable: bool = False
    taints: list[dict[str, Any]] | None = None


class _Image(msgspec.Struct):
    names: list[str] | None = None
    sizeBytes: int = 0


class _NodeStatus(msgspec.Struct):
    allocatable: dict[str, Any] | None = None
    images: list[_Image] | None = None
    declaredFeatures: list[str] | None = None


class NodeView(msgspec.Struct):
    """A node, as far as it matters to placing pods; most of what nodes say of themselves is left out."""

    metadata: Labelled
    spec: _NodeSpec = msgspec.field(default_factory=_NodeSpec)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)

    def as_object(self) -> dict[str, Any]:
        """Return it in the form of the API's objects."""
        return {
            "metadata": {"name": self.metadata.name, "labels": self.metadata.labels or {}},
            "spec": {"unschedulable": self.spec.unschedulable, "taints": self.spec.taints},
            "status": {
                "allocatable": self.status.allocatable,
                "declaredFeatures": self.status.declaredFeatures,
                "images": [{"names": one.names, "sizeBytes": one.sizeBytes} for one in self.status.images or ()],
            },
        }


class _Selector(msgspec.Struct):
    selector: dict[str, Any] | None = None


class ServiceOnly(msgspec.Struct):
    """A Service: what it selects."""

    spec: _Selector = msgspec.field(default_factory=_Selector)


class SelectorOnly(msgspec.Struct):
    """A workload: what it selects."""

    spec: _Selector = msgspec.field(default_factory=_Selector)
