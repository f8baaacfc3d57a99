"""Cordoned nodes take no new pods. Source: https://kubernetes.io/docs/concepts/architecture/nodes/#manual-node-administration."""

from machinery.api.placement import tolerates
from scheduler.framework.plugin import Codes, NodePlugin, Reason
from scheduler.pods import Needs
from scheduler.table import NodeTable, Rows

_TAINT = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


class NodeUnschedulable(NodePlugin):
    """Rejects cordoned nodes, unless the pod tolerates that."""

    name = "NodeUnschedulable"

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        """See NodePlugin."""
        cordoned = table.unschedulable[rows]
        if not cordoned.any() or any(tolerates(one, _TAINT) for one in needs.tolerations):
            return None
        return cordoned

    def passes(self, needs: Needs, table: NodeTable, row: int) -> bool:
        """See NodePlugin."""
        return not table.unschedulable.item(row) or any(tolerates(one, _TAINT) for one in needs.tolerations)

    def explain(self, needs: Needs, table: NodeTable, code: int) -> tuple[Reason, ...]:
        """See NodePlugin."""
        return (Reason("node(s) were unschedulable"),)
