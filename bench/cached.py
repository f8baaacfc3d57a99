"""What the API server's memory grows by for each encoded byte it caches, by the size of the objects.

Measured is the growth of its resident memory while objects are made, against the bytes of their list; then again after
all of them have been listed as tables and by label, which keeps rows and labels beside them.
"""

import asyncio
import json
import time
from collections.abc import Callable

from bench.api import Wire, pod_body
from bench.clusters import memory_mb, serving
from cli.connection import TABLE, Connection
from cluster.processes import running_pid
from machinery.client.kubeconfig import ClientConfig

BUDGET = 2.5  # bytes for each encoded byte
_MAPS, _LEASES = "/api/v1/namespaces/default/configmaps", "/apis/coordination.k8s.io/v1/namespaces/default/leases"
_PODS = "/api/v1/namespaces/default/pods"
_SETTLE_SECONDS = 3.0


def _map(name: str, size: int) -> bytes:
    return json.dumps({"metadata": {"name": name, "labels": {"app": "a"}}, "data": {"k": "x" * size}}).encode()


def _lease(name: str) -> bytes:
    return json.dumps(
        {"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 15}}
    ).encode()


KINDS: dict[str, tuple[str, int, Callable[[str], bytes]]] = {
    "leases": (_LEASES, 20_000, _lease),
    "configmaps_1k": (_MAPS, 20_000, lambda name: _map(name, 1024)),
    "pods": (_PODS, 10_000, pod_body),
    "configmaps_16k": (_MAPS, 2_000, lambda name: _map(name, 16_384)),
}


def main() -> dict[str, object]:
    """Return bytes of memory for each encoded byte; a server of its own for each size."""
    return {"budget": BUDGET, **{name: _measure(*kind) for name, kind in KINDS.items()}}


def _measure(path: str, count: int, body: Callable[[str], bytes]) -> dict[str, float]:
    with serving() as (layout, config, _):
        pid, connection = running_pid(layout, "apiserver") or 0, Connection(config)
        connection.request("GET", path)
        time.sleep(_SETTLE_SECONDS)
        idle = memory_mb(pid)
        asyncio.run(_fill(config, path, count, body))
        time.sleep(_SETTLE_SECONDS)
        filled = memory_mb(pid)
        encoded = len(connection.request("GET", path)) / 1e6
        connection.request("GET", path, accept=TABLE)
        connection.request("GET", path + "?labelSelector=app%3Dnone")
        time.sleep(_SETTLE_SECONDS)
        read = memory_mb(pid)
    return {
        "objects": count, "encoded_mb": round(encoded, 1), "idle_mb": idle,
        "ratio": round((filled - idle) / encoded, 2), "ratio_after_reading": round((read - idle) / encoded, 2),
    }  # fmt: skip


async def _fill(config: ClientConfig, path: str, count: int, body: Callable[[str], bytes]) -> None:
    wires = [Wire(config, Connection(config)._tls()) for _ in range(16)]
    await asyncio.gather(*(wire.open() for wire in wires))
    numbers = iter(range(count))

    async def work(wire: Wire) -> None:
        for number in numbers:
            if await wire.ask("POST", path, body(f"p{number}")) != 201:
                raise RuntimeError("an object was refused")

    await asyncio.gather(*(work(wire) for wire in wires))
    for wire in wires:
        wire.close()
