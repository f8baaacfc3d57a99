"""The cluster as arrays: a row for each node, with what it can hold, what is on it, and what it is labelled with.

Rows stay where they are: one whose node is gone is dead (`alive` is false), and is used again once its pods are gone
too. Whatever changes a row puts it in the journal, so that who keeps answers by row looks only at what changed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.pods import Pod, Port
from scheduler.requests import amount
from scheduler.tally import Tallies

Object = Mapping[str, Any]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = slice | NDArray[np.intp]
ALL = slice(None)

# The columns every node has; extended resources come behind them.
CPU, MEMORY, STORAGE, PODS = 0, 1, 2, 3
BASE = ("cpu", "memory", "ephemeral-storage", "pods")
HOSTNAME = "kubernetes.io/hostname"
_FIRST_CAPACITY = 64
_JOURNAL_LENGTH = 4096


@dataclass(slots=True, eq=False)
class Node:
    """A row's node (None when it is gone) and pods."""

    name: str
    row: int
    object: Object | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)  # by uid
    taints: int = 0  # which of the sets of taints
    images: tuple[str, ...] = ()


class LabelColumn:
    """The values of one label: for each row which of them it has, -1 for none."""

    __slots__ = ("ids", "of_row", "values")

    def __init__(self, capacity: int) -> None:
        self.of_row: NDArray[np.int32] = np.full(capacity, -1, dtype=np.int32)
        self.values: list[str] = []
        self.ids: dict[str, int] = {}

    def put(self, row: int, value: str | None) -> None:
        """Set a row's value."""
        if value is None:
            self.of_row[row] = -1
            return
        found = self.ids.get(value)
        if found is None:
            found = self.ids[value] = len(self.values)
            self.values.append(value)
        self.of_row[row] = found


