"""Services in the kernel: how long a full sync and one change take at 10,000 services, and what they cost traffic.

Times of a full sync are given as processor time too, which a busy machine does not lengthen.

All of it in network namespaces made for it, with the rules the agent writes.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import time
from typing import Any

from agent.network.routes import Backend, Frontend, Route
from agent.network.table import IPV4, Site, Table
from bench.clusters import milliseconds

SERVICES, ENDPOINTS, CHANGES, FLIPS, SECONDS, ROUNDS = 10_000, 3, 50, 30, 1, 5
_SITE = Site(IPV4, "10.244.0.0/16", "10.244.0.0/24", "10.96.0.0/16", "pods0")
_IPS = {"a": "10.244.0.5", "b": "10.244.0.6"}
_PLAIN = {"x": "198.51.100.1", "y": "198.51.100.2"}


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
        plain = _plain_pair(lab)
        found = _rules(host, pods)
        return {**found, "gbit_per_second": _throughput(pods, plain) if shutil.which("iperf3") else "needs iperf3"}
    finally:
        lab.close()


def _address(number: int) -> str:
    return f"10.96.{number // 250 + 1}.{number % 250 + 1}"


def _routes(number: int, shift: int = 0) -> list[Route]:
    backends = tuple(Backend(f"10.244.{one + 1}.{(number + shift) % 250 + 1}", 8080) for one in range(ENDPOINTS))
    return [Route(Frontend(_address(number), "tcp", 80), backends)]


def _plain_pair(lab: Any) -> dict[str, Any]:
    """Return two machines on a bridge of their own, with no rules and no routing between: what the kernel can do."""
    switch = lab.machine("switch")
    switch.ip("link add br0 type bridge")
    switch.ip("link set br0 up")
    found = {}
    for at, name in enumerate(("x", "y"), start=1):
        found[name] = lab.machine(name)
        lab.link(switch, f"v{at}", found[name], "eth0")
        switch.ip(f"link set v{at} master br0")
        found[name].ip(f"address add {_PLAIN[name]}/24 dev eth0")
    return found


def _processor_seconds() -> float:
    """Return what we and the programs we ran have used."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in uses)


def _rules(host: Any, pods: Any) -> dict[str, object]:
    table = Table(_SITE)
    began, used = time.perf_counter(), _processor_seconds()
    for number in range(SERVICES):
        table.change(f"s{number}", _routes(number))
    table.change("pods", [Route(Frontend("10.96.0.9", "tcp", 5201), (Backend(_IPS["b"], 5201),))])
    text = table.whole()
    computed = time.perf_counter()
    host.nft(text)
    done, used = time.perf_counter(), _processor_seconds() - used
    times = []
    for number in range(CHANGES):
        start = time.perf_counter()
        table.change(f"s{number * 100}", _routes(number * 100, shift=7))
        host.nft(table.take_changes())
        times.append(time.perf_counter() - start)
    return {
        "services": SERVICES, "endpoints": SERVICES * ENDPOINTS,
        "full_sync_ms": round((done - began) * 1000), "full_sync_processor_ms": round(used * 1000),
        "of_it_computed_ms": round((computed - began) * 1000), "budget_full_sync_ms": 1000,
        "change": {**milliseconds(times), "budget_p50_ms": 50},
        "endpoint_change_to_first_answer": {**milliseconds(_first_answers(host, pods, table)), "budget_p50_ms": 100},
    }  # fmt: skip


def _first_answers(host: Any, pods: Any, table: Table) -> list[float]:
    """Return how long after a change of endpoints a client of the service has an answer of the new one."""
    for name in ("a", "b"):
        pods[name].serve(8080)
    client, times = pods["a"], []
    for number in range(FLIPS):
        name = "ab"[number % 2]
        start = time.perf_counter()
        table.change("flip", [Route(Frontend("10.96.0.10", "tcp", 80), (Backend(_IPS[name], 8080),))])
        host.nft(table.take_changes())
        while not client.ask("10.96.0.10", 80).startswith(name):
            pass
        times.append(time.perf_counter() - start)
    return times


def _throughput(pods: Any, plain: Any) -> dict[str, object]:
    """Over a plain bridge, pod to pod by its address, and through a service; medians, taken in turns."""
    servers = [
        subprocess.Popen(["nsenter", f"--net=/run/netns/{one.name}", "iperf3", "-s"], stdout=subprocess.DEVNULL)
        for one in (pods["b"], plain["y"])
    ]
    ways = (
        ("plain_bridge", plain["x"], _PLAIN["y"]), ("pod_to_pod", pods["a"], _IPS["b"]),
        ("pod_to_service", pods["a"], "10.96.0.9"),
    )  # fmt: skip
    try:
        time.sleep(0.5)  # iperf3 tells nobody that it listens
        found: dict[str, list[float]] = {name: [] for name, _, _ in ways}
        for _ in range(ROUNDS):
            for name, client, address in ways:
                out = json.loads(client.run("iperf3", "-c", address, "-t", str(SECONDS), "-J"))
                found[name].append(out["end"]["sum_received"]["bits_per_second"] / 1e9)
        medians = {name: round(statistics.median(values), 2) for name, values in found.items()}
        service = medians["pod_to_service"] / medians["pod_to_pod"]
        pod = medians["pod_to_pod"] / medians["plain_bridge"]
        return {**medians, "service_share": round(service, 3), "pod_share": round(pod, 3), "budget_share": 0.95}
    finally:
        for server in servers:
            server.terminate()
            server.wait()
