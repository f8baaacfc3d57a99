"""Device plugins over real sockets: registration, counting, giving, taking back.

Source: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from agent.deviceplugin import api_pb2 as api
from agent.deviceplugin import api_pb2_grpc
from agent.deviceplugin.manager import SOCKET, DevicePlugins
from agent.environment import ConfigError
from agent.metrics import Metrics

RESOURCE = "vendor.com/toy"


class Plugin(api_pb2_grpc.DevicePluginServicer):
    """A plugin as vendors write them: two devices, one of which is ill until `heal` is set, and again with `hurt`."""

    def __init__(self) -> None:
        self.heal, self.hurt = asyncio.Event(), asyncio.Event()

    async def ListAndWatch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield api.ListAndWatchResponse(
            devices=[api.Device(ID="a", health="Healthy"), api.Device(ID="b", health="Unhealthy")]
        )
        await self.heal.wait()
        near = api.TopologyInfo(nodes=[api.NUMANode(ID=0)])
        yield api.ListAndWatchResponse(devices=[api.Device(ID=one, health="Healthy", topology=near) for one in "ab"])
        await self.hurt.wait()
        yield api.ListAndWatchResponse(devices=[api.Device(ID=one, health="Unhealthy") for one in "ab"])
        await asyncio.Event().wait()

    async def Allocate(self, request: Any, context: Any) -> Any:  # noqa: N802
        answers = [
            api.ContainerAllocateResponse(
                envs={"TOYS": ",".join(one.devices_ids)},
                devices=[api.DeviceSpec(container_path="/dev/toy", host_path="/dev/null", permissions="rw")],
            )
            for one in request.container_requests
        ]
        return api.AllocateResponse(container_responses=answers)


@pytest.fixture
async def plugin(tmp_path: Path) -> AsyncIterator[Plugin]:
    found = Plugin()
    server = grpc.aio.server()
    api_pb2_grpc.add_DevicePluginServicer_to_server(found, server)
    server.add_insecure_port(f"unix:{tmp_path}/toy.sock")
    await server.start()
    yield found
    await server.stop(None)


async def register(folder: Path, version: str = "v1beta1") -> None:
    async with grpc.aio.insecure_channel(f"unix:{folder}/{SOCKET}") as channel:
        request = api.RegisterRequest(version=version, endpoint="toy.sock", resource_name=RESOURCE)
        await api_pb2_grpc.RegistrationStub(channel).Register(request)


def asking(count: int) -> dict[str, Any]:
    return {"name": "main", "resources": {"limits": {RESOURCE: str(count)}}}


async def test_devices_are_counted_given_once_and_taken_back(tmp_path: Path, plugin: Plugin) -> None:
    changed = asyncio.Event()
    manager = DevicePlugins(tmp_path, changed.set, Metrics())
    await manager.start()
    try:
        await register(tmp_path)
        async with asyncio.timeout(5):
            await changed.wait()
        assert (manager.capacity(), manager.allocatable()) == ({RESOURCE: "2"}, {RESOURCE: "1"})
        given = await manager.give("pod-1", asking(1))
        assert given.environment == {"TOYS": "a"}
        assert given.devices[0].container_path == "/dev/toy"
        assert (await manager.give("pod-1", asking(1))).environment == {"TOYS": "a"}  # it starts again
        with pytest.raises(ConfigError, match="Requested: 1, Available: 0"):
            await manager.give("pod-2", asking(1))
        changed.clear()
        plugin.heal.set()
        async with asyncio.timeout(5):
            await changed.wait()
        assert (await manager.give("pod-2", asking(1))).environment == {"TOYS": "b"}
    finally:
        await manager.close()
    again = DevicePlugins(tmp_path, lambda: None, Metrics())
    await again.start()
    try:
        again.forget("pod-1")
        assert '"b"' in (tmp_path / "wherry-devices.json").read_text()
        assert '"a"' not in (tmp_path / "wherry-devices.json").read_text()
    finally:
        await again.close()


async def test_a_pod_s_devices_are_set_aside_together_or_not_at_all(tmp_path: Path, plugin: Plugin) -> None:
    manager = DevicePlugins(tmp_path, lambda: None, Metrics())
    plugin.heal.set()
    await manager.start()
    try:
        await register(tmp_path)
        async with asyncio.timeout(5):
            while manager.allocatable() != {RESOURCE: "2"}:  # noqa: ASYNC110 - it changes twice
                await asyncio.sleep(0.01)
        containers = {"initContainers": [{**asking(1), "name": "first"}], "containers": [asking(2)]}
        manager.reserve({"metadata": {"uid": "pod-1"}, "spec": containers})
        assert manager.held_by("pod-1", "first") == {RESOURCE: ["a"]}
        assert manager.held_by("pod-1", "main") == {RESOURCE: ["a", "b"]}  # what the first had, it has after it
        with pytest.raises(ConfigError, match="Requested: 1, Available: 0"):
            manager.reserve({"metadata": {"uid": "pod-2"}, "spec": {"containers": [asking(1)]}})
        manager.forget("pod-1")
        lasting = {**asking(1), "name": "beside", "restartPolicy": "Always"}
        with pytest.raises(ConfigError, match="Requested: 2, Available: 1"):
            manager.reserve({"metadata": {"uid": "pod-3"}, "spec": {**containers, "initContainers": [lasting]}})
        assert manager.holders() == set()
        await _tell_of_health(manager, plugin)
    finally:
        await manager.close()


async def _tell_of_health(manager: DevicePlugins, plugin: Plugin) -> None:
    healths = [
        [{"name": RESOURCE, "resources": [{"resourceID": "a", "health": word}]}] for word in ("Unhealthy", "Unknown")
    ]
    assert manager.health("pod-4", "main") == []
    manager.reserve({"metadata": {"uid": "pod-4"}, "spec": {"containers": [asking(1)]}})
    plugin.hurt.set()
    async with asyncio.timeout(5):
        while manager.health("pod-4", "main") != healths[0]:  # noqa: ASYNC110 - its plugin tells
            await asyncio.sleep(0.01)
    manager._plugins.clear()
    assert manager.health("pod-4", "main") == healths[1]


async def test_other_versions_are_refused(tmp_path: Path) -> None:
    manager = DevicePlugins(tmp_path, lambda: None, Metrics())
    await manager.start()
    try:
        with pytest.raises(grpc.aio.AioRpcError, match="Supported version is v1beta1"):
            await register(tmp_path, "v1alpha")
    finally:
        await manager.close()
