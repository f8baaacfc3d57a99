"""Pods that ask for what not every kubelet can do go to nodes that say they can.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/
"""

import numpy as np

from scheduler.framework.plugin import Codes, NodePlugin, Reason
from scheduler.pods import Needs
from scheduler.table import NodeTable, Rows


class NodeDeclaredFeatures(NodePlugin):
    """Rejects nodes that do not declare the features a pod needs; few pods need any."""

    name = "NodeDeclaredFeatures"

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        """See NodePlugin."""
        if not needs.features:
            return None
        places = np.arange(table.size)[rows].tolist()
        return np.array([not self.passes(needs, table, row) for row in places], dtype=bool)

    def passes(self, needs: Needs, table: NodeTable, row: int) -> bool:
        """See NodePlugin."""
        if not needs.features:
            return True
        node = table.nodes[row].object or {}
        return needs.features <= set((node.get("status") or {}).get("declaredFeatures") or ())

    def explain(self, needs: Needs, table: NodeTable, code: int) -> tuple[Reason, ...]:
        """See NodePlugin."""
        return (Reason("node(s) didn't match Pod's required features"),)
