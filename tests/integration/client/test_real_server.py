"""The client kit against the API server itself: restarts, lost history, discovery, refusals."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from apiserver.app import serving
from apiserver.storage.sqlite import SQLiteStore
from machinery.api.meta import ObjectKey
from machinery.api.resources import CONFIG_MAPS, NODES, PODS
from machinery.client.discovery import deletable, discover
from machinery.client.informer import Informer
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, Conflict, NotFound
from tests.support.server import client_config, free_port, server_config

pytestmark = pytest.mark.slow


async def test_refusals_come_as_the_errors_they_are(client: Client) -> None:
    with pytest.raises(NotFound, match='configmaps "none" not found'):
        await client.get(CONFIG_MAPS, "none", "default")
    made = await client.create(CONFIG_MAPS, {"metadata": {"name": "one"}}, "default")
    with pytest.raises(AlreadyExists):
        await client.create(CONFIG_MAPS, {"metadata": {"name": "one"}}, "default")
    await client.patch(CONFIG_MAPS, "one", {"data": {"a": "b"}}, "default")
    with pytest.raises(Conflict):
        await client.update(CONFIG_MAPS, made)


async def test_discovery_knows_scopes_and_verbs(client: Client) -> None:
    found = {one.resource: one for one in await discover(client)}
    assert "deletecollection" in found[PODS].verbs
    assert found[NODES].preferred
    assert {PODS, NODES, CONFIG_MAPS} <= set(deletable(found.values()))


async def test_an_informer_outlives_the_server_and_misses_nothing(tmp_path: Path) -> None:
    config = server_config(tmp_path, port=free_port())
    store = SQLiteStore(tmp_path / "store.sqlite")
    changes: asyncio.Queue[tuple[str | None, str | None]] = asyncio.Queue()

    def told(old: dict | None, new: dict | None) -> None:
        changes.put_nowait((old and old["metadata"]["name"], new and new["metadata"]["name"]))

    async def expect(*wanted: tuple[str | None, str | None]) -> None:
        async with asyncio.timeout(10):
            assert {await changes.get() for _ in wanted} == set(wanted)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        await first.enter_async_context(serving(store, config, sole_writer=True))
        client = await stack.enter_async_context(Client(client_config(tmp_path, config), patience_seconds=5))
        informer = Informer(client, NODES, dict)
        informer.add_handler(told)
        task = asyncio.create_task(informer.run())
        stack.callback(task.cancel)
        await informer.synced()
        await client.create(NODES, {"metadata": {"name": "kept"}})
        await client.create(NODES, {"metadata": {"name": "lost"}})
        await expect((None, "kept"), (None, "lost"))
        await first.aclose()
        async with serving(store, config, sole_writer=True):
            await client.delete(NODES, "lost")
            await client.create(NODES, {"metadata": {"name": "new"}})
            await expect(("lost", None), (None, "new"))
            assert informer.get(ObjectKey("", "kept")) is not None
            assert changes.empty(), "what did not change is not told again"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
