"""Room: requests against what is left, and how full nodes are to become.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from scheduler.framework.plugin import MAX_SCORE, Codes, NodePlugin, Reason
from scheduler.pods import Needs
from scheduler.table import Ints, NodeTable, Rows

_TOO_MANY_PODS = 1
_NEVER = 31
"""A resource's bit, and this many further up the bit that says even an empty node has too little."""
_EVEN = ({"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1})
_NATIVE = ("cpu", "memory", "ephemeral-storage")


class NodeResourcesFit(NodePlugin):
    """Rejects nodes without room for the pod's requests; scores by one of three strategies."""

    name = "NodeResourcesFit"
    looks_at_pods = True

    def __init__(
        self,
        strategy: str = "LeastAllocated",
        resources: Iterable[Mapping[str, Any]] = _EVEN,
        shape: Iterable[Mapping[str, int]] = (),
        ignored: Iterable[str] = (),
        ignored_groups: Iterable[str] = (),
    ) -> None:
        """Args: the strategy's name, the resources it weighs, its curve, and extended resources not to look at."""
        self._resources = [(str(one["name"]), int(one.get("weight") or 1)) for one in resources]
        self._strategy = strategy
        self._curve = [(int(one["utilization"]), int(one["score"]) * MAX_SCORE // 10) for one in shape]
        self._ignored = frozenset(ignored)
        self._ignored_groups = frozenset(ignored_groups)

    def _asked(self, needs: Needs) -> list[tuple[str, int]]:
        return [
            (name, number)
            for name, number in needs.requests.items()
            if number > 0 and name not in self._ignored and name.partition("/")[0] not in self._ignored_groups
        ][: _NEVER - 2]

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        """See NodePlugin."""
        waiting = table.nominated_over(needs.priority, rows)
        pods = table.requested("pods")[rows]
        if waiting:
            pods = pods.copy()
            np.add.at(pods, [at for at, _ in waiting], 1)
        codes: Ints = (pods >= table.allocatable("pods")[rows]).astype(np.int64)
        for bit, (name, number) in enumerate(self._asked(needs), 1):
            holds = table.allocatable(name)[rows]
            used = table.requested(name)[rows]
            if waiting:
                used = used.copy()
                held = [pod.shape.needs.requests.get(name, 0) for _, pod in waiting]
                np.add.at(used, [at for at, _ in waiting], held)
            short = holds - used < number
            if name in table.device_resources:
                short &= holds > 0  # elsewhere it is a matter of devices
            if short.any():
                codes |= short.astype(np.int64) << bit
                codes |= (short & (holds < number)).astype(np.int64) << (bit + _NEVER)
        return codes

    def passes(self, needs: Needs, table: NodeTable, row: int) -> bool:
        """See NodePlugin."""
        if row in table.nominated_on:
            return super().passes(needs, table, row)
        if table.requested("pods").item(row) >= table.allocatable("pods").item(row):
            return False
        for name, number in self._asked(needs):
            holds = table.allocatable(name).item(row)
            if holds - table.requested(name).item(row) < number and (holds or name not in table.device_resources):
                return False
        return True

    def score_one(self, needs: Needs, table: NodeTable, row: int) -> int:
        """See NodePlugin."""
        if self._strategy != "LeastAllocated":
            return super().score_one(needs, table, row)
        total = weights = 0
        for name, weight in self._resources:
            asked = scored_request(needs, name)
            holds = table.allocatable(name).item(row)
            if not holds or (not asked and name not in _NATIVE):
                continue
            used = scored_use(table, name).item(row) + asked
            total += weight * (0 if used > holds else (holds - used) * MAX_SCORE // holds)
            weights += weight
        return total // weights if weights else 0

    def explain(self, needs: Needs, table: NodeTable, code: int) -> tuple[Reason, ...]:
        """See NodePlugin."""
        found = [Reason("Too many pods", resolvable=True)] if code & _TOO_MANY_PODS else []
        for bit, (name, _) in enumerate(self._asked(needs), 1):
            if code >> bit & 1:
                found.append(Reason(f"Insufficient {name}", resolvable=not code >> (bit + _NEVER) & 1))
        return tuple(found)

    def score(self, needs: Needs, table: NodeTable, rows: Rows) -> Ints | None:
        """See NodePlugin."""
        count = len(table.alive[rows])
        total: Ints = np.zeros(count, dtype=np.int64)
        weights: Ints = np.zeros(count, dtype=np.int64)
        for name, weight in self._resources:
            asked = scored_request(needs, name)
            if not asked and name not in _NATIVE:
                continue  # an extended resource the pod does not use says nothing about it
            holds = table.allocatable(name)[rows]
            score = self._of_one(scored_use(table, name)[rows] + asked, holds)
            counted = (holds > 0) & ((score > 0) if self._strategy == "RequestedToCapacityRatio" else True)
            total += np.where(counted, weight * score, 0)
            weights += weight * counted
        if self._strategy == "RequestedToCapacityRatio":
            return np.floor(total / np.maximum(weights, 1) + 0.5).astype(np.int64)
        found: Ints = total // np.maximum(weights, 1)
        return found

    def _of_one(self, used: Ints, holds: Ints) -> Ints:
        room = np.maximum(holds, 1)
        if self._strategy == "MostAllocated":
            return np.minimum(used, holds) * MAX_SCORE // room
        if self._strategy == "RequestedToCapacityRatio":
            return along(self._curve, np.where(used > holds, 100, used * 100 // room))
        return np.where(used > holds, 0, (holds - used) * MAX_SCORE // room)


def scored_request(needs: Needs, resource: str) -> int:
    """Return what a pod counts for when nodes are compared."""
    if resource in ("cpu", "memory"):
        return needs.scored[("cpu", "memory").index(resource)]
    return needs.requests.get(resource, 0)


def scored_use(table: NodeTable, resource: str) -> Ints:
    """Return what the pods on each node count for when nodes are compared."""
    if resource in ("cpu", "memory"):
        return table.scored(("cpu", "memory").index(resource))
    return table.requested(resource)


def along(curve: Sequence[tuple[int, int]], at: Ints) -> Ints:
    """Return the height of a broken line at some places, in whole numbers, rounded towards zero between its points."""
    found: Ints = np.full(len(at), curve[-1][1], dtype=np.int64)
    for (left, low), (right, high) in reversed(list(pairwise(curve))):
        rise = (high - low) * (at - left)
        between = low + np.sign(rise) * (np.abs(rise) // max(right - left, 1))
        found = np.where(at <= right, between, found)
    return np.where(at <= curve[0][0], curve[0][1], found)
