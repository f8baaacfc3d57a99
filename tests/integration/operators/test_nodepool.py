"""NodePools looked after by the real kopf operator, and the process that lives their nodes, over a real API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.simulated.nodes import Simulation
from agent.simulated.pools import run_pool_nodes
from machinery.api.meta import Resource
from machinery.api.resources import NODES, PODS
from machinery.client.rest import Client
from machinery.errors import Invalid
from operators.nodepool.plan import LABEL, NODE_POOLS
from tests.support.operators import running_operator
from tests.support.waiting import until, until_gone, until_one

pytestmark = pytest.mark.slow
TAINT = {"key": "only", "value": "tests", "effect": "NoSchedule"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """An administrator's client of a server whose pools are looked after, and lived."""
    async with running_operator("nodepool", tmp_path) as found:
        accounts = Resource("", "v1", "serviceaccounts", "ServiceAccount")
        await found.create(accounts, {"metadata": {"name": "default"}}, "default")
        living = asyncio.create_task(run_pool_nodes(found.config, Simulation(0)))
        try:
            yield found
        finally:
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await living


def stands(reason: str, ready: int) -> Any:
    def check(one: dict[str, Any]) -> bool:
        status = one.get("status") or {}
        said = (status.get("conditions") or [{}])[0]
        return (said.get("reason"), status.get("readyReplicas")) == (reason, ready)

    return check


async def run_pod(client: Client, name: str, node: str) -> None:
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "x"}]}
    await client.create(PODS, {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}, "default")
    await until_one(client, PODS, name, lambda pod: pod["status"]["phase"] == "Running", namespace="default")


async def test_a_pool_grows_changes_shrinks_after_draining_and_goes(client: Client) -> None:
    spec = {"replicas": 2, "labels": {"tier": "test"}, "taints": [TAINT], "capacity": {"cpu": 4, "example.org/gpu": 1}}
    await client.create(NODE_POOLS, {"metadata": {"name": "fleet"}, "spec": spec})
    await until_one(client, NODE_POOLS, "fleet", stands("AllReady", 2))
    node = await client.get(NODES, "fleet-1")
    assert node["metadata"]["labels"] | {LABEL: "fleet", "tier": "test"} == node["metadata"]["labels"]
    assert TAINT in node["spec"]["taints"]
    assert (node["status"]["capacity"]["cpu"], node["status"]["allocatable"]["example.org/gpu"]) == ("4", "1")

    await client.patch(NODES, "fleet-0", {"metadata": {"labels": {"mine": "stays"}}})
    await client.patch(NODE_POOLS, "fleet", {"spec": {"labels": {"tier": None, "zone": "b"}, "taints": []}})
    node = await until_one(client, NODES, "fleet-0", lambda one: "zone" in one["metadata"]["labels"])
    assert "tier" not in node["metadata"]["labels"]
    assert node["metadata"]["labels"]["mine"] == "stays"
    assert TAINT not in node["spec"].get("taints", [])

    await run_pod(client, "kept", "fleet-0")
    await run_pod(client, "leaves", "fleet-1")
    scale = {"spec": {"replicas": 1}}
    await client.patch(NODE_POOLS, "fleet", scale, subresource="scale")
    await until_gone(client, PODS, "leaves", namespace="default")
    await until_gone(client, NODES, "fleet-1")
    await until_one(client, NODE_POOLS, "fleet", stands("AllReady", 1))
    await client.get(PODS, "kept", "default")

    await client.delete(NODES, "fleet-0")  # drift is repaired
    await until(client, NODES, lambda all_: [one["metadata"]["name"] for one in all_] == ["fleet-0"])
    await client.delete(NODE_POOLS, "fleet")
    await until_gone(client, NODE_POOLS, "fleet")
    assert (await client.list(NODES))["items"] == []


async def test_what_makes_no_sense_is_refused_when_it_is_written(client: Client) -> None:
    with pytest.raises(Invalid, match=r"spec\.replicas"):
        await client.create(NODE_POOLS, {"metadata": {"name": "bad"}, "spec": {"replicas": -1}})
    taints = [{"key": "a", "effect": "Sometimes"}]
    with pytest.raises(Invalid, match="Unsupported value"):
        await client.create(NODE_POOLS, {"metadata": {"name": "bad"}, "spec": {"replicas": 1, "taints": taints}})
