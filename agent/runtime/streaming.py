"""The streaming server: Exec, Attach and PortForward over WebSockets or SPDY, at URLs good for one connection.

It listens on 127.0.0.1 from the first call on. The path of a URL holds a token that nobody can guess and that is
forgotten when it is used, or after a minute.

Protocols: v5.channel.k8s.io and v4.channel.k8s.io, where a message's first byte names its channel
(https://kubernetes.io/docs/reference/using-api/ and KEP 4006).
"""

import asyncio
import contextlib
import http
import logging
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.runtime.channels import Session

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

_log = logging.getLogger(__name__)

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io")
SPDY_PROTOCOLS = ("v4.channel.k8s.io", "portforward.k8s.io")
PORTS = "portforward.k8s.io"
TUNNEL = f"SPDY/3.1+{PORTS}"
_TOKEN_SECONDS = 60
_LONGEST_HEAD = 64 * 1024
_BLOCK = 64 * 1024
_LONGEST_MESSAGE = 32 << 20


class WebSocketChannels:
    """One WebSocket that carries numbered channels."""

    def __init__(self, connection: "ServerConnection") -> None:
        self._connection = connection

    async def send(self, channel: int, data: bytes) -> None:
        """Send data on a channel; once the client is gone, to nobody."""
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(bytes((channel,)) + data)

    async def receive(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield channel and data until the client goes away; a closed channel is (CLOSE, its number)."""
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):
            async for message in self._connection:
                data = message.encode() if isinstance(message, str) else message
                if data:
                    yield data[0], data[1:]


class StreamingServer:
    """Hands out URLs and serves them."""

    def __init__(self, folder: Path) -> None:
        """Args: `folder` has a short path; a socket for WebSockets lies in it."""
        self._socket = folder / "ws"
        self._sessions: dict[str, Session] = {}
        self._websockets: Server | None = None
        self._front: asyncio.Server | None = None
        self._starting = asyncio.Lock()

    async def url_for(self, kind: str, session: Session) -> str:
        """Return a URL; who first connects to it within a minute gets `session`."""
        async with self._starting:
            if self._front is None:
                self._websockets = await self._serve_websockets()
                self._front = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_LONGEST_HEAD)
        token = secrets.token_urlsafe(32)
        self._sessions[token] = session
        asyncio.get_running_loop().call_later(_TOKEN_SECONDS, self._sessions.pop, token, None)
        port = self._front.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/{kind}/{token}"

    async def close(self) -> None:
        """End all connections."""
        for server in (self._front, self._websockets):
            if server is not None:
                server.close()
        if self._websockets is not None:
            await self._websockets.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Look at a request's head: SPDY is served here, a WebSocket by its own server on a Unix socket."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path, headers = _parse_head(head)
            if headers.get("upgrade", "").lower() == "spdy/3.1":
                await self._serve_spdy(path, headers, reader, writer)
            elif TUNNEL in headers.get("sec-websocket-protocol", ""):
                await self._serve_tunnel(path, headers, reader, writer)
            else:
                inner = await asyncio.open_unix_connection(str(self._socket))
                inner[1].write(head)
                await _splice((reader, writer), inner)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError) as error:
            _log.debug("streaming connection: %s", error)
        except Exception:  # noqa: BLE001 - one connection's trouble is not the next one's
            _log.exception("streaming session failed")
        finally:
            writer.close()

    async def _serve_spdy(
        self, path: str, headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        from agent.runtime.spdy_streams import SpdyChannels, SpdyConnection, SpdyPorts

        session = self._sessions.pop(_token(path), None)
        if session is None:
            await _refuse(writer, "404 Not Found")
            return
        offered = [one.strip() for one in headers.get("x-stream-protocol-version", "").split(",")]
        protocol = next((one for one in SPDY_PROTOCOLS if one in offered), "")
        if not protocol:
            await _refuse(writer, "403 Forbidden")
            return
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            + f"X-Stream-Protocol-Version: {protocol}\r\n\r\n".encode()
        )
        connection = SpdyConnection(reader, writer)
        if protocol == PORTS:
            await SpdyPorts(connection, session.connect).run()
            return
        channels = SpdyChannels(connection)
        if await channels.settle(session.channels):
            await session(channels)
            await channels.end()

    async def _serve_tunnel(
        self, path: str, headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        from websockets.utils import accept_key

        from agent.runtime.spdy_streams import SpdyConnection, SpdyPorts, WebSocketTunnel

        session = self._sessions.pop(_token(path), None)
        key = headers.get("sec-websocket-key", "")
        if session is None or not key:
            await _refuse(writer, "404 Not Found" if key else "400 Bad Request")
            return
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            + f"Sec-WebSocket-Accept: {accept_key(key)}\r\nSec-WebSocket-Protocol: {TUNNEL}\r\n\r\n".encode()
        )
        tunnel = WebSocketTunnel(reader, writer)
        await SpdyPorts(SpdyConnection(tunnel, tunnel), session.connect).run()

    async def _serve_websockets(self) -> "Server":
        # Not imported before: who never runs a command in a container needn't hold it in memory.
        from websockets.asyncio.server import unix_serve
        from websockets.typing import Subprotocol

        self._socket.unlink(missing_ok=True)
        return await unix_serve(
            self._serve,
            str(self._socket),
            subprotocols=[Subprotocol(name) for name in PROTOCOLS],
            process_request=self._check,
            compression=None,
            max_size=_LONGEST_MESSAGE,
            ping_interval=None,  # both ends are on this machine; the agent looks after the way to the client
        )

    def _check(self, connection: "ServerConnection", request: "Request") -> "Response | None":
        if _token(request.path) in self._sessions:
            return None
        return connection.respond(http.HTTPStatus.NOT_FOUND, "this URL was used, or its time is over\n")

    async def _serve(self, connection: "ServerConnection") -> None:
        session = self._sessions.pop(_token(connection.request.path) if connection.request else "", None)
        if session is None:  # two came at once
            return
        try:
            await session(WebSocketChannels(connection))
        except (OSError, asyncio.CancelledError):
            raise
        except Exception:
            _log.exception("streaming session failed")
            raise


async def _refuse(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Return path and headers of a request; a header given twice is joined by a comma. Raises: ValueError."""
    first, *lines = head.decode("latin-1").split("\r\n")
    _, path, _ = first.split(" ", 2)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            known = headers.get(name.lower())
            headers[name.lower()] = f"{known},{value.strip()}" if known else value.strip()
    return path, headers


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _splice(one: Stream, other: Stream) -> None:
    """Carry bytes both ways until either side ends."""
    tasks = [asyncio.create_task(_copy(one[0], other[1])), asyncio.create_task(_copy(other[0], one[1]))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        other[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()


def _token(path: str) -> str:
    return path.partition("?")[0].rpartition("/")[2]
