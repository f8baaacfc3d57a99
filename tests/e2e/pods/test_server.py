"""What a node's agent tells whoever may ask: statistics, metrics, logs.

Source: https://kubernetes.io/docs/reference/instrumentation/node-metrics/
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from machinery.api.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, LEASES, NODES, SERVICE_ACCOUNTS
from machinery.errors import APIError
from tests.e2e.pods.conftest import Pods, ask, shell, terminated

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


async def test_statistics_tell_what_pods_use(pods: Pods) -> None:
    write = "dd if=/dev/zero of=/e/x bs=1M count=1; dd if=/dev/zero of=/tmp/x bs=1M count=3; touch /tmp/done"
    mounts = [{"name": "e", "mountPath": "/e"}]
    is_done = {"exec": {"command": ["test", "-e", "/tmp/done"]}, "periodSeconds": 1}
    main = shell(f"{write}; while true; do sleep 0.01; done", volumeMounts=mounts, readinessProbe=is_done)
    pod = await pods.create(main, volumes=[{"name": "e", "emptyDir": {}}])
    await pods.running(pod)
    name = pod["metadata"]["name"]
    summary = json.loads(await ask(pods, "/stats/summary"))
    told = next(one for one in summary["pods"] if one["podRef"]["name"] == name)
    assert told["podRef"] == {"name": name, "namespace": pods.namespace, "uid": pod["metadata"]["uid"]}
    (container,) = told["containers"]
    assert container["cpu"]["usageCoreNanoSeconds"] > 0
    assert container["memory"]["workingSetBytes"] > 0
    assert told["memory"]["workingSetBytes"] > 0
    for part in ("rootfs", "logs"):
        assert container[part]["capacityBytes"] > container[part]["availableBytes"] > 0
        assert container[part]["usedBytes"] >= 0
    status = (await pods.get(pod))["status"]["containerStatuses"][0]
    assert container["startTime"] == status["state"]["running"]["startedAt"]
    volume = next(one for one in told["volume"] if one["name"] == "e")
    assert 2**20 <= volume["usedBytes"] < 2**22
    assert volume["inodesUsed"] == 2
    assert told["ephemeral-storage"]["capacityBytes"] > told["ephemeral-storage"]["usedBytes"] > 2**20
    node = summary["node"]
    assert {one["name"] for one in node["systemContainers"]} == {"kubelet", "runtime", "pods"}
    assert "swapUsageBytes" in node["swap"]
    short = json.loads(await ask(pods, "/stats/summary", only_cpu_and_memory="true"))
    assert set(short["pods"][0]["containers"][0]) <= {"name", "startTime", "cpu", "memory", "swap"}
    assert node["memory"]["workingSetBytes"] > 2**20
    assert node["fs"]["capacityBytes"] > node["fs"]["availableBytes"] > 0
    metrics = await ask(pods, "/metrics/resource")
    assert f'container_cpu_usage_seconds_total{{container="main",namespace="{pods.namespace}",pod="{name}"}}' in metrics
    assert "node_memory_working_set_bytes " in metrics
    lines = (await ask(pods, "/metrics/cadvisor")).splitlines()
    whose = ('container="main"', f'namespace="{pods.namespace}"', f'pod="{name}"')
    measured = [line for line in lines if all(label in line for label in whose)]
    for metric in (
        "container_memory_working_set_bytes",
        "container_cpu_usage_seconds_total",
        "container_fs_usage_bytes",
    ):
        assert any(line.startswith(f"{metric}{{") for line in measured), metric
    if pods.runtime == "wherry":  # containerd 1.6 measures no more
        assert any(line.startswith("container_spec_memory_limit_bytes{") for line in measured)


async def test_metrics_tell_of_the_agents_work_by_their_known_names(pods: Pods) -> None:
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    pod = await pods.create(shell("sleep 60", readinessProbe=probe), volumes=[{"name": "e", "emptyDir": {}}])
    crashed = await pods.create(shell("exit 139"))
    await pods.running(pod)
    await pods.until(crashed, terminated, "its end")
    metrics = await ask(pods, "/metrics")
    for name in (
        *(f"kubelet_{name}" for name in (
            "node_name", "running_pods", "desired_pods", "active_pods", "mirror_pods", "working_pods",
            "started_pods_total", "started_pods_errors_total", "started_containers_total",
            "pod_start_duration_seconds_bucket", "pod_start_sli_duration_seconds_count",
            "pod_start_total_duration_seconds_count", "pod_worker_duration_seconds_bucket",
            "pod_worker_start_duration_seconds_count", "pod_status_sync_duration_seconds_count",
            "cgroup_manager_duration_seconds_bucket", "pleg_relist_duration_seconds_bucket",
            "pleg_relist_interval_seconds_bucket", "pleg_last_seen_seconds", "run_podsandbox_duration_seconds_count",
            "runtime_operations_total", "runtime_operations_duration_seconds_bucket", "http_requests_total",
        )),
        "storage_operation_duration_seconds_count", "volume_manager_total_volumes", "rest_client_requests_total",
        "rest_client_request_duration_seconds_bucket", "process_cpu_seconds_total", "process_resident_memory_bytes",
        "kubernetes_build_info",
    ):  # fmt: skip
        assert f"\n{name}" in metrics, name
    assert 'kubelet_running_containers{container_state="running"}' in metrics
    assert 'kubelet_terminated_containers_total{container_type="container",exit_code="139",reason="Error"}' in metrics
    assert 'kubelet_runtime_operations_total{operation_type="create_container"}' in metrics
    whose = f'container="main",pod="{pod["metadata"]["name"]}",namespace="{pods.namespace}"'
    result = f'prober_probe_total{{probe_type="Readiness",result="successful",{whose}'
    assert result in await ask(pods, "/metrics/probes")
    resources = await ask(pods, "/metrics/resource")
    whose = f'container="main",namespace="{pods.namespace}",pod="{pod["metadata"]["name"]}"'
    assert f"container_start_time_seconds{{{whose}}}" in resources
    assert "resource_scrape_error 0" in resources
    assert "machine_memory_bytes" in await ask(pods, "/metrics/cadvisor")
    await pods.delete(pod, 1)
    async with asyncio.timeout(10):
        while result in await ask(pods, "/metrics/probes"):  # noqa: ASYNC110 - goes when its last probe has ended
            await asyncio.sleep(0.05)


async def test_pods_configuration_and_the_machines_logs_can_be_read(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60"))
    await pods.running(pod)
    listed = json.loads(await ask(pods, "/pods"))
    assert pod["metadata"]["uid"] in [one["metadata"]["uid"] for one in listed["items"]]
    running = json.loads(await ask(pods, "/runningpods/"))
    (told,) = [one for one in running["items"] if one["metadata"]["uid"] == pod["metadata"]["uid"]]
    assert [one["name"] for one in told["spec"]["containers"]] == ["main"]
    config = json.loads(await ask(pods, "/configz"))["kubeletconfig"]
    assert (config["kind"], config["maxPods"], config["cpuManagerPolicy"]) == ("KubeletConfiguration", 110, "none")
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


@contextlib.contextmanager
def log_of_a_service() -> Iterator[tuple[str, Path]]:
    """Have a service's log below /var/log, and beside it a link that leads out."""
    name = f"wherry-test-{os.getpid()}"
    path, link = Path(f"/var/log/{name}.log"), Path(f"/var/log/{name}-out")
    path.write_text("first\nsecond\n")
    link.symlink_to("/etc/shadow")
    try:
        yield name, link
    finally:
        path.unlink()
        link.unlink()


