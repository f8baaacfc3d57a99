"""Waits for processes by pidfd: no polling, no threads, and no mistaking a reused pid for the process it was."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from agent.runtime import kernel

_KILLED_BY = 128  # exit codes of processes that a signal ended begin here, as in shells


class ProcessHandle:
    """A process that stays the same one whatever becomes of its pid. Close it after use."""

    def __init__(self, pid: int) -> None:
        """Take hold of a process.

        Raises: ProcessLookupError.
        """
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._waiting = False

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            if self._waiting:
                asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def kill(self, number: int) -> None:
        """Send a signal; one that is dead already is fine."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Call back once when it ends. Closes nothing."""
        loop = asyncio.get_running_loop()
        self._waiting = True

        def ended() -> None:
            loop.remove_reader(self._fd)
            self._waiting = False
            callback()

        loop.add_reader(self._fd, ended)

    async def wait(self) -> None:
        """Wait until it ends."""
        done = asyncio.Event()
        self.on_exit(done.set)
        await done.wait()

    def reap(self) -> int | None:
        """Take the exit code of a child that ended; None if it is no child of ours."""
        try:
            result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else _KILLED_BY + result.si_status


def find(pid: int, start_ticks: int) -> ProcessHandle | None:
    """Take hold of the process that had this pid and began then; None if it is gone."""
    if pid <= 0 or kernel.process_start_ticks(pid) != start_ticks:
        return None
    try:
        handle = ProcessHandle(pid)
    except ProcessLookupError:
        return None
    if kernel.process_start_ticks(pid) != start_ticks:  # changed between the two looks
        handle.close()
        return None
    return handle


def find_by_argument(pid: int, argument: str) -> ProcessHandle | None:
    """Take hold of the process with this pid if `argument` is on its command line."""
    try:
        handle = ProcessHandle(pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (ProcessLookupError, ValueError, FileNotFoundError):
        return None
    if argument.encode() in words:
        return handle
    handle.close()
    return None


async def reap_strays(seconds: float = 1) -> None:
    """Reap orphans that fell to us as the subreaper, for ever: such as what a failed `runc create` leaves behind.

    Whoever waits for a child of his own does so in far less time than passes between two looks, so a child that is
    dead at both is nobody's. Looks only after SIGCHLD.
    """
    some_ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, some_ended.set)
    while True:
        await some_ended.wait()
        some_ended.clear()
        dead = await asyncio.to_thread(_dead_children)
        while dead:
            await asyncio.sleep(seconds)
            still = await asyncio.to_thread(_dead_children)
            for pid in dead & still:
                reap(pid)
            dead = still - dead


def reap(pid: int) -> None:
    """Reap a child if it is dead; one that is no child of ours is left alone."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _dead_children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in path.read_text().split() if kernel.process_start_ticks(int(pid)) == 0)
    return found
