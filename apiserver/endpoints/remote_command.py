"""exec and attach for clients of every age: what each protocol makes of input, output, exit code and terminal size.

The agent is always asked over a WebSocket of v5 or v4; here its channels become those of the client's protocol.
Sources: https://kubernetes.io/docs/reference/using-api/ (channels), KEP 4006 (v5), k8s.io/kubelet remotecommand (SPDY).
"""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import aiohttp
import orjson
from aiohttp import web

from apiserver.endpoints.takeover import Connection
from machinery import errors
from machinery.channels import CLOSE, ERROR, RESIZE, STDIN, STREAM_TYPES
from machinery.spdy import (
    GOAWAY,
    PING,
    PROTOCOL_ERROR,
    RST_STREAM,
    SYN_STREAM,
    BadFrame,
    Frame,
    Framer,
)

# Those that pass the agent's messages on as they are; those of WebSockets; those of SPDY, the newest first.
PLAIN = ("v5.channel.k8s.io", "v4.channel.k8s.io")
WEBSOCKET = (*PLAIN, "channel.k8s.io", "base64.channel.k8s.io", "v4.base64.channel.k8s.io")
SPDY = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
_STREAMS_SECONDS = 30.0
_LINGER_SECONDS = 5.0
_CHUNK = 32 * 1024
_LOST = errors.InternalError(
    "Internal error occurred: error reading from error stream: the connection to the node was lost"
)


