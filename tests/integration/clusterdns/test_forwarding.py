"""Names of the outside world: asked upstream, kept, and not believed blindly. The upstream server is another of ours."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dnslib import QTYPE, RR, TXT, A, DNSRecord

from machinery.api.resources import CONFIG_MAPS
from tests.integration.clusterdns.conftest import Dns, eventually, serving
from tests.support.server import free_port


class Upstream(asyncio.DatagramProtocol):
    """Answers each question with 192.0.2.N, N counting the questions; "big" and "gone" are special."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
        self._transport.sendto(self.answer(data, stream=False), client)  # type: ignore[attr-defined]

    def answer(self, data: bytes, *, stream: bool) -> bytes:
        query = DNSRecord.parse(data)
        name = str(query.q.qname)
        self.asked.append(name)
        reply = query.reply()
        if name.startswith("gone."):
            reply.header.rcode = 3
        elif name.startswith("big."):
            if not stream:
                reply.header.tc = 1
            else:
                reply.add_answer(*(RR(name, QTYPE.TXT, rdata=TXT("x" * 200), ttl=60) for _ in range(20)))
        else:
            ttl = 1 if name.startswith("short.") else 60
            reply.add_answer(RR(name, QTYPE.A, rdata=A(f"192.0.2.{len(self.asked)}"), ttl=ttl))
        return reply.pack()

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        answer = self.answer(data, stream=True)
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", free_port()))
    tcp = await asyncio.start_server(protocol.stream, "127.0.0.1", protocol.port)
    try:
        yield protocol
    finally:
        transport.close()
        tcp.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[tuple[Dns, Upstream]]:
    async with upstream() as server, serving(tmp_path, upstreams=(("127.0.0.1", server.port),)) as dns:
        yield dns, server


async def test_answers_are_kept_as_long_as_they_allow(world: tuple[Dns, Upstream]) -> None:
    dns, server = world
    assert await dns.dig("example.com") == "192.0.2.1"
    assert await dns.dig("example.com") == "192.0.2.1"
    first = await dns.dig("short.example.com")

    async def is_another() -> bool:
        return await dns.dig("short.example.com") != first

    await eventually(is_another)
    assert await dns.status_of("gone.example.com") == "NXDOMAIN"
    assert await dns.status_of("gone.example.com") == "NXDOMAIN"
    assert server.asked.count("gone.example.com.") == 1
    assert server.asked.count("example.com.") == 1


async def test_the_cluster_s_names_are_never_asked_outside(world: tuple[Dns, Upstream]) -> None:
    dns, server = world
    await dns.status_of("nothing.default.svc.cluster.local")
    assert not any("cluster.local" in name for name in server.asked)


async def test_who_asks_the_same_at_once_causes_one_question(world: tuple[Dns, Upstream]) -> None:
    dns, server = world
    answers = await asyncio.gather(*(dns.dig("many.example.com") for _ in range(5)))
    assert len(set(answers)) == 1
    assert server.asked.count("many.example.com.") <= 2  # dig draws a cookie: queries may differ


async def test_long_answers_come_over_tcp(world: tuple[Dns, Upstream]) -> None:
    dns, _ = world
    assert len((await dns.dig("big.example.com", "TXT")).splitlines()) == 20


async def test_an_alias_outside_comes_with_its_address(world: tuple[Dns, Upstream]) -> None:
    dns, _ = world
    await dns.service("out", type="ExternalName", externalName="www.example.com", ports=None)
    await dns.until("out.default.svc.cluster.local", "A", {"www.example.com.", "192.0.2.1"})


async def test_stub_domains_have_servers_of_their_own(world: tuple[Dns, Upstream]) -> None:
    dns, server = world
    async with upstream() as other:
        data = {"stubDomains": json.dumps({"corp.example": [f"127.0.0.1:{other.port}"]})}
        await dns.client.create(CONFIG_MAPS, {"metadata": {"name": "kube-dns"}, "data": data}, "kube-system")

        async def is_asked() -> bool:
            await dns.dig(f"host{len(server.asked)}.corp.example")
            return bool(other.asked)

        await eventually(is_asked)
        assert await dns.dig("example.org") == f"192.0.2.{len(server.asked)}"
        assert "example.org." not in other.asked


async def test_without_an_answer_the_client_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, upstreams=(("127.0.0.1", 9),)) as dns:
        assert await dns.status_of("example.com") == "SERVFAIL"
