"""Reads container logs in the CRI format: "TIME STREAM TAG TEXT", P for a part of a line and F for its end.

Following goes on over rotation, and ends when the container has.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from agent.volumes.subpath import open_plainly
from machinery.api.meta import parse_time

_PAUSE_SECONDS = 0.1
_BLOCK = 64 * 1024

_UTC = b"+00:00"  # as monitors write it; nodes tell it as Z


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What part of a log is asked for; times are RFC 3339."""

    follow: bool = False
    tail_lines: int | None = None
    since_seconds: int | None = None
    since_time: str = ""
    timestamps: bool = False
    limit_bytes: int | None = None

    def since(self) -> datetime | None:
        """Return the time before which lines are left out."""
        if self.since_time:
            return parse_time(self.since_time)
        if self.since_seconds is not None:
            return datetime.now(UTC) - timedelta(seconds=self.since_seconds)
        return None


def open_log(root: Path, path: Path) -> BinaryIO:
    """Open a log below `root`: a link that a pod left in its place is none. Blocks. Raises: OSError."""
    return os.fdopen(open_plainly(root, path), "rb")


def _start_of_tail(root: Path, path: Path, lines: int) -> int:
    """Return where the last `lines` whole lines begin; parts of a line count as one with its end."""
    with open_log(root, path) as file:
        end = file.seek(0, os.SEEK_END)
        if lines <= 0:
            return end
        data = b""
        at = end
        while at > 0:
            step = min(_BLOCK, at)
            at -= step
            file.seek(at)
            data = file.read(step) + data
            starts = _line_starts(data, whole=at == 0)
            if len(starts) > lines or at == 0:
                return at + (starts[-lines] if len(starts) >= lines else 0)
    return 0


def _line_starts(data: bytes, *, whole: bool) -> list[int]:
    """Return where lines of output begin in raw log data."""
    starts, position, continues = [], 0, not whole
    for raw in data.splitlines(keepends=True):
        fields = raw.split(b" ", 3)
        if not continues:
            starts.append(position)
        continues = len(fields) > 2 and fields[2].startswith(b"P")
        position += len(raw)
    return starts


class _Renderer:
    """Makes what users see of raw lines; a long line of theirs comes in several."""

    def __init__(self, options: LogOptions) -> None:
        self._since = options.since()
        self._timestamps = options.timestamps
        self._is_begun = False  # the line before is not whole yet

    def render(self, raw: bytes) -> bytes:
        """Return a raw line's text, with the time before it where one begins."""
        fields = raw.split(b" ", 3)
        if len(fields) < 4 or (self._since is not None and _time_of(fields[0]) < self._since):
            return b""
        text = fields[3]
        begins, self._is_begun = not self._is_begun, fields[2].startswith(b"P")
        if self._is_begun:
            text = text.removesuffix(b"\n")
        if not (self._timestamps and begins):
            return text
        time = fields[0]
        return (time[: -len(_UTC)] + b"Z" if time.endswith(_UTC) else time) + b" " + text


def _time_of(text: bytes) -> datetime:
    try:
        return datetime.fromisoformat(text.decode())
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


async def read_log(root: Path, path: Path, options: LogOptions, is_running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield a log below `root` in pieces. Raises: OSError when there is none, or a link in its place."""
    renderer, left = _Renderer(options), options.limit_bytes
    start = 0
    if options.tail_lines is not None:
        start = await asyncio.to_thread(_start_of_tail, root, path, options.tail_lines)
    file = await asyncio.to_thread(open_log, root, path)
    try:
        file.seek(start)
        rest = b""
        while True:
            ended = not is_running()
            block = await asyncio.to_thread(file.read, _BLOCK)
            if not block:
                if not options.follow:
                    return
                if _was_rotated(path, file.fileno()):
                    file.close()
                    file = await asyncio.to_thread(open_log, root, path)
                    continue
                if ended:
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            *lines, rest = (rest + block).split(b"\n")
            piece = b"".join(renderer.render(line + b"\n") for line in lines)
            if left is not None:
                piece, left = piece[:left], left - len(piece)
            if piece:
                yield piece
            if left is not None and left <= 0:
                return
    finally:
        file.close()


def _was_rotated(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
