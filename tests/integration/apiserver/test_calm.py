"""Clients that are slow, and a server that ends: nobody else is held up, and nothing is cut short.

https://kubernetes.io/docs/concepts/architecture/leases/ (identity), KEP 1904 (graceful shutdown)
"""

import asyncio
import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from apiserver import deadlines
from apiserver.app import APIServer, serving
from apiserver.endpoints import body
from apiserver.request import Call, duration_seconds
from apiserver.storage.sqlite import SQLiteStore
from machinery import errors
from machinery.api.resources import CONFIG_MAPS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed
from machinery.client.tls import ssl_context
from tests.support.etcd import running_etcd
from tests.support.server import client_config, free_port, server_config


async def raw(config: ClientConfig, head: str, rest: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send the beginning of a request."""
    host, _, port = config.server.removeprefix("https://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=ssl_context(config))
    writer.write(head.replace("\n", "\r\n").encode() + rest)
    return reader, writer


async def test_a_body_that_never_comes_is_given_up(
    client: Client, config: ClientConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.2)
    head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 100\n\n"
    reader, writer = await raw(config, head, b'{"metadata"')
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
    assert b" 504 " in answer
    assert await client.list(CONFIG_MAPS, "default")
    writer.close()


async def test_a_request_has_the_time_its_client_gives_it(client: Client, server: APIServer) -> None:
    with pytest.raises(errors.BadRequest, match="invalid timeout specified in the request URL"):
        await client.request("GET", "/api/v1/pods", params={"timeout": "soon"})
    await client.request("GET", "/api/v1/pods", params={"timeout": "1m"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("0", 0), ("1x", None), ("s", None)]
)
def test_spans_are_read_as_go_writes_them(text: str, seconds: float | None) -> None:
    assert duration_seconds(text) == seconds


async def test_a_server_that_ends_lets_watches_end_and_answers_what_it_was_asked(tmp_path: Path) -> None:
    config = dataclasses.replace(server_config(tmp_path), shutdown_seconds=5.0)
    store = SQLiteStore(tmp_path / "store.sqlite")
    clients = client_config(tmp_path, config)

    async def watch(client: Client) -> str:
        await client.request("GET", "/api/v1/namespaces/default/pods", params={"watch": "1", "timeoutSeconds": "600"})
        return "cleanly"

    async with Client(clients) as client:
        async with serving(store, config, sole_writer=True) as server:
            await server.health.bootstrapped.wait()
            await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "default")
            watching = asyncio.create_task(watch(client))
            while not server.cache.collection("pods")._watchers:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)
            # It waits for a revision that does not come: some seconds, while the server is ending.
            later = str(server.cache.revision + 1000)
            path = f"/api/v1/namespaces/default/configmaps?resourceVersion={later}"
            reader, writer = await raw(clients, f"GET {path} HTTP/1.1\nHost: x\n\n")
            await asyncio.sleep(0.2)
            began = time.monotonic()
        assert await asyncio.wait_for(watching, 1) == "cleanly"
        assert b"Too large resource version" in await asyncio.wait_for(reader.read(65536), 1)
        assert 1 < time.monotonic() - began < 5
    writer.close()
    await store.close()


@pytest.mark.slow
async def test_workers_share_a_port_and_show_each_others_writes(tmp_path: Path) -> None:
    port = free_port()
    config = client_config(tmp_path, server_config(tmp_path, port=port))
    async with running_etcd(tmp_path / "etcd") as etcd:
        argv = [
            sys.executable, "-m", "cluster.main", "apiserver", "--data-dir", str(tmp_path), "--port", str(port),
            "--etcd-servers", etcd.endpoint, "--workers", "2",
        ]  # fmt: skip
        with (tmp_path / "output").open("wb") as log:
            process = await asyncio.create_subprocess_exec(*argv, env={**os.environ}, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(20):
                while True:
                    try:
                        async with Client(config) as client:
                            await client.request("GET", "/readyz")
                            break
                    except (ConnectionFailed, errors.APIError):
                        await asyncio.sleep(0.1)
            for number in range(20):
                async with Client(config) as one, Client(config) as other:  # a new connection each: to either of them
                    await one.create(CONFIG_MAPS, {"metadata": {"name": f"c{number}"}}, "default")
                    assert (await other.get(CONFIG_MAPS, f"c{number}", "default"))["metadata"]["name"] == f"c{number}"
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_a_request_that_takes_too_long_is_told_so(
    client: Client, server: APIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def never(_: Call) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    monkeypatch.setattr(server, "_dispatch", never)
    asked = asyncio.create_task(client.request("GET", "/api/v1/pods"))
    while not server.deadlines._begun:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.01)
    server.deadlines.look(now=time.monotonic() + deadlines.MAX_SECONDS - 5)
    await asyncio.sleep(0.05)
    assert not asked.done()
    server.deadlines.look(now=time.monotonic() + deadlines.MAX_SECONDS + 5)
    with pytest.raises(errors.Timeout, match="^Timeout: request did not complete within the allotted timeout$"):
        await asyncio.wait_for(asked, 5)
    assert ended.is_set()
    assert not server.deadlines._begun


async def test_who_does_not_take_a_long_answer_is_let_go(
    client: Client, config: ClientConfig, server: APIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "MAX_SECONDS", 0.5)
    data = {"k": "x" * 900_000}
    for number in range(12):
        await client.create(CONFIG_MAPS, {"metadata": {"name": f"c{number}"}, "data": data}, "default")
    host, _, port = config.server.removeprefix("https://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=ssl_context(config), limit=1024)
    writer.write(b"GET /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readline()
    await asyncio.sleep(1.5)  # it reads nothing more
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        while True:
            await reader.readexactly(65536)
    assert len((await client.list(CONFIG_MAPS, "default"))["items"]) == 12  # others are served
    writer.close()


async def test_every_answer_tells_its_level_and_schema_watches_too(config: ClientConfig, client: Client) -> None:
    for path in ("/api/v1/pods", "/api/v1/pods?watch=1&timeoutSeconds=1"):
        reader, writer = await raw(config, f"GET {path} HTTP/1.1\nHost: x\n\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        for name in (b"x-kubernetes-pf-flowschema-uid: ", b"x-kubernetes-pf-prioritylevel-uid: "):
            assert len(head.lower().partition(name)[2].partition(b"\r\n")[0]) == 36
        writer.close()
