"""Where audit events go: a file that is rotated, and a webhook that gets them in batches."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from machinery.client.kubeconfig import load_config

log = logging.getLogger(__name__)

_MEGABYTE = 1024 * 1024
_DAY_SECONDS = 86_400
_POST_SECONDS = 30.0
_TRIES = 5


class LogFile:
    """Lines in a file; a full one is put aside under the time, and old ones go."""

    def __init__(self, path: str, *, max_megabytes: int = 100, max_age_days: int = 0, max_backups: int = 0) -> None:
        """Args: `path` is "-" for standard output; 0 keeps old files for ever, or all of them."""
        self._path = Path(path)
        self._to_output = path == "-"
        self._max_bytes = max_megabytes * _MEGABYTE
        self._max_age_days, self._max_backups = max_age_days, max_backups

    def write(self, lines: bytes) -> None:
        """Append whole lines. Raises: OSError."""
        if self._to_output:
            sys.stdout.buffer.write(lines)
            sys.stdout.buffer.flush()
            return
        with contextlib.suppress(FileNotFoundError):
            size = self._path.stat().st_size
            if size and size + len(lines) > self._max_bytes:
                self._rotate()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(lines)

    def _rotate(self) -> None:
        moment = datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3]
        self._path.rename(self._path.with_name(f"{self._path.stem}-{moment}{self._path.suffix}"))
        backups = sorted(self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}"), reverse=True)
        kept = backups[: self._max_backups] if self._max_backups else backups
        for backup in backups:
            too_old = self._max_age_days and backup.stat().st_mtime < time.time() - self._max_age_days * _DAY_SECONDS
            if backup not in kept or too_old:
                backup.unlink(missing_ok=True)


class Webhook:
    """Posts lists of events; what it does not take in time is dropped and counted."""

    def __init__(
        self, kubeconfig: Path, *, max_batch: int = 400, max_wait_seconds: float = 30.0, buffer_size: int = 10_000
    ) -> None:
        self._config = load_config(str(kubeconfig))
        self._pending: deque[bytes] = deque(maxlen=buffer_size)
        self._max_batch, self._max_wait_seconds = max_batch, max_wait_seconds
        self._full = asyncio.Event()
        self.dropped = 0

    def offer(self, events: Sequence[bytes]) -> None:
        """Take encoded events; never waits."""
        room = (self._pending.maxlen or 0) - len(self._pending)
        self.dropped += max(0, len(events) - room)
        self._pending.extend(events[: max(0, room)])
        if len(self._pending) >= self._max_batch:
            self._full.set()

    async def run(self) -> None:
        """Post what was taken until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._max_wait_seconds):
                    await self._full.wait()
            self._full.clear()
            await self.flush()

    async def flush(self) -> None:
        """Post everything that is waiting."""
        while self._pending:
            batch = [self._pending.popleft() for _ in range(min(self._max_batch, len(self._pending)))]
            await self._post(batch)

    async def _post(self, batch: Sequence[bytes]) -> None:
        import aiohttp

        from machinery.client.tls import ssl_context

        body = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[' + b",".join(batch) + b"]}"
        tls = await asyncio.to_thread(ssl_context, self._config) if self._config.server.startswith("https:") else None
        headers = {"Content-Type": "application/json"}
        if self._config.token:
            headers["Authorization"] = f"Bearer {self._config.token}"
        pause = 1.0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_POST_SECONDS)) as session:
            for _ in range(_TRIES):
                try:
                    async with session.post(self._config.server, data=body, headers=headers, ssl=tls or True) as answer:
                        if answer.status < 500 and answer.status != 429:
                            return
                        problem = f"it answers {answer.status}"
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    problem = str(error)
                log.warning("the audit webhook: %s", problem)
                await asyncio.sleep(pause)
                pause *= 2
        self.dropped += len(batch)
