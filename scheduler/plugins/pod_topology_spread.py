"""Spreading: how unlike the numbers of a pod's like may be over the values of a label.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from machinery.api.placement import untolerated
from machinery.api.selectors import LabelSelector, Operator, Requirement
from scheduler.framework.plugin import MAX_SCORE, ClusterPlugin, Codes, Cycle, Happening, Reason
from scheduler.nodeselect import required_mask
from scheduler.pods import Needs, Pod, Shape
from scheduler.table import HOSTNAME, Ints, Mask, NodeTable
from scheduler.terms import SpreadConstraint

_NO_LABEL, _SKEWED = 1, 2
_ANY = LabelSelector()
SYSTEM_DEFAULTS = (
    SpreadConstraint(HOSTNAME, 3, hard=False, selector=_ANY),
    SpreadConstraint("topology.kubernetes.io/zone", 5, hard=False, selector=_ANY),
)
"""What is meant for pods without constraints of their own, unless the profile says otherwise."""
_MAX_KEPT = 128


@dataclass(slots=True)
class _Layout:
    """For one constraint, what follows from nodes alone: the rows that count, and the domain of each of them."""

    rows: NDArray[np.intp]
    domains: NDArray[np.int32]
    present: Mask
    of_row: NDArray[np.int32]


class PodTopologySpread(ClusterPlugin):
    """Rejects nodes whose domain would hold too many of the pod's like; scores the emptier domains higher."""

    name = "PodTopologySpread"
    looks_at_pods = True

    def __init__(self, defaults: Sequence[SpreadConstraint] = SYSTEM_DEFAULTS, *, system: bool = True) -> None:
        """Args: constraints for pods that have none, and whether these are the built-in ones."""
        self._defaults = tuple(defaults)
        self._system = system
        self._layouts: dict[Any, _Layout] = {}
        self._version = -1
        self._selectors: WeakKeyDictionary[Shape, tuple[int, LabelSelector | None]] = WeakKeyDictionary()

    # ---- which constraints

    def _constraints(self, cycle: Cycle, *, hard: bool) -> tuple[SpreadConstraint, ...]:
        key = "spread.hard" if hard else "spread.soft"
        found = cycle.memo.get(key)
        if found is None:
            found = cycle.memo[key] = self._find(cycle, hard=hard)
        return found

    def _find(self, cycle: Cycle, *, hard: bool) -> tuple[SpreadConstraint, ...]:
        own = cycle.pod.shape.constraints
        if own:
            return tuple(one for one in own if one.hard is hard)
        meant = [one for one in self._defaults if one.hard is hard]
        selector = self._default_selector(cycle) if meant else None
        return tuple(replace(one, selector=selector) for one in meant) if selector is not None else ()

    def _default_selector(self, cycle: Cycle) -> LabelSelector | None:
        """Return what the pod's services and its owner select; None when that is nothing in particular."""
        shape, version = cycle.pod.shape, cycle.cluster.version
        kept = self._selectors.get(shape)
        if kept is None or kept[0] != version:
            kept = self._selectors[shape] = (version, default_selector(cycle))
        return kept[1]

    # ---- filter

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        hard = self._constraints(cycle, hard=True)
        if not hard:
            return None
        table, shape = cycle.table, cycle.pod.shape
        codes = np.zeros(table.size, dtype=np.uint8)
        for constraint in reversed(hard):  # the first one that fails is the one that is told
            layout = self._layout(cycle, constraint, hard, require_all=True)
            per = self._per_domain(cycle, constraint, layout)
            least = 0
            if np.count_nonzero(layout.present) >= constraint.min_domains:
                least = int(per[layout.present].min(initial=2**31 - 1))
            most = constraint.max_skew + least - int(constraint.selector.matches(shape.labels))
            too_many = np.append(per > most, False)[layout.of_row]
            codes[too_many] = _SKEWED
            codes[layout.of_row < 0] = _NO_LABEL
        return codes

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        text = "node(s) didn't match pod topology spread constraints"
        if code == _NO_LABEL:
            return (Reason(f"{text} (missing required label)"),)
        return (Reason(text, resolvable=True),)

    def _per_domain(self, cycle: Cycle, constraint: SpreadConstraint, layout: _Layout) -> Ints:
        counts = cycle.table.tallies.matching(cycle.pod.shape.namespace, constraint.selector)
        weights = counts[layout.rows]
        return np.bincount(layout.domains, weights=weights, minlength=len(layout.present)).astype(np.int64)

    def _layout(
        self, cycle: Cycle, constraint: SpreadConstraint, together: tuple[SpreadConstraint, ...], *, require_all: bool
    ) -> _Layout:
        table, needs = cycle.table, cycle.needs
        if self._version != table.nodes_version or len(self._layouts) > _MAX_KEPT:
            self._layouts.clear()
            self._version = table.nodes_version
        keys = tuple(one.topology_key for one in together) if require_all else ()
        policies = (constraint.honor_affinity, constraint.honor_taints)
        # Of the needs only this plays a part, so pods that differ elsewhere share the layout.
        about = (needs.key[2], needs.key[3]) if policies[0] else None, needs.key[4] if policies[1] else None
        key = (about, constraint.topology_key, keys, policies, table.size)
        found = self._layouts.get(key)
        if found is None:
            found = self._layouts[key] = _lay_out(table, needs, constraint, keys)
        return found

    # ---- score

    def scores(self, cycle: Cycle) -> bool:
        """See ClusterPlugin."""
        return bool(self._constraints(cycle, hard=False))

    def score(self, cycle: Cycle, passed: NDArray[np.intp]) -> Ints | None:
        """See ClusterPlugin."""
        soft = self._constraints(cycle, hard=False)
        if not soft:
            return None
        require_all = bool(cycle.pod.shape.constraints) or not self._system
        columns = [cycle.table.domains(one.topology_key)[passed] for one in soft]
        ignored = np.zeros(len(passed), dtype=bool)
        if require_all:
            for column in columns:
                ignored |= column < 0
        total = np.zeros(len(passed))
        for constraint, column in zip(soft, columns, strict=True):
            total += self._of_one(cycle, constraint, soft, passed, column, ignored, require_all=require_all)
        rounded: Ints = np.floor(total + 0.5).astype(np.int64)
        rounded[ignored] = 0
        return _emptiest_first(rounded, ignored)

    def _of_one(
        self,
        cycle: Cycle,
        constraint: SpreadConstraint,
        together: tuple[SpreadConstraint, ...],
        passed: NDArray[np.intp],
        column: NDArray[np.int32],
        ignored: Mask,
        *,
        require_all: bool,
    ) -> NDArray[np.float64]:
        if constraint.topology_key == HOSTNAME:
            counts = cycle.table.tallies.matching(cycle.pod.shape.namespace, constraint.selector)[passed]
            size = len(passed) - int(np.count_nonzero(ignored))
        else:
            layout = self._layout(cycle, constraint, together, require_all=require_all)
            per = self._per_domain(cycle, constraint, layout)
            counts = np.append(per, 0)[column]
            seen = np.zeros(len(layout.present) + 1, dtype=bool)
            seen[column[~ignored]] = True  # -1, no label, is the last, and counts as a domain
            size = int(np.count_nonzero(seen))
        weight = np.log(float(size + 2))
        return np.where(column >= 0, counts * weight + float(constraint.max_skew - 1), 0.0)

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """See Plugin."""
        if happening.kind == "Node":
            return True
        if happening.kind != "AssignedPod":
            return False
        other: Pod = happening.new or happening.old
        if other.shape.namespace != pod.shape.namespace:
            return False
        own = pod.shape.constraints
        return not own or any(one.selector.matches(other.shape.labels) for one in own)


