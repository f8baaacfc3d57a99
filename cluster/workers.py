"""Several API server processes on one port: the kernel shares connections out among them.

Each is a whole server over the same etcd, so they need nothing of each other. This process starts them, starts those
anew that end, and ends them all when it is told to end.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
_END_SECONDS = 10.0


async def run_workers(count: int, arguments: Sequence[str]) -> None:
    """Run `wherry apiserver` with these arguments `count` times until cancelled."""
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_keep(arguments))


async def _keep(arguments: Sequence[str]) -> None:
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cluster.main", "apiserver", *arguments, "--workers", "1", "--reuse-port"
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            raise
        log.warning("a worker ended with code %s; another takes its place", code)
        await asyncio.sleep(_PAUSE_SECONDS)
