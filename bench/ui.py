"""`wherry ui` over 5,000 pods of which 100 change each second: how soon they show, and how much of a core it takes.

The server is a real one; the pods are only written, by us. The terminal is a pseudo-terminal of 200 × 50.
"""

import asyncio
import fcntl
import os
import pty
import random
import re
import struct
import sys
import termios
import threading
import time

from bench.clusters import serving
from machinery.api.meta import now
from machinery.api.resources import PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

PODS_COUNT, CHANGES_A_SECOND, SECONDS, WRITERS = 5000, 100, 20.0, 32
_LAST = re.compile(rb"pods in all namespaces   (\d+)")


def main() -> dict[str, object]:
    """Return seconds to the first whole picture, the share of a core while pods change, and memory."""
    with serving() as (layout, config, _):
        asyncio.run(_make(config))
        began = time.perf_counter()
        pid, seen = _start(str(layout.kubeconfig))
        while seen.count < PODS_COUNT:
            if time.perf_counter() - began > 60:
                raise TimeoutError(f"wherry ui shows {seen.count} pods")
            time.sleep(0.02)
        shown = time.perf_counter() - began
        before, drawn = _cpu_seconds(pid), seen.size
        done = asyncio.run(_change(config))
        used = _cpu_seconds(pid) - before
        with open(f"/proc/{pid}/status") as status:
            memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        os.write(seen.terminal, b"q")
        os.waitpid(pid, 0)
    return {
        "pods": PODS_COUNT, "shown_after_s": round(shown, 2), "changes_per_s": round(done / SECONDS, 1),
        "share_of_a_core_percent": round(100 * used / SECONDS, 1), "budget_percent": 10,
        "drawn_kb_per_s": round((seen.size - drawn) / SECONDS / 1024, 1), "memory_mb": round(memory / 1024, 1),
    }  # fmt: skip


class _Seen(threading.Thread):
    """Reads what is drawn."""

    def __init__(self, terminal: int) -> None:
        super().__init__(daemon=True)
        self.terminal, self.count, self.size = terminal, 0, 0

    def run(self) -> None:
        while True:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:
                return
            self.size += len(data)
            for found in _LAST.findall(data):
                self.count = int(found)


def _start(kubeconfig: str) -> tuple[int, _Seen]:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(KUBECONFIG=kubeconfig, TERM="xterm-256color")
        os.execv(sys.executable, [sys.executable, "-m", "cluster.main", "ui"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    seen = _Seen(terminal)
    seen.start()
    return pid, seen


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _make(config: ClientConfig) -> None:
    async with Client(config) as client:
        names = iter(range(PODS_COUNT))

        async def some() -> None:
            for number in names:
                spec = {
                    "containers": [{"name": "main", "image": "registry.example/app:1"}],
                    "nodeName": f"n-{number % 50}",
                }
                await client.create(PODS, {"metadata": {"name": f"web-{number}"}, "spec": spec}, "default")
                await _touch(client, number)

        await asyncio.gather(*(some() for _ in range(WRITERS)))


async def _touch(client: Client, number: int) -> None:
    one = {
        "name": "main", "image": "x", "imageID": "", "ready": True, "restartCount": random.randrange(1000),
        "state": {"running": {"startedAt": now()}},
    }  # fmt: skip
    status = {"phase": "Running", "containerStatuses": [one]}
    await client.patch(PODS, f"web-{number}", {"status": status}, "default", subresource="status")


async def _change(config: ClientConfig) -> int:
    """Change pods at an even pace; returns how many."""
    done, began = 0, time.perf_counter()
    async with Client(config) as client:
        while (passed := time.perf_counter() - began) < SECONDS:
            if done < passed * CHANGES_A_SECOND:
                await _touch(client, random.randrange(PODS_COUNT))
                done += 1
            else:
                await asyncio.sleep(0.005)
    return done
