"""Writes a running container's state to an archive, by CRIU; the container runs on.

The archive holds what other runtimes' hold: `checkpoint/` (CRIU's images), `spec.dump`, `config.dump` and
`rootfs-diff.tar` (what the container has written).
Source: https://kubernetes.io/docs/reference/node/kubelet-checkpoint-api/
"""

import asyncio
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from agent.runtime.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from agent.runtime.oci import OciError, OciRuntime


async def checkpoint(
    oci: OciRuntime,
    container_id: str,
    about: Mapping[str, str],
    bundle: Path,
    written: Path,
    location: str,
    seconds: int,
) -> None:
    """Write the archive at `location`; nothing is left of one that failed.

    Args:
        oci: runs the container.
        container_id: whose state it is.
        about: the container's name, image and times.
        bundle: the folder of its config.json.
        written: the folder of what it has written.
        location: an absolute path that is not there yet.
        seconds: how long it may take; 0 for as long as it takes.

    Raises: InvalidArgument, FailedPrecondition, DeadlineExceeded.
    """
    archive = Path(location)
    if not archive.is_absolute() or not archive.parent.is_dir():
        raise InvalidArgument(f'checkpoint location "{location}" is no path in a folder that is there')
    if shutil.which("criu") is None:
        raise FailedPrecondition("CRIU binary not found: it is what checkpoints containers")
    folder = archive.with_name(f".{archive.name}.{container_id}")
    try:
        folder.mkdir(mode=0o700)
        async with asyncio.timeout(seconds or None):
            images = ("--image-path", str(folder / "checkpoint"), "--work-path", str(folder))
            await oci.call("checkpoint", *images, "--leave-running", "--file-locks", "--tcp-established", container_id)
            await asyncio.to_thread(_pack, folder, about, bundle, written, archive)
    except OciError as error:
        raise FailedPrecondition(f"CRIU could not checkpoint the container: {error}") from error
    except TimeoutError as error:
        raise DeadlineExceeded(f"the checkpoint was not done within {seconds} s") from error
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _pack(folder: Path, about: Mapping[str, str], bundle: Path, written: Path, archive: Path) -> None:
    (folder / "config.dump").write_text(json.dumps(dict(about)))
    shutil.copy(bundle / "config.json", folder / "spec.dump")
    with tarfile.open(folder / "rootfs-diff.tar", "w") as diff:
        diff.add(written, arcname=".")
    whole = folder / "archive"
    whole.touch(mode=0o600)
    with tarfile.open(whole, "w") as tar:
        for name in ("checkpoint", "config.dump", "spec.dump", "rootfs-diff.tar"):
            tar.add(folder / name, arcname=name)
    whole.replace(archive)
