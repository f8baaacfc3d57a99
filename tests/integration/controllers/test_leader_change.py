"""Two controller managers, each a process; the one that leads is killed in the middle of its work."""

import asyncio
import contextlib
import signal
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from machinery.api.resources import DEPLOYMENTS, JOBS, LEASES, PODS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.controllers.test_deployment import deployment
from tests.integration.controllers.test_job import ended, job
from tests.support.agent import pods_come_up
from tests.support.server import free_port, kubeconfig_file, running_server
from tests.support.waiting import until, until_one

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[3]
DEPLOYMENT_COUNT, REPLICAS, COMPLETIONS = 4, 10, 12


@pytest.fixture
async def kubeconfig(tmp_path: Path) -> AsyncIterator[tuple[ClientConfig, Path]]:
    async with running_server(tmp_path) as (server, config):
        yield config, kubeconfig_file(tmp_path, server.config)


class Manager:
    """One controller manager."""

    def __init__(self, name: str, kubeconfig: Path) -> None:
        self.name = name
        self.metrics = f"127.0.0.1:{free_port()}"
        self._kubeconfig = kubeconfig
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        argv = [
            sys.executable, "-m", "cluster.main", "controller-manager", "--kubeconfig", str(self._kubeconfig),
            "--data-dir", str(self._kubeconfig.parent / self.name), "--identity", self.name,
            "--leader-elect-lease-duration", "2", "--leader-elect-renew-deadline", "1",
            "--leader-elect-retry-period", "0.2", "--metrics-bind-address", self.metrics,
        ]  # fmt: skip
        with (self._kubeconfig.parent / f"{self.name}.log").open("wb") as log_file:
            self._process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdout=log_file, stderr=log_file)

    async def end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    async def ask(self, path: str) -> str:
        def get() -> str:
            with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=5) as answer:
                return answer.read().decode()

        return await asyncio.to_thread(get)


async def test_a_killed_leader_leaves_nothing_undone_and_nothing_is_done_twice(
    kubeconfig: tuple[ClientConfig, Path],
) -> None:
    config, path = kubeconfig
    managers = {name: Manager(name, path) for name in ("one", "two")}
    made: Counter[str] = Counter()

    async def count(client: Client) -> None:
        async for event in client.watch(PODS, "default", resource_version="0"):
            if event.type in ("ADDED", "DELETED"):
                made[event.type] += 1

    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(config))
        for manager in managers.values():
            await manager.start()
            stack.push_async_callback(manager.end, signal.SIGTERM)
        await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default", deadline_seconds=20)
        counting = asyncio.create_task(count(client))
        await stack.enter_async_context(pods_come_up(client, exit_code=_job_pods_end))
        for number in range(DEPLOYMENT_COUNT):
            body = deployment(replicas=REPLICAS)
            labels = {"app": f"web-{number}"}
            body["metadata"]["name"] = f"web-{number}"
            body["spec"]["selector"] = {"matchLabels": labels}
            body["spec"]["template"]["metadata"] = {"labels": labels}
            await client.create(DEPLOYMENTS, body, "default")
        await client.create(JOBS, job(completions=COMPLETIONS, parallelism=4))
        await until(client, PODS, lambda pods: len(pods) >= 15, namespace="default")
        leader = await _leader(client)
        await managers[leader].end(signal.SIGKILL)
        [heir] = managers.keys() - {leader}
        await until(client, DEPLOYMENTS, _all_available, namespace="default", deadline_seconds=30)
        done = await until_one(client, JOBS, "work", ended, deadline_seconds=30)
        assert (ended(done), done["status"]["succeeded"], done["status"].get("failed", 0)) == ("Complete", 12, 0)
        assert await _leader(client) == heir
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        assert made == {"ADDED": DEPLOYMENT_COUNT * REPLICAS + COMPLETIONS}
        assert await managers[heir].ask("/healthz") == "ok"
        metrics = await managers[heir].ask("/metrics")
        assert 'leader_election_master_status{name="kube-controller-manager"} 1' in metrics
        assert 'workqueue_depth{name="replicaset"} 0' in metrics
        assert 'workqueue_work_duration_seconds_bucket{name="job",le="+Inf"}' in metrics


def _job_pods_end(pod: dict[str, Any]) -> int | None:
    return 0 if "job-name" in pod["metadata"]["labels"] else None


def _all_available(deployments: list[dict[str, Any]]) -> bool:
    return all((obj.get("status") or {}).get("availableReplicas") == REPLICAS for obj in deployments)


async def _leader(client: Client) -> str:
    lease = await client.get(LEASES, "kube-controller-manager", "kube-system")
    return str(lease["spec"]["holderIdentity"])
