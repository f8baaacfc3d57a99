"""Ingresses served by the real HAProxy over a real API server, to real backends.

Behaviour: https://kubernetes.io/docs/concepts/services-networking/ingress/
"""

import asyncio
import base64
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.addresses import node_address
from cluster.pki import Pki
from machinery.api.resources import ENDPOINT_SLICES, INGRESS_CLASSES, INGRESSES, SECRETS, SERVICES
from machinery.client.rest import Client
from operators.ingress.app import Config, run
from operators.ingress.haproxy import Listen
from tests.support.server import client_config, free_port, running_server
from tests.support.waiting import until_one

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")]


@dataclass
class Site:
    client: Client
    listen: Listen

    async def ask(self, host: str, path: str = "/", *, tls: ssl.SSLContext | None = None) -> str:
        """Return the last line of an answer."""
        port = self.listen.https_port if tls else self.listen.http_port
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname=host if tls else None
        )
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
        return answer.decode().rpartition("\n")[2]

    async def until(self, host: str, path: str, expected: str) -> None:
        async def is_so() -> bool:
            with contextlib.suppress(OSError):
                return await self.ask(host, path) == expected
            return False

        async with asyncio.timeout(8):
            while not await is_so():  # noqa: ASYNC110 - HAProxy tells nobody of its reload
                await asyncio.sleep(0.05)

    async def backend(self, stack: contextlib.AsyncExitStack, name: str) -> None:
        """A Service and a server behind it that answers with its name and the path."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            scheme = "https" if "x-forwarded-proto: https" in head.lower() else "http"
            body = f"{name} {head.split()[1]} {scheme}"
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


def to(name: str, port: int | str = 80) -> dict[str, Any]:
    return {"service": {"name": name, "port": {"name": port} if isinstance(port, str) else {"number": port}}}


def path(text: str, name: str, kind: str = "Prefix") -> dict[str, Any]:
    return {"path": text, "pathType": kind, "backend": to(name)}


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


async def test_hosts_and_paths_lead_to_their_services(site: Site) -> None:
    rules = [
        {
            "host": "one.example",
            "http": {
                "paths": [
                    {**path("/", "a"), "backend": to("a", "http")},
                    path("/foo", "b"),
                    path("/foo/bar", "c", "Exact"),
                ]
            },
        },
        {"host": "*.two.example", "http": {"paths": [path("/", "c")]}},
    ]
    await site.ingress("i", rules=rules)
    await site.until("one.example", "/", "a / http")
    expected = {
        ("one.example", "/foo"): "b", ("one.example", "/foo/x"): "b", ("one.example", "/food"): "a",
        ("one.example", "/foo/bar"): "c", ("one.example", "/foo/bar/"): "b", ("x.two.example", "/"): "c",
    }  # fmt: skip
    for (host, where), name in expected.items():
        assert await site.ask(host, where) == f"{name} {where} http", (host, where)
    for host in ("two.example", "x.y.two.example", "other.example"):
        assert await site.ask(host) == "default backend - 404"
    status = (await site.client.get(INGRESSES, "i", "default"))["status"]
    assert status["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1"}]


async def test_changes_are_taken_while_connections_go_on(site: Site) -> None:
    await site.ingress("i", defaultBackend=to("a"))
    await site.until("any.example", "/", "a / http")
    failures: list[str] = []
    done = asyncio.Event()

    async def keep_asking() -> None:
        while not done.is_set():
            try:
                answer = await site.ask("any.example")
            except OSError as error:
                failures.append(str(error))
            else:
                if answer not in ("a / http", "b / http"):
                    failures.append(answer)

    task = asyncio.create_task(keep_asking())
    for name in ("b", "a", "b"):
        await site.client.patch(INGRESSES, "i", {"spec": {"defaultBackend": to(name)}}, "default")
        await site.until("any.example", "/", f"{name} / http")
    done.set()
    await task
    assert failures == []


async def test_a_secret_s_certificate_is_shown_to_its_hosts(site: Site, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "site-pki")
    cert, key = pki.server("site", "site", ["one.example"])
    data = {
        "tls.crt": base64.b64encode(cert.read_bytes()).decode(),
        "tls.key": base64.b64encode(key.read_bytes()).decode(),
    }
    await site.client.create(SECRETS, {"metadata": {"name": "s"}, "type": "kubernetes.io/tls", "data": data}, "default")
    rule = {"host": "one.example", "http": {"paths": [path("/", "a")]}}
    await site.ingress("i", tls=[{"hosts": ["one.example"], "secretName": "s"}], rules=[rule])
    await site.until("one.example", "/", "a / http")
    trust = ssl.create_default_context(cafile=str(pki.ca_file))
    async with asyncio.timeout(5):
        while True:
            try:
                answer = await site.ask("one.example", "/x", tls=trust)
                break
            except OSError:
                await asyncio.sleep(0.05)
    assert answer == "a /x https"


async def test_ingresses_of_other_classes_and_what_no_one_stands_behind(site: Site) -> None:
    await site.ingress("other", ingressClassName="nginx", defaultBackend=to("a"))
    rule = {"host": "gone.example", "http": {"paths": [path("/", "nothing")]}}
    await site.ingress("ours", ingressClassName="wherry", rules=[rule])
    await site.until("gone.example", "/", "no endpoints")
    assert await site.ask("any.example") == "default backend - 404"
    assert "loadBalancer" not in ((await site.client.get(INGRESSES, "other", "default")).get("status") or {}) or not (
        await site.client.get(INGRESSES, "other", "default")
    )["status"]["loadBalancer"].get("ingress")
