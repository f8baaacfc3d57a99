"""The streaming server: Exec, Attach and PortForward over WebSockets, at URLs that are good for one connection.

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
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

_log = logging.getLogger(__name__)

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io")
_TOKEN_SECONDS = 60
_LONGEST_MESSAGE = 32 << 20


class Channels:
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


Session = Callable[[Channels], Awaitable[None]]


class StreamingServer:
    """Hands out URLs and serves them."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._server: Server | None = None
        self._starting = asyncio.Lock()

    async def url_for(self, kind: str, session: Session) -> str:
        """Return a URL; who first connects to it within a minute gets `session`."""
        async with self._starting:
            if self._server is None:
                self._server = await self._start()
        token = secrets.token_urlsafe(32)
        self._sessions[token] = session
        asyncio.get_running_loop().call_later(_TOKEN_SECONDS, self._sessions.pop, token, None)
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"http://127.0.0.1:{port}/{kind}/{token}"

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _start(self) -> "Server":
        # Not imported before: who never runs a command in a container needn't hold it in memory.
        from websockets.asyncio.server import serve
        from websockets.typing import Subprotocol

        return await serve(
            self._serve,
            "127.0.0.1",
            0,
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
            await session(Channels(connection))
        except (OSError, asyncio.CancelledError):
            raise
        except Exception:
            _log.exception("streaming session failed")
            raise


def _token(path: str) -> str:
    return path.partition("?")[0].rpartition("/")[2]


def success() -> dict[str, Any]:
    """The Status that ends a session well."""
    return {"metadata": {}, "status": "Success"}


def failure(code: int) -> dict[str, Any]:
    """The Status of a command that ended with an exit code other than 0."""
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def internal_error(text: str) -> dict[str, Any]:
    """The Status of a session that could not be held."""
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {text}",
        "reason": "InternalError",
        "details": {"causes": [{"message": text}]},
        "code": 500,
    }
