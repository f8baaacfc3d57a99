"""The pods that wait for a node. Pure: no I/O, and time is what the caller says it is.

A pod is *active* (to be tried), *backing off* (tried, to be tried again at a time), *aside* (nothing fits; tried again
when something happens that could help it), or *gated* (not to be tried yet). While it is being tried it is none of
these. Source: https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/#queue
"""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

from machinery.api.meta import ObjectKey
from scheduler.pods import Pod

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 10.0
MAX_ASIDE_SECONDS = 300.0
"""Nothing stays aside longer than this, whatever happens or does not."""

SortKey = Callable[[Pod], Any]


class State(StrEnum):
    """Where a pod is."""

    ACTIVE = "active"
    BACKOFF = "backoff"
    ASIDE = "unschedulable"
    GATED = "gated"
    TAKEN = "taken"


class Entry:
    """A pod that waits, and what came of trying it."""

    __slots__ = ("attempts", "failed", "plugins", "pod", "ready_at", "serial", "since", "state")

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.attempts = 0
        self.plugins: frozenset[str] = frozenset()
        self.state = State.TAKEN
        self.since = 0.0
        self.ready_at = 0.0
        self.serial = 0
        self.failed = False  # by an error and not by the rules


def by_priority(pod: Pod) -> int:
    """Order by priority, the highest first."""
    return -pod.shape.needs.priority


