"""Makes the volumes of a pod, keeps those with files up to date, and removes them with the pod."""

import asyncio
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cgroups import limit as memory_limit
from agent.container_config import image_mount, mount
from agent.environment import ConfigError, expand_strictly
from agent.metrics import Metrics
from agent.volumes import subpath
from agent.volumes.claims import Claims, Source
from agent.volumes.files import is_filled, write_files
from agent.volumes.host_path import check_host_path
from agent.volumes.ownership import give_to_group
from agent.volumes.sources import FileSources
from machinery.api.quantity import to_bytes
from machinery.client.rest import ConnectionFailed

if TYPE_CHECKING:
    from agent.csi.volumes import CsiVolume, CsiVolumes

Pod = Mapping[str, Any]
_MOUNT_SECONDS = 60
_API_SECONDS = 2.0  # so long the API is waited for where it told what is needed before
FILE_SOURCES = ("configMap", "secret", "downwardAPI", "projected")


class VolumeError(ConfigError):
    """A volume can't be made; `volume` is its name."""

    def __init__(self, volume: str, message: str) -> None:
        super().__init__(message)
        self.volume = volume


def has_files(pod: Pod) -> bool:
    """Whether the pod has volumes whose contents may change while it runs."""
    return any(source in volume for volume in pod["spec"].get("volumes") or () for source in FILE_SOURCES)


