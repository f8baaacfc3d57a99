"""gRPC calls of one client: requests with one answer, and two-way streams, over `http2.Connection`.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from apiserver.storage.http2 import Connection, ConnectionLost, Stream, header_block

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, OUT_OF_RANGE, UNAVAILABLE = (
    0,
    3,
    4,
    5,
    8,
    11,
    14,
)
_SWEEP_SECONDS = 0.25
_PREFIX_BYTES = 5  # one of flags, four of length


class RpcError(Exception):
    """A call that failed. `code` is gRPC's status; `never_sent`: the server has surely not seen it."""

    def __init__(self, code: int, message: str, *, never_sent: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.never_sent = never_sent


class _Unary:
    """One call that waits for its answer."""

    __slots__ = ("answer", "data", "deadline", "started", "stream")

    def __init__(self, started: float, deadline: float) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.data = b""
        self.started = started
        self.deadline = deadline
        self.stream = Stream(self._on_data, self._on_end, self._on_lost)

    def _on_data(self, data: bytes) -> None:
        self.data = self.data + data if self.data else data

    def _on_end(self, trailers: Mapping[str, str]) -> None:
        if self.answer.done():
            return
        status = trailers.get("grpc-status", "14")
        if status == "0":
            self.answer.set_result(self.data[_PREFIX_BYTES:])
        else:
            self.answer.set_exception(_failure(trailers))

    def _on_lost(self, error: ConnectionLost) -> None:
        if not self.answer.done():
            self.answer.set_exception(RpcError(UNAVAILABLE, str(error), never_sent=error.never_sent))


class Channel:
    """Calls to one endpoint; connects when first needed, and anew after a connection is lost.

    `endpoint`: "unix:///run/etcd.sock", "http://10.0.0.1:2379" or, with `tls`, "https://10.0.0.1:2379".
    """

    def __init__(self, endpoint: str, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._path = endpoint.removeprefix("unix://") if endpoint.startswith("unix://") else ""
        address = endpoint.partition("://")[2] or endpoint
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), port
        # A Unix socket gives no host name, and etcd's HTTP/2 server refuses its path as one.
        self._authority = "localhost" if self._path else address
        self._blocks: dict[str, bytes] = {}
        self._connection: Connection | None = None
        self._connecting: asyncio.Future[Connection] | None = None
        self._waiting: set[_Unary] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def unary(self, method: str, request: bytes, timeout_seconds: float) -> bytes:
        """Call a method such as "/etcdserverpb.KV/Txn" and return its answer. Raises: RpcError, within the time given.

        Times are looked at four times a second, so that a call costs no timer of its own.
        """
        now = asyncio.get_running_loop().time()
        call = _Unary(now, now + timeout_seconds)
        connection = self._connection
        if connection is None or not connection.is_open:
            connection = await self._connected(timeout_seconds)
        connection.open(self._block(method), call.stream)
        connection.write(call.stream, _message(request), ends=True)
        self._waiting.add(call)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
        try:
            return await call.answer
        except asyncio.CancelledError:
            connection.cancel(call.stream)
            raise
        finally:
            self._waiting.discard(call)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for call in [one for one in self._waiting if one.deadline <= now and not one.answer.done()]:
            call.answer.set_exception(RpcError(DEADLINE_EXCEEDED, "no answer in time"))
            if (connection := self._connection) is not None:
                connection.cancel(call.stream)
                if connection.heard_at < call.started:  # nothing at all has come since: it may be dead
                    connection.abort("the other side is silent")
        again = bool(self._waiting)
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep) if again else None

    async def stream(self, method: str, timeout_seconds: float) -> "TwoWay":
        """Open a two-way stream. Raises: RpcError."""
        connection = self._connection
        if connection is None or not connection.is_open:
            connection = await self._connected(timeout_seconds)
        return TwoWay(connection, self._block(method))

    async def _connected(self, timeout_seconds: float) -> Connection:
        """Return the connection, made once for all who wait. Raises: RpcError."""
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect(timeout_seconds))
            self._connecting.add_done_callback(self._connect_done)
        return await asyncio.shield(self._connecting)

    def _connect_done(self, done: "asyncio.Future[Connection]") -> None:
        self._connecting = None
        if not done.cancelled():
            done.exception()  # told to those who wait, if any still do

    async def _connect(self, timeout_seconds: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_seconds):
                if self._path:
                    _, made = await loop.create_unix_connection(Connection, self._path)
                else:
                    _, made = await loop.create_connection(Connection, self._host, int(self._port), ssl=self._tls)
        except (OSError, TimeoutError, ValueError) as error:
            raise RpcError(UNAVAILABLE, f"failed to connect: {str(error) or repr(error)}", never_sent=True) from error
        self._connection = made
        return made

    def _block(self, method: str) -> bytes:
        block = self._blocks.get(method)
        if block is None:
            block = self._blocks[method] = header_block(
                {":method": "POST", ":scheme": "https" if self._tls else "http", ":path": method,
                 ":authority": self._authority, "te": "trailers", "content-type": "application/grpc",
                 "user-agent": "wherry-apiserver"}
            )  # fmt: skip
        return block

    async def close(self) -> None:
        """End the connection; calls that wait fail."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()


class TwoWay:
    """A stream of messages both ways."""

    def __init__(self, connection: Connection, block: bytes) -> None:
        self._connection = connection
        self._pending = bytearray()
        self._messages: deque[bytes] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._end: RpcError | None = None
        self._stream = Stream(self._on_data, self._on_end, self._on_lost)
        connection.open(block, self._stream)

    def write(self, message: bytes) -> None:
        """Send a message; does not wait."""
        if self._end is None:
            self._connection.write(self._stream, _message(message), ends=False)

    async def read(self, timeout_seconds: float) -> bytes:
        """Return the next message. Raises: RpcError when the stream has ended; TimeoutError."""
        if not self._messages:
            if self._end is not None:
                raise self._end
            self._wake = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(timeout_seconds):
                await self._wake
            if not self._messages and self._end is not None:
                raise self._end
        return self._messages.popleft()

    def cancel(self) -> None:
        """Give the stream up."""
        if self._end is None:
            self._end = RpcError(UNAVAILABLE, "cancelled")
            with contextlib.suppress(RuntimeError):
                self._connection.cancel(self._stream)

    def _on_data(self, data: bytes) -> None:
        pending = self._pending
        pending += data
        at, end = 0, len(pending)
        while end - at >= _PREFIX_BYTES:
            after = at + _PREFIX_BYTES + int.from_bytes(pending[at + 1 : at + _PREFIX_BYTES], "big")
            if after > end:
                break
            self._messages.append(bytes(pending[at + _PREFIX_BYTES : after]))
            at = after
        del pending[:at]
        if at:
            self._rouse()

    def _on_end(self, trailers: Mapping[str, str]) -> None:
        self._end = _failure(trailers)
        self._rouse()

    def _on_lost(self, error: ConnectionLost) -> None:
        self._end = RpcError(UNAVAILABLE, str(error))
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _message(data: bytes) -> bytes:
    """Return a message with its prefix: not compressed, so long."""
    return b"\x00" + len(data).to_bytes(4, "big") + data


def _failure(trailers: Mapping[str, str]) -> RpcError:
    status = trailers.get("grpc-status", "")
    code = int(status) if status.isdigit() else UNAVAILABLE
    return RpcError(code, unquote(trailers.get("grpc-message", "")) or f"the call ended with status {code}")


def tls_context(ca_file: Any, cert_file: Any, key_file: Any) -> ssl.SSLContext:
    """Return the settings of a client that trusts `ca_file` and shows a certificate if it has one; files are PEM."""
    context = ssl.create_default_context(cafile=str(ca_file))
    if cert_file is not None:
        context.load_cert_chain(str(cert_file), str(key_file) if key_file is not None else None)
    context.set_alpn_protocols(["h2"])
    return context