async def test_logs_of_services_are_found_by_a_query(pods: Pods) -> None:
    with log_of_a_service() as (name, link):
        assert await ask(pods, "/logs/", query=name) == "first\nsecond\n"
        assert await ask(pods, "/logs/", query=f"/{name}.log") == "first\nsecond\n"
        assert "try without specifying options" in await ask(pods, "/logs/", query=name, tailLines="1")
        assert await ask(pods, "/logs/", query="no-such-service") == "\nlog not found for no-such-service\n"
        assert await ask(pods, "/logs/", query=link.name) == f"\nlog not found for {link.name}\n"
        for params, why in (
            ({"query": " "}, "cannot be empty"), ({"query": "a;b"}, "unsupported characters"),
            ({"query": f"/{link.name}"}, "no such file"), ({"query": "/../../etc/shadow"}, "no such file"),
            ({"query": "a", "tailLines": "-1"}, "must be between 0 and 100000"), ({"query": "a", "boot": "1"}, "less than 1"),
            ({"query": "a", "pattern": "("}, "pattern"), ({"query": "a", "sinceTime": "yesterday"}, "invalid time format"),
        ):  # fmt: skip
            with pytest.raises(APIError, match=why):
                await ask(pods, "/logs/", **params)


async def test_a_checkpoint_that_cannot_be_made_says_why(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60"))
    await pods.running(pod)
    node = (await pods.client.list(NODES))["items"][0]["metadata"]["name"]
    path = f"/api/v1/nodes/{node}/proxy/checkpoint/{pods.namespace}/{pod['metadata']['name']}"
    with pytest.raises(APIError, match="does not exist"):
        await pods.client.send("POST", f"{path}/nobody")
    with pytest.raises(APIError, match=r"checkpointing of .*/main failed \(rpc error: code = "):
        await pods.client.send("POST", f"{path}/main")


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


async def code_of(method: str, url: str) -> int:
    """Ask without a name and return the code of the answer."""
    async with aiohttp.ClientSession() as session, session.request(method, url, ssl=False) as response:
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


async def test_a_node_renews_a_lease_that_goes_with_it(pods: Pods) -> None:
    (node,) = (await pods.client.list(NODES))["items"]
    lease = await pods.client.get(LEASES, node["metadata"]["name"], "kube-node-lease")
    (owner,) = lease["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Node", node["metadata"]["uid"])
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == (node["metadata"]["name"], 40)


async def test_the_node_tells_what_its_runtimes_can(pods: Pods) -> None:
    status = (await pods.client.list(NODES))["items"][0]["status"]
    assert status["nodeInfo"]["containerRuntimeVersion"].startswith(f"{pods.runtime}://")
    if pods.runtime == "wherry":  # containerd 1.6 does not tell
        usual = next(one for one in status["runtimeHandlers"] if one["name"] == "")
        assert usual["features"] == {"recursiveReadOnlyMounts": True, "userNamespaces": True}
        assert status["features"] == {"supplementalGroupsPolicy": True}
