"""Starts a cluster's processes, restarts those that end, and stops them all.

Each process's id stands in a file of the data folder, so that another call of `wherry` finds them, and one that was
killed leaves nothing that the next can't take over.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cluster.layout import Layout

log = logging.getLogger(__name__)
T = TypeVar("T")

SUPERVISOR = "up"
"""The component that starts the others; its process id stands where theirs do."""
STOP_SECONDS = 10.0
_FIRST_DELAY, _MAX_DELAY = 0.1, 5.0
# A process that lived this long is not failing at start-up: its next restart is at once again.
_STEADY_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
# One heap for all threads: a second one costs the API server 2 MB, and few of our threads allocate at once. What is
# large is mapped, and so given back when it is done with; by itself glibc keeps more and more of it in the heap. More
# than uvloop asks for at each read of TLS (256 KiB), or each would map and unmap.
_LEAN = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "300000", "MALLOC_TRIM_THRESHOLD_": "1048576"}


@dataclass(frozen=True, slots=True)
class Component:
    """One process of a cluster."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    stale: Sequence[Path] = ()  # sockets that one killed before leaves behind, and that the next can't bind

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment it runs in."""
        return {**os.environ, **_LEAN, **self.env}

    def clear(self) -> None:
        """Remove what a killed predecessor left in the way."""
        for path in self.stale:
            path.unlink(missing_ok=True)


def identity(pid: int) -> str:
    """Return what tells a process from a later one of the same id: its start time in ticks; "" when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def running_pid(layout: Layout, component: str) -> int | None:
    """Return the id of a component's living process, if any."""
    try:
        pid, started = layout.pid_file(component).read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if identity(int(pid)) == started else None


def write_pid(layout: Layout, component: str, pid: int) -> None:
    """Note a component's process."""
    layout.pid_file(component).write_text(f"{pid} {identity(pid)}\n")


def stop_pid(pid: int, timeout_seconds: float = STOP_SECONDS) -> None:
    """End a process: politely, then for certain. Returns when it is gone."""
    started = identity(pid)
    for sent, patience in ((signal.SIGTERM, timeout_seconds), (signal.SIGKILL, timeout_seconds)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if identity(pid) != started or not started:
                return
            time.sleep(0.01)  # not our child, perhaps: nothing else tells of its end


def apart(work: Callable[[], T]) -> T:
    """Do something in a child process, so that what it loads does not stay with us; returns what it returned.

    Raises: ChildProcessError.
    """
    return begin_apart(work)()


def begin_apart(work: Callable[[], T]) -> Callable[[], T]:
    """Begin to do something in a child process; what is returned waits for its end and returns what it returned.

    That goes through a pipe and must be small enough for one to hold (64 KiB pickled).
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writer, pickle.dumps(work()))
            code = 0
        except BaseException:  # noqa: BLE001 - nothing of the parent may run in the child
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)

    def result() -> T:
        _, status = os.waitpid(pid, 0)
        with open(reader, "rb") as answer:
            if status:
                code = os.waitstatus_to_exitcode(status)
                raise ChildProcessError(f"a child process failed with status {code}")
            found: T = pickle.load(answer)  # noqa: S301 - our own child wrote it
        return found

    return result


class Supervisor:
    """Keeps the components of one cluster running."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._order: list[str] = []

    def start(self, component: Component) -> None:
        """Start a component and go on restarting it until `stop`."""
        self._order.append(component.name)
        self._tasks[component.name] = asyncio.create_task(self._keep(component))

    async def _keep(self, component: Component) -> None:
        delay = _FIRST_DELAY
        while True:
            started = time.monotonic()
            component.clear()
            with self._layout.log_file(component.name).open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *component.argv, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                    env=component.environment, cwd=component.cwd, preexec_fn=_die_with_parent,
                )  # fmt: skip
            self._processes[component.name] = process
            write_pid(self._layout, component.name, process.pid)
            code = await process.wait()
            if time.monotonic() - started > _STEADY_SECONDS:
                delay = _FIRST_DELAY
            log.warning("%s ended with code %s; starting it again in %.1f s", component.name, code, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _MAX_DELAY)

    async def stop(self, *names: str) -> None:
        """End components, all of them by default, the last started first."""
        for name in reversed(names or tuple(self._order)):
            task, process = self._tasks.pop(name, None), self._processes.pop(name, None)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            if process is not None and process.returncode is None:
                await _end(process)
            self._layout.pid_file(name).unlink(missing_ok=True)
            if name in self._order:
                self._order.remove(name)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _die_with_parent() -> None:
    """In the child: be sent SIGTERM when the supervisor is killed; a component alone would never be looked after."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
