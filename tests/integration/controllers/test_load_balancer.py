"""Services of type LoadBalancer are given addresses, on a real API server."""

from typing import Any

import pytest

from machinery.api.meta import now
from machinery.api.resources import EVENTS, NODES, SERVICES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.controllers.conftest import running_controllers
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow


async def make_node(client: Client, name: str, address: str, *, labels: dict[str, str] | None = None) -> None:
    await client.create(NODES, {"metadata": {"name": name, "labels": labels or {}}})
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": now(), "lastTransitionTime": now()}
    status = {"addresses": [{"type": "InternalIP", "address": address}], "conditions": [condition]}
    await client.patch(NODES, name, {"status": status}, subresource="status")


async def make_service(client: Client, name: str, port: int = 80, **spec: Any) -> None:
    given = {"type": "LoadBalancer", "ports": [{"port": port}], **spec}
    await client.create(SERVICES, {"metadata": {"name": name}, "spec": given}, "default")


def ips(service: dict[str, Any]) -> list[str]:
    return [row["ip"] for row in service["status"]["loadBalancer"].get("ingress") or ()]


async def has(client: Client, name: str, *expected: str) -> None:
    await until_one(client, SERVICES, name, lambda one: ips(one) == list(expected), namespace="default")


async def test_a_balancer_is_at_the_ready_nodes_until_it_changes_its_type(config: ClientConfig, client: Client) -> None:
    async with running_controllers(config, load_balancer="nodes"):
        await make_service(client, "web")
        await make_node(client, "n1", "192.0.2.1")
        await make_node(
            client, "n2", "192.0.2.2", labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""}
        )
        await has(client, "web", "192.0.2.1")
        await make_node(client, "n3", "192.0.2.3")
        await has(client, "web", "192.0.2.1", "192.0.2.3")
        await client.delete(NODES, "n1")
        await has(client, "web", "192.0.2.3")
        await client.patch(SERVICES, "web", {"spec": {"type": "ClusterIP"}}, "default")
        await has(client, "web")


async def test_no_two_have_one_port_and_none_the_cluster_s(config: ClientConfig, client: Client) -> None:
    async with running_controllers(config, load_balancer="nodes"):
        await make_node(client, "n1", "192.0.2.1")
        await make_service(client, "first")
        await has(client, "first", "192.0.2.1")
        await make_service(client, "second")
        await make_service(client, "shell", port=22)
        await make_service(client, "foreign", loadBalancerClass="example.com/other")
        messages = [
            "Error syncing load balancer: port 80 of the nodes is the service default/first's",
            "Error syncing load balancer: port 22 of the nodes is the cluster's own",
        ]
        await until(
            client, EVENTS, lambda found: {one["message"] for one in found} >= set(messages), namespace="default"
        )
        await client.delete(SERVICES, "first", "default")
        await has(client, "second", "192.0.2.1")
        assert ips(await client.get(SERVICES, "foreign", "default")) == []


async def test_addresses_of_a_range_are_each_one_service_s(config: ClientConfig, client: Client) -> None:
    async with running_controllers(config, load_balancer="198.51.100.0/30"):
        await make_service(client, "a")
        await has(client, "a", "198.51.100.1")
        await make_service(client, "b")
        await has(client, "b", "198.51.100.2")
        await make_service(client, "c", loadBalancerIP="198.51.100.1")
        await until(
            client, EVENTS, lambda found: any("another service" in e["message"] for e in found), namespace="default"
        )
        await client.delete(SERVICES, "a", "default")
        await has(client, "c", "198.51.100.1")
