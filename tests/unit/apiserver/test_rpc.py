"""gRPC over our HTTP/2: against a scripted server that opens small windows, goes away, is silent, or talks nonsense."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import hpack
import pytest

from apiserver.storage import http2
from apiserver.storage.rpc import Channel, RpcError

METHOD = "/test.Echo/Say"
GOOD = [(":status", "200"), ("content-type", "application/grpc")]


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def greet(self, *settings: tuple[int, int]) -> None:
        assert (await self._reader.readexactly(24)).startswith(b"PRI * HTTP/2.0")
        body = b"".join(struct.pack(">HI", name, value) for name, value in settings)
        self.send(http2.SETTINGS, 0, 0, body)

    def send(self, kind: int, flags: int, stream: int, body: bytes = b"") -> None:
        self._writer.write(http2.frame(kind, flags, stream, body))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def frame(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """Return the next frame of these kinds: kind, flags, stream, payload."""
        while True:
            head = await self._reader.readexactly(9)
            body = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] in kinds:
                return head[3], head[4], int.from_bytes(head[5:9], "big"), body

    def answer(self, stream: int, message: bytes, status: str = "0", text: str = "") -> None:
        encoder = hpack.Encoder()
        encoder.header_table_size = 0
        self.send(http2.HEADERS, http2.END_HEADERS, stream, encoder.encode(GOOD))
        if message:
            self.send(http2.DATA, 0, stream, b"\0" + struct.pack(">I", len(message)) + message)
        trailers = [("grpc-status", status), *([("grpc-message", text)] if text else [])]
        self.send(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, encoder.encode(trailers))

    def hang_up(self) -> None:
        self._writer.close()


Script = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def talking_to(script: Script, folder: Path) -> AsyncIterator[Channel]:
    """Yield a channel to a server that runs a script for each connection."""
    failures: list[BaseException] = []
    finished = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
            await finished.wait()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except AssertionError as error:
            failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, folder / "s")
    channel = Channel(f"unix://{folder / 's'}", None)
    try:
        yield channel
    finally:
        await channel.close()
        finished.set()
        server.close()
        await server.wait_closed()
    assert not failures, failures


async def test_a_long_request_goes_in_pieces_as_the_server_makes_room(tmp_path: Path) -> None:
    sizes = []

    async def script(peer: Peer) -> None:
        await peer.greet((4, 1000), (5, 16_384))  # a window of 1,000 bytes a stream
        await peer.frame(http2.HEADERS)
        received = b""
        while True:
            _, flags, stream, body = await peer.frame(http2.DATA)
            received += body
            sizes.append(len(body))
            for at in (0, stream):
                peer.send(http2.WINDOW_UPDATE, 0, at, struct.pack(">I", len(body)))
            if flags & http2.END_STREAM:
                break
        peer.answer(stream, received[5:])

    message = bytes(range(256)) * 400
    async with talking_to(script, tmp_path) as channel:
        # The server's settings come after the first request has left: only what the default allows goes at once.
        assert await channel.unary(METHOD, message, 5) == message
    assert sum(sizes) == len(message) + 5
    assert max(sizes[5:]) <= 16_384


async def test_answers_come_to_those_who_asked_whatever_their_order(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = [await peer.frame(http2.DATA) for _ in range(5)]
        for _, _, stream, body in reversed(asked):
            peer.answer(stream, body[5:])

    async with talking_to(script, tmp_path) as channel:
        answers = await asyncio.gather(*(channel.unary(METHOD, b"%d" % n, 5) for n in range(5)))
    assert answers == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_refusal_is_told_with_its_code_and_words(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        _, _, stream, _ = await peer.frame(http2.DATA)
        peer.answer(stream, b"", "11", "required revision has been compacted%21")

    async with talking_to(script, tmp_path) as channel:
        with pytest.raises(RpcError, match="has been compacted!") as caught:
            await channel.unary(METHOD, b"", 5)
    assert (caught.value.code, caught.value.never_sent) == (11, False)


async def test_a_server_that_goes_away_says_what_it_never_looked_at_and_the_next_call_connects_anew(
    tmp_path: Path,
) -> None:
    connections = []

    async def script(peer: Peer) -> None:
        connections.append(peer)
        await peer.greet()
        _, _, stream, body = await peer.frame(http2.DATA)
        if len(connections) == 1:
            peer.send(http2.GOAWAY, 0, 0, struct.pack(">II", 0, 0))
        else:
            peer.answer(stream, body[5:])

    async with talking_to(script, tmp_path) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(METHOD, b"x", 5)
        assert caught.value.never_sent
        assert await channel.unary(METHOD, b"y", 5) == b"y"


async def test_a_connection_lost_in_the_middle_may_have_done_the_work(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.frame(http2.DATA)
        peer.hang_up()

    async with talking_to(script, tmp_path) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(METHOD, b"x", 5)
    assert not caught.value.never_sent


async def test_nobody_listening_is_told_at_once(tmp_path: Path) -> None:
    channel = Channel(f"unix://{tmp_path / 'none'}", None)
    with pytest.raises(RpcError, match="failed to connect") as caught:
        await channel.unary(METHOD, b"x", 5)
    assert caught.value.never_sent
    await channel.close()


@pytest.mark.slow
async def test_a_silent_server_costs_no_more_than_the_time_given(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.frame(http2.DATA)

    loop = asyncio.get_running_loop()
    async with talking_to(script, tmp_path) as channel:
        began = loop.time()
        with pytest.raises(RpcError, match="no answer in time"):
            await channel.unary(METHOD, b"x", 0.3)
        assert loop.time() - began < 1


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(1000), id="http-1"),
        pytest.param(http2.frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff" * 40), id="headers"),
        pytest.param(http2.frame(http2.GOAWAY, 0, 0, b"1"), id="short-goaway"),
        pytest.param(http2.frame(http2.DATA, http2.PADDED, 1, b""), id="padding-without-length"),
    ],
)
async def test_nonsense_ends_the_call(nonsense: bytes, tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.frame(http2.DATA)
        peer.send_raw(nonsense)

    async with talking_to(script, tmp_path) as channel:
        with pytest.raises(RpcError):
            await channel.unary(METHOD, b"x", 2)


async def test_pings_are_answered_and_padding_is_dropped(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        _, _, stream, _ = await peer.frame(http2.DATA)
        peer.send(http2.PING, 0, 0, b"12345678")
        _, flags, _, body = await peer.frame(http2.PING)
        assert (flags, body) == (http2.ACK, b"12345678")
        peer.send(http2.DATA, http2.PADDED, stream, b"\x03" + b"\0\0\0\0\x02ok" + b"\0\0\0")
        peer.answer(stream, b"")

    async with talking_to(script, tmp_path) as channel:
        assert await channel.unary(METHOD, b"x", 5) == b"ok"


async def test_messages_of_a_stream_are_whole_whatever_the_frames_they_come_in(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        _, _, stream, _ = await peer.frame(http2.DATA)
        sent = b"\0\0\0\0\x03one" + b"\0\0\0\0\x03two" + b"\0\0\0\0\0"
        for at in range(len(sent)):
            peer.send(http2.DATA, 0, stream, sent[at : at + 1])
        peer.answer(stream, b"", "14", "going")

    async with talking_to(script, tmp_path) as channel:
        stream = await channel.stream(METHOD, 5)
        stream.write(b"hello")
        assert [await stream.read(5) for _ in range(3)] == [b"one", b"two", b""]
        with pytest.raises(RpcError, match="going"):
            await stream.read(5)
