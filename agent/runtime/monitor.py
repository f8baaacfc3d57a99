"""conmon: the small process beside each container that keeps its output, its terminal and its exit code.

It outlives us, so a container needs us neither to run nor to end. What it leaves in the container's folder:
`pid`, `conmon.pid`, `exits/ID` (exit code as text), `persist/oom` (the kernel killed for want of memory), `attach`
(socket) and `ctl` (commands).
"""

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.runtime import processes
from agent.runtime.errors import RuntimeFailure
from agent.runtime.oci import OciRuntime

RESIZE_TERMINAL, REOPEN_LOG = 1, 2  # commands for `control`
_START_SECONDS = 60  # far beyond what creating a container takes; then conmon is given up


@dataclass(frozen=True)
class Stdio:
    """How a container's standard streams are kept.

    Attributes:
        terminal: one terminal for all three.
        stdin: input is open, else it is /dev/null.
        stdin_once: input closes when the first who attached goes away.
    """

    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False


@dataclass(frozen=True)
class Exit:
    """How a container ended; `at` in nanoseconds since 1970."""

    code: int
    at: int


class Monitor:
    """Starts conmon and reads what it leaves."""

    def __init__(self, program: str) -> None:
        self._program = program

    async def create(self, runtime: OciRuntime, container_id: str, folder: Path, log: Path, stdio: Stdio) -> int:
        """Create the container of the bundle in `folder` and return its pid; it doesn't run yet.

        Raises: RuntimeFailure with the OCI runtime's message.
        """
        for name in ("exits", "persist"):
            (folder / name).mkdir(exist_ok=True)
        argv = [
            *(self._program, "--cid", container_id, "--cuuid", container_id, "--name", container_id[:13]),
            *("--bundle", str(folder), "--full-attach", "--log-level", "error", "--log-path", str(log)),
            *("--container-pidfile", str(folder / "pid"), "--conmon-pidfile", str(folder / "conmon.pid")),
            *("--exit-dir", str(folder / "exits"), "--persist-dir", str(folder / "persist")),
            *("--runtime", runtime.program),
            *(f"--runtime-arg={option}" for option in runtime.global_options(folder / "oci.log")),
        ]
        if stdio.terminal:
            argv.append("--terminal")
        if stdio.stdin:
            argv.append("--stdin")
            if not stdio.stdin_once:
                argv.append("--leave-stdin-open")
        answer = await self._run(argv, folder)
        if answer.get("pid", -1) <= 0:
            await _bury(folder)
            raise RuntimeFailure(str(answer.get("message") or "conmon failed").strip())
        return int(answer["pid"])

    async def _run(self, argv: list[str], folder: Path) -> dict[str, Any]:
        start_read, start_write = os.pipe2(os.O_CLOEXEC)
        sync_read, sync_write = os.pipe2(os.O_CLOEXEC)
        try:
            environment = dict(os.environ, _OCI_STARTPIPE=str(start_read), _OCI_SYNCPIPE=str(sync_write))
            os.write(start_write, b"\0")  # before it is waited for: it reads this before it forks
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=environment,
                cwd=folder,  # it leaves a file there when the kernel kills for want of memory
                pass_fds=(start_read, sync_write),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            os.close(sync_write)
            sync_write = -1
            async with asyncio.timeout(_START_SECONDS):
                line = await read_line(sync_read)
                await process.wait()
            return json.loads(line) if line else {}
        finally:
            for fd in (start_read, start_write, sync_read, sync_write):
                if fd >= 0:
                    os.close(fd)

    @staticmethod
    def process(container_id: str, folder: Path) -> processes.ProcessHandle | None:
        """Take hold of a container's conmon; None if it is gone."""
        with contextlib.suppress(OSError, ValueError):
            return processes.find_by_argument(int((folder / "conmon.pid").read_text()), container_id)
        return None

    @staticmethod
    def exit_of(container_id: str, folder: Path) -> Exit | None:
        """How the container ended; None while it runs, or if conmon was killed."""
        path = folder / "exits" / container_id
        try:
            return Exit(int(path.read_text()), path.stat().st_mtime_ns)
        except (OSError, ValueError):
            return None

    @staticmethod
    async def control(folder: Path, kind: int, first: int = 0, second: int = 0) -> None:
        """Send conmon a command: RESIZE_TERMINAL to rows and columns, or REOPEN_LOG.

        Raises: RuntimeFailure if nobody listens.
        """
        try:
            fd = os.open(folder / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeFailure(f"the container's monitor does not listen: {error.strerror}") from error
        try:
            os.write(fd, f"{kind} {first} {second}\n".encode())
        finally:
            os.close(fd)


async def _bury(folder: Path) -> None:
    """Wait for a conmon that failed, which is our child by now."""
    with contextlib.suppress(OSError, ValueError):
        handle = processes.ProcessHandle(int((folder / "conmon.pid").read_text()))
        handle.kill(9)  # it has said all it had to say
        await handle.wait()
        handle.reap()
        handle.close()


def was_oom_killed(folder: Path) -> bool:
    """Whether the kernel killed one of the container's processes for want of memory."""
    return (folder / "persist" / "oom").exists() or (folder / "oom").exists()


async def read_line(fd: int) -> bytes:
    """Read a pipe up to a newline or its end."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    done: asyncio.Future[bytes] = loop.create_future()
    data = bytearray()

    def readable() -> None:
        try:
            part = os.read(fd, 65536)
        except BlockingIOError:
            return
        data.extend(part)
        if (not part or b"\n" in part) and not done.done():
            done.set_result(bytes(data))

    loop.add_reader(fd, readable)
    try:
        return await done
    finally:
        loop.remove_reader(fd)
