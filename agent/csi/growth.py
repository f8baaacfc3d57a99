"""Has drivers grow mounted volumes that were granted more: the node's part of a claim's growth.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from agent.pod_state import is_over
from agent.volumes.claims import Source
from machinery.api.quantity import to_bytes
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
_PENDING = ("Resizing", "FileSystemResizePending")
Pod = Mapping[str, Any]


class VolumeGrowth:
    """Looks now and then whether volumes of drivers are to grow."""

    def __init__(self, services: NodeServices, pods: PodManager) -> None:
        self._services = services
        self._client: Client = services.client
        self._pods = pods
        self._failed: set[tuple[str, str]] = set()  # volumes that did not grow, and the size they did not reach

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for pod, volume, source in list(self._claimed()):
                try:
                    await self._look(pod, volume, source)
                except (APIError, ConnectionFailed, OSError) as error:
                    log.info("volume %s does not grow now: %s", source.volume, error)

    def _claimed(self) -> Iterator[tuple[Pod, Mapping[str, Any], Source]]:
        """Yield the volumes of drivers that are claims', each once."""
        known: set[str] = set()
        for one in self._pods.runtimes():
            for volume in one.pod["spec"].get("volumes") or ():
                source = self._services.volumes.bound(one.pod, volume)
                is_drivers = source is not None and source.csi is not None and source.volume
                if is_drivers and source is not None and source.volume not in known and not is_over(one.pod):
                    known.add(source.volume)
                    yield one.pod, volume, source

    async def _look(self, pod: Pod, volume: Mapping[str, Any], source: Source) -> None:
        namespace, name = source.claim
        claim = await self._client.get(PERSISTENT_VOLUME_CLAIMS, name, namespace)
        status = claim.get("status") or {}
        has = (status.get("capacity") or {}).get("storage")
        if has is None or to_bytes(claim["spec"]["resources"]["requests"]["storage"]) <= to_bytes(has):
            return
        granted = (await self._client.get(PERSISTENT_VOLUMES, source.volume))["spec"]["capacity"]["storage"]
        if to_bytes(granted) <= to_bytes(has) or source.read_only:
            return  # its controller has not come to it yet
        place = self._services.volumes.path(pod, volume)
        await self._grow(pod, source, place, granted, status)

    async def _grow(self, pod: Pod, source: Source, place: "Path", size: str, status: Mapping[str, Any]) -> None:
        try:
            await self._services.volumes.grow(source, place, to_bytes(size))
        except OSError as error:
            if (source.volume, size) not in self._failed:  # told once, tried again and again
                self._failed.add((source.volume, size))
                text = f'NodeExpandVolume failed for volume "{source.volume}" : {error}'
                await self._services.recorder.event(pod, "Warning", "VolumeResizeFailed", text)
            raise
        self._failed.discard((source.volume, size))
        kept = [one for one in status.get("conditions") or () if one["type"] not in _PENDING]
        patch = {"capacity": {"storage": size}, "conditions": kept, "allocatedResourceStatuses": None}
        namespace, name = source.claim
        await self._client.patch(
            PERSISTENT_VOLUME_CLAIMS, name, {"status": patch}, namespace, subresource="status"
        )  # fmt: skip
        text = f'MountVolume.NodeExpandVolume succeeded for volume "{source.volume}" {self._services.config.node_name}'
        await self._services.recorder.event(pod, "Normal", "FileSystemResizeSuccessful", text)
