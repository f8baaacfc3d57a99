"""All nodes as arrays: what they can hold, what is on them, and what pods of one shape may think of them.

A pod's *shape* is what its placement depends on. What depends on nodes alone (taints, selectors, affinity) is worked
out once a shape and kept until a node changes; what depends on other pods is looked at each time, in numpy.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from machinery.api.meta import controller_of
from machinery.api.quantity import cpu_millis, to_bytes

Object = Mapping[str, Any]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
# The columns every node has; extended resources come behind them.
CPU, MEMORY, PODS, STORAGE = 0, 1, 2, 3
BASE = ("cpu", "memory", "pods", "ephemeral-storage")
_GROW = 64


def amount(resource: str, text: Any) -> float:
    """Return a quantity as the table counts it: millicores for cpu, units for the rest."""
    return float(cpu_millis(text) if resource == "cpu" else to_bytes(text))


def requests_of(pod: Object) -> dict[str, float]:
    """Return what a pod asks for: its containers together, or its largest init container, with its overhead."""
    spec = pod["spec"]
    total: dict[str, float] = {}
    sidecars: dict[str, float] = {}
    peak: dict[str, float] = {}
    for container in spec.get("containers") or ():
        _add(total, container)
    for container in spec.get("initContainers") or ():
        own: dict[str, float] = {}
        _add(own, container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, container)
            own = {}
        for name in {*own, *sidecars}:
            peak[name] = max(peak.get(name, 0.0), own.get(name, 0.0) + sidecars.get(name, 0.0))
    found = {
        name: max(total.get(name, 0.0) + sidecars.get(name, 0.0), peak.get(name, 0.0))
        for name in {*total, *sidecars, *peak}
    }
    for name, text in (spec.get("overhead") or {}).items():
        found[name] = found.get(name, 0.0) + amount(name, text)
    found["pods"] = 1.0
    return found


def _add(total: dict[str, float], container: Object) -> None:
    for name, text in ((container.get("resources") or {}).get("requests") or {}).items():
        total[name] = total.get(name, 0.0) + amount(name, text)


@dataclass(slots=True)
class PlacedPod:
    """A pod on a node, as others look at it."""

    pod: Object
    requests: Mapping[str, float]
    node: str


@dataclass(slots=True)
class NodeRow:
    """A node's object and the pods on it."""

    node: Object
    index: int
    pods: dict[str, PlacedPod] = field(default_factory=dict)  # by uid
    ports: dict[tuple[str, str, int], int] = field(default_factory=dict)  # (ip, protocol, port): how many


