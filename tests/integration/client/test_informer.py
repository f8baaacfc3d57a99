"""The informer against a server that cuts connections, forgets history and sends very long lines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from machinery.api.meta import ObjectKey
from machinery.api.resources import CONFIG_MAPS
from machinery.client.informer import Informer
from machinery.client.rest import Client
from tests.integration.client.scripted import WatchServer, scripted_server


class Meta(msgspec.Struct, frozen=True):
    name: str
    resourceVersion: str


class ConfigMap(msgspec.Struct, frozen=True):
    metadata: Meta
    data: dict[str, str] = {}


GONE = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old resource version"}


class Follower:
    """An informer of ConfigMaps and the list of what its handler was told."""

    def __init__(self, server: WatchServer, client: Client) -> None:
        self.server = server
        self.informer = Informer(
            client, CONFIG_MAPS, ConfigMap, indexes={"colour": lambda obj: filter(None, [obj.data.get("colour")])}
        )
        self.told: list[tuple[str | None, str | None]] = []
        self._change = asyncio.Event()
        self.informer.add_handler(self._handle)

    def _handle(self, old: ConfigMap | None, new: ConfigMap | None) -> None:
        self.told.append((old and old.metadata.name, new and new.metadata.name))
        self._change.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._change.clear()
                await self._change.wait()

    def get(self, name: str) -> ConfigMap | None:
        return self.informer.get(ObjectKey("default", name))


@contextlib.asynccontextmanager
async def following(server: WatchServer) -> AsyncIterator[Follower]:
    async with scripted_server(server.answer) as config, Client(config) as client:
        follower = Follower(server, client)
        task = asyncio.create_task(follower.informer.run())
        try:
            async with asyncio.timeout(5):
                await follower.informer.synced()
                await server.watching.wait()
            yield follower
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_the_copy_follows_the_list_and_the_watch() -> None:
    server = WatchServer()
    server.put("a", data={"colour": "red"})
    async with following(server) as follower:
        assert follower.told == [(None, "a")]
        await server.send("ADDED", server.put("b", data={"colour": "red"}))
        await server.send("MODIFIED", server.put("a", data={"colour": "blue"}))
        await server.send("DELETED", server.remove("b"))
        await follower.until(lambda: len(follower.told) == 4)
        assert follower.told[1:] == [(None, "b"), ("a", "a"), ("b", None)]
        assert [obj.metadata.name for obj in follower.informer.list("default")] == ["a"]
        assert follower.informer.list("other") == []
        assert follower.informer.by_index("colour", "red") == []
        assert [obj.metadata.name for obj in follower.informer.by_index("colour", "blue")] == ["a"]


async def test_a_late_handler_is_told_what_is_there() -> None:
    server = WatchServer()
    server.put("a")
    async with following(server) as follower:
        late: list[Any] = []
        follower.informer.add_handler(lambda old, new: late.append((old, new)))
        assert late == [(None, follower.get("a"))]


async def test_a_cut_watch_goes_on_from_the_last_version_without_a_list() -> None:
    server = WatchServer()
    async with following(server) as follower:
        await server.send("ADDED", server.put("a"))
        await follower.until(lambda: follower.get("a") is not None)
        server.version += 7
        bookmark = {"metadata": {"resourceVersion": str(server.version)}}
        await server.send("BOOKMARK", bookmark)
        await server.send("ADDED", server.put("b"))
        await follower.until(lambda: follower.get("b") is not None)
        server.cut()
        async with asyncio.timeout(5):
            await server.watching.wait()
        assert server.lists == ["0"]
        assert server.watches == ["1", str(server.version)]


async def test_a_bookmark_moves_the_version_and_tells_nobody() -> None:
    server = WatchServer()
    async with following(server) as follower:
        await server.send("BOOKMARK", {"metadata": {"resourceVersion": "99"}})
        server.end()
        async with asyncio.timeout(5):
            await server.watching.wait()
        assert server.watches == ["1", "99"]
        assert follower.told == []
        assert server.lists == ["0"]


async def test_lost_history_is_listed_anew_and_deletions_are_noticed() -> None:
    server = WatchServer()
    for name in ("kept", "changed", "deleted", "remade"):
        server.put(name)
    async with following(server) as follower:
        follower.told.clear()
        server.put("changed")
        server.remove("deleted")
        server.put("remade", uid="another")
        server.put("new")
        server.refuse_watches_with = GONE
        server.cut()
        await follower.until(lambda: ("deleted", None) in follower.told)
        assert sorted(follower.told, key=str) == sorted(
            [("changed", "changed"), ("remade", None), (None, "remade"), (None, "new"), ("deleted", None)], key=str
        )
        assert server.lists == ["0", ""], "the list after a loss must be a consistent read"


async def test_expiry_in_the_middle_of_a_watch_is_survived() -> None:
    server = WatchServer()
    async with following(server) as follower:
        server.put("a")
        server.watching.clear()
        await server.send("ERROR", GONE)
        await follower.until(lambda: follower.get("a") is not None)
        async with asyncio.timeout(5):
            await server.watching.wait()
        assert len(server.lists) == 2


@pytest.mark.slow
async def test_a_watch_line_of_many_megabytes_arrives_whole() -> None:
    server = WatchServer()
    async with following(server) as follower:
        await server.send("ADDED", server.put("big", data={"blob": "x" * 9_000_000}))
        await server.send("ADDED", server.put("next"))
        await follower.until(lambda: follower.get("next") is not None)
        big = follower.get("big")
        assert big is not None
        assert big.data["blob"] == "x" * 9_000_000


async def test_an_object_that_does_not_fit_the_view_spares_the_others(caplog: pytest.LogCaptureFixture) -> None:
    server = WatchServer()
    async with following(server) as follower:
        odd = server.put("odd")
        odd["data"] = {"a": 1}
        await server.send("ADDED", odd)
        await server.send("ADDED", server.put("fine"))
        await follower.until(lambda: follower.get("fine") is not None)
        assert follower.get("odd") is None
        assert "configmaps default/odd does not fit its view" in caplog.text


async def test_a_failing_handler_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    server = WatchServer()
    async with following(server) as follower:

        def fail(old: object, new: object) -> None:
            raise ValueError("a bug")

        follower.informer.add_handler(fail)
        told: list[object] = []
        follower.informer.add_handler(lambda old, new: told.append(new))
        await server.send("ADDED", server.put("a"))
        await follower.until(lambda: follower.get("a") is not None)
        assert told == [follower.get("a")]
        assert "handler of configmaps failed" in caplog.text


async def test_dicts_of_a_list_are_given_their_kind() -> None:
    server = WatchServer()
    server.put("a")
    async with scripted_server(server.answer) as config, Client(config) as client:
        informer = Informer(client, CONFIG_MAPS, dict)
        task = asyncio.create_task(informer.run())
        async with asyncio.timeout(5):
            await informer.synced()
        obj = informer.get(ObjectKey("default", "a"))
        assert obj is not None
        assert (obj["apiVersion"], obj["kind"]) == ("v1", "ConfigMap")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
