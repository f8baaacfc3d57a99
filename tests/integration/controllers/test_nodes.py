"""Nodes that fall silent and come back, and what becomes of their pods; on a real API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controllers.node_zones import EvictionRates
from machinery.api.meta import ObjectKey, now, now_micro
from machinery.api.resources import EVENTS, LEASES, NODES, PODS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, PatchType
from tests.integration.controllers.conftest import running_controllers
from tests.support.agent import set_running
from tests.support.waiting import until, until_gone, until_one

pytestmark = pytest.mark.slow

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
LEASE_NAMESPACE = "kube-node-lease"


def ready(status: str = "True") -> dict[str, Any]:
    time = now()
    condition = {"type": "Ready", "status": status, "lastHeartbeatTime": time, "lastTransitionTime": time}
    return {"conditions": [{**condition, "reason": "KubeletReady", "message": "kubelet is posting ready status"}]}


async def register(client: Client, name: str, *, status: str = "True", zone: str = "") -> None:
    taint = {"key": NOT_READY, "effect": "NoSchedule"}
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    await client.create(NODES, {"metadata": {"name": name, "labels": labels}, "spec": {"taints": [taint]}})
    await client.patch(NODES, name, {"status": ready(status)}, subresource="status")
    lease = {"metadata": {"name": name}, "spec": {"holderIdentity": name, "renewTime": now_micro()}}
    await client.create(LEASES, lease, LEASE_NAMESPACE)


@contextlib.asynccontextmanager
async def alive(client: Client, name: str) -> AsyncIterator[None]:
    """Renew a node's lease while the block lasts."""

    async def renew() -> None:
        while True:
            await client.patch(LEASES, name, {"spec": {"renewTime": now_micro()}}, LEASE_NAMESPACE)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(renew())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def taints(node: dict[str, Any]) -> set[tuple[str, str]]:
    return {(taint["key"], taint["effect"]) for taint in node["spec"].get("taints", ())}


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((one for one in obj["status"].get("conditions", ()) if one["type"] == kind), {})


async def make_pod(client: Client, name: str, node: str, *, seconds: int | None = None) -> None:
    spec: dict[str, Any] = {"containers": [{"name": "m", "image": "i"}], "nodeName": node}
    if seconds is not None:
        both = [{"key": key, "operator": "Exists", "effect": "NoExecute"} for key in (NOT_READY, UNREACHABLE)]
        spec["tolerations"] = [{**toleration, "tolerationSeconds": seconds} for toleration in both]
    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
    await client.create(PODS, {"metadata": {"name": name}, "spec": spec}, "default")
    await set_running(client, ObjectKey("default", name))


