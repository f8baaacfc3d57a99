"""One scheduling cycle, top to bottom: filter the nodes, score what is left, choose; or say why nothing fits.

Pods that need the same share the work: for each needs, which nodes pass and how well they suit is kept, and worked out
again for the rows of the table's journal only. Choosing among 1,000 nodes is then a maximum over one array.
"""

import contextlib
import random
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster import Cluster
from scheduler.framework.plugin import Codes, Cycle, NodePlugin, Reason, Rejected
from scheduler.framework.profile import Profile
from scheduler.pods import Needs, Pod
from scheduler.table import ALL, Ints, Mask, NodeTable, Rows

_MAX_KEPT = 128
NO_NODES = "no nodes available to schedule pods"


@dataclass(slots=True)
class Diagnosis:
    """Why no node took a pod."""

    nodes: int
    message: str = ""
    """What rejected the pod before any node was looked at."""
    reasons: Counter[str] = field(default_factory=Counter)
    plugins: set[str] = field(default_factory=set)
    resolvable: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """Rows where pods leaving could help."""
    passed: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """Rows that no plugin rejected."""
    post_filter: str = ""

    def __str__(self) -> str:
        """Say it in kube-scheduler's words."""
        if not self.nodes:
            return NO_NODES
        text = f"0/{self.nodes} nodes are available:"
        if self.message:
            text += f" {self.message}."
        elif self.reasons:
            text += f" {', '.join(sorted(f'{number} {reason}' for reason, number in self.reasons.items()))}."
        return f"{text} {self.post_filter}" if self.post_filter else text


