# ruff: noqa: N802, D102 - names and meaning of the methods are CRI's: proto/cri/api.proto
"""CRI's RuntimeService: finds what a call speaks of, has it done, and puts the answer into CRI's words."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent.cri import api_pb2 as cri
from agent.cri import api_pb2_grpc
from agent.runtime import cni, views
from agent.runtime.answers import stream, unary
from agent.runtime.container import ContainerManager
from agent.runtime.errors import FailedPrecondition, InvalidArgument
from agent.runtime.exec import Executor
from agent.runtime.sandbox import SandboxManager
from agent.runtime.sessions import AttachSession, ExecSession, PortForwardSession, Wanted
from agent.runtime.state import ContainerRecord, Records, SandboxRecord
from agent.runtime.stats_service import Statistics
from agent.runtime.streaming import StreamingServer

if TYPE_CHECKING:
    from agent.runtime.metrics_service import Metrics

NAME = "wherry"
VERSION = "0.1.0"
# How many items the Stream… calls send at a time: far from gRPC's usual limit of 4 MiB.
_BATCH = 100
Item = TypeVar("Item")
_FEATURES = cri.RuntimeHandlerFeatures(
    recursive_read_only_mounts=True,
    user_namespaces=Path("/proc/self/ns/user").exists(),
)


@dataclass(frozen=True)
class Parts:
    """What the service works with."""

    sandboxes: Records[SandboxRecord]
    containers: Records[ContainerRecord]
    sandbox_manager: SandboxManager
    container_manager: ContainerManager
    executor: Executor
    network: cni.Network
    streaming: StreamingServer
    statistics: Statistics
    metrics: Callable[[], "Metrics"]
    warnings: list[str]


class RuntimeService(api_pb2_grpc.RuntimeServiceServicer):
    """Sandboxes and containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # --- about the runtime ---

    @unary
    async def Version(self, request: cri.VersionRequest) -> cri.VersionResponse:
        return cri.VersionResponse(
            version="0.1.0", runtime_name=NAME, runtime_version=VERSION, runtime_api_version="v1"
        )

    @unary
    async def Status(self, request: cri.StatusRequest) -> cri.StatusResponse:
        message = "; ".join(self._parts.warnings)
        runtime = cri.RuntimeCondition(type="RuntimeReady", status=True, message=message)
        network = cri.RuntimeCondition(type="NetworkReady", status=True)
        try:
            self._parts.network.load()
        except cni.NetworkError as error:
            network.status = False
            network.reason = "NetworkPluginNotReady"
            network.message = f"Network plugin returns error: {error}"
        return cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=[runtime, network]),
            runtime_handlers=[
                cri.RuntimeHandler(name=name, features=_FEATURES) for name in self._parts.sandbox_manager.handlers
            ],
            info=self._info() if request.verbose else {},
            features=cri.RuntimeFeatures(supplemental_groups_policy=True),
        )

    def _info(self) -> dict[str, str]:
        counts = {"sandboxes": len(self._parts.sandboxes.all()), "containers": len(self._parts.containers.all())}
        return {"config": json.dumps({"handlers": list(self._parts.sandbox_manager.handlers), **counts})}

    @unary
    async def RuntimeConfig(self, request: cri.RuntimeConfigRequest) -> cri.RuntimeConfigResponse:
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=cri.CGROUPFS))

    @unary
    async def UpdateRuntimeConfig(self, request: cri.UpdateRuntimeConfigRequest) -> cri.UpdateRuntimeConfigResponse:
        cidr = request.runtime_config.network_config.pod_cidr
        if cidr:
            self._parts.network.write_bridge_list(cidr)
        return cri.UpdateRuntimeConfigResponse()

    # --- sandboxes ---

    @unary
    async def RunPodSandbox(self, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
        record = await self._parts.sandbox_manager.run(request.config, request.runtime_handler)
        events = self._parts.container_manager.events
        for kind in (cri.CONTAINER_CREATED_EVENT, cri.CONTAINER_STARTED_EVENT):
            events.publish((record.id, kind))
        return cri.RunPodSandboxResponse(pod_sandbox_id=record.id)

    @unary
    async def StopPodSandbox(self, request: cri.StopPodSandboxRequest) -> cri.StopPodSandboxResponse:
        await self._parts.sandbox_manager.stop(request.pod_sandbox_id)
        self._parts.container_manager.events.publish((request.pod_sandbox_id, cri.CONTAINER_STOPPED_EVENT))
        return cri.StopPodSandboxResponse()

    @unary
    async def RemovePodSandbox(self, request: cri.RemovePodSandboxRequest) -> cri.RemovePodSandboxResponse:
        await self._parts.sandbox_manager.remove(request.pod_sandbox_id)
        self._parts.container_manager.events.publish((request.pod_sandbox_id, cri.CONTAINER_DELETED_EVENT))
        return cri.RemovePodSandboxResponse()

    @unary
    async def PodSandboxStatus(self, request: cri.PodSandboxStatusRequest) -> cri.PodSandboxStatusResponse:
        record = self._parts.sandboxes.get(request.pod_sandbox_id)
        info = {}
        if request.verbose:
            folder = self._parts.sandbox_manager.folder(record.id)
            info["info"] = json.dumps({"netns": str(folder / "net"), "cniResult": record.network})
        return cri.PodSandboxStatusResponse(
            status=views.sandbox_status(record),
            info=info,
            containers_statuses=self._statuses_of(record.id),
            timestamp=time.time_ns(),
        )

    def _statuses_of(self, sandbox_id: str) -> list[cri.ContainerStatus]:
        return [
            views.container_status(record)
            for record in self._parts.containers.all()
            if record.sandbox_id == sandbox_id and record.state != "creating"
        ]

    @unary
    async def ListPodSandbox(self, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
        return cri.ListPodSandboxResponse(items=self._sandboxes(request.filter))

    @stream
    async def StreamPodSandboxes(
        self, request: cri.StreamPodSandboxesRequest
    ) -> AsyncIterator[cri.StreamPodSandboxesResponse]:
        for batch in _batches(self._sandboxes(request.filter)):
            yield cri.StreamPodSandboxesResponse(pod_sandboxes=batch)

    def _sandboxes(self, wanted: cri.PodSandboxFilter) -> list[cri.PodSandbox]:
        items = [views.sandbox_item(record) for record in self._parts.sandboxes.all() if record.state != "creating"]
        return [
            item
            for item in items
            if item.id.startswith(wanted.id)
            and (not wanted.HasField("state") or item.state == wanted.state.state)
            and views.labels_match(item.labels, wanted.label_selector)
        ]

    @unary
    async def UpdatePodSandboxResources(
        self, request: cri.UpdatePodSandboxResourcesRequest
    ) -> cri.UpdatePodSandboxResourcesResponse:
        # The pod's cgroup is its maker's, the agent's; there is no sandbox process with limits of its own.
        record = self._parts.sandboxes.get(request.pod_sandbox_id)
        config = cri.PodSandboxConfig.FromString(record.config)
        if request.HasField("overhead"):
            config.linux.overhead.CopyFrom(request.overhead)
        if request.HasField("resources"):
            config.linux.resources.CopyFrom(request.resources)
        record.config = config.SerializeToString()
        self._parts.sandboxes.save(record)
        return cri.UpdatePodSandboxResourcesResponse()

    # --- containers ---

    @unary
    async def CreateContainer(self, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
        sandbox = self._parts.sandboxes.get(request.pod_sandbox_id)
        folder = self._parts.sandbox_manager.folder(sandbox.id)
        record = await self._parts.container_manager.create(sandbox, request.config, folder)
        return cri.CreateContainerResponse(container_id=record.id)

    @unary
    async def StartContainer(self, request: cri.StartContainerRequest) -> cri.StartContainerResponse:
        await self._parts.container_manager.start(request.container_id)
        return cri.StartContainerResponse()

    @unary
    async def StopContainer(self, request: cri.StopContainerRequest) -> cri.StopContainerResponse:
        await self._parts.container_manager.stop(request.container_id, request.timeout)
        return cri.StopContainerResponse()

    @unary
    async def RemoveContainer(self, request: cri.RemoveContainerRequest) -> cri.RemoveContainerResponse:
        await self._parts.container_manager.remove(request.container_id)
        return cri.RemoveContainerResponse()

    @unary
    async def ContainerStatus(self, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
        record = self._parts.containers.get(request.container_id)
        info = {}
        if request.verbose:
            info["info"] = json.dumps({"pid": record.pid, "sandboxID": record.sandbox_id, "cgroup": record.cgroup})
        return cri.ContainerStatusResponse(status=views.container_status(record), info=info)

    @unary
    async def ListContainers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        return cri.ListContainersResponse(containers=self._containers(request.filter))

    @stream
    async def StreamContainers(
        self, request: cri.StreamContainersRequest
    ) -> AsyncIterator[cri.StreamContainersResponse]:
        for batch in _batches(self._containers(request.filter)):
            yield cri.StreamContainersResponse(containers=batch)

    def _containers(self, wanted: cri.ContainerFilter) -> list[cri.Container]:
        items = [views.container_item(record) for record in self._parts.containers.all() if record.state != "creating"]
        return [
            item
            for item in items
            if item.id.startswith(wanted.id)
            and item.pod_sandbox_id.startswith(wanted.pod_sandbox_id)
            and (not wanted.HasField("state") or item.state == wanted.state.state)
            and views.labels_match(item.labels, wanted.label_selector)
        ]

    @unary
    async def UpdateContainerResources(
        self, request: cri.UpdateContainerResourcesRequest
    ) -> cri.UpdateContainerResourcesResponse:
        await self._parts.container_manager.update(request.container_id, request.linux)
        return cri.UpdateContainerResourcesResponse()

    @unary
    async def ReopenContainerLog(self, request: cri.ReopenContainerLogRequest) -> cri.ReopenContainerLogResponse:
        await self._parts.container_manager.reopen_log(self._running(request.container_id))
        return cri.ReopenContainerLogResponse()

    @unary
    async def ExecSync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
        record = self._parts.containers.get(request.container_id)
        folder = self._parts.container_manager.folder(record.id)
        output, errors, code = await self._parts.executor.run(record, folder, list(request.cmd), request.timeout)
        return cri.ExecSyncResponse(stdout=output, stderr=errors, exit_code=code)

    @unary
    async def Exec(self, request: cri.ExecRequest) -> cri.ExecResponse:
        record, wanted = self._running(request.container_id), _wanted(request)
        folder = self._parts.container_manager.folder(record.id)
        session = ExecSession(self._parts.executor, record, folder, list(request.cmd), wanted)
        return cri.ExecResponse(url=await self._parts.streaming.url_for("exec", session))

    @unary
    async def Attach(self, request: cri.AttachRequest) -> cri.AttachResponse:
        record, wanted = self._running(request.container_id), _wanted(request)
        session = AttachSession(self._parts.container_manager.folder(record.id), wanted)
        return cri.AttachResponse(url=await self._parts.streaming.url_for("attach", session))

    @unary
    async def PortForward(self, request: cri.PortForwardRequest) -> cri.PortForwardResponse:
        record = self._parts.sandboxes.get(request.pod_sandbox_id)
        if record.state != "ready":
            raise FailedPrecondition(f'sandbox container "{record.id}" is not running')
        netns = self._parts.sandbox_manager.network_namespace(record)
        session = PortForwardSession(netns, request.port)
        return cri.PortForwardResponse(url=await self._parts.streaming.url_for("portforward", session))

    def _running(self, container_id: str) -> ContainerRecord:
        record = self._parts.containers.get(container_id)
        if record.state != "running":
            raise FailedPrecondition("container is not running")
        return record

    # --- statistics ---

    @unary
    async def ContainerStats(self, request: cri.ContainerStatsRequest) -> cri.ContainerStatsResponse:
        return cri.ContainerStatsResponse(stats=await self._parts.statistics.container(request.container_id))

    @unary
    async def ListContainerStats(self, request: cri.ListContainerStatsRequest) -> cri.ListContainerStatsResponse:
        return cri.ListContainerStatsResponse(stats=await self._parts.statistics.containers(request.filter))

    @stream
    async def StreamContainerStats(
        self, request: cri.StreamContainerStatsRequest
    ) -> AsyncIterator[cri.StreamContainerStatsResponse]:
        for batch in _batches(await self._parts.statistics.containers(request.filter)):
            yield cri.StreamContainerStatsResponse(container_stats=batch)

    @unary
    async def PodSandboxStats(self, request: cri.PodSandboxStatsRequest) -> cri.PodSandboxStatsResponse:
        return cri.PodSandboxStatsResponse(stats=await self._parts.statistics.sandbox(request.pod_sandbox_id))

    @unary
    async def ListPodSandboxStats(self, request: cri.ListPodSandboxStatsRequest) -> cri.ListPodSandboxStatsResponse:
        return cri.ListPodSandboxStatsResponse(stats=await self._parts.statistics.sandboxes(request.filter))

    @stream
    async def StreamPodSandboxStats(
        self, request: cri.StreamPodSandboxStatsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxStatsResponse]:
        for batch in _batches(await self._parts.statistics.sandboxes(request.filter)):
            yield cri.StreamPodSandboxStatsResponse(pod_sandbox_stats=batch)

    @unary
    async def ListMetricDescriptors(
        self, request: cri.ListMetricDescriptorsRequest
    ) -> cri.ListMetricDescriptorsResponse:
        return cri.ListMetricDescriptorsResponse(descriptors=self._parts.metrics().descriptors())

    @unary
    async def ListPodSandboxMetrics(
        self, request: cri.ListPodSandboxMetricsRequest
    ) -> cri.ListPodSandboxMetricsResponse:
        return cri.ListPodSandboxMetricsResponse(pod_metrics=await self._parts.metrics().all())

    @stream
    async def StreamPodSandboxMetrics(
        self, request: cri.StreamPodSandboxMetricsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxMetricsResponse]:
        for batch in _batches(await self._parts.metrics().all()):
            yield cri.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=batch)

    @unary
    async def CheckpointContainer(self, request: cri.CheckpointContainerRequest) -> cri.CheckpointContainerResponse:
        manager = self._parts.container_manager
        await manager.checkpoint(request.container_id, request.location, request.timeout)
        return cri.CheckpointContainerResponse()

    @stream
    async def GetContainerEvents(self, request: cri.GetEventsRequest) -> AsyncIterator[cri.ContainerEventResponse]:
        async for container_id, kind in self._parts.container_manager.events.subscribe():
            yield self._event(container_id, kind)

    def _event(self, container_id: str, kind: cri.ContainerEventType) -> cri.ContainerEventResponse:
        event = cri.ContainerEventResponse(
            container_id=container_id, container_event_type=kind, created_at=time.time_ns()
        )
        container = self._parts.containers.find(container_id)
        sandbox = self._parts.sandboxes.find(container.sandbox_id if container else container_id)
        if sandbox:
            event.pod_sandbox_status.CopyFrom(views.sandbox_status(sandbox))
            event.containers_statuses.extend(self._statuses_of(sandbox.id))
        return event


def _wanted(request: cri.ExecRequest | cri.AttachRequest) -> Wanted:
    """The streams asked for.

    Raises: InvalidArgument for a combination that CRI forbids.
    """
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("one of stdin, stdout, or stderr must be set")
    if request.tty and request.stderr:
        raise InvalidArgument("tty and stderr cannot both be true")
    return Wanted(request.stdin, request.stdout, request.stderr, request.tty)


def _batches(items: list[Item]) -> Iterable[list[Item]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
