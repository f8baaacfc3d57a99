"""Makes sure that the runtime's root can hold overlays, whatever lies below it.

An overlay's upper layer can't be on another overlay, which is what a data folder is on where we run in a container
ourselves. There a file system of our own is mounted over the root: an ext4 image in a sparse file beside it if the
machine can do that, else a tmpfs.
"""

import contextlib
import logging
import os
import shutil
import subprocess
from pathlib import Path

from agent.runtime import kernel
from agent.runtime.errors import RuntimeFailure

_log = logging.getLogger(__name__)
_LARGEST_IMAGE_BYTES = 64 << 30


def prepare(root: Path) -> str:
    """Make overlays possible below `root`. Blocks; may be called again.

    Returns: what had to be done, "" if nothing.
    Raises: RuntimeFailure if it can't be done.
    """
    if takes_overlays(root):
        return ""
    for make in (_mount_image, _mount_tmpfs):
        try:
            what = make(root)
        except (OSError, subprocess.CalledProcessError) as error:
            _log.info("%s: %s", make.__name__, error)
            continue
        if takes_overlays(root):
            return what
        kernel.unmount(root)
    raise RuntimeFailure(f"no overlay can be mounted below {root}")


def takes_overlays(root: Path) -> bool:
    """Whether an overlay can have its upper layer below `root`: tried out in a folder that is removed again."""
    trial = root / ".trial"
    kernel.unmount(trial / "merged")
    shutil.rmtree(trial, ignore_errors=True)
    try:
        for name in ("lower", "upper", "work", "merged"):
            (trial / name).mkdir(parents=True)
        data = f"lowerdir={trial}/lower,upperdir={trial}/upper,workdir={trial}/work"
        kernel.mount("overlay", trial / "merged", "overlay", data=data)
        # Some mount and then can't make whiteouts or keep attributes.
        (trial / "merged" / "file").touch()
        (trial / "merged" / "file").unlink()
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            kernel.unmount(trial / "merged")
        shutil.rmtree(trial, ignore_errors=True)
    return True


def _mount_image(root: Path) -> str:
    image = root.with_name(f"{root.name}.ext4")
    if not image.exists():
        status = os.statvfs(root)
        size = min(_LARGEST_IMAGE_BYTES, status.f_bavail * status.f_frsize)
        temporary = image.with_name(f".{image.name}.tmp")
        with temporary.open("wb") as file:
            file.truncate(size)
        options = ["-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"]
        subprocess.run(["mkfs.ext4", *options, temporary], check=True, capture_output=True)
        temporary.rename(image)
    subprocess.run(["mount", "-o", "loop,discard", image, root], check=True, capture_output=True)
    return f"{root} is on a file system that cannot hold overlays: {image} is mounted over it"


def _mount_tmpfs(root: Path) -> str:
    kernel.mount("wherry", root, "tmpfs", data="mode=0700")
    return f"{root} is on a file system that cannot hold overlays: images and containers are kept in memory"
