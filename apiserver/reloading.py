"""Files that may change while the server runs: certificates, who is trusted, what is encrypted.

Looked at from time to time and not watched: they are few, they are swapped as links or renamed over, and nobody waits.
What a file says that makes no sense is told in the log, and what it said before goes on to hold.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
_State = tuple[int, int, int] | None

Reload = Callable[[], None]
"""Reads a file again and lets it hold. May raise what it likes when the file makes no sense."""


class Reloader:
    """Calls what reads files again when one of them changed."""

    def __init__(self, files: Mapping[tuple[Path, ...], Reload]) -> None:
        self._files = files
        self._seen = {paths: _states(paths) for paths in files}

    def look(self) -> None:
        """Read what changed since the last look."""
        for paths, reload in self._files.items():
            states = _states(paths)
            if states == self._seen[paths]:
                continue
            self._seen[paths] = states
            try:
                reload()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, the server goes on
                log.warning("%s is left as it was: %s", paths[0], error)
            else:
                log.info("%s has been read again", paths[0])

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()


def _states(paths: Iterable[Path]) -> tuple[_State, ...]:
    return tuple(_state(path) for path in paths)


def _state(path: Path) -> _State:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
