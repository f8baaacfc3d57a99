"""What agents may: read what the pods of their node use, and write about themselves and those pods.

https://kubernetes.io/docs/reference/access-authn-authz/node/
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from apiserver.app import APIServer
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import (
    CONFIG_MAPS,
    LEASES,
    NETWORK_POLICIES,
    NODES,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import pod
from tests.support.server import client_config

CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")


@pytest.fixture
async def agent(client: Client, server: APIServer, tmp_path: Path) -> AsyncIterator[Client]:
    """An agent of node-a, where a pod runs that uses some things."""
    for name in ("used", "other"):
        await client.create(SECRETS, {"metadata": {"name": name}}, "default")
        await client.create(CONFIG_MAPS, {"metadata": {"name": name}}, "default")
    body = pod("web", volumes=[{"name": "s", "secret": {"secretName": "used"}}], nodeName="node-a")
    body["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "used"}}]
    await client.create(PODS, body, "default")
    await client.create(PODS, pod("elsewhere", nodeName="node-b"), "default")
    config = client_config(tmp_path, server.config, user="system:node:node-a", groups=("system:nodes",))
    async with Client(config) as found:
        yield found


async def test_an_agent_reads_what_its_pods_use_and_nothing_else(client: Client, agent: Client) -> None:
    for resource in (SECRETS, CONFIG_MAPS):
        assert (await agent.get(resource, "used", "default"))["metadata"]["name"] == "used"
        with pytest.raises(errors.Forbidden):
            await agent.get(resource, "other", "default")
        with pytest.raises(errors.Forbidden):
            await agent.list(resource, "default")
        await agent.list(resource, "default", field_selector="metadata.name=used")
    assert (await agent.get(PODS, "web", "default"))["metadata"]["name"] == "web"
    with pytest.raises(errors.Forbidden):
        await agent.get(PODS, "elsewhere", "default")
    with pytest.raises(errors.Forbidden):
        await agent.list(PODS)
    assert len((await agent.list(PODS, field_selector="spec.nodeName=node-a"))["items"]) == 1
    await agent.list(SERVICES)
    await client.delete(PODS, "web", "default", options={"gracePeriodSeconds": 0})
    with pytest.raises(errors.Forbidden):
        await agent.get(SECRETS, "used", "default")


async def test_an_agent_sees_the_pods_of_all_nodes_once_there_is_a_network_policy(
    client: Client, agent: Client
) -> None:
    policy = {"metadata": {"name": "deny"}, "spec": {"podSelector": {}}}
    await client.create(NETWORK_POLICIES, policy, "default")
    assert len((await agent.list(PODS))["items"]) == 2


async def test_a_pod_placed_later_opens_what_it_uses(client: Client, agent: Client) -> None:
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "disk", "resources": {"requests": {"storage": "1Gi"}}}}  # fmt: skip
    await client.create(CLAIMS, claim, "default")
    volume = {"metadata": {"name": "disk"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}, "claimRef": {"namespace": "default", "name": "data"}}}  # fmt: skip
    await client.create(PERSISTENT_VOLUMES, volume)
    await client.create(
        PODS, pod("late", volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]), "default"
    )
    with pytest.raises(errors.Forbidden):
        await agent.get(CLAIMS, "data", "default")
    await client.create(PODS, {"target": {"name": "node-a"}}, "default", name="late", subresource="binding")
    assert (await agent.get(CLAIMS, "data", "default"))["metadata"]["name"] == "data"
    assert (await agent.get(PERSISTENT_VOLUMES, "disk"))["metadata"]["name"] == "disk"


async def test_secrets_of_a_used_volume_are_open_to_the_agent(client: Client, agent: Client) -> None:
    source = {
        "driver": "d.example.com", "volumeHandle": "h",
        "nodeStageSecretRef": {"namespace": "default", "name": "other"},
        "controllerPublishSecretRef": {"namespace": "default", "name": "controllers"},
    }  # fmt: skip
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": source, "claimRef": {"namespace": "default", "name": "data"}}  # fmt: skip
    await client.create(PERSISTENT_VOLUMES, {"metadata": {"name": "disk"}, "spec": spec})
    volumes = [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]
    with pytest.raises(errors.Forbidden):
        await agent.get(SECRETS, "other", "default")
    await client.create(PODS, pod("user", nodeName="node-a", volumes=volumes), "default")
    assert (await agent.get(SECRETS, "other", "default"))["metadata"]["name"] == "other"
    with pytest.raises(errors.Forbidden):
        await agent.get(SECRETS, "controllers", "default")


async def test_an_agent_writes_about_itself_alone(client: Client, agent: Client) -> None:
    await agent.create(NODES, {"metadata": {"name": "node-a", "labels": {"kubernetes.io/os": "linux", "x": "y"}}})
    with pytest.raises(errors.Forbidden, match='node "node-a" is not allowed to modify node "node-b"'):
        await agent.create(NODES, {"metadata": {"name": "node-b"}})
    labels = {"node-restriction.kubernetes.io/zone": "a"}
    with pytest.raises(errors.Forbidden, match="is not allowed to modify labels: node-restriction.kubernetes.io/zone"):
        await agent.patch(NODES, "node-a", {"metadata": {"labels": labels}})
    with pytest.raises(errors.Forbidden, match="is not allowed to modify taints"):
        await agent.patch(NODES, "node-a", {"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})
    with pytest.raises(errors.Forbidden):
        await agent.delete(NODES, "node-a")
    lease: dict[str, Any] = {"metadata": {"name": "node-a"}, "spec": {"holderIdentity": "node-a"}}
    await agent.create(LEASES, lease, "kube-node-lease")
    with pytest.raises(errors.Forbidden, match="same name as the requesting node"):
        await agent.create(LEASES, {**lease, "metadata": {"name": "node-b"}}, "kube-node-lease")
    with pytest.raises(errors.Forbidden):
        await agent.create(LEASES, lease, "default")


async def test_an_agent_makes_mirrors_only_and_reports_its_own_pods(client: Client, agent: Client) -> None:
    node = await agent.create(NODES, {"metadata": {"name": "node-a"}})
    with pytest.raises(errors.Forbidden, match='node "node-a" can only create mirror pods'):
        await agent.create(PODS, pod("free", nodeName="node-a"), "default")
    owner = {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": node["metadata"]["uid"], "controller": True}
    mirror = {"annotations": {"kubernetes.io/config.mirror": "1"}, "ownerReferences": [owner]}
    await agent.create(PODS, pod("mirror", metadata=mirror, nodeName="node-a"), "default")
    with pytest.raises(errors.Forbidden, match="can not create pods that reference secrets"):
        secret = [{"name": "s", "secret": {"secretName": "other"}}]
        await agent.create(PODS, pod("thief", metadata=mirror, nodeName="node-a", volumes=secret), "default")
    await agent.patch(PODS, "web", {"status": {"phase": "Running"}}, "default", subresource="status")
    with pytest.raises(errors.Forbidden, match="can only update pod status for pods with spec.nodeName set to itself"):
        await agent.patch(PODS, "elsewhere", {"status": {"phase": "Failed"}}, "default", subresource="status")
    with pytest.raises(errors.Forbidden, match="can only delete pods with spec.nodeName set to itself"):
        await agent.delete(PODS, "elsewhere", "default")


async def test_an_agent_gets_tokens_bound_to_its_pods_alone(client: Client, agent: Client) -> None:
    found = {name: (await client.get(PODS, name, "default"))["metadata"]["uid"] for name in ("web", "elsewhere")}

    async def ask(**bound: str) -> dict[str, Any]:
        spec = {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", **bound}} if bound else {}
        return await agent.create(
            SERVICE_ACCOUNTS, {"spec": spec}, "default", name="default", subresource="token"
        )  # fmt: skip

    assert (await ask(name="web", uid=found["web"]))["status"]["token"]
    with pytest.raises(errors.Forbidden, match="node requested token not bound to a pod"):
        await ask()
    with pytest.raises(errors.Forbidden, match="bound to a pod scheduled on a different node"):
        await ask(name="elsewhere", uid=found["elsewhere"])


async def test_a_name_that_tells_of_no_node_opens_nothing(client: Client, server: APIServer, tmp_path: Path) -> None:
    async with Client(client_config(tmp_path, server.config, user="node-a", groups=("system:nodes",))) as nobody:
        with pytest.raises(errors.Forbidden):
            await nobody.create(NODES, {"metadata": {"name": "node-a"}})


async def test_the_certificate_shown_to_agents_opens_agents_only(server: APIServer, tmp_path: Path) -> None:
    config = client_config(tmp_path, server.config, user="x", groups=("wherry:agent-clients",))
    async with Client(config) as client:
        await client.list(NODES)
        with pytest.raises(errors.Forbidden):
            await client.list(SECRETS, "kube-system")
