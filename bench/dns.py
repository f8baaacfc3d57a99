"""How many answers a second cluster DNS gives on one core, asked by dnsperf; and what it holds in memory."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.clusters import memory_mb, serving, share_mb
from cli.connection import Connection
from cluster.layout import Layout

SERVICES = 1000
SECONDS = 5
_ADDRESS = "127.0.0.1"


def main() -> dict[str, object]:
    """Return answers a second for names of the cluster, and the idle memory in MB."""
    if shutil.which("dnsperf") is None:
        return {"skipped": "needs dnsperf"}
    with serving() as (layout, config, _):
        connection = Connection(config)
        port = 5354
        process = _start(layout, port)
        try:
            _until_up(port)
            idle, share = memory_mb(process.pid), share_mb(process.pid)
            _make_services(connection)
            rates = {kind: _measure(port, kind) for kind in ("hits", "search paths", "absent")}
            return {
                "answers_per_second": rates, "budget_answers_per_second": 20000, "services": SERVICES,
                "idle_mb": idle, "idle_share_mb": share, "budget_idle_mb": 45, "loaded_mb": memory_mb(process.pid),
            }  # fmt: skip
        finally:
            process.terminate()
            process.wait()


def _start(layout: Layout, port: int) -> subprocess.Popen[bytes]:
    argv = [
        sys.executable, "-m", "cluster.main", "dns", "--data-dir", str(layout.root), "--listen", _ADDRESS,
        "--port", str(port),
    ]  # fmt: skip
    core = min(os.sched_getaffinity(0))
    with layout.log_file("dns").open("ab") as log:
        return subprocess.Popen(["taskset", "-c", str(core), *argv], stdout=log, stderr=log)


def _until_up(port: int) -> None:
    name = "kube-dns.kube-system.svc.cluster.local"
    argv = ["dig", f"@{_ADDRESS}", "-p", str(port), "+short", "+tries=1", "+time=1", name]
    for _ in range(200):
        if subprocess.run(argv, check=False, capture_output=True).stdout.startswith(b"10."):
            return
        time.sleep(0.05)
    raise TimeoutError("the DNS server does not answer")


def _make_services(connection: Connection) -> None:
    for number in range(SERVICES):
        body = b'{"metadata":{"name":"s%d"},"spec":{"ports":[{"port":80}]}}' % number
        connection.request("POST", "/api/v1/namespaces/default/services", body=body)


def _measure(port: int, kind: str) -> int:
    endings = {
        "hits": ("default.svc.cluster.local",), "absent": ("default.svc.cluster.local.default.svc.cluster.local",),
        "search paths": ("default.svc.cluster.local.svc.cluster.local", "default.svc.cluster.local"),
    }[kind]  # fmt: skip
    lines = [
        f"s{number}.{ending} {type_}" for number in range(SERVICES) for ending in endings for type_ in ("A", "AAAA")
    ]
    with tempfile.TemporaryDirectory() as folder:
        queries = Path(folder) / "queries"
        queries.write_text("\n".join(lines) + "\n")
        other = max(os.sched_getaffinity(0))
        argv = ["taskset", "-c", str(other), "dnsperf", "-s", _ADDRESS, "-p", str(port), "-d", str(queries)]
        out = subprocess.run([*argv, "-l", str(SECONDS), "-c", "20"], check=True, capture_output=True, text=True).stdout
    found = [line for line in out.splitlines() if "Queries per second" in line]
    return round(float(found[0].split()[-1]))
