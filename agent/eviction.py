"""Ends pods when this node runs short, or when a pod takes more of its disk than it may.

Sources: https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/,
https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#local-ephemeral-storage
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.admission import requested
from agent.container_config import log_folder
from agent.cri.client import CONTAINER_NAME, POD_UID, RuntimeFailure
from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from agent.pod_state import Pod, is_critical, is_over, specs
from agent.statistics import disk_usage
from machinery.api.quantity import to_bytes

log = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
_SIGNALS = {
    "memory": "memory.available", "ephemeral-storage": "nodefs.available", "inodes": "nodefs.inodesFree",
    "pids": "pid.available",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Usage:
    """What one pod uses: memory and disk (beside that of its claims) in bytes; files; processes."""

    pod: Pod
    memory: int = 0
    disk: int = 0
    files: int = 0
    processes: int = 0


def rank(usages: Sequence[Usage], resource: str) -> list[Usage]:
    """Return pods as they are to go: those over their requests first, then by priority, then by how far over.

    Nobody requests files or processes: there priority and number alone count.
    """

    def key(one: Usage) -> tuple[bool, int, int]:
        if resource in ("inodes", "pids"):
            number = one.files if resource == "inodes" else one.processes
            return False, int(one.pod["spec"].get("priority") or 0), -number
        asked = requested(one.pod, "memory" if resource == "memory" else "ephemeral-storage")
        over = (one.memory if resource == "memory" else one.disk) - asked
        return over <= 0, int(one.pod["spec"].get("priority") or 0), -over

    return sorted((one for one in usages if not is_critical(one.pod)), key=key)


def has_storage_limits(pod: Pod) -> bool:
    """Whether a pod may use only so much of the node's disk."""
    volumes, containers = pod["spec"].get("volumes") or (), specs(pod, "containers")
    return any((one.get("emptyDir") or {}).get("sizeLimit") for one in volumes) or any(
        "ephemeral-storage" in ((one.get("resources") or {}).get("limits") or {}) for one in containers
    )


def storage_excess(pod: Pod, layers: Mapping[str, int], logs: Mapping[str, int], volumes: Mapping[str, int]) -> str:
    """Return why a pod takes more of the node's disk than it may, "" when it doesn't.

    Args: bytes of each container's own layer and of its logs, and of each emptyDir, by their names.
    """
    for volume in pod["spec"].get("volumes") or ():
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        if limit and to_bytes(limit) and volumes.get(volume["name"], 0) > to_bytes(limit):
            return f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{limit}". '
    total = 0
    limits = []
    for spec in specs(pod, "containers"):
        used = layers.get(spec["name"], 0) + logs.get(spec["name"], 0)
        total += used
        limit = ((spec.get("resources") or {}).get("limits") or {}).get("ephemeral-storage")
        if limit is None:
            continue
        limits.append(to_bytes(limit))
        if used > to_bytes(limit):
            return f'Container {spec["name"]} exceeded its local ephemeral storage limit "{limit}". '
    total += sum(volumes.values())
    if len(limits) == len(specs(pod, "containers")) and limits and total > sum(limits):
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {sum(limits)}. "
    return ""


