"""A vendor's device plugin beside a real node: its devices are scheduled, given, and taken back.

Source: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from agent.deviceplugin import api_pb2 as api
from agent.deviceplugin import api_pb2_grpc
from agent.podresources import api_pb2 as resources
from agent.podresources import api_pb2_grpc as resources_grpc
from machinery.api.resources import NODES
from tests.e2e.pods.conftest import Pods, container_status, shell, terminated
from tests.unit.agent.test_device_plugins import RESOURCE, Plugin

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
async def plugin(pods: Pods) -> AsyncIterator[Plugin]:
    folder = pods.cluster.layout.root / "agent" / "device-plugins"
    found = Plugin()
    found.heal.set()
    server = grpc.aio.server()
    api_pb2_grpc.add_DevicePluginServicer_to_server(found, server)
    server.add_insecure_port(f"unix:{folder}/toy.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{folder}/kubelet.sock") as channel:
        request = api.RegisterRequest(version="v1beta1", endpoint="toy.sock", resource_name=RESOURCE)
        await api_pb2_grpc.RegistrationStub(channel).Register(request)
    yield found
    await server.stop(None)


async def test_pods_are_given_devices_and_wait_for_them(pods: Pods, plugin: Plugin) -> None:
    async with asyncio.timeout(15):
        async for event in pods.client.watch(NODES):
            if event.decode().get("status", {}).get("allocatable", {}).get(RESOURCE) == "2":
                break
    asks = {"resources": {"limits": {RESOURCE: "1"}}}
    first = await pods.create(shell("echo $TOYS; echo x > /dev/toy; sleep 60", **asks))
    second = await pods.create(shell("echo $TOYS; sleep 60", **asks))
    await pods.running(first)
    await pods.running(second)
    assert await pods.exec(first, "stat", "-c", "%F %t:%T", "/dev/toy") == "character special file 1:3\n"
    listed = await _resources(pods)
    one = next(pod for pod in listed if pod.name == first["metadata"]["name"])
    (devices,) = one.containers[0].devices
    assert (one.namespace, devices.resource_name, len(devices.device_ids)) == (pods.namespace, RESOURCE, 1)
    assert [node.ID for node in devices.topology.nodes] == [0]
    healthy = [{"name": RESOURCE, "resources": [{"resourceID": devices.device_ids[0], "health": "Healthy"}]}]
    assert container_status(await pods.get(first))["allocatedResourcesStatus"] == healthy
    third = await pods.create(shell("echo $TOYS", **asks))
    await pods.told(third, "Insufficient vendor.com/toy")
    await pods.delete(first)
    done = await pods.ended(third, 20)
    assert terminated(done).get("exitCode") == 0, done["status"]
    assert {(await pods.logs(one)).strip() for one in (second, third)} == {"a", "b"}
    plugin.hurt.set()
    ill = await pods.until(second, lambda pod: "Unhealthy" in str(container_status(pod)), "its device to be ill")
    assert container_status(ill)["allocatedResourcesStatus"][0]["resources"][0]["health"] == "Unhealthy"
    node = (await pods.client.list(NODES))["items"][0]["metadata"]["name"]
    fourth = await pods.create(shell("true", **asks), nodeName=node)
    refused = await pods.ended(fourth)
    assert refused["status"]["reason"] == "UnexpectedAdmissionError"
    text = f"requested number of devices unavailable for {RESOURCE}. Requested: 1, Available: 0"
    assert text in refused["status"]["message"]


async def _resources(pods: Pods) -> list[Any]:
    """Return what the PodResources API lists, having asked it for all it can tell."""
    socket = pods.cluster.layout.root / "agent" / "pod-resources" / "kubelet.sock"
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub: Any = resources_grpc.PodResourcesListerStub(channel)
        found = list((await stub.List(resources.ListPodResourcesRequest())).pod_resources)
        for one in found:
            request = resources.GetPodResourcesRequest(pod_name=one.name, pod_namespace=one.namespace)
            assert (await stub.Get(request)).pod_resources == one
        everything = await stub.GetAllocatableResources(resources.AllocatableResourcesRequest())
        assert sorted(one.device_ids[0] for one in everything.devices) == ["a", "b"]
        assert list(everything.cpu_ids) == []  # with the CPU policy none nobody has any to himself
        with pytest.raises(grpc.aio.AioRpcError, match="pod absent in namespace nowhere not found"):
            await stub.Get(resources.GetPodResourcesRequest(pod_name="absent", pod_namespace="nowhere"))
    return found
