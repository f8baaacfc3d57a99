"""Services in the kernel: how long a full sync and one change take at 10,000 services, and what they cost traffic.

All of it in network namespaces made for it, with the rules the agent writes.
"""

import json
import os
import shutil
import statistics
import subprocess
import time
from typing import Any

from agent.network.routes import Backend, Frontend, Route
from agent.network.table import IPV4, Site, Table
from bench.clusters import milliseconds

SERVICES, ENDPOINTS, CHANGES, SECONDS = 10_000, 3, 50, 3
_SITE = Site(IPV4, "10.244.0.0/16", "10.244.0.0/24", "10.96.0.0/16", "pods0")
_IPS = {"a": "10.244.0.5", "b": "10.244.0.6"}


def main() -> dict[str, object]:
    """Return times in milliseconds and throughput in Gbit/s."""
    if os.geteuid() != 0 or shutil.which("nft") is None:
        return {"skipped": "needs root and nft"}
    from tests.support.netlab import Lab  # only where the tests are: bench is run from the source tree

    lab = Lab()
    try:
        host, outside = lab.machine("host"), lab.machine("outside")
        lab.link(host, "eth0", outside, "eth0")
        host.ip("address add 192.0.2.1/24 dev eth0")
        host.ip("link add pods0 type bridge")
        host.ip("link set pods0 up")
        host.ip("address add 10.244.0.1/24 dev pods0")
        host.ip("route add 10.96.0.0/16 dev lo src 192.0.2.1")
        for name, value in (("ip_forward", 1), ("conf/all/send_redirects", 0), ("conf/pods0/send_redirects", 0)):
            host.run("sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}")
        pods = {name: lab.pod(host, name, "pods0", ip, "10.244.0.1") for name, ip in _IPS.items()}
        return {**_rules(host), "gbit_per_second": _throughput(pods) if shutil.which("iperf3") else "needs iperf3"}
    finally:
        lab.close()


def _address(number: int) -> str:
    return f"10.96.{number // 250 + 1}.{number % 250 + 1}"


def _routes(number: int, shift: int = 0) -> list[Route]:
    backends = tuple(Backend(f"10.244.{one + 1}.{(number + shift) % 250 + 1}", 8080) for one in range(ENDPOINTS))
    return [Route(Frontend(_address(number), "tcp", 80), backends)]


def _rules(host: Any) -> dict[str, object]:
    table = Table(_SITE)
    began = time.perf_counter()
    for number in range(SERVICES):
        table.change(f"s{number}", _routes(number))
    table.change("pods", [Route(Frontend("10.96.0.9", "tcp", 5201), (Backend(_IPS["b"], 5201),))])
    text = table.whole()
    computed = time.perf_counter()
    host.nft(text)
    done = time.perf_counter()
    times = []
    for number in range(CHANGES):
        start = time.perf_counter()
        table.change(f"s{number * 100}", _routes(number * 100, shift=7))
        host.nft(table.take_changes())
        times.append(time.perf_counter() - start)
    return {
        "services": SERVICES, "endpoints": SERVICES * ENDPOINTS,
        "full_sync_ms": round((done - began) * 1000), "of_it_computed_ms": round((computed - began) * 1000),
        "budget_full_sync_ms": 1000, "change": {**milliseconds(times), "budget_p50_ms": 50},
    }  # fmt: skip


def _throughput(pods: Any) -> dict[str, object]:
    """Pod to pod, by its address and through a service; the median of three."""
    server = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{pods['b'].name}", "iperf3", "-s"], stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(0.5)  # iperf3 tells nobody that it listens
        found: dict[str, list[float]] = {"pod_to_pod": [], "pod_to_service": []}
        for _ in range(3):
            for name, address in (("pod_to_pod", _IPS["b"]), ("pod_to_service", "10.96.0.9")):
                out = json.loads(pods["a"].run("iperf3", "-c", address, "-t", str(SECONDS), "-J"))
                found[name].append(out["end"]["sum_received"]["bits_per_second"] / 1e9)
        medians = {name: round(statistics.median(values), 2) for name, values in found.items()}
        share = medians["pod_to_service"] / medians["pod_to_pod"]
        return {**medians, "service_share": round(share, 3), "budget_share": 0.95}
    finally:
        server.terminate()
        server.wait()
