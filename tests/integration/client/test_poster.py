"""POSTs in quick succession, against a real server; and against one that says strange things."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from machinery.api.resources import CONFIG_MAPS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.poster import Poster
from machinery.client.rest import Client
from tests.support.server import free_port, running_server

PATH = "/api/v1/namespaces/default/configmaps"


def body(name: str) -> bytes:
    return json.dumps({"metadata": {"name": name}}).encode()


async def post(poster: Poster, path: str, sent: bytes) -> tuple[int, bytes]:
    answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    poster.post(path, sent, lambda status, got: answer.set_result((status, got)))
    async with asyncio.timeout(10):
        return await answer


async def test_many_posts_over_few_connections_are_all_answered(tmp_path: Path) -> None:
    async with running_server(tmp_path) as (_, config), Poster(config, connections=4) as poster:
        answers = await asyncio.gather(*(post(poster, PATH, body(f"c-{number}")) for number in range(100)))
        assert {status for status, _ in answers} == {201}
        assert json.loads(answers[7][1])["metadata"]["name"] == "c-7"
        assert (await post(poster, PATH, body("c-7")))[0] == 409
        assert poster.pending == 0
        async with Client(config) as client:
            listed = (await client.list(CONFIG_MAPS, "default"))["items"]
        assert {f"c-{number}" for number in range(100)} <= {one["metadata"]["name"] for one in listed}


@contextlib.asynccontextmanager
async def serving(answers: list[bytes | None]) -> AsyncIterator[ClientConfig]:
    """Answer each request with the next of some bytes; with None, hang up instead."""
    handlers: list[asyncio.Task[None] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        try:
            while answers:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                answer = answers.pop(0)
                if answer is None:
                    break
                for byte in range(0, len(answer), 5):  # in small pieces, as a network may
                    writer.write(answer[byte : byte + 5])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield ClientConfig(server=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.gather(*filter(None, handlers))  # they end with their connections


async def test_a_cut_connection_leaves_the_outcome_unknown_and_the_next_request_gets_a_new_one() -> None:
    answers = [None, b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"]
    async with serving(answers) as config, Poster(config, connections=1) as poster:
        assert await post(poster, "/x", b"1") == (0, b"")
        assert await post(poster, "/x", b"2") == (201, b"ok")


async def test_who_is_asked_to_wait_is_answered_once_it_was_done() -> None:
    busy = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
    chunked = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3\r\nay!\r\n0\r\n\r\n"
    async with serving([busy, chunked]) as config, Poster(config, connections=1) as poster:
        assert await post(poster, "/x", b"1") == (201, b"okay!")


async def test_what_could_not_be_sent_waits_for_the_server() -> None:
    port = free_port()
    config = ClientConfig(server=f"http://127.0.0.1:{port}")
    async with Poster(config, connections=2) as poster:
        waiting = asyncio.ensure_future(post(poster, "/x", b"1"))
        await asyncio.sleep(0.1)
        assert not waiting.done()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n1")
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", port):
            assert (await waiting)[0] == 201
