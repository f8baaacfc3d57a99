"""Mounts volumes of storage drivers: staged once a node, published once a pod; and the way back.

Beside each published volume lies a file that says whose it is, so that an agent that starts anew can take it down.
Sources: https://github.com/container-storage-interface/spec/blob/master/spec.md,
https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/csi-driver-v1/
"""

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from agent.config import AgentConfig
from agent.csi import csi_pb2 as csi
from agent.csi.drivers import CsiDrivers
from agent.environment import ConfigError
from agent.objects import TokenSource
from machinery.api.resources import CSI_DRIVERS, SECRETS, VOLUME_ATTACHMENTS
from machinery.client.rest import Client
from machinery.errors import NotFound

Pod = Mapping[str, Any]
NOTE, MOUNT = "vol_data.json", "mount"
_CALL_SECONDS = 120.0
_TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
_MODES = {
    "ReadWriteOnce": csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER,
    "ReadOnlyMany": csi.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY,
    "ReadWriteMany": csi.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER,
    "ReadWriteOncePod": csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER,
}
# What drivers are told instead that know whether one pod or several of a node may write.
_EXACT_MODES = _MODES | {
    "ReadWriteOnce": csi.VolumeCapability.AccessMode.SINGLE_NODE_MULTI_WRITER,
    "ReadWriteOncePod": csi.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER,
}
_RPC = csi.NodeServiceCapability.RPC
_USAGE = {
    csi.VolumeUsage.BYTES: ("availableBytes", "capacityBytes", "usedBytes"),
    csi.VolumeUsage.INODES: ("inodesFree", "inodes", "inodesUsed"),
}


@dataclass(frozen=True, slots=True)
class CsiVolume:
    """One volume as a pod asks for it: a PersistentVolume's `csi`, or a volume of the pod itself.

    Attributes:
        handle: the driver's name for it.
        is_inline: it lives and ends with the pod.
        stage_secret, publish_secret, expand_secret: namespace and name, None without one.
    """

    driver: str
    handle: str
    is_inline: bool = False
    is_block: bool = False
    read_only: bool = False
    fs_type: str = ""
    mount_options: Sequence[str] = ()
    access_modes: Sequence[str] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    stage_secret: tuple[str, str] | None = None
    publish_secret: tuple[str, str] | None = None
    expand_secret: tuple[str, str] | None = None

    @classmethod
    def of_claim(cls, spec: Mapping[str, Any], *, read_only: bool) -> "CsiVolume":
        """The volume of a PersistentVolume's spec."""
        source = spec["csi"]

        def secret(name: str) -> tuple[str, str] | None:
            found = source.get(name)
            return (found.get("namespace", ""), found["name"]) if found else None

        return cls(
            driver=source["driver"], handle=source["volumeHandle"], is_block=spec.get("volumeMode") == "Block",
            read_only=read_only or source.get("readOnly", False), fs_type=source.get("fsType", ""),
            mount_options=spec.get("mountOptions") or (), access_modes=spec.get("accessModes") or (),
            attributes=source.get("volumeAttributes") or {}, stage_secret=secret("nodeStageSecretRef"),
            publish_secret=secret("nodePublishSecretRef"), expand_secret=secret("nodeExpandSecretRef"),
        )  # fmt: skip

    @classmethod
    def inline(cls, pod: Pod, volume: Mapping[str, Any]) -> "CsiVolume":
        """A volume of the pod itself; its name is made of the pod's and its own."""
        source, metadata = volume["csi"], pod["metadata"]
        digest = hashlib.sha256(f"{metadata['namespace']}{metadata['uid']}{volume['name']}".encode()).hexdigest()
        secret = source.get("nodePublishSecretRef")
        return cls(
            driver=source["driver"], handle=f"csi-{digest}", is_inline=True, read_only=source.get("readOnly", False),
            fs_type=source.get("fsType", ""), access_modes=("ReadWriteOnce",),
            attributes=source.get("volumeAttributes") or {},
            publish_secret=(metadata["namespace"], secret["name"]) if secret else None,
        )  # fmt: skip

    def capability(self, group: int | None, able: Collection[int] = ()) -> csi.VolumeCapability:
        """How it is to be used; `group` is handed on where the driver mounts by it; `able` is what the driver can."""
        found = csi.VolumeCapability()
        if self.is_block:
            found.block.SetInParent()
        else:
            found.mount.fs_type = self.fs_type
            found.mount.mount_flags.extend(self.mount_options)
            found.mount.volume_mount_group = "" if group is None else str(group)
        modes = _EXACT_MODES if _RPC.SINGLE_NODE_MULTI_WRITER in able else _MODES
        mode = next((modes[one] for one in reversed(list(modes)) if one in self.access_modes), None)
        found.access_mode.mode = mode or csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
        return found


