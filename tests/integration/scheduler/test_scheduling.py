"""Pods get nodes, or are told why not, on a real API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from machinery.api.resources import EVENTS, NODES, POD_DISRUPTION_BUDGETS, PODS, PRIORITY_CLASSES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.scheduler.conftest import make_node, make_pod, placed, scheduling
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow


def condition(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((one for one in pod.get("status", {}).get("conditions", ()) if one["type"] == kind), {})


@contextlib.asynccontextmanager
async def agents(client: Client) -> AsyncIterator[None]:
    """Stand in for the nodes' agents: pods that are to go, go."""

    async def remove() -> None:
        async for event in client.watch(PODS, resource_version="0"):
            pod = event.decode()
            if event.type == "MODIFIED" and pod["metadata"].get("deletionTimestamp"):
                options = {"gracePeriodSeconds": 0}
                await client.delete(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"], options=options)

    task = asyncio.create_task(remove())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_backlog_is_placed_evenly_and_every_pod_gets_its_event(config: ClientConfig, client: Client) -> None:
    for number in range(4):
        await make_node(client, f"n{number}")
    for number in range(80):
        await make_pod(client, f"p{number}")
    async with scheduling(config):
        pods = await until(client, PODS, lambda pods: len(placed(pods)) == 80)
        where = list(placed(pods).values())
        assert {where.count(name) for name in set(where)} == {20}
        events = await until(client, EVENTS, lambda events: len(events) >= 80)
    by_pod = {one["involvedObject"]["name"]: one for one in events if one["reason"] == "Scheduled"}
    assert len(by_pod) == 80
    node = placed(pods)["p7"]
    assert by_pod["p7"]["message"] == f"Successfully assigned default/p7 to {node}"
    assert by_pod["p7"]["reportingComponent"] == "default-scheduler"


async def test_what_fits_nowhere_is_told_why_and_placed_once_there_is_room(
    config: ClientConfig, client: Client
) -> None:
    await make_node(client, "small", cpu="1")
    async with scheduling(config):
        await make_pod(client, "big", cpu="2")
        pod = await until_one(client, PODS, "big", lambda pod: condition(pod, "PodScheduled"), namespace="default")
        text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are "
        text += "available: 1 Preemption is not helpful for scheduling."
        found = condition(pod, "PodScheduled")
        assert (found["status"], found["reason"], found["message"]) == ("False", "Unschedulable", text)
        events = await until(client, EVENTS, lambda events: events)
        assert [(one["reason"], one["message"], one["type"]) for one in events] == [
            ("FailedScheduling", text, "Warning")
        ]
        await make_node(client, "large", cpu="4")
        await until(client, PODS, lambda pods: placed(pods) == {"big": "large"})


async def test_a_gated_pod_waits_for_its_gates_and_a_strange_scheduler_is_left_alone(
    config: ClientConfig, client: Client
) -> None:
    await make_node(client, "n")
    async with scheduling(config):
        await make_pod(client, "gated", schedulingGates=[{"name": "example.com/wait"}])
        await make_pod(client, "strange", schedulerName="another")
        await make_pod(client, "plain")
        await until(client, PODS, lambda pods: placed(pods) == {"plain": "n"})
        await client.patch(PODS, "gated", {"spec": {"schedulingGates": None}}, "default")
        await until(client, PODS, lambda pods: set(placed(pods)) == {"plain", "gated"})


async def test_a_cordoned_node_opens_again(config: ClientConfig, client: Client) -> None:
    await make_node(client, "n")
    await client.patch(NODES, "n", {"spec": {"unschedulable": True}})
    async with scheduling(config):
        await make_pod(client, "p")
        await until_one(
            client,
            PODS,
            "p",
            lambda pod: "were unschedulable" in condition(pod, "PodScheduled").get("message", ""),
            namespace="default",
        )
        await client.patch(NODES, "n", {"spec": {"unschedulable": None}})
        await until(client, PODS, lambda pods: placed(pods) == {"p": "n"})


async def test_an_important_pod_takes_the_place_of_a_lesser_one(config: ClientConfig, client: Client) -> None:
    await client.create(PRIORITY_CLASSES, {"metadata": {"name": "high"}, "value": 1000})
    for name in ("a", "b"):
        await make_node(client, name, cpu="1")
    gone: list[dict[str, Any]] = []

    async def watch() -> None:
        async for event in client.watch(PODS, resource_version="0"):
            if event.type == "DELETED":
                gone.append(event.decode())

    watching = asyncio.create_task(watch())
    async with agents(client), scheduling(config):
        await make_pod(client, "low-1", cpu="1", labels={"app": "guarded"})
        await make_pod(client, "low-2", cpu="1")
        budget = {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "guarded"}}}
        await client.create(POD_DISRUPTION_BUDGETS, {"metadata": {"name": "b"}, "spec": budget}, "default")
        where = placed(await until(client, PODS, lambda pods: len(placed(pods)) == 2))
        await make_pod(client, "high", cpu="1", priorityClassName="high")
        after = placed(await until(client, PODS, lambda pods: "high" in placed(pods)))
        assert after == {"low-1": where["low-1"], "high": where["low-2"]}
        events = await until(
            client, EVENTS, lambda events: any(one["reason"] == "Preempted" for one in events), namespace="default"
        )
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    (victim,) = gone
    found = condition(victim, "DisruptionTarget")
    assert (victim["metadata"]["name"], found["reason"]) == ("low-2", "PreemptionByScheduler")
    assert found["message"] == "default-scheduler: preempting to accommodate a higher priority pod"
    told = next(one for one in events if one["reason"] == "Preempted")
    assert told["involvedObject"]["name"] == "low-2"
    assert told["message"].startswith("Preempted by pod ")