def _lay_out(table: NodeTable, needs: Needs, constraint: SpreadConstraint, keys: Iterable[str]) -> _Layout:
    of_row = table.domains(constraint.topology_key)
    counted = table.alive & (of_row >= 0)
    for key in keys:
        counted = counted & (table.domains(key) >= 0)
    if constraint.honor_affinity:
        taken = required_mask(table, needs.node_selector, needs.affinity)
        counted = counted if taken is None else counted & taken
    if constraint.honor_taints:
        kept_off = [
            untolerated(taints, needs.tolerations, ("NoSchedule", "NoExecute")) is not None
            for taints in table.taint_sets
        ]
        counted = counted & ~np.array(kept_off, dtype=bool)[table.taints]
    rows = np.flatnonzero(counted)
    domains = of_row[rows]
    present = np.bincount(domains, minlength=len(table.label(constraint.topology_key).values)) > 0
    return _Layout(rows, domains, present, of_row.copy())


def _emptiest_first(scores: Ints, ignored: Mask) -> Ints:
    counted = scores[~ignored]
    if not len(counted):
        return np.zeros(len(scores), dtype=np.int64)
    most, least = int(counted.max()), int(counted.min())
    found: Ints = np.full(len(scores), MAX_SCORE, dtype=np.int64)
    if most:
        found = MAX_SCORE * (most + least - scores) // most
    found[ignored] = 0
    return found


def default_selector(cycle: Cycle) -> LabelSelector | None:
    """Return what a pod's services and its owner select together; None when that is nothing in particular."""
    shape = cycle.pod.shape
    labels: dict[str, str] = {}
    for selector in cycle.cluster.services(shape.namespace):
        if selector and all(shape.labels.get(key) == value for key, value in selector.items()):
            labels.update(selector)
    found = [Requirement(key, Operator.EQUALS, frozenset((value,))) for key, value in sorted(labels.items())]
    if shape.owner is not None:
        kind, name, _ = shape.owner
        of_owner = cycle.cluster.workload(kind, shape.namespace, name)
        if of_owner is not None:
            found += [one for one in of_owner.requirements if one not in found]
    return LabelSelector(tuple(found)) if found else None
