"""1,000 Deployments of 10 pods on simulated nodes until all are Available; then idle; then deleted again."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from bench.clusters import cores, memory_mb, running
from cluster.layout import Layout
from cluster.processes import running_pid
from machinery.api.resources import DEPLOYMENTS, NAMESPACES, PODS, REPLICA_SETS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

DEPLOYMENTS_COUNT = int(os.environ.get("BENCH_DEPLOYMENTS", "1000"))
REPLICAS, NODES, WRITERS = 10, 100, 16
IDLE_SECONDS, LIMIT_SECONDS = 20.0, 600.0
SETTLE_SECONDS = 10.0  # for what follows from the last pod: events, endpoints, counts
PROCESSES = ("etcd", "apiserver", "controller-manager", "scheduler", "simulated-nodes")
NAMESPACE = "bench"


def main() -> dict[str, object]:
    """Return seconds, and for each process CPU seconds and MB, beside the budgets."""
    import uvloop

    with running("--no-agent", "--simulated-nodes", str(NODES)) as (layout, config, _):
        return uvloop.run(_measure(layout, config))


async def _measure(layout: Layout, config: ClientConfig) -> dict[str, object]:
    async with Client(config) as client:
        await client.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
        await asyncio.sleep(2.0)  # its service account, which pods ask for
        before = _memory(layout)
        up = await _timed(layout, _come_up(client))
        full = _memory(layout)
        await asyncio.sleep(SETTLE_SECONDS)
        idle = await _timed(layout, asyncio.sleep(IDLE_SECONDS))
        down = await _timed(layout, _go(client))
    pods = DEPLOYMENTS_COUNT * REPLICAS
    manager = full.get("controller-manager", 0.0) - before.get("controller-manager", 0.0)
    return {
        "deployments": DEPLOYMENTS_COUNT, "pods": pods, "cores": cores(),
        "available": {**up, "budget_seconds": 60 * DEPLOYMENTS_COUNT / 1000},
        "idle_percent_of_a_core": {name: round(100 * used / IDLE_SECONDS, 1) for name, used in idle["cpu"].items()},
        "budget_idle_controllers_percent": 3,
        "deleted": down,
        "memory_mb": {"before": before, "full": full},
        "controllers_kib_per_pod": round(manager * 1000 / 1.024 / pods, 1), "budget_kib_per_pod": 8,
    }  # fmt: skip


async def _come_up(client: Client) -> None:
    limit = asyncio.Semaphore(WRITERS)

    async def create(number: int) -> None:
        async with limit:
            await client.create(DEPLOYMENTS, _deployment(f"web-{number:04}"), NAMESPACE)

    version = (await client.list(DEPLOYMENTS, NAMESPACE))["metadata"]["resourceVersion"]
    creating = asyncio.gather(*(create(number) for number in range(DEPLOYMENTS_COUNT)))
    available: set[str] = set()
    async with asyncio.timeout(LIMIT_SECONDS):
        async for event in client.watch(DEPLOYMENTS, NAMESPACE, resource_version=version, bookmarks=False):
            obj = event.decode()
            if (obj.get("status") or {}).get("availableReplicas") == REPLICAS:
                available.add(obj["metadata"]["name"])
                if len(available) == DEPLOYMENTS_COUNT:
                    break
    await creating


async def _go(client: Client) -> None:
    await client.delete_collection(DEPLOYMENTS, NAMESPACE, options={"propagationPolicy": "Background"})
    async with asyncio.timeout(LIMIT_SECONDS):
        for resource in (PODS, REPLICA_SETS):
            while (await client.list(resource, NAMESPACE, limit=1))["items"]:
                await asyncio.sleep(0.2)


async def _timed(layout: Layout, work: Any) -> dict[str, Any]:
    began, cpu = time.perf_counter(), _cpu(layout)
    await work
    took, after = time.perf_counter() - began, _cpu(layout)
    return {"seconds": round(took, 1), "cpu": {name: round(after[name] - cpu[name], 1) for name in cpu}}


def _pids(layout: Layout) -> dict[str, int]:
    return {name: pid for name in PROCESSES if (pid := running_pid(layout, name))}


def _cpu(layout: Layout) -> dict[str, float]:
    """Return the CPU seconds each process has used."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for name, pid in _pids(layout).items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(fields[11]) + int(fields[12])) / tick
    return found


def _memory(layout: Layout) -> dict[str, float]:
    return {name: memory_mb(pid) for name, pid in _pids(layout).items()}


def _deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "main", "image": "i:1", "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name}, "spec": spec}
