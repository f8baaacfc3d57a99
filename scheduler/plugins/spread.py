"""Spreading: a pod's own constraints, and keeping pods of one owner apart where it asks for nothing.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from machinery.api.meta import controller_of
from machinery.api.selectors import from_label_selector
from scheduler.framework.plugin import MAX_SCORE, Cycle
from scheduler.plugins.nodes import NodeAffinity, TaintToleration
from scheduler.table import Floats, Mask, NodeTable

Object = Mapping[str, Any]
_MISSING = "node(s) didn't match pod topology spread constraints (missing required label)"
_SKEWED = "node(s) didn't match pod topology spread constraints"


class PodTopologySpread:
    """Rejects nodes whose domain would hold too many of the pod's like; scores the emptier domains higher."""

    name, weight, of_nodes_alone = "PodTopologySpread", 2.0, False

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """See Plugin."""
        hard = [one for one in _constraints(cycle.pod) if one.get("whenUnsatisfiable") == "DoNotSchedule"]
        if not hard:
            return None
        passes = np.ones(len(table), dtype=bool)
        for constraint in hard:
            passes &= self._within(cycle, table, constraint)
        return passes

    def _within(self, cycle: Cycle, table: NodeTable, constraint: Object) -> Mask:
        domains, counts = _counted(cycle, table, constraint)
        eligible = _eligible(cycle, table) & np.array([domain is not None for domain in domains], dtype=bool)
        present = {domain for domain, is_in in zip(domains, eligible, strict=True) if is_in}
        least = min((counts.get(domain or "", 0) for domain in present), default=0)
        if len(present) < constraint.get("minDomains", 1):
            least = 0
        known = [domain or "" for domain in domains]
        own = from_label_selector(constraint.get("labelSelector")).matches(cycle.pod["metadata"].get("labels") or {})
        most = constraint["maxSkew"] + least - int(own)
        return np.array([bool(domain) and counts.get(domain, 0) <= most for domain in known], dtype=bool)

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """See Plugin."""
        labels = table.rows[table.names[index]].node["metadata"].get("labels") or {}
        hard = [one for one in _constraints(cycle.pod) if one.get("whenUnsatisfiable") == "DoNotSchedule"]
        return [_MISSING if any(one["topologyKey"] not in labels for one in hard) else _SKEWED]

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """See Plugin."""
        soft = [one for one in _constraints(cycle.pod) if one.get("whenUnsatisfiable") == "ScheduleAnyway"]
        if not soft:
            return self._owner_score(cycle, table)
        total = np.zeros(len(table))
        for constraint in soft:
            domains, counts = _counted(cycle, table, constraint)
            total += np.array([counts.get(domain, 0) if domain is not None else 0 for domain in domains])
        return _fewest_best(total)

    @staticmethod
    def _owner_score(cycle: Cycle, table: NodeTable) -> Floats | None:
        """Without constraints of its own, a pod keeps away from others of the same owner."""
        owner = controller_of(cycle.pod)
        if owner is None or _constraints(cycle.pod):
            return None
        counts = table.owners.get(owner["uid"])
        if not counts:
            return None
        total = np.zeros(len(table))
        for name, number in counts.items():
            if name in table.rows:
                total[table.rows[name].index] = number
        return _fewest_best(total)


def _constraints(pod: Object) -> list[Object]:
    return list(pod["spec"].get("topologySpreadConstraints") or ())


def _fewest_best(total: Floats) -> Floats | None:
    most = total.max(initial=0.0)
    return None if most == 0 else MAX_SCORE * (1 - total / most)


def _eligible(cycle: Cycle, table: NodeTable) -> Mask:
    """Return the nodes whose domains count: those the pod's node affinity lets through."""
    mask = NodeAffinity().filter(cycle, table)
    return np.ones(len(table), dtype=bool) if mask is None else mask


def _counted(cycle: Cycle, table: NodeTable, constraint: Object) -> tuple[list[str | None], dict[str, int]]:
    """Return each node's domain, and how many matching pods of the namespace each domain holds."""
    key = constraint["topologyKey"]
    domains = [(node["metadata"].get("labels") or {}).get(key) for node in table.objects()]
    included = _eligible(cycle, table)
    if constraint.get("nodeTaintsPolicy") == "Honor":
        taints = TaintToleration().filter(cycle, table)
        included = included & taints if taints is not None else included
    selector = from_label_selector(constraint.get("labelSelector"))
    namespace = cycle.pod["metadata"].get("namespace")
    counts: dict[str, int] = {}
    for index, placed in table.placed():
        metadata = placed.pod["metadata"]
        domain = domains[index]
        if domain is None or not included[index] or metadata.get("namespace") != namespace:
            continue
        if not metadata.get("deletionTimestamp") and selector.matches(metadata.get("labels") or {}):
            counts[domain] = counts.get(domain, 0) + 1
    return domains, counts
