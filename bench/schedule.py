"""The scheduler on 1,000 simulated nodes: how soon one pod is placed, and how many a second."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from bench.clusters import milliseconds, serving
from cluster.layout import Layout
from machinery.api.resources import NODES, PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

NODE_COUNT, POD_COUNT, SINGLES = 1000, 2000, 100


def main() -> dict[str, object]:
    """Return latencies in milliseconds and pods per second."""
    import uvloop

    with serving("scheduler") as (_, config, _):
        found = uvloop.run(_online(config))
    with serving() as (layout, config, _):
        backlog = uvloop.run(_backlog(config, layout))
    return {**found, "backlog_pods_per_s": round(backlog), "budget_pods_per_s": 2000}


@contextlib.asynccontextmanager
async def _bindings(client: Client) -> AsyncIterator["asyncio.Queue[float]"]:
    """Yield the moments at which pods are seen to be placed."""
    bound: asyncio.Queue[float] = asyncio.Queue()
    version = (await client.list(PODS))["metadata"]["resourceVersion"]

    async def follow() -> None:
        seen = set()
        async for event in client.watch(PODS, resource_version=version, bookmarks=False):
            pod = event.decode()
            if pod["spec"].get("nodeName") and pod["metadata"]["uid"] not in seen:
                seen.add(pod["metadata"]["uid"])
                bound.put_nowait(time.perf_counter())

    task = asyncio.create_task(follow())
    await asyncio.sleep(1.0)  # until the watch is open and the nodes are known
    try:
        yield bound
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _online(config: ClientConfig) -> dict[str, object]:
    async with Client(config) as client:
        await _make_nodes(client)
        async with _bindings(client) as bound:
            singles = []
            for number in range(SINGLES):
                began = time.perf_counter()
                await client.create(PODS, _pod(f"single-{number}"), "default")
                singles.append(await bound.get() - began)
            online = await _many(client, bound, "online")
    one = {**milliseconds(singles), "budget_p50_ms": 5, "budget_p99_ms": 12}
    return {"one": one, "online_pods_per_s": round(online)}


async def _backlog(config: ClientConfig, layout: Layout) -> float:
    """Pods are there before the scheduler starts; counted from the first placed to the last."""
    async with Client(config) as client:
        await _make_nodes(client)
        await _create(client, "backlog")
        async with _bindings(client) as bound:
            argv = [
                sys.executable,
                "-m",
                "cluster.main",
                "scheduler",
                "--data-dir",
                str(layout.root),
                "--no-leader-elect",
            ]
            process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.DEVNULL)
            try:
                moments = [await bound.get() for _ in range(POD_COUNT)]
            finally:
                process.terminate()
                await process.wait()
    return (POD_COUNT - 1) / (moments[-1] - moments[0])


async def _create(client: Client, prefix: str) -> None:
    limit = asyncio.Semaphore(32)

    async def create(number: int) -> None:
        async with limit:
            await client.create(PODS, _pod(f"{prefix}-{number}"), "default")

    await asyncio.gather(*(create(number) for number in range(POD_COUNT)))


async def _many(client: Client, bound: "asyncio.Queue[float]", prefix: str) -> float:
    began = time.perf_counter()
    creating = asyncio.ensure_future(_create(client, prefix))
    last = began
    for _ in range(POD_COUNT):
        last = await bound.get()
    await creating
    return POD_COUNT / (last - began)


def _pod(name: str) -> dict[str, Any]:
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1", "resources": resources}]}}


async def _make_nodes(client: Client) -> None:
    room = {"cpu": "32", "memory": "128Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": None, "lastTransitionTime": None}
    limit = asyncio.Semaphore(32)

    async def make(number: int) -> None:
        async with limit:
            name = f"n{number:04}"
            await client.create(NODES, {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
            status = {"capacity": room, "allocatable": room, "conditions": [ready]}
            await client.patch(NODES, name, {"status": status}, subresource="status")

    await asyncio.gather(*(make(number) for number in range(NODE_COUNT)))
