"""Nodes on which cpu and memory run out together waste neither.

Source: https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scheduler.framework.plugin import MAX_SCORE, NodePlugin
from scheduler.pods import Needs
from scheduler.table import Ints, NodeTable, Rows

_EVEN = ({"name": "cpu"}, {"name": "memory"})


class BalancedAllocation(NodePlugin):
    """Prefers nodes whose resources would be used to like parts."""

    name = "NodeResourcesBalancedAllocation"

    def __init__(self, resources: Iterable[Mapping[str, Any]] = _EVEN) -> None:
        """Args: the resources that are compared."""
        self._resources = [str(one["name"]) for one in resources]

    def score_one(self, needs: Needs, table: NodeTable, row: int) -> int:
        """See NodePlugin."""
        if self._resources != ["cpu", "memory"]:
            return super().score_one(needs, table, row)
        cpu, memory = needs.requests.get("cpu", 0), needs.requests.get("memory", 0)
        holds_cpu, holds_memory = table.allocatable("cpu").item(row), table.allocatable("memory").item(row)
        if not cpu and not memory:
            return 0
        if not holds_cpu or not holds_memory:
            return MAX_SCORE
        parts = (
            min((table.requested("cpu").item(row) + cpu) / holds_cpu, 1.0),
            min((table.requested("memory").item(row) + memory) / holds_memory, 1.0),
        )
        return int((1 - abs((parts[0] - parts[1]) / 2)) * float(MAX_SCORE))

    def score(self, needs: Needs, table: NodeTable, rows: Rows) -> Ints | None:
        """See NodePlugin."""
        asked = [needs.requests.get(name, 0) for name in self._resources]
        if not any(asked):
            return None  # else pods that ask for nothing would all go where what is used is in balance
        native = ("cpu", "memory", "ephemeral-storage")
        parts, known = [], []
        for name, number in zip(self._resources, asked, strict=True):
            if not number and name not in native:
                continue
            holds = table.allocatable(name)[rows]
            used = table.requested(name)[rows] + number
            parts.append(np.where(holds > 0, np.minimum(used / np.maximum(holds, 1), 1.0), 0.0))
            known.append(holds > 0)
        return ((1 - _deviation(parts, known)) * float(MAX_SCORE)).astype(np.int64)


def _deviation(parts: list[Any], known: list[Any]) -> Any:
    """Return the standard deviation of the parts each node knows; with two of them, half their distance."""
    if len(parts) == 2:
        return np.where(known[0] & known[1], np.abs((parts[0] - parts[1]) / 2), 0.0)
    count = np.sum(known, axis=0)
    mean = np.sum(parts, axis=0) / np.maximum(count, 1)
    squares = np.sum([(part - mean) ** 2 * is_known for part, is_known in zip(parts, known, strict=True)], axis=0)
    spread = np.sqrt(squares / np.maximum(count, 1))
    if len(parts) > 2:
        highest = np.max([np.where(k, part, -1.0) for part, k in zip(parts, known, strict=True)], axis=0)
        lowest = np.min([np.where(k, part, 2.0) for part, k in zip(parts, known, strict=True)], axis=0)
        return np.where(count > 2, spread, np.where(count == 2, np.abs((highest - lowest) / 2), 0.0))
    return np.zeros_like(spread)