class CsiVolumes:
    """Publishes volumes below the pods' folders."""

    def __init__(self, client: Client, drivers: CsiDrivers, tokens: TokenSource, config: AgentConfig) -> None:
        self._client = client
        self._drivers = drivers
        self._tokens = tokens
        self._node_name = config.node_name
        self._pods = config.pods_dir  # the pods' folders
        self._plugins = config.plugins_dir  # what is staged
        self._republishing: set[str] = set()  # drivers that ask for it
        self._locks: dict[str, asyncio.Lock] = {}

    async def publish(self, pod: Pod, volume: CsiVolume, place: Path, group: int | None) -> bool:
        """Mount a volume at `place`/mount; returns whether its files are still to be given to the group.

        Raises: ConfigError in the words users know.
        """
        if not self._drivers.has(volume.driver):
            raise ConfigError(f"driver name {volume.driver} not found in the list of registered CSI drivers")
        driver = await self._driver(volume.driver)
        wanted = "Ephemeral" if volume.is_inline else "Persistent"
        if wanted not in (driver.get("volumeLifecycleModes") or ["Persistent"]):
            raise ConfigError(f'volume mode "{wanted}" not supported by driver {volume.driver}')
        if driver.get("requiresRepublish"):
            self._republishing.add(volume.driver)
        context = await self._publish_context(driver, volume)
        async with self._locks.setdefault(volume.handle, asyncio.Lock()):
            try:
                async with self._drivers.node_service(volume.driver) as stub:
                    return await self._publish(stub, pod, volume, driver, context, place, group)
            except grpc.aio.AioRpcError as error:
                raise ConfigError(f"rpc error: code = {error.code().name} desc = {error.details()}") from error

    def republishes(self, volume: CsiVolume) -> bool:
        """Whether the driver is to be asked again and again, to renew what it has put into the volume."""
        return volume.driver in self._republishing

    async def _publish(
        self, stub: Any, pod: Pod, volume: CsiVolume, driver: Mapping[str, Any], context: Mapping[str, str],
        place: Path, group: int | None,
    ) -> bool:  # fmt: skip
        able = await _abilities(stub)
        by_mount = group is not None and _RPC.VOLUME_MOUNT_GROUP in able
        capability = volume.capability(group if by_mount else None, able)
        staged = self._staging(volume) if _RPC.STAGE_UNSTAGE_VOLUME in able and not volume.is_inline else None
        await asyncio.to_thread(_prepare, volume, place, staged)
        if staged:
            await stub.NodeStageVolume(
                csi.NodeStageVolumeRequest(
                    volume_id=volume.handle, publish_context=context, staging_target_path=str(staged),
                    volume_capability=capability, secrets=await self._secret(volume.stage_secret),
                    volume_context=volume.attributes,
                ),
                timeout=_CALL_SECONDS,
            )  # fmt: skip
        attributes = dict(volume.attributes)
        if driver.get("podInfoOnMount"):
            attributes |= _pod_info(pod, is_inline=volume.is_inline)
        secrets = await self._secret(volume.publish_secret)
        if tokens := await self._service_account_tokens(pod, driver):
            (secrets if driver.get("serviceAccountTokenInSecrets") else attributes)[_TOKENS] = tokens
        await stub.NodePublishVolume(
            csi.NodePublishVolumeRequest(
                volume_id=volume.handle, publish_context=context, staging_target_path=str(staged) if staged else "",
                target_path=str(place / MOUNT), volume_capability=capability, readonly=volume.read_only,
                secrets=secrets, volume_context=attributes,
            ),
            timeout=_CALL_SECONDS,
        )  # fmt: skip
        return group is not None and not by_mount and _takes_group(driver, volume)

    # ---- while it is mounted

    async def statistics(self, volume: CsiVolume, path: Path) -> dict[str, Any] | None:
        """Return how full a volume is, as the Summary API tells it; None where its driver doesn't. Raises: OSError."""
        async with self._asking(volume) as (stub, able):
            if _RPC.GET_VOLUME_STATS not in able:
                return None
            staged = str(self._staging(volume)) if _RPC.STAGE_UNSTAGE_VOLUME in able else ""
            request = csi.NodeGetVolumeStatsRequest(
                volume_id=volume.handle, volume_path=str(path), staging_target_path=staged
            )  # fmt: skip
            answer = await stub.NodeGetVolumeStats(request, timeout=_CALL_SECONDS)
        found: dict[str, Any] = {}
        for one in answer.usage:
            names = _USAGE.get(one.unit)
            if names is not None:
                found |= dict(zip(names, (one.available, one.total, one.used), strict=True))
        if _RPC.VOLUME_CONDITION in able and answer.HasField("volume_condition"):
            found["volumeHealthStats"] = {"abnormal": answer.volume_condition.abnormal}
        return found

    async def grow(self, volume: CsiVolume, path: Path, size: int) -> None:
        """Have a driver grow a volume that is mounted at `path` to `size` bytes. Raises: OSError."""
        async with self._locks.setdefault(volume.handle, asyncio.Lock()), self._asking(volume) as (stub, able):
            if _RPC.EXPAND_VOLUME not in able:
                return  # such a driver's volumes grow without the node
            staged = str(self._staging(volume)) if _RPC.STAGE_UNSTAGE_VOLUME in able else ""
            request = csi.NodeExpandVolumeRequest(
                volume_id=volume.handle, volume_path=str(path), staging_target_path=staged,
                capacity_range=csi.CapacityRange(required_bytes=size),
                volume_capability=volume.capability(None, able),
                secrets=await self._secret(volume.expand_secret),
            )  # fmt: skip
            await stub.NodeExpandVolume(request, timeout=_CALL_SECONDS)

    @contextlib.asynccontextmanager
    async def _asking(self, volume: CsiVolume) -> AsyncIterator[tuple[Any, set[int]]]:
        """Yield a driver's stub and what it can. Raises: OSError for whatever it answers."""
        if not self._drivers.has(volume.driver):
            raise OSError(f"driver name {volume.driver} not found in the list of registered CSI drivers")
        try:
            async with self._drivers.node_service(volume.driver) as stub:
                yield stub, await _abilities(stub)
        except grpc.aio.AioRpcError as error:
            raise OSError(f"rpc error: code = {error.code().name} desc = {error.details()}") from error

    def _staging(self, volume: CsiVolume) -> Path:
        digest = hashlib.sha256(volume.handle.encode()).hexdigest()
        return self._plugins / "kubernetes.io" / "csi" / volume.driver / digest / "globalmount"

    async def _driver(self, name: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = (await self._client.get(CSI_DRIVERS, name))["spec"]
        except NotFound:
            return {}
        return found

    async def _publish_context(self, driver: Mapping[str, Any], volume: CsiVolume) -> Mapping[str, str]:
        """What attaching told of a volume; nothing where the driver doesn't attach. Raises: ConfigError."""
        if volume.is_inline or driver.get("attachRequired") is False:
            return {}
        digest = hashlib.sha256(f"{volume.handle}{volume.driver}{self._node_name}".encode()).hexdigest()
        try:
            found = (await self._client.get(VOLUME_ATTACHMENTS, f"csi-{digest}")).get("status") or {}
        except NotFound:
            found = {}
        if not found.get("attached"):
            why = (found.get("attachError") or {}).get("message", "")
            raise ConfigError(f"volume attachment is being awaited{': ' + why if why else ''}")
        return found.get("attachmentMetadata") or {}

    async def _secret(self, name: tuple[str, str] | None) -> dict[str, str]:
        if name is None:
            return {}
        try:
            found = await self._client.get(SECRETS, name[1], name[0])
        except NotFound as error:
            raise ConfigError(f'secret "{name[1]}" not found') from error
        data = found.get("data") or {}
        return {key: base64.b64decode(value).decode(errors="surrogateescape") for key, value in data.items()}

    async def _service_account_tokens(self, pod: Pod, driver: Mapping[str, Any]) -> str:
        """Return the tokens a driver asks for of the pod's account, by audience, as JSON; "" when it asks for none."""
        found = {}
        for one in driver.get("tokenRequests") or ():
            status = await self._tokens.status(pod, one)
            token = {"token": status["token"], "expirationTimestamp": status["expirationTimestamp"]}
            found[one.get("audience", "")] = token
        return json.dumps(found) if found else ""

    # ---- the way back

    async def release(self, folder: Path) -> None:
        """Take down all volumes below a pod's folder. Raises: OSError while a driver doesn't; try again."""
        for note, found in await asyncio.to_thread(_notes, folder, f"volumes/*/{NOTE}"):
            async with self._locks.setdefault(found["volumeHandle"], asyncio.Lock()):
                if await asyncio.to_thread(note.exists):  # else another has been faster
                    await self._unpublish(found, note)

    async def _unpublish(self, found: Mapping[str, str], note: Path) -> None:
        name, handle = found["driverName"], found["volumeHandle"]
        if not self._drivers.has(name):
            raise OSError(f"driver name {name} not found in the list of registered CSI drivers")
        try:
            async with self._drivers.node_service(name) as stub:
                target = str(note.parent / MOUNT)
                request = csi.NodeUnpublishVolumeRequest(volume_id=handle, target_path=target)
                await stub.NodeUnpublishVolume(request, timeout=_CALL_SECONDS)
                await asyncio.to_thread(note.unlink, missing_ok=True)
                staged = found.get("staged", "")
                if staged and not await asyncio.to_thread(self._is_used, name, handle):
                    unstage = csi.NodeUnstageVolumeRequest(volume_id=handle, staging_target_path=staged)
                    await stub.NodeUnstageVolume(unstage, timeout=_CALL_SECONDS)
                    await asyncio.to_thread(_remove_empty, Path(staged))
        except grpc.aio.AioRpcError as error:
            raise OSError(f"volume {handle} of {name} can't be taken down: {error.details()}") from error
        await asyncio.to_thread(_remove_empty, note.parent / MOUNT)

    def _is_used(self, driver: str, handle: str) -> bool:
        """Whether another pod of this node has the volume."""
        notes = _notes(self._pods, f"*/volumes/*/{NOTE}")
        return any((one["driverName"], one["volumeHandle"]) == (driver, handle) for _, one in notes)


def _prepare(volume: CsiVolume, place: Path, staged: Path | None) -> None:
    """Make the folders, and the note before there is anything to take down."""
    for folder in filter(None, (place, staged)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    note = {"driverName": volume.driver, "volumeHandle": volume.handle, "staged": str(staged) if staged else ""}
    (place / NOTE).write_text(json.dumps(note))


def _notes(folder: Path, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    return [(path, json.loads(path.read_text())) for path in sorted(folder.glob(pattern))]


async def _abilities(stub: Any) -> set[int]:
    answer = await stub.NodeGetCapabilities(csi.NodeGetCapabilitiesRequest(), timeout=_CALL_SECONDS)
    return {one.rpc.type for one in answer.capabilities}


def _takes_group(driver: Mapping[str, Any], volume: CsiVolume) -> bool:
    policy = driver.get("fsGroupPolicy") or "ReadWriteOnceWithFSType"
    if policy == "ReadWriteOnceWithFSType":
        return bool(volume.fs_type) and "ReadWriteOnce" in volume.access_modes and not volume.read_only
    return policy == "File" and not volume.read_only


def _pod_info(pod: Pod, *, is_inline: bool) -> dict[str, str]:
    metadata, prefix = pod["metadata"], "csi.storage.k8s.io"
    return {
        f"{prefix}/pod.name": metadata["name"], f"{prefix}/pod.namespace": metadata["namespace"],
        f"{prefix}/pod.uid": metadata["uid"], f"{prefix}/ephemeral": str(is_inline).lower(),
        f"{prefix}/serviceAccount.name": pod["spec"].get("serviceAccountName", ""),
    }  # fmt: skip


def _remove_empty(folder: Path) -> None:
    """Remove a folder that a driver left; what is in one that isn't empty may be somebody's data, and stays."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        if folder.name == "globalmount":
            folder.parent.rmdir()
