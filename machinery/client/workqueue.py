"""The work queue of controllers: keys, each once, each with one worker at a time, failures later and later.

The semantics are client-go's: a key added while it is worked on is queued again when its worker is done.
"""

import asyncio
import bisect
import heapq
import itertools
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class QueueShutDown(Exception):
    """The queue is shut down and empty: the worker's work is over."""


class Durations:
    """How long things took: counts by upper bound in seconds, as a Prometheus histogram has them."""

    BOUNDS = tuple(10.0**power for power in range(-8, 2))
    """client-go's buckets for work queues, from 10 nanoseconds to 10 seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS) + 1)
        self.sum_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Note one duration."""
        self.counts[bisect.bisect_left(self.BOUNDS, seconds)] += 1
        self.sum_seconds += seconds


class WorkQueue(Generic[K]):
    """A deduplicating queue for the tasks of one event loop.

    `adds` and `retries` count what was queued and what failed; `waits` and `works` tell how long keys waited and were
    worked on.
    """

    def __init__(self, *, base_delay_seconds: float = 0.005, max_delay_seconds: float = 60.0) -> None:
        """Args: the first retry of a key waits `base_delay_seconds`, each next one twice as long, up to the maximum."""
        self._base_delay_seconds = base_delay_seconds
        self._max_delay_seconds = max_delay_seconds
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()  # wants work: is in _ready, or is worked on and was added again
        self._processing: set[K] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._requeues: dict[K, int] = {}
        self._later: list[tuple[float, int, K]] = []  # heap of (loop time, tie-breaker, key)
        self._due: dict[K, float] = {}  # the entry of _later that counts, when a key has several
        self._serial = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._shut_down = False
        self.adds = self.retries = 0
        self.waits, self.works = Durations(), Durations()
        self._added_at: dict[K, float] = {}
        self._taken_at: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        """Queue `key`, unless it is waiting already."""
        if self._shut_down or key in self._dirty:
            return
        self._dirty.add(key)
        self.adds += 1
        self._added_at[key] = asyncio.get_running_loop().time()
        if key not in self._processing:
            self._ready.append(key)
            self._wake_one()

    async def get(self) -> K:
        """Wait for a key; the caller owes a `done`. Raises: QueueShutDown when there will be no more."""
        while not self._ready:
            if self._shut_down:
                raise QueueShutDown
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake_one()  # the wake-up was for a worker that is gone: pass it on
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        time = self._taken_at[key] = asyncio.get_running_loop().time()
        self.waits.add(time - self._added_at.pop(key, time))
        return key

    def unfinished_seconds(self) -> list[float]:
        """Return how long each key that is worked on has been."""
        time = asyncio.get_running_loop().time()
        return [time - since for since in self._taken_at.values()]

    def done(self, key: K) -> None:
        """Say that the worker is through with `key`; it is queued again if it was added meanwhile."""
        self._processing.discard(key)
        if (since := self._taken_at.pop(key, None)) is not None:
            self.works.add(asyncio.get_running_loop().time() - since)
        if key in self._dirty:
            self._ready.append(key)
            self._wake_one()

    def forget(self, key: K) -> None:
        """Say that `key` went well: its next failure waits the shortest time again."""
        self._requeues.pop(key, None)

    def num_requeues(self, key: K) -> int:
        """Return how often `key` failed since it was last forgotten."""
        return self._requeues.get(key, 0)

    def add_rate_limited(self, key: K) -> None:
        """Queue `key` after its back-off, which doubles with each call until `forget`."""
        tries = self._requeues.get(key, 0)
        self._requeues[key] = tries + 1
        self.retries += 1
        # The exponent is capped because 2.0**1024 does not exist.
        self.add_after(key, min(self._base_delay_seconds * 2.0 ** min(tries, 64), self._max_delay_seconds))

    def add_after(self, key: K, delay_seconds: float) -> None:
        """Queue `key` after `delay_seconds`, or earlier if something else asks for it earlier."""
        if delay_seconds <= 0:
            self.add(key)
            return
        due = asyncio.get_running_loop().time() + delay_seconds
        if self._shut_down or due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._serial), key))
        self._set_timer()

    def shutdown(self) -> None:
        """Take no more keys; workers get what is queued, then QueueShutDown. What was to come later is dropped."""
        self._shut_down = True
        self._later.clear()
        self._due.clear()
        self._set_timer()
        while self._waiters:
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._later:
            self._timer = asyncio.get_running_loop().call_at(self._later[0][0], self._add_due)

    def _add_due(self) -> None:
        # A timer may fire a clock tick early: what the first entry was set for counts as now.
        present = max(asyncio.get_running_loop().time(), self._later[0][0])
        while self._later and self._later[0][0] <= present:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._set_timer()
