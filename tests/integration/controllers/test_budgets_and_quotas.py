"""Disruption budgets and resource quotas, kept true by their controllers on a real API server."""

from typing import Any

import pytest

from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import (
    DEPLOYMENTS,
    EVENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICATION_CONTROLLERS,
    RESOURCE_QUOTAS,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from machinery.client.rest import Client
from tests.integration.controllers.test_deployment import deployment, template
from tests.support.agent import pods_come_up
from tests.support.waiting import until, until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers")]


def allows(count: int) -> Any:
    return lambda obj: obj["status"].get("disruptionsAllowed") == count


@pytest.mark.parametrize(
    ("spec", "desired"),
    [
        ({"minAvailable": 2}, 2),
        ({"maxUnavailable": 1}, 3),
        ({"minAvailable": "50%"}, 2),
        ({"maxUnavailable": "50%"}, 2),
    ],
    ids=["least", "most", "half", "half-off"],
)
async def test_a_budget_counts_what_may_go(client: Client, spec: dict[str, Any], desired: int) -> None:
    budget = {"metadata": {"name": "keep"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec}}
    async with pods_come_up(client):
        await client.create(POD_DISRUPTION_BUDGETS, budget, "default")
        await client.create(DEPLOYMENTS, deployment(replicas=4))
        found = await until_one(client, POD_DISRUPTION_BUDGETS, "keep", allows(4 - desired))
    status = found["status"]
    assert (status["expectedPods"], status["currentHealthy"], status["desiredHealthy"]) == (4, 4, desired)
    assert status["conditions"][0]["reason"] == "SufficientPods"


async def test_evictions_go_as_far_as_the_budget_and_on_when_pods_are_back(client: Client) -> None:
    budget = {"metadata": {"name": "keep"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "maxUnavailable": 1}}
    async with pods_come_up(client):
        await client.create(POD_DISRUPTION_BUDGETS, budget, "default")
        await client.create(DEPLOYMENTS, deployment(replicas=2))
        for _ in range(2):
            await until_one(client, POD_DISRUPTION_BUDGETS, "keep", allows(1))
            pods = [
                p for p in (await client.list(PODS, "default"))["items"] if not p["metadata"].get("deletionTimestamp")
            ]
            name = pods[0]["metadata"]["name"]
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
            await client.create(PODS, body, "default", name=name, subresource="eviction")


async def test_pods_that_nobody_manages_and_those_that_were_to_go_are_told_of(client: Client) -> None:
    """The words, with the selector as Go prints it, are upstream's: users search for them."""
    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
    pod = {"metadata": {"name": "naked", "labels": {"app": "naked"}}, "spec": template("one")["spec"]}
    await client.create(PODS, pod, "default")
    selector = {"matchLabels": {"app": "naked"}, "matchExpressions": [{"key": "not", "operator": "DoesNotExist"}]}
    budget = {"metadata": {"name": "keep"}, "spec": {"selector": selector, "maxUnavailable": 1}}
    await client.create(POD_DISRUPTION_BUDGETS, budget, "default")
    told = await _event(client, "UnmanagedPods")
    assert told["type"] == "Warning"
    assert told["message"].startswith(
        "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: naked,},"
        "MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:not,Operator:DoesNotExist,Values:[],},},"
        "}) were found to be unmanaged. As a result, "
    )
    long_ago = {"disruptedPods": {"naked": "2020-01-01T00:00:00Z"}}
    await client.patch(POD_DISRUPTION_BUDGETS, "keep", {"status": long_ago}, "default", subresource="status")
    told = await _event(client, "NotDeleted")
    assert (told["involvedObject"]["kind"], told["involvedObject"]["name"]) == ("Pod", "naked")


async def _event(client: Client, reason: str) -> dict[str, Any]:
    found = await until(client, EVENTS, lambda all: any(one["reason"] == reason for one in all))
    return next(one for one in found if one["reason"] == reason)


async def test_a_quota_is_counted_and_freed(client: Client) -> None:
    hard = {"pods": "3", "secrets": "5", "count/deployments.apps": "2"}
    await client.create(RESOURCE_QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": hard}}, "default")
    await until_one(client, RESOURCE_QUOTAS, "q", lambda obj: obj["status"].get("hard") == hard)
    await client.create(SECRETS, {"metadata": {"name": "one"}}, "default")
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=3))
        await until_one(client, RESOURCE_QUOTAS, "q", lambda obj: obj["status"]["used"]["pods"] == "3")
        with pytest.raises(errors.Forbidden, match="exceeded quota: q"):
            await client.create(PODS, {"metadata": {"name": "x"}, "spec": template("one")["spec"]}, "default")
        await client.delete(DEPLOYMENTS, "web", "default")
        found = await until_one(client, RESOURCE_QUOTAS, "q", lambda obj: obj["status"]["used"]["pods"] == "0")
    assert found["status"]["used"]["secrets"] == "1"


async def test_a_replication_controller_keeps_its_pods(client: Client) -> None:
    controller = {"metadata": {"name": "old"}, "spec": {"replicas": 2, "template": template("one")}}
    async with pods_come_up(client):
        await client.create(REPLICATION_CONTROLLERS, controller, "default")
        await until_one(client, REPLICATION_CONTROLLERS, "old", lambda obj: obj["status"].get("availableReplicas") == 2)
        [first, _] = (await client.list(PODS, "default"))["items"]
        await client.delete(PODS, first["metadata"]["name"], "default")
        await until(
            client,
            PODS,
            lambda pods: len(pods) == 2 and first["metadata"]["uid"] not in {p["metadata"]["uid"] for p in pods},
            namespace="default",
        )
        await client.patch(REPLICATION_CONTROLLERS, "old", {"spec": {"replicas": 0}}, "default", subresource="scale")
        await until(client, PODS, lambda pods: not pods, namespace="default")


async def test_a_budget_counts_by_the_scale_of_a_kind_that_users_define(client: Client) -> None:
    """Its plural is none that could be guessed."""
    names = {"plural": "geese", "kind": "Goose", "listKind": "GooseList", "singular": "goose"}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"scale": scale, "status": {}},
    }
    spec = {"group": "example.com", "names": names, "scope": "Namespaced", "versions": [version]}
    crds = Resource(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
    )
    await client.create(crds, {"metadata": {"name": "geese.example.com"}, "spec": spec})
    await until_one(
        client, crds, "geese.example.com",
        lambda obj: any(c["type"] == "Established" and c["status"] == "True"
                        for c in (obj.get("status") or {}).get("conditions") or ()),
    )  # fmt: skip
    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
    geese = Resource("example.com", "v1", "geese", "Goose")
    goose = await client.create(geese, {"metadata": {"name": "flock"}, "spec": {"replicas": 4}}, "default")
    owner = {"apiVersion": "example.com/v1", "kind": "Goose", "name": "flock", "controller": True}
    labels = {"app": "goose"}
    for name in ("a", "b"):
        metadata = {"name": name, "labels": labels, "ownerReferences": [{**owner, "uid": goose["metadata"]["uid"]}]}
        await client.create(PODS, {"metadata": metadata, "spec": template("one")["spec"]}, "default")
    budget = {"metadata": {"name": "keep"}, "spec": {"selector": {"matchLabels": labels}, "maxUnavailable": "50%"}}
    await client.create(POD_DISRUPTION_BUDGETS, budget, "default")
    found = await until_one(client, POD_DISRUPTION_BUDGETS, "keep", lambda obj: obj["status"].get("expectedPods") == 4)
    assert found["status"]["desiredHealthy"] == 2
