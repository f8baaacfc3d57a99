"""Owner references on a real API server: background, foreground and orphaning deletion, and owners that never were."""

from typing import Any

import pytest

from machinery.api.meta import Resource
from machinery.api.resources import CONFIG_MAPS, DEPLOYMENTS, EVENTS, NODES, PODS, REPLICA_SETS, SECRETS
from machinery.client.rest import Client
from tests.support.agent import pods_come_up
from tests.support.waiting import until, until_gone, until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers")]


def reference(resource: Resource, owner: dict[str, Any], *, block: bool = False) -> dict[str, Any]:
    found = {"apiVersion": resource.api_version, "kind": resource.kind}
    found |= {field: owner["metadata"][field] for field in ("name", "uid")}
    return {**found, "blockOwnerDeletion": True} if block else found


async def make_map(
    client: Client, name: str, *owners: dict[str, Any], finalizers: tuple[str, ...] = ()
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "ownerReferences": list(owners), "finalizers": list(finalizers)}
    return await client.create(CONFIG_MAPS, {"metadata": metadata})


async def test_dependents_follow_their_owner_down_to_the_last(client: Client) -> None:
    top = await make_map(client, "top")
    middle = await make_map(client, "middle", reference(CONFIG_MAPS, top))
    secret = {"metadata": {"name": "leaf", "ownerReferences": [reference(CONFIG_MAPS, middle)]}}
    await client.create(SECRETS, secret, "default")
    await client.delete(CONFIG_MAPS, "top", "default")
    await until_gone(client, CONFIG_MAPS, "middle", namespace="default")
    await until_gone(client, SECRETS, "leaf", namespace="default")


async def test_an_object_with_another_living_owner_stays_and_forgets_the_dead_one(client: Client) -> None:
    one, two = await make_map(client, "one"), await make_map(client, "two")
    await make_map(client, "shared", reference(CONFIG_MAPS, one), reference(CONFIG_MAPS, two))
    await client.delete(CONFIG_MAPS, "one", "default")
    shared = await until_one(
        client, CONFIG_MAPS, "shared", lambda obj: len(obj["metadata"]["ownerReferences"]) == 1, namespace="default"
    )
    assert shared["metadata"]["ownerReferences"] == [reference(CONFIG_MAPS, two)]


async def test_an_object_whose_owner_never_was_is_deleted(client: Client) -> None:
    never = {"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "0"}
    await make_map(client, "stray", never)
    await until_gone(client, CONFIG_MAPS, "stray", namespace="default")


async def test_an_owner_of_the_same_name_but_another_uid_does_not_count(client: Client) -> None:
    owner = await make_map(client, "owner")
    false = {**reference(CONFIG_MAPS, owner), "uid": "another"}
    await make_map(client, "stray", false)
    await until_gone(client, CONFIG_MAPS, "stray", namespace="default")
    assert await client.get(CONFIG_MAPS, "owner", "default")


async def test_in_a_foreground_deletion_the_owner_goes_last(client: Client) -> None:
    owner = await make_map(client, "owner")
    await make_map(client, "held", reference(CONFIG_MAPS, owner, block=True), finalizers=("example.com/hold",))
    await client.delete(CONFIG_MAPS, "owner", "default", options={"propagationPolicy": "Foreground"})
    await until_one(
        client, CONFIG_MAPS, "held", lambda obj: obj["metadata"].get("deletionTimestamp"), namespace="default"
    )
    assert (await client.get(CONFIG_MAPS, "owner", "default"))["metadata"]["finalizers"] == ["foregroundDeletion"]
    await client.patch(CONFIG_MAPS, "held", {"metadata": {"finalizers": None}}, "default")
    await until_gone(client, CONFIG_MAPS, "owner", namespace="default")


async def test_orphaned_dependents_stay_and_have_no_owner(client: Client) -> None:
    owner = await make_map(client, "owner")
    await make_map(client, "left", reference(CONFIG_MAPS, owner))
    await client.delete(CONFIG_MAPS, "owner", "default", options={"propagationPolicy": "Orphan"})
    await until_gone(client, CONFIG_MAPS, "owner", namespace="default")
    left = await client.get(CONFIG_MAPS, "left", "default")
    assert "ownerReferences" not in left["metadata"]


async def test_a_deleted_deployment_takes_sets_and_pods_along(client: Client) -> None:
    labels = {"app": "web"}
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "m", "image": "i"}]}},
    }
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
        await until(client, PODS, lambda pods: len(pods) == 2, namespace="default")
        await client.delete(DEPLOYMENTS, "web", "default")
        await until(client, REPLICA_SETS, lambda sets: not sets)
        await until(client, PODS, lambda pods: not pods)


async def test_a_cluster_scoped_object_cannot_be_owned_by_a_namespaced_one(client: Client) -> None:
    owner = await make_map(client, "owner")
    reason = "OwnerRefInvalidNamespace"
    node = {"metadata": {"name": "n1", "ownerReferences": [reference(CONFIG_MAPS, owner)]}}
    await client.create(NODES, node)
    await client.delete(CONFIG_MAPS, "owner", "default")
    events = await until(client, EVENTS, lambda events: any(event["reason"] == reason for event in events))
    assert [event["involvedObject"]["name"] for event in events if event["reason"] == reason] == ["n1"]
    assert await client.get(NODES, "n1")