def host_ports(pod: Object) -> list[tuple[str, str, int]]:
    """Return the node's ports a pod takes: (address, protocol, port)."""
    return [
        (port.get("hostIP") or "0.0.0.0", port.get("protocol", "TCP"), port["hostPort"])  # noqa: S104 - means any
        for container in pod["spec"].get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


class NodeTable:
    """The nodes as rows; `version` grows when a node's own properties change."""

    def __init__(self) -> None:
        self.resources: list[str] = list(BASE)
        self.names: list[str] = []
        self.rows: dict[str, NodeRow] = {}
        self.version = 0
        self.owners: dict[str, dict[str, int]] = {}  # uid of a controlling owner: node: how many of its pods
        self._allocatable: Floats = np.zeros((_GROW, len(BASE)))
        self._requested: Floats = np.zeros((_GROW, len(BASE)))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def allocatable(self) -> Floats:
        """What each node can hold, by resource."""
        return self._allocatable[: len(self.names)]

    @property
    def requested(self) -> Floats:
        """What the pods on each node ask for, by resource."""
        return self._requested[: len(self.names)]

    def column(self, resource: str) -> int:
        """Return a resource's column; one that is new gets its own."""
        if resource not in self.resources:
            self.resources.append(resource)
            zeros = np.zeros((len(self._allocatable), 1))
            self._allocatable = np.hstack([self._allocatable, zeros])
            self._requested = np.hstack([self._requested, zeros])
        return self.resources.index(resource)

    def put_node(self, node: Object) -> bool:
        """Add or change a node; returns whether that matters to placing pods."""
        name = node["metadata"]["name"]
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = NodeRow(node, len(self.names))
            self.names.append(name)
            if len(self.names) > len(self._allocatable):
                self._grow()
        elif _placement_part(row.node) == _placement_part(node):
            row.node = node
            return False
        row.node = node
        self._allocatable[row.index] = 0.0
        for resource, text in ((node.get("status") or {}).get("allocatable") or {}).items():
            at = self.column(resource)
            self._allocatable[row.index, at] = amount(resource, text)
        self.version += 1
        return True

    def _grow(self) -> None:
        extra = np.zeros((len(self._allocatable), len(self.resources)))
        self._allocatable = np.vstack([self._allocatable, extra])
        self._requested = np.vstack([self._requested, extra])

    def remove_node(self, name: str) -> None:
        """Take a node away; the last row moves into its place."""
        row = self.rows.pop(name, None)
        if row is None:
            return
        last = self.names.pop()
        if last != name:
            self.names[row.index] = last
            moved = self.rows[last]
            self._allocatable[row.index] = self._allocatable[moved.index]
            self._requested[row.index] = self._requested[moved.index]
            self._clear(moved.index)
            moved.index = row.index
        else:
            self._clear(row.index)
        self.version += 1

    def _clear(self, index: int) -> None:
        self._allocatable[index] = 0.0
        self._requested[index] = 0.0

    def vector(self, requests: Mapping[str, float]) -> Floats:
        """Return requests as a row of the table."""
        columns = {self.column(name): value for name, value in requests.items()}
        found = np.zeros(len(self.resources))
        for at, value in columns.items():
            found[at] = value
        return found

    def put_pod(self, placed: PlacedPod) -> None:
        """Count a pod on its node; one counted before is replaced."""
        row = self.rows.get(placed.node)
        if row is None:
            return
        uid = placed.pod["metadata"]["uid"]
        self.remove_pod(placed.node, uid)
        row.pods[uid] = placed
        self._count_owner(placed, 1)
        self._requested[row.index] += self.vector(placed.requests)
        for port in host_ports(placed.pod):
            row.ports[port] = row.ports.get(port, 0) + 1

    def _count_owner(self, placed: PlacedPod, change: int) -> None:
        owner = controller_of(placed.pod)
        if owner is None:
            return
        counts = self.owners.setdefault(owner["uid"], {})
        counts[placed.node] = counts.get(placed.node, 0) + change
        if not counts[placed.node]:
            del counts[placed.node]
        if not counts:
            del self.owners[owner["uid"]]

    def remove_pod(self, node: str, uid: str) -> None:
        """Stop counting a pod."""
        row = self.rows.get(node)
        placed = row.pods.pop(uid, None) if row is not None else None
        if row is None or placed is None:
            return
        self._count_owner(placed, -1)
        self._requested[row.index] -= self.vector(placed.requests)
        for port in host_ports(placed.pod):
            row.ports[port] -= 1
            if not row.ports[port]:
                del row.ports[port]

    def objects(self) -> Sequence[Object]:
        """Return the nodes in the order of the rows."""
        return [self.rows[name].node for name in self.names]

    def placed(self) -> Iterable[tuple[int, PlacedPod]]:
        """Yield every counted pod with its node's row."""
        for name in self.names:
            row = self.rows[name]
            for one in row.pods.values():
                yield row.index, one


def _placement_part(node: Object) -> Any:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    images = sum(len(image.get("names") or ()) for image in status.get("images") or ())
    return (
        node["metadata"].get("labels"), spec.get("taints"), spec.get("unschedulable"), status.get("allocatable"), images
    )  # fmt: skip
