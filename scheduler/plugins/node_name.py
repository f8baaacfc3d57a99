"""A pod that names its node goes nowhere else."""

import numpy as np

from scheduler.framework.plugin import ClusterPlugin, Codes, Cycle, Reason


class NodeName(ClusterPlugin):
    """Rejects all nodes but the one a pod names."""

    name = "NodeName"

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        wanted = cycle.pod.node
        if not wanted:
            return None
        codes = np.ones(cycle.table.size, dtype=np.uint8)
        if wanted in cycle.table.by_name:
            codes[cycle.table.by_name[wanted].row] = 0
        return codes

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        return (Reason("node(s) didn't match the requested node name"),)
