"""exec over a WebSocket: input, output, terminal size and the exit code, each on its channel.

Source of the protocol: https://kubernetes.io/docs/reference/using-api/ (v5.channel.k8s.io: the first byte of a message
is its channel; 0 input, 1 output, 2 errors, 3 the final Status, 4 the terminal's size, 255 closes a channel)
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """What is to be run where."""

    namespace: str
    pod: str
    container: str
    command: tuple[str, ...]
    stdin: bool
    tty: bool


async def run_exec(config: ClientConfig, request: ExecRequest) -> int:
    """Run a command to its end with our streams as its own; returns its exit code. Raises: APIError."""
    flags = {"stdin": request.stdin, "stdout": True, "stderr": not request.tty, "tty": request.tty}
    params = [("container", request.container), *((name, "true") for name, value in flags.items() if value)]
    params += [("command", part) for part in request.command]
    path = f"/api/v1/namespaces/{request.namespace}/pods/{request.pod}/exec"
    async with Client(config) as client, client.websocket(path, params=params, protocols=_PROTOCOLS) as socket:
        with _raw_terminal(active=request.tty):
            tasks = [asyncio.create_task(_send_input(socket))] if request.stdin else []
            if request.tty:
                tasks.append(asyncio.create_task(_send_sizes(socket)))
            try:
                return await _receive(socket)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def _receive(socket: aiohttp.ClientWebSocketResponse) -> int:
    async for message in socket:
        if message.type != aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == STATUS:
            return exit_code(orjson.loads(data))
        stream = sys.stderr.buffer if channel == STDERR else sys.stdout.buffer
        stream.write(data)
        stream.flush()
    return 0


def exit_code(status: dict[str, Any]) -> int:
    """Return the exit code a final Status tells of; its message goes to standard error when it is no exit code."""
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            print(f"command terminated with exit code {cause['message']}", file=sys.stderr)
            return int(cause["message"])
    print(f"error: {status.get('message', '')}", file=sys.stderr)
    return 1


async def _send_input(socket: aiohttp.ClientWebSocketResponse) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(0), "rb"))
    while data := await reader.read(32 * 1024):
        await socket.send_bytes(bytes([STDIN]) + data)
    if socket.protocol == _PROTOCOLS[0]:
        await socket.send_bytes(bytes([CLOSE, STDIN]))


async def _send_sizes(socket: aiohttp.ClientWebSocketResponse) -> None:
    changed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, changed.set)
    while True:
        columns, rows = shutil.get_terminal_size()
        await socket.send_bytes(bytes([RESIZE]) + orjson.dumps({"Width": columns, "Height": rows}))
        await changed.wait()
        changed.clear()


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
