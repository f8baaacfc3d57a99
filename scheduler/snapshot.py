"""A table made of listed objects: for those who ask about a cluster once and do not follow it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from machinery.api.meta import ObjectKey, Resource, key_of
from machinery.api.resources import (
    CSI_DRIVERS,
    CSI_NODES,
    CSI_STORAGE_CAPACITIES,
    DEVICE_CLASSES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    PRIORITY_CLASSES,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    SERVICES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
)  # fmt: skip
from machinery.api.selectors import LabelSelector, from_label_selector, from_labels
from scheduler.cluster import Cluster
from scheduler.devices.extended import classes_by_resource
from scheduler.pods import Pod, PodReader
from scheduler.table import NodeTable

Object = dict[str, Any]
ListAll = Callable[[Resource], Iterable[Object]]


def _storage(list_all: ListAll, slices: list[Object]) -> dict[str, Any]:
    """Return the lookups of what is stored about volumes."""
    claims = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one for one in list_all(PERSISTENT_VOLUME_CLAIMS)
    }

    def named(resource: Resource) -> dict[str, Object]:
        return {one["metadata"]["name"]: one for one in list_all(resource)}

    device_claims = {key_of(one): one for one in list_all(RESOURCE_CLAIMS)}
    classes = named(DEVICE_CLASSES)
    attachments = list(list_all(VOLUME_ATTACHMENTS))
    volumes, capacities = named(PERSISTENT_VOLUMES), list(list_all(CSI_STORAGE_CAPACITIES))
    return {
        "claim": lambda namespace, name: claims.get(ObjectKey(namespace, name)), "volume": volumes.get,
        "volumes": volumes.values, "storage_class": named(STORAGE_CLASSES).get, "csi_node": named(CSI_NODES).get,
        "csi_driver": named(CSI_DRIVERS).get, "capacities": lambda: capacities, "attachments": lambda: attachments,
        "device_claim": lambda namespace, name: device_claims.get(ObjectKey(namespace, name)),
        "device_claims": device_claims.values, "device_slices": lambda: slices,
        "device_class": classes.get, "device_classes": classes.values,
    }  # fmt: skip


class Snapshot:
    """A cluster at one moment."""

    def __init__(self, list_all: ListAll) -> None:
        """Args: `list_all` returns all objects of a resource; nothing for what the cluster does not have."""
        self.reader = PodReader()
        self.table = NodeTable()
        self.pods: dict[tuple[str, str], Pod] = {}
        for node in list_all(NODES):
            self.table.put_node(node)
        for namespace in list_all(NAMESPACES):
            metadata = namespace["metadata"]
            self.table.tallies.set_namespace(metadata["name"], metadata.get("labels") or {})
        for obj in list_all(PODS):
            pod = self.reader.read_object(obj)
            self.pods[pod.key] = pod
            if pod.node and not pod.done:
                self.table.put_pod(pod, pod.node)
            elif pod.nominated and not pod.done:
                self.table.nominate(pod, pod.nominated)
        self.priorities = {one["metadata"]["name"]: one for one in list_all(PRIORITY_CLASSES)}
        self._services: dict[str, list[Mapping[str, str]]] = {}
        for service in list_all(SERVICES):
            selector = service["spec"].get("selector")
            if selector:
                self._services.setdefault(service["metadata"].get("namespace", ""), []).append(selector)
        kinds = {
            "ReplicaSet": REPLICA_SETS, "StatefulSet": STATEFUL_SETS, "ReplicationController": REPLICATION_CONTROLLERS,
        }  # fmt: skip
        self._workloads = {
            (kind, one["metadata"].get("namespace", ""), one["metadata"]["name"]): (one.get("spec") or {}).get(
                "selector"
            )
            for kind, resource in kinds.items()
            for one in list_all(resource)
        }
        self.slices = list(list_all(RESOURCE_SLICES))
        budgets = list(list_all(POD_DISRUPTION_BUDGETS))
        self.cluster = Cluster(
            services=lambda namespace: self._services.get(namespace, ()),
            workload=self._workload,
            budgets=lambda: budgets,
            **_storage(list_all, self.slices),
        )

        self.table.set_device_resources(classes_by_resource(self.cluster.device_classes()))

    def _workload(self, kind: str, namespace: str, name: str) -> LabelSelector | None:
        selector = self._workloads.get((kind, namespace, name))
        if not selector:
            return None
        return from_labels(selector) if kind == "ReplicationController" else from_label_selector(selector)
