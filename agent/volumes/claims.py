"""Finds what a pod's claim is bound to: PersistentVolumes on local folders, host paths and NFS.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.environment import ConfigError
from agent.volumes.host_path import check_host_path
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import NotFound
from machinery.files import write_atomically

if TYPE_CHECKING:
    from agent.csi.volumes import CsiVolume

Pod = Mapping[str, Any]
_API_SECONDS = 2.0  # so long the API is waited for where it told what is needed before


@dataclass(frozen=True, slots=True)
class Source:
    """What a claim led to: a path of this machine, or an NFS export to be mounted.

    Attributes:
        takes_group: whether fsGroup is to change who owns it.
        is_block: a device file, not a file system.
        csi: instead of a path, what a storage driver mounts.
        claim, volume: namespace and name of the claim, and the PersistentVolume it is bound to; empty without one.
        one_pod: no second pod may have it (ReadWriteOncePod).
    """

    path: Path | None = None
    nfs: Mapping[str, Any] | None = None
    read_only: bool = False
    takes_group: bool = False
    is_block: bool = False
    csi: "CsiVolume | None" = None
    claim: tuple[str, str] = ("", "")
    volume: str = ""
    one_pod: bool = False


class Claims:
    """Looks claims and volumes up in the API."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def resolve(self, pod: Pod, volume: Mapping[str, Any], note: Path) -> Source:
        """Return what a volume's claim is bound to. Raises: ConfigError in the words users know; ConnectionFailed.

        Args: `note` is a file beside the pod's volumes; by it the answer is known while the API is away.
        """
        read_only = bool((volume.get("persistentVolumeClaim") or {}).get("readOnly"))
        before = await asyncio.to_thread(_read_note, note)
        try:
            async with asyncio.timeout(_API_SECONDS if before is not None else None):
                bound = await self._bound(pod, volume)
        except (ConnectionFailed, TimeoutError):
            if before is None:
                raise
            bound = before
        else:
            await asyncio.to_thread(_write_note, note, bound)
        source = _source(bound.spec, read_only=read_only)
        one_pod = "ReadWriteOncePod" in (bound.spec.get("accessModes") or ())
        return replace(source, claim=(bound.namespace, bound.claim), volume=bound.volume, one_pod=one_pod)

    async def _bound(self, pod: Pod, volume: Mapping[str, Any]) -> "_Bound":
        metadata = pod["metadata"]
        body = volume.get("persistentVolumeClaim")
        name = body["claimName"] if body is not None else f"{metadata['name']}-{volume['name']}"
        try:
            claim = await self._client.get(PERSISTENT_VOLUME_CLAIMS, name, metadata["namespace"])
        except NotFound as error:
            raise ConfigError(f'persistentvolumeclaim "{name}" not found') from error
        if body is None and not _is_owned(claim, metadata["uid"]):
            raise ConfigError(f"PVC {metadata['namespace']}/{name} was not created for pod {metadata['name']}")
        if claim["metadata"].get("deletionTimestamp"):
            raise ConfigError("PVC is being deleted")
        bound_to = claim["spec"].get("volumeName", "")
        if (claim.get("status") or {}).get("phase") != "Bound" or not bound_to:
            raise ConfigError("PVC is not bound")
        try:
            found = await self._client.get(PERSISTENT_VOLUMES, bound_to)
        except NotFound as error:
            raise ConfigError(f'persistentvolume "{bound_to}" not found') from error
        return _Bound(metadata["namespace"], name, bound_to, found["spec"])


@dataclass(frozen=True, slots=True)
class _Bound:
    """A claim, and the name and spec of the PersistentVolume it is bound to."""

    namespace: str
    claim: str
    volume: str
    spec: Mapping[str, Any]


def _read_note(note: Path) -> _Bound | None:
    try:
        return _Bound(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_note(note: Path, bound: _Bound) -> None:
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(note, json.dumps(asdict(bound)).encode())


def _is_owned(claim: Mapping[str, Any], uid: str) -> bool:
    return any(
        one.get("uid") == uid and one.get("controller") for one in claim["metadata"].get("ownerReferences") or ()
    )


def _source(spec: Mapping[str, Any], *, read_only: bool) -> Source:
    is_block = spec.get("volumeMode") == "Block"
    for kind in ("local", "hostPath"):
        if kind in spec:
            path = Path(spec[kind]["path"])
            if kind == "hostPath":
                check_host_path(path, spec[kind].get("type") or "")
            elif not path.exists():
                raise ConfigError(f'path "{path}" does not exist')
            return Source(path=path, read_only=read_only, takes_group=kind == "local", is_block=is_block)
    if "csi" in spec:
        from agent.csi.volumes import CsiVolume

        return Source(csi=CsiVolume.of_claim(spec, read_only=read_only), read_only=read_only, is_block=is_block)
    if "nfs" in spec:
        nfs = {**spec["nfs"], "mountOptions": spec.get("mountOptions") or ()}
        return Source(nfs=nfs, read_only=read_only or spec["nfs"].get("readOnly", False))
    kind = next((name for name in spec if name in ("iscsi", "fc", "rbd", "cephfs")), "of this volume")
    raise ConfigError(f"volume source {kind} is not supported")