async def test_a_silent_node_is_called_unknown_tainted_and_its_pods_leave(config: ClientConfig, client: Client) -> None:
    await register(client, "silent")
    await register(client, "lively")
    async with running_controllers(config, node_monitor_grace_seconds=1.5), alive(client, "lively"):
        await make_pod(client, "impatient", "silent", seconds=0)
        await make_pod(client, "patient", "silent", seconds=3600)
        node = await until_one(client, NODES, "silent", lambda node: (UNREACHABLE, "NoExecute") in taints(node))
        assert taints(node) == {(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")}
        unknown = condition(node, "Ready")
        assert (unknown["status"], unknown["reason"]) == ("Unknown", "NodeStatusUnknown")
        assert unknown["message"] == "Kubelet stopped posting node status."
        patient = await until_one(
            client, PODS, "patient", lambda pod: condition(pod, "Ready")["status"] == "False", namespace="default"
        )
        assert "deletionTimestamp" not in patient["metadata"]
        leaving = await until_one(
            client, PODS, "impatient", lambda pod: pod["metadata"].get("deletionTimestamp"), namespace="default"
        )
        assert condition(leaving, "DisruptionTarget")["reason"] == "DeletionByTaintManager"
        lively = await client.get(NODES, "lively")
        assert taints(lively) == set()
        reasons = {event["reason"] for event in (await client.list(EVENTS))["items"]}
        assert {"NodeNotReady", "RegisteredNode", "TaintManagerEviction"} <= reasons


async def test_a_node_that_comes_back_loses_its_taints(config: ClientConfig, client: Client) -> None:
    await register(client, "away", status="Unknown")
    await register(client, "lively")
    async with running_controllers(config, node_monitor_grace_seconds=5):
        await until_one(client, NODES, "away", lambda node: (UNREACHABLE, "NoExecute") in taints(node))
        await client.patch(NODES, "away", {"status": ready()}, subresource="status")
        await until_one(client, NODES, "away", lambda node: not taints(node))


async def test_a_node_that_says_it_is_not_ready_is_tainted_as_such(config: ClientConfig, client: Client) -> None:
    await register(client, "sick", status="False")
    await register(client, "lively")
    async with running_controllers(config):
        node = await until_one(client, NODES, "sick", lambda node: (NOT_READY, "NoExecute") in taints(node))
        assert taints(node) == {(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")}


async def test_while_no_node_is_ready_nobody_is_evicted(config: ClientConfig, client: Client) -> None:
    await register(client, "only", status="False")
    async with running_controllers(config):
        await until_one(client, NODES, "only", lambda node: taints(node) == {(NOT_READY, "NoSchedule")})
        await register(client, "second")
        await until_one(client, NODES, "only", lambda node: (NOT_READY, "NoExecute") in taints(node))


def driven_out(nodes: list[dict[str, Any]]) -> set[str]:
    return {node["metadata"]["name"] for node in nodes if (NOT_READY, "NoExecute") in taints(node)}


async def test_a_small_zone_that_is_mostly_away_stands_still_until_it_is_better(
    config: ClientConfig, client: Client
) -> None:
    for number in range(5):
        await register(client, f"a{number}", zone="a", status="True" if number < 2 else "False")
    await register(client, "b0", zone="b")
    await register(client, "b1", zone="b", status="False")
    async with running_controllers(config, eviction_rates=EvictionRates(normal=1000)):
        away = {"a2", "a3", "a4", "b1"}
        nodes = await until(
            client, NODES,
            lambda nodes: {one["metadata"]["name"] for one in nodes if (NOT_READY, "NoSchedule") in taints(one)} == away
            and "b1" in driven_out(nodes),
        )  # fmt: skip
        assert driven_out(nodes) == {"b1"}
        await client.patch(NODES, "a2", {"status": ready()}, subresource="status")
        # Two of five are no longer most of them.
        await until(client, NODES, lambda nodes: driven_out(nodes) == {"a3", "a4", "b1"})


async def test_nodes_are_emptied_no_faster_than_the_rate_that_is_set(config: ClientConfig, client: Client) -> None:
    for name in ("up", "down1", "down2"):
        await register(client, name, status="False" if name.startswith("down") else "True")
    async with running_controllers(config, eviction_rates=EvictionRates(normal=0.001)):
        # Both taints of a node are written at once, so the second node has had its turn here and was told to wait.
        nodes = await until(
            client, NODES, lambda nodes: sum((NOT_READY, "NoSchedule") in taints(node) for node in nodes) == 2
        )
        assert len(driven_out(nodes)) == 1


async def test_a_cordoned_node_is_tainted_until_it_is_uncordoned(config: ClientConfig, client: Client) -> None:
    await register(client, "n1")
    async with running_controllers(config):
        await until_one(client, NODES, "n1", lambda node: not taints(node))
        await client.patch(NODES, "n1", {"spec": {"unschedulable": True}})
        await until_one(
            client, NODES, "n1", lambda node: taints(node) == {("node.kubernetes.io/unschedulable", "NoSchedule")}
        )
        await client.patch(NODES, "n1", {"spec": {"unschedulable": None}})
        await until_one(client, NODES, "n1", lambda node: not taints(node))


async def test_ended_pods_beyond_the_threshold_go_evicted_ones_first_then_the_oldest(
    config: ClientConfig, client: Client
) -> None:
    await register(client, "n1")
    async with running_controllers(config, terminated_pod_threshold=2):
        for name, status in (
            ("a", {"phase": "Succeeded"}), ("b", {"phase": "Succeeded"}), ("c", {"phase": "Failed", "reason": "Evicted"})
        ):  # fmt: skip
            await make_pod(client, name, "n1")
            await client.patch(PODS, name, {"status": status}, "default", subresource="status")
        left = await until(client, PODS, lambda pods: len(pods) == 2, namespace="default")
        assert {pod["metadata"]["name"] for pod in left} == {"a", "b"}


async def test_pods_of_a_node_that_is_gone_are_deleted(config: ClientConfig, client: Client) -> None:
    async with running_controllers(config, vanished_node_seconds=0.2):
        await make_pod(client, "left", "gone")
        await until_gone(client, PODS, "left", namespace="default")


async def test_pods_of_a_machine_declared_off_go_at_once(config: ClientConfig, client: Client) -> None:
    async with running_controllers(config):
        await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
        await client.create(NODES, {"metadata": {"name": "off"}})
        spec = {"containers": [{"name": "m", "image": "i"}], "nodeName": "off"}
        await client.create(PODS, {"metadata": {"name": "stuck"}, "spec": spec}, "default")
        await client.delete(PODS, "stuck", "default")
        assert (await client.get(PODS, "stuck", "default"))["metadata"]["deletionTimestamp"]
        taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoSchedule"}
        await client.patch(NODES, "off", {"spec": {"taints": [taint]}})
        await until_gone(client, PODS, "stuck", namespace="default")


async def test_a_disruption_that_did_not_come_is_called_so_no_longer(config: ClientConfig, client: Client) -> None:
    await register(client, "n1")
    async with running_controllers(config, stale_disruption_seconds=1.0):
        for name, why in (("stayed", "EvictionByEvictionAPI"), ("ends", "TerminationByKubelet")):
            await make_pod(client, name, "n1")
            said = {"type": "DisruptionTarget", "status": "True", "reason": why, "lastTransitionTime": now()}
            patch = {"status": {"conditions": [said]}}
            await client.patch(PODS, name, patch, "default", type=PatchType.STRATEGIC, subresource="status")
        pod = await until_one(
            client, PODS, "stayed", lambda pod: condition(pod, "DisruptionTarget")["status"] == "False",
            namespace="default",
        )  # fmt: skip
        assert "reason" not in condition(pod, "DisruptionTarget")
        assert condition(pod, "Ready")["status"] == "True"
        ends = await client.get(PODS, "ends", "default")
        assert condition(ends, "DisruptionTarget")["status"] == "True"
