"""The scheduler on 5,000 simulated nodes: plain pods, pods that keep apart, pods that push others away."""

import asyncio
import time
from typing import Any

from bench.clusters import serving
from bench.schedule import (
    Cpu,
    bindings,
    decide,
    make_nodes,
    make_pods,
    measure_backlog,
    pids_of,
    plain_pod,
    scheduler,
)  # fmt: skip
from cluster.layout import Layout
from machinery.api.resources import PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

NODES, PLAIN, SPREAD, PREEMPTING = 5000, 10_000, 5000, 1000
ZONES, GROUP = 5, 200


def main() -> dict[str, object]:
    """Return pods placed a second, by what they ask for."""
    import uvloop

    with serving() as (layout, config, _):
        plain = uvloop.run(measure_backlog(config, layout, NODES, PLAIN, plain_pod))
    with serving() as (layout, config, _):
        spread = uvloop.run(measure_backlog(config, layout, NODES, SPREAD, spread_pod, zones=ZONES))
    with serving() as (layout, config, _):
        preempting = uvloop.run(_preempting(config, layout))
    return {
        "plain": {**plain, "budget_pods_per_s": 1500, "decisions": decide(NODES, PLAIN)},
        "spread": {**spread, "budget_pods_per_s": 800, "decisions": decide(NODES, SPREAD, spread_pod, zones=ZONES)},
        "preempting": {**preempting, "budget_pods_per_s": 200},
    }


def spread_pod(number: int) -> dict[str, Any]:
    """Return one of many groups of pods that keep level over zones and apart on nodes."""
    pod = plain_pod(number, "spread")
    labels = {"app": f"app-{number // GROUP}"}
    pod["metadata"]["labels"] = labels
    selector = {"matchLabels": labels}
    pod["spec"]["topologySpreadConstraints"] = [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
         "labelSelector": selector}
    ]  # fmt: skip
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}
    pod["spec"]["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return pod


async def _preempting(config: ClientConfig, layout: Layout) -> dict[str, object]:
    """Nodes are full of pods of priority 0; each pod of a higher one needs the room of one of them."""
    async with Client(config) as client:
        await make_nodes(client, NODES, room={"cpu": "1", "memory": "4Gi", "pods": "110"})
        await _make_class(client)
        async with bindings(client) as bound, scheduler(layout) as pid:
            await make_pods(client, NODES, lambda number: _big(number, "low"))
            for _ in range(NODES):
                await bound.get()
            cpu = Cpu(**pids_of(layout, "etcd", "apiserver"), scheduler=pid)
            began = time.perf_counter()
            creating = asyncio.ensure_future(
                make_pods(client, PREEMPTING, lambda number: _big(number, "high", priorityClassName="high"))
            )
            removing = asyncio.ensure_future(_remove_what_is_told_to_go(client))
            last = began
            for _ in range(PREEMPTING):
                last = await bound.get()
            await creating
            removing.cancel()
            await asyncio.gather(removing, return_exceptions=True)
            return {"pods_per_s": round(PREEMPTING / (last - began)), "cpu_s": cpu.spent()}


def _big(number: int, prefix: str, **spec: Any) -> dict[str, Any]:
    pod = plain_pod(number, prefix)
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "900m"}}
    pod["spec"] |= {"terminationGracePeriodSeconds": 0, **spec}
    return pod


async def _make_class(client: Client) -> None:
    from machinery.api.resources import PRIORITY_CLASSES

    await client.create(PRIORITY_CLASSES, {"metadata": {"name": "high"}, "value": 1000})


async def _remove_what_is_told_to_go(client: Client) -> None:
    """Stand in for the agents: a pod that is being deleted goes at once."""
    options = {"gracePeriodSeconds": 0}
    async with asyncio.TaskGroup() as group:
        async for event in client.watch(PODS, bookmarks=False):
            if b'"deletionTimestamp"' in bytes(event.object) and event.type == "MODIFIED":
                pod = event.decode()
                group.create_task(client.delete(PODS, pod["metadata"]["name"], "default", options=options))
