"""A few lines of HTTP for those who only ask whether we are well: no framework, hardly any memory."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

_REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


class ProbeServer:
    """Answers GET on one port; each connection has one request."""

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        """Args: `answer` is given the path."""
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def listen(self, host: str | None, port: int) -> None:
        """Start answering; all addresses when `host` is None. Raises: OSError."""
        self._server = await asyncio.start_server(self._handle, host, port, reuse_address=True)

    def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                words = head.split(b" ", 2)
                path = words[1].decode("latin-1").partition("?")[0] if len(words) == 3 else ""
                writer.write(_encode(self._answer(path)))
                await writer.drain()
        writer.close()


def _encode(answer: Answer) -> bytes:
    body = answer.body.encode()
    kind = "application/json" if answer.body.startswith("{") else "text/plain; charset=utf-8"
    headers = {
        "Content-Type": kind, "X-Content-Type-Options": "nosniff", **answer.headers,
        "Content-Length": str(len(body)), "Connection": "close",
    }  # fmt: skip
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
