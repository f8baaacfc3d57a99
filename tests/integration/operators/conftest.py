"""An ingress controller with the real HAProxy over a real API server, and backends that tell who they are."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.addresses import node_address
from machinery.api.resources import ENDPOINT_SLICES, INGRESS_CLASSES, INGRESSES, SERVICES
from machinery.client.rest import Client
from operators.ingress.app import Config, run
from operators.ingress.haproxy import Listen
from tests.support.server import client_config, free_port, running_server
from tests.support.waiting import until_one


@dataclass
class Site:
    client: Client
    listen: Listen

    async def ask(
        self, host: str, path: str = "/", *, tls: ssl.SSLContext | None = None, method: str = "GET", head: str = ""
    ) -> str:
        """Return the last line of an answer."""
        return (await self.answer(host, path, tls=tls, method=method, head=head)).rpartition("\n")[2]

    async def answer(
        self, host: str, path: str = "/", *, tls: ssl.SSLContext | None = None, method: str = "GET", head: str = ""
    ) -> str:
        """Return an answer with its head."""
        port = self.listen.https_port if tls else self.listen.http_port
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname=host if tls else None
        )
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{head}Connection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
        return answer.decode()

    async def until(self, host: str, path: str, expected: str, *, tls: ssl.SSLContext | None = None) -> None:
        async def is_so() -> bool:
            with contextlib.suppress(OSError):
                return await self.ask(host, path, tls=tls) == expected
            return False

        async with asyncio.timeout(20):
            while not await is_so():  # noqa: ASYNC110 - HAProxy tells nobody of its reload
                await asyncio.sleep(0.05)

    async def backend(self, stack: contextlib.AsyncExitStack, name: str) -> None:
        """A Service and a server behind it that answers with its name and the path."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            scheme = "https" if "x-forwarded-proto: https" in head.lower() else "http"
            seen = [line.split(": ", 1)[1] for line in head.split("\r\n") if line.lower().startswith("x-see")]
            body = " ".join([name, head.split()[1], scheme, *seen])
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "0.0.0.0", 0)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
        await self.client.create(SERVICES, {"metadata": {"name": name}, "spec": {"ports": ports}}, "default")
        body = {
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [node_address()], "conditions": {"ready": True}}],
        }  # fmt: skip
        await self.client.create(ENDPOINT_SLICES, body, "default")

    async def ingress(self, name: str, **spec: Any) -> None:
        await self.client.create(INGRESSES, {"metadata": {"name": name}, "spec": spec}, "default")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with (
        running_server(tmp_path) as (server, admin),
        Client(admin) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        config = client_config(tmp_path, server.config, user="system:wherry-ingress", groups=())
        listen = Listen(free_port(), free_port(), tmp_path / "h", "127.0.0.1")
        task = asyncio.create_task(run(Config(config, listen, ("192.0.2.1",))))
        found = Site(client, listen)
        try:
            await until_one(client, INGRESS_CLASSES, "wherry", lambda one: True)
            for name in ("a", "b", "c"):
                await found.backend(stack, name)
            yield found
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
