"""Runs further processes in containers."""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.runtime.errors import DeadlineExceeded, FailedPrecondition, RuntimeFailure
from agent.runtime.handlers import OciRuntimes
from agent.runtime.oci import OciError
from agent.runtime.processes import ProcessHandle
from agent.runtime.state import ContainerRecord
from machinery.files import write_atomically

OUTPUT_LIMIT = 16 << 20  # CRI: more is discarded, and the command goes on
_CONSOLE_SECONDS = 10.0  # runc sends the terminal before it returns
DRAIN_SECONDS = 2.0  # how long output is awaited after the end: a child in the background may hold it open


class Capture:
    """Reads a pipe to its end and keeps the first OUTPUT_LIMIT bytes."""

    def __init__(self, fd: int) -> None:
        """Start reading; `fd` becomes this object's to close."""
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.ended = asyncio.Event()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        try:
            part = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        except OSError:  # a terminal whose other side is closed
            part = b""
        if part:
            self.data += part[: OUTPUT_LIMIT - len(self.data)]
        else:
            self.close()

    def close(self) -> None:
        """Stop reading."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self.ended.set()


class Executor:
    """Starts processes in running containers."""

    def __init__(self, runtimes: OciRuntimes, sockets: Path) -> None:
        """Make one.

        Args:
            runtimes: start the processes.
            sockets: a folder of a short name for sockets that live for a moment.
        """
        self._runtimes = runtimes
        self._sockets = sockets

    async def spawn(
        self,
        record: ContainerRecord,
        folder: Path,
        command: Sequence[str],
        *,
        stdio: Sequence[int | None] = (None, None, None),
        console: Path | None = None,
    ) -> ProcessHandle:
        """Start a command with the container's own user, environment and rights.

        Args:
            record: a running container.
            folder: its bundle.
            command: program and arguments.
            stdio: file descriptors for standard input, output and error.
            console: instead, a socket that is sent the command's terminal.

        Raises: FailedPrecondition, RuntimeFailure with the OCI runtime's message.
        """
        if record.state != "running":
            raise FailedPrecondition(f"container is in CONTAINER_{record.state.upper()} state")
        process = await asyncio.to_thread(_container_process, folder)
        process.update(args=list(command), terminal=console is not None)
        token = secrets.token_hex(6)
        process_file, pid_file = folder / f"exec-{token}.json", folder / f"exec-{token}.pid"
        write_atomically(process_file, json.dumps(process).encode())
        try:
            return ProcessHandle(
                await self._runtimes.of(record.handler).spawn(
                    record.id, process_file, pid_file, stdio=stdio, console=console
                )
            )
        except OciError as error:
            what = f"failed to exec in container: failed to start exec: OCI runtime exec failed: {error}: unknown"
            raise RuntimeFailure(what) from error
        finally:
            process_file.unlink(missing_ok=True)

    async def spawn_with_terminal(
        self, record: ContainerRecord, folder: Path, command: Sequence[str]
    ) -> tuple[ProcessHandle, int]:
        """As `spawn`, on a terminal of its own: return the process and the terminal's master side.

        Raises: FailedPrecondition, RuntimeFailure with the OCI runtime's message.
        """
        # A short path: socket addresses hold 107 bytes.
        path = self._sockets / secrets.token_hex(6)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
            listener.bind(str(path))
            try:
                listener.listen(1)
                accepting = asyncio.create_task(loop.sock_accept(listener))
                try:
                    process = await self.spawn(record, folder, command, console=path)
                    async with asyncio.timeout(_CONSOLE_SECONDS):
                        connection, _ = await accepting
                finally:
                    accepting.cancel()
            finally:
                path.unlink(missing_ok=True)
        with connection:
            connection.settimeout(_CONSOLE_SECONDS)
            _, (terminal,), _, _ = await asyncio.to_thread(socket.recv_fds, connection, 4096, 1)
        os.set_blocking(terminal, False)
        return process, terminal

    async def run(
        self, record: ContainerRecord, folder: Path, command: Sequence[str], timeout_seconds: float
    ) -> tuple[bytes, bytes, int]:
        """Run a command to its end and return its output, its error output and its exit code.

        Args:
            record: a running container.
            folder: its bundle.
            command: program and arguments.
            timeout_seconds: it is killed after this long; 0 lets it run for ever.

        Raises: DeadlineExceeded, FailedPrecondition, RuntimeFailure.
        """
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        captures = [Capture(out_read), Capture(err_read)]
        try:
            try:
                process = await self.spawn(record, folder, command, stdio=(None, out_write, err_write))
            finally:
                os.close(out_write)
                os.close(err_write)
            code = await wait_for_exit(process, timeout_seconds)
            if code is None:
                raise DeadlineExceeded(
                    f"failed to exec in container: timeout {timeout_seconds:g}s exceeded: context deadline exceeded"
                )
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    for capture in captures:
                        await capture.ended.wait()
            except TimeoutError:
                pass
            return bytes(captures[0].data), bytes(captures[1].data), code
        finally:
            for capture in captures:
                capture.close()


async def wait_for_exit(process: ProcessHandle, timeout_seconds: float = 0) -> int | None:
    """Wait for a child, kill it when the time is up (0 is for ever), and return its exit code; None if killed so."""
    in_time = True
    try:
        async with asyncio.timeout(timeout_seconds or None):
            await process.wait()
    except TimeoutError:
        in_time = False
        process.kill(9)
        await process.wait()
    finally:
        code = process.reap()
        process.close()
    if not in_time:
        return None
    if code is None:
        raise RuntimeFailure("the exit code of the command is lost")
    return code


def _container_process(folder: Path) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    process: dict[str, Any] = spec["process"]
    return process
