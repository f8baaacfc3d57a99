"""An image from this machine's own static busybox, so that there is one to run with no registry in reach."""

import asyncio
import logging
import shutil
from pathlib import Path

from agent.runtime.images import layout, reference
from agent.runtime.images.store import Image, ImageStore

NAME = "wherry.local/busybox:latest"
_CONFIG = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
_PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP = b"root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n"
_log = logging.getLogger(__name__)


def layer(binary: bytes, applets: list[str]) -> bytes:
    """The one layer: the binary, a link for each applet, and the few files programs look for."""
    folders = [
        layout.File(f"{name}/", mode=0o755) for name in ("bin", "etc", "home", "var", "var/www", "usr", "usr/bin")
    ]
    folders += [layout.File("root/", mode=0o700), layout.File("tmp/", mode=0o1777)]
    files = [
        layout.File("bin/busybox", binary, mode=0o755),
        layout.File("etc/passwd", _PASSWD),
        layout.File("etc/group", _GROUP),
        layout.File("usr/bin/env", link="/bin/busybox"),
        *(layout.File(f"bin/{name}", link="busybox") for name in applets if name != "busybox"),
    ]
    return layout.make_layer(folders + files)


async def read_busybox() -> tuple[bytes, list[str]] | None:
    """This machine's busybox and the names of its applets; None if there is none or it isn't static."""
    path = shutil.which("busybox")
    if path is None:
        return None
    binary = await asyncio.to_thread(Path(path).read_bytes)
    if b"/ld-linux" in binary[:4096] or b"/ld-musl" in binary[:4096]:
        return None  # the program header names an interpreter
    process = await asyncio.create_subprocess_exec(path, "--list", stdout=asyncio.subprocess.PIPE)
    listing, _ = await process.communicate()
    return binary, sorted(listing.decode().split())


async def import_busybox(store: ImageStore) -> Image | None:
    """Put the image into the store unless it is there; None where there is no static busybox."""
    image = store.find(NAME)
    if image is not None:
        return image
    found = await read_busybox()
    if found is None:
        _log.warning("no static busybox on this machine: no image %s", NAME)
        return None
    with store.installing():
        digest, _ = await asyncio.to_thread(lambda: layout.write_image(store.blobs, [layer(*found)], _CONFIG))
        return await store.install(digest, reference.parse(NAME))
