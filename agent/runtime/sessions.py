"""What happens on a streaming connection: a command run, a container's streams joined, a port reached."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.runtime import fdio, kernel
from agent.runtime.channels import Channels, failure, internal_error, success
from agent.runtime.errors import RuntimeFailure
from agent.runtime.exec import DRAIN_SECONDS, Executor, wait_for_exit
from agent.runtime.monitor import RESIZE_TERMINAL, Monitor
from agent.runtime.processes import ProcessHandle
from agent.runtime.state import ContainerRecord
from machinery.channels import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT

_PACKET = 32 << 10  # conmon sends at most 8 KiB and one byte


@dataclass(frozen=True)
class Wanted:
    """Which streams a client asked for."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


def window_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a message on the resize channel: {"Width":80,"Height":24}."""
    try:
        size = json.loads(data)
        return int(size["Height"]) & 0xFFFF, int(size["Width"]) & 0xFFFF
    except (ValueError, KeyError, TypeError):
        return None


async def _greet(channels: Channels, wanted: Wanted) -> None:
    """Tell the client that the connection stands, by an empty message, as Kubernetes does."""
    channel = STDOUT if wanted.stdout else STDERR if wanted.stderr else ERROR
    await channels.send(channel, b"")


async def _end(channels: Channels, status: dict[str, object]) -> None:
    await channels.send(ERROR, json.dumps(status).encode())


class _StreamSession:
    """What exec and attach have in common: the streams of one process."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        asked = {STDIN: wanted.stdin, STDOUT: wanted.stdout, STDERR: wanted.stderr}
        self.channels = {channel for channel, is_asked in asked.items() if is_asked} | {ERROR}

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """There are no ports here. Raises: OSError."""
        raise OSError(f"port {port} can't be reached through a command")


class ExecSession(_StreamSession):
    """Runs a command and joins its streams with a client's."""

    def __init__(
        self, executor: Executor, record: ContainerRecord, folder: Path, command: Sequence[str], wanted: Wanted
    ) -> None:
        super().__init__(wanted)
        self._executor = executor
        self._record = record
        self._folder = folder
        self._command = command

    async def __call__(self, channels: Channels) -> None:
        """Hold the session. When the client goes away its streams end; the command may go on without them."""
        await _greet(channels, self._wanted)
        try:
            code = await (self._on_terminal(channels) if self._wanted.tty else self._on_pipes(channels))
        except RuntimeFailure as error:
            await _end(channels, internal_error(f"error executing command in container: {error}"))
            return
        await _end(channels, failure(code) if code else success())

    async def _on_terminal(self, channels: Channels) -> int:
        process, fd = await self._executor.spawn_with_terminal(self._record, self._folder, self._command)
        terminal = fdio.Descriptor(fd)
        try:
            outputs = [asyncio.create_task(_pump(terminal, channels, STDOUT))]
            return await _converse(channels, process, outputs, stdin=terminal, is_terminal=True)
        finally:
            terminal.close()

    async def _on_pipes(self, channels: Channels) -> int:
        wanted = self._wanted
        ours: dict[int, fdio.Descriptor] = {}
        theirs: list[int | None] = [None, None, None]
        for number, is_wanted in enumerate((wanted.stdin, wanted.stdout, wanted.stderr)):
            if is_wanted:
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                own, theirs[number] = (write_end, read_end) if number == STDIN else (read_end, write_end)
                ours[number] = fdio.Descriptor(own)
        try:
            try:
                process = await self._executor.spawn(self._record, self._folder, self._command, stdio=theirs)
            finally:
                for fd in theirs:
                    if fd is not None:
                        os.close(fd)
            kinds = [kind for kind in (STDOUT, STDERR) if kind in ours]
            outputs = [asyncio.create_task(_pump(ours[kind], channels, kind)) for kind in kinds]
            return await _converse(channels, process, outputs, stdin=ours.get(STDIN), is_terminal=False)
        finally:
            for descriptor in ours.values():
                descriptor.close()


async def _converse(
    channels: Channels,
    process: ProcessHandle,
    outputs: list[asyncio.Task[None]],
    *,
    stdin: fdio.Descriptor | None,
    is_terminal: bool,
) -> int:
    """Carry data both ways until the command ends; return its exit code."""
    inputs = asyncio.create_task(_feed(channels, stdin, is_terminal=is_terminal))
    ending = asyncio.create_task(wait_for_exit(process))
    try:
        await asyncio.wait([inputs, ending], return_when=asyncio.FIRST_COMPLETED)
        if not ending.done() and is_terminal:
            process.kill(signal.SIGHUP)  # as if the line had been cut, which it was
        code = await ending
        # What it wrote last is still on its way; a child in the background may hold the pipe open for ever.
        if outputs:
            await asyncio.wait(outputs, timeout=DRAIN_SECONDS)
    finally:
        for task in (inputs, ending, *outputs):
            task.cancel()
        await asyncio.gather(inputs, ending, *outputs, return_exceptions=True)
    return code or 0


async def _pump(source: fdio.Descriptor, channels: Channels, channel: int) -> None:
    while data := await fdio.read(source.fd):
        await channels.send(channel, data)


