"""A vendor's device plugin beside a real node: its devices are scheduled, given, and taken back.

Source: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
"""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from agent.deviceplugin import api_pb2 as api
from agent.deviceplugin import api_pb2_grpc
from machinery.api.resources import NODES
from tests.e2e.pods.conftest import Pods, shell, terminated
from tests.unit.agent.test_device_plugins import RESOURCE, Plugin

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
async def plugin(pods: Pods) -> AsyncIterator[None]:
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
    yield
    await server.stop(None)


@pytest.mark.usefixtures("plugin")
async def test_pods_are_given_devices_and_wait_for_them(pods: Pods) -> None:
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
    third = await pods.create(shell("echo $TOYS", **asks))
    await pods.told(third, "Insufficient vendor.com/toy")
    await pods.delete(first)
    done = await pods.ended(third, 20)
    assert terminated(done)["exitCode"] == 0
    assert {(await pods.logs(one)).strip() for one in (second, third)} == {"a", "b"}
