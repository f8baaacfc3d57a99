"""The scheduler on 1,000 simulated nodes: how soon one pod is placed, how many a second, and what that costs.

bench/schedule_large.py has the larger clusters. CPU seconds are those of each process while pods were placed.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from bench.clusters import memory_mb, milliseconds, serving
from cluster.layout import Layout
from machinery.api.resources import NODES, PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

NODE_COUNT, POD_COUNT, SINGLES = 1000, 2000, 100
MakePod = Callable[[int], dict[str, Any]]


def main() -> dict[str, object]:
    """Return latencies in milliseconds and pods per second."""
    import uvloop

    with serving("scheduler") as (layout, config, _):
        found = uvloop.run(_online(config, layout))
    with serving() as (layout, config, _):
        backlog = uvloop.run(measure_backlog(config, layout, NODE_COUNT, POD_COUNT, plain_pod))
    return {**found, "backlog": {**backlog, "budget_pods_per_s": 2000}, "decisions": decide(NODE_COUNT, POD_COUNT)}


def decide(nodes: int, pods: int, make: MakePod | None = None, *, zones: int = 0) -> dict[str, object]:
    """Return decisions a second of the scheduler's cycle alone, without any API."""
    from scheduler.config import default_profile
    from scheduler.pods import PodReader
    from scheduler.schedule_one import Chooser
    from scheduler.table import NodeTable

    table, reader = NodeTable(), PodReader()
    for number in range(nodes):
        table.put_node(node(number, zones=zones))
    chooser = Chooser(table, default_profile())
    made = [(make or plain_pod)(number) for number in range(pods)]
    read = [reader.read_object({**one, "metadata": {**one["metadata"], "uid": str(at)}}) for at, one in enumerate(made)]
    began = time.perf_counter()
    for pod in read:
        table.put_pod(pod, table.nodes[chooser.choose(pod)].name)
    return {"per_s": round(pods / (time.perf_counter() - began)), "budget_per_s": 8000 if nodes <= 1000 else 4000}


# ---- measuring


class Cpu:
    """CPU seconds of processes between two moments."""

    def __init__(self, **pids: int) -> None:
        self._pids = {**pids, "bench": os.getpid()}
        self._before = {name: _cpu_seconds(pid) for name, pid in self._pids.items()}

    def spent(self) -> dict[str, float]:
        """Return the seconds each process spent since the beginning."""
        return {name: round(_cpu_seconds(pid) - self._before[name], 2) for name, pid in self._pids.items()}


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pids_of(layout: Layout, *names: str) -> dict[str, int]:
    """Return the processes of a cluster that runs."""
    found = {}
    for name in names:
        file = layout.pid_file(name)
        if file.exists():
            found[name] = int(file.read_text().split()[0])
    return found


@contextlib.asynccontextmanager
async def bindings(client: Client) -> AsyncIterator["asyncio.Queue[float]"]:
    """Yield the moments at which pods are seen to be placed."""
    bound: asyncio.Queue[float] = asyncio.Queue()
    version = (await client.list(PODS))["metadata"]["resourceVersion"]

    async def follow() -> None:
        seen = set()
        async for event in client.watch(PODS, resource_version=version, bookmarks=False):
            # Looked for in the bytes: decoding each pod would take its share of two cores.
            if b'"nodeName":"' not in bytes(event.object):
                continue
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


async def _online(config: ClientConfig, layout: Layout) -> dict[str, object]:
    async with Client(config) as client:
        await make_nodes(client, NODE_COUNT)
        async with bindings(client) as bound:
            singles = []
            for number in range(SINGLES):
                began = time.perf_counter()
                await client.create(PODS, plain_pod(number, "single"), "default")
                singles.append(await bound.get() - began)
            cpu = Cpu(**pids_of(layout, "etcd", "apiserver", "scheduler"))
            began = time.perf_counter()
            creating = asyncio.ensure_future(make_pods(client, POD_COUNT, plain_pod))
            moments = [await bound.get() for _ in range(POD_COUNT)]
            await creating
            spent = cpu.spent()
    one = {**milliseconds(singles), "budget_p50_ms": 5, "budget_p99_ms": 12}
    online = {"pods_per_s": round(POD_COUNT / (moments[-1] - began)), "cpu_s": spent}
    return {"one": one, "online": online}


@contextlib.asynccontextmanager
async def scheduler(layout: Layout) -> AsyncIterator[int]:
    """Run a scheduler of its own process while the block lasts; yields its pid."""
    argv = [sys.executable, "-m", "cluster.main", "scheduler", "--data-dir", str(layout.root), "--no-leader-elect"]
    with layout.log_file("scheduler").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*argv, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


async def measure_backlog(
    config: ClientConfig, layout: Layout, nodes: int, pods: int, make: MakePod, *, zones: int = 0
) -> dict[str, object]:
    """Pods are there before the scheduler starts; counted from the first placed to the last."""
    async with Client(config) as client:
        await make_nodes(client, nodes, zones=zones)
        await make_pods(client, pods, make)
        async with bindings(client) as bound, scheduler(layout) as pid:
            first = await bound.get()  # what the scheduler's start costs is left out
            cpu = Cpu(**pids_of(layout, "etcd", "apiserver"), scheduler=pid)
            moments = [first, *[await bound.get() for _ in range(pods - 1)]]
            spent, memory = cpu.spent(), memory_mb(pid)
    return {
        "pods_per_s": round((pods - 1) / (moments[-1] - moments[0])), "cpu_s": spent, "scheduler_memory_mb": memory,
    }  # fmt: skip


# ---- objects


async def make_pods(client: Client, count: int, make: MakePod) -> None:
    """Create pods, 32 at a time."""
    limit = asyncio.Semaphore(32)

    async def create(number: int) -> None:
        async with limit:
            await client.create(PODS, make(number), "default")

    await asyncio.gather(*(create(number) for number in range(count)))


def plain_pod(number: int, prefix: str = "plain") -> dict[str, Any]:
    """Return a pod that asks for a little cpu and memory."""
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    containers = [{"name": "c", "image": "i:1", "resources": resources}]
    return {"metadata": {"name": f"{prefix}-{number}", "namespace": "default"}, "spec": {"containers": containers}}


def node(number: int, *, zones: int = 0, room: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a node that is ready."""
    name = f"n{number:04}"
    labels = {"kubernetes.io/hostname": name}
    if zones:
        labels["topology.kubernetes.io/zone"] = f"zone-{number % zones}"
    holds = dict(room or {"cpu": "32", "memory": "128Gi", "pods": "110"})
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": None, "lastTransitionTime": None}
    status = {"capacity": holds, "allocatable": holds, "conditions": [ready]}
    return {"metadata": {"name": name, "labels": labels}, "status": status}


async def make_nodes(client: Client, count: int, *, zones: int = 0, room: Mapping[str, str] | None = None) -> None:
    """Create nodes and say that they are ready."""
    limit = asyncio.Semaphore(32)

    async def make(number: int) -> None:
        async with limit:
            one = node(number, zones=zones, room=room)
            await client.create(NODES, {"metadata": one["metadata"]})
            untainted = {"spec": {"taints": None}}  # no node controller is here to take it off
            await client.patch(NODES, one["metadata"]["name"], untainted)
            await client.patch(NODES, one["metadata"]["name"], {"status": one["status"]}, subresource="status")

    await asyncio.gather(*(make(number) for number in range(count)))