class VolumeManager:
    """The volumes of all pods of this node; each pod has a folder by its uid."""

    def __init__(
        self,
        root: Path,
        claims: Claims | None = None,
        csi: "Callable[[], CsiVolumes] | None" = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Make one.

        Args:
            root: holds the pods' folders.
            claims: finds what a claim is bound to; without it pods can't have any.
            csi: makes what mounts by storage drivers, when it is needed first.
            metrics: where the work is timed.
        """
        self._root = root
        self._csi = csi
        self._metrics = metrics or Metrics()
        self._prepared: set[str] = set()  # uids of pods whose volumes were made, or looked at, by this process
        self._claims = claims
        self._bound: dict[tuple[str, str], Source] = {}  # (uid, volume) -> what its claim led to

    def folder(self, uid: str) -> Path:
        """Return where a pod's things lie."""
        return self._root / uid

    def path(self, pod: Pod, volume: Mapping[str, Any]) -> Path:
        """Return where a volume lies on this machine."""
        uid = pod["metadata"]["uid"]
        bound = self._bound.get((uid, volume["name"]))
        if bound is not None and bound.path is not None:
            return bound.path
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        return self.folder(uid) / "volumes" / volume["name"]

    def bound(self, pod: Pod, volume: Mapping[str, Any]) -> Source | None:
        """Return what a volume's claim or driver led to, once it has been made."""
        return self._bound.get((pod["metadata"]["uid"], volume["name"]))

    async def drivers_statistics(self, volume: "CsiVolume", path: Path) -> dict[str, Any] | None:
        """Return how full a driver says that a volume is; None where it doesn't tell. Raises: OSError."""
        return None if self._csi is None else await self._csi().statistics(volume, path)

    async def grow(self, source: Source, path: Path, size: int) -> None:
        """Have the driver of a volume that is mounted at `path` grow it to `size` bytes. Raises: OSError."""
        if self._csi is not None and source.csi is not None:
            await self._csi().grow(source.csi, path, size)

    async def prepare(self, pod: Pod, sources: FileSources) -> bool:
        """Make or update all volumes; returns whether files changed. Raises: VolumeError."""
        changed = False
        for volume in pod["spec"].get("volumes") or ():
            began, status = time.perf_counter(), "success"
            try:
                changed |= await self._prepare(pod, volume, sources)
            except (ConfigError, OSError, subprocess.CalledProcessError) as error:
                status = "fail-unknown"
                raise VolumeError(volume["name"], _why(error)) from error
            finally:
                labels = ("false", "volume_mount", status, plugin_name(volume))
                seconds = time.perf_counter() - began
                self._metrics.observe("storage_operation_duration_seconds", seconds, *labels)
        self._prepared.add(pod["metadata"]["uid"])
        return changed

    def is_prepared(self, uid: str) -> bool:
        """Whether this process knows where a pod's volumes lie; one that has just started has yet to find out."""
        return uid in self._prepared

    async def _prepare(self, pod: Pod, volume: Mapping[str, Any], sources: FileSources) -> bool:
        security = pod["spec"].get("securityContext") or {}
        group = security.get("fsGroup")
        if any(source in volume for source in FILE_SOURCES):
            is_there = is_filled(self.path(pod, volume))
            try:
                async with asyncio.timeout(_API_SECONDS if is_there else None):
                    files = await sources.files(volume)
            except (ConnectionFailed, TimeoutError):
                if not is_there:
                    raise
                return False  # the API is away: what it told before stands
            return await asyncio.to_thread(write_files, self.path(pod, volume), files, group)
        if "emptyDir" in volume:
            source = volume["emptyDir"] or {}
            options = _memory_options(pod, source) if source.get("medium") else ()
            await asyncio.to_thread(_make_empty_dir, self.path(pod, volume), options, group)
        elif "hostPath" in volume:
            kind = volume["hostPath"].get("type") or ""
            await asyncio.to_thread(check_host_path, self.path(pod, volume), kind)
        elif "persistentVolumeClaim" in volume or "ephemeral" in volume:
            await self._bind(pod, volume, group, on_mismatch=security.get("fsGroupChangePolicy") == "OnRootMismatch")
        elif "csi" in volume:
            await self._bind_inline(
                pod, volume, group, on_mismatch=security.get("fsGroupChangePolicy") == "OnRootMismatch"
            )
        elif "nfs" in volume:
            await asyncio.to_thread(_mount_nfs, self.path(pod, volume), volume["nfs"])
        elif "image" not in volume:  # those are the runtime's
            kind = next((key for key in volume if key != "name"), "unknown")
            raise ConfigError(f"volume type {kind} is not supported")
        return False

    async def _bind(self, pod: Pod, volume: Mapping[str, Any], group: int | None, *, on_mismatch: bool) -> None:
        key = (pod["metadata"]["uid"], volume["name"])
        if key in self._bound:
            await self._republish(pod, self._bound[key], volume, group)
            return
        if self._claims is None:
            raise ConfigError("this node can't look up claims")
        source = await self._claims.resolve(pod, volume, self.folder(key[0]) / "claims" / f"{volume['name']}.json")
        if source.one_pod and any(
            one.volume == source.volume and uid != key[0] for (uid, _), one in self._bound.items()
        ):
            raise ConfigError("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
        place = self.folder(key[0]) / "volumes" / volume["name"]
        if source.csi is not None:
            source = await self._publish(pod, source, place, group)
        if source.nfs is not None:
            await asyncio.to_thread(_mount_nfs, place, source.nfs)
        if source.path is not None and source.is_block:
            pass  # a device is handed to containers as it is
        elif group is not None and source.takes_group:
            path = source.path or place
            await asyncio.to_thread(give_to_group, path, group, on_root_mismatch=on_mismatch)
        self._bound[key] = source

    async def _bind_inline(self, pod: Pod, volume: Mapping[str, Any], group: int | None, *, on_mismatch: bool) -> None:
        """Have a driver make a volume that lives and ends with the pod."""
        from agent.csi.volumes import CsiVolume

        key = (pod["metadata"]["uid"], volume["name"])
        if key in self._bound:
            await self._republish(pod, self._bound[key], volume, group)
        else:
            source = Source(csi=CsiVolume.inline(pod, volume), read_only=volume["csi"].get("readOnly", False))
            place = self.folder(key[0]) / "volumes" / volume["name"]
            source = await self._publish(pod, source, place, group)
            if group is not None and source.takes_group and source.path is not None:
                await asyncio.to_thread(give_to_group, source.path, group, on_root_mismatch=on_mismatch)
            self._bound[key] = source

    async def _republish(self, pod: Pod, source: Source, volume: Mapping[str, Any], group: int | None) -> None:
        if self._csi is not None and source.csi is not None and self._csi().republishes(source.csi):
            place = self.folder(pod["metadata"]["uid"]) / "volumes" / volume["name"]
            await self._publish(pod, source, place, group)

    async def _publish(self, pod: Pod, source: Source, place: Path, group: int | None) -> Source:
        """Have a storage driver mount a volume; return where it is now."""
        if self._csi is None or source.csi is None:
            raise ConfigError("this node has no storage drivers")
        takes_group = await self._csi().publish(pod, source.csi, place, group)
        return replace(source, path=place / "mount", takes_group=takes_group)

    def mounts(self, pod: Pod, container: Mapping[str, Any], environment: Mapping[str, str]) -> list[Any]:
        """Return a container's bind mounts. Raises: ConfigError for a bad subPath. Blocks."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
        found = []
        for index, wanted in enumerate(container.get("volumeMounts") or ()):
            volume = volumes[wanted["name"]]
            sub = wanted.get("subPath") or expand_strictly(wanted.get("subPathExpr") or "", environment)
            if "image" in volume:
                found.append(image_mount(wanted["mountPath"], volume["image"], sub))
                continue
            path = self.path(pod, volume)
            if sub:
                path = self._sub_path(pod, container, index, path, sub)
            readonly = wanted.get("readOnly", False) or any(source in volume for source in FILE_SOURCES)
            if (bound := self._bound.get((pod["metadata"]["uid"], volume["name"]))) is not None:
                readonly = readonly or bound.read_only
            found.append(
                mount(
                    wanted["mountPath"], path, readonly=readonly, propagation=wanted.get("mountPropagation") or "",
                    recursive=wanted.get("recursiveReadOnly") in ("Enabled", "IfPossible"),
                    relabel=_is_relabelled(volume, bound),
                )
            )  # fmt: skip
        return found

    def devices(self, pod: Pod, container: Mapping[str, Any]) -> list[tuple[str, Path]]:
        """Return the block devices a container asks for: its path for each, and ours."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
        wanted = container.get("volumeDevices") or ()
        return [(one["devicePath"], self.path(pod, volumes[one["name"]])) for one in wanted]

    def _sub_path(self, pod: Pod, container: Mapping[str, Any], index: int, root: Path, sub: str) -> Path:
        """Return a mount of a path below a volume, made if it is missing; it may not lead out."""
        place = self.folder(pod["metadata"]["uid"]) / "subpaths" / container["name"] / str(index)
        try:
            fd = subpath.open_beneath(root, sub)
            try:
                subpath.bind(fd, place)
            finally:
                os.close(fd)
        except OSError as error:
            raise ConfigError(f"failed to prepare subPath for volumeMount {sub!r}: {error.strerror}") from error
        return place

    async def remove(self, uid: str) -> None:
        """Remove a pod's volumes and files."""
        self._prepared.discard(uid)
        for key in [key for key in self._bound if key[0] == uid]:
            del self._bound[key]
        if self._csi is not None and await asyncio.to_thread(_has_notes, self.folder(uid)):
            await self._csi().release(self.folder(uid))
        await asyncio.to_thread(self._remove, uid)

    def _remove(self, uid: str) -> None:
        folder = self.folder(uid)
        if not folder.exists():
            return
        for path in (*sorted(folder.glob("subpaths/*/*")), *sorted(folder.glob("volumes/*"))):
            subpath.unbind(path)
        if not any(path.is_mount() for path in (*folder.glob("subpaths/*/*"), *folder.glob("volumes/*"))):
            shutil.rmtree(folder, ignore_errors=True)

    def known(self) -> Sequence[str]:
        """Return the uids of pods that have a folder."""
        return [path.name for path in self._root.iterdir()] if self._root.exists() else []


def plugin_name(volume: Mapping[str, Any]) -> str:
    """Return what a volume's kind is called in metrics."""
    kind = next((key for key in volume if key != "name"), "emptyDir")
    names = {
        "emptyDir": "empty-dir", "hostPath": "host-path", "downwardAPI": "downward-api",
        "persistentVolumeClaim": "persistent-claim", "ephemeral": "persistent-claim",
    }  # fmt: skip
    return f"kubernetes.io/{names.get(kind, kind.lower())}"


def _has_notes(folder: Path) -> bool:
    """Whether a storage driver has mounted something for a pod; see agent/csi/volumes.py."""
    return any(folder.glob("volumes/*/vol_data.json"))


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return str(error.stderr.decode(errors="replace").strip())
    return str(error)


def _memory_options(pod: Pod, source: Mapping[str, Any]) -> tuple[str, str]:
    """Return file system and mount options of an emptyDir in memory. Raises: ConfigError.

    One without a limit may take what the pod may, and of a pod without one, all there is.
    Source: https://kubernetes.io/docs/concepts/storage/volumes/#emptydir
    """
    medium = source["medium"]
    if medium.startswith("HugePages"):
        return "hugetlbfs", f"pagesize={_page_size(pod, medium).removesuffix('i')}"
    sizes = [size for size in (to_bytes(str(source.get("sizeLimit") or "0")), memory_limit(pod, "memory")) if size]
    return "tmpfs", f"size={min(sizes)}" if sizes else "size=100%"


def _page_size(pod: Pod, medium: str) -> str:
    """Return the size of pages a volume is made of: what its medium says, else what the pod asks for."""
    if "-" in medium:
        return str(medium.partition("-")[2])
    asked = {
        name.removeprefix("hugepages-")
        for group in ("initContainers", "containers")
        for spec in pod["spec"].get(group) or ()
        for name in (spec.get("resources") or {}).get("requests") or {}
        if name.startswith("hugepages-")
    }
    if len(asked) != 1:
        why = "the pod asks for none" if not asked else "the pod asks for pages of several sizes"
        raise ConfigError(f'medium "HugePages" does not say which pages are meant, and {why}')
    return asked.pop()


def _make_empty_dir(path: Path, memory: Sequence[str], group: int | None) -> None:
    """Make one; `memory` is file system and options of one in memory, nothing for one on the disk."""
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    if memory and not path.is_mount():
        kind, options = memory
        argv = ["mount", "-t", kind, "-o", options, kind, str(path)]
        subprocess.run(argv, check=True, capture_output=True)
        is_new = True
    if is_new:  # later its owner may have changed it
        path.chmod(0o777 | (stat.S_ISGID if group is not None else 0))
        if group is not None:
            os.chown(path, -1, group)


def _is_relabelled(volume: Mapping[str, Any], bound: Source | None) -> bool:
    """Whether a volume's files get the label of the container: those the node makes, and local volumes."""
    if bound is not None:
        return bound.takes_group and bound.csi is None and not bound.read_only
    return "emptyDir" in volume or any(source in volume for source in FILE_SOURCES)


def _mount_nfs(path: Path, source: Mapping[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if path.is_mount():
        return
    wanted = [*(["ro"] if source.get("readOnly") else []), *(source.get("mountOptions") or ())]
    options = ["-o", ",".join(wanted)] if wanted else []
    server = f"[{source['server']}]" if ":" in source["server"] else source["server"]
    arguments = ["-t", "nfs", *options, f"{server}:{source['path']}", str(path)]
    try:
        argv = ["mount", *arguments]
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=_MOUNT_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        path.rmdir()  # else its files would be taken for the volume's
        code = getattr(error, "returncode", None)
        how = f"exit status {code}" if code is not None else f"no answer within {_MOUNT_SECONDS} s"
        output = str(error.stderr or "").strip()
        told = f"Mounting command: mount\nMounting arguments: {' '.join(arguments)}\nOutput: {output}"
        raise ConfigError(f"mount failed: {how}\n{told}") from error
