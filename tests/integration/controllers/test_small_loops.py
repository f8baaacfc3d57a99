"""Loops that do one small thing each: addresses, ranges, device claims, policies. On a real API server."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from machinery.api.meta import ObjectKey
from machinery.api.resources import (
    IP_ADDRESSES,
    NODES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    SERVICE_ACCOUNTS,
    SERVICE_CIDRS,
    SERVICES,
    VALIDATING_POLICIES,
)
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.controllers.conftest import running_controllers
from tests.support.agent import set_ended
from tests.support.waiting import until, until_gone, until_one

pytestmark = pytest.mark.slow


@pytest.fixture
async def controllers(config: ClientConfig, client: Client) -> AsyncIterator[None]:
    async with running_controllers(config, cluster_cidrs=("10.244.0.0/16",), service_cidrs=("10.96.0.0/16",)):
        await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
        yield


async def test_the_address_of_a_service_is_an_object_while_the_service_is_there(
    client: Client, controllers: None
) -> None:
    made = await client.create(SERVICES, {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}, "default")
    address = made["spec"]["clusterIP"]
    found = await until_one(client, IP_ADDRESSES, address, lambda _: True)
    assert found["spec"]["parentRef"] == {
        "group": "",
        "resource": "services",
        "namespace": "default",
        "name": "web",
    }
    assert found["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"] == "ipallocator.k8s.io"
    await client.delete(SERVICES, "web", "default")
    await until_gone(client, IP_ADDRESSES, address)


async def test_a_range_of_addresses_is_ready_and_stays_while_it_is_needed(client: Client, controllers: None) -> None:
    def ready(status: str) -> Any:
        return lambda obj: [c["status"] for c in (obj.get("status") or {}).get("conditions") or ()] == [status]

    await until_one(client, SERVICE_CIDRS, "kubernetes", ready("True"))
    await client.create(SERVICE_CIDRS, {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.80.0.0/24"]}})
    await until_one(client, SERVICE_CIDRS, "more", ready("True"))
    await client.delete(SERVICE_CIDRS, "more")
    await until_gone(client, SERVICE_CIDRS, "more")
    await until_one(client, IP_ADDRESSES, "10.96.0.1", lambda _: True)
    await client.delete(SERVICE_CIDRS, "kubernetes")
    await until_one(client, SERVICE_CIDRS, "kubernetes", ready("False"))


async def test_each_node_gets_a_range_of_its_own(client: Client, controllers: None) -> None:
    await client.create(NODES, {"metadata": {"name": "own"}, "spec": {"podCIDR": "10.244.1.0/24",
                                                                     "podCIDRs": ["10.244.1.0/24"]}})  # fmt: skip
    for name in ("a", "b", "c"):
        await client.create(NODES, {"metadata": {"name": name}})
    nodes = await until(client, NODES, lambda all: all_have(all, 4))
    assert {node["spec"]["podCIDR"] for node in nodes} == {f"10.244.{n}.0/24" for n in range(4)}


def all_have(nodes: list[dict[str, Any]], count: int) -> bool:
    return len(nodes) == count and all(node.get("spec", {}).get("podCIDRs") for node in nodes)


async def test_a_claim_is_made_from_its_template_and_freed_at_the_pods_end(client: Client, controllers: None) -> None:
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}
    template = {"metadata": {"labels": {"of": "pod"}}, "spec": {"devices": {"requests": [request]}}}
    await client.create(RESOURCE_CLAIM_TEMPLATES, {"metadata": {"name": "one"}, "spec": template}, "default")
    wish = {"name": "gpu", "resourceClaimTemplateName": "one"}
    spec = {"containers": [{"name": "m", "image": "i"}], "resourceClaims": [wish], "nodeName": "n1"}
    made = await client.create(PODS, {"metadata": {"name": "user"}, "spec": spec}, "default")
    pod = await until_one(
        client, PODS, "user", lambda obj: obj["status"].get("resourceClaimStatuses"), namespace="default"
    )
    name = pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"]
    claim = await client.get(RESOURCE_CLAIMS, name, "default")
    assert claim["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert claim["metadata"]["labels"] == {"of": "pod"}
    assert [one["name"] for one in claim["spec"]["devices"]["requests"]] == ["gpu"]
    reserved = [{"resource": "pods", "name": "user", "uid": made["metadata"]["uid"]}]
    patch = {"status": {"allocation": {"devices": {}}, "reservedFor": reserved}}
    await client.patch(RESOURCE_CLAIMS, name, patch, "default", subresource="status")
    await set_ended(client, ObjectKey("default", "user"), 0)
    await until_one(
        client, RESOURCE_CLAIMS, name,
        lambda obj: not obj["status"].get("reservedFor") and not obj["status"].get("allocation"), namespace="default",
    )  # fmt: skip
    await client.delete(PODS, "user", "default", options={"gracePeriodSeconds": 0})
    await until_gone(client, RESOURCE_CLAIMS, name, namespace="default")


def policy(name: str, **validation: str) -> dict[str, Any]:
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "resources": ["deployments"],
        "operations": ["CREATE", "UPDATE"],
    }
    return {
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]},
    }


async def test_the_types_in_a_policy_are_checked(client: Client, controllers: None) -> None:
    checked = lambda obj: obj.get("status", {}).get("typeChecking") is not None  # noqa: E731
    right = "object.spec.replicas > 1 && object.metadata.name.startsWith('a') && has(object.spec.paused)"
    await client.create(VALIDATING_POLICIES, policy("right", expression=right))
    found = await until_one(client, VALIDATING_POLICIES, "right", checked)
    assert not found["status"]["typeChecking"].get("expressionWarnings")
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    wrong = policy(
        "wrong",
        expression="object.spec.replicas > '1'",
        messageExpression="'wants more, got ' + object.spec.replicas",
    )
    await client.create(VALIDATING_POLICIES, wrong)
    found = await until_one(client, VALIDATING_POLICIES, "wrong", checked)
    one, two = found["status"]["typeChecking"]["expressionWarnings"]
    assert one["fieldRef"] == "spec.validations[0].expression"
    assert one["warning"].startswith("apps/v1, Kind=Deployment: ERROR: <input>:1:22: ")
    assert "found no matching overload for '_>_' applied to '(int, string)'" in one["warning"]
    assert two["fieldRef"] == "spec.validations[0].messageExpression"
    assert "found no matching overload for '_+_' applied to '(string, int)'" in two["warning"]
    await client.create(VALIDATING_POLICIES, policy("odd", expression="object.spec.replica > 1"))
    found = await until_one(client, VALIDATING_POLICIES, "odd", checked)
    assert "undefined field 'replica'" in found["status"]["typeChecking"]["expressionWarnings"][0]["warning"]
