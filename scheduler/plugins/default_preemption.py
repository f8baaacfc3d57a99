"""Preemption: which pods of lower priority would have to go, and where that does the least harm. Pure.

Victims are chosen on a node as upstream chooses them: all pods of lower priority are taken away in thought; if the pod
fits then, they are put back one by one, the important ones first and those whose budget would be broken before the
others, as long as it still fits. What cannot be put back are the victims.

Where only room is short (the usual case) this is arithmetic, and kept for each needs until the node changes.
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from machinery.api.selectors import SelectorError, from_label_selector
from scheduler.framework.plugin import Cycle, PostFilterPlugin, Rescue, Victims
from scheduler.pods import Needs, Pod
from scheduler.table import Mask, Node, NodeTable

Object = Mapping[str, Any]
_NO_VICTIMS = "No preemption victims found for incoming pod"
_NOT_HELPFUL = "Preemption is not helpful for scheduling"
_LATEST = "~"  # sorts behind every time: a pod that has not started yet


class Candidate(NamedTuple):
    """A node and who would have to go there, the most important first."""

    row: int
    victims: tuple[Pod, ...]
    violations: int
    harm: tuple[Any, ...] = ()
    """What candidates are compared by: the smaller the better."""


class DefaultPreemption(PostFilterPlugin):
    """Makes room for a pod at the cost of less important ones."""

    name = "DefaultPreemption"

    def __init__(self, min_percentage: int = 10, min_absolute: int = 100) -> None:
        """Args: how many nodes, in percent and at least, are compared before one is chosen."""
        self._percentage, self._absolute = min_percentage, min_absolute
        self._random = random.Random()  # noqa: S311 - where the search begins
        self._kept: WeakKeyDictionary[Needs, dict[int, tuple[int, Candidate | str]]] = WeakKeyDictionary()

    def post_filter(self, cycle: Cycle, resolvable: Mask) -> Rescue:
        """See PostFilterPlugin."""
        refusal = self._not_eligible(cycle, resolvable)
        if refusal:
            return Rescue(f"preemption: {refusal}")
        table, rows = cycle.table, np.flatnonzero(resolvable)
        candidates, reasons = self._candidates(cycle, rows)
        if not candidates:
            if rest := table.count - sum(reasons.values()):
                reasons[_NOT_HELPFUL] = rest
            listed = ", ".join(sorted(f"{number} {reason}" for reason, number in reasons.items()))
            return Rescue(f"preemption: 0/{table.count} nodes are available: {listed}.", node="")
        best = min(candidates, key=lambda one: (one.harm, one.row))  # where the harm is the same: always the same one
        options = {table.nodes[one.row].name: Victims(one.victims, one.violations) for one in candidates}
        return Rescue(node=table.nodes[best.row].name, victims=best.victims, options=options)

    def choose(self, options: Mapping[str, Victims]) -> str:
        """See PostFilterPlugin."""
        ranked = {
            name: _harm(Candidate(0, tuple(sorted(one.pods, key=_importance)), one.violations))
            for name, one in options.items()
        }
        return min(ranked, key=lambda name: (ranked[name], name))

    @staticmethod
    def _not_eligible(cycle: Cycle, resolvable: Mask) -> str:
        pod, table = cycle.pod, cycle.table
        if cycle.needs.policy == "Never":
            return "not eligible due to preemptionPolicy=Never."
        nominated = table.nominated.get(pod.uid)
        if nominated is None or not resolvable[nominated[1]]:
            return ""
        there = table.nodes[nominated[1]].pods.values()
        if any(one.priority < pod.priority and one.deleting and one.preempted for one in there):
            return "not eligible due to a terminating pod on the nominated node."
        return ""

    def _candidates(self, cycle: Cycle, rows: Any) -> tuple[list[Candidate], Counter[str]]:
        """Look at nodes until there are enough to choose from; also count why others are none."""
        table, found, reasons = cycle.table, [], Counter[str]()
        if not len(rows):
            return [], reasons
        if min((p for p, number in table.priorities.items() if number), default=0) >= cycle.pod.priority:
            return [], Counter({_NO_VICTIMS: len(rows)})
        wanted = min(max(len(rows) * self._percentage // 100, self._absolute), len(rows))
        start = self._random.randrange(len(rows))
        budgets = list(cycle.cluster.budgets())
        simple = not cycle.needs.ports and not budgets and not cycle.looks_beyond(cycle)
        # What a pod nominated itself would find is not what others of its needs would: its own place is not in its way.
        keeps = simple and cycle.pod.uid not in table.nominated
        kept = self._kept.setdefault(cycle.needs, {}) if keeps else {}
        versions, without_harm = table.versions, 0
        for row in (*rows[start:].tolist(), *rows[:start].tolist()):
            version = versions.get(row, 0)
            known = kept.get(row)
            if known is None or known[0] != version:
                known = kept[row] = (version, self._on_row(cycle, row, budgets, simple=simple))
            one = known[1]
            if isinstance(one, str):
                reasons[one] += 1
                continue
            found.append(one)
            without_harm += one.violations == 0
            if without_harm and len(found) >= wanted:
                break
        return found, reasons

    @staticmethod
    def _on_row(cycle: Cycle, row: int, budgets: Sequence[Object], *, simple: bool) -> Candidate | str:
        """Return who would have to go from a node, or why that would not help."""
        node = cycle.table.nodes[row]
        lower = sorted((one for one in node.pods.values() if one.priority < cycle.pod.priority), key=_importance)
        if not lower:
            found: Candidate | str = _NO_VICTIMS
        elif simple:
            found = _by_room(cycle, node, lower)
        else:
            found = _by_trial(cycle, node, lower, budgets)
        return found._replace(harm=_harm(found)) if isinstance(found, Candidate) else found


def _importance(pod: Pod) -> tuple[int, str, str]:
    return (-pod.priority, pod.started or _LATEST, pod.uid)


def _harm(one: Candidate) -> tuple[Any, ...]:
    """Order candidates by upstream's criteria: the least harm first."""
    highest = one.victims[0].priority
    earliest = min(pod.started or _LATEST for pod in one.victims if pod.priority == highest)
    total = sum(pod.priority + 2**31 for pod in one.victims)
    return (one.violations, highest, total, len(one.victims), tuple(-ord(letter) for letter in earliest))


