"""Tells whoever listens (GetContainerEvents) what becomes of containers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

E = TypeVar("E")

# A listener this far behind is cut off: it must list again, and we keep no memory for it.
BACKLOG = 1000


class Broadcaster(Generic[E]):
    """Hands each event to each subscriber, in order, and never waits for one."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[E | None]] = set()

    def publish(self, event: E) -> None:
        """Send an event to all who listen now."""
        for queue in list(self._queues):
            if queue.qsize() >= BACKLOG:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    async def subscribe(self) -> AsyncIterator[E]:
        """Yield events from now on; ends when the subscriber fell too far behind."""
        queue: asyncio.Queue[E | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)
