"""A WebSocket client on the standard library alone.

exec has to start quickly, and an HTTP library would take longer to load than the whole command takes.
Source: RFC 6455. Blocking; one thread may receive while others send.
"""

import base64
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import click

from cli.connection import Connection, refusal

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL, _MASKED, _LENGTH = 0x80, 0x80, 0x7F


class WebSocket:
    """One open WebSocket; messages are bytes."""

    def __init__(self, connection: socket.socket, protocol: str, rest: bytes) -> None:
        self._socket = connection
        self.protocol = protocol
        self._buffer = bytearray(rest)
        self._sending = threading.Lock()

    def send(self, data: bytes) -> None:
        """Send one binary message. Raises: OSError."""
        self._frame(_BINARY, data)

    def _frame(self, opcode: int, data: bytes) -> None:
        length = len(data)
        if length < 126:
            head = struct.pack("!BB", _FINAL | opcode, _MASKED | length)
        elif length < 1 << 16:
            head = struct.pack("!BBH", _FINAL | opcode, _MASKED | 126, length)
        else:
            head = struct.pack("!BBQ", _FINAL | opcode, _MASKED | 127, length)
        mask = os.urandom(4)
        with self._sending:
            self._socket.sendall(head + mask + _masked(data, mask))

    def receive(self) -> bytes | None:
        """Return the next message, None at the end."""
        message = bytearray()
        while True:
            try:
                first, second = self._take(2)
                length = second & _LENGTH
                if length >= 126:
                    length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
                data = self._take(length)
            except (EOFError, OSError):
                return None
            opcode = first & 0x0F
            if opcode == _PING:
                self._frame(_PONG, bytes(data))
            elif opcode == _CLOSE:
                return None
            elif opcode in (_CONTINUATION, _TEXT, _BINARY):
                message += data
                if first & _FINAL:
                    return bytes(message)

    def _take(self, count: int) -> bytearray:
        while len(self._buffer) < count:
            data = self._socket.recv(max(65536, count - len(self._buffer)))
            if not data:
                raise EOFError
            self._buffer += data
        taken = self._buffer[:count]
        del self._buffer[:count]
        return taken

    def close(self) -> None:
        """Say goodbye and hang up."""
        try:
            self._frame(_CLOSE, struct.pack("!H", 1000))
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


def _masked(data: bytes, mask: bytes) -> bytes:
    length = len(data)
    if not length:
        return b""
    pad = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(length, "big")


def open_websocket(
    connection: Connection, path: str, params: Sequence[tuple[str, Any]], protocols: Sequence[str]
) -> WebSocket:
    """Open a WebSocket to the API server. Raises: APIError, ClickException."""
    key = base64.b64encode(os.urandom(16)).decode()
    headers = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": ", ".join(protocols),
    }  # fmt: skip
    http = connection.opened(timeout_seconds=30)
    connection.ask(http, "GET", path + ("?" + urlencode(params) if params else ""), headers)
    raw = http.sock
    # Taken over before the answer is read: its reader would swallow what comes right behind the handshake.
    head, rest = _head(raw)
    status_line, *lines = head.decode("latin-1").split("\r\n")
    status = int(status_line.split(" ", 2)[1])
    answered = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if status != 101:
        length = int(answered.get("content-length") or 0)
        while len(rest) < length and (more := raw.recv(65536)):
            rest += more
        raise refusal(status, rest)
    expected = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    if answered.get("sec-websocket-accept") != expected:
        raise click.ClickException("Unable to connect to the server: it does not speak WebSocket")
    raw.settimeout(None)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return WebSocket(raw, answered.get("sec-websocket-protocol", ""), rest)


def _head(raw: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = raw.recv(65536)
        if not more:
            raise click.ClickException("Unable to connect to the server: EOF")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest
