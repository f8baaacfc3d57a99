"""Port forwarding as kubectl does it: SPDY streams, bare or inside a WebSocket; each pair is one connection to a pod.

The agent is asked for one WebSocket a connection, with the port's data on channel 0 and its errors on channel 1.
Source: https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from machinery.api.digits import is_number
from machinery.spdy import (
    GOAWAY,
    PING,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SYN_STREAM,
    BadFrame,
    Frame,
    Framer,
)  # fmt: skip

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
MAX_CONNECTIONS = 256
_PREFIX_BYTES = 2  # each channel of the agent begins with the port it is for
_CHUNK = 32 * 1024

Connect = Callable[[int], AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]]
"""Opens a WebSocket to the agent for one port of the pod."""
Send = Callable[[bytes], Awaitable[None]]


class Tunnel:
    """One client's stream of bytes and the connections that go through it."""

    def __init__(self, send: Send, received: AsyncIterator[bytes], connect: Connect) -> None:
        self._send_bytes = send
        self._received = received
        self._connect = connect
        self._framer = Framer()
        self._errors: dict[str, int] = {}  # request id -> its error stream
        self._inputs: dict[int, asyncio.Queue[bytes | None]] = {}  # data stream -> what the client sent
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the client goes away."""
        try:
            async for data in self._received:
                for frame in self._framer.feed(data):
                    if frame.kind == GOAWAY:
                        return
                    await self._take(frame)
        except BadFrame:
            return
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, frame: Frame) -> None:
        if frame.kind == SYN_STREAM:
            await self._open(frame)
        elif frame.kind == PING:
            await self._send(self._framer.pong(frame))
        elif frame.kind == RST_STREAM:
            if (queue := self._inputs.pop(frame.stream, None)) is not None:
                queue.put_nowait(None)
        elif frame.kind == 0 and (queue := self._inputs.get(frame.stream)) is not None:
            if frame.data:
                await queue.put(frame.data)
            if frame.ends:
                await queue.put(None)

    async def _open(self, frame: Frame) -> None:
        headers = frame.headers
        request, port = headers.get("requestid", ""), headers.get("port", "")
        if not is_number(port) or not 0 < int(port) < 65536:
            await self._send(self._framer.reset(frame.stream, PROTOCOL_ERROR))
        elif headers.get("streamtype") == "error":
            self._errors[request] = frame.stream
            await self._send(self._framer.reply(frame.stream))
        elif headers.get("streamtype") != "data" or len(self._inputs) >= MAX_CONNECTIONS:
            await self._send(self._framer.reset(frame.stream, REFUSED_STREAM))
        else:
            queue: asyncio.Queue[bytes | None] = asyncio.Queue(16)  # a slow pod slows its client
            self._inputs[frame.stream] = queue
            await self._send(self._framer.reply(frame.stream))
            task = asyncio.create_task(self._carry(frame.stream, self._errors.pop(request, 0), int(port), queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, stream: int, errors: int, port: int, queue: "asyncio.Queue[bytes | None]") -> None:
        """Carry one connection between its streams and the pod's port."""
        problem = b""
        try:
            async with self._connect(port) as agent:
                inputs = asyncio.create_task(_to_pod(queue, agent))
                try:
                    problem = await self._from_pod(stream, agent)
                finally:
                    inputs.cancel()
                    await asyncio.gather(inputs, return_exceptions=True)
        except (aiohttp.ClientError, OSError) as error:
            problem = f"error forwarding port {port} to pod: {error}".encode()
        finally:
            self._inputs.pop(stream, None)
        if errors:
            await self._send(self._framer.data(errors, problem, ends=True))
        await self._send(self._framer.data(stream, b"", ends=True))

    async def _from_pod(self, stream: int, agent: aiohttp.ClientWebSocketResponse) -> bytes:
        """Send the client what the pod sends, until that ends. Return what went wrong, if something did."""
        greeted: set[int] = set()
        async for message in agent:
            if message.type != aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, content = message.data[0], message.data[1:]
            if channel not in greeted:
                greeted.add(channel)
                content = content[_PREFIX_BYTES:]
            if channel == 1 and content:
                return bytes(content)
            for start in range(0, len(content), _CHUNK):
                await self._send(self._framer.data(stream, content[start : start + _CHUNK]))
        return b""

    async def _send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            await self._send_bytes(data)


async def _to_pod(queue: "asyncio.Queue[bytes | None]", agent: Any) -> None:
    while (data := await queue.get()) is not None:
        await agent.send_bytes(b"\x00" + data)
