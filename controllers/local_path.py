"""What volumes of the storage class `local-path` are: folders on a node. Pure.

The agent needs to know nothing of them: a volume is a `hostPath` pinned to its node, and its folder is made (open to
every user, for many containers do not run as root) and removed by a pod that runs once on that node.
"""

from dataclasses import dataclass
from typing import Any

from controllers.ownership import reference
from controllers.storage_views import PersistentVolume, PersistentVolumeClaim, StorageClass
from controllers.views import Pod
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS

PROVISIONER = "wherry/local-path"
CLASS_NAME = "local-path"
FINALIZER = "wherry/local-path"
"""On a volume to be deleted with its claim: its folder is there."""
HELPER_NAMESPACE = "kube-system"
HELPER_LABEL = "wherry/local-path"
"""On a helper pod: the name of the volume it works for."""
HOST_NAME = "kubernetes.io/hostname"
SIMULATED = "wherry/simulated"
_MOUNT = "/volumes"
_DEADLINE_SECONDS = 120
_MODES = frozenset(("ReadWriteOnce", "ReadWriteOncePod"))


@dataclass(frozen=True, slots=True)
class Settings:
    """Where folders lie on each node, and the image (with `sh`) of the pods that make them."""

    folder: str
    image: str = "wherry.local/busybox:latest"


def storage_class() -> dict[str, Any]:
    """Return the default StorageClass."""
    return {
        "metadata": {"name": CLASS_NAME, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }  # fmt: skip


def refusal(claim: PersistentVolumeClaim) -> str:
    """Return why a claim can't be served; empty when it can."""
    if claim.spec.volumeMode != "Filesystem":
        return f"volume mode {claim.spec.volumeMode} is not supported: volumes are folders"
    if other := set(claim.spec.accessModes) - _MODES:
        return f"access mode {', '.join(sorted(other))} is not supported: volumes are on one node"
    if claim.spec.selector:
        return "claim.spec.selector is not supported"
    if claim.spec.dataSource:
        return "claim.spec.dataSource is not supported"
    return ""


def volume_name(claim: PersistentVolumeClaim) -> str:
    """Return the name of the volume made for a claim."""
    return f"pvc-{claim.metadata.uid}"


def folder_name(claim: PersistentVolumeClaim) -> str:
    """Return the name of a claim's folder: unique, and telling for who looks at the disk."""
    return f"{volume_name(claim)}_{claim.metadata.namespace}_{claim.metadata.name}"


def volume_of(
    claim: PersistentVolumeClaim, storage_class: StorageClass, node: str, host_name: str, settings: Settings
) -> dict[str, Any]:
    """Return the volume of a claim on a node."""
    term = {"matchExpressions": [{"key": HOST_NAME, "operator": "In", "values": [host_name]}]}
    source = {"path": f"{settings.folder}/{folder_name(claim)}", "type": "DirectoryOrCreate"}
    spec = {
        "capacity": {"storage": claim.spec.request}, "accessModes": list(claim.spec.accessModes),
        "volumeMode": "Filesystem", "hostPath": source, "storageClassName": claim.class_name,
        "persistentVolumeReclaimPolicy": storage_class.reclaimPolicy,
        "claimRef": reference(PERSISTENT_VOLUME_CLAIMS, claim.metadata),
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
    }  # fmt: skip
    if storage_class.mountOptions:
        spec["mountOptions"] = list(storage_class.mountOptions)
    annotations = {"pv.kubernetes.io/provisioned-by": PROVISIONER, "wherry/node": node}
    metadata: dict[str, Any] = {"name": volume_name(claim), "annotations": annotations}
    if storage_class.reclaimPolicy == "Delete":
        metadata["finalizers"] = [FINALIZER]
    return {"metadata": metadata, "spec": spec}


def node_of(volume: PersistentVolume) -> str:
    """Return the name of the node a volume of ours lies on."""
    return volume.metadata.annotations.get("wherry/node", "")


def maker(claim: PersistentVolumeClaim, node: str, settings: Settings) -> dict[str, Any]:
    """Return the pod that makes a claim's folder."""
    folder = f"{_MOUNT}/{folder_name(claim)}"
    command = f"mkdir -p {folder} && chmod 0777 {folder}"
    owner = {"wherry/claim": str(claim.metadata.key)}
    return _helper(f"make-{volume_name(claim)}", volume_name(claim), node, settings.folder, command, settings, owner)


def remover(volume: PersistentVolume, settings: Settings) -> dict[str, Any]:
    """Return the pod that removes a volume's folder."""
    parent, _, name = str((volume.spec.hostPath or {}).get("path", "")).rpartition("/")
    command = f"rm -rf {_MOUNT}/{name}"
    return _helper(
        f"remove-{volume.metadata.name}", volume.metadata.name, node_of(volume), parent, command, settings, {}
    )


def _helper(
    name: str, volume: str, node: str, folder: str, command: str, settings: Settings, annotations: dict[str, str]
) -> dict[str, Any]:
    container = {
        "name": "folder", "image": settings.image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", command],
        "volumeMounts": [{"name": "volumes", "mountPath": _MOUNT}],
    }  # fmt: skip
    metadata = {
        "name": name, "namespace": HELPER_NAMESPACE, "labels": {HELPER_LABEL: volume}, "annotations": annotations,
    }  # fmt: skip
    spec = {
        "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "enableServiceLinks": False,
        "activeDeadlineSeconds": _DEADLINE_SECONDS, "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}], "priorityClassName": "system-node-critical",
        "containers": [container],
        "volumes": [{"name": "volumes", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}],
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def ended_badly(pod: Pod) -> str:
    """Return why a helper pod failed; empty when it did not."""
    if pod.status.phase != "Failed":
        return ""
    codes = [
        f"exit code {one.state.terminated.exitCode}"
        for one in pod.status.containerStatuses
        if one.state.terminated is not None
    ]
    return f"pod {pod.metadata.namespace}/{pod.metadata.name} failed: {', '.join(codes) or 'it did not run'}"
