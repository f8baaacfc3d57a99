"""Makes the volumes of a pod, keeps those with files up to date, and removes them with the pod."""

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.container_config import mount
from agent.environment import ConfigError, expand
from agent.volumes.files import write_files
from agent.volumes.sources import FileSources
from machinery.api.quantity import to_bytes

Pod = Mapping[str, Any]
FILE_SOURCES = ("configMap", "secret", "downwardAPI", "projected")
_CREATED_MODE = 0o755


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

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, uid: str) -> Path:
        """Return where a pod's things lie."""
        return self._root / uid

    def path(self, pod: Pod, volume: Mapping[str, Any]) -> Path:
        """Return where a volume lies on this machine."""
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        return self.folder(pod["metadata"]["uid"]) / "volumes" / volume["name"]

    async def prepare(self, pod: Pod, sources: FileSources) -> bool:
        """Make or update all volumes; returns whether files changed. Raises: VolumeError."""
        changed = False
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        for volume in pod["spec"].get("volumes") or ():
            path = self.path(pod, volume)
            try:
                if any(source in volume for source in FILE_SOURCES):
                    files = await sources.files(volume)
                    changed |= await asyncio.to_thread(write_files, path, files, group)
                elif "emptyDir" in volume:
                    await asyncio.to_thread(_make_empty_dir, path, volume["emptyDir"] or {}, group)
                elif "hostPath" in volume:
                    await asyncio.to_thread(_check_host_path, path, volume["hostPath"].get("type", ""))
                else:
                    kind = next((key for key in volume if key != "name"), "unknown")
                    raise ConfigError(f"volume type {kind} is not supported")
            except (ConfigError, OSError, subprocess.CalledProcessError) as error:
                raise VolumeError(volume["name"], str(error)) from error
        return changed

    def mounts(self, pod: Pod, container: Mapping[str, Any], environment: Mapping[str, str]) -> list[Any]:
        """Return a container's bind mounts. Raises: ConfigError for a bad subPath."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
        found = []
        for wanted in container.get("volumeMounts") or ():
            volume = volumes[wanted["name"]]
            path = self.path(pod, volume)
            sub = wanted.get("subPath") or expand(wanted.get("subPathExpr", ""), environment)
            if sub:
                path = _sub_path(path, sub)
            propagation = wanted.get("mountPropagation", "")
            readonly = wanted.get("readOnly", False)
            found.append(mount(wanted["mountPath"], path, readonly=readonly, propagation=propagation))
        return found

    async def remove(self, uid: str) -> None:
        """Remove a pod's volumes and files."""
        await asyncio.to_thread(self._remove, uid)

    def _remove(self, uid: str) -> None:
        folder = self.folder(uid)
        for path in sorted((folder / "volumes").glob("*")) if folder.exists() else ():
            if path.is_mount():
                subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)

    def known(self) -> Sequence[str]:
        """Return the uids of pods that have a folder."""
        return [path.name for path in self._root.iterdir()] if self._root.exists() else []


def _make_empty_dir(path: Path, source: Mapping[str, Any], group: int | None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if source.get("medium") == "Memory" and not path.is_mount():
        size = source.get("sizeLimit")
        options = f"size={to_bytes(size)}" if size and size != "0" else "size=50%"
        argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        subprocess.run(argv, check=True, capture_output=True)
    path.chmod(0o777 | (stat.S_ISGID if group is not None else 0))
    if group is not None:
        os.chown(path, -1, group)


_HOST_CHECKS = {
    "Directory": Path.is_dir, "File": Path.is_file, "Socket": Path.is_socket, "CharDevice": Path.is_char_device,
    "BlockDevice": Path.is_block_device,
}  # fmt: skip
_HOST_NAMES = {
    "Directory": "directory", "File": "file", "Socket": "socket", "CharDevice": "character device",
    "BlockDevice": "block device",
}  # fmt: skip


def _check_host_path(path: Path, kind: str) -> None:
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True, mode=_CREATED_MODE)
    elif kind == "FileOrCreate":
        path.touch(exist_ok=True)
    elif kind in _HOST_CHECKS and not _HOST_CHECKS[kind](path):
        raise ConfigError(f"hostPath type check failed: {path} is not a {_HOST_NAMES[kind]}")
    elif not kind and not path.exists():
        path.mkdir(parents=True, mode=_CREATED_MODE)  # as container runtimes do for a bind source that is missing


def _sub_path(root: Path, sub: str) -> Path:
    """Return a path below a volume, made if it is missing; it may not lead out."""
    path = (root / sub).resolve()
    if Path(sub).is_absolute() or not path.is_relative_to(root.resolve()):
        raise ConfigError(f"subPath {sub} leads out of its volume")
    if not path.exists():
        path.mkdir(parents=True)
    return path
