"""A real API server, nodes and pods on it, and schedulers of their own processes or of this one."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.kubeconfig import write_kubeconfig
from machinery.api.resources import NODES, PODS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from scheduler.app import run
from tests.support.nodes import create_node
from tests.support.server import running_server


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[ClientConfig]:
    async with running_server(tmp_path) as (_, config):
        yield config


@pytest.fixture
async def client(config: ClientConfig) -> AsyncIterator[Client]:
    async with Client(config) as client:
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "default")
        yield client


@contextlib.asynccontextmanager
async def scheduling(config: ClientConfig, **options: Any) -> AsyncIterator[None]:
    """Run a scheduler in this process while the block lasts."""
    task = asyncio.create_task(run(config, leader_elect=False, **options))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


_PROGRAM = """
import sys, uvloop
from machinery.client.kubeconfig import load_config
from scheduler.app import run
from scheduler.config import from_object
election = {"leaseDuration": "2s", "renewDeadline": "1s", "retryPeriod": "200ms"}
settings = from_object({"leaderElection": election})
uvloop.run(run(load_config(sys.argv[1]), identity=sys.argv[2], settings=settings))
"""


def kubeconfig(config: ClientConfig, folder: Path) -> Path:
    path = folder / "scheduler.kubeconfig"
    write_kubeconfig(
        path,
        server=config.server,
        ca_file=Path(config.ca_file),
        cert_file=Path(config.cert_file),
        key_file=Path(config.key_file),
        user="admin",
    )
    return path


@contextlib.asynccontextmanager
async def scheduler_process(path: Path, identity: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a scheduler as a process of its own, with a short lease; it is killed at the end, if not before."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", _PROGRAM, str(path), identity]
    process = await asyncio.create_subprocess_exec(*argv, env=environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()


async def make_node(client: Client, name: str, cpu: str = "4", pods: str = "110", **labels: str) -> None:
    labels = {"kubernetes.io/hostname": name, **labels}
    await create_node(client, {"metadata": {"name": name, "labels": labels}})
    room = {"cpu": cpu, "memory": "8Gi", "pods": pods}
    status = {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}
    await client.patch(NODES, name, {"status": status}, subresource="status")


async def make_pod(client: Client, name: str, cpu: str = "100m", **given: Any) -> dict[str, Any]:
    labels = given.pop("labels", {})
    container = {"name": "c", "image": "i:1", "resources": {"requests": {"cpu": cpu}}}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, **given}
    return await client.create(PODS, {"metadata": {"name": name, "labels": labels}, "spec": spec}, "default")


def placed(pods: list[dict[str, Any]]) -> dict[str, str]:
    """Return the node of each pod that has one."""
    return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")}
