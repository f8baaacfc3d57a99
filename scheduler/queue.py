"""The pods that wait for a node: ready to try, waiting out a back-off, or put aside until something changes. Pure.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/#queue
"""

import heapq
import itertools
from collections.abc import Mapping
from typing import Any

from machinery.api.meta import ObjectKey, key_of

Object = Mapping[str, Any]
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 10.0
# Nothing stays put aside longer than this, whatever happens or does not.
MAX_ASIDE_SECONDS = 300.0


class SchedulingQueue:
    """Higher priority first, then first come first served. Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._pods: dict[ObjectKey, Object] = {}
        self._active: list[tuple[int, int, ObjectKey]] = []
        self._order = itertools.count()
        self._backoff: dict[ObjectKey, float] = {}
        self._aside: dict[ObjectKey, float] = {}
        self._attempts: dict[ObjectKey, int] = {}

    def __len__(self) -> int:
        return len(self._pods)

    def put(self, pod: Object) -> None:
        """Add a pod, or take a newer version of it; a changed one that was put aside is tried again."""
        key = key_of(pod)
        old = self._pods.get(key)
        self._pods[key] = pod
        if old is None or (key in self._aside and old["spec"] != pod["spec"]):
            self._aside.pop(key, None)
            self._activate(key)

    def remove(self, key: ObjectKey) -> None:
        """Forget a pod: placed, or gone."""
        for known in (self._pods, self._backoff, self._aside, self._attempts):
            known.pop(key, None)

    def pop(self, now: float) -> Object | None:
        """Return the next pod to try, taken out until `put_aside`, `back_off` or `remove`; None when there is none."""
        for key in [key for key, at in self._backoff.items() if at <= now]:
            del self._backoff[key]
            self._activate(key)
        for key in [key for key, since in self._aside.items() if now - since >= MAX_ASIDE_SECONDS]:
            del self._aside[key]
            self._activate(key)
        while self._active:
            key = heapq.heappop(self._active)[2]
            pod = self._pods.get(key)
            if pod is not None and key not in self._backoff and key not in self._aside:
                return pod
        return None

    def put_aside(self, key: ObjectKey, now: float) -> None:
        """Nothing fits: wait until something changes."""
        if key in self._pods:
            self._attempts[key] = self._attempts.get(key, 0) + 1
            self._aside[key] = now

    def back_off(self, key: ObjectKey, now: float) -> None:
        """Something went wrong: try again a little later."""
        if key in self._pods:
            attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
            self._backoff[key] = now + self.backoff_seconds(attempts)

    @staticmethod
    def backoff_seconds(attempts: int) -> float:
        """Return the pause after so many attempts: 1, 2, 4, 8, then 10 s."""
        return float(min(FIRST_BACKOFF_SECONDS * 2 ** min(attempts - 1, 10), MAX_BACKOFF_SECONDS))

    def something_changed(self, now: float) -> None:
        """A node or a pod came, went or changed: pods put aside may fit now, after their back-off."""
        for key, since in self._aside.items():
            self._backoff[key] = since + self.backoff_seconds(self._attempts.get(key, 1))
        self._aside.clear()

    def next_time(self) -> float | None:
        """Return when the next back-off ends; None when none is running."""
        times = [*self._backoff.values(), *(since + MAX_ASIDE_SECONDS for since in self._aside.values())]
        return min(times, default=None)

    def _activate(self, key: ObjectKey) -> None:
        priority = int(self._pods[key]["spec"].get("priority") or 0)
        heapq.heappush(self._active, (-priority, next(self._order), key))

    def validate_state(self) -> None:
        """Raise AssertionError where the queue contradicts itself."""
        assert not self._backoff.keys() & self._aside.keys()  # noqa: S101
        assert (self._backoff.keys() | self._aside.keys()) <= self._pods.keys()  # noqa: S101
