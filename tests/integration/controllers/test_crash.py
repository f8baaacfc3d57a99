"""A controller manager that dies in the middle of its work, and the one that comes after it."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from machinery.api.resources import PODS, REPLICA_SETS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.controllers.conftest import running_controllers
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow

REPLICAS = 60
LABELS = {"app": "web"}


def replica_set() -> dict[str, Any]:
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "m", "image": "i"}]}}
    spec = {"replicas": REPLICAS, "selector": {"matchLabels": LABELS}, "template": template}
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


async def test_no_pod_is_made_twice_or_in_vain_however_often_the_manager_dies(
    config: ClientConfig, client: Client
) -> None:
    seen: Counter[str] = Counter()

    async def count() -> None:
        async for event in client.watch(PODS, "default", resource_version="0"):
            seen[event.type] += 1

    counting = asyncio.create_task(count())
    async with running_controllers(config):
        await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
    await client.create(REPLICA_SETS, replica_set())
    for least in (1, 10, 30):
        async with running_controllers(config):
            await until(client, PODS, lambda pods, least=least: len(pods) >= least, namespace="default")
    async with running_controllers(config):
        await until_one(
            client,
            REPLICA_SETS,
            "web",
            lambda rs: rs.get("status", {}).get("replicas") == REPLICAS,
            namespace="default",
        )
        assert len((await client.list(PODS, "default"))["items"]) == REPLICAS
        # One more round of everything: what was wrong by now would be mended by deleting.
        await client.patch(REPLICA_SETS, "web", {"metadata": {"annotations": {"look": "again"}}}, "default")
        await client.patch(REPLICA_SETS, "web", {"spec": {"minReadySeconds": 1}}, "default")
        await until_one(
            client, REPLICA_SETS, "web", lambda rs: rs["status"]["observedGeneration"] == 2, namespace="default"
        )
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    assert (seen["ADDED"], seen["DELETED"]) == (REPLICAS, 0)


async def test_a_pod_lost_or_taken_away_is_made_good(config: ClientConfig, client: Client) -> None:
    async with running_controllers(config):
        await client.create(REPLICA_SETS, {**replica_set(), "spec": {**replica_set()["spec"], "replicas": 2}})
        one, two = await until(client, PODS, lambda pods: len(pods) == 2, namespace="default")
        await client.delete(PODS, one["metadata"]["name"], "default")
        await client.patch(PODS, two["metadata"]["name"], {"metadata": {"labels": {"app": "apart"}}}, "default")
        pods = await until(client, PODS, lambda pods: len(pods) == 3, namespace="default")
        apart = await until_one(
            client,
            PODS,
            two["metadata"]["name"],
            lambda pod: not pod["metadata"].get("ownerReferences"),
            namespace="default",
        )
        assert apart["metadata"]["labels"] == {"app": "apart"}
        assert one["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in pods}


async def test_an_orphan_that_matches_is_adopted_rather_than_a_pod_made(config: ClientConfig, client: Client) -> None:
    async with running_controllers(config):
        await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
        body = {"metadata": {"name": "orphan", "labels": LABELS}, "spec": {"containers": [{"name": "m", "image": "i"}]}}
        await client.create(PODS, body, "default")
        rs = await client.create(REPLICA_SETS, {**replica_set(), "spec": {**replica_set()["spec"], "replicas": 1}})
        orphan = await until_one(
            client, PODS, "orphan", lambda pod: pod["metadata"].get("ownerReferences"), namespace="default"
        )
        assert orphan["metadata"]["ownerReferences"][0]["uid"] == rs["metadata"]["uid"]
        await until_one(
            client, REPLICA_SETS, "web", lambda rs: rs.get("status", {}).get("replicas") == 1, namespace="default"
        )
        assert len((await client.list(PODS, "default"))["items"]) == 1
