"""A container's root file system: the image's layers below, a layer of its own above, by overlayfs."""

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from agent.runtime import idmap, kernel
from agent.runtime.errors import RuntimeFailure
from agent.runtime.oci_spec import DeviceNode

_LONGEST_OPTION = 4095  # mount(2) takes one page


class RootFilesystems:
    """The root file systems under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, container_id: str) -> Path:
        """Where a container's root file system is mounted."""
        return self.folder / container_id / "rootfs"

    def upper(self, container_id: str) -> Path:
        """What a container has written."""
        return self.folder / container_id / "diff"

    def mount(
        self, container_id: str, layers: Sequence[Path], users: Path | None = None, first_id: int = 0, label: str = ""
    ) -> Path:
        """Make and mount one over `layers`, lowest first. Blocks: call it in a thread.

        Args:
            container_id: whose it is.
            layers: unpacked layers.
            users: the user namespace whose root finds the files its own; `first_id` is that root's id outside.
            first_id: see `users`.
            label: what SELinux is to know its files by; "" leaves them as they are.

        Raises: OSError, RuntimeFailure.
        """
        place = self.folder / container_id
        for name in ("diff", "work", "rootfs"):
            (place / name).mkdir(parents=True, exist_ok=True)
        self.upper(container_id).chmod(0o755)
        if users is None:
            return self._overlay(place, layers, label)
        # The way to it must be open to the pod's root, who is nobody out here.
        for folder in (self.folder.parent, self.folder, place):
            folder.chmod(0o711)
        os.chown(self.upper(container_id), first_id, first_id)
        mapped = []
        try:
            for index, layer in enumerate(layers):
                mapped.append(place / "low" / str(index))
                mapped[-1].mkdir(parents=True, exist_ok=True)
                idmap.mount(layer, mapped[-1], users)
            return self._overlay(place, mapped, label)
        finally:  # the overlay holds them by itself
            for path in mapped:
                kernel.unmount(path)

    def read_only(self, target: Path, layers: Sequence[Path]) -> None:
        """Mount the files of an image at `target`, for reading only. Raises: OSError, RuntimeFailure."""
        target.mkdir(parents=True, exist_ok=True)
        if len(layers) == 1:
            kernel.mount(str(layers[0]), target, flags=kernel.MS_BIND)
            kernel.mount("", target, flags=kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY)
            return
        data = "lowerdir=" + ":".join(str(layer) for layer in reversed(layers))
        if len(data) > _LONGEST_OPTION:
            raise RuntimeFailure(f"the image has too many layers to mount: {len(layers)}")
        kernel.mount("overlay", target, "overlay", kernel.MS_RDONLY, data)

    @staticmethod
    def _overlay(place: Path, layers: Sequence[Path], label: str) -> Path:
        lower = ":".join(str(layer) for layer in reversed(layers))
        data = f"lowerdir={lower},upperdir={place}/diff,workdir={place}/work"
        if label:
            data += f',context="{label}"'
        if len(data) > _LONGEST_OPTION:
            raise RuntimeFailure(f"the image has too many layers to mount: {len(layers)}")
        kernel.mount("overlay", place / "rootfs", "overlay", data=data)
        return place / "rootfs"

    def unmount(self, container_id: str) -> None:
        """Unmount one and what was mounted for its volumes; its files stay. May be called again."""
        kernel.unmount(self.path(container_id))
        for place in (self.folder / container_id).glob("mounts/*"):
            kernel.unmount(place)

    def remove(self, container_id: str) -> None:
        """Unmount one and delete what was written."""
        self.unmount(container_id)
        shutil.rmtree(self.folder / container_id, ignore_errors=True)

    def ids(self) -> list[str]:
        """All that there are."""
        return [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []


def read_in(root: Path, path: str) -> str:
    """Read a text file of a container's root file system, following links inside it only; "" if there is none."""
    with (
        contextlib.suppress(OSError),
        open(kernel.open_in_root(root, path), encoding="utf-8", errors="replace") as file,
    ):
        return file.read(1 << 20)
    return ""


def host_device(path: str, *, container_path: str = "", access: str = "rwm") -> list[DeviceNode]:
    """The device file at a host path, or all those below it if it is a folder.

    Raises: OSError if there is nothing.
    """
    status = os.stat(path)
    place = container_path or path
    if stat.S_ISDIR(status.st_mode):
        found = []
        for name in sorted(os.listdir(path)):
            with contextlib.suppress(OSError):
                found += host_device(f"{path}/{name}", container_path=f"{place}/{name}", access=access)
        return found
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        return []
    return [
        DeviceNode(
            place,
            "c" if stat.S_ISCHR(status.st_mode) else "b",
            os.major(status.st_rdev),
            os.minor(status.st_rdev),
            access or "rwm",
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
        )
    ]


_NOT_FOR_CONTAINERS = {"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", "ptmx", "tty"}


def all_host_devices() -> list[DeviceNode]:
    """Every device of the host but the terminals: for privileged containers."""
    found = []
    for entry in sorted(os.scandir("/dev"), key=lambda entry: entry.name):
        if entry.name not in _NOT_FOR_CONTAINERS and not entry.is_symlink():
            with contextlib.suppress(OSError):
                found += host_device(entry.path)
    return found
