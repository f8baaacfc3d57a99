"""Memory of the processes of a cluster, in MB: idle, and after load.

The load is 10,000 ConfigMaps of 1 KiB, 5,000 pods that no node takes, all pods listed twenty times, and 100 watches of
all of them from the beginning. The objects stay.
"""

import asyncio
import os
import time
from typing import Any

from bench.clusters import memory_mb, running, share_mb
from bench.schedule import make_pods, plain_pod
from cluster.processes import running_pid
from machinery.api.resources import CONFIG_MAPS, PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

CONTROL, NODE = ("apiserver", "controller-manager", "scheduler"), ("agent", "runtime")
OTHERS = ("up", "dns")
_SETTLE_SECONDS = 5.0
_CONFIG_MAPS, _PODS, _LISTS, _WATCHES = 10_000, 5_000, 20, 100


def main() -> dict[str, object]:
    """Return each component's resident memory, and the sums beside their budgets."""
    with running() as (layout, config, _):
        time.sleep(_SETTLE_SECONDS)
        names = [*CONTROL, *OTHERS, *(NODE if os.geteuid() == 0 else ())]
        found = {name: memory_mb(running_pid(layout, name) or 0) for name in names}
        shares = {name: share_mb(running_pid(layout, name) or 0) for name in names}
        asyncio.run(_load(config))
        time.sleep(_SETTLE_SECONDS)
        loaded = {name: memory_mb(running_pid(layout, name) or 0) for name in CONTROL}
    result: dict[str, object] = {**found}
    result |= {
        "control_plane": round(sum(found[name] for name in CONTROL), 1),
        "control_plane_pss": round(sum(shares[name] for name in CONTROL), 1),
        "budget_control_plane": 150,
        "after_load": {**loaded, "control_plane": round(sum(loaded.values()), 1), "budget_control_plane": 300},
    }
    if os.geteuid() == 0:
        result |= {
            "agent_and_runtime": round(sum(found[name] for name in NODE), 1),
            "agent_and_runtime_pss": round(sum(shares[name] for name in NODE), 1),
            "budget_agent_and_runtime": 120,
        }
    return result


async def _load(config: ClientConfig) -> None:
    limit = asyncio.Semaphore(32)
    async with Client(config) as client:

        async def create(number: int) -> None:
            async with limit:
                data = {"metadata": {"name": f"load-{number}"}, "data": {"k": "x" * 1024}}
                await client.create(CONFIG_MAPS, data, "default")

        await asyncio.gather(*(create(number) for number in range(_CONFIG_MAPS)))
        await make_pods(client, _PODS, _unwanted)
        for _ in range(_LISTS):
            await client.list(PODS)
        await asyncio.gather(*(_watch(client) for _ in range(_WATCHES)))


def _unwanted(number: int) -> dict[str, Any]:
    pod = plain_pod(number)
    pod["spec"]["nodeSelector"] = {"nowhere": "true"}
    return pod


async def _watch(client: Client) -> None:
    seen = 0
    async for _ in client.watch(PODS, resource_version="0"):
        seen += 1
        if seen >= _PODS:
            return
