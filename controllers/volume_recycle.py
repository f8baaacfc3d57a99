"""Volumes whose policy is Recycle: a pod empties them when their claim is gone, and they are offered again. Pure.

Deprecated, but served: folders of nodes and NFS exports are all that is recycled.
Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#recycle
"""

from typing import Any

from controllers.storage_views import PersistentVolume
from controllers.views import Pod
from machinery.api.meta import ObjectKey
from machinery.api.quantity import parse_quantity

NAMESPACE = "default"
_PREFIX = "recycler-for-"
_CLAIM = "wherry/claim-uid"
# Upstream's `find -delete` is none of busybox's.
_SCRUB = (
    "test -e /scrub && find /scrub -mindepth 1 -maxdepth 1 -exec rm -rf {} + "
    '&& test -z "$(ls -A /scrub)" || exit 1'
)  # fmt: skip
_GIB = 2**30
_SECONDS_A_GIB = 30
_LEAST_SECONDS = {"hostPath": 60, "nfs": 300}


def source_of(volume: PersistentVolume) -> dict[str, Any]:
    """Return the volume as a pod mounts it; nothing for a kind that is not recycled."""
    if volume.spec.hostPath is not None:
        return {"hostPath": {"path": volume.spec.hostPath.get("path", "")}}
    return {"nfs": volume.spec.nfs} if volume.spec.nfs is not None else {}


def pod_key(volume_name: str) -> ObjectKey:
    """Return the key of the pod that empties a volume."""
    return ObjectKey(NAMESPACE, _PREFIX + volume_name)


def volume_of(pod: ObjectKey) -> str:
    """Return the name of the volume a pod empties, "" when it is no such pod."""
    return pod.name.removeprefix(_PREFIX) if pod.namespace == NAMESPACE and pod.name.startswith(_PREFIX) else ""


def scrubber(volume: PersistentVolume, image: str) -> dict[str, Any]:
    """Return the pod that empties a volume, where the volume can be reached."""
    source, key = source_of(volume), pod_key(volume.metadata.name)
    size = parse_quantity(str(volume.spec.capacity.get("storage", "0")))
    least = _LEAST_SECONDS[next(iter(source))]
    container = {
        "name": "pv-recycler", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh"],
        "args": ["-c", _SCRUB], "volumeMounts": [{"name": "vol", "mountPath": "/scrub"}],
    }  # fmt: skip
    spec: dict[str, Any] = {
        "restartPolicy": "Never", "activeDeadlineSeconds": max(least, _SECONDS_A_GIB * int(size / _GIB)),
        "automountServiceAccountToken": False, "containers": [container], "volumes": [{"name": "vol", **source}],
    }  # fmt: skip
    required = (volume.spec.nodeAffinity or {}).get("required")
    if required:
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    annotations = {_CLAIM: volume.spec.claimRef.uid if volume.spec.claimRef is not None else ""}
    return {"metadata": {"name": key.name, "namespace": key.namespace, "annotations": annotations}, "spec": spec}


def is_for(pod: Pod, volume: PersistentVolume) -> bool:
    """Whether a pod empties the volume of what its present claim left there."""
    claim = volume.spec.claimRef
    return claim is not None and pod.metadata.annotations.get(_CLAIM) == claim.uid
