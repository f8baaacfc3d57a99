"""Two schedulers that both place, knowing nothing of each other: nodes refuse what is too much, and nothing is lost."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from agent.simulated.nodes import Simulation, run_simulated_nodes
from machinery.api.quantity import cpu_millis
from machinery.api.resources import PODS, REPLICA_SETS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from scheduler.config import from_object
from tests.integration.controllers.conftest import running_controllers
from tests.integration.scheduler.conftest import scheduling
from tests.support.waiting import until

pytestmark = pytest.mark.slow

NODE_COUNT, PER_NODE = 4, 8
FULL = NODE_COUNT * PER_NODE
"""As many pods as fit; all prefer the same nodes, so that two schedulers choose too many for them at the same time."""


class Admitted:
    """What nodes have taken: pods that started and have not ended, as the API tells it step by step."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[str, int]] = {}
        self.most: dict[str, int] = {}
        self.refused: list[dict[str, Any]] = []

    def see(self, event_type: str, pod: Mapping[str, Any]) -> None:
        """Take one change of a pod."""
        uid, status = pod["metadata"]["uid"], pod.get("status") or {}
        over = event_type == "DELETED" or status.get("phase") in ("Succeeded", "Failed")
        if status.get("reason") == "OutOfcpu" and event_type == "MODIFIED":
            self.refused.append(dict(pod))
        if over or status.get("phase") != "Running":
            self.running.pop(uid, None)
            return
        node = pod["spec"]["nodeName"]
        asked = sum(cpu_millis(one["resources"]["requests"]["cpu"]) for one in pod["spec"]["containers"])
        self.running[uid] = (node, asked)
        there = sum(cpu for name, cpu in self.running.values() if name == node)
        self.most[node] = max(self.most.get(node, 0), there)


async def test_node_overcommit_is_impossible_under_concurrent_schedulers(config: ClientConfig, client: Client) -> None:
    room = {"cpu": f"{PER_NODE * 100}m", "memory": "8Gi", "pods": "110"}
    admitted = Admitted()

    async def follow() -> None:
        async for event in client.watch(PODS, resource_version="0"):
            if event.type != "BOOKMARK":
                admitted.see(event.type, event.decode())

    following = asyncio.create_task(follow())
    other = from_object({"profiles": [{"schedulerName": "another-scheduler"}]})
    async with running_controllers(config), scheduling(config), scheduling(config, settings=other):
        for name in ("default-scheduler", "another-scheduler"):
            await client.create(REPLICA_SETS, _replica_set(name, FULL // 2), "default")
        # Only when both schedulers have seen all their pods do the nodes come: both choose at the same moment.
        await until(client, PODS, lambda pods: len(pods) == FULL and all(map(_is_unschedulable, pods)))
        nodes = asyncio.create_task(run_simulated_nodes(config, Simulation(NODE_COUNT, resources=room)))
        try:
            pods = await until(client, PODS, lambda pods: _running(pods) == FULL, deadline_seconds=25)
        finally:
            nodes.cancel()
            following.cancel()
            await asyncio.gather(nodes, following, return_exceptions=True)
    assert admitted.refused, "the schedulers never met: the test shows nothing"
    text = "Pod was rejected: Node didn't have enough resource: cpu, requested: 100, used: 800, capacity: 800"
    assert {pod["status"]["phase"] for pod in admitted.refused} == {"Failed"}
    assert text in {pod["status"]["message"] for pod in admitted.refused}
    assert max(admitted.most.values()) == PER_NODE * 100
    where = [pod["spec"]["nodeName"] for pod in pods if pod["status"].get("phase") == "Running"]
    assert {name: where.count(name) for name in set(where)} == {f"sim-{at}": PER_NODE for at in range(NODE_COUNT)}
    by_scheduler = [pod["spec"]["schedulerName"] for pod in pods if pod["status"].get("phase") == "Running"]
    assert by_scheduler.count("another-scheduler") == FULL // 2


def _is_unschedulable(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "PodScheduled" and one["reason"] == "Unschedulable" for one in conditions)


def _running(pods: list[dict[str, Any]]) -> int:
    return sum(pod["status"].get("phase") == "Running" for pod in pods)


def _replica_set(scheduler: str, replicas: int) -> dict[str, Any]:
    labels = {"by": scheduler}
    container = {"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "100m"}}}
    preferred = [
        {
            "weight": weight,
            "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
        }
        for node, weight in (("sim-0", 100), ("sim-1", 50))
    ]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    pod = {"containers": [container], "schedulerName": scheduler, "affinity": affinity}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": scheduler}, "spec": spec}
