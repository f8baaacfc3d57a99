"""Images made from this machine's busybox, and a registry on loopback to serve them."""

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.runtime.images import busybox, layout

USER, PASSWORD = "wherry", "loopback"  # bcrypt of the password, as the registry's htpasswd file wants it:
_HTPASSWD = "wherry:$2b$12$bbu24NdIWwLUDotCGxC3ou96sYaeqLCYMoo2DgMLeSBUF7VorrJ56\n"


@dataclass(frozen=True)
class Registry:
    """A running docker-registry; `host` is what image names begin with."""

    host: str
    folder: Path
    authenticated: bool = False

    async def push(
        self,
        name: str,
        *,
        layers: Sequence[bytes] = (),
        config: Mapping[str, Any] | None = None,
        busybox_layer: bool = True,
    ) -> str:
        """Make an image and push it; return its full name.

        Args:
            name: path and tag, such as "web:1".
            layers: tar archives above busybox's.
            config: `config` of the image configuration.
            busybox_layer: False leaves only `layers`.
        """
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        base = [await busybox_archive()] if busybox_layer else []
        config = {"Cmd": ["sh"], "Env": ["PATH=/bin"]} | dict(config or {})
        digest, size = layout.write_image(folder / "blobs", [*base, *layers], config)
        annotations = {"org.opencontainers.image.ref.name": "image"}
        manifest = {"mediaType": layout.MANIFEST, "digest": digest, "size": size, "annotations": annotations}
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        full_name = f"{self.host}/{name}"
        credentials = ["--dest-creds", f"{USER}:{PASSWORD}"] if self.authenticated else []
        await _call(
            *("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *credentials),
            *(f"oci:{folder}:image", f"docker://{full_name}"),
        )
        shutil.rmtree(folder)
        return full_name


async def busybox_archive() -> bytes:
    """The layer of the image wherry.local/busybox."""
    found = await busybox.read_busybox()
    assert found, "busybox-static is not installed"
    return busybox.layer(*found)


async def _call(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
    _, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()


@contextlib.asynccontextmanager
async def serve_registry(folder: Path, *, authenticated: bool = False) -> AsyncIterator[Registry]:
    """Run a docker-registry on a free port of 127.0.0.1, its data in `folder`."""
    host = await asyncio.to_thread(_configure, folder, authenticated=authenticated)
    with (folder / "registry.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("docker-registry", "serve", str(folder / "config.yml")), stdout=log, stderr=log
        )
    try:
        await _wait_for_port(host)
        yield Registry(host, folder, authenticated)
    finally:
        process.kill()
        await process.wait()


async def _wait_for_port(host: str, seconds: float = 10) -> None:
    address, port = host.split(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            _, writer = await asyncio.open_connection(address, int(port))
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens at {host}"
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return


def _configure(folder: Path, *, authenticated: bool) -> str:
    """Write the registry's configuration and return the address it will listen at."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": host},
    }
    if authenticated:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    return host
