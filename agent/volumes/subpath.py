"""Opens a path below a volume without ever leaving it, whatever the containers that write there do meanwhile.

Each step is taken by openat2(2) with RESOLVE_BENEATH, and what the runtime is given is a bind mount made from the open
file: exchanging a folder for a link between check and use leads nowhere (CVE-2017-1002101, CVE-2021-25741).
"""

import ctypes
import os
import struct
from pathlib import Path

from agent.environment import ConfigError

_OPENAT2, _BENEATH, _NO_MAGICLINKS, _NO_SYMLINKS = 437, 0x08, 0x02, 0x04
_MS_BIND, _MS_REC, _MNT_DETACH, _NOFOLLOW = 0x1000, 0x4000, 0x2, 0x8
_MODE = 0o750
_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(root: Path, sub: str, *, create: bool = True) -> int:
    """Open the file or folder at `sub` below `root` (O_PATH), making missing folders.

    Returns: a file descriptor. Raises: ConfigError when it leads out; OSError.
    """
    if Path(sub).is_absolute() or ".." in Path(sub).parts:
        raise ConfigError(f"subPath {sub!r} must not be absolute or contain '..'")
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = _open(top, sub)
        if found is None and create:
            _make_folders(top, root, sub)
            found = _open(top, sub)
    finally:
        os.close(top)
    if found is None:
        raise FileNotFoundError(2, "No such file or directory", sub)
    return found


def open_plainly(root: Path, path: Path) -> int:
    """Open a file below `root` for reading, over no link at all. Returns: a file descriptor. Raises: OSError."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags, resolve = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, _BENEATH | _NO_SYMLINKS
        fd = _openat2(top, str(path.relative_to(root)), flags, resolve)
    finally:
        os.close(top)
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), str(path))
    return fd


def _openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Return a file descriptor, or the number of the error as a negative one."""
    how = struct.pack("QQQ", flags, 0, resolve)
    fd = _libc.syscall(
        ctypes.c_long(_OPENAT2), directory, os.fsencode(path or "."), how, ctypes.c_size_t(len(how))
    )  # fmt: skip
    return int(fd) if fd >= 0 else -ctypes.get_errno()


def _open(directory: int, path: str) -> int | None:
    """openat2 beneath a folder; None where there is nothing. Raises: ConfigError, OSError."""
    fd = _openat2(directory, path, os.O_PATH | os.O_CLOEXEC, _BENEATH | _NO_MAGICLINKS)
    if fd >= 0:
        return fd
    number = -fd
    if number == 2:
        return None
    if number in (18, 40):  # EXDEV: it would lead out; ELOOP: a magic link
        raise ConfigError(f"subPath {path!r} leads out of its volume")
    raise OSError(number, os.strerror(number), path)


def _make_folders(top: int, root: Path, sub: str) -> None:
    """Make what is missing step by step, each in the folder opened before it; owned as the volume is."""
    owner = os.fstat(top)
    mode = os.stat(root).st_mode & 0o7777 if owner.st_mode & 0o2000 else _MODE | 0o005
    at = os.dup(top)
    try:
        for part in Path(sub).parts:
            step = _open(at, part)
            if step is None:
                os.mkdir(part, dir_fd=at)
                step = _open(at, part)
                if step is None:
                    raise FileNotFoundError(2, "vanished while it was made", sub)
                place = f"/proc/self/fd/{step}"
                os.chown(place, -1, owner.st_gid)
                os.chmod(place, mode)
            os.close(at)
            at = step
    finally:
        os.close(at)


def bind(fd: int, target: Path) -> None:
    """Mount what is open at `fd` over `target`, which is made to fit. Raises: OSError."""
    source = f"/proc/self/fd/{fd}"
    target.parent.mkdir(parents=True, exist_ok=True)
    unbind(target)
    if os.path.isdir(source):
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    if _libc.mount(source.encode(), os.fsencode(target), None, ctypes.c_ulong(_MS_BIND | _MS_REC), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def unbind(target: Path) -> None:
    """Unmount all that is mounted at `target`; nothing there is fine."""
    while _libc.umount2(os.fsencode(target), _MNT_DETACH | _NOFOLLOW) == 0:
        continue
