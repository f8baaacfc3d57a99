"""Exec and attach towards a runtime that speaks no WebSockets in which input can end: by SPDY/3.1, which all speak.

The client's WebSocket has numbered channels, the runtime's connection a stream for each of them.
Source: the remote command protocol v4; KEP 4006 tells how it came to WebSockets.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from machinery.channels import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, STREAM_TYPES
from machinery.spdy import FIN, GOAWAY, PING, RST_STREAM, BadFrame, Framer

PROTOCOL = "v4.channel.k8s.io"
_NAMES = {channel: name for name, channel in STREAM_TYPES.items()}
_BLOCK, _MAX_DATA = 65536, 1 << 16
_CONNECT_SECONDS = 10.0


class Refused(Exception):
    """The runtime does not take the connection."""


class SpdyStreams:
    """One command's streams at a runtime."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._framer = Framer()
        self._streams: dict[int, int] = {}  # channel -> stream
        self._open: set[int] = set()  # streams on which the runtime may yet send

    async def begin(self, channels: Iterable[int]) -> None:
        """Begin a stream for each channel."""
        for number, channel in enumerate(channels):
            stream = 2 * number + 1
            self._streams[channel] = stream
            self._writer.write(self._framer.open(stream, {"streamtype": _NAMES[channel]}))
        self._open = {stream for channel, stream in self._streams.items() if channel in (ERROR, STDOUT, STDERR)}
        await self._writer.drain()

    async def to_runtime(self, client: Any) -> None:
        """Carry what the client sends, until it goes."""
        async for message in client:
            if message.type != aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == CLOSE and data:
                await self._send(data[0], b"", ends=True)
            else:
                await self._send(channel, data)

    async def _send(self, channel: int, data: bytes, *, ends: bool = False) -> None:
        stream = self._streams.get(channel)
        if stream is None:
            return
        for at in range(0, max(len(data), 1), _MAX_DATA):
            self._writer.write(Framer.data(stream, data[at : at + _MAX_DATA], ends=ends))
        await self._writer.drain()

    async def to_client(self, client: Any) -> None:
        """Carry what the runtime sends, until all its streams have ended. Raises: BadFrame, ConnectionError."""
        channels = {stream: channel for channel, stream in self._streams.items()}
        while self._open and (data := await self._reader.read(_BLOCK)):
            for frame in self._framer.feed(data):
                if frame.kind == GOAWAY:
                    return
                if frame.kind == PING:
                    self._writer.write(Framer.pong(frame))
                elif frame.kind == 0 and frame.data and frame.stream in channels:
                    await client.send_bytes(bytes([channels[frame.stream]]) + frame.data)
                if frame.kind == RST_STREAM or frame.flags & FIN:
                    self._open.discard(frame.stream)

    async def close(self) -> None:
        """End the connection."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def connect(url: str) -> SpdyStreams:
    """Join a command at the address a runtime gave for it. Raises: Refused."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        f"X-Stream-Protocol-Version: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n"
    )
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(head.encode())
            answer = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise Refused(str(error) or "no answer") from error
    if " 101 " not in answer.splitlines()[0]:
        writer.close()
        raise Refused(answer.splitlines()[0])
    return SpdyStreams(reader, writer)


async def carry(streams: SpdyStreams, client: Any, channels: Iterable[int]) -> None:
    """Join a client's WebSocket with a command until the command has ended or the client has gone."""
    tasks: list[asyncio.Task[None]] = []
    try:
        await streams.begin(channels)
        tasks += [asyncio.create_task(streams.to_client(client)), asyncio.create_task(streams.to_runtime(client))]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with contextlib.suppress(BadFrame, ConnectionError):
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await streams.close()


def channels_of(*, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> list[int]:
    """Return the channels a command with these streams has."""
    wanted = {STDIN: stdin, STDOUT: stdout, STDERR: stderr and not tty, RESIZE: tty}
    return [ERROR, *(channel for channel, is_wanted in wanted.items() if is_wanted)]
