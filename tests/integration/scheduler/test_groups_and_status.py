"""Pods bound together or not at all; and what the scheduler tells of itself."""

import asyncio
import json
from typing import Any

import pytest

from machinery.api.resources import EVENTS, PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from scheduler.config import from_object
from scheduler.pods import GROUP, GROUP_MIN
from scheduler.status import StatusOptions
from tests.integration.scheduler.conftest import make_node, make_pod, placed, scheduling
from tests.support.server import free_port
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow


async def make_member(client: Client, name: str, least: int, cpu: str = "1") -> None:
    container = {"name": "c", "image": "i:1", "resources": {"requests": {"cpu": cpu}}}
    metadata = {"name": name, "annotations": {GROUP: "gang", GROUP_MIN: str(least)}}
    await client.create(PODS, {"metadata": metadata, "spec": {"containers": [container]}}, "default")


async def test_a_group_waits_until_all_its_pods_are_there_and_then_is_bound_together(
    config: ClientConfig, client: Client
) -> None:
    await make_node(client, "n", cpu="4")
    async with scheduling(config):
        for number in range(2):
            await make_member(client, f"m{number}", 3)
        await make_pod(client, "single")
        await until(client, PODS, lambda pods: placed(pods) == {"single": "n"})
        await make_member(client, "m2", 3)
        await until(client, PODS, lambda pods: len(placed(pods)) == 4)


async def test_a_group_that_does_not_fit_gives_its_places_back(config: ClientConfig, client: Client) -> None:
    await make_node(client, "n", cpu="2")
    impatient = {"profiles": [{"pluginConfig": [{"name": "PodGroup", "args": {"patienceSeconds": 0.5}}]}]}
    async with scheduling(config, settings=from_object(impatient)):
        for number in range(3):
            await make_member(client, f"m{number}", 3)
        events = await until(
            client, EVENTS, lambda events: any("at plugin PodGroup" in one["message"] for one in events)
        )
        assert not [one for one in events if one["reason"] == "Scheduled"]
        await make_pod(client, "large", cpu="2")
        await until(client, PODS, lambda pods: placed(pods) == {"large": "n"})


async def get(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split(" ")[1]), body


async def test_health_metrics_queue_and_reasons_are_told(config: ClientConfig, client: Client) -> None:
    port = free_port()
    await make_node(client, "n", cpu="1")
    async with scheduling(config, status=StatusOptions(port=port)):
        await make_pod(client, "runs")
        await make_pod(client, "big", cpu="3")
        await until_one(client, PODS, "big", lambda pod: pod["status"].get("conditions"), namespace="default")
        await until(client, PODS, placed)
        assert await get(port, "/healthz") == (200, "ok")
        assert (
            'scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"}'
            in (await get(port, "/metrics"))[1]
        )
        queue: list[dict[str, Any]] = json.loads((await get(port, "/debug/queue"))[1])
        assert [(one["pod"], one["state"], one["rejectedBy"]) for one in queue] == [
            ("default/big", "unschedulable", ["NodeResourcesFit"])
        ]
        why = json.loads((await get(port, "/debug/why/default/big"))[1])
        assert why["changes"] == ["needs 2100m more cpu on n"]
        assert json.loads((await get(port, "/debug/why/default/runs"))[1])["node"] == "n"
        assert (await get(port, "/debug/why/default/nobody"))[0] == 404
        assert (await get(port, "/etc/passwd"))[0] == 404


def test_an_address_others_reach_needs_tls_and_a_client_ca() -> None:
    with pytest.raises(ValueError, match="is not loopback"):
        StatusOptions("10.0.0.1", 10259).tls()
