"""A node takes so many volumes of a CSI driver and no more.

Source: https://kubernetes.io/docs/concepts/storage/storage-limits/
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scheduler.claims import claims_of, class_of
from scheduler.cluster import Cluster
from scheduler.framework.plugin import ClusterPlugin, Codes, Cycle, Happening, Reason
from scheduler.pods import Pod
from scheduler.table import NodeTable

Volume = tuple[str, str]
"""A CSI driver, and what names the volume to it."""


class NodeVolumeLimits(ClusterPlugin):
    """Rejects nodes that would have more volumes of a driver than the driver says they can."""

    name = "NodeVolumeLimits"

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        if not cycle.needs.volumes:
            return None
        pod, cluster = cycle.pod, cycle.cluster
        found = (volume_of(cluster, pod.key.namespace, name) for name, _ in claims_of(pod))
        wanted = {volume for volume in found if volume is not None}
        if not wanted:
            return None
        attached = self._attached(cycle, {driver for driver, _ in wanted})
        codes = np.zeros(cycle.table.size, dtype=bool)
        for node in cycle.table.by_name.values():
            limits = _limits(cluster, node.name)
            for driver, limit in limits.items():
                there = {one for one in attached.get(node.row, ()) if one[0] == driver}
                new = {one for one in wanted if one[0] == driver} - there
                if new and len(there) + len(new) > limit:
                    codes[node.row] = True
        return codes

    @staticmethod
    def _attached(cycle: Cycle, drivers: set[str]) -> dict[int, set[Volume]]:
        """Return the volumes of some drivers that are in use on each row."""
        found: dict[int, set[Volume]] = {}
        for name, users in cycle.table.volumes.items():
            volume = volume_of(cycle.cluster, name[1], name[2]) if name[0] == "claim" else None
            if volume is not None and volume[0] in drivers:
                for row in users:
                    found.setdefault(row, set()).add(volume)
        for attachment in cycle.cluster.attachments():  # some stay for a while after their pods
            volume = _attached_volume(cycle.cluster, attachment["spec"])
            node = cycle.table.by_name.get(attachment["spec"].get("nodeName", ""))
            if node is not None and volume is not None and volume[0] in drivers:
                found.setdefault(node.row, set()).add(volume)
        return found

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        return (Reason("node(s) exceed max volume count", resolvable=True),)

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """See Plugin."""
        if happening.kind == "AssignedPod":
            return happening.action == "delete" and bool(happening.old.shape.needs.volumes)
        return happening.kind in ("Node", "CSINode", "PersistentVolumeClaim", "VolumeAttachment")


def _limits(cluster: Cluster, node: str) -> dict[str, int]:
    found: Mapping[str, Any] = cluster.csi_node(node) or {}
    drivers = (found.get("spec") or {}).get("drivers") or ()
    counts = ((one["name"], (one.get("allocatable") or {}).get("count")) for one in drivers)
    return {name: int(count) for name, count in counts if count is not None}


def _attached_volume(cluster: Cluster, spec: Mapping[str, Any]) -> Volume | None:
    source = spec.get("source") or {}
    volume = cluster.volume(source["persistentVolumeName"]) if source.get("persistentVolumeName") else None
    csi = ((volume or {}).get("spec") or source.get("inlineVolumeSpec") or {}).get("csi")
    return (csi["driver"], csi["volumeHandle"]) if csi else None


def volume_of(cluster: Cluster, namespace: str, name: str) -> Volume | None:
    """Return the CSI volume a claim stands for, or will once it is made; None when it is none."""
    claim = cluster.claim(namespace, name)
    if claim is None:
        return None
    if claim["spec"].get("volumeName"):
        csi = ((cluster.volume(claim["spec"]["volumeName"]) or {}).get("spec") or {}).get("csi")
        return (csi["driver"], csi["volumeHandle"]) if csi else None
    storage_class = cluster.storage_class(class_of(claim))
    return (storage_class["provisioner"], f"{namespace}/{name}") if storage_class else None