class SchedulingQueue:
    """Higher priority first, then first come first served. Times are seconds of the caller's clock."""

    def __init__(
        self,
        sort_key: SortKey = by_priority,
        gate: Callable[[Pod], str] = lambda _: "",
        *,
        first_backoff_seconds: float = FIRST_BACKOFF_SECONDS,
        max_backoff_seconds: float = MAX_BACKOFF_SECONDS,
    ) -> None:
        """Args: `gate` says why a pod may not be tried yet, and nothing when it may."""
        self._sort_key, self._gate = sort_key, gate
        self._first, self._most = first_backoff_seconds, max_backoff_seconds
        self._entries: dict[ObjectKey, Entry] = {}
        self._active: list[tuple[Any, int, Entry]] = []
        self._backoff: list[tuple[float, int, Entry]] = []
        self._errors: list[tuple[float, int, Entry]] = []  # as _backoff, of those that failed by an error
        self._aside: OrderedDict[ObjectKey, Entry] = OrderedDict()  # the longest first
        self._gated: dict[ObjectKey, Entry] = {}
        self._serial = itertools.count(1)
        self._numbers = dict.fromkeys(State, 0)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_aside(self) -> bool:
        """Whether any pod waits for something to happen."""
        return bool(self._aside)

    def counts(self) -> dict[str, int]:
        """Return how many pods are in each state."""
        return {str(state): number for state, number in self._numbers.items()}

    def get(self, key: ObjectKey) -> Entry | None:
        """Return what is known of a pod that waits."""
        return self._entries.get(key)

    def pods(self) -> Iterable[Pod]:
        """Return all pods that wait."""
        return [entry.pod for entry in self._entries.values()]

    # ---- in and out

    def put(self, pod: Pod) -> None:
        """Add a pod, or take a newer version of it; one that asks for something else now is tried again."""
        entry = self._entries.get(pod.key)
        if entry is None or entry.pod.uid != pod.uid:
            if entry is not None:
                self.remove(pod.key)
            entry = self._entries[pod.key] = Entry(pod)
            self._numbers[entry.state] += 1
            self._admit(entry)
            return
        changed = entry.pod.shape is not pod.shape or entry.pod.claims != pod.claims
        entry.pod = pod
        if entry.state is State.GATED or (entry.state is State.ASIDE and changed):
            self._leave(entry)
            self._admit(entry)
        elif entry.state is State.ACTIVE and changed:
            self._activate(entry)

    def remove(self, key: ObjectKey) -> None:
        """Forget a pod: placed, or gone."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._leave(entry)
            self._numbers[entry.state] -= 1

    def pop(self, now: float) -> Entry | None:
        """Return the next pod to try, taken out until `put_aside`, `back_off` or `remove`; None when there is none."""
        self._ripen(now)
        entry = self._next_of(self._active, State.ACTIVE)
        if entry is None:
            # Rather than idle, try those early whose back-off is not for an error.
            entry = self._next_of(self._backoff, State.BACKOFF)
        if entry is not None:
            self._set(entry, State.TAKEN)
            entry.attempts += 1
        return entry

    @staticmethod
    def _next_of(heap: list[tuple[Any, int, Entry]], state: State) -> Entry | None:
        while heap:
            _, serial, entry = heapq.heappop(heap)
            if entry.state is state and entry.serial == serial:
                return entry
        return None

    def put_aside(self, entry: Entry, plugins: frozenset[str], now: float) -> None:
        """Nothing fits: wait until something happens that these plugins say could help."""
        if self._entries.get(entry.pod.key) is not entry:
            return
        entry.plugins, entry.failed = plugins, False
        entry.since = now
        self._set(entry, State.ASIDE)
        self._aside[entry.pod.key] = entry

    def back_off(self, entry: Entry, now: float) -> None:
        """Something went wrong: try again a little later."""
        if self._entries.get(entry.pod.key) is entry:
            entry.failed = True
            self._wait(entry, now + self.backoff_seconds(entry.attempts))

    def backoff_seconds(self, attempts: int) -> float:
        """Return the pause after so many attempts: by default 1, 2, 4, 8, then 10 s."""
        return float(min(self._first * 2 ** min(max(attempts, 1) - 1, 10), self._most))

    # ---- what wakes pods

    def happened(self, helps: Callable[[Pod, frozenset[str]], bool], now: float) -> int:
        """Wake the pods that something could help; `helps` is asked once for pods that are alike. Returns how many."""
        answers: dict[tuple[int, frozenset[str]], bool] = {}
        woken = []
        for entry in self._aside.values():
            question = (id(entry.pod.shape), entry.plugins)
            if question not in answers:
                answers[question] = not entry.plugins or helps(entry.pod, entry.plugins)
            if answers[question]:
                woken.append(entry)
        for entry in woken:
            self._leave(entry)
            ready = entry.since + self.backoff_seconds(entry.attempts)
            if ready > now:
                self._wait(entry, ready)
            else:
                self._activate(entry)
        return len(woken)

    def reopen(self) -> None:
        """Ask the gate again about all gated pods."""
        for entry in list(self._gated.values()):
            if not self._gate(entry.pod):
                self._leave(entry)
                self._activate(entry)

    def wake(self, key: ObjectKey) -> None:
        """Try a pod now, whatever it waits for."""
        entry = self._entries.get(key)
        if entry is not None and entry.state in (State.ASIDE, State.BACKOFF):
            self._leave(entry)
            self._activate(entry)

    def next_time(self) -> float | None:
        """Return when a pod will be ready by the clock alone; None when there is none."""
        times = []
        for heap in (self._backoff, self._errors):
            while heap and not self._is_current(heap[0]):
                heapq.heappop(heap)
            times += [heap[0][0]] if heap else []
        if self._aside:
            times.append(next(iter(self._aside.values())).since + MAX_ASIDE_SECONDS)
        return min(times, default=None)

    @staticmethod
    def _is_current(waiting: tuple[float, int, Entry]) -> bool:
        _, serial, entry = waiting
        return entry.state is State.BACKOFF and entry.serial == serial

    def _ripen(self, now: float) -> None:
        for heap in (self._backoff, self._errors):
            while heap and (heap[0][0] <= now or not self._is_current(heap[0])):
                waiting = heapq.heappop(heap)
                if self._is_current(waiting):
                    self._activate(waiting[2])
        while self._aside:
            entry = next(iter(self._aside.values()))
            if now - entry.since < MAX_ASIDE_SECONDS:
                break
            self._leave(entry)
            self._activate(entry)

    # ---- states

    def _set(self, entry: Entry, state: State) -> None:
        self._numbers[entry.state] -= 1
        self._numbers[state] += 1
        entry.state = state

    def _admit(self, entry: Entry) -> None:
        if self._gate(entry.pod):
            self._set(entry, State.GATED)
            self._gated[entry.pod.key] = entry
        else:
            self._activate(entry)

    def _leave(self, entry: Entry) -> None:
        key = entry.pod.key
        self._aside.pop(key, None)
        self._gated.pop(key, None)
        self._set(entry, State.TAKEN)  # what the heaps still hold of it no longer counts

    def _activate(self, entry: Entry) -> None:
        entry.serial = next(self._serial)
        self._set(entry, State.ACTIVE)
        heapq.heappush(self._active, (self._sort_key(entry.pod), entry.serial, entry))

    def _wait(self, entry: Entry, until: float) -> None:
        entry.serial, entry.ready_at = next(self._serial), until
        self._set(entry, State.BACKOFF)
        heapq.heappush(self._errors if entry.failed else self._backoff, (until, entry.serial, entry))

    def validate_state(self) -> None:
        """Raise AssertionError where the queue contradicts itself."""
        assert not self._aside.keys() & self._gated.keys()  # noqa: S101
        assert (self._aside.keys() | self._gated.keys()) <= self._entries.keys()  # noqa: S101
        assert all(one.state is State.ASIDE for one in self._aside.values())  # noqa: S101
        assert all(one.state is State.GATED for one in self._gated.values())  # noqa: S101
        states = [one.state for one in self._entries.values()]
        assert self._numbers == {state: states.count(state) for state in State}  # noqa: S101
        in_heap = {id(e) for _, serial, e in self._active if e.state is State.ACTIVE and e.serial == serial}
        active = {id(e) for e in self._entries.values() if e.state is State.ACTIVE}
        assert active <= in_heap  # noqa: S101
