"""Counts, node by node, of the pods that someone asks about; kept right as pods come and go.

"How many pods like this are on each node" is what spreading and affinity between pods come down to. A question is
asked once (`Tally`), answered by one look at all classes of pods, and from then on each pod that comes or goes adds or
takes one. Pods no question is about cost nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from machinery.api.selectors import LabelSelector
from scheduler.pods import Pod
from scheduler.terms import AffinityTerm, AffinityTerms, PodSelector

Counts = NDArray[np.int32]
_MAX_QUESTIONS = 256


class PodClass:
    """Pods that no question can tell apart: of one namespace, with the same labels and affinity."""

    __slots__ = ("affinity", "answered", "deleting", "key", "labels", "namespace", "rows", "tallies", "total")

    def __init__(self, key: tuple[Any, ...], pod: Pod) -> None:
        shape = pod.shape
        self.key = key
        self.namespace, self.labels, self.affinity = shape.namespace, shape.labels, shape.affinity
        self.deleting = pod.deleting
        self.rows: dict[int, int] = {}  # how many of them on which row
        self.total = 0
        self.tallies: list[tuple[Tally, int]] = []
        self.answered: tuple[int, Any] = (-1, None)


class Tally:
    """The answer to one question: a number for each row of the table."""

    __slots__ = ("counts", "weigh")

    def __init__(self, weigh: Callable[[PodClass], int], capacity: int) -> None:
        self.weigh = weigh
        self.counts: Counts = np.zeros(capacity, dtype=np.int32)


class Holders:
    """A term some pods have, and where they are."""

    __slots__ = ("tally", "term")

    def __init__(self, term: AffinityTerm, tally: Tally) -> None:
        self.term, self.tally = term, tally


TERM_KINDS = ("required", "preferred", "anti_required", "anti_preferred")


class Tallies:
    """All questions that are open, and all classes of pods."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._classes: dict[tuple[Any, ...], PodClass] = {}
        self._asked: OrderedDict[Any, Tally] = OrderedDict()
        self._holders: dict[str, dict[AffinityTerm, Holders]] = {kind: {} for kind in TERM_KINDS}
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self.version = 0
        """Grows when terms come or namespaces change: answers kept elsewhere are then old."""
        self._about_kept: dict[Any, dict[str, list[Holders]]] = {}
        self._about_version = -1

    # ---- pods

    def add(self, pod: Pod, row: int) -> None:
        """Count a pod on a row."""
        found = self._class_of(pod)
        found.rows[row] = found.rows.get(row, 0) + 1
        found.total += 1
        for tally, weight in found.tallies:
            tally.counts[row] += weight

    def remove(self, pod: Pod, row: int) -> None:
        """Stop counting a pod that was added."""
        found = self._class_of(pod)
        for tally, weight in found.tallies:
            tally.counts[row] -= weight
        found.total -= 1
        left = found.rows.get(row, 0) - 1
        if left > 0:
            found.rows[row] = left
        else:
            found.rows.pop(row, None)
        if found.total <= 0:
            del self._classes[found.key]

    def _class_of(self, pod: Pod) -> PodClass:
        shape = pod.shape
        key = (shape.key[0], shape.key[1], shape.key[6] if shape.affinity is not None else b"", pod.deleting)
        found = self._classes.get(key)
        if found is None:
            found = PodClass(key, pod)
            if found.affinity is not None:
                self._register_terms(found.affinity)
            self._classes[key] = found
            for tally in (*self._asked.values(), *self._term_tallies()):
                if weight := tally.weigh(found):
                    found.tallies.append((tally, weight))
        return found

    def classes(self) -> Iterable[PodClass]:
        """Return the classes of pods that are there."""
        return self._classes.values()

    def grow(self, capacity: int) -> None:
        """Make room for more rows."""
        self._capacity = capacity
        for tally in (*self._asked.values(), *self._term_tallies()):
            more: Counts = np.zeros(capacity, dtype=np.int32)
            more[: len(tally.counts)] = tally.counts
            tally.counts = more

    # ---- namespaces

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """Return the labels of a namespace."""
        return self._namespaces.get(name, {})

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> bool:
        """Take a namespace's labels; None when it is gone. Returns whether anything changed."""
        if self._namespaces.get(name) == labels:
            return False
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels
        self._forget_answers()
        return True

    def _forget_answers(self) -> None:
        """Selectors of namespaces may choose differently now: ask everything anew when next asked."""
        gone = set(self._asked.values())
        self._asked.clear()
        for one in self._classes.values():
            one.tallies = [(tally, weight) for tally, weight in one.tallies if tally not in gone]
        self.version += 1

    # ---- questions

    def matching(self, namespace: str, selector: LabelSelector) -> Counts:
        """Return how many pods of a namespace a selector takes, on each row; those being deleted are left out."""

        def weigh(one: PodClass) -> int:
            return int(one.namespace == namespace and not one.deleting and selector.matches(one.labels))

        return self._ask((namespace, selector), weigh).counts

    def matching_all(self, selectors: tuple[PodSelector, ...]) -> Counts:
        """Return how many pods on each row all the selectors take."""

        def weigh(one: PodClass) -> int:
            theirs = self.namespace_labels(one.namespace)
            return int(all(selector.matches(one.namespace, one.labels, theirs) for selector in selectors))

        return self._ask(selectors, weigh).counts

    def _ask(self, question: Any, weigh: Callable[[PodClass], int]) -> Tally:
        tally = self._asked.get(question)
        if tally is not None:
            self._asked.move_to_end(question)
            return tally
        tally = self._asked[question] = self._count(weigh)
        if len(self._asked) > _MAX_QUESTIONS:
            _, old = self._asked.popitem(last=False)
            for one in self._classes.values():
                one.tallies = [pair for pair in one.tallies if pair[0] is not old]
        return tally

    def _count(self, weigh: Callable[[PodClass], int]) -> Tally:
        tally = Tally(weigh, self._capacity)
        for one in self._classes.values():
            if weight := weigh(one):
                one.tallies.append((tally, weight))
                rows = np.fromiter(one.rows.keys(), dtype=np.intp, count=len(one.rows))
                tally.counts[rows] += np.fromiter(one.rows.values(), dtype=np.int32, count=len(one.rows)) * weight
        return tally

    # ---- terms of the pods that are there

    def _term_tallies(self) -> Iterable[Tally]:
        return [holders.tally for kind in self._holders.values() for holders in kind.values()]

    def _register_terms(self, affinity: AffinityTerms) -> None:
        for kind in TERM_KINDS:
            for term in getattr(affinity, kind):
                if term not in self._holders[kind]:
                    self._holders[kind][term] = Holders(term, self._count(_holding(kind, term)))
                    self.version += 1

    def holders(self, kind: str, pod: Pod) -> list[Holders]:
        """Return the terms of one kind, of the pods that are there, which are about `pod`."""
        if not self._holders[kind]:
            return []
        return [one for one in self._about(pod)[kind] if one.tally.counts.any()]

    def _about(self, pod: Pod) -> dict[str, list[Holders]]:
        shape = pod.shape
        if self._about_version != self.version or len(self._about_kept) > _MAX_QUESTIONS:
            self._about_kept.clear()
            self._about_version = self.version
        key = (shape.key[0], shape.key[1])  # namespace and labels
        found = self._about_kept.get(key)
        if found is None:
            theirs = self.namespace_labels(shape.namespace)
            found = self._about_kept[key] = {
                kind: [one for one in known.values() if one.term.pods.matches(shape.namespace, shape.labels, theirs)]
                for kind, known in self._holders.items()
            }
        return found


def _holding(kind: str, term: AffinityTerm) -> Callable[[PodClass], int]:
    def weigh(one: PodClass) -> int:
        return 0 if one.affinity is None else getattr(one.affinity, kind).count(term)

    return weigh
