"""Disks that one node uses at a time, and claims that one pod uses at a time.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#access-modes
"""

import numpy as np

from scheduler.claims import claim_objects
from scheduler.framework.plugin import ClusterPlugin, Codes, Cycle, Happening, Reason
from scheduler.pods import Pod
from scheduler.table import NodeTable

_IN_USE, _DISK = 1, 2


class VolumeRestrictions(ClusterPlugin):
    """Rejects nodes where a disk of the pod is in use, and every node when a claim for one pod is."""

    name = "VolumeRestrictions"

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        if not cycle.needs.volumes:
            return None
        table = cycle.table
        codes = np.zeros(table.size, dtype=np.uint8)
        for claim in claim_objects(cycle):
            metadata = claim["metadata"]
            alone = "ReadWriteOncePod" in (claim["spec"].get("accessModes") or ())
            if alone and table.volumes.get(("claim", metadata["namespace"], metadata["name"])):
                codes[:] = _IN_USE
        for disk in filter(None, (volume.disk() for volume in cycle.needs.volumes)):
            name, only_read = disk
            for row, (users, writers) in table.volumes.get(name, {}).items():
                if writers if only_read else users:
                    codes[row] = _DISK
        return codes

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        if code == _DISK:
            return (Reason("node(s) had no available disk", resolvable=True),)
        text = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
        return (Reason(text, resolvable=True),)

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """See Plugin."""
        if happening.kind == "AssignedPod":
            return happening.action == "delete" and bool(happening.old.shape.needs.volumes)
        return happening.kind in ("Node", "PersistentVolumeClaim")
