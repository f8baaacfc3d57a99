"""HTTP/1.1 to one server: a pool of connections, answers whole or as they come.

Apart from rest.py because it knows no API. Answers are parsed by httptools; the rest is as little as the kit needs, for
every process of an idle cluster carries it (docs/adr/0005). No redirects, cookies, proxies or compression: the API
server uses none.
Source: https://www.rfc-editor.org/rfc/rfc9112
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httptools

_READ_AHEAD_BYTES = 1 << 20
_CONNECTING_AT_ONCE = 16
_METHODS_WITHOUT_BODY = ("GET", "HEAD", "DELETE")
_SAFE = ("GET", "HEAD")
# A body that is longer is handed to the transport in pieces of this size.
_PIECE = 256 * 1024


class Failure(ConnectionError):
    """The connection did not do its work."""


class NotConnected(Failure):
    """No connection came about; the cause says why (ConnectionRefusedError, socket.gaierror, ssl.SSLError)."""


class Disconnected(Failure):
    """The server hung up. `heard` says whether any of an answer came first."""

    def __init__(self, *, heard: bool) -> None:
        super().__init__("Server disconnected")
        self.heard = heard


class Malformed(Failure):
    """What the server sent is no HTTP."""


class Response:
    """An answer whose head has come; its body is read once, whole or as it comes."""

    def __init__(self, connection: "_Connection", status: int, reason: str, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self.status = status
        self.reason = reason
        self.headers = headers
        """By lower-case name."""

    async def read(self) -> bytes:
        """Return the whole body. Raises: Failure when it is cut short."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises: Failure when it is cut short."""
        while chunk := await self._connection.next_chunk():
            yield chunk


class Pool:
    """Connections to one server, each serving one request at a time; as many as there are requests at once."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, *, server_name: str = "") -> None:
        """Args: `server_name` is the name the certificate must bear, `host` when it is empty."""
        self._host, self._port, self._tls = host, port, tls
        self._server_name = (server_name or host) if tls is not None else None
        self._idle: list[_Connection] = []
        self._turns = asyncio.Semaphore(_CONNECTING_AT_ONCE)
        self._open: set[_Connection] = set()

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, *, connect_seconds: float
    ) -> Response:
        """Send a request and return its answer as soon as the head is there; pass it to `release` afterwards.

        A connection that was kept from before may have been closed by the server in the same moment: a read is then
        sent again on a new one. Raises: Failure.
        """
        data = _head(method, target, headers, body)
        while True:
            connection, was_kept = await self._free_or_new(connect_seconds)
            try:
                return await connection.ask(data, body, method)
            except Disconnected as error:
                if not was_kept or error.heard or method not in _SAFE:
                    raise
            except BaseException:
                connection.close()
                raise

    def release(self, response: Response) -> None:
        """Take a connection back: for the next request if its answer was read to the end, else to be closed."""
        connection = response._connection
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()

    async def _free_or_new(self, seconds: float) -> "tuple[_Connection, bool]":
        """Return a connection, and whether it was kept from before.

        In a burst of requests one may come free before the turn to make a new one; a handshake costs more than most
        requests. Raises: NotConnected.
        """
        if self._idle:
            return self._idle.pop(), True
        try:
            async with asyncio.timeout(seconds), self._turns:
                if self._idle:
                    return self._idle.pop(), True
                return await self._connect(), False
        except OSError as error:  # TimeoutError is one
            raise NotConnected(str(error)) from error

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(
            lambda: _Connection(self), self._host, self._port, ssl=self._tls, server_hostname=self._server_name
        )
        self._open.add(made)
        return made

    def forget(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def close(self) -> None:
        """End all connections; returns when they are gone."""
        ending = [connection.ended for connection in self._open]
        for connection in list(self._open):
            connection.close()
        if ending:
            await asyncio.wait(ending, timeout=1.0)


def _head(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None or method not in _METHODS_WITHOUT_BODY:
        lines.append(f"Content-Length: {len(body or b'')}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a header of the request holds a line break")
    return text.encode() + b"\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One connection; parses one answer after another."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._transport: Any = None
        self._parser: Any = None
        self._head: asyncio.Future[Response] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._can_write: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._error: Exception | None = None
        self._is_complete = False
        self._is_kept = False
        self._is_paused = False
        self._headers: dict[str, str] = {}
        self._reason = b""

    @property
    def is_reusable(self) -> bool:
        """Whether the answer was read to its end and the server keeps the connection."""
        return self._is_complete and not self._chunks and self._error is None and self._is_kept

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, head: bytes, body: bytes | None, method: str) -> Response:
        """Send a request; return its answer when the head has come."""
        if self._error is not None:
            raise Disconnected(heard=False)
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._reason, self._is_complete = {}, b"", False
        self._head = self._loop.create_future()
        if body is None or len(body) <= _PIECE:
            self._transport.write(head + body if body else head)
        else:
            self._transport.write(head)
            await self._write_long(body)
        return await self._head

    async def _write_long(self, body: bytes) -> None:
        """Write a long body as the server takes it; stop when it has answered already."""
        view = memoryview(body)
        for at in range(0, len(body), _PIECE):
            if self._can_write is not None:
                await self._can_write
            if self._head is None or self._head.done():
                return
            self._transport.write(bytes(view[at : at + _PIECE]))

    async def next_chunk(self) -> bytes:
        """Return more of the body; b"" at its end."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._is_complete:
                return b""
            self._wake = self._loop.create_future()
            await self._wake
        chunk = self._chunks.popleft()
        self._waiting_bytes -= len(chunk)
        if self._is_paused and self._waiting_bytes < _READ_AHEAD_BYTES:
            self._is_paused = False
            self._transport.resume_reading()
        return chunk

    # ---- asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Take the transport."""
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            _notice_dead_peers(sock)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._parser is None or self._is_complete:
            self._fail(Malformed("the server sent what nobody asked for"))
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Malformed(f"malformed answer: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits; an answer without a length ends so."""
        self._pool.forget(self)
        if not self.ended.done():
            self.ended.set_result(None)
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)
        heard = bool(self._headers) or self._head is None or self._head.done()
        if heard and self._is_until_close() and exc is None:
            self.on_message_complete()
        self._fail(Disconnected(heard=heard))

    def _is_until_close(self) -> bool:
        return not ("content-length" in self._headers or "chunked" in self._headers.get("transfer-encoding", ""))

    def pause_writing(self) -> None:
        """The server does not take what we send for now."""
        self._can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        """It does again."""
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)
        self._can_write = None

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        if self._head is not None and not self._head.done():
            self._head.set_exception(self._error)
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ---- httptools' side

    def on_status(self, reason: bytes) -> None:
        """Take the words behind the status code."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is there."""
        if self._head is not None and not self._head.done():
            status = self._parser.get_status_code()
            if status >= 200:
                self._head.set_result(Response(self, status, self._reason.decode("latin-1"), self._headers))

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body; a reader that is slow slows the server."""
        self._chunks.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _READ_AHEAD_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._rouse()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._head is not None and self._head.done():
            self._is_complete = True
            self._is_kept = self._parser.should_keep_alive()  # not to be asked later: the parser looks ahead then
        self._rouse()


def _notice_dead_peers(sock: socket.socket) -> None:
    """Let the connection fail within a minute when the peer's machine vanishes: a watch may be silent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        if hasattr(socket, name):  # not every system has each
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
