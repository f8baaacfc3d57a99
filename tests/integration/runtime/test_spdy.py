"""Exec, attach and port forwarding by SPDY, as cri-tools and older clients speak it."""

import asyncio
import json
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import pytest
from websockets.protocol import Protocol, Side, State

from agent.cri import api_pb2 as api
from machinery.spdy import DICTIONARY, FIN, SYN_REPLY, SYN_STREAM, Framer
from tests.integration.runtime.harness import CriClient


class SpdyClient:
    """The client's side: opens streams by their headers, collects what comes back on each."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._framer = Framer()
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._next = 1
        self.received: dict[int, bytes] = {}
        self.ended: set[int] = set()

    @classmethod
    async def connect(cls, url: str, protocol: str) -> "SpdyClient":
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            f"X-Stream-Protocol-Version: {protocol}\r\nX-Stream-Protocol-Version: v1.other\r\n\r\n"
        )
        writer.write(head.encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert answer.startswith("HTTP/1.1 101 "), answer
        assert f"X-Stream-Protocol-Version: {protocol}\r\n" in answer
        return cls(reader, writer)

    def open(self, headers: Mapping[str, str]) -> int:
        stream, self._next = self._next, self._next + 2
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            block += struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(value)) + value.encode()
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        body = struct.pack(">IIH", stream, 0, 0) + packed
        self._writer.write(struct.pack(">HHI", 0x8003, SYN_STREAM, len(body)) + body)
        self.received[stream] = b""
        return stream

    def send(self, stream: int, data: bytes, *, ends: bool = False) -> None:
        self._writer.write(Framer.data(stream, data, ends=ends))

    async def frames(self) -> AsyncIterator[None]:
        while data := await self._reader.read(65536):
            for frame in self._framer.feed(data):
                if frame.kind != SYN_REPLY:
                    self.received[frame.stream] += frame.data
                    if frame.flags & FIN:
                        self.ended.add(frame.stream)
                yield

    async def until(self, *streams: int) -> None:
        """Read until the server has ended these streams."""
        async with asyncio.timeout(10):
            async for _ in self.frames():
                if set(streams) <= self.ended:
                    return

    def close(self) -> None:
        self._writer.close()


async def test_exec_carries_output_input_and_exit_code(cri: CriClient) -> None:
    container = await cri.run(await cri.run_sandbox(), "sleep", "60")
    request = api.ExecRequest(
        container_id=container, cmd=["sh", "-c", "cat; echo err >&2; exit 3"], stdin=True, stdout=True, stderr=True
    )
    client = await SpdyClient.connect((await cri.runtime.Exec(request)).url, "v4.channel.k8s.io")
    error, stdin, stdout, stderr = (
        client.open({"streamtype": kind}) for kind in ("error", "stdin", "stdout", "stderr")
    )
    client.send(stdin, b"hello\n", ends=True)
    await client.until(error, stdout, stderr)
    assert (client.received[stdout], client.received[stderr]) == (b"hello\n", b"err\n")
    status = json.loads(client.received[error])
    assert (status["reason"], status["details"]["causes"][0]["message"]) == ("NonZeroExitCode", "3")
    client.close()


async def test_exec_on_a_terminal(cri: CriClient) -> None:
    container = await cri.run(await cri.run_sandbox(), "sleep", "60")
    request = api.ExecRequest(
        container_id=container, cmd=["sh", "-c", "stty size; echo hello"], stdin=True, stdout=True, tty=True
    )
    client = await SpdyClient.connect((await cri.runtime.Exec(request)).url, "v4.channel.k8s.io")
    error, _, stdout = (client.open({"streamtype": kind}) for kind in ("error", "stdin", "stdout"))
    await client.until(error, stdout)
    assert client.received[stdout].endswith(b"hello\r\n")
    client.close()


async def test_attach_joins_the_streams_of_a_container(cri: CriClient) -> None:
    config = cri.container_config("sh")
    config.stdin = config.stdin_once = True
    container = await cri.run(await cri.run_sandbox(), config=config)
    request = api.AttachRequest(container_id=container, stdin=True, stdout=True, stderr=True)
    client = await SpdyClient.connect((await cri.runtime.Attach(request)).url, "v4.channel.k8s.io")
    error, stdin, stdout, _ = (client.open({"streamtype": kind}) for kind in ("error", "stdin", "stdout", "stderr"))
    client.send(stdin, b"echo hello\n", ends=True)
    await client.until(error, stdout)
    assert client.received[stdout] == b"hello\n"
    client.close()


class TunnelledClient(SpdyClient):
    """The same within a WebSocket: each write a message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(self, self)  # type: ignore[arg-type] - it does here what these do
        self._socket = (reader, writer)
        self._protocol = Protocol(Side.CLIENT, state=State.OPEN)

    @classmethod
    async def connect(cls, url: str, protocol: str) -> "TunnelledClient":
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = (
            f"GET {parts.path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Protocol: SPDY/3.1+{protocol}\r\n\r\n"
        )
        writer.write(head.encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert answer.startswith("HTTP/1.1 101 "), answer
        assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer  # RFC 6455's own example
        assert f"Sec-WebSocket-Protocol: SPDY/3.1+{protocol}\r\n" in answer
        return cls(reader, writer)

    def write(self, data: bytes) -> None:
        self._protocol.send_binary(data)
        self._socket[1].write(b"".join(self._protocol.data_to_send()))

    async def read(self, size: int) -> bytes:
        while not (frames := self._protocol.events_received()):
            self._protocol.receive_data(await self._socket[0].read(size))
        return b"".join(frame.data for frame in frames)

    def close(self) -> None:
        self._socket[1].close()


@pytest.mark.parametrize("kind", [SpdyClient, TunnelledClient], ids=["plain", "in a WebSocket"])
@pytest.mark.parametrize("port", [8080, 8081], ids=["listening", "closed"])
async def test_ports_are_forwarded(cri: CriClient, port: int, kind: type[SpdyClient]) -> None:
    sandbox = await cri.run_sandbox()
    serves = "echo page > /tmp/index.html; httpd -p 8080 -h /tmp; touch /tmp/up; sleep 60"
    container = await cri.run(sandbox, "sh", "-c", serves)
    await cri.output(container, "sh", "-c", "until [ -e /tmp/up ]; do sleep 0.02; done")
    url = (await cri.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=sandbox))).url
    client = await kind.connect(url, "portforward.k8s.io")
    headers = {"port": str(port), "requestid": "0"}
    error, data = client.open({"streamtype": "error", **headers}), client.open({"streamtype": "data", **headers})
    client.send(error, b"", ends=True)
    client.send(data, b"GET /index.html HTTP/1.0\r\n\r\n")
    await client.until(error, data)
    if port == 8080:
        assert client.received[data].endswith(b"page\n")
    else:
        assert b"error forwarding port 8081 to pod" in client.received[error]
    client.close()
