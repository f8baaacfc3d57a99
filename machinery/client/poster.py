"""POSTs in quick succession: prepared bytes over a few HTTP/1.1 connections that are kept open.

For the one path where a request costs more than what it asks for (the scheduler binds thousands of pods a second).
Everything else goes through machinery.client.rest, which knows streams, patience and objects.
"""

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from machinery.client.kubeconfig import ClientConfig
from machinery.client.tls import ssl_context

log = logging.getLogger(__name__)

OnAnswer = Callable[[int, bytes], None]
"""Called with the status and the body. Status 0 means that the request was sent and its outcome is not known."""

TIMEOUT_SECONDS = 60.0
_RECONNECT_SECONDS = (0.05, 2.0)
_TOKEN_SECONDS = 1.0
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_RETRY = re.compile(rb"\r\nretry-after:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:\s*close", re.IGNORECASE)


class Poster:
    """An async context manager; `post` never blocks: requests wait until a connection is free."""

    def __init__(self, config: ClientConfig, *, connections: int, user_agent: str = "wherry") -> None:
        """Args: `connections` is how many requests may be under way at once."""
        self._config = config
        self._url = urlsplit(config.server)
        self._limit = connections
        self._user_agent = user_agent
        self._waiting: deque[tuple[bytes, OnAnswer]] = deque()
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._tls: Any = None
        self._head = b""
        self._head_until = 0.0
        self._pause = _RECONNECT_SECONDS[0]
        self._watchdog: asyncio.TimerHandle | None = None
        self._closed = False

    async def __aenter__(self) -> "Poster":
        if self._url.scheme == "https":
            self._tls = await asyncio.to_thread(ssl_context, self._config)
        self._watchdog = asyncio.get_running_loop().call_later(TIMEOUT_SECONDS / 4, self._look_for_stuck)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # the transports let go of their sockets in the loop's next turn

    @property
    def pending(self) -> int:
        """How many requests wait or are under way."""
        return len(self._waiting) + len(self._open) - len(self._idle)

    def post(self, path: str, body: bytes, on_answer: OnAnswer) -> None:
        """Send a request soon. Path segments must need no quoting (names of objects do not)."""
        request = b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (
            path.encode(), self._headers(), len(body), body,
        )  # fmt: skip
        self._send(request, on_answer)

    def _send(self, request: bytes, on_answer: OnAnswer) -> None:
        if self._idle:
            self._idle.pop().send(request, on_answer)
            return
        self._waiting.append((request, on_answer))
        self._connect_if_useful()

    def _headers(self) -> bytes:
        now = asyncio.get_running_loop().time()
        if now < self._head_until:
            return self._head
        token = self._config.token
        if self._config.token_file:
            token = Path(self._config.token_file).read_text().strip()
        lines = [f"Host: {self._url.netloc}", f"User-Agent: {self._user_agent}", "Accept: application/json"]
        lines += ["Content-Type: application/json", *([f"Authorization: Bearer {token}"] if token else [])]
        self._head = "".join(f"{line}\r\n" for line in lines).encode()
        self._head_until = now + (_TOKEN_SECONDS if self._config.token_file else float("inf"))
        return self._head

    # ---- connections

    def _connect_if_useful(self) -> None:
        if self._closed or len(self._open) + len(self._opening) >= self._limit:
            return
        if len(self._opening) < len(self._waiting):
            task = asyncio.ensure_future(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("connecting to %s", self._url.netloc, exc_info=task.exception())
        if self._waiting:
            self._connect_if_useful()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        name = (self._config.tls_server_name or self._url.hostname) if self._tls else None
        try:
            async with asyncio.timeout(10):
                await loop.create_connection(
                    lambda: _Connection(self),
                    self._url.hostname or "",
                    self._url.port or 443,
                    ssl=self._tls,
                    server_hostname=name,
                )
        except OSError as error:  # TimeoutError and ssl.SSLError are among them
            # Nothing was sent, so what waits may go on waiting.
            log.info("connecting to %s: %s", self._url.netloc, error)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _RECONNECT_SECONDS[1])
        else:
            self._pause = _RECONNECT_SECONDS[0]

    def ready(self, connection: "_Connection") -> None:
        """A connection is free: give it the next request."""
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def made(self, connection: "_Connection") -> None:
        """A connection was opened."""
        self._open.add(connection)
        self.ready(connection)

    def lost(self, connection: "_Connection") -> None:
        """A connection is no more."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        if self._waiting:
            self._connect_if_useful()

    def again(self, request: bytes, on_answer: OnAnswer, seconds: float) -> None:
        """The server asks us to wait: nothing was done."""
        asyncio.get_running_loop().call_later(seconds, self._send, request, on_answer)

    def _look_for_stuck(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self._open):
            if connection.busy_since and loop.time() - connection.busy_since > TIMEOUT_SECONDS:
                connection.abort()
        self._watchdog = loop.call_later(TIMEOUT_SECONDS / 4, self._look_for_stuck)


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster
        self._transport: asyncio.Transport
        self._buffer = b""
        self._under_way: tuple[bytes, OnAnswer] | None = None
        self.busy_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poster.made(self)

    def send(self, request: bytes, on_answer: OnAnswer) -> None:
        """Send one request."""
        self._under_way = (request, on_answer)
        self.busy_since = asyncio.get_running_loop().time()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        found = _body(head, self._buffer[end + 4 :])
        if found is not None:
            self._buffer = b""
            self._answered(int(head[9:12]), head, found)

    def _answered(self, status: int, head: bytes, body: bytes) -> None:
        under_way, self._under_way, self.busy_since = self._under_way, None, 0.0
        if _CLOSE.search(head):
            self._transport.close()
        else:
            self._poster.ready(self)
        if under_way is None:
            return
        wait = _RETRY.search(head)
        if status == 429 and wait is not None:
            self._poster.again(*under_way, float(wait[1]) or 1.0)
        else:
            _tell(under_way[1], status, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._poster.lost(self)
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            _tell(under_way[1], 0, b"")

    def abort(self) -> None:
        """Give up on the connection."""
        self._transport.abort()


def _tell(on_answer: OnAnswer, status: int, body: bytes) -> None:
    try:
        on_answer(status, body)
    except Exception:
        log.exception("taking an answer")  # one faulty receiver must not break the connection for the others


def _body(head: bytes, rest: bytes) -> bytes | None:
    """Return the body once it is whole; None before."""
    length = _LENGTH.search(head)
    if length is not None:
        size = int(length[1])
        return rest[:size] if len(rest) >= size else None
    if not _CHUNKED.search(head):
        return b""
    found, at = [], 0
    while True:
        line = rest.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(rest[at:line].split(b";")[0], 16)
        if len(rest) < line + 2 + size + 2:
            return None
        found.append(rest[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
        if size == 0:
            return b"".join(found)