class Unschedulable(Exception):
    """No node fits."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(str(diagnosis))
        self.diagnosis = diagnosis


class _Kept:
    """What is known of all rows for one needs."""

    __slots__ = ("at", "epoch", "failure", "local", "mask", "ranked", "raws")

    def __init__(self) -> None:
        self.epoch = self.at = -1
        self.failure: tuple[int, Diagnosis] | None = None  # why nothing fits, and at which end of the journal
        self.mask: Mask
        self.local: Ints
        self.ranked: Ints
        self.raws: list[tuple[NodePlugin, int, Ints]] = []


class Chooser:
    """Chooses nodes for pods by the rules of one profile."""

    def __init__(self, table: NodeTable, profile: Profile, cluster: Cluster | None = None) -> None:
        self._table = table
        self.profile = profile
        self._cluster = cluster or Cluster()
        self._kept: OrderedDict[Needs, _Kept] = OrderedDict()
        self._random = random.Random()  # noqa: S311 - breaks ties between equal nodes

    def cycle(self, pod: Pod) -> Cycle:
        """Begin a cycle for a pod."""
        return Cycle(pod, self._table, self._cluster, self.passes_on, self._looks_beyond)

    def _looks_beyond(self, cycle: Cycle) -> bool:
        return any(plugin.filter(cycle) is not None for plugin in self.profile.cluster_plugins)

    def choose(self, pod: Pod) -> int:
        """Return the row of the best node. Raises: Unschedulable."""
        return self.choose_in(self.cycle(pod))

    def choose_in(self, cycle: Cycle) -> int:
        """Return the row of the best node. Raises: Unschedulable."""
        table, pod = self._table, cycle.pod
        if not table.count:
            raise Unschedulable(Diagnosis(0, plugins=set()))
        try:
            mask = self.passing(cycle)
        except Rejected as error:
            raise Unschedulable(self._rejected_by_all(cycle, error)) from error
        if mask is None:
            kept = self._keep(pod.shape.needs)
            if not kept.raws and not self.profile.scores_of_cluster(cycle):
                return self._best(kept, cycle)
            mask = kept.mask
        passed = np.flatnonzero(mask)
        if not len(passed):
            raise Unschedulable(self.diagnose(cycle))
        if len(passed) == 1:
            return int(passed[0])
        return int(passed[self._pick(self.scores(cycle, passed))])

    def passed_rows(self, cycle: Cycle, *, own_first: bool) -> NDArray[np.intp]:
        """Return the rows that pass, at least one; `own_first`: that of the pod's nomination alone, if it does.

        Raises: Unschedulable.
        """
        try:
            mask = self.passing(cycle, own_first=own_first)
        except Rejected as error:
            raise Unschedulable(self._rejected_by_all(cycle, error)) from error
        rows = np.flatnonzero(self.kept_mask(cycle) if mask is None else mask)
        if not len(rows):
            raise Unschedulable(self.diagnose(cycle))
        return rows

    def diagnosis_of(self, cycle: Cycle, failed: Mapping[str, str], hopeless: Mapping[str, str]) -> Diagnosis:
        """Return what extenders' refusals come to, beside the plugins': a text for each node."""
        found = self.diagnose(cycle)
        found.reasons.update([*failed.values(), *hopeless.values()])
        found.plugins = set()  # whatever happens may change an extender's mind
        rows = [node.row for name in failed if (node := self._table.by_name.get(name)) is not None]
        found.resolvable[rows] = True
        return found

    def _rejected_by_all(self, cycle: Cycle, error: Rejected) -> Diagnosis:
        table = self._table
        resolvable = table.alive.copy() if error.resolvable else np.zeros(table.size, dtype=bool)
        plugins = {str(cycle.memo.get("rejected_by", ""))}
        return Diagnosis(table.count, str(error), plugins=plugins, resolvable=resolvable)

    def _best(self, kept: _Kept, cycle: Cycle) -> int:
        ranked = kept.ranked
        most = ranked.max() if len(ranked) else -1
        if most < 0:
            end = self._table.journal_end
            if kept.failure is None or kept.failure[0] != end:
                kept.failure = (end, self.diagnose(cycle))
            raise Unschedulable(replace(kept.failure[1]))  # the caller adds to it
        ties = (ranked == most).nonzero()[0]
        return int(ties[self._random.randrange(len(ties))] if len(ties) > 1 else ties[0])

    def _pick(self, scores: Ints) -> int:
        ties = (scores == scores.max()).nonzero()[0]
        return int(ties[self._random.randrange(len(ties))])

    def passing(self, cycle: Cycle, *, own_first: bool = True) -> Mask | None:
        """Return which nodes pass; None when the mask kept for the pod's needs already says so. Raises: Rejected."""
        mask: Mask | None = None
        for first in self.profile.pre_filters:
            try:
                first.pre_filter(cycle)
            except Rejected:
                cycle.memo["rejected_by"] = first.name
                raise
        for plugin in self.profile.cluster_plugins:
            codes = plugin.filter(cycle)
            if codes is not None:
                passed = codes == 0
                mask = passed if mask is None else mask & passed
        mask = self._beside_nominated(cycle, mask)
        if mask is not None:
            mask = mask & self._keep(cycle.needs).mask
        nominated = self._table.nominated.get(cycle.pod.uid)
        if nominated is not None and own_first:
            return self._with_own_nomination(cycle, nominated[1], mask)
        return mask

    def _beside_nominated(self, cycle: Cycle, mask: Mask | None) -> Mask | None:
        """Nodes must also pass as if the pods nominated for them, and no less important, were there already."""
        others = self._nominated_besides(cycle)
        if not others:
            return mask
        with self._counted(others):
            for plugin in self.profile.cluster_plugins:
                codes = plugin.filter(cycle) if plugin.looks_at_pods else None
                if codes is not None:
                    mask = codes == 0 if mask is None else mask & (codes == 0)
        return mask

    def _nominated_besides(self, cycle: Cycle) -> list[tuple[Pod, int]]:
        """Return the nominated pods that could bear on where a pod may go, by what one of them asks about pods."""
        pod, known = cycle.pod, self._table.nominated
        asks = pod.shape.affinity is not None or bool(pod.shape.constraints)
        if not asks and not self._table.nominated_terms:
            return []
        return [one for one in known.values() if one[0].priority >= pod.priority and one[0].uid != pod.uid]

    @contextlib.contextmanager
    def _counted(self, others: list[tuple[Pod, int]]) -> Iterator[None]:
        """Count pods as if they were on some rows, for questions about pods; their room is kept for them anyway."""
        tallies = self._table.tallies
        for pod, row in others:
            tallies.add(pod, row)
        try:
            yield
        finally:
            for pod, row in others:
                tallies.remove(pod, row)

    def _with_own_nomination(self, cycle: Cycle, row: int, mask: Mask | None) -> Mask | None:
        """The node a pod was nominated for comes first, if it takes the pod; its own place there is not in its way."""
        table, pod = self._table, cycle.pod
        table.nominate(pod, "")
        try:
            at = np.array([row])
            fits = all(not codes.any() for _, codes in self._node_codes(cycle.needs, at)) and bool(table.alive[row])
        finally:
            table.nominate(pod, table.nodes[row].name)
        others = True if mask is None else self._cluster_passes(cycle, row)
        if not fits or not others:
            return mask
        only: Mask = np.zeros(table.size, dtype=bool)
        only[row] = True
        return only

    def _cluster_passes(self, cycle: Cycle, row: int) -> bool:
        found = (plugin.filter(cycle) for plugin in self.profile.cluster_plugins)
        return all(codes is None or codes[row] == 0 for codes in found)

    def passes_on(self, cycle: Cycle, row: int) -> bool:
        """Say whether a pod passes on one row as the table now stands; `pre_filter` must have been asked."""
        at = np.array([row])
        if any(codes.any() for _, codes in self._node_codes(cycle.needs, at)):
            return False
        return self._cluster_passes(cycle, row)

    def still_passes_on(self, cycle: Cycle, row: int) -> bool:
        """As `passes_on`, when the pod's own nomination is not in its way."""
        table, own = self._table, self._table.nominated.get(cycle.pod.uid)
        if own is None:
            return self.passes_on(cycle, row)
        table.nominate(cycle.pod, "")
        try:
            return self.passes_on(cycle, row)
        finally:
            table.nominate(own[0], table.nodes[own[1]].name)

    def _node_codes(self, needs: Needs, rows: Rows) -> Iterator[tuple[NodePlugin, Codes]]:
        for plugin in self.profile.node_plugins:
            codes = plugin.filter(needs, self._table, rows)
            if codes is not None:
                yield plugin, codes

    def kept_mask(self, cycle: Cycle) -> Mask:
        """Return which rows pass the rules that look at a node alone."""
        return self._keep(cycle.needs).mask

    # ---- what is kept

    def _keep(self, needs: Needs) -> _Kept:
        kept = self._kept.get(needs)
        table = self._table
        if kept is None:
            kept = self._kept[needs] = _Kept()
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        end = table.journal_end
        if kept.epoch == table.epoch and kept.at == end:
            return kept
        changed = table.since(kept.at) if kept.epoch == table.epoch else None
        if changed is None or len(changed) > table.size // 8 + 8:
            self._work_out(kept, needs)
        else:
            for row in set(changed):
                self._work_out_one(kept, needs, row)
        # Working it out may have made new columns of the table, but changes no row.
        kept.at, kept.epoch = end, table.epoch
        return kept

    def _work_out_one(self, kept: _Kept, needs: Needs, row: int) -> None:
        """As `_work_out`, for one row: after a choice there is one that changed, and arrays of one are slow."""
        table = self._table
        passes = table.alive.item(row) and all(one.passes(needs, table, row) for one in self.profile.node_plugins)
        local = 0
        raws = {plugin: raw for plugin, _, raw in kept.raws}
        for plugin, weight in self.profile.node_scorers:
            score = plugin.score_one(needs, table, row)
            if not plugin.normalizes:
                local += weight * score
            elif plugin in raws:
                raws[plugin][row] = score
            elif score:
                raw = np.zeros(table.size, dtype=np.int64)
                raw[row] = score
                kept.raws.append((plugin, weight, raw))
        kept.mask[row] = passes
        kept.local[row] = local
        kept.ranked[row] = local if passes else -1

    def _work_out(self, kept: _Kept, needs: Needs) -> None:
        table = self._table
        kept.mask = table.alive.copy()
        for _, codes in self._node_codes(needs, ALL):
            kept.mask &= codes == 0
        kept.local = np.zeros(table.size, dtype=np.int64)
        kept.raws = []
        for plugin, weight in self.profile.node_scorers:
            found = plugin.score(needs, table, ALL)
            if found is not None and plugin.normalizes:
                kept.raws.append((plugin, weight, found))
            elif found is not None:
                kept.local += weight * found
        kept.ranked = np.where(kept.mask, kept.local, -1)

    def scores(self, cycle: Cycle, passed: NDArray[np.intp]) -> Ints:
        """Return the total score of each row that passed."""
        kept = self._keep(cycle.needs)
        total: Ints = kept.local[passed]
        for plugin, weight, raw in kept.raws:
            total = total + weight * plugin.normalize(raw[passed])
        for scorer, weight in self.profile.cluster_scorers:
            found = scorer.score(cycle, passed)
            if found is not None:
                total = total + weight * found
        return total

    # ---- why not

    def diagnose(self, cycle: Cycle) -> Diagnosis:
        """Count for each reason how many nodes it holds for; a node counts for the first plugin that rejects it."""
        with self._counted(self._nominated_besides(cycle)):
            return self._diagnose(cycle)

    def _diagnose(self, cycle: Cycle) -> Diagnosis:
        table = self._table
        found = Diagnosis(table.count, resolvable=np.zeros(table.size, dtype=bool))
        open_rows: Mask = table.alive.copy()
        for confining in self.profile.node_plugins:
            rows = confining.confines(cycle.needs, table)
            if rows is not None:
                outside = open_rows & ~rows
                found.reasons[f"node(s) didn't satisfy plugin(s) [{confining.name}]"] += int(outside.sum())
                found.plugins.add(confining.name)
                open_rows &= rows
        found.reasons = +found.reasons
        for name, codes, explained in self._all_codes(cycle):
            rejected = open_rows & (codes != 0)
            if not rejected.any():
                continue
            found.plugins.add(name)
            values, counts = np.unique(codes[rejected], return_counts=True)
            for code, count in zip(values.tolist(), counts.tolist(), strict=True):
                reasons = explained(code)
                found.reasons.update({reason.text: count for reason in reasons})
                if all(reason.resolvable for reason in reasons):
                    found.resolvable |= rejected & (codes == code)
            open_rows &= ~rejected
        found.passed = open_rows
        return found

    def _all_codes(self, cycle: Cycle) -> Iterator[tuple[str, Codes, "_Explain"]]:
        """Yield the codes of every filter over all rows, in the profile's order."""
        needs = cycle.needs
        for plugin in self.profile.filters:
            if isinstance(plugin, NodePlugin):
                codes = plugin.filter(needs, self._table, ALL)
                explain = _Explain(plugin, needs, self._table)
            else:
                codes, explain = plugin.filter(cycle), _Explain(plugin, cycle)
            if codes is not None:
                yield plugin.name, codes, explain


class _Explain:
    """A code put in words by the plugin that gave it."""

    def __init__(self, plugin: object, *about: object) -> None:
        self._plugin, self._about = plugin, about

    def __call__(self, code: int) -> tuple[Reason, ...]:
        return self._plugin.explain(*self._about, code)  # type: ignore[attr-defined]
