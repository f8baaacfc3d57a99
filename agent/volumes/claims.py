"""Finds what a pod's claim is bound to: PersistentVolumes on local folders, host paths and NFS.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.environment import ConfigError
from agent.volumes.host_path import check_host_path
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from machinery.client.rest import Client
from machinery.errors import NotFound

if TYPE_CHECKING:
    from agent.csi.volumes import CsiVolume

Pod = Mapping[str, Any]


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

    async def resolve(self, pod: Pod, volume: Mapping[str, Any]) -> Source:
        """Return what a volume's claim is bound to. Raises: ConfigError in the words users know."""
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
        source = _source(found["spec"], read_only=bool((body or {}).get("readOnly")))
        one_pod = "ReadWriteOncePod" in (found["spec"].get("accessModes") or ())
        return replace(source, claim=(metadata["namespace"], name), volume=bound_to, one_pod=one_pod)


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
