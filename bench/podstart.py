"""How long from a pod's creation to its Running status, with the image on the machine; and what each container costs."""

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


def main() -> dict[str, object]:
    """Return milliseconds for pods made one after another, and memory per container in MB."""
    import uvloop

    if os.geteuid() != 0:
        return {"skipped": "needs root"}
    with running() as (layout, config, _):
        before = _node_memory(layout)
        times = uvloop.run(_measure(config))
        after = _node_memory(layout)
    per_container = round((after - before) / COUNT, 2)
    return {
        "running": {**milliseconds(times), "budget_p50_ms": 250},
        "mb_per_container": per_container, "budget_mb_per_container": 2,
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


async def _measure(config: ClientConfig) -> list[float]:
    found = []
    async with Client(config) as client:
        for number in range(COUNT):
            name = f"p{number}"
            container = {
                "name": "c", "image": "wherry.local/busybox:latest", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "3600"],
            }  # fmt: skip
            began = time.perf_counter()
            spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
            made = await _create(client, {"metadata": {"name": name}, "spec": spec})
            version = made["metadata"]["resourceVersion"]
            async for event in client.watch(
                PODS, "default", resource_version=version, field_selector=f"metadata.name={name}", bookmarks=False
            ):
                if (event.decode().get("status") or {}).get("phase") == "Running":
                    break
            found.append(time.perf_counter() - began)
    return found


async def _create(client: Client, pod: dict[str, object]) -> dict[str, dict[str, str]]:
    from machinery.errors import Forbidden

    while True:
        try:
            return await client.create(PODS, pod, "default")
        except Forbidden:  # the default service account is being made
            await asyncio.sleep(0.02)
