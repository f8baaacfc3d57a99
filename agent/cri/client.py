"""The agent's view of a container runtime: CRI v1 calls with deadlines, errors as one exception.

Source: https://kubernetes.io/docs/concepts/architecture/cri/
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grpc

from agent.cri import api_pb2 as cri
from agent.cri.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

T = TypeVar("T")
CALL_SECONDS = 120.0
PULL_SECONDS = 3600.0
_OPTIONS = (
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.default_authority", "localhost"),
)

# Under these the runtime keeps whose a sandbox or container is.
POD_NAME, POD_NAMESPACE, POD_UID = "io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"


class RuntimeFailure(Exception):
    """The runtime could not do what was asked; `code` is its gRPC status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_away(self) -> bool:
        """Whether the runtime could not be reached at all."""
        return self.code == grpc.StatusCode.UNAVAILABLE

    @property
    def is_absent(self) -> bool:
        """Whether what was asked for does not exist."""
        return self.code == grpc.StatusCode.NOT_FOUND


class Runtime:
    """A connection to a runtime."""

    is_simulated = False
    """Whether nothing is behind it: then there are no files, no cgroups, and nothing to probe."""

    def __init__(self, socket: Path) -> None:
        # Told of each call: its name as kubelets' metrics have it, seconds, whether it failed.
        self.observe: Callable[[str, float, bool], None] = lambda *_: None
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=_OPTIONS)
        self._runtime: Any = RuntimeServiceStub(self._channel)
        self._images: Any = ImageServiceStub(self._channel)

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def _call(
        self, operation: str, method: Callable[..., Awaitable[T]], request: Any, *,
        timeout: float | None = CALL_SECONDS, wait_for_ready: bool | None = None,
    ) -> T:  # fmt: skip
        began, failed = time.perf_counter(), True
        try:
            answer = await method(request, timeout=timeout, wait_for_ready=wait_for_ready)
            failed = False
        except grpc.aio.AioRpcError as error:
            raise RuntimeFailure(error.code(), error.details() or str(error.code())) from error
        else:
            return answer
        finally:
            self.observe(operation, time.perf_counter() - began, failed)

    async def wait_until_up(self) -> str:
        """Wait for the runtime; returns its name and version as containerRuntimeVersion tells them."""
        version = await self._call(
            "version", self._runtime.Version, cri.VersionRequest(), timeout=None, wait_for_ready=True
        )
        return f"{version.runtime_name}://{version.runtime_version}"

    async def conditions(self) -> Mapping[str, tuple[bool, str, str]]:
        """Return the runtime's conditions: type to (status, reason, message)."""
        answer = await self._call("status", self._runtime.Status, cri.StatusRequest(), timeout=10)
        return {one.type: (one.status, one.reason, one.message) for one in answer.status.conditions}

    async def handlers(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the OCI runtimes there are with what they can do, and what the runtime can, as nodes tell it."""
        answer = await self._call("status", self._runtime.Status, cri.StatusRequest(), timeout=10)
        found = [
            {
                "name": one.name,
                "features": {
                    "recursiveReadOnlyMounts": one.features.recursive_read_only_mounts,
                    "userNamespaces": one.features.user_namespaces,
                },
            }
            for one in answer.runtime_handlers
        ]
        features = {"supplementalGroupsPolicy": answer.features.supplemental_groups_policy}
        return found, features if answer.HasField("features") else {}

    async def sandboxes(self, uid: str = "") -> list[Any]:
        """Return the sandboxes of a pod, or all."""
        labels = {POD_UID: uid} if uid else {}
        request = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(label_selector=labels))
        return list((await self._call("list_podsandbox", self._runtime.ListPodSandbox, request)).items)

    async def sandbox_status(self, sandbox_id: str) -> Any:
        """Return a sandbox's status. Raises: RuntimeFailure, absent when it is gone."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        return (await self._call("podsandbox_status", self._runtime.PodSandboxStatus, request)).status

    async def run_sandbox(self, config: Any, handler: str = "") -> str:
        """Make and start a sandbox by the OCI runtime of that name ("" for the usual one); returns its id."""
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return str((await self._call("run_podsandbox", self._runtime.RunPodSandbox, request)).pod_sandbox_id)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop a sandbox and what runs in it."""
        request = cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._call("stop_podsandbox", self._runtime.StopPodSandbox, request)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Remove a sandbox with its containers."""
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._call("remove_podsandbox", self._runtime.RemovePodSandbox, request)

    async def containers(self, uid: str = "") -> list[Any]:
        """Return the containers of a pod, or all, whatever their state."""
        labels = {POD_UID: uid} if uid else {}
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(label_selector=labels))
        return list((await self._call("list_containers", self._runtime.ListContainers, request)).containers)

    async def container_status(self, container_id: str) -> Any:
        """Return a container's status."""
        request = cri.ContainerStatusRequest(container_id=container_id)
        return (await self._call("container_status", self._runtime.ContainerStatus, request)).status

    async def create_container(self, sandbox_id: str, config: Any, sandbox_config: Any) -> str:
        """Make a container; returns its id."""
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox_config)
        return str((await self._call("create_container", self._runtime.CreateContainer, request)).container_id)

    async def start_container(self, container_id: str) -> None:
        """Start a container."""
        request = cri.StartContainerRequest(container_id=container_id)
        await self._call("start_container", self._runtime.StartContainer, request)

    async def stop_container(self, container_id: str, grace_seconds: int) -> None:
        """Stop a container, by force when its grace is over."""
        request = cri.StopContainerRequest(container_id=container_id, timeout=grace_seconds)
        await self._call("stop_container", self._runtime.StopContainer, request, timeout=grace_seconds + CALL_SECONDS)

    async def remove_container(self, container_id: str) -> None:
        """Remove a container that has ended."""
        request = cri.RemoveContainerRequest(container_id=container_id)
        await self._call("remove_container", self._runtime.RemoveContainer, request)

    async def update_container(self, container_id: str, resources: Any) -> None:
        """Change the limits of a running container."""
        request = cri.UpdateContainerResourcesRequest(container_id=container_id, linux=resources)
        await self._call("update_container", self._runtime.UpdateContainerResources, request)

    async def exec_sync(self, container_id: str, command: list[str], timeout_seconds: int) -> tuple[int, str]:
        """Run a command in a container; returns exit code and output. Raises: RuntimeFailure, at the time limit too."""
        request = cri.ExecSyncRequest(container_id=container_id, cmd=command, timeout=timeout_seconds)
        answer = await self._call("exec_sync", self._runtime.ExecSync, request, timeout=timeout_seconds + CALL_SECONDS)
        return int(answer.exit_code), (answer.stdout + answer.stderr).decode(errors="replace")

    async def exec_url(self, request: Any) -> str:
        """Return where an exec is streamed."""
        return str((await self._call("exec", self._runtime.Exec, request)).url)

    async def attach_url(self, request: Any) -> str:
        """Return where an attach is streamed."""
        return str((await self._call("attach", self._runtime.Attach, request)).url)

    async def port_forward_url(self, request: Any) -> str:
        """Return where port forwarding is streamed."""
        return str((await self._call("port_forward", self._runtime.PortForward, request)).url)

    async def stats(self) -> list[Any]:
        """Return the statistics of all containers; one that vanishes meanwhile is left out."""
        request = cri.ListContainerStatsRequest()
        try:
            return list((await self._call("list_container_stats", self._runtime.ListContainerStats, request)).stats)
        except RuntimeFailure as error:
            if error.is_away:
                raise
        found = (await self.containers(), self._runtime.ContainerStats, cri.ContainerStatsRequest, "container_id")
        return await self._one_by_one("container_stats", *found)

    async def sandbox_stats(self) -> list[Any]:
        """Return the statistics of all sandboxes; of a runtime that has only containers' they are added up."""
        request = cri.ListPodSandboxStatsRequest()
        try:
            return list((await self._call("list_podsandbox_stats", self._runtime.ListPodSandboxStats, request)).stats)
        except RuntimeFailure as error:
            if error.code == grpc.StatusCode.UNIMPLEMENTED:
                return _added_up(await self.stats())
            if error.is_away:
                raise
        found = (await self.sandboxes(), self._runtime.PodSandboxStats, cri.PodSandboxStatsRequest, "pod_sandbox_id")
        return await self._one_by_one("podsandbox_stats", *found)

    async def _one_by_one(self, operation: str, listed: list[Any], ask: Any, request: Any, field: str) -> list[Any]:
        """Ask for each one's statistics: containerd fails the whole list for one sandbox that is half gone."""
        calls = [self._call(operation, ask, request(**{field: one.id})) for one in listed]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [answer.stats for answer in answers if not isinstance(answer, BaseException)]

    async def pod_metrics(self) -> tuple[dict[str, Any], list[Any]]:
        """Return what the runtime measures: descriptors by name, and pods' metrics. Raises: RuntimeFailure."""
        listed, asked = cri.ListMetricDescriptorsRequest(), cri.ListPodSandboxMetricsRequest()
        told = await self._call("list_metric_descriptors", self._runtime.ListMetricDescriptors, listed)
        measured = await self._call("list_podsandbox_metrics", self._runtime.ListPodSandboxMetrics, asked)
        return {one.name: one for one in told.descriptors}, list(measured.pod_metrics)

    async def reopen_log(self, container_id: str) -> None:
        """Have a container's output go to a new file at its log's path."""
        request = cri.ReopenContainerLogRequest(container_id=container_id)
        await self._call("reopen_container_log", self._runtime.ReopenContainerLog, request)

    async def checkpoint(self, container_id: str, path: Path, timeout_seconds: int) -> None:
        """Write a running container's state to an archive. Raises: RuntimeFailure."""
        request = cri.CheckpointContainerRequest(
            container_id=container_id, location=str(path), timeout=timeout_seconds
        )  # fmt: skip
        seconds = timeout_seconds or CALL_SECONDS
        await self._call("checkpoint_container", self._runtime.CheckpointContainer, request, timeout=seconds)

    async def events(self) -> AsyncIterator[Any]:
        """Yield container events until the connection breaks. Raises: RuntimeFailure."""
        try:
            async for event in self._runtime.GetContainerEvents(cri.GetEventsRequest()):
                yield event
        except grpc.aio.AioRpcError as error:
            raise RuntimeFailure(error.code(), error.details() or "") from error

    async def image(self, name: str) -> Any:
        """Return an image that is on this machine, or None."""
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=name))
        answer = await self._call("image_status", self._images.ImageStatus, request)
        return answer.image if answer.HasField("image") and answer.image.id else None

    async def pull(self, name: str, auth: Mapping[str, str] | None, sandbox_config: Any) -> str:
        """Fetch an image; returns its reference."""
        credentials = cri.AuthConfig(**auth) if auth else None
        request = cri.PullImageRequest(image=cri.ImageSpec(image=name), auth=credentials, sandbox_config=sandbox_config)
        return str((await self._call("pull_image", self._images.PullImage, request, timeout=PULL_SECONDS)).image_ref)

    async def images(self) -> list[Any]:
        """Return all images on this machine."""
        answer = await self._call("list_images", self._images.ListImages, cri.ListImagesRequest())
        return list(answer.images)

    async def remove_image(self, image_id: str) -> None:
        """Remove an image."""
        request = cri.RemoveImageRequest(image=cri.ImageSpec(image=image_id))
        await self._call("remove_image", self._images.RemoveImage, request)

    async def set_pod_cidr(self, pod_cidr: str) -> None:
        """Tell the runtime the pods' range."""
        config = cri.RuntimeConfig(network_config=cri.NetworkConfig(pod_cidr=pod_cidr))
        request = cri.UpdateRuntimeConfigRequest(runtime_config=config)
        await self._call("update_runtime_config", self._runtime.UpdateRuntimeConfig, request)


def _added_up(stats: list[Any]) -> list[Any]:
    found: dict[str, Any] = {}
    for one in stats:
        labels = one.attributes.labels
        pod = found.setdefault(labels.get(POD_UID, ""), cri.PodSandboxStats())
        for name in (POD_NAME, POD_NAMESPACE, POD_UID):
            pod.attributes.labels[name] = labels.get(name, "")
        pod.linux.containers.append(one)
        pod.linux.cpu.timestamp = pod.linux.memory.timestamp = one.cpu.timestamp
        for group, field in (
            ("cpu", "usage_core_nano_seconds"), ("cpu", "usage_nano_cores"), ("memory", "working_set_bytes"),
            ("memory", "usage_bytes"), ("memory", "rss_bytes"),
        ):  # fmt: skip
            getattr(getattr(pod.linux, group), field).value += getattr(getattr(one, group), field).value
    return list(found.values())