class Evictor:
    """Looks after the node's memory and disk."""

    def __init__(
        self, services: NodeServices, pods: PodManager, pressures: Callable[[], Mapping[str, str]]
    ) -> None:  # fmt: skip
        """Args: `pressures` returns what the node is short of: memory or ephemeral-storage, and how that is told."""
        self._services = services
        self._pods = pods
        self._pressures = pressures

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.look()
            except RuntimeFailure as error:
                log.info("nothing can be evicted now: %s", error)

    async def look(self) -> None:
        """Look once: end pods that exceed their own limits, and one of all when the node is short."""
        if not self._pressures() and not any(has_storage_limits(pod) for pod in self._pods.pods()):
            return  # looking costs, and nothing could follow from it
        layers = await self._layers()
        processes = await self._processes() if "pids" in self._pressures() else {}
        usages = []
        for runtime in list(self._pods.runtimes()):
            pod = runtime.pod
            if is_over(pod) or pod["metadata"].get("deletionTimestamp"):
                continue
            uid = pod["metadata"]["uid"]
            own = {name: disk for (owner, name), (_, disk) in layers.items() if owner == uid}
            logs, volumes = await asyncio.to_thread(self._files, pod)
            if excess := storage_excess(pod, own, logs, volumes):
                runtime.evict("Evicted", excess)
                self._services.metrics.add("kubelet_evictions", _signal_of(excess))
                continue
            memory = sum(used for (owner, _), (used, _) in layers.items() if owner == uid)
            disk = sum(own.values()) + sum(logs.values()) + sum(volumes.values())
            files = await asyncio.to_thread(self._count_files, pod) if "inodes" in self._pressures() else 0
            usages.append(Usage(pod, memory, disk, files, processes.get(uid, 0)))
        for resource, text in self._pressures().items():
            for one in rank(usages, resource)[:1]:
                self._evict(one, resource, text)
                return  # one at a time: what it gives back shows at the next look

    def _evict(self, one: Usage, resource: str, text: str) -> None:
        found = self._pods.find(one.pod["metadata"]["namespace"], one.pod["metadata"]["name"])
        if found is not None:
            found.evict("Evicted", f"The node was low on resource: {resource}. {text}")
            self._services.metrics.add("kubelet_evictions", _SIGNALS[resource])

    async def _layers(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return memory and layer size of each container, by the uid of its pod and its name."""
        found = {}
        for one in await self._services.runtime.stats():
            labels = one.attributes.labels
            key = (labels.get(POD_UID, ""), labels.get(CONTAINER_NAME, ""))
            found[key] = (one.memory.working_set_bytes.value, one.writable_layer.used_bytes.value)
        return found

    async def _processes(self) -> dict[str, int]:
        """Return how many processes each pod has, by its uid."""
        stats = await self._services.runtime.sandbox_stats()
        return {one.attributes.labels.get(POD_UID, ""): one.linux.process.process_count.value for one in stats}

    def _count_files(self, pod: Pod) -> int:
        """Return how many files and folders a pod has in its volumes and logs. Blocks."""
        folders = (
            self._services.volumes.folder(pod["metadata"]["uid"]),
            log_folder(self._services.config.logs_dir, pod),
        )
        return sum(len(names) + len(files) for folder in folders for _, names, files in os.walk(folder))

    def _files(self, pod: Pod) -> tuple[dict[str, int], dict[str, int]]:
        """Return the sizes of containers' logs and of emptyDirs. Blocks."""
        folder = log_folder(self._services.config.logs_dir, pod)
        logs = {spec["name"]: disk_usage(folder / spec["name"]) for spec in specs(pod, "containers")}
        volumes = {
            one["name"]: disk_usage(self._services.volumes.path(pod, one))
            for one in pod["spec"].get("volumes") or ()
            if "emptyDir" in one and not (one["emptyDir"] or {}).get("medium")
        }
        # A container may write to its /etc/hosts as well (CVE-2020-8557).
        volumes["/etc/hosts"] = disk_usage(self._services.volumes.folder(pod["metadata"]["uid"]), below=False)
        return logs, volumes


def _signal_of(excess: str) -> str:
    """Return the name of a limit that was passed, as kubelets' metrics have it."""
    if excess.startswith("Usage of EmptyDir"):
        return "emptydirfs.limit"
    return "ephemeralcontainerfs.limit" if excess.startswith("Container") else "ephemeralpodfs.limit"


class ImageCollector:
    """Removes images that nothing uses when the disk gets full, those longest out of use first.

    Source: https://kubernetes.io/docs/concepts/architecture/garbage-collection/#container-image-lifecycle
    """

    def __init__(self, services: NodeServices, disk_percent: Callable[[], float]) -> None:
        """Args: `disk_percent` tells how full the disk is; the settings tell from where on images go, and how far."""
        self._services = services
        self._disk_percent = disk_percent
        self._seen_at: dict[str, float] = {}
        self._used_at: dict[str, float] = {}

    async def run(self, seconds: float = 300.0) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except RuntimeFailure as error:
                log.info("images are not collected now: %s", error)
            await asyncio.sleep(seconds)

    async def look(self) -> list[str]:
        """Look once; returns the images that were removed."""
        runtime, now = self._services.runtime, asyncio.get_running_loop().time()
        images = await runtime.images()
        in_use = {name for one in await runtime.containers() for name in (one.image.image, one.image_ref, one.image_id)}
        for image in images:
            if in_use & {image.id, *image.repo_tags, *image.repo_digests}:
                self._used_at[image.id] = now
            self._used_at.setdefault(image.id, now)
            self._seen_at.setdefault(image.id, now)
        await asyncio.to_thread(self._services.puller.keep, {image.id for image in images})
        idle = [
            one for one in sorted(images, key=lambda one: self._used_at[one.id])
            if not (one.pinned or in_use & {one.id, *one.repo_tags, *one.repo_digests})
        ]  # fmt: skip
        return [*await self._remove_old(idle, now), *await self._make_room(idle, now)]

    async def _remove_old(self, idle: list[Any], now: float) -> list[str]:
        """Remove what nothing has used for longer than images are kept at most; takes them out of `idle`."""
        most = self._services.config.settings.image_max_age
        old = [one for one in idle if most and now - self._used_at[one.id] > most]
        for one in old:
            idle.remove(one)
            await self._remove(one.id, "age")
        return [one.id for one in old]

    async def _make_room(self, idle: list[Any], now: float) -> list[str]:
        """Remove images until the disk is as empty as it is to be, if it is too full."""
        settings = self._services.config.settings
        removed: list[str] = []
        if self._disk_percent() <= settings.image_gc_high:
            return removed
        for one in idle:
            if self._disk_percent() <= settings.image_gc_low:
                break
            if now - self._seen_at[one.id] >= settings.image_min_age:
                await self._remove(one.id, "space")
                removed.append(one.id)
        return removed

    async def _remove(self, image_id: str, why: str) -> None:
        await self._services.runtime.remove_image(image_id)
        self._services.metrics.add("kubelet_image_garbage_collected_total", why)
