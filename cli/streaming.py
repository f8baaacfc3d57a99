"""exec and attach over a WebSocket: input, output, terminal size and the exit code, each on its channel.

Source of the protocol: https://kubernetes.io/docs/reference/using-api/ (v5.channel.k8s.io: the first byte of a message
is its channel; 0 input, 1 output, 2 errors, 3 the final Status, 4 the terminal's size, 255 closes a channel)
"""

import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import orjson

from cli.connection import Connection
from cli.websocket import WebSocket, open_websocket
from machinery.channels import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
ATTACHED = (
    "All commands and output from this session will be recorded in container logs, including credentials and sensitive "
    "information passed through the command prompt.\nIf you don't see a command prompt, try pressing enter."
)
"""What kubectl says when it has joined a container."""
DETACH = b"\x10\x11"
"""Ctrl-P Ctrl-Q, as in Docker."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What is to be joined with our streams.

    Attributes:
        namespace, pod, container: where.
        command: what to run; none attaches to what runs already.
        stdin: pass our input on.
        tty: there is a terminal on the other side.
        detach: bytes that end the stream and leave the other side running; empty for none.
    """

    namespace: str
    pod: str
    container: str
    command: tuple[str, ...] = ()
    stdin: bool = False
    tty: bool = False
    detach: bytes = b""

    @property
    def path(self) -> str:
        """The subresource's path."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}/{'exec' if self.command else 'attach'}"

    def params(self) -> list[tuple[str, str]]:
        """Return the query."""
        flags = {"stdin": self.stdin, "stdout": True, "stderr": not self.tty, "tty": self.tty}
        found = [("container", self.container), *((name, "true") for name, value in flags.items() if value)]
        return found + [("command", part) for part in self.command]


class Detached(Exception):
    """The user typed the keys that leave the container running."""


class DetachKeys:
    """Watches typed bytes for the sequence that detaches; holds back what may be its beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to pass on. Raises: Detached when the sequence is complete."""
        if not self._keys:
            return data
        text, self._held = self._held + data, b""
        if self._keys in text:
            raise Detached
        for length in range(len(self._keys) - 1, 0, -1):
            if text.endswith(self._keys[:length]):
                self._held = text[-length:]
                return text[:-length]
        return text


def run_stream(
    connection: Connection, request: StreamRequest, *, on_open: Callable[[], None] | None = None
) -> int | None:
    """Join a container with our streams to the end.

    Args:
        connection: the server.
        request: what to join.
        on_open: called when the other side is joined.

    Returns: the exit code; None when the user detached or, attached, when there was no exit code.
    Raises: APIError, ClickException.
    """
    socket = open_websocket(connection, request.path, request.params(), PROTOCOLS)
    if on_open is not None:
        on_open()
    detached = threading.Event()
    with _raw_terminal(active=request.tty and request.stdin and sys.stdin.isatty()):
        if request.tty:
            _follow_sizes(socket)
        if request.stdin:
            threading.Thread(target=_send_input, args=(socket, request.detach, detached), daemon=True).start()
        try:
            code = _receive(socket)
        finally:
            socket.close()
    return None if detached.is_set() else code


def _receive(socket: WebSocket) -> int | None:
    while (message := socket.receive()) is not None:
        if not message:
            continue
        channel, data = message[0], message[1:]
        if channel == ERROR:
            return exit_code(orjson.loads(data))
        if channel in (STDOUT, STDERR) and data:
            stream = sys.stderr.buffer if channel == STDERR else sys.stdout.buffer
            stream.write(data)
            stream.flush()
    return None


def exit_code(status: dict[str, Any]) -> int:
    """Return the exit code that a final Status tells of. Raises: ClickException when it tells of another failure."""
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise click.ClickException(status.get("message", ""))


def _send_input(socket: WebSocket, keys: bytes, detached: threading.Event) -> None:
    watcher = DetachKeys(keys)
    try:
        while data := os.read(0, 32 * 1024):
            passed = watcher.feed(data)
            if passed:
                socket.send(bytes([STDIN]) + passed)
        if socket.protocol == PROTOCOLS[0]:
            socket.send(bytes([CLOSE, STDIN]))
    except Detached:
        detached.set()
        socket.close()
    except OSError:
        return


def _follow_sizes(socket: WebSocket) -> None:
    def send(*_: object) -> None:
        columns, rows = shutil.get_terminal_size()
        with contextlib.suppress(OSError):
            socket.send(bytes([RESIZE]) + orjson.dumps({"Width": columns, "Height": rows}))

    signal.signal(signal.SIGWINCH, send)
    send()


@contextlib.contextmanager
def _raw_terminal(*, active: bool) -> Iterator[None]:
    if not active:
        yield
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def capture(connection: Connection, request: StreamRequest, data: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a command in a container with `data` as its input; returns exit code, output and errors. Raises: APIError."""
    socket = open_websocket(connection, request.path, request.params(), PROTOCOLS)
    if request.stdin:
        threading.Thread(target=_feed, args=(socket, data), daemon=True).start()
    found: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
    code = 1
    while (message := socket.receive()) is not None:
        if message and message[0] == ERROR:
            code = exit_code(orjson.loads(message[1:]))
            break
        if message:
            found.setdefault(message[0], []).append(message[1:])
    socket.close()
    return code, b"".join(found[STDOUT]), b"".join(found[STDERR])


def _feed(socket: WebSocket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        for at in range(0, len(data), 1 << 20):
            socket.send(bytes([STDIN]) + data[at : at + (1 << 20)])
        socket.send(bytes([CLOSE, STDIN]))


def words(command: Sequence[str]) -> tuple[str, ...]:
    """Return a command without the `--` before it."""
    return tuple(command[1:] if command[:1] == ("--",) or command[:1] == ["--"] else command)
