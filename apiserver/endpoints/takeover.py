"""A connection taken over from HTTP: after the answer 101 both sides send bytes of a protocol of their own.

aiohttp knows this for WebSockets alone; SPDY, which older clients ask for, needs the bytes as they come.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

# A client that sends faster than a container reads is made to wait from here on.
_HIGH_BYTES = 256 * 1024


class _Inbox:
    """Takes bytes from the connection; aiohttp calls `feed_data` and `feed_eof`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._ended = False
        self._wake: asyncio.Future[None] | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size > _HIGH_BYTES and not self._paused:
            self._transport.pause_reading()
            self._paused = True
        self._rouse()
        return False, b""

    def feed_eof(self) -> None:
        self._ended = True
        self._rouse()

    def set_exception(self, _: BaseException, __: BaseException | None = None) -> None:
        self.feed_eof()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def take(self) -> bytes:
        while not self._pieces and not self._ended:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._paused and self._size <= _HIGH_BYTES // 2:
            self._transport.resume_reading()
            self._paused = False
        return piece


class Connection:
    """A client's connection after its upgrade."""

    def __init__(self, response: web.StreamResponse, inbox: _Inbox) -> None:
        self.response = response
        self._inbox = inbox

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the client reads slowly. Raises: ConnectionError when it is gone."""
        await self.response.write(data)

    async def receive(self) -> AsyncIterator[bytes]:
        """Yield what the client sends until it goes away."""
        while data := await self._inbox.take():
            yield data


async def take_over(http: Any, protocol: str, headers: dict[str, str]) -> Connection:
    """Answer 101 and return the connection. Args: `http` is the request. Raises: ConnectionResetError."""
    transport = http.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    inbox = _Inbox(transport)
    http.protocol.set_parser(inbox)  # before the answer: what follows it is no HTTP
    response = web.StreamResponse(status=101, headers={"Connection": "Upgrade", "Upgrade": protocol, **headers})
    response.force_close()
    await response.prepare(http)
    return Connection(response, inbox)
