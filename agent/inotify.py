"""News of one folder from the kernel, so that what is put there is seen at once.

Python has no inotify of its own. Source: inotify(7).
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _DELETE = 0x08, 0x40, 0x80, 0x200
_IGNORED = 0x8000
_WANTED = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE
_HEAD = struct.Struct("iIII")
_BUFFER_BYTES = 64 * 1024


class FolderNews:
    """Tells of each file of a folder that was written, or went; nothing where the kernel or file system can't."""

    def __init__(self, folder: Path, tell: Callable[[str, bool], None]) -> None:
        """Begin. Args: `tell` gets a file's name, and whether it went. Needs a running loop."""
        self._tell = tell
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            return
        if libc.inotify_add_watch(self._descriptor, os.fsencode(folder), ctypes.c_uint32(_WANTED)) < 0:
            self.close()
            return
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    @property
    def is_told(self) -> bool:
        """Whether there will be news."""
        return self._descriptor >= 0

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _BUFFER_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at + _HEAD.size <= len(data):
            _, mask, _, length = _HEAD.unpack_from(data, at)
            name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0")
            at += _HEAD.size + length
            if mask & _IGNORED:  # the folder itself went; another of its name is another folder
                self.close()
                self._tell("", True)
                return
            if name:
                self._tell(os.fsdecode(name), bool(mask & (_DELETE | _MOVED_FROM)))

    def close(self) -> None:
        """End."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
