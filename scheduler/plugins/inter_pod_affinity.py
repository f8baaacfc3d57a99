"""Affinity between pods: near to some, away from others, by nodes that share the value of a label.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity
"""

import numpy as np
from numpy.typing import NDArray

from scheduler.framework.plugin import MAX_SCORE, ClusterPlugin, Codes, Cycle, Happening, Reason
from scheduler.pods import Pod
from scheduler.table import Ints, Mask, NodeTable
from scheduler.tally import Counts
from scheduler.terms import AffinityTerm, AffinityTerms

_AFFINITY, _ANTI, _EXISTING = 1, 2, 3
_TEXTS = {
    _AFFINITY: Reason("node(s) didn't match pod affinity rules"),
    _ANTI: Reason("node(s) didn't match pod anti-affinity rules", resolvable=True),
    _EXISTING: Reason("node(s) didn't satisfy existing pods anti-affinity rules", resolvable=True),
}
_NONE = AffinityTerms()


class InterPodAffinity(ClusterPlugin):
    """Rejects nodes by required terms, the pod's own and those of pods that are there; scores by preferred ones."""

    name = "InterPodAffinity"
    looks_at_pods = True

    def __init__(self, hard_weight: int = 1, *, ignore_preferred_of_existing: bool = False) -> None:
        """Take the weights.

        Args:
            hard_weight: how much a required term of a pod that is there counts for a pod it is about.
            ignore_preferred_of_existing: leave preferred terms of pods that are there out where the pod has none.
        """
        self._hard_weight = hard_weight
        self._ignore_preferred_of_existing = ignore_preferred_of_existing

    # ---- filter

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        terms = cycle.pod.shape.affinity or _NONE
        table = cycle.table
        existing = table.tallies.holders("anti_required", cycle.pod)
        if not existing and not terms.required and not terms.anti_required:
            return None
        codes = np.zeros(table.size, dtype=np.uint8)
        for holders in existing:
            codes[_with_any(table, holders.term.topology_key, holders.tally.counts)] = _EXISTING
        for term in terms.anti_required:
            codes[_with_any(table, term.topology_key, table.tallies.matching_all((term.pods,)))] = _ANTI
        if terms.required:
            codes[~self._near(cycle, terms.required)] = _AFFINITY
        return codes

    def _near(self, cycle: Cycle, required: tuple[AffinityTerm, ...]) -> Mask:
        """Return the rows that have a pod all terms are about in each term's domain."""
        table = cycle.table
        counts = table.tallies.matching_all(tuple(term.pods for term in required))
        labelled: Mask = np.ones(table.size, dtype=bool)
        near: Mask = np.ones(table.size, dtype=bool)
        anywhere = False
        for term in required:
            labelled &= table.domains(term.topology_key) >= 0
            found = _with_any(table, term.topology_key, counts)
            anywhere = anywhere or bool(found.any())
            near &= found
        if not anywhere and self._takes_itself(cycle, required):
            return labelled  # the first of a group that wants to be together has nobody to be near to
        return labelled & near

    @staticmethod
    def _takes_itself(cycle: Cycle, required: tuple[AffinityTerm, ...]) -> bool:
        shape = cycle.pod.shape
        theirs = cycle.table.tallies.namespace_labels(shape.namespace)
        return all(term.pods.matches(shape.namespace, shape.labels, theirs) for term in required)

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        return (_TEXTS[code],)

    # ---- score

    def _parts(self, cycle: Cycle) -> list[tuple[str, Counts, int]]:
        """Return the label, the count of pods a row, and the weight of each, of all terms that bear on the score."""
        found: list[tuple[str, Counts, int]] | None = cycle.memo.get("affinity.parts")
        if found is not None:
            return found
        terms, tallies = cycle.pod.shape.affinity or _NONE, cycle.table.tallies
        found = [(one.topology_key, tallies.matching_all((one.pods,)), one.weight) for one in terms.preferred]
        found += [(one.topology_key, tallies.matching_all((one.pods,)), -one.weight) for one in terms.anti_preferred]
        prefers = bool(terms.preferred or terms.anti_preferred)
        if prefers or not self._ignore_preferred_of_existing:
            kinds = [("preferred", 1), ("anti_preferred", -1)]
            for kind, sign in kinds:
                for one in tallies.holders(kind, cycle.pod):
                    found.append((one.term.topology_key, one.tally.counts, sign * one.term.weight))
        if self._hard_weight:
            for one in tallies.holders("required", cycle.pod):
                found.append((one.term.topology_key, one.tally.counts, self._hard_weight))
        cycle.memo["affinity.parts"] = found
        return found

    def scores(self, cycle: Cycle) -> bool:
        """See ClusterPlugin."""
        return bool(self._parts(cycle))

    def score(self, cycle: Cycle, passed: NDArray[np.intp]) -> Ints | None:
        """See ClusterPlugin."""
        parts = self._parts(cycle)
        if not parts:
            return None
        total: Ints = np.zeros(len(passed), dtype=np.int64)
        for key, counts, weight in parts:
            domains = cycle.table.domains(key)
            per = _per_domain(cycle.table, key, counts)
            total += weight * np.append(per, 0)[domains[passed]]
        least, most = int(total.min()), int(total.max())
        if most == least:
            return None
        return (MAX_SCORE * ((total - least) / (most - least))).astype(np.int64)

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """See Plugin."""
        if happening.kind != "AssignedPod":
            return happening.kind in ("Node", "Namespace")
        other: Pod = happening.new or happening.old
        own, theirs = pod.shape.affinity or _NONE, other.shape.affinity or _NONE
        came = happening.action != "delete" and any(_is_meant(table, one, other) for one in own.required)
        # A change of labels may take a pod out of the reach of a term, as if it went.
        went = happening.action != "add" and (
            happening.action == "update"
            or any(_is_meant(table, one, other) for one in own.anti_required)
            or any(_is_meant(table, one, pod) for one in theirs.anti_required)
        )
        return came or went


def _is_meant(table: NodeTable, term: AffinityTerm, pod: Pod) -> bool:
    shape = pod.shape
    return term.pods.matches(shape.namespace, shape.labels, table.tallies.namespace_labels(shape.namespace))


def _per_domain(table: NodeTable, key: str, counts: Counts) -> Ints:
    """Return how many of the counted pods each value of a label has on the nodes that bear it."""
    domains = table.domains(key)
    rows = counts[: table.size].nonzero()[0]
    rows = rows[domains[rows] >= 0]
    size = len(table.label(key).values)
    return np.bincount(domains[rows], weights=counts[rows], minlength=size).astype(np.int64)


def _with_any(table: NodeTable, key: str, counts: Counts) -> Mask:
    """Return the rows in whose domain there is any of the counted pods."""
    per = _per_domain(table, key, counts)
    return np.append(per > 0, False)[table.domains(key)]
