"""A real etcd for tests, on a Unix socket in a folder of the test's."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from cluster import etcd
from cluster.layout import Layout


class Etcd:
    """One etcd that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._layout = Layout(folder)
        self._layout.make()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self._layout.etcd_socket}"

    async def start(self) -> None:
        component = etcd.component(self._layout)
        component.clear()
        with (self._layout.logs / "etcd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *component.argv, cwd=component.cwd, stdout=log, stderr=log, env=dict(os.environ)
            )

    async def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    async def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self._process.pid}/stat")
        async with asyncio.timeout(5):
            while stat.read_text().rpartition(")")[2].split()[0] != "T":  # noqa: ASYNC110, ASYNC240 - no event tells
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running_etcd(folder: Path) -> AsyncIterator[Etcd]:
    """Run an etcd while the block lasts."""
    server = Etcd(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
