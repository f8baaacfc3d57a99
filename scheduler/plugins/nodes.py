"""Rules that look at nodes alone: cordoned, named, tainted, selected.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scheduler.framework.plugin import MAX_SCORE, Cycle
from scheduler.table import Floats, Mask, NodeTable

Object = Mapping[str, Any]
_UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def tolerates(toleration: Object, taint: Object) -> bool:
    """Whether a toleration is for a taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def _untolerated(pod: Object, taints: Iterable[Object], effects: Sequence[str]) -> Object | None:
    tolerations = pod["spec"].get("tolerations") or ()
    for taint in taints:
        if taint.get("effect") in effects and not any(tolerates(one, taint) for one in tolerations):
            return taint
    return None


class NodeUnschedulable:
    """Rejects cordoned nodes."""

    name, weight, of_nodes_alone = "NodeUnschedulable", 0.0, True

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """See Plugin."""
        if any(tolerates(one, _UNSCHEDULABLE) for one in cycle.pod["spec"].get("tolerations") or ()):
            return None
        return np.array([not (node.get("spec") or {}).get("unschedulable") for node in table.objects()], dtype=bool)

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """See Plugin."""
        return ["node(s) were unschedulable"]

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """See Plugin."""
        return None


class NodeName:
    """Rejects all but the node a pod names."""

    name, weight, of_nodes_alone = "NodeName", 0.0, True

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """See Plugin."""
        wanted = cycle.pod["spec"].get("nodeName")
        return np.array([name == wanted for name in table.names], dtype=bool) if wanted else None

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """See Plugin."""
        return ["node(s) didn't match the requested node name"]

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """See Plugin."""
        return None


class TaintToleration:
    """Rejects nodes with taints the pod does not tolerate, and prefers those with fewer it would rather avoid."""

    name, weight, of_nodes_alone = "TaintToleration", 3.0, True

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """See Plugin."""
        return np.array([self._first(cycle, node) is None for node in table.objects()], dtype=bool)

    @staticmethod
    def _first(cycle: Cycle, node: Object) -> Object | None:
        taints = (node.get("spec") or {}).get("taints") or ()
        return _untolerated(cycle.pod, taints, ("NoSchedule", "NoExecute"))

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """See Plugin."""
        return ["node(s) had untolerated taint(s)"]

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """See Plugin."""
        counts = np.array([self._soft(cycle, node) for node in table.objects()], dtype=np.float64)
        most = counts.max(initial=0.0)
        return None if most == 0 else MAX_SCORE * (1 - counts / most)

    @staticmethod
    def _soft(cycle: Cycle, node: Object) -> int:
        taints = [
            one for one in (node.get("spec") or {}).get("taints") or () if one.get("effect") == "PreferNoSchedule"
        ]
        return sum(_untolerated(cycle.pod, [one], ("PreferNoSchedule",)) is not None for one in taints)


def _requirement(rule: Object, value: str | None) -> bool:
    operator, values = rule["operator"], rule.get("values") or ()
    match operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    if value is None or not value.lstrip("-").isdigit():
        return False
    bound = int(next(iter(values), "0"))
    return int(value) > bound if operator == "Gt" else int(value) < bound


def matches_term(term: Object, node: Object) -> bool:
    """Whether a node selector term holds for a node; an empty term holds for none."""
    labels = node["metadata"].get("labels") or {}
    rules, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not rules and not fields:
        return False
    if not all(_requirement(rule, labels.get(rule["key"])) for rule in rules):
        return False
    return all(_requirement(rule, node["metadata"]["name"]) for rule in fields if rule["key"] == "metadata.name")


class NodeAffinity:
    """Rejects nodes a pod's selector or required affinity rules out; scores by what it prefers."""

    name, weight, of_nodes_alone = "NodeAffinity", 2.0, True

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """See Plugin."""
        spec = cycle.pod["spec"]
        selector = spec.get("nodeSelector") or {}
        affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
        required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
        if not selector and not required:
            return None
        terms = (required or {}).get("nodeSelectorTerms") or ()

        def passes(node: Object) -> bool:
            labels = node["metadata"].get("labels") or {}
            if any(labels.get(key) != value for key, value in selector.items()):
                return False
            return required is None or any(matches_term(term, node) for term in terms)

        return np.array([passes(node) for node in table.objects()], dtype=bool)

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """See Plugin."""
        return ["node(s) didn't match Pod's node affinity/selector"]

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """See Plugin."""
        affinity = (cycle.pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
        preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        if not preferred:
            return None
        sums = [sum(p["weight"] for p in preferred if matches_term(p["preference"], node)) for node in table.objects()]
        found = np.array(sums, dtype=np.float64)
        most = found.max(initial=0.0)
        return None if most == 0 else MAX_SCORE * found / most