class NodeTable:
    """All nodes and the pods on them."""

    def __init__(self) -> None:
        self.size = 0
        """Rows in use, dead ones among them: the length of every array handed out."""
        self.capacity = _FIRST_CAPACITY
        self.nodes: list[Node] = []
        self.by_name: dict[str, Node] = {}
        self.count = 0
        """Nodes that are there."""
        self.epoch = 0
        """Grows when what is kept by row must be worked out anew for all rows."""
        self.nodes_version = 0
        """Grows when a node comes, goes or changes."""
        self.resources: dict[str, int] = {name: at for at, name in enumerate(BASE)}
        self._free: list[int] = []
        self._alive: Mask = np.zeros(self.capacity, dtype=bool)
        self._unschedulable: Mask = np.zeros(self.capacity, dtype=bool)
        self._taints: NDArray[np.int32] = np.zeros(self.capacity, dtype=np.int32)
        self._allocatable: list[Ints] = [np.zeros(self.capacity, dtype=np.int64) for _ in BASE]
        self._requested: list[Ints] = [np.zeros(self.capacity, dtype=np.int64) for _ in BASE]
        self._scored: list[Ints] = [np.zeros(self.capacity, dtype=np.int64) for _ in range(2)]
        self._labels: dict[str, LabelColumn] = {}
        self._ports: dict[tuple[str, int], dict[str, NDArray[np.int32]]] = {}
        self.volumes: dict[tuple[str, ...], dict[int, list[int]]] = {}
        """Who uses which volume: by what names it, and by row, how many pods, and how many of them write."""
        self.taint_sets: list[tuple[Object, ...]] = [()]
        self._taint_ids: dict[Any, int] = {(): 0}
        self.image_sizes: dict[str, Ints] = {}
        self.tallies = Tallies(self.capacity)
        self.device_resources: frozenset[str] = frozenset()
        """Extended resources that devices stand for, on nodes that have none of their own."""
        self.priorities: Counter[int] = Counter()
        """How many pods are there of each priority."""
        self.versions: dict[int, int] = {}  # row: the number of its last entry in the journal
        self.journal: list[int] = []
        self.journal_start = 0
        self.nominated: dict[str, tuple[Pod, int]] = {}  # uid: pod and row
        self.nominated_terms = 0
        """How many of them have affinity to other pods."""
        self.nominated_on: dict[int, dict[str, Pod]] = {}  # row: pods by uid

    # ---- arrays; each as long as `size`

    @property
    def alive(self) -> Mask:
        """Which rows have a node."""
        return self._alive[: self.size]

    @property
    def unschedulable(self) -> Mask:
        """Which nodes are cordoned."""
        return self._unschedulable[: self.size]

    @property
    def taints(self) -> NDArray[np.int32]:
        """Each node's set of taints, as its place in `taint_sets`."""
        return self._taints[: self.size]

    def allocatable(self, resource: str) -> Ints:
        """What each node can hold of a resource."""
        return self._allocatable[self.column(resource)][: self.size]

    def requested(self, resource: str) -> Ints:
        """What the pods on each node ask for of a resource."""
        return self._requested[self.column(resource)][: self.size]

    def scored(self, at: int) -> Ints:
        """What the pods on each node count for when nodes are compared: at 0 cpu, at 1 memory."""
        return self._scored[at][: self.size]

    def label(self, key: str) -> LabelColumn:
        """Return the column of a label; one nobody asked for before is made."""
        column = self._labels.get(key)
        if column is None:
            column = self._labels[key] = LabelColumn(self.capacity)
            for node in self.nodes:
                if node.object is not None:
                    column.put(node.row, node.labels.get(key))
        return column

    def domains(self, key: str) -> NDArray[np.int32]:
        """Return for each row which value of a label it has; -1 for none, and for dead rows."""
        return self.label(key).of_row[: self.size]

    def ports_taken(self, protocol: str, number: int) -> Mapping[str, NDArray[np.int32]]:
        """Return by address how often a port is taken on each row."""
        return {ip: counts[: self.size] for ip, counts in self._ports.get((protocol, number), {}).items()}

    def images(self, name: str) -> Ints | None:
        """Return the size in bytes of an image on each row, 0 where it is not; None when no node has it."""
        found = self.image_sizes.get(name)
        return None if found is None else found[: self.size]

    def column(self, resource: str) -> int:
        """Return a resource's column; a new one gets its own."""
        found = self.resources.get(resource)
        if found is None:
            found = self.resources[resource] = len(self.resources)
            self._allocatable.append(np.zeros(self.capacity, dtype=np.int64))
            self._requested.append(np.zeros(self.capacity, dtype=np.int64))
        return found

    # ---- the journal

    @property
    def journal_end(self) -> int:
        """The number the next entry will have."""
        return self.journal_start + len(self.journal)

    def since(self, at: int) -> list[int] | None:
        """Return the rows that changed since the journal ended at `at`; None when that is no longer known."""
        return self.journal[at - self.journal_start :] if at >= self.journal_start else None

    def _changed(self, row: int) -> None:
        self.journal.append(row)
        self.versions[row] = self.journal_start + len(self.journal)
        if len(self.journal) > 2 * _JOURNAL_LENGTH:
            del self.journal[:_JOURNAL_LENGTH]
            self.journal_start += _JOURNAL_LENGTH

    def set_device_resources(self, names: Iterable[str]) -> None:
        """Take which extended resources devices stand for."""
        found = frozenset(names)
        if found != self.device_resources:
            self.device_resources = found
            self.epoch += 1
            if self.size:
                self._changed(0)  # for those who only look at whether anything has changed

    # ---- nodes

    def put_node(self, obj: Object) -> bool:
        """Add or change a node; returns whether that matters to placing pods."""
        name = obj["metadata"]["name"]
        node = self.by_name.get(name) or self._new_row(name)
        if node.object is not None and _placement_part(node.object) == _placement_part(obj):
            node.object = obj
            return False
        if node.object is None:
            self._counted(1)
        node.object = obj
        self._fill(node, obj)
        self.nodes_version += 1
        self._changed(node.row)
        return True

    def _counted(self, change: int) -> None:
        self.count += change
        if self.image_sizes:
            self.epoch += 1  # an image's worth depends on how many nodes have it

    def _fill(self, node: Node, obj: Object) -> None:
        row, spec, status = node.row, obj.get("spec") or {}, obj.get("status") or {}
        node.labels = obj["metadata"].get("labels") or {}
        self._alive[row] = True
        self._unschedulable[row] = bool(spec.get("unschedulable"))
        self._taints[row] = self._taint_set(spec.get("taints") or ())
        for column in self._allocatable:
            column[row] = 0
        for resource, text in (status.get("allocatable") or {}).items():
            self._allocatable[self.column(resource)][row] = amount(resource, text)
        for key, labels in self._labels.items():
            labels.put(row, node.labels.get(key))
        self._put_images(node, status.get("images") or ())

    def _taint_set(self, taints: Iterable[Object]) -> int:
        key = tuple((one.get("key"), one.get("value") or "", one.get("effect")) for one in taints)
        found = self._taint_ids.get(key)
        if found is None:
            found = self._taint_ids[key] = len(self.taint_sets)
            self.taint_sets.append(tuple({"key": k, "value": v, "effect": e} for k, v, e in key))
        return found

    def _put_images(self, node: Node, images: Iterable[Object]) -> None:
        sizes = {name: int(one.get("sizeBytes") or 0) for one in images for name in one.get("names") or ()}
        if not sizes and not node.images:
            return
        for name in node.images:
            self.image_sizes[name][node.row] = 0
        node.images = tuple(sizes)
        for name, size in sizes.items():
            column = self.image_sizes.get(name)
            if column is None:
                column = self.image_sizes[name] = np.zeros(self.capacity, dtype=np.int64)
            column[node.row] = size
        self.epoch += 1

    def remove_node(self, name: str) -> None:
        """Take a node away; its row stays until its pods are gone."""
        node = self.by_name.get(name)
        if node is None or node.object is None:
            return
        node.object, node.labels = None, {}
        self._counted(-1)
        self._alive[node.row] = False
        for column in self._labels.values():
            column.put(node.row, None)
        self._put_images(node, ())
        self.nodes_version += 1
        self._changed(node.row)
        self._release(node)

    def _new_row(self, name: str) -> Node:
        if self._free:
            row = self._free.pop()
        else:
            row = self.size
            if row == self.capacity:
                self._grow()
            self.size += 1
            self.epoch += 1
        node = Node(name, row)
        if row == len(self.nodes):
            self.nodes.append(node)
        else:
            self.nodes[row] = node
        self.by_name[name] = node
        return node

    def _release(self, node: Node) -> None:
        if node.object is None and not node.pods and self.by_name.pop(node.name, None) is not None:
            for column in (*self._requested, *self._scored):
                column[node.row] = 0
            self._free.append(node.row)

    def _grow(self) -> None:
        more = max(self.capacity // 2, _FIRST_CAPACITY)
        self.capacity += more

        def longer(array: Any, fill: int = 0) -> Any:
            return np.concatenate([array, np.full(more, fill, dtype=array.dtype)])

        self._alive, self._unschedulable = longer(self._alive), longer(self._unschedulable)
        self._taints = longer(self._taints)
        self._allocatable = [longer(one) for one in self._allocatable]
        self._requested = [longer(one) for one in self._requested]
        self._scored = [longer(one) for one in self._scored]
        for column in self._labels.values():
            column.of_row = longer(column.of_row, -1)
        for by_address in self._ports.values():
            for ip in by_address:
                by_address[ip] = longer(by_address[ip])
        self.image_sizes = {name: longer(one) for name, one in self.image_sizes.items()}
        self.tallies.grow(self.capacity)

    # ---- pods

    def put_pod(self, pod: Pod, name: str) -> None:
        """Count a pod on a node, known or not; one counted there before is replaced."""
        node = self.by_name.get(name) or self._new_row(name)
        old = node.pods.get(pod.uid)
        if old is not None:
            if old.shape is pod.shape and old.deleting == pod.deleting:
                node.pods[pod.uid] = pod
                return
            self._count(old, node.row, -1)
        node.pods[pod.uid] = pod
        self._count(pod, node.row, 1)
        self._changed(node.row)

    def remove_pod(self, name: str, uid: str) -> Pod | None:
        """Stop counting a pod; returns it."""
        node = self.by_name.get(name)
        pod = node.pods.pop(uid, None) if node is not None else None
        if node is None or pod is None:
            return None
        self._count(pod, node.row, -1)
        self._changed(node.row)
        self._release(node)
        return pod

    def _count(self, pod: Pod, row: int, sign: int) -> None:
        needs = pod.shape.needs
        requested = self._requested
        for resource, number in needs.requests.items():
            at = self.resources.get(resource)
            requested[at if at is not None else self.column(resource)][row] += sign * number
        requested[PODS][row] += sign
        self.priorities[needs.priority] += sign
        cpu, memory = needs.scored
        self._scored[0][row] += sign * cpu
        self._scored[1][row] += sign * memory
        if needs.ports:
            self._count_ports(needs.ports, row, sign)
        if needs.volumes:
            self._count_volumes(pod, row, sign)
        if sign > 0:
            self.tallies.add(pod, row)
        else:
            self.tallies.remove(pod, row)

    def _count_ports(self, ports: Iterable[Port], row: int, sign: int) -> None:
        for ip, protocol, number in ports:
            by_address = self._ports.setdefault((protocol, number), {})
            if ip not in by_address:
                by_address[ip] = np.zeros(self.capacity, dtype=np.int32)
            by_address[ip][row] += sign

    def _count_volumes(self, pod: Pod, row: int, sign: int) -> None:
        for volume in pod.shape.needs.volumes:
            claim = volume.claim_of(pod.name)
            disk = (("claim", pod.key.namespace, claim), False) if claim else volume.disk()
            if disk is None:
                continue
            name, only_read = disk
            users = self.volumes.setdefault(name, {}).setdefault(row, [0, 0])
            users[0] += sign
            users[1] += 0 if only_read else sign
            if not users[0]:
                del self.volumes[name][row]
                if not self.volumes[name]:
                    del self.volumes[name]

    # ---- nominated pods: those that wait for others to leave their node

    def nominate(self, pod: Pod, name: str) -> None:
        """Keep room for a pod on a node; an empty name takes that back."""
        before = self.nominated.pop(pod.uid, None)
        if before is not None:
            self.nominated_terms -= before[0].shape.affinity is not None
            there = self.nominated_on[before[1]]
            del there[pod.uid]
            if not there:
                del self.nominated_on[before[1]]
            self._changed(before[1])
        node = self.by_name.get(name) if name else None
        if node is not None:
            self.nominated_terms += pod.shape.affinity is not None
            self.nominated[pod.uid] = (pod, node.row)
            self.nominated_on.setdefault(node.row, {})[pod.uid] = pod
            self._changed(node.row)

    def nominated_over(self, priority: int, rows: Rows) -> list[tuple[int, Pod]]:
        """Return the nominated pods of a priority and above, each with its place among `rows`."""
        if not self.nominated_on:
            return []
        whole = isinstance(rows, slice)
        places = zip(self.nominated_on, self.nominated_on, strict=True) if whole else enumerate(rows.tolist())  # type: ignore[union-attr]
        return [
            (at, pod)
            for at, row in places
            for pod in self.nominated_on.get(row, {}).values()
            if pod.priority >= priority
        ]

    def names(self, rows: Iterable[int]) -> list[str]:
        """Return the names of rows."""
        return [self.nodes[row].name for row in rows]


def _placement_part(node: Object) -> Any:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    images = [(image.get("names"), image.get("sizeBytes")) for image in status.get("images") or ()]
    return (
        node["metadata"].get("labels"), spec.get("taints"), spec.get("unschedulable"), status.get("allocatable"),
        status.get("declaredFeatures"), images,
    )  # fmt: skip
