"""One scheduling cycle, top to bottom: filter the nodes, score what is left, choose; or say why nothing fits."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from scheduler.framework.plugin import Cycle, Plugin
from scheduler.plugins.nodes import NodeAffinity, NodeName, NodeUnschedulable, TaintToleration
from scheduler.plugins.resources import BalancedAllocation, NodePorts, NodeResourcesFit
from scheduler.plugins.spread import PodTopologySpread
from scheduler.table import Floats, Mask, NodeTable, requests_of

Object = Mapping[str, Any]
_MAX_SHAPES = 512


class Unschedulable(Exception):
    """No node fits; the text is what users read."""


def default_plugins() -> Sequence[Plugin]:
    """Return the rules in the order they are asked; a node counts for the first that rejects it."""
    return (
        NodeUnschedulable(), NodeName(), TaintToleration(), NodeAffinity(), NodePorts(), NodeResourcesFit(),
        PodTopologySpread(), BalancedAllocation(),
    )  # fmt: skip


class Chooser:
    """Chooses nodes for pods. What depends on nodes alone is kept for each shape of pod until a node changes."""

    def __init__(self, table: NodeTable, plugins: Sequence[Plugin] | None = None) -> None:
        self._table = table
        self._plugins = plugins or default_plugins()
        self._kept: dict[bytes, tuple[Mask, Floats]] = {}
        self._kept_version = -1
        self._random = random.Random()  # noqa: S311 - breaks ties between equal nodes

    def choose(self, pod: Object) -> str:
        """Return the name of the best node. Raises: Unschedulable."""
        table = self._table
        if not len(table):
            raise Unschedulable("no nodes available to schedule pods")
        cycle = Cycle(pod, requests_of(pod))
        table.vector(cycle.requests)  # makes room for resources no node has told of
        mask, scores = self._of_nodes_alone(cycle)
        for plugin in self._plugins:
            if not plugin.of_nodes_alone and (passed := plugin.filter(cycle, table)) is not None:
                mask = mask & passed
        fitting = np.flatnonzero(mask)
        if not len(fitting):
            raise Unschedulable(self._explain(cycle))
        for plugin in self._plugins:
            if not plugin.of_nodes_alone and plugin.weight and (found := plugin.score(cycle, table)) is not None:
                scores = scores + plugin.weight * found
        best = scores[fitting]
        ties = fitting[best >= best.max() - 1e-9]
        return table.names[int(ties[self._random.randrange(len(ties))])]

    def _of_nodes_alone(self, cycle: Cycle) -> tuple[Mask, Floats]:
        if self._kept_version != self._table.version or len(self._kept) > _MAX_SHAPES:
            self._kept.clear()
            self._kept_version = self._table.version
        shape = _shape(cycle.pod)
        kept = self._kept.get(shape)
        if kept is None:
            mask = np.ones(len(self._table), dtype=bool)
            scores = np.zeros(len(self._table))
            for plugin in self._plugins:
                if not plugin.of_nodes_alone:
                    continue
                if (passed := plugin.filter(cycle, self._table)) is not None:
                    mask &= passed
                if plugin.weight and (found := plugin.score(cycle, self._table)) is not None:
                    scores += plugin.weight * found
            kept = self._kept[shape] = (mask, scores)
        return kept

    def _explain(self, cycle: Cycle) -> str:
        """Count for each reason how many nodes it holds for, in kube-scheduler's words."""
        table = self._table
        open_nodes = set(range(len(table)))
        reasons: Counter[str] = Counter()
        for plugin in self._plugins:
            passed = plugin.filter(cycle, table)
            for index in sorted(open_nodes) if passed is not None else ():
                if not passed[index]:  # type: ignore[index]
                    open_nodes.discard(index)
                    reasons.update(plugin.reasons(cycle, table, index))
        total = len(table)
        listed = ", ".join(sorted(f"{number} {reason}" for reason, number in reasons.items()))
        not_helpful = f"0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
        return f"0/{total} nodes are available: {listed}. preemption: {not_helpful}"


def _shape(pod: Object) -> bytes:
    spec = pod["spec"]
    return orjson.dumps(
        [spec.get("nodeName"), spec.get("nodeSelector"), spec.get("tolerations"),
         (spec.get("affinity") or {}).get("nodeAffinity")]
    )  # fmt: skip