async def _feed(channels: Channels, stdin: fdio.Descriptor | None, *, is_terminal: bool) -> None:
    """Pass a client's input on, until the client goes away.

    Standard input ends with the client's, unless it is a terminal: there the client sends ^D.
    """
    async for channel, data in channels.receive():
        if channel == STDIN and stdin is not None and stdin.fd >= 0:
            try:
                await fdio.write(stdin.fd, data)
            except BrokenPipeError:
                stdin.close()  # the command reads no more
        elif channel == RESIZE and is_terminal and stdin is not None and (size := window_size(data)):
            fcntl.ioctl(stdin.fd, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        elif _closes_stdin(channel, data) and not is_terminal and stdin is not None:
            stdin.close()
    if not is_terminal and stdin is not None:
        stdin.close()


def _closes_stdin(channel: int, data: bytes) -> bool:
    return channel == CLOSE and data == bytes((STDIN,))


class AttachSession(_StreamSession):
    """Joins a running container's own streams, by way of its monitor."""

    def __init__(self, folder: Path, wanted: Wanted) -> None:
        super().__init__(wanted)
        self._folder = folder

    async def __call__(self, channels: Channels) -> None:
        """Hold the session until the container ends or the client goes away."""
        await _greet(channels, self._wanted)
        try:
            connection = await _connect_to_monitor(self._folder)
        except OSError as error:
            text = f"error attaching to container: {error.strerror}"
            await _end(channels, internal_error(text))
            return
        with connection:
            tasks = [
                asyncio.create_task(self._from_container(connection, channels)),
                asyncio.create_task(self._to_container(connection, channels)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        await _end(channels, success())

    async def _from_container(self, connection: socket.socket, channels: Channels) -> None:
        loop = asyncio.get_running_loop()
        # conmon numbers the streams from 1.
        asked = {STDOUT + 1: self._wanted.stdout, STDERR + 1: self._wanted.stderr}
        while packet := await loop.sock_recv(connection, _PACKET):
            if asked.get(packet[0]):
                await channels.send(packet[0] - 1, packet[1:])

    async def _to_container(self, connection: socket.socket, channels: Channels) -> None:
        loop = asyncio.get_running_loop()
        async for channel, data in channels.receive():
            if channel == STDIN and self._wanted.stdin:
                for start in range(0, len(data), _PACKET // 4):
                    await loop.sock_sendall(connection, data[start : start + _PACKET // 4])
            elif channel == RESIZE and self._wanted.tty and (size := window_size(data)):
                with contextlib.suppress(RuntimeFailure):  # it has just ended
                    await Monitor.control(self._folder, RESIZE_TERMINAL, *size)
            elif _closes_stdin(channel, data) and not self._wanted.tty:
                connection.shutdown(socket.SHUT_WR)


async def _connect_to_monitor(folder: Path) -> socket.socket:
    """Connect to conmon's socket; its path may be longer than an address holds, so it goes by a descriptor."""
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(connection, f"/proc/self/fd/{directory}/attach")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


class PortForwardSession:
    """Carries data between a client and ports of a pod: port i on channels 2i (data) and 2i + 1 (errors)."""

    def __init__(self, netns: Path | None, ports: Sequence[int]) -> None:
        """Make one.

        Args:
            netns: the pod's network namespace, None for the host's.
            ports: where to connect to, on the pod's own loopback.
        """
        self._netns = netns
        self._ports = list(ports)
        self.channels: set[int] = set()

    async def __call__(self, channels: Channels) -> None:
        """Hold the session until all ports are closed or the client goes away."""
        writers: dict[int, asyncio.StreamWriter] = {}
        readers: list[asyncio.Task[None]] = []
        for index, port in enumerate(self._ports):
            for channel in (2 * index, 2 * index + 1):
                await channels.send(channel, struct.pack("<H", port))
            try:
                reader, writer = await self.connect(port)
            except OSError as error:
                text = f"error forwarding port {port} to pod: {error.strerror or error}"
                await channels.send(2 * index + 1, text.encode())
                continue
            writers[2 * index] = writer
            readers.append(asyncio.create_task(_forward(reader, channels, 2 * index)))
        inputs = asyncio.create_task(_to_ports(channels, writers))
        try:
            outputs = asyncio.create_task(_all(readers))
            await asyncio.wait([inputs, outputs], return_when=asyncio.FIRST_COMPLETED)
            outputs.cancel()
        finally:
            for task in (inputs, *readers):
                task.cancel()
            await asyncio.gather(inputs, *readers, return_exceptions=True)
            for writer in writers.values():
                writer.close()

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port of the pod. Raises: OSError."""
        connection = await kernel.in_own_thread(lambda: connect_in(self._netns, port))
        return await asyncio.open_connection(sock=connection)


def connect_in(netns: Path | None, port: int) -> socket.socket:
    """Connect to a port on the loopback of a network namespace. For a thread of its own.

    Raises: OSError.
    """
    if netns is not None:
        kernel.enter_namespace(netns, kernel.CLONE_NEWNET)
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=10)
    except ConnectionRefusedError:
        return socket.create_connection(("::1", port), timeout=10)


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


async def _forward(reader: asyncio.StreamReader, channels: Channels, channel: int) -> None:
    while data := await reader.read(65536):
        await channels.send(channel, data)


async def _to_ports(channels: Channels, writers: dict[int, asyncio.StreamWriter]) -> None:
    async for channel, data in channels.receive():
        writer = writers.get(channel)
        if writer is not None:
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
