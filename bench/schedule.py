"""The scheduler on 1,000 simulated nodes: how soon one pod is placed, and how many a second."""

import asyncio
import time
from typing import Any

from bench.clusters import milliseconds, serving
from machinery.api.resources import NODES, PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

NODE_COUNT, POD_COUNT, SINGLES = 1000, 2000, 100


def main() -> dict[str, object]:
    """Return latencies in milliseconds and pods per second."""
    import uvloop

    with serving("scheduler") as (_, config, _):
        return uvloop.run(_measure(config))


async def _measure(config: ClientConfig) -> dict[str, object]:
    async with Client(config) as client:
        await _make_nodes(client)
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
        singles = []
        for number in range(SINGLES):
            began = time.perf_counter()
            await client.create(PODS, _pod(f"single-{number}"), "default")
            singles.append(await bound.get() - began)
        online = await _many(client, bound, "online")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return {
        "one": {**milliseconds(singles), "budget_p50_ms": 5, "budget_p99_ms": 12},
        "online_pods_per_s": round(online), "budget_pods_per_s": 2000,
    }  # fmt: skip


async def _many(client: Client, bound: "asyncio.Queue[float]", prefix: str) -> float:
    began = time.perf_counter()
    limit = asyncio.Semaphore(32)

    async def create(number: int) -> None:
        async with limit:
            await client.create(PODS, _pod(f"{prefix}-{number}"), "default")

    creating = asyncio.gather(*(create(number) for number in range(POD_COUNT)))
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
