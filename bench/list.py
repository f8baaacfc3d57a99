"""How long a list of 5,000 pods takes, as objects and as a table; median of several."""

import asyncio
import ssl
import time

from bench.api import Wire, pod_body
from bench.clusters import milliseconds, serving
from cli.connection import TABLE, Connection
from machinery.client.kubeconfig import ClientConfig

PODS = 5000
RUNS = 15
PATH = "/api/v1/namespaces/default/pods"


def main() -> dict[str, object]:
    """Return milliseconds from request to the last byte of the answer."""
    with serving() as (_, config, _):
        size = asyncio.run(_fill(config))
        plain = _time(config, "application/json")
        table = _time(config, TABLE)
    return {
        "bytes": size, "list": {**milliseconds(plain), "budget_ms": 20},
        "table": {**milliseconds(table), "budget_ms": 40},
    }  # fmt: skip


async def _fill(config: ClientConfig) -> int:
    connection = Connection(config)
    context: ssl.SSLContext = connection._tls()
    wires = [Wire(config, context) for _ in range(16)]
    await asyncio.gather(*(wire.open() for wire in wires))
    numbers = iter(range(PODS))

    async def work(wire: Wire) -> None:
        for number in numbers:
            if await wire.ask("POST", PATH, pod_body(f"p{number}")) != 201:
                raise RuntimeError("a pod was refused")

    await asyncio.gather(*(work(wire) for wire in wires))
    for wire in wires:
        wire.close()
    return len(await asyncio.to_thread(connection.request, "GET", PATH))


def _time(config: ClientConfig, accept: str) -> list[float]:
    connection = Connection(config)
    connection.request("GET", PATH, accept=accept)
    found = []
    for _ in range(RUNS):
        began = time.perf_counter()
        connection.request("GET", PATH, accept=accept)
        found.append(time.perf_counter() - began)
    return found
