"""What every controller is made of: a queue of keys, workers, and a memory of writes not seen back yet.

A controller is level based: `reconcile(key)` looks at what is, takes one step towards what is asked, and may be called
at any time and any number of times. Its errors rise; the worker here puts the key back with back-off.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from machinery.api.meta import ObjectKey
from machinery.client.rest import ConnectionFailed
from machinery.client.workqueue import QueueShutDown, WorkQueue
from machinery.errors import APIError, Conflict

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """How a reconcile ended; with `requeue_after` seconds the key comes back by itself."""

    requeue_after: float | None = None


DONE = Result()


class Controller(ABC):
    """One control loop. Subclasses register their informer handlers when made, and implement `reconcile`."""

    name: ClassVar[str]
    workers: ClassVar[int] = 5

    def __init__(self) -> None:
        self.queue: WorkQueue[ObjectKey] = WorkQueue()

    @abstractmethod
    async def reconcile(self, key: ObjectKey) -> Result:
        """Take one step from what is to what is asked. Raises: APIError, and the key comes back later."""

    async def run(self) -> None:
        """Work until cancelled. The informers are synced before."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.workers):
                    group.create_task(self._work())
        finally:
            self.queue.shutdown()

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except QueueShutDown:
                return
            try:
                await self._reconcile_once(key)
            finally:
                self.queue.done(key)

    async def _reconcile_once(self, key: ObjectKey) -> None:
        try:
            result = await self.reconcile(key)
        except Conflict as error:
            # The cache was behind: the watch will bring the newer object.
            log.debug("%s %s: %s", self.name, key, error)
            self.queue.add_rate_limited(key)
        except (APIError, ConnectionFailed, OSError) as error:
            log.info("%s %s: %s", self.name, key, error)
            self.queue.add_rate_limited(key)
        except Exception:
            # A bug on one object must not stop the work on all others.
            log.exception("%s failed on %s", self.name, key)
            self.queue.add_rate_limited(key)
        else:
            self.queue.forget(key)
            if result.requeue_after is not None:
                self.queue.add_after(key, result.requeue_after)


EXPECTATIONS_TIMEOUT_SECONDS = 300.0
"""After this long an expected event is taken as lost, and the cache as true again; client-go's figure."""


@dataclass(slots=True)
class _Expected:
    since: float
    creations: int = 0
    deletions: set[str] = field(default_factory=set)  # uids: one deletion is seen as an update and a removal


class Expectations:
    """Writes whose events have not come back yet, per owner: until they have, the cache undercounts or overcounts.

    A controller that acted on such a cache would create twice. It asks `satisfied` first, and sets what it expects
    *before* it writes, because the event may be faster than the answer.
    """

    def __init__(self) -> None:
        self._expected: dict[ObjectKey, _Expected] = {}

    def satisfied(self, key: ObjectKey) -> bool:
        """Say whether the cache has all our writes for `key`, or waiting for them has become pointless."""
        expected = self._expected.get(key)
        if expected is None or (expected.creations <= 0 and not expected.deletions):
            return True
        return asyncio.get_running_loop().time() - expected.since > EXPECTATIONS_TIMEOUT_SECONDS

    def expect_creations(self, key: ObjectKey, count: int) -> None:
        """Expect `count` new objects; replaces what was expected before."""
        self._expected[key] = _Expected(asyncio.get_running_loop().time(), creations=count)

    def expect_deletions(self, key: ObjectKey, uids: Iterable[str]) -> None:
        """Expect these objects to go; replaces what was expected before."""
        self._expected[key] = _Expected(asyncio.get_running_loop().time(), deletions=set(uids))

    def creation_observed(self, key: ObjectKey, count: int = 1) -> None:
        """Note that an object came, or that `count` writes failed and none will."""
        if key in self._expected:
            self._expected[key].creations -= count

    def deletion_observed(self, key: ObjectKey, uid: str) -> None:
        """Note that an object is going, or that its deletion failed."""
        if key in self._expected:
            self._expected[key].deletions.discard(uid)

    def forget(self, key: ObjectKey) -> None:
        """Drop everything about an owner that is gone."""
        self._expected.pop(key, None)