def _by_room(cycle: Cycle, node: Node, lower: Sequence[Pod]) -> Candidate | str:
    """Only room is short: add up."""
    table, needs, row = cycle.table, cycle.needs, node.row
    asked = {**needs.requests, "pods": 1}
    free = {name: _free(table, row, name, cycle.pod) for name, number in asked.items() if number > 0}
    for pod in lower:
        for name in free:
            free[name] += 1 if name == "pods" else pod.shape.needs.requests.get(name, 0)
    short = [name for name in free if free[name] < asked[name]]
    if short:
        texts = sorted("Too many pods" if name == "pods" else f"Insufficient {name}" for name in short)
        return texts[0]
    victims = []
    for pod in lower:
        theirs = {name: 1 if name == "pods" else pod.shape.needs.requests.get(name, 0) for name in free}
        if all(free[name] - number >= asked[name] for name, number in theirs.items()):
            for name, number in theirs.items():
                free[name] -= number
        else:
            victims.append(pod)
    return Candidate(row, tuple(victims), 0) if victims else _NOT_HELPFUL


def _free(table: NodeTable, row: int, resource: str, pod: Pod) -> int:
    """Return what is left of a resource, beside the pods that are there and those as important that wait for it."""
    waiting = [
        one for uid, one in table.nominated_on.get(row, {}).items() if uid != pod.uid and one.priority >= pod.priority
    ]
    held = sum(1 if resource == "pods" else one.shape.needs.requests.get(resource, 0) for one in waiting)
    return int(table.allocatable(resource)[row]) - int(table.requested(resource)[row]) - held


def _by_trial(cycle: Cycle, node: Node, lower: Sequence[Pod], budgets: Sequence[Object]) -> Candidate | str:
    """Take the pods off the table, put back who may stay, and leave the table as it was."""
    table = cycle.table
    own = table.nominated.get(cycle.pod.uid)
    if own is not None:
        table.nominate(cycle.pod, "")
    gone = {pod.uid: pod for pod in lower}
    for pod in lower:
        table.remove_pod(node.name, pod.uid)
    try:
        if not cycle.passes_on(cycle, node.row):
            return _NOT_HELPFUL
        breaking, others = broken_budgets(lower, budgets)
        victims, violations = [], 0
        for pod in (*breaking, *others):
            table.put_pod(pod, node.name)
            if cycle.passes_on(cycle, node.row):
                del gone[pod.uid]
                continue
            table.remove_pod(node.name, pod.uid)
            victims.append(pod)
            violations += pod in breaking
    finally:
        for pod in gone.values():
            table.put_pod(pod, node.name)
        if own is not None:
            table.nominate(cycle.pod, table.nodes[own[1]].name)
    return Candidate(node.row, tuple(sorted(victims, key=_importance)), violations) if victims else _NOT_HELPFUL


def broken_budgets(pods: Sequence[Pod], budgets: Sequence[Object]) -> tuple[list[Pod], list[Pod]]:
    """Divide pods, in their order, into those whose going would break a PodDisruptionBudget, and the others."""
    selectors = []
    for one in budgets:
        try:
            selector = from_label_selector((one.get("spec") or {}).get("selector"))
        except SelectorError:
            continue
        if selector.requirements:
            status = one.get("status") or {}
            left = [int(status.get("disruptionsAllowed") or 0)]
            selectors.append((one["metadata"].get("namespace"), selector, status.get("disruptedPods") or {}, left))
    breaking: list[Pod] = []
    others: list[Pod] = []
    for pod in pods:
        broken = False
        for namespace, selector, disrupted, left in selectors:
            if namespace != pod.key.namespace or pod.name in disrupted or not selector.matches(pod.shape.labels):
                continue
            left[0] -= 1
            broken = broken or left[0] < 0
        (breaking if broken else others).append(pod)
    return breaking, others
