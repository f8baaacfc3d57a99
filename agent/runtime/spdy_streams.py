"""SPDY/3.1 on a streaming connection: many streams over one connection, as older clients and cri-tools speak it.

Source: the remote command and port forwarding protocols of Kubernetes,
https://kubernetes.io/docs/reference/using-api/api-concepts/ (they came before WebSockets)
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from machinery.channels import CLOSE, ERROR, STDERR, STDOUT, STREAM_TYPES
from machinery.spdy import FIN, GOAWAY, PING, RST_STREAM, SYN_STREAM, BadFrame, Framer

_SETTLE_SECONDS = 10.0
_END_SECONDS = 5.0
_BLOCK = 65536
_DATA = 0
_DATA_CODES = (0, 1, 2)  # of WebSocket frames: continuation, text, binary
_LONGEST_MESSAGE = 32 << 20
Connect = Callable[[int], Any]  # port -> (StreamReader, StreamWriter)


class WebSocketTunnel:
    """SPDY within a WebSocket, whose handshake is done: looks like a stream's reader and writer.

    The library's server can't hold it, for the subprotocol's name is none by RFC 6455. Source: KEP 4006
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from websockets.protocol import Protocol, Side, State

        self._reader = reader
        self._writer = writer
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=_LONGEST_MESSAGE)

    async def read(self, _: int) -> bytes:
        """What came since; nothing once the client is gone."""
        from websockets.frames import Frame

        while True:
            events = self._protocol.events_received()
            found = b"".join(one.data for one in events if isinstance(one, Frame) and one.opcode in _DATA_CODES)
            if found:
                return bytes(found)
            data = await self._reader.read(_BLOCK)
            if not data or self._protocol.close_expected():
                return b""
            self._protocol.receive_data(data)
            await self.drain()  # answers to pings

    def write(self, data: bytes) -> None:
        """Make a message of data; `drain` sends it."""
        self._protocol.send_binary(data)

    async def drain(self) -> None:
        """Send what was written. Raises: ConnectionError."""
        for data in self._protocol.data_to_send():
            self._writer.write(data)
        await self._writer.drain()


class SpdyConnection:
    """Reads and writes the frames of one connection."""

    def __init__(
        self, reader: asyncio.StreamReader | WebSocketTunnel, writer: asyncio.StreamWriter | WebSocketTunnel
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._framer = Framer()

    async def frames(self) -> AsyncIterator[Any]:
        """Yield frames until the client goes away; pings are answered and new streams taken here."""
        with contextlib.suppress(ConnectionError, BadFrame):
            while data := await self._reader.read(_BLOCK):
                for frame in self._framer.feed(data):
                    if frame.kind == GOAWAY:
                        return
                    if frame.kind == PING:
                        await self.write(Framer.pong(frame))
                        continue
                    if frame.kind == SYN_STREAM:
                        await self.write(self._framer.reply(frame.stream))
                    yield frame

    async def write(self, data: bytes) -> None:
        """Send bytes; once the client is gone, to nobody."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def send(self, stream: int, data: bytes, *, ends: bool = False) -> None:
        """Send data on a stream."""
        await self.write(Framer.data(stream, data, ends=ends))


class SpdyChannels:
    """The streams of exec and attach, by the numbers that WebSocket channels have."""

    def __init__(self, connection: SpdyConnection) -> None:
        self._connection = connection
        self._frames = connection.frames()
        self._streams: dict[int, int] = {}  # channel -> stream
        self._channels: dict[int, int] = {}
        self._early: list[Any] = []

    async def settle(self, wanted: set[int]) -> bool:
        """Wait for the client to open the streams it needs; returns whether it did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                async for frame in self._frames:
                    if frame.kind == SYN_STREAM:
                        self._opened(frame)
                        if wanted <= set(self._streams):
                            return True
                    else:
                        self._early.append(frame)
        return False

    def _opened(self, frame: Any) -> None:
        channel = STREAM_TYPES.get(frame.headers.get("streamtype", "").lower())
        if channel is not None:
            self._streams[channel] = frame.stream
            self._channels[frame.stream] = channel

    async def send(self, channel: int, data: bytes) -> None:
        """Send data on a channel; once the client is gone, to nobody."""
        if channel in self._streams and data:
            await self._connection.send(self._streams[channel], data)

    async def receive(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield channel and data until the client goes away; a closed channel is (CLOSE, its number)."""
        early, self._early = self._early, []
        for frame in early:
            for item in self._items(frame):
                yield item
        async for frame in self._frames:
            for item in self._items(frame):
                yield item

    def _items(self, frame: Any) -> list[tuple[int, bytes]]:
        channel = self._channels.get(frame.stream)
        if channel is None:
            return []
        found = [(channel, frame.data)] if frame.kind == _DATA and frame.data else []
        if frame.kind == RST_STREAM or (frame.kind == _DATA and frame.flags & FIN):
            found.append((CLOSE, bytes((channel,))))
        return found

    async def end(self) -> None:
        """Close our side of all streams and wait a moment for the client to go."""
        for channel in (STDOUT, STDERR, ERROR):
            if channel in self._streams:
                await self._connection.send(self._streams[channel], b"", ends=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                async for _ in self.receive():
                    pass


class SpdyPorts:
    """Port forwarding: for each connection of the client a pair of streams, one for data and one for errors."""

    def __init__(self, connection: SpdyConnection, connect: Connect) -> None:
        self._connection = connection
        self._connect = connect
        self._pairs: dict[str, dict[str, tuple[int, int]]] = {}  # request -> kind -> stream, port
        self._inputs: dict[int, asyncio.Queue[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the client goes away."""
        try:
            async for frame in self._connection.frames():
                if frame.kind == SYN_STREAM:
                    self._opened(frame.stream, frame.headers)
                elif (queue := self._inputs.get(frame.stream)) is not None:
                    if frame.data:
                        await queue.put(frame.data)
                    if frame.kind == RST_STREAM or frame.flags & FIN:
                        await queue.put(b"")
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _opened(self, stream: int, headers: Mapping[str, str]) -> None:
        kind, port = headers.get("streamtype", ""), headers.get("port", "")
        request = headers.get("requestid") or port
        if kind not in ("data", "error") or not port.isdigit():
            return
        pair = self._pairs.setdefault(request, {})
        pair[kind] = (stream, int(port))
        if kind == "data":
            self._inputs[stream] = asyncio.Queue(16)
        if len(pair) == 2:
            del self._pairs[request]
            task = asyncio.create_task(self._carry(pair["data"][0], pair["error"][0], pair["data"][1]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, data: int, errors: int, port: int) -> None:
        try:
            reader, writer = await self._connect(port)
        except OSError as error:
            text = f"error forwarding port {port} to pod: {error.strerror or error}"
            await self._connection.send(errors, text.encode(), ends=True)
            await self._connection.send(data, b"", ends=True)
            return
        inputs = asyncio.create_task(_write_all(self._inputs[data], writer))
        try:
            while block := await reader.read(_BLOCK):
                await self._connection.send(data, block)
        except ConnectionError as error:
            await self._connection.send(errors, str(error).encode())
        finally:
            inputs.cancel()
            await asyncio.gather(inputs, return_exceptions=True)
            writer.close()
            self._inputs.pop(data, None)
        await self._connection.send(data, b"", ends=True)
        await self._connection.send(errors, b"", ends=True)


async def _write_all(queue: "asyncio.Queue[bytes]", writer: asyncio.StreamWriter) -> None:
    while data := await queue.get():
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
