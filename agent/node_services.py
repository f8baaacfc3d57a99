"""What a pod needs of its node: the runtime, the API, volumes, tokens; one object handed to every pod."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from agent.config import AgentConfig
from agent.container_config import linux_resources, log_folder
from agent.cpu_manager import CpuManager
from agent.cri.client import Runtime, RuntimeFailure
from agent.deviceplugin.manager import DevicePlugins
from agent.dra.claims import ResourceClaims
from agent.id_ranges import IdRanges
from agent.images import ImagePuller
from agent.logs import open_log
from agent.metrics import Metrics
from agent.objects import ObjectSource, TokenSource
from agent.resizes import Resizes
from agent.volumes.manager import VolumeManager
from machinery.api.resources import RUNTIME_CLASSES
from machinery.client.events import EventRecorder
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import NotFound

Pod = Mapping[str, Any]
_MAX_MESSAGE_BYTES = 4096
_FALLBACK_BYTES, _FALLBACK_LINES = 2048, 80


async def _open(_namespace: str, _ips: tuple[str, ...]) -> None:
    """Hold nobody back."""


@dataclass(slots=True)
class NodeServices:
    """The parts of an agent that its pods use."""

    config: AgentConfig
    client: Client
    runtime: Runtime
    recorder: EventRecorder
    volumes: VolumeManager
    puller: ImagePuller
    objects: ObjectSource
    tokens: TokenSource
    services: Callable[[], Sequence[Mapping[str, Any]] | None]  # None while nobody has told of them
    admission_failure: Callable[[Pod], tuple[str, str] | None]
    resizes: Resizes
    ids: IdRanges
    # Waits until what is to hold a pod of these addresses back holds: (namespace, addresses).
    network_gate: Callable[[str, tuple[str, ...]], Awaitable[None]] = _open
    # Ends other pods so that a critical one, refused for a reason, can be taken; returns whether it is to wait.
    make_room: Callable[[Pod, str], bool] = lambda *_: False
    devices: DevicePlugins | None = None
    cpus: CpuManager | None = None
    claims: ResourceClaims | None = None
    allocatable: dict[str, str] = field(default_factory=dict)
    memory_bytes: int = 0  # what the machine has
    container_scheme: str = "wherry://"
    handlers: dict[str, str] = field(default_factory=dict)  # RuntimeClass -> handler, as far as they were asked for
    metrics: Metrics = field(default_factory=Metrics)
    keep_pod: Callable[[Pod], None] = lambda _: None  # has a pod's status outlive this agent
    began_at: float = field(default_factory=time.time)  # when this agent did

    async def runtime_handler(self, pod: Pod) -> str:
        """Return the OCI runtime a pod's RuntimeClass names, "" for the usual one. Raises: RuntimeFailure."""
        name = pod["spec"].get("runtimeClassName")
        if not name:
            return ""
        try:
            found = await self.client.get(RUNTIME_CLASSES, name)
        except NotFound as error:
            text = f'failed to get runtime class: runtimeclass.node.k8s.io "{name}" not found'
            raise RuntimeFailure(grpc.StatusCode.NOT_FOUND, text) from error
        except ConnectionFailed:
            if name not in self.handlers:
                raise
            return self.handlers[name]  # as it was told when the API could be reached
        self.handlers[name] = str(found["handler"])
        return self.handlers[name]

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self.tokens.forget(uid)
        self.objects.forget(uid)
        self.resizes.forget(uid)
        if self.devices is not None:
            self.devices.forget(uid)
        if self.cpus is not None:
            self.cpus.forget(uid)

    def linux_resources(self, pod: Pod, container: Mapping[str, Any]) -> Any:
        """Return a container's cgroup settings, with the CPUs that are its own. Raises: ConfigError."""
        found = linux_resources(pod, container, self.memory_bytes)
        if self.cpus is not None:
            found.cpuset_cpus = self.cpus.cpus(pod, container)
        return found

    async def remove_logs(self, pod: Pod) -> None:
        """Remove a pod's logs."""
        await asyncio.to_thread(shutil.rmtree, log_folder(self.config.logs_dir, pod), ignore_errors=True)

    def termination_message(self, pod: Pod, container: Mapping[str, Any], attempt: int, *, failed: bool) -> str:
        """Return what a container left as its last words: its file, or the end of its log where it asked for that."""
        path = self.volumes.folder(pod["metadata"]["uid"]) / "termination" / f"{container['name']}-{attempt}"
        text = _tail(self.config.pods_dir, path, _MAX_MESSAGE_BYTES)
        if text or not failed or container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return text
        log = log_folder(self.config.logs_dir, pod) / container["name"] / f"{attempt}.log"
        lines = _tail(self.config.logs_dir, log, 4 * _FALLBACK_BYTES).splitlines()[-_FALLBACK_LINES:]
        return "\n".join(line.split(" ", 3)[-1] for line in lines)[-_FALLBACK_BYTES:]


def _tail(root: Path, path: Path, size: int) -> str:
    try:
        with open_log(root, path) as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - size, 0))
            return str(file.read().decode(errors="replace"))
    except OSError:
        return ""
