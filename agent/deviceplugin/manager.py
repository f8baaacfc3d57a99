"""Takes in device plugins, counts their devices as the node's, and gives them to containers that ask.

Which container has which device is written beside the plugins' sockets, so that an agent that starts anew gives none
away twice.
Source: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from agent.deviceplugin import api_pb2 as api
from agent.deviceplugin import api_pb2_grpc
from agent.environment import ConfigError
from agent.metrics import Metrics

log = logging.getLogger(__name__)

VERSION = "v1beta1"
SOCKET, CHECKPOINT = "kubelet.sock", "wherry-devices.json"
_HEALTHY = "Healthy"
_CALL_SECONDS = 10.0


@dataclass(slots=True)
class _Plugin:
    """One plugin: its devices by id, whether each is healthy, and the NUMA nodes it is near to."""

    resource: str
    endpoint: str
    options: Any
    devices: dict[str, bool] = field(default_factory=dict)
    nodes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Given:
    """What a container gets for the devices it asked for; see ContainerAllocateResponse of the API."""

    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Any, ...] = ()
    devices: tuple[Any, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cdi_names: tuple[str, ...] = ()


class DevicePlugins(api_pb2_grpc.RegistrationServicer):
    """The registry of plugins, served on a socket in their folder."""

    def __init__(self, folder: Path, changed: Callable[[], None], metrics: Metrics) -> None:
        """Args: `changed` is called when the node has other devices than before."""
        self._folder = folder
        self._changed = changed
        self._metrics = metrics
        self._plugins: dict[str, _Plugin] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._server: grpc.aio.Server | None = None
        # resource -> device id -> uid of the pod and names of the containers: what an init container had, others have
        self._held: dict[str, dict[str, list[str]]] = {}

    async def start(self) -> None:
        """Begin to serve."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        with contextlib.suppress(OSError, ValueError):
            self._held = json.loads((self._folder / CHECKPOINT).read_text())
        path = self._folder / SOCKET
        path.unlink(missing_ok=True)  # plugins watch for it to come anew, and register again
        self._server = grpc.aio.server()
        api_pb2_grpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()

    async def close(self) -> None:
        """Stop serving and following plugins."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._server is not None:
            await self._server.stop(grace=None)

    async def Register(self, request: Any, context: Any) -> Any:  # noqa: N802 - the API's name
        """Take in a plugin, in place of another for the same resource."""
        if request.version != VERSION:
            text = (
                f'requested API version "{request.version}" is not supported by kubelet. Supported version is v1beta1'
            )
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        if "/" not in request.resource_name or request.resource_name.split("/")[0].endswith("kubernetes.io"):
            text = f"the ResourceName {request.resource_name!r} is invalid"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        plugin = _Plugin(request.resource_name, request.endpoint, request.options)
        old = self._tasks.pop(plugin.resource, None)
        if old is not None:
            old.cancel()
        self._plugins[plugin.resource] = plugin
        self._tasks[plugin.resource] = asyncio.create_task(self._follow(plugin))
        self._metrics.add("kubelet_device_plugin_registration_total", plugin.resource)
        log.info("device plugin for %s registered", plugin.resource)
        return api.Empty()

    def _channel(self, plugin: _Plugin) -> grpc.aio.Channel:
        # Only the name of a socket in this folder: a plugin can't have us speak to another.
        path = self._folder / os.path.basename(plugin.endpoint)
        return grpc.aio.insecure_channel(f"unix:{path}", options=(("grpc.default_authority", "localhost"),))

    async def _follow(self, plugin: _Plugin) -> None:
        """Keep the plugin's devices; when it goes, all of them are unhealthy."""
        try:
            async with self._channel(plugin) as channel:
                stub = api_pb2_grpc.DevicePluginStub(channel)
                async for answer in stub.ListAndWatch(api.Empty(), wait_for_ready=True):
                    plugin.devices = {one.ID: one.health == _HEALTHY for one in answer.devices}
                    plugin.nodes = {one.ID: tuple(node.ID for node in one.topology.nodes) for one in answer.devices}
                    self._changed()
        except grpc.aio.AioRpcError as error:
            log.info("device plugin for %s is away: %s", plugin.resource, error.details())
        plugin.devices = dict.fromkeys(plugin.devices, False)
        self._changed()

    def holders(self) -> set[str]:
        """Return the uids of the pods that have devices."""
        return {whose[0] for held in self._held.values() for whose in held.values()}

    def held_by(self, uid: str, container: str) -> dict[str, list[str]]:
        """Return the devices a container has, by resource."""
        found = {
            resource: sorted(name for name, (owner, *names) in held.items() if owner == uid and container in names)
            for resource, held in self._held.items()
        }
        return {resource: names for resource, names in found.items() if names}

    def all(self) -> dict[str, list[str]]:
        """Return all healthy devices, by resource."""
        return {
            name: sorted(one for one, healthy in plugin.devices.items() if healthy)
            for name, plugin in self._plugins.items()
        }

    def numa_nodes(self, resource: str, device: str) -> tuple[int, ...]:
        """Return the NUMA nodes a device is near to; none where its plugin does not tell."""
        plugin = self._plugins.get(resource)
        return plugin.nodes.get(device, ()) if plugin is not None else ()

    def health(self, uid: str, container: str) -> list[dict[str, Any]]:
        """Return what a container's status tells of its devices (allocatedResourcesStatus)."""
        return [
            {"name": resource, "resources": [{"resourceID": one, "health": self._health(resource, one)} for one in ids]}
            for resource, ids in sorted(self.held_by(uid, container).items())
        ]

    def _health(self, resource: str, device: str) -> str:
        plugin = self._plugins.get(resource)
        if plugin is None or device not in plugin.devices:
            return "Unknown"  # its plugin has not come back yet
        return _HEALTHY if plugin.devices[device] else "Unhealthy"

    def capacity(self) -> dict[str, str]:
        """Return how many devices of each resource there are."""
        return {name: str(len(plugin.devices)) for name, plugin in self._plugins.items()}

    def allocatable(self) -> dict[str, str]:
        """Return how many of them are healthy."""
        return {name: str(sum(plugin.devices.values())) for name, plugin in self._plugins.items()}

    def reserve(self, pod: Mapping[str, Any]) -> None:
        """Set devices aside for all containers of a pod, before any of them is made. Raises: ConfigError."""
        uid, kept = pod["metadata"]["uid"], {name: dict(held) for name, held in self._held.items()}
        before: list[str] = []  # init containers whose devices the next ones may have, for they will have ended
        try:
            for group in ("initContainers", "containers"):
                for container in pod["spec"].get(group) or ():
                    for resource, count in self._asked(container):
                        self._pick(resource, [uid, container["name"]], count, before)
                    if group == "initContainers" and container.get("restartPolicy") != "Always":
                        before.append(container["name"])
        except ConfigError:
            self._held = kept
            raise
        if self._held != kept:
            self._save()

    def are_asked_for(self, pod: Mapping[str, Any]) -> bool:
        """Whether a pod asks for devices of any plugin."""
        groups = (pod["spec"].get("initContainers") or (), pod["spec"].get("containers") or ())
        return bool(self._plugins) and any(self._asked(container) for group in groups for container in group)

    def _asked(self, container: Mapping[str, Any]) -> list[tuple[str, int]]:
        limits = (container.get("resources") or {}).get("limits") or {}
        return [(name, int(limits[name])) for name in sorted(set(limits) & set(self._plugins)) if int(limits[name])]

    def _pick(self, resource: str, owner: list[str], count: int, before: Sequence[str] = ()) -> list[str]:
        """Return the devices that a container has, given now if it has none. Raises: ConfigError."""
        held, plugin, (uid, name) = self._held.setdefault(resource, {}), self._plugins[resource], owner
        ids = [one for one, (who, *names) in held.items() if who == uid and name in names]
        if ids:
            return ids
        again = [one for one, (who, *names) in held.items() if who == uid and set(names) <= set(before)]
        free = sorted(one for one, healthy in plugin.devices.items() if healthy and one not in held)
        if len(again) + len(free) < count:
            text = f"Requested: {count}, Available: {len(again) + len(free)}"
            raise ConfigError(f"requested number of devices unavailable for {resource}. {text}")
        ids = [*sorted(again), *free][:count]
        for one in ids:
            held[one] = [*(held.get(one) or [uid]), name]
        return ids

    async def give(self, uid: str, container: Mapping[str, Any]) -> Given:
        """Give a container the devices its limits ask for; the same ones when it starts again. Raises: ConfigError."""
        found = Given()
        for resource, count in self._asked(container):
            with self._metrics.timed("kubelet_device_plugin_alloc_duration_seconds", resource):
                answer = await self._allocate(resource, [uid, container["name"]], count)
            found = Given(
                {**found.environment, **answer.envs}, (*found.mounts, *answer.mounts),
                (*found.devices, *answer.devices), {**found.annotations, **answer.annotations},
                (*found.cdi_names, *(one.name for one in answer.cdi_devices)),
            )  # fmt: skip
        return found

    async def _allocate(self, resource: str, owner: list[str], count: int) -> Any:
        plugin = self._plugins[resource]
        ids = self._pick(resource, owner, count)
        self._save()
        request = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=ids)])
        try:
            async with self._channel(plugin) as channel:
                stub = api_pb2_grpc.DevicePluginStub(channel)
                answer = (await stub.Allocate(request, timeout=_CALL_SECONDS)).container_responses[0]
                if plugin.options.pre_start_required:
                    await stub.PreStartContainer(api.PreStartContainerRequest(devices_ids=ids), timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise ConfigError(f"Allocate failed due to {error.details()}, which is unexpected") from error
        return answer

    def release(self, keep: Iterable[str]) -> None:
        """Take back the devices of all pods but those with these uids."""
        gone = self.holders() - set(keep)
        for held in self._held.values() if gone else ():
            for name in [name for name, (uid, *_) in held.items() if uid in gone]:
                del held[name]
        if gone:
            self._save()

    def forget(self, uid: str) -> None:
        """Take back a pod's devices."""
        if uid in self.holders():
            self.release(self.holders() - {uid})

    def _save(self) -> None:
        path = self._folder / CHECKPOINT
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._held))
        temporary.replace(path)
