"""Keeps container logs within bounds: a log that is too long is put aside and the runtime begins a new one.

The files are named as Kubernetes nodes name them: `0.log` is written to, `0.log.20260131-235959` was put aside last,
and older ones are compressed (`.gz`).
"""

import asyncio
import contextlib
import gzip
import logging
import os
import shutil
import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from agent.cri.client import RuntimeFailure
from agent.settings import Settings

_log = logging.getLogger(__name__)
Log = tuple[str, Path]  # a running container's id, and where its log is


class LogRotator:
    """Looks after the logs of running containers."""

    def __init__(
        self,
        running: Callable[[], Iterable[Log]],
        reopen: Callable[[str], Awaitable[None]],
        *,
        settings: Settings | None = None,
    ) -> None:
        """Make one.

        Args:
            running: the logs that grow.
            reopen: has the runtime begin a new file at the path of a container's log.
            settings: tell how long a log may get, and how many files of it are kept, the current one included.
        """
        self._running = running
        self._reopen = reopen
        self._settings = settings or Settings()

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(self._settings.log_look_seconds)
            await self.look()

    async def look(self) -> None:
        """Look at all logs once."""
        for container_id, path in list(self._running()):
            if await asyncio.to_thread(_size, path) > self._settings.log_max_bytes:
                try:
                    await self._rotate(container_id, path)
                except (OSError, RuntimeFailure) as error:
                    _log.warning("rotating %s: %s", path, error)

    async def _rotate(self, container_id: str, path: Path) -> None:
        aside = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
        keep = self._settings.log_max_files - 2  # two are to come
        await asyncio.to_thread(_tidy, path, keep)
        await asyncio.to_thread(path.rename, aside)
        try:
            await self._reopen(container_id)
        except RuntimeFailure:
            # It goes on writing to the file it has open, so that one must have its name back.
            await asyncio.to_thread(aside.rename, path)
            raise


def _size(path: Path) -> int:
    """Return the size of a log; a link that a pod left in its place is none."""
    try:
        status = os.lstat(path)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    except OSError:
        return 0


def _tidy(path: Path, keep: int) -> None:
    """Compress what was put aside, and delete the oldest but `keep` of it."""
    for stale in path.parent.glob(f"{path.name}.*.tmp"):
        stale.unlink()  # we were killed while compressing
    aside = sorted(path.parent.glob(f"{path.name}.*"), reverse=True)  # the names hold times: newest first
    for old in aside[keep:]:
        old.unlink()
    for kept in aside[:keep]:
        if kept.suffix != ".gz":
            _compress(kept)


def _compress(path: Path) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with path.open("rb") as source, gzip.open(temporary, "wb") as target:
        shutil.copyfileobj(source, target)
    temporary.rename(path.with_name(f"{path.name}.gz"))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
