"""A volume that says which zone it is in can be used in that zone only.

Source: https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone
"""

import numpy as np

from scheduler.claims import claim_objects, is_bound
from scheduler.framework.plugin import ClusterPlugin, Codes, Cycle, Happening, Reason
from scheduler.pods import Pod
from scheduler.table import NodeTable

_NEW_NAMES = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}
_LABELS = (*_NEW_NAMES.values(), *_NEW_NAMES)


class VolumeZone(ClusterPlugin):
    """Rejects nodes of other zones than the pod's volumes; nodes that say no zone are let through."""

    name = "VolumeZone"

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        if not cycle.needs.volumes:
            return None
        wanted = self._wanted(cycle)
        if not wanted:
            return None
        table = cycle.table
        zoned = np.zeros(table.size, dtype=bool)
        for key in _LABELS:
            zoned |= table.domains(key) >= 0
        codes = np.zeros(table.size, dtype=bool)
        for key, values in wanted:
            codes |= ~self._in_zone(table, key, values)
        return codes & zoned

    @staticmethod
    def _wanted(cycle: Cycle) -> list[tuple[str, set[str]]]:
        """Return the labels of the pod's volumes, with the values a node may have."""
        found = []
        for claim in claim_objects(cycle):
            volume = cycle.cluster.volume(claim["spec"]["volumeName"]) if is_bound(claim) else None
            labels = ((volume or {}).get("metadata") or {}).get("labels") or {}
            found += [(key, set(labels[key].split("__"))) for key in _LABELS if key in labels]
        return found

    @staticmethod
    def _in_zone(table: NodeTable, key: str, values: set[str]) -> "np.ndarray":
        found = np.zeros(table.size, dtype=bool)
        for name in dict.fromkeys((key, _NEW_NAMES.get(key, key))):
            column = table.label(name)
            found |= np.isin(table.domains(name), [column.ids[value] for value in values if value in column.ids])
        return found

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        return (Reason("node(s) had no available volume zone"),)

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """See Plugin."""
        return happening.kind in ("Node", "PersistentVolume", "PersistentVolumeClaim", "StorageClass")
