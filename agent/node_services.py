"""What a pod needs of its node: the runtime, the API, volumes, tokens; one object handed to every pod."""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.config import AgentConfig
from agent.container_config import log_folder
from agent.cri.client import Runtime
from agent.images import ImagePuller
from agent.objects import ObjectSource, TokenSource
from agent.volumes.manager import VolumeManager
from machinery.client.events import EventRecorder
from machinery.client.rest import Client

Pod = Mapping[str, Any]
_MAX_MESSAGE_BYTES = 4096
_FALLBACK_BYTES, _FALLBACK_LINES = 2048, 80


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
    services: Callable[[], Sequence[Mapping[str, Any]]]
    admission_failure: Callable[[Pod], tuple[str, str] | None]
    allocatable: dict[str, str] = field(default_factory=dict)
    container_scheme: str = "wherry://"

    async def remove_logs(self, pod: Pod) -> None:
        """Remove a pod's logs."""
        await asyncio.to_thread(shutil.rmtree, log_folder(self.config.logs_dir, pod), ignore_errors=True)

    def termination_message(self, pod: Pod, container: Mapping[str, Any], attempt: int, *, failed: bool) -> str:
        """Return what a container left as its last words: its file, or the end of its log where it asked for that."""
        path = self.volumes.folder(pod["metadata"]["uid"]) / "termination" / f"{container['name']}-{attempt}"
        text = _tail(path, _MAX_MESSAGE_BYTES)
        if text or not failed or container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return text
        log = log_folder(self.config.logs_dir, pod) / container["name"] / f"{attempt}.log"
        lines = _tail(log, 4 * _FALLBACK_BYTES).splitlines()[-_FALLBACK_LINES:]
        return "\n".join(line.split(" ", 3)[-1] for line in lines)[-_FALLBACK_BYTES:]


def _tail(path: Any, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - size, 0))
            return str(file.read().decode(errors="replace"))
    except OSError:
        return ""
