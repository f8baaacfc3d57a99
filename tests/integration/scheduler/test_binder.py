"""Bindings and their events over a connection that is cut at the wrong moment."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from machinery.client.kubeconfig import ClientConfig
from scheduler.binder import Binder
from scheduler.pods import PodReader

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def cutting_server(
    answers: list[str], asked: list[tuple[str, str]], done: asyncio.Event
) -> AsyncIterator[ClientConfig]:
    """Answer requests with the statuses given, one after the other, until `done`; "cut" hangs up without an answer."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(size))
                asked.append((head.split(" ")[1], body["metadata"]["name"]))
                answer = answers.pop(0)
                if not answers:
                    done.set()
                if answer == "cut":
                    break
                writer.write(f"HTTP/1.1 {answer} X\r\nContent-Length: 0\r\n\r\n".encode())

    handlers: list[asyncio.Task[None] | None] = []
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield ClientConfig(server=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.gather(*filter(None, handlers))  # they end with their connections


async def test_an_event_that_was_cut_off_is_sent_again_under_the_same_name() -> None:
    asked: list[tuple[str, str]] = []
    pod = PodReader().read_object({"metadata": {"name": "p", "namespace": "n", "uid": "1"}, "spec": {}})
    bound: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()
    async with cutting_server(["201", "cut", "503", "409"], asked, done) as config, Binder(config) as binder:
        binder.bind(pod, "a", lambda status, body: bound.set_result(status))
        async with asyncio.timeout(10):
            assert await bound == 201
            binder.say_scheduled(pod, "a")
            await done.wait()
    (binding, *events) = asked
    assert binding == ("/api/v1/namespaces/n/pods/p/binding", "p")
    assert {path for path, _ in events} == {"/api/v1/namespaces/n/events"}
    assert len({name for _, name in events}) == 1


async def test_a_binding_whose_answer_is_lost_is_told_as_unknown() -> None:
    asked: list[tuple[str, str]] = []
    pod = PodReader().read_object({"metadata": {"name": "p", "namespace": "n", "uid": "1"}, "spec": {}})
    bound: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with cutting_server(["cut"], asked, asyncio.Event()) as config, Binder(config) as binder:
        binder.bind(pod, "a", lambda status, body: bound.set_result(status))
        async with asyncio.timeout(10):
            assert await bound == 0
