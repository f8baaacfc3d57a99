"""Which nodes a pod asks for by their labels or names: nodeSelector and node affinity.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#node-affinity
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scheduler.framework.plugin import ClusterPlugin, Codes, Cycle, NodePlugin, Reason, Rejected, default_normalize
from scheduler.nodeselect import required_mask, selector_mask, term_mask
from scheduler.pods import Needs
from scheduler.table import Ints, Mask, NodeTable, Rows

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_OWN, _ADDED = 1, 2


class NodeAffinity(NodePlugin):
    """Rejects nodes a pod's selector or required affinity rules out; scores by what it prefers."""

    name = "NodeAffinity"
    normalizes = True

    def __init__(self, added: Mapping[str, Any] | None = None) -> None:
        """Args: `added` is node affinity that every pod of the profile has besides its own."""
        self._added = added or {}

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        """See NodePlugin."""
        own = required_mask(table, needs.node_selector, needs.affinity, rows)
        required = self._added.get(_REQUIRED)
        if own is None and not required:
            return None
        codes = np.zeros(len(table.alive[rows]), dtype=np.uint8)
        if own is not None:
            codes[~own] = _OWN
        if required:
            codes[~selector_mask(table, required, rows)] = _ADDED
        return codes

    def confines(self, needs: Needs, table: NodeTable) -> Mask | None:
        """See NodePlugin."""
        names = named_nodes(needs) if needs.affinity else None
        if not names:
            return None
        found = np.zeros(table.size, dtype=bool)
        found[[table.by_name[name].row for name in names if name in table.by_name]] = True
        return found

    def passes(self, needs: Needs, table: NodeTable, row: int) -> bool:
        """See NodePlugin."""
        if not needs.node_selector and not needs.affinity and not self._added:
            return True
        return super().passes(needs, table, row)

    def explain(self, needs: Needs, table: NodeTable, code: int) -> tuple[Reason, ...]:
        """See NodePlugin."""
        if code == _ADDED:
            return (Reason("node(s) didn't match scheduler-enforced node affinity"),)
        return (Reason("node(s) didn't match Pod's node affinity/selector"),)

    def score(self, needs: Needs, table: NodeTable, rows: Rows) -> Ints | None:
        """See NodePlugin."""
        preferred = [*(needs.affinity.get(_PREFERRED) or ()), *(self._added.get(_PREFERRED) or ())]
        if not preferred:
            return None
        total: Ints = np.zeros(len(table.alive[rows]), dtype=np.int64)
        for one in preferred:
            taken = term_mask(table, one.get("preference") or {}, rows)
            if taken is not None:
                total += int(one.get("weight") or 0) * taken
        return total

    def score_one(self, needs: Needs, table: NodeTable, row: int) -> int:
        """See NodePlugin."""
        return super().score_one(needs, table, row) if needs.affinity or self._added else 0

    def normalize(self, scores: Ints) -> Ints:
        """See NodePlugin."""
        return default_normalize(scores)


class NodeAffinityNames(ClusterPlugin):
    """Says at once that a pod's terms contradict each other; a part of NodeAffinity, and under its name."""

    name = "NodeAffinity"

    def pre_filter(self, cycle: Cycle) -> None:
        """See ClusterPlugin."""
        if cycle.needs.affinity and named_nodes(cycle.needs) == set():
            raise Rejected("pod affinity terms conflict")


def named_nodes(needs: Needs) -> set[str] | None:
    """Return the names of nodes a pod's required affinity is confined to; None when it is not confined by names."""
    terms = (needs.affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or ()
    found: set[str] = set()
    for term in terms:
        named: set[str] | None = None
        for rule in term.get("matchFields") or ():
            if rule.get("key") == "metadata.name" and rule.get("operator") == "In":
                values = set(rule.get("values") or ())
                named = values if named is None else named & values
        if named is None:
            return None
        found |= named
    return found if terms else None
