"""The distribution's containerd, with busybox in it: another CRI runtime under the same agent."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from agent.cri.client import Runtime
from agent.runtime.images import layout
from tests.support.images import busybox_archive

PAUSE, BUSYBOX = "wherry.local/pause:1", "wherry.local/busybox:latest"
_START_SECONDS = 20.0
_CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/net.d"
"""


@contextlib.contextmanager
def running_containerd(folder: Path, bridge: str, pod_cidr: str) -> Iterator[Path]:
    """Run containerd with its data in `folder` until the block ends; yields its socket."""
    (folder / "net.d").mkdir(parents=True)
    plugins = [
        {
            "type": "bridge", "bridge": bridge, "isGateway": True, "ipMasq": False, "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_cidr}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": str(folder / "ipam")},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]  # fmt: skip
    network = {"cniVersion": "1.0.0", "name": bridge, "plugins": plugins}
    (folder / "net.d" / "10-test.conflist").write_text(json.dumps(network))
    (folder / "config.toml").write_text(_CONFIG.format(folder=folder, pause=PAUSE))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["containerd", "--config", str(folder / "config.toml")], stdout=log, stderr=log)
    try:
        _wait(folder)
        for name, command in ((BUSYBOX, ["sh"]), (PAUSE, ["/bin/sleep", "infinity"])):
            _import(folder, name, command)
        yield folder / "c.sock"
    finally:
        try:
            asyncio.run(_remove_all(folder / "c.sock"))
        finally:
            process.terminate()
            process.wait(20)
        subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _ctr(folder: Path, *arguments: str, check: bool = True) -> str:
    argv = ["ctr", "--address", str(folder / "c.sock"), "--namespace", "k8s.io", *arguments]
    return subprocess.run(argv, check=check, capture_output=True, text=True).stdout


def _wait(folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            _ctr(folder, "version")
        except subprocess.CalledProcessError:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        else:
            return


def _import(folder: Path, name: str, command: list[str]) -> None:
    image = folder / "image"
    archive = asyncio.run(busybox_archive())
    digest, size = layout.write_image(image / "blobs", [archive], {"Cmd": command, "Env": ["PATH=/bin"]})
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    manifest = {"mediaType": layout.MANIFEST, "digest": digest, "size": size, "annotations": annotations}
    (image / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (image / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    with tarfile.open(folder / "image.tar", "w") as tar:
        for path in sorted(image.iterdir()):
            tar.add(path, path.name)
    _ctr(folder, "images", "import", str(folder / "image.tar"))


async def _remove_all(socket: Path) -> None:
    """Nothing of ours may outlive the test: shims and network namespaces go with their sandboxes."""
    runtime = Runtime(socket)
    try:
        for sandbox in await runtime.sandboxes():
            await runtime.stop_sandbox(sandbox.id)
            await runtime.remove_sandbox(sandbox.id)
    finally:
        await runtime.close()
