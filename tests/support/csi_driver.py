"""A small storage driver that speaks CSI v1: its volumes are folders of this machine, mounted by bind mounts."""

import subprocess
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from agent.csi import csi_pb2 as csi
from agent.csi import csi_pb2_grpc
from tests.support.plugin import Plugin

ABILITIES = csi.NodeServiceCapability.RPC


def _mounted(target: Path) -> bool:
    """Whether something is mounted there; a bind mount within one file system looks like a folder to os.path.ismount."""
    return any(line.split()[4] == str(target) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _mount(source: Path, target: Path, *options: str) -> None:
    for folder in (source, target):
        folder.mkdir(parents=True, exist_ok=True)
    if not _mounted(target):
        subprocess.run(["mount", "--bind", *options, str(source), str(target)], check=True)


def _mount_device(device: str, target: Path) -> None:
    target.touch()
    subprocess.run(["mount", "--bind", device, str(target)], check=True)


def _unmount(target: Path, *, remove: bool = False) -> None:
    if _mounted(target):
        subprocess.run(["umount", str(target)], check=True)
    if remove and target.is_dir():
        target.rmdir()
    elif remove:
        target.unlink(missing_ok=True)


class FolderDriver(Plugin, csi_pb2_grpc.NodeServicer):
    """Keeps volume ID below `folder`/ID; notes each call with the volume it was for."""

    KIND, VERSION = "CSIPlugin", "1.0.0"

    def __init__(self, name: str, folder: Path, registry: Path) -> None:
        """Args: `registry` is where the node looks for plugins."""
        super().__init__(name, registry)
        self.contexts: dict[str, dict[str, str]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self._folder = folder
        self.modes: dict[str, int] = {}
        self.device = ""  # what blocks of this driver are
        self.abilities = [
            ABILITIES.STAGE_UNSTAGE_VOLUME, ABILITIES.GET_VOLUME_STATS, ABILITIES.VOLUME_CONDITION,
            ABILITIES.EXPAND_VOLUME, ABILITIES.SINGLE_NODE_MULTI_WRITER,
        ]  # fmt: skip

    def add_to(self, server: grpc.aio.Server) -> None:
        csi_pb2_grpc.add_NodeServicer_to_server(self, server)

    async def NodeGetInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        topology = csi.Topology(segments={f"{self.name}/zone": "here"})
        return csi.NodeGetInfoResponse(node_id="node-of-mine", max_volumes_per_node=7, accessible_topology=topology)

    async def NodeGetCapabilities(self, request: Any, context: Any) -> Any:  # noqa: N802
        able = [csi.NodeServiceCapability(rpc=ABILITIES(type=kind)) for kind in self.abilities]
        return csi.NodeGetCapabilitiesResponse(capabilities=able)

    async def NodeGetVolumeStats(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not _mounted(Path(request.volume_path)):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"{request.volume_path} is not there")
        usage = [
            csi.VolumeUsage(unit=csi.VolumeUsage.BYTES, available=600, total=1000, used=400),
            csi.VolumeUsage(unit=csi.VolumeUsage.INODES, available=6, total=10, used=4),
        ]
        condition = csi.VolumeCondition(abnormal=True, message="worn out")
        return csi.NodeGetVolumeStatsResponse(usage=usage, volume_condition=condition)

    async def NodeExpandVolume(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(f"expand {request.volume_id} {request.capacity_range.required_bytes}")
        if not _mounted(Path(request.volume_path)) or not _mounted(Path(request.staging_target_path)):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is not mounted")
        return csi.NodeExpandVolumeResponse(capacity_bytes=request.capacity_range.required_bytes)

    async def NodeStageVolume(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(f"stage {request.volume_id}")
        self.secrets[request.volume_id] = dict(request.secrets)
        data = self._folder / request.volume_id
        if not data.is_dir():
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no volume {request.volume_id}")
        _mount(data, Path(request.staging_target_path))
        return csi.NodeStageVolumeResponse()

    async def NodeUnstageVolume(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(f"unstage {request.volume_id}")
        _unmount(Path(request.staging_target_path))
        return csi.NodeUnstageVolumeResponse()

    async def NodePublishVolume(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(f"publish {request.volume_id}")
        self.contexts[request.volume_id] = dict(request.volume_context)
        self.modes[request.volume_id] = request.volume_capability.access_mode.mode
        if request.volume_capability.HasField("block"):
            _mount_device(self.device, Path(request.target_path))
            return csi.NodePublishVolumeResponse()
        source = Path(request.staging_target_path or self._folder / request.volume_id)
        _mount(source, Path(request.target_path), *(["-o", "ro"] if request.readonly else []))
        return csi.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(f"unpublish {request.volume_id}")
        _unmount(Path(request.target_path), remove=True)
        return csi.NodeUnpublishVolumeResponse()
