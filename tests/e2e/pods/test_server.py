"""What a node's agent tells whoever may ask: statistics, metrics, logs.

Source: https://kubernetes.io/docs/reference/instrumentation/node-metrics/
"""

import json
import os
from pathlib import Path

import aiohttp
import pytest

from machinery.api.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, NODES, SERVICE_ACCOUNTS
from tests.e2e.pods.conftest import Pods, shell

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


async def ask(pods: Pods, path: str) -> str:
    """Ask the agent through the API server."""
    name = (await pods.client.list(NODES))["items"][0]["metadata"]["name"]
    async with pods.client.stream("GET", f"/api/v1/nodes/{name}/proxy{path}") as response:
        return (await response.read()).decode()


async def test_statistics_tell_what_pods_use(pods: Pods) -> None:
    pod = await pods.create(shell("dd if=/dev/zero of=/tmp/x bs=1M count=3; while true; do sleep 0.01; done"))
    await pods.running(pod)
    name = pod["metadata"]["name"]
    summary = json.loads(await ask(pods, "/stats/summary"))
    told = next(one for one in summary["pods"] if one["podRef"]["name"] == name)
    assert told["podRef"] == {"name": name, "namespace": pods.namespace, "uid": pod["metadata"]["uid"]}
    (container,) = told["containers"]
    assert container["cpu"]["usageCoreNanoSeconds"] > 0
    assert container["memory"]["workingSetBytes"] > 0
    assert told["memory"]["workingSetBytes"] > 0
    node = summary["node"]
    assert node["memory"]["workingSetBytes"] > 2**20
    assert node["fs"]["capacityBytes"] > node["fs"]["availableBytes"] > 0
    metrics = await ask(pods, "/metrics/resource")
    assert f'container_cpu_usage_seconds_total{{container="main",namespace="{pods.namespace}",pod="{name}"}}' in metrics
    assert "node_memory_working_set_bytes " in metrics
    assert (
        f'container_memory_working_set_bytes{{container="main",namespace="{pods.namespace}",pod="{name}"}}'
        in await ask(pods, "/metrics/cadvisor")
    )
    assert "kubelet_running_pods" in await ask(pods, "/metrics")


async def test_pods_configuration_and_the_machines_logs_can_be_read(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60"))
    await pods.running(pod)
    listed = json.loads(await ask(pods, "/pods"))
    assert pod["metadata"]["uid"] in [one["metadata"]["uid"] for one in listed["items"]]
    assert json.loads(await ask(pods, "/configz"))["kubeletconfig"]["maxPods"] == 110
    assert "<pre>" in await ask(pods, "/logs/")
    assert await ask(pods, "/healthz") == "ok"


async def test_a_link_among_the_logs_does_not_lead_out(pods: Pods) -> None:
    """A pod that may write to /var/log could else read any file of the host (CVE-2017-1002102's like)."""
    link = Path("/var/log") / f"wherry-test-{os.getpid()}"
    link.symlink_to("/etc/shadow")
    try:
        with pytest.raises(Exception, match="404|not found|NotFound"):
            await ask(pods, f"/logs/{link.name}")
    finally:
        link.unlink()


async def status_of(pods: Pods, path: str, token: str = "") -> int:
    """Ask the agent itself and return the code of its answer."""
    node = (await pods.client.list(NODES))["items"][0]
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://127.0.0.1:{port}{path}", headers=headers, ssl=False) as response,
    ):
        return response.status


async def test_strangers_are_turned_away(pods: Pods) -> None:
    assert await status_of(pods, "/pods") == 401
    assert await status_of(pods, "/pods", "nonsense") == 401


async def test_an_account_may_read_what_rules_grant_it(pods: Pods) -> None:
    account = f"system:serviceaccount:{pods.namespace}:default"
    name = f"stats-{pods.namespace}"
    rules = [{"apiGroups": [""], "resources": ["nodes/stats"], "verbs": ["get"]}]
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    await pods.client.create(CLUSTER_ROLES, {"kind": "ClusterRole", **kind, "rules": rules})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subjects = [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": account}]
    await pods.client.create(
        CLUSTER_ROLE_BINDINGS, {"kind": "ClusterRoleBinding", **kind, "roleRef": reference, "subjects": subjects}
    )
    body = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {}}
    answer = await pods.client.create(SERVICE_ACCOUNTS, body, pods.namespace, subresource="token", name="default")
    token = answer["status"]["token"]
    assert await status_of(pods, "/stats/summary", token) == 200
    assert await status_of(pods, "/pods", token) == 403
    await pods.client.delete(CLUSTER_ROLE_BINDINGS, name)
    await pods.client.delete(CLUSTER_ROLES, name)


async def test_the_node_tells_what_its_runtimes_can(pods: Pods) -> None:
    status = (await pods.client.list(NODES))["items"][0]["status"]
    assert status["nodeInfo"]["containerRuntimeVersion"].startswith(f"{pods.runtime}://")
    if pods.runtime == "wherry":  # containerd 1.6 does not tell
        usual = next(one for one in status["runtimeHandlers"] if one["name"] == "")
        assert usual["features"] == {"recursiveReadOnlyMounts": True, "userNamespaces": True}
        assert status["features"] == {"supplementalGroupsPolicy": True}
