"""Devices by ResourceClaims: the scheduler allocates them, a driver on the node prepares them, containers have them.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.dra.claims import ResourceClaims
from machinery.api.resources import (
    DEVICE_CLASSES,
    NODES,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from machinery.errors import NotFound
from tests.e2e.pods.conftest import Pods, container_status, shell
from tests.support.dra_driver import ToyDriver

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.only_wherry]
WORDS = shell("echo toy ${TOY:-none}; trap 'exit 0' TERM; while true; do sleep 0.05; done")


@pytest.fixture
async def driver(pods: Pods) -> AsyncIterator[ToyDriver]:
    """A driver of two toys that this node has taken in; its class of devices has its name."""
    name = f"toys-{uuid.uuid4().hex[:6]}.example.com"
    node = (await pods.client.list(NODES))["items"][0]["metadata"]["name"]
    found = ToyDriver(name, pods.client, pods.cluster.layout.root / "agent" / "plugins_registry", ["a", "b"])
    found.pool = node
    kind = {"apiVersion": "resource.k8s.io/v1", "metadata": {"name": name}}
    selector = {"cel": {"expression": f'device.driver == "{name}"'}}
    of_class = {"selectors": [selector], "extendedResourceName": "example.com/toy"}
    await pods.client.create(DEVICE_CLASSES, {"kind": "DeviceClass", **kind, "spec": of_class})
    spec = {
        "nodeName": node, "driver": name, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "a"}, {"name": "b"}],
    }  # fmt: skip
    await pods.client.create(RESOURCE_SLICES, {"kind": "ResourceSlice", **kind, "spec": spec})
    await found.start()
    yield found
    await found.stop()
    with contextlib.suppress(NotFound):
        await pods.client.delete(RESOURCE_SLICES, name)
    await pods.client.delete(DEVICE_CLASSES, name)


def claim_spec(driver: ToyDriver) -> dict[str, Any]:
    return {"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": driver.name}}]}}


async def test_a_pod_has_the_device_made_for_it_and_gives_it_back(pods: Pods, driver: ToyDriver) -> None:
    template = {
        "kind": "ResourceClaimTemplate", "apiVersion": "resource.k8s.io/v1", "metadata": {"name": "toy"},
        "spec": {"spec": claim_spec(driver)},
    }  # fmt: skip
    await pods.client.create(RESOURCE_CLAIM_TEMPLATES, template, pods.namespace)
    using = {**WORDS, "resources": {"claims": [{"name": "mine", "request": "one"}]}}
    asks = [{"name": "mine", "resourceClaimTemplateName": "toy"}]
    pod = await pods.create(using, WORDS, resourceClaims=asks)
    running = await pods.running(pod)
    (made,) = running["status"]["resourceClaimStatuses"]
    claim = await pods.client.get(RESOURCE_CLAIMS, made["resourceClaimName"], pods.namespace)
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    assert await pods.exec(pod, "sh", "-c", "echo $TOY") == result["device"] + "\n"
    device = {"resourceID": f"{driver.name}/toy={result['device']}", "health": "Healthy"}
    told = [{"name": "claim:mine/one", "resources": [device]}]
    await pods.until(pod, lambda one: container_status(one).get("allocatedResourcesStatus") == told, "its health")
    assert "allocatedResourcesStatus" not in container_status(await pods.get(pod), "main1")
    driver.ill.put_nowait(result["device"])
    await pods.until(pod, lambda one: "Unhealthy" in str(container_status(one)), "its illness")
    assert await pods.exec(pod, "sh", "-c", "echo ${TOY:-none}", container="main1") == "none\n"
    assert driver.calls == [f"prepare {claim['metadata']['name']}"]
    await pods.delete(pod)
    assert driver.calls[1:] == [f"unprepare {claim['metadata']['name']}"]


async def test_a_shared_claim_is_prepared_once_and_given_back_by_the_last(pods: Pods, driver: ToyDriver) -> None:
    body = {
        "kind": "ResourceClaim", "apiVersion": "resource.k8s.io/v1", "metadata": {"name": "ours"},
        "spec": claim_spec(driver),
    }  # fmt: skip
    await pods.client.create(RESOURCE_CLAIMS, body, pods.namespace)
    asks = [{"name": "mine", "resourceClaimName": "ours"}]
    using = {**WORDS, "resources": {"claims": [{"name": "mine"}]}}
    driver.refusal = "no toys before tea"
    first = await pods.create(using, resourceClaims=asks)
    await pods.told(first, "NodePrepareResources failed for ResourceClaim ours: no toys before tea")
    driver.refusal = ""
    await pods.running(first)
    prepared = driver.calls.count("prepare ours")
    second = await pods.create(using, resourceClaims=asks)
    await pods.running(second)
    toys = {await pods.exec(one, "sh", "-c", "echo $TOY") for one in (first, second)}
    assert len(toys) == 1, "both have the same device"
    await pods.delete(first)
    assert driver.calls.count("prepare ours") == prepared
    assert "unprepare ours" not in driver.calls
    await pods.delete(second)
    assert driver.calls[-1] == "unprepare ours"


async def test_an_extended_resource_may_be_devices_of_a_driver(pods: Pods, driver: ToyDriver) -> None:
    limits = {"limits": {"example.com/toy": "1"}}
    pod = await pods.create({**WORDS, "resources": limits}, WORDS, {**WORDS, "resources": limits})
    running = await pods.running(pod)
    told = running["status"]["extendedResourceClaimStatus"]
    assert [one["containerName"] for one in told["requestMappings"]] == ["main", "main2"]
    toys = [await pods.exec(pod, "sh", "-c", "echo ${TOY:-none}", container=one) for one in ("main", "main1", "main2")]
    assert (sorted([toys[0], toys[2]]), toys[1]) == (["a\n", "b\n"], "none\n")
    await pods.delete(pod)
    name = told["resourceClaimName"]
    assert driver.calls == [f"prepare {name}", f"unprepare {name}"]


async def test_devices_of_a_driver_that_is_gone_are_offered_no_more(
    pods: Pods, driver: ToyDriver, tmp_path: Path
) -> None:
    node = (await pods.client.list(NODES))["items"][0]["metadata"]["name"]
    claims = ResourceClaims(pods.client, tmp_path, node, wipe_seconds=0.1)
    await claims.register(driver.name, "/nowhere", ["v1.DRAPlugin"])
    work = asyncio.create_task(claims.run())
    try:
        await asyncio.sleep(0.5)
        assert await pods.client.get(RESOURCE_SLICES, driver.name)  # it is there: so are its devices
        await claims.deregister(driver.name)
        async with asyncio.timeout(10):
            with pytest.raises(NotFound):
                while await pods.client.get(RESOURCE_SLICES, driver.name):  # noqa: ASYNC110 - it vanishes
                    await asyncio.sleep(0.02)
    finally:
        work.cancel()
