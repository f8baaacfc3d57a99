"""How long after its POST was sent an object reaches those who watch: one watcher, and a hundred (the last of them)."""

import asyncio
import contextlib
import time
from typing import Any

from bench.clusters import milliseconds, serving
from machinery.api.resources import CONFIG_MAPS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

ROUNDS = 200


def main() -> dict[str, object]:
    """Return milliseconds."""
    import uvloop

    with serving() as (_, config, _):
        one = uvloop.run(_measure(config, 1))
        many = uvloop.run(_measure(config, 100))
    return {
        "watchers_1": {**milliseconds(one), "budget_p50_ms": 2},
        "watchers_100": {**milliseconds(many), "budget_p50_ms": 3},
    }  # fmt: skip


async def _measure(config: ClientConfig, watchers: int) -> list[float]:
    found: list[float] = []
    async with Client(config) as client, contextlib.AsyncExitStack() as stack:
        version = (await client.list(CONFIG_MAPS, "default"))["metadata"]["resourceVersion"]
        arrivals: asyncio.Queue[float] = asyncio.Queue()

        async def follow(reader: Client) -> None:
            async for event in reader.watch(CONFIG_MAPS, "default", resource_version=version, bookmarks=False):
                if event.type == "ADDED":
                    arrivals.put_nowait(time.perf_counter())

        readers = [await stack.enter_async_context(Client(config)) for _ in range(watchers)]
        tasks = [asyncio.create_task(follow(reader)) for reader in readers]
        await asyncio.sleep(1.0)  # until all watches are open
        for number in range(ROUNDS):
            body: dict[str, Any] = {"metadata": {"name": f"w{watchers}-{number}"}, "data": {"k": "x" * 900}}
            began = time.perf_counter()
            await client.create(CONFIG_MAPS, body, "default")
            last = 0.0
            for _ in range(watchers):
                last = await arrivals.get()
            found.append(last - began)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found
