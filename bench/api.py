"""Requests per second of one API server with etcd: 32 clients that each send one request after another.

The clients are a process of their own, on the same machine; they speak HTTP/1.1 over TLS and do little but that.
"""

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable

from bench.clusters import serving
from machinery.client.kubeconfig import ClientConfig, load_config

CLIENTS = 32
SECONDS = 4.0
DATA = "x" * 900
BUDGETS = {"create": 3500, "get": 8000, "put": 3000, "patch": 2700, "create_pod": 2400}


def main() -> dict[str, object]:
    """Return requests per second beside their budgets."""
    with serving() as (layout, _, _):
        argv = [sys.executable, "-m", "bench.api", str(layout.kubeconfig)]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        figures: dict[str, float] = json.loads(done.stdout)
    return {name: {"per_s": round(value), "budget_per_s": BUDGETS[name]} for name, value in figures.items()}


class Wire:
    """One keep-alive connection; requests are made by hand, answers read by their length."""

    def __init__(self, config: ClientConfig, context: ssl.SSLContext) -> None:
        host, _, port = config.server.removeprefix("https://").partition(":")
        self._host, self._port, self._context = host, int(port), context

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, ssl=self._context)

    async def ask(self, method: str, path: str, body: bytes = b"", media: str = "application/json") -> int:
        """Send a request, read the whole answer, return its status."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {media}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        at = answer.index(b"Content-Length: ") + 16
        await self._reader.readexactly(int(answer[at : answer.index(b"\r\n", at)]))
        return int(answer[9:12])

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


async def measure(wires: list[Wire], make: Callable[[int], tuple[str, str, bytes, str]], good: int) -> float:
    """Return requests per second; every one must be answered with `good`."""
    counter = iter(range(1 << 60))
    deadline = time.perf_counter() + SECONDS
    counts = [0] * len(wires)

    async def work(at: int, wire: Wire) -> None:
        while time.perf_counter() < deadline:
            status = await wire.ask(*make(next(counter)))
            if status != good:
                raise RuntimeError(f"status {status}")
            counts[at] += 1

    began = time.perf_counter()
    await asyncio.gather(*(work(at, wire) for at, wire in enumerate(wires)))
    return sum(counts) / (time.perf_counter() - began)


def pod_body(name: str) -> bytes:
    """Return a pod of common size."""
    container = {
        "name": "main", "image": "registry.example/app:1.0", "ports": [{"containerPort": 8080}],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
    }  # fmt: skip
    metadata = {"name": name, "labels": {"app": "bench", "tier": "web"}}
    # Bound to nobody and for another scheduler: what is measured is the API server.
    spec = {"containers": [container], "schedulerName": "none", "automountServiceAccountToken": True}
    return json.dumps({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec}).encode()


async def clients(path: str) -> dict[str, float]:
    """Run all measurements against one server."""
    from cli.connection import Connection

    config = load_config(path)
    context = Connection(config)._tls()
    wires = [Wire(config, context) for _ in range(CLIENTS)]
    await asyncio.gather(*(wire.open() for wire in wires))
    maps, pods = "/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/pods"
    js = "application/json"

    def map_body(name: str, value: str = "") -> bytes:
        body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"k": DATA + value}}
        return json.dumps(body).encode()

    found = {"create": await measure(wires, lambda n: ("POST", maps, map_body(f"c{n}"), js), 201)}
    found["get"] = await measure(wires, lambda n: ("GET", f"{maps}/c{n % 1000}", b"", js), 200)
    found["put"] = await measure(
        wires, lambda n: ("PUT", f"{maps}/c{n % 1000}", map_body(f"c{n % 1000}", str(n)), js), 200
    )
    merge = "application/merge-patch+json"
    found["patch"] = await measure(
        wires, lambda n: ("PATCH", f"{maps}/c{n % 1000}", json.dumps({"data": {"p": str(n)}}).encode(), merge), 200
    )
    found["create_pod"] = await measure(wires, lambda n: ("POST", pods, pod_body(f"p{n}"), js), 201)
    for wire in wires:
        wire.close()
    return found


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(clients(sys.argv[1]))))
