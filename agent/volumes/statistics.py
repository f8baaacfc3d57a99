"""How full the volumes of a pod are, as the Summary API tells it.

Source: https://kubernetes.io/docs/reference/instrumentation/node-metrics/
"""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.volumes.manager import FILE_SOURCES, VolumeManager

Pod = Mapping[str, Any]
Stats = dict[str, Any]
# Looking into each folder costs, and drivers may be slow: no more often than this.
_KEEP_SECONDS = 60.0
_CALL_SECONDS = 10.0


class VolumeStatistics:
    """Measures the volumes of this node's pods now and then."""

    def __init__(self, volumes: VolumeManager) -> None:
        self._volumes = volumes
        self._kept: dict[str, tuple[float, list[Stats]]] = {}

    async def of_pod(self, pod: Pod) -> list[Stats]:
        """Return the statistics of each volume that has any."""
        uid, now = pod["metadata"]["uid"], time.monotonic()
        kept = self._kept.get(uid)
        if kept is not None and now < kept[0]:
            return kept[1]
        found = [await self._volume(pod, one) for one in pod["spec"].get("volumes") or ()]
        told = [one for one in found if one is not None]
        self._kept = {key: value for key, value in self._kept.items() if value[0] > now - _KEEP_SECONDS}
        self._kept[uid] = (now + _KEEP_SECONDS, told)
        return told

    async def _volume(self, pod: Pod, volume: Mapping[str, Any]) -> Stats | None:
        usage = await self._measure(pod, volume)
        if usage is None:
            return None
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        found: Stats = {"time": stamp, **usage, "name": volume["name"]}
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if "ephemeral" in volume:
            claim = f"{pod['metadata']['name']}-{volume['name']}"
        if claim:
            found["pvcRef"] = {"name": claim, "namespace": pod["metadata"]["namespace"]}
        return found

    async def _measure(self, pod: Pod, volume: Mapping[str, Any]) -> Stats | None:
        path = self._volumes.path(pod, volume)
        source = self._volumes.bound(pod, volume)
        if source is not None and source.csi is not None:
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    return await self._volumes.drivers_statistics(source.csi, path)
            except (OSError, TimeoutError):
                return None
        if source is not None:
            return None if source.is_block else await asyncio.to_thread(_of_file_system, path)
        is_own = "emptyDir" in volume or any(kind in volume for kind in FILE_SOURCES)
        if is_own and not (volume.get("emptyDir") or {}).get("medium"):
            return await asyncio.to_thread(_of_folder, path)
        if is_own or "nfs" in volume:
            return await asyncio.to_thread(_of_file_system, path)
        return None  # a path of the host: whose it is can't be told


def _of_file_system(path: Path) -> Stats | None:
    """Measure a volume that is a file system, or lies on the one of the machine. Blocks."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return {
        "availableBytes": found.f_bavail * found.f_frsize, "capacityBytes": found.f_blocks * found.f_frsize,
        "usedBytes": (found.f_blocks - found.f_bfree) * found.f_frsize, "inodesFree": found.f_ffree,
        "inodes": found.f_files, "inodesUsed": found.f_files - found.f_ffree,
    }  # fmt: skip


def _of_folder(path: Path) -> Stats | None:
    """Measure a folder: its own use, on the machine's file system. Blocks."""
    usage = _of_file_system(path)
    if usage is None:
        return None
    used, files = 0, 1
    for base, folders, names in os.walk(path):
        files += len(folders) + len(names)
        for name in names:
            try:
                used += os.lstat(os.path.join(base, name)).st_blocks * 512
            except OSError:
                continue
    return {**usage, "usedBytes": used, "inodesUsed": files}
