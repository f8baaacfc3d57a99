"""Taints keep pods off nodes. Nodes share few sets of taints: each set is judged once, and nodes look it up.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
"""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from machinery.api.placement import tolerates, untolerated
from scheduler.framework.plugin import Codes, NodePlugin, Reason, default_normalize
from scheduler.pods import Needs
from scheduler.table import Ints, NodeTable, Rows


class TaintToleration(NodePlugin):
    """Rejects nodes with taints the pod does not tolerate; prefers those with fewer it would rather avoid."""

    name = "TaintToleration"
    normalizes = True

    def __init__(self) -> None:
        self._judged: WeakKeyDictionary[Needs, list[tuple[bool, int]]] = WeakKeyDictionary()

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        """See NodePlugin."""
        if len(table.taint_sets) == 1:
            return None
        return np.array([hard for hard, _ in self._judge(needs, table)], dtype=bool)[table.taints[rows]]

    def passes(self, needs: Needs, table: NodeTable, row: int) -> bool:
        """See NodePlugin."""
        return len(table.taint_sets) == 1 or not self._judge(needs, table)[table.taints.item(row)][0]

    def score_one(self, needs: Needs, table: NodeTable, row: int) -> int:
        """See NodePlugin."""
        return 0 if len(table.taint_sets) == 1 else self._judge(needs, table)[table.taints.item(row)][1]

    def explain(self, needs: Needs, table: NodeTable, code: int) -> tuple[Reason, ...]:
        """See NodePlugin."""
        return (Reason("node(s) had untolerated taint(s)"),)

    def score(self, needs: Needs, table: NodeTable, rows: Rows) -> Ints | None:
        """See NodePlugin."""
        if len(table.taint_sets) == 1:
            return None
        found: Ints = np.array([soft for _, soft in self._judge(needs, table)], dtype=np.int64)[table.taints[rows]]
        return found if found.any() else None

    def normalize(self, scores: Ints) -> Ints:
        """See NodePlugin."""
        return default_normalize(scores, reverse=True)

    def _judge(self, needs: Needs, table: NodeTable) -> list[tuple[bool, int]]:
        """Return for each set of taints whether it keeps the pod off, and how many of it the pod would rather avoid."""
        known = self._judged.setdefault(needs, [])
        for taints in table.taint_sets[len(known) :]:
            known.append((_keeps_off(taints, needs), _avoided(taints, needs)))
        return known


def _keeps_off(taints: tuple[Mapping[str, Any], ...], needs: Needs) -> bool:
    return untolerated(taints, needs.tolerations, ("NoSchedule", "NoExecute")) is not None


def _avoided(taints: tuple[Mapping[str, Any], ...], needs: Needs) -> int:
    soft = [taint for taint in taints if taint["effect"] == "PreferNoSchedule"]
    return sum(not any(tolerates(one, taint) for one in needs.tolerations) for taint in soft)
