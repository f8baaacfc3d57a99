"""An API server whose etcd goes away: told soon, overcome when it is back, and nothing acknowledged lost."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from apiserver.storage.etcd import EtcdStore
from cli.connection import Connection
from machinery import errors
from machinery.api.resources import CONFIG_MAPS
from machinery.client.rest import Client
from tests.support.etcd import running_etcd
from tests.support.server import running_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
PATH = CONFIG_MAPS.path("default")


async def test_etcd_gone_is_a_503_within_five_seconds_and_forgotten_when_it_is_back(tmp_path: Path) -> None:
    async with running_etcd(tmp_path) as etcd:
        store = EtcdStore([etcd.endpoint])
        try:
            async with running_server(tmp_path, store=store) as (_, config), Client(config) as client:
                acknowledged = [await client.create(CONFIG_MAPS, {"metadata": {"name": "before"}}, "default")]
                connection = Connection(config)  # it does not try again by itself
                await etcd.kill()
                began = time.monotonic()
                with pytest.raises(errors.ServiceUnavailable):
                    await asyncio.to_thread(connection.request, "POST", PATH, body={"metadata": {"name": "lost"}})
                assert time.monotonic() - began < 5
                with pytest.raises(errors.InternalError, match=r"\[-\]etcd failed"):
                    await asyncio.to_thread(connection.request, "GET", "/readyz")
                await etcd.start()
                async with asyncio.timeout(15):
                    while len(acknowledged) < 2:
                        with contextlib.suppress(errors.APIError):
                            made = await client.create(CONFIG_MAPS, {"metadata": {"name": "after"}}, "default")
                            acknowledged.append(made)
                found = (await client.list(CONFIG_MAPS, "default"))["items"]
                assert [one for one in found if one["metadata"]["name"] in ("before", "after")] == sorted(
                    acknowledged, key=lambda one: one["metadata"]["name"]
                )
                await asyncio.to_thread(connection.close)
        finally:
            await store.close()


async def test_a_watch_of_a_client_goes_on_over_the_loss_of_etcd(tmp_path: Path) -> None:
    async with running_etcd(tmp_path) as etcd:
        store = EtcdStore([etcd.endpoint])
        try:
            async with running_server(tmp_path, store=store) as (_, config), Client(config) as client:
                first = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
                seen: list[str] = []

                async def follow() -> None:
                    async for event in client.watch(
                        CONFIG_MAPS, "default", resource_version=first["metadata"]["resourceVersion"], bookmarks=False
                    ):
                        seen.append(event.decode()["metadata"]["name"])
                        if len(seen) == 2:
                            return

                task = asyncio.create_task(follow())
                await client.create(CONFIG_MAPS, {"metadata": {"name": "b"}}, "default")
                await etcd.kill()
                await etcd.start()
                async with asyncio.timeout(20):
                    while True:
                        with contextlib.suppress(errors.APIError):
                            await client.create(CONFIG_MAPS, {"metadata": {"name": "c"}}, "default")
                            break
                    await task
                assert seen == ["b", "c"]
        finally:
            await store.close()
