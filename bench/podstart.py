"""How long from a pod's creation to its Running status, the image being there; and what each container costs."""

import asyncio
import os
import time
from pathlib import Path

from bench.clusters import memory_mb, milliseconds, running
from cluster.layout import Layout
from cluster.processes import running_pid
from machinery.api.resources import PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

COUNT = 20
IDLE_PODS, FULL_NODE = 30, 108  # the cluster's own pods are the rest of 110
_SETTLE_SECONDS, _IDLE_SECONDS = 5.0, 20.0


def main() -> dict[str, object]:
    """Return milliseconds for pods made one after another, and memory per container in MB."""
    import uvloop

    if os.geteuid() != 0:
        return {"skipped": "needs root"}
    with running() as (layout, config, _):
        before = _node_memory(layout)
        times = uvloop.run(_measure(config))
        after = _node_memory(layout)
        uvloop.run(_add(config, IDLE_PODS - COUNT))
        time.sleep(_SETTLE_SECONDS)
        idle = _idle_percent(layout)
        uvloop.run(_remove_all(config))
        all_seconds = uvloop.run(_add(config, FULL_NODE))
    per_container = round((after - before) / COUNT, 2)
    return {
        "running": {**milliseconds(times), "budget_p50_ms": 250},
        "mb_per_container": per_container, "budget_mb_per_container": 2,
        "idle_percent_of_a_core": idle, "budget_idle_percent": 3,
        "full_node_s": round(all_seconds, 1), "full_node_pods": FULL_NODE, "budget_full_node_s": 25,
    }  # fmt: skip


def _node_memory(layout: Layout) -> float:
    """Return the memory of agent, runtime and all monitors, in MB; what monitors share is counted once (PSS)."""
    total = sum(memory_mb(running_pid(layout, name) or 0) for name in ("agent", "runtime"))
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == "conmon":
                rollup = (path.parent / "smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1000
        except OSError:
            continue
    return total


def _idle_percent(layout: Layout) -> float:
    """Return what agent and runtime take of one core while nothing happens, in percent."""
    pids = [running_pid(layout, name) or 0 for name in ("agent", "runtime")]
    before = sum(map(_cpu_seconds, pids))
    time.sleep(_IDLE_SECONDS)
    return round(100 * (sum(map(_cpu_seconds, pids)) - before) / _IDLE_SECONDS, 2)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _add(config: ClientConfig, count: int) -> float:
    """Make pods all at once; returns the seconds until all run."""
    async with Client(config) as client:
        began = time.perf_counter()
        await asyncio.gather(*(_create(client, _pod(f"q{os.urandom(4).hex()}")) for _ in range(count)))
        while True:
            pods = (await client.list(PODS, "default"))["items"]
            if all((pod.get("status") or {}).get("phase") == "Running" for pod in pods):
                return time.perf_counter() - began
            await asyncio.sleep(0.2)


def _pod(name: str) -> dict[str, object]:
    container = {
        "name": "c", "image": "wherry.local/busybox:latest", "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "3600"],
    }  # fmt: skip
    return {"metadata": {"name": name}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}


async def _measure(config: ClientConfig) -> list[float]:
    found = []
    async with Client(config) as client:
        for number in range(COUNT):
            name = f"p{number}"
            began = time.perf_counter()
            made = await _create(client, _pod(name))
            version = made["metadata"]["resourceVersion"]
            async for event in client.watch(
                PODS, "default", resource_version=version, field_selector=f"metadata.name={name}", bookmarks=False
            ):
                if (event.decode().get("status") or {}).get("phase") == "Running":
                    break
            found.append(time.perf_counter() - began)
    return found


async def _remove_all(config: ClientConfig) -> None:
    """Remove all pods of before, so that a full node's start has nothing to build on."""
    async with Client(config) as client:
        for pod in (await client.list(PODS, "default"))["items"]:
            await client.delete(PODS, pod["metadata"]["name"], "default", options={"gracePeriodSeconds": 0})
        while (await client.list(PODS, "default"))["items"]:
            await asyncio.sleep(0.2)


async def _create(client: Client, pod: dict[str, object]) -> dict[str, dict[str, str]]:
    from machinery.errors import Forbidden

    while True:
        try:
            return await client.create(PODS, pod, "default")
        except Forbidden:  # the default service account is being made
            await asyncio.sleep(0.02)