class Client(Protocol):
    """A client's side of a session: numbered channels, as the agent has them."""

    async def send(self, channel: int, data: bytes) -> None:
        """Send data on a channel."""

    def receive(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield channel and data; a channel that ends is (CLOSE, its number)."""

    async def close(self) -> None:
        """End the session: everything was sent."""


def shown_status(status: bytes, *, whole: bool) -> bytes:
    """Return a final Status as a protocol tells it: whole (from v4 on), or the text of a failure alone."""
    if whole:
        return status
    found = orjson.loads(status)
    return b"" if found.get("status") == "Success" else str(found.get("message", "")).encode()


class WebSocket:
    """A WebSocket of any protocol: some have messages of text, some can't tell exit codes."""

    def __init__(self, socket: web.WebSocketResponse, protocol: str) -> None:
        self._socket = socket
        self._is_text = "base64" in protocol
        self._whole = protocol in PLAIN or protocol.startswith("v4.")

    async def send(self, channel: int, data: bytes) -> None:
        """Send data on a channel."""
        if channel == ERROR:
            data = shown_status(data, whole=self._whole)
            if not data:
                return
        if self._is_text:
            await self._socket.send_str(str(channel) + base64.b64encode(data).decode())
        else:
            await self._socket.send_bytes(bytes([channel]) + data)

    async def receive(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield channel and data until the client goes away or sends what can't be understood."""
        async for message in self._socket:
            if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT) or not message.data:
                continue
            raw = message.data.encode() if isinstance(message.data, str) else message.data
            if not self._is_text:
                yield raw[0], raw[1:]
                continue
            try:
                yield raw[0] - ord("0"), base64.b64decode(raw[1:], validate=True)
            except (binascii.Error, ValueError):
                return

    async def close(self) -> None:
        """Close the WebSocket."""
        await self._socket.close()


class SpdySession:
    """SPDY streams, one a channel, told apart by their header `streamtype`."""

    def __init__(self, connection: Connection, protocol: str, wanted: Mapping[str, bool]) -> None:
        """Args: `wanted` says which of stdin, stdout, stderr and tty the session has."""
        self._connection = connection
        self._frames = self._read()
        self._framer = Framer()
        self._whole = protocol == SPDY[0]
        self._streams: dict[int, int] = {}  # channel -> stream
        self._channels: dict[int, int] = {}  # stream -> channel
        self._ended: set[int] = set()
        self._expected = {ERROR} | {STREAM_TYPES[name] for name in ("stdin", "stdout", "stderr") if wanted[name]}
        if wanted["tty"] and protocol in SPDY[:2]:
            self._expected.add(RESIZE)
        self._early: list[Frame] = []

    async def _read(self) -> AsyncIterator[Frame]:
        try:
            async for data in self._connection.receive():
                for frame in self._framer.feed(data):
                    yield frame
        except BadFrame:
            return

    async def opened(self) -> bool:
        """Wait until the client has opened all its streams; False when it does not in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STREAMS_SECONDS):
                async for frame in self._frames:
                    await self._manage(frame)
                    if self._expected <= self._streams.keys():
                        return True
        return False

    async def _manage(self, frame: Frame) -> None:
        if frame.kind == PING:
            await self._connection.send(self._framer.pong(frame))
        elif frame.kind == 0:
            self._early.append(frame)
        elif frame.kind == SYN_STREAM:
            channel = STREAM_TYPES.get(frame.headers.get("streamtype", ""))
            if channel is None or channel in self._streams:
                await self._connection.send(self._framer.reset(frame.stream, PROTOCOL_ERROR))
                return
            self._streams[channel] = frame.stream
            self._channels[frame.stream] = channel
            await self._connection.send(self._framer.reply(frame.stream))

    async def send(self, channel: int, data: bytes) -> None:
        """Send data on a channel, if the client opened its stream."""
        stream = self._streams.get(channel)
        if channel == ERROR:
            data = shown_status(data, whole=self._whole)
        if stream is None or stream in self._ended:
            return
        for start in range(0, len(data), _CHUNK):
            await self._connection.send(self._framer.data(stream, data[start : start + _CHUNK]))

    async def receive(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield channel and data; a stream's end closes its channel."""
        for frame in self._early:
            for one in self._meaning(frame):
                yield one
        async for frame in self._frames:
            if frame.kind == GOAWAY:
                return
            if frame.kind in (0, RST_STREAM):
                for one in self._meaning(frame):
                    yield one
            else:
                await self._manage(frame)

    def _meaning(self, frame: Frame) -> list[tuple[int, bytes]]:
        channel = self._channels.get(frame.stream)
        if channel is None:
            return []
        if frame.kind == RST_STREAM:
            self._ended.add(frame.stream)
            return [(CLOSE, bytes([channel]))]
        found = [(channel, frame.data)] if frame.data else []
        return [*found, (CLOSE, bytes([channel]))] if frame.ends else found

    async def close(self) -> None:
        """End all streams, and give the client the time to read them to their ends."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            for channel, stream in self._streams.items():
                if channel not in (STDIN, RESIZE) and stream not in self._ended:
                    await self._connection.send(self._framer.data(stream, b"", ends=True))
            async with asyncio.timeout(_LINGER_SECONDS):
                async for frame in self._frames:
                    if frame.kind == GOAWAY:
                        return


async def bridge(client: Client, agent: aiohttp.ClientWebSocketResponse) -> None:
    """Hand over in both directions until either side ends; then end the other.

    A client that learns of no end would take what it has for all there is: one whose agent went away is told so.
    """
    to_client = asyncio.create_task(_to_client(agent, client))
    tasks = [asyncio.create_task(_to_agent(client, agent)), to_client]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        over = to_client.done()
        if over and not to_client.cancelled() and to_client.exception() is None and not to_client.result():
            await client.send(ERROR, orjson.dumps(_LOST.to_status()))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await agent.close()
    if over:
        await client.close()


async def _to_agent(client: Client, agent: Any) -> None:
    async for channel, data in client.receive():
        if channel in (STDIN, RESIZE):
            await agent.send_bytes(bytes([channel]) + data)
        elif channel == CLOSE and data[:1] == bytes([STDIN]) and agent.protocol == PLAIN[0]:
            await agent.send_bytes(bytes([CLOSE, STDIN]))


async def _to_client(agent: aiohttp.ClientWebSocketResponse, client: Client) -> bool:
    """Return whether the agent told how the command ended."""
    told = False
    async for message in agent:
        if message.type == aiohttp.WSMsgType.BINARY and message.data:
            told = told or message.data[0] == ERROR
            await client.send(message.data[0], message.data[1:])
    return told
