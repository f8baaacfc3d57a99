"""Crowds of clients that mean no good: they cost bounded memory, and nobody else's time.

The server is a process of its own, so that its memory is its own.
"""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from apiserver.auth.user import MASTERS
from machinery import errors
from machinery.api.resources import CLUSTER_ROLE_BINDINGS, CONFIG_MAPS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed
from machinery.client.tls import ssl_context
from tests.support.server import client_config, free_port, server_config

MAPS = "/api/v1/namespaces/default/configmaps"
HALF = f"GET {MAPS} HTTP/1.1\r\nHost: x\r\nX-Begun: "
SLOW = f"POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
MIB = 1024 * 1024
pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@dataclass
class Server:
    """A server of its own process; `user` is one among many, in a level that others share."""

    pid: int
    admin: ClientConfig
    user: ClientConfig
    neighbour: ClientConfig

    @property
    def memory_bytes(self) -> int:
        """What the process has in memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    port = free_port()
    config = server_config(tmp_path, port=port)
    admin = client_config(tmp_path, config, groups=(MASTERS,))
    user, neighbour = (client_config(tmp_path, config, user=name, groups=("crowd",)) for name in ("ann", "bob"))
    argv = [
        sys.executable, "-m", "cluster.main", "apiserver", "--data-dir", str(tmp_path), "--port", str(port),
        "--store", "embedded",
    ]  # fmt: skip
    with (tmp_path / "output").open("wb") as log:
        lean = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "300000"}  # as the supervisor starts it
        process = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log, env={**os.environ, **lean})
    try:
        async with asyncio.timeout(20), Client(admin) as client:
            while True:
                with contextlib.suppress(ConnectionFailed, errors.APIError):
                    await client.request("GET", "/readyz")
                    break
                await asyncio.sleep(0.05)
            group = {"kind": "Group", "name": "crowd", "apiGroup": "rbac.authorization.k8s.io"}
            role = {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"}
            binding = {"metadata": {"name": "crowd"}, "roleRef": role, "subjects": [group]}
            await client.create(CLUSTER_ROLE_BINDINGS, binding)
            with contextlib.suppress(errors.AlreadyExists):
                await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "default")
        yield Server(process.pid, admin, user, neighbour)
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0


def address(config: ClientConfig) -> tuple[str, int]:
    host, _, port = config.server.removeprefix("https://").partition(":")
    return host, int(port)


def context_of(config: ClientConfig) -> ssl.SSLContext:
    found = ssl_context(config)
    assert isinstance(found, ssl.SSLContext)
    return found


async def crowd(config: ClientConfig, count: int, said: str | None) -> list[asyncio.StreamWriter]:
    """Open connections that say so much and no more; None for those that do not even begin with TLS."""
    tls = None if said is None else context_of(config)

    async def one() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(*address(config), ssl=tls)
        if said:
            writer.write(said.encode())
            await writer.drain()
        return writer

    found = []
    for begun in range(0, count, 50):
        found += await asyncio.gather(*(one() for _ in range(min(50, count - begun))))
    return found


async def times(config: ClientConfig, count: int) -> list[float]:
    """Return how long each of some reads takes, in seconds."""
    found = []
    async with Client(config) as client:
        for _ in range(count):
            began = time.perf_counter()
            await client.list(CONFIG_MAPS, "default")
            found.append(time.perf_counter() - began)
    return found


async def test_two_thousand_connections_that_ask_nothing_cost_nobody_time(server: Server) -> None:
    """Some say nothing, some half of a head, some the first byte of a body."""
    before, empty = statistics.median(await times(server.neighbour, 50)), server.memory_bytes
    writers: list[asyncio.StreamWriter] = []
    try:
        for said in (None, "", HALF, SLOW):
            writers += await crowd(server.user, 500, said)
        found = await times(server.neighbour, 50)
        each = (server.memory_bytes - empty) / len(writers)
        print(
            f"{before * 1000:.1f} ms alone, {statistics.median(found) * 1000:.1f} ms in the crowd, {each:.0f} bytes each"
        )
        assert statistics.median(found) < before + 0.02
        assert max(found) < 1
        assert each < 100 * 1024
    finally:
        for writer in writers:
            writer.transport.abort()
    await times(server.neighbour, 1)


async def _maps(server: Server, count: int, kib: int) -> None:
    data = {"k": "x" * kib * 1024}
    async with Client(server.admin) as client:
        for number in range(count):
            name = f"m{number % 4}"
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"n": str(number)}}}
            try:
                await client.create(CONFIG_MAPS, {**body, "data": data}, "default")
            except errors.AlreadyExists:
                await client.update(
                    CONFIG_MAPS, {**body, "data": data, "metadata": {**body["metadata"], "namespace": "default"}}
                )


@contextlib.contextmanager
def deaf(config: ClientConfig) -> Iterator[ssl.SSLSocket]:
    """A watch whose client takes nothing but the head."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(address(config))
    with context_of(config).wrap_socket(plain, server_hostname=address(config)[0]) as secure:
        secure.sendall(f"GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert secure.recv(12) == b"HTTP/1.1 200"
        yield secure


async def test_a_watch_that_never_reads_is_cut_and_slows_no_other(server: Server) -> None:
    heard: list[float] = []
    count, kib = 110, 800

    async def listen() -> None:
        async with Client(server.neighbour) as client:
            async for event in client.watch(CONFIG_MAPS, "default", resource_version="0"):
                event.decode()
                heard.append(time.monotonic())
                if len(heard) >= count:
                    return

    listening = asyncio.create_task(listen())
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(deaf(server.user)) for _ in range(5)]
        empty = server.memory_bytes
        began = time.monotonic()
        await _maps(server, count, kib)  # some 86 MiB; 64 are kept for a watcher
        await asyncio.wait_for(listening, 30)
        took = time.monotonic() - began
        grown = server.memory_bytes - empty
        print(f"{grown / MIB:.0f} MiB more after {count * kib / 1024:.0f} MiB of changes, {took:.1f} s")
        for one in sockets:
            one.settimeout(5)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while one.recv(65536):
                    pass  # it was cut: there is an end
        assert grown < 300 * MIB  # without bounds it is 400 and more


async def test_who_sends_slowly_takes_nobody_elses_seat(server: Server) -> None:
    """All seats of a level would be taken by half of these, if seats were taken before bodies had come."""
    writers = await crowd(server.user, 400, SLOW)
    try:
        async with asyncio.timeout(5), Client(server.neighbour) as client:
            for number in range(20):
                await client.create(CONFIG_MAPS, {"metadata": {"name": f"n{number}"}}, "default")
        for writer in writers[:20]:  # they are served as soon as they have said all
            rest = orjson.dumps({"metadata": {"generateName": "slow-"}})[1:]
            writer.write(rest + b" " * (999 - len(rest)))
        async with asyncio.timeout(10), Client(server.admin) as client:
            while True:
                made = [m["metadata"]["name"] for m in (await client.list(CONFIG_MAPS, "default"))["items"]]
                if sum(name.startswith("slow-") for name in made) == 20:
                    break
                await asyncio.sleep(0.05)
    finally:
        for writer in writers:
            writer.transport.abort()
