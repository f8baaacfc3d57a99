"""The system calls that Python 3.11 has no function for, by ctypes.

Namespaces belong to threads: what changes one runs in a thread made for it, which then ends (`in_own_thread`).
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system to a folder or a file.

    Raises: OSError.
    """
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, f"mount {kind or source} at {target}")


def unmount(target: Path | str) -> None:
    """Detach whatever is mounted at `target`; nothing there is fine, for this is called again after a crash.

    Raises: OSError, but neither for an absent path nor for one that is no mount.
    """
    while True:
        if _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
            continue  # there may be several, one over the other
        number = ctypes.get_errno()
        if number in (22, 2):  # EINVAL: no mount; ENOENT
            return
        raise OSError(number, f"unmount {target}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own."""
    _check(_libc.unshare(flags), "unshare")


def enter_namespace(path: Path | str, kind: int) -> None:
    """Move the calling thread into the namespace at `path`, as setns(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, kind), f"setns {path}")
    finally:
        os.close(fd)


def is_namespace(path: Path) -> bool:
    """Whether a namespace is pinned at a path; False if nothing is there."""
    try:
        return path.stat().st_dev == os.stat("/proc/self/ns/net").st_dev  # one file system for all of them
    except OSError:
        return False


def open_in_root(root: Path, path: str) -> int:
    """Open a file for reading as if `root` were the root directory, as openat2(2) with RESOLVE_IN_ROOT.

    Returns: a file descriptor.
    Raises: OSError.
    """
    openat2, resolve_in_root = 437, 0x10
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = struct.pack("QQQ", os.O_RDONLY | os.O_CLOEXEC, 0, resolve_in_root)
        fd = _libc.syscall(ctypes.c_long(openat2), directory, os.fsencode(path), how, ctypes.c_size_t(len(how)))
    finally:
        os.close(directory)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(fd)


def become_subreaper() -> None:
    """Make orphaned descendants our children, so that they can be reaped at once."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def loopback_up() -> None:
    """Bring up `lo` in the calling thread's network namespace (netdevice(7))."""
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("16xh", fcntl.ioctl(control, get_flags, request))
        fcntl.ioctl(control, set_flags, struct.pack("16sh14x", b"lo", flags | up))


def process_start_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks since boot: with the pid it names a process for good.

    Returns: 0 if there is no such process, or if it is dead and only waits to be reaped.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text[text.rindex(")") + 2 :].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Return the id of this boot of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def in_own_thread(function: Callable[[], T]) -> T:
    """Run `function` in a new thread that ends with it, so that the namespaces it enters end with it too."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # None is a T where the function returns None

    def run() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as caught:  # noqa: BLE001 - handed to the awaiting task
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, daemon=True).start()
    return await result
