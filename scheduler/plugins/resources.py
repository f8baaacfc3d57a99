"""Rules about room: requests against what is left, and ports of the node.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/
"""

import numpy as np

from scheduler.framework.plugin import MAX_SCORE, Cycle
from scheduler.table import CPU, MEMORY, PODS, Floats, Mask, NodeTable, host_ports

# What a container without requests is taken for, so that many of them spread all the same.
_DEFAULT_CPU, _DEFAULT_MEMORY = 100.0, 200.0 * 1024 * 1024


class NodeResourcesFit:
    """Rejects nodes without room for the pod's requests; prefers those with most room left."""

    name, weight, of_nodes_alone = "NodeResourcesFit", 1.0, False

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """See Plugin."""
        asked = table.vector(cycle.requests)
        used = np.flatnonzero(asked)
        free = table.allocatable[:, used] - table.requested[:, used]
        passes: Mask = np.all(free >= asked[used], axis=1)
        return passes

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """See Plugin."""
        asked = table.vector(cycle.requests)
        free = table.allocatable[index] - table.requested[index]
        short = [at for at in np.flatnonzero(asked) if asked[at] > free[at]]
        return ["Too many pods" if at == PODS else f"Insufficient {table.resources[at]}" for at in short]

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """See Plugin."""
        left = 1.0 - _shares(cycle, table)
        scores: Floats = MAX_SCORE * np.clip(left, 0.0, 1.0).mean(axis=1)
        return scores


class BalancedAllocation:
    """Prefers nodes whose cpu and memory would be used to like parts."""

    name, weight, of_nodes_alone = "NodeResourcesBalancedAllocation", 1.0, False

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """See Plugin."""
        return None

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """See Plugin."""
        return []

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """See Plugin."""
        shares = np.clip(_shares(cycle, table), 0.0, 1.0)
        scores: Floats = MAX_SCORE * (1.0 - np.abs(shares[:, 0] - shares[:, 1]) / 2)
        return scores


def _shares(cycle: Cycle, table: NodeTable) -> Floats:
    """Return for each node which part of its cpu and memory would be taken with the pod on it."""
    known: Floats | None = cycle.memo.get("shares")
    if known is not None:
        return known
    count = len(cycle.pod["spec"].get("containers") or ())
    asked = np.array(
        [cycle.requests.get("cpu") or _DEFAULT_CPU * count, cycle.requests.get("memory") or _DEFAULT_MEMORY * count]
    )
    has = table.allocatable[:, [CPU, MEMORY]]
    pods = table.requested[:, [PODS]]
    # Pods without requests are counted by their number, else the first node would take all of them.
    used = np.maximum(table.requested[:, [CPU, MEMORY]], pods * np.array([_DEFAULT_CPU, _DEFAULT_MEMORY]))
    found = np.divide(used + asked, has, out=np.ones_like(has), where=has > 0)
    cycle.memo["shares"] = found
    return found


class NodePorts:
    """Rejects nodes where a host port of the pod is taken."""

    name, weight, of_nodes_alone = "NodePorts", 0.0, False

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """See Plugin."""
        wanted = host_ports(cycle.pod)
        if not wanted:
            return None
        return np.array([not self._clash(wanted, table, name) for name in table.names], dtype=bool)

    @staticmethod
    def _clash(wanted: list[tuple[str, str, int]], table: NodeTable, name: str) -> bool:
        anywhere = "0.0.0.0"  # noqa: S104 - the address that stands for all
        for ip, protocol, port in wanted:
            for taken_ip, taken_protocol, taken_port in table.rows[name].ports:
                same = (protocol, port) == (taken_protocol, taken_port)
                if same and (ip == taken_ip or anywhere in (ip, taken_ip)):
                    return True
        return False

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """See Plugin."""
        return ["node(s) didn't have free ports for the requested pod ports"]

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """See Plugin."""
        return None
