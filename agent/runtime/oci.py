"""Calls the OCI runtime (runc, or another with its command line)."""

import asyncio
import json
import os
import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.runtime import kernel
from agent.runtime.errors import RuntimeFailure

_START_SECONDS = 30.0
_POLL_MILLISECONDS, _PAUSE_SECONDS = 100, 0.0005


class OciError(RuntimeFailure):
    """The OCI runtime refused; the text is its own."""


def error_text(log: str) -> str:
    """The last error in a log of JSON lines as runc writes it; the log itself if it is something else."""
    for line in reversed(log.strip().splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            return line
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            return str(entry.get("msg", ""))
    return "no message"


class OciRuntime:
    """One OCI runtime with one folder of state."""

    def __init__(self, program: str, root: Path, *, has_gate: bool = True) -> None:
        """Args: `has_gate` says that a created container waits at a pipe as runc's do; see `start`."""
        self.program = program
        self.root = root
        self._has_gate = has_gate

    def global_options(self, log: Path | None = None) -> list[str]:
        """Options that go before the command."""
        options = [f"--root={self.root}", "--log-format=json"]
        return [*options, f"--log={log}"] if log else options

    def knows(self, container_id: str) -> bool:
        """Whether it has state of the container."""
        return (self.root / container_id).exists()

    async def call(self, command: str, *args: str, stdin: bytes | None = None) -> bytes:
        """Run a command and return what it prints.

        Raises: OciError.
        """
        process = await asyncio.create_subprocess_exec(
            self.program,
            *self.global_options(),
            command,
            *args,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, complaint = await process.communicate(stdin)
        if process.returncode != 0:
            raise OciError(error_text(complaint.decode(errors="replace")))
        return output

    async def start(self, container_id: str, pid: int) -> None:
        """Let a created container's process run.

        It waits for somebody to open the pipe `exec.fifo` in its folder, which is all that `runc start` does; doing it
        here saves a process. Without such a pipe the runtime is called.

        Raises: OciError.
        """
        fifo = self.root / container_id / "exec.fifo"
        if self._has_gate and fifo.exists():
            await asyncio.to_thread(_open_the_gate, fifo, pid)
        else:
            await self.call("start", container_id)

    async def delete(self, container_id: str) -> None:
        """Kill what is left of a container and remove its cgroup; an unknown container is fine."""
        if self.knows(container_id):
            await self.call("delete", "--force", container_id)

    async def status(self, container_id: str) -> str:
        """Return "created", "running", "stopped" …, or "" for an unknown container."""
        if not self.knows(container_id):
            return ""
        try:
            return str(json.loads(await self.call("state", container_id)).get("status", ""))
        except OciError:
            return ""

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Change the limits of a running container; what isn't named stays."""
        await self.call("update", "--resources", "/dev/stdin", container_id, stdin=json.dumps(resources).encode())

    async def spawn(
        self,
        container_id: str,
        process_file: Path,
        pid_file: Path,
        *,
        stdio: Sequence[int | None] = (None, None, None),
        console: Path | None = None,
    ) -> int:
        """Start another process in a container and return its pid; it becomes our child (see kernel.become_subreaper).

        Args:
            container_id: a running container.
            process_file: `process` of an OCI spec, as JSON.
            pid_file: a free path, removed before this returns.
            stdio: file descriptors for standard input, output and error; None is /dev/null.
            console: instead, a listening socket to which the master side of the process's new terminal is sent.

        Raises: OciError.
        """
        log = pid_file.with_suffix(".log")
        terminal = ["--tty", f"--console-socket={console}"] if console else []
        process = await asyncio.create_subprocess_exec(
            self.program,
            *self.global_options(log),
            *("exec", "--detach", f"--process={process_file}", f"--pid-file={pid_file}", *terminal, container_id),
            stdin=asyncio.subprocess.DEVNULL if stdio[0] is None else stdio[0],
            stdout=asyncio.subprocess.DEVNULL if stdio[1] is None else stdio[1],
            stderr=asyncio.subprocess.DEVNULL if stdio[2] is None else stdio[2],
        )
        try:
            if await process.wait() != 0:
                raise OciError(error_text(_read(log)))
            return int(_read(pid_file))
        finally:
            for path in (log, pid_file):
                path.unlink(missing_ok=True)

    async def version(self) -> str:
        """First line of its version, such as "runc version 1.1.5"."""
        process = await asyncio.create_subprocess_exec(self.program, "--version", stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        return output.decode(errors="replace").partition("\n")[0]


def _open_the_gate(fifo: Path, pid: int) -> None:
    """Read the byte that a created container's process writes before it becomes what it is to run. Blocks."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        deadline = time.monotonic() + _START_SECONDS
        while not any(what & select.POLLIN for _, what in waiting.poll(_POLL_MILLISECONDS)):
            if kernel.process_start_ticks(pid) == 0:
                raise OciError("container process is already dead")
            if time.monotonic() > deadline:
                raise OciError("the container's process does not begin")
            time.sleep(_PAUSE_SECONDS)
        os.read(fd, 1)
    finally:
        os.close(fd)
    fifo.unlink(missing_ok=True)  # while it is there the container counts as created


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
