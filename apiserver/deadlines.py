"""How long a request may take: to be answered, and to take its answer.

Apart from the way of requests, for none waits for it: one look a second at those that have begun costs a request less
than a timer of its own would.
"""

import asyncio
import time
from collections.abc import Awaitable

from aiohttp import web

from machinery import errors

# No request but those that last (watch, exec, log) may take longer; upstream's --request-timeout.
MAX_SECONDS = 60.0
# A connection on which nothing is asked ends after this, as upstream's does; so does one whose request never ends.
IDLE_SECONDS = 90.0
_LOOK_SECONDS = 1.0
# Longer answers are sent before their request counts as served, so that those who don't take theirs are few.
_LONG_BYTES = 1024 * 1024
# What is written at once: TLS takes any one write whole, and only the next one waits.
_PIECE_BYTES = 256 * 1024


def too_late() -> errors.Timeout:
    """Return what a client is told whose request took too long."""
    return errors.Timeout("Timeout: request did not complete within the allotted timeout")


class Deadlines:
    """Ends requests that take too long."""

    def __init__(self) -> None:
        self._begun: dict[asyncio.Task[object], float] = {}  # in the order they began: the oldest first
        self._late: set[asyncio.Task[object]] = set()

    async def within(self, work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        """Return what `work` comes to. Raises: Timeout when it takes too long, and it is cancelled then."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is served by a task")
        self._begun[task] = time.monotonic()
        try:
            return await work
        except asyncio.CancelledError as error:
            if task not in self._late:
                raise
            task.uncancel()
            raise too_late() from error
        finally:
            self._begun.pop(task, None)
            self._late.discard(task)

    def look(self, *, now: float) -> None:
        """End what began too long before `now` (as time.monotonic() tells)."""
        for task, begun in list(self._begun.items()):
            if now - begun < MAX_SECONDS:
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look(now=time.monotonic())


async def sent(http: web.BaseRequest, response: web.StreamResponse) -> None:
    """Send an answer that is long; a client that has not taken it in time is let go. Others are sent by the server."""
    if not isinstance(response, web.Response) or response.prepared:
        return
    if not isinstance(response.body, bytes) or len(response.body) < _LONG_BYTES:
        return
    try:
        async with asyncio.timeout(MAX_SECONDS):
            await response.prepare(http)
            body = memoryview(response.body)
            for start in range(0, len(body), _PIECE_BYTES):
                await response.write(body[start : start + _PIECE_BYTES])
            await web.StreamResponse.write_eof(response)  # the body is written: not that of Response, which would do it
    except TimeoutError:
        if http.transport is not None:
            http.transport.abort()
