"""A port of the node is given once."""

import numpy as np

from scheduler.framework.plugin import Codes, NodePlugin, Reason
from scheduler.pods import Needs, Port
from scheduler.table import NodeTable, Rows

_ANYWHERE = "0.0.0.0"  # noqa: S104 - the address that stands for all


class NodePorts(NodePlugin):
    """Rejects nodes where a host port of the pod is taken: at its address, or on all of them."""

    name = "NodePorts"
    looks_at_pods = True

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        """See NodePlugin."""
        if not needs.ports:
            return None
        taken = np.zeros(len(table.alive[rows]), dtype=bool)
        for ip, protocol, number in needs.ports:
            for other, counts in table.ports_taken(protocol, number).items():
                if _clash(ip, other):
                    taken |= counts[rows] > 0
        for at, pod in table.nominated_over(needs.priority, rows):
            taken[at] |= ports_clash(needs.ports, pod.shape.needs.ports)
        return taken

    def passes(self, needs: Needs, table: NodeTable, row: int) -> bool:
        """See NodePlugin."""
        return not needs.ports or super().passes(needs, table, row)

    def explain(self, needs: Needs, table: NodeTable, code: int) -> tuple[Reason, ...]:
        """See NodePlugin."""
        return (Reason("node(s) didn't have free ports for the requested pod ports", resolvable=True),)


def _clash(ip: str, other: str) -> bool:
    return ip == other or _ANYWHERE in (ip, other)


def ports_clash(ports: tuple[Port, ...], others: tuple[Port, ...]) -> bool:
    """Say whether two pods want a port of the node both."""
    return any(one[1:] == other[1:] and _clash(one[0], other[0]) for one in ports for other in others)
