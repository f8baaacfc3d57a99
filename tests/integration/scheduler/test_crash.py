"""Schedulers that are killed in the middle of their work: no pod is bound twice, none is forgotten, no node overfull.

How many pods: 400, or what WHERRY_CRASH_PODS says (5,000 at night).
"""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apiserver.app import serving
from apiserver.storage.sqlite import SQLiteStore
from machinery.api.resources import PODS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.scheduler.conftest import kubeconfig, make_node, make_pod, placed, scheduler_process, scheduling
from tests.support.server import client_config, server_config
from tests.support.waiting import until

COUNT = int(os.environ.get("WHERRY_CRASH_PODS", "400"))
NODE_COUNT = max(10, COUNT // 100)
EACH = COUNT // NODE_COUNT
LONGER = COUNT // 400
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 * LONGER)]
"""On each node, exactly as many pods as fit: one counted wrongly would be one too many, or one that finds no place."""


async def _fill(client: Client) -> None:
    for number in range(NODE_COUNT):
        await make_node(client, f"n{number}", cpu=f"{EACH * 100}m")
    limit = asyncio.Semaphore(16)

    async def make(number: int) -> None:
        async with limit:
            await make_pod(client, f"p{number}", cpu="100m")

    await asyncio.gather(*(make(number) for number in range(COUNT)))


async def _follow(client: Client, nodes_of: dict[str, set[str]]) -> None:
    async for event in client.watch(PODS, resource_version="0"):
        pod = event.decode()
        if pod["spec"].get("nodeName"):
            nodes_of.setdefault(pod["metadata"]["name"], set()).add(pod["spec"]["nodeName"])


async def test_a_killed_scheduler_leaves_nothing_bound_twice_or_forgotten(
    config: ClientConfig, client: Client, tmp_path: Path
) -> None:
    path, nodes_of = kubeconfig(config, tmp_path), {}
    following = asyncio.create_task(_follow(client, nodes_of))
    await _fill(client)
    for least in (1, COUNT // 4, COUNT // 2):
        async with scheduler_process(path, "same") as process:
            await until(
                client, PODS, lambda pods, least=least: len(placed(pods)) >= least, deadline_seconds=20 * LONGER
            )
            process.send_signal(signal.SIGKILL)
            await process.wait()
    async with scheduler_process(path, "same"):
        pods = await until(client, PODS, lambda pods: len(placed(pods)) == COUNT, deadline_seconds=30 * LONGER)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert all(len(nodes) == 1 for nodes in nodes_of.values())
    assert set(Counter(placed(pods).values()).values()) == {EACH}


async def test_when_the_leader_dies_the_other_takes_over_and_no_node_is_overfull(
    config: ClientConfig, client: Client, tmp_path: Path
) -> None:
    path, nodes_of = kubeconfig(config, tmp_path), {}
    following = asyncio.create_task(_follow(client, nodes_of))
    await _fill(client)
    async with scheduler_process(path, "one") as first:
        await until(client, PODS, placed, deadline_seconds=20 * LONGER)
        async with scheduler_process(path, "two"):
            first.send_signal(signal.SIGKILL)
            pods = await until(client, PODS, lambda pods: len(placed(pods)) == COUNT, deadline_seconds=40 * LONGER)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert all(len(nodes) == 1 for nodes in nodes_of.values())
    assert set(Counter(placed(pods).values()).values()) == {EACH}


async def test_a_server_that_goes_and_comes_back_leaves_no_pod_behind(tmp_path: Path) -> None:
    own = server_config(tmp_path)
    found = client_config(tmp_path, own)
    nodes_of: dict[str, set[str]] = {}

    @contextlib.asynccontextmanager
    async def served() -> AsyncIterator[None]:
        store = SQLiteStore(tmp_path / "store.sqlite")
        async with serving(store, own, sole_writer=True) as server:
            async with asyncio.timeout(10):
                await server.health.bootstrapped.wait()
            yield
        await store.close()

    async with Client(found, patience_seconds=20) as client:
        async with served():
            await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "default")
            await _fill(client)
        async with scheduling(found):
            for least in (1, COUNT // 3, COUNT):
                async with served():
                    pods = await until(
                        client, PODS, lambda pods, least=least: len(placed(pods)) >= least, deadline_seconds=20 * LONGER
                    )
                    for name, node in placed(pods).items():
                        nodes_of.setdefault(name, set()).add(node)
    assert all(len(nodes) == 1 for nodes in nodes_of.values())
    assert set(Counter(placed(pods).values()).values()) == {EACH}
