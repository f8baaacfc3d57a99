"""Clusters to be measured: real processes in a folder of their own, ended afterwards."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cli.connection import Connection
from cluster.credentials import write_credentials
from cluster.layout import Layout
from cluster.plan import plan
from cluster.processes import write_pid
from cluster.settings import Settings, settle
from cluster.up import wait_ready
from machinery.client.kubeconfig import ClientConfig, load_config


def free_port() -> int:
    """Return a TCP port of loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wherry(*arguments: str) -> str:
    """Run a command of ours and return its output."""
    argv = [sys.executable, "-m", "cluster.main", *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def running(*options: str) -> Iterator[tuple[Layout, ClientConfig, float]]:
    """Run a cluster while the block lasts; yields its folder, a client's settings, and how long `up` took (seconds)."""
    folder = Path(tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp"))
    layout = Layout(folder)
    given = ["--api-port", str(free_port()), "--agent-port", str(free_port()), "--bridge", "whbench0"]
    given += ["--pod-cidr", "10.246.0.0/24", "--service-cidr", "10.98.0.0/16", *options]
    try:
        began = time.perf_counter()
        wherry("up", "--data-dir", str(folder), "--detach", *given)
        took = time.perf_counter() - began
        yield layout, load_config(str(layout.kubeconfig)), took
    finally:
        wherry("reset", "--yes", "--data-dir", str(folder))
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def serving(*others: str) -> Iterator[tuple[Layout, ClientConfig, float]]:
    """Run etcd, one API server, and of the other components those named; yields as `running`, up to /readyz."""
    folder = Path(tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp"))
    layout = Layout(folder)
    layout.make()
    settings, _ = settle(Settings(agent=False, api_port=free_port(), bind_address="127.0.0.1"))
    write_credentials(layout, settings)
    processes = []
    try:
        began = time.perf_counter()
        for component in plan(layout, settings):
            if component.name in ("etcd", "apiserver", *others):
                with layout.log_file(component.name).open("ab") as log:
                    process = subprocess.Popen(
                        component.argv, cwd=component.cwd, env=component.environment, stdout=log, stderr=log
                    )
                    processes.append(process)
                write_pid(layout, component.name, processes[-1].pid)
        wait_ready(layout, replace(settings, simulated_nodes=0))
        took = time.perf_counter() - began
        config = load_config(str(layout.kubeconfig))
        account = b'{"metadata":{"name":"default"}}'  # no controller is there to make it, and pods ask for it
        Connection(config).request("POST", "/api/v1/namespaces/default/serviceaccounts", body=account)
        yield layout, config, took
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def percentile(values: Sequence[float], part: float) -> float:
    """Return a percentile (0 to 1) of measured values."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def milliseconds(values: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99 of seconds, in milliseconds."""
    return {"p50_ms": round(percentile(values, 0.5) * 1000, 2), "p99_ms": round(percentile(values, 0.99) * 1000, 2)}


def memory_mb(pid: int) -> float:
    """Return a process's resident memory (its own part of what is shared counted in full) in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1000, 1)
    return 0.0


def share_mb(pid: int) -> float:
    """Return a process's part of the memory in MB, pages that several processes map counted in parts (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1000, 1)
    return 0.0


def cores() -> int:
    """Return how many cores there are."""
    return len(os.sched_getaffinity(0))
