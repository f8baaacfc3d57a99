"""A DNS server in this process over a real API server, asked with dig."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.addresses import node_address
from clusterdns.app import Config, run
from machinery.api.resources import ENDPOINT_SLICES, SERVICES
from machinery.client.rest import Client
from tests.support.server import client_config, free_port, running_server

ADDRESS = node_address()  # slices may not lead to loopback


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Answers are judged by dig, of the distribution."""
    if shutil.which("dig") is None:
        for item in items:
            if "clusterdns" in item.path.parts and "integration" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="needs dig"))


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what can't be watched."""
    async with asyncio.timeout(5):
        while not await is_so():  # noqa: ASYNC110 - DNS tells nobody of changes
            await asyncio.sleep(0.02)


@dataclass
class Dns:
    client: Client
    port: int
    status_port: int

    async def dig(self, name: str, kind: str = "A", *options: str) -> str:
        """Return what dig prints; by default the answers' data alone, a line each."""
        argv = [
            "dig",
            f"@{ADDRESS}",
            "-p",
            str(self.port),
            "+tries=1",
            "+time=3",
            name,
            kind,
            *(options or ("+short",)),
        ]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return out.decode().strip()

    async def until(self, name: str, kind: str, expected: set[str]) -> None:
        """Wait until a name has these answers."""

        async def is_so() -> bool:
            return set((await self.dig(name, kind)).splitlines()) == expected

        await eventually(is_so)

    async def status_of(self, name: str, kind: str = "A") -> str:
        text = await self.dig(name, kind, "+noall", "+comments")
        return text.partition("status: ")[2].partition(",")[0]

    async def service(self, name: str, **spec: Any) -> dict[str, Any]:
        given = {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}], **spec}
        return await self.client.create(SERVICES, {"metadata": {"name": name}, "spec": given}, "default")

    async def endpoints(self, service: str, *endpoints: dict[str, Any], port: int = 8080) -> None:
        body = {
            "metadata": {"name": f"{service}-1", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": list(endpoints),
        }  # fmt: skip
        await self.client.create(ENDPOINT_SLICES, body, "default")


@contextlib.asynccontextmanager
async def serving(folder: Path, **more: Any) -> AsyncIterator[Dns]:
    async with running_server(folder) as (server, admin), Client(admin) as client:
        config = client_config(folder, server.config, user="system:wherry-dns", groups=())
        dns = Dns(client, free_port(), free_port())
        given = {"upstreams": (("127.0.0.1", 9),), **more}
        task = asyncio.create_task(
            run(Config(config, (ADDRESS,), "10.96.0.10", "n1", port=dns.port, status_port=dns.status_port, **given))
        )
        try:
            await dns.until("kube-dns.kube-system.svc.cluster.local", "A", {"10.96.0.10"})
            yield dns
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def dns(tmp_path: Path) -> AsyncIterator[Dns]:
    async with serving(tmp_path) as found:
        yield found
