"""The fields of claims, volumes and storage classes that controllers read."""

from controllers.views import JSON, ObjectMeta, Pod, View
from machinery.api.meta import ObjectKey
from machinery.client.informer import Informer

CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
CLAIM_INDEX = "claim"


class ClaimSpec(View, frozen=True):
    """What a claim asks for."""

    accessModes: tuple[str, ...] = ()
    volumeName: str = ""
    storageClassName: str | None = None
    volumeMode: str = "Filesystem"
    resources: JSON = {}
    selector: JSON | None = None
    dataSource: JSON | None = None

    @property
    def request(self) -> str:
        """How much it asks for, a quantity."""
        return str((self.resources.get("requests") or {}).get("storage") or "0")


class ClaimStatus(View, frozen=True):
    """What a claim has."""

    phase: str = ""
    accessModes: tuple[str, ...] = ()
    capacity: JSON = {}
    conditions: tuple[JSON, ...] = ()


class PersistentVolumeClaim(View, frozen=True):
    """A PersistentVolumeClaim."""

    metadata: ObjectMeta
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()

    @property
    def class_name(self) -> str:
        """The storage class asked for; empty for none."""
        return self.metadata.annotations.get(CLASS_ANNOTATION) or self.spec.storageClassName or ""


class ObjectReference(View, frozen=True):
    """The claim a volume belongs to."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


class VolumeSpec(View, frozen=True):
    """What a volume offers."""

    accessModes: tuple[str, ...] = ()
    capacity: JSON = {}
    claimRef: ObjectReference | None = None
    persistentVolumeReclaimPolicy: str = "Retain"
    storageClassName: str = ""
    volumeMode: str = "Filesystem"
    nodeAffinity: JSON | None = None
    hostPath: JSON | None = None
    local: JSON | None = None
    nfs: JSON | None = None
    csi: JSON | None = None


class VolumeStatus(View, frozen=True):
    """What a volume does."""

    phase: str = ""
    reason: str = ""


class PersistentVolume(View, frozen=True):
    """A PersistentVolume."""

    metadata: ObjectMeta
    spec: VolumeSpec = VolumeSpec()
    status: VolumeStatus = VolumeStatus()

    @property
    def class_name(self) -> str:
        """The storage class it is of; empty for none."""
        return self.metadata.annotations.get(CLASS_ANNOTATION) or self.spec.storageClassName

    @property
    def claim(self) -> ObjectKey | None:
        """The claim it is given to, or kept for."""
        claim = self.spec.claimRef
        return ObjectKey(claim.namespace, claim.name) if claim is not None else None


class StorageClass(View, frozen=True):
    """A StorageClass."""

    metadata: ObjectMeta
    provisioner: str
    parameters: dict[str, str] = {}
    reclaimPolicy: str = "Delete"
    volumeBindingMode: str = "Immediate"
    mountOptions: tuple[str, ...] = ()
    allowVolumeExpansion: bool = False


def claims_of_pod(pod: Pod) -> list[ObjectKey]:
    """Return the claims a pod mounts: those it names, and those made for its generic ephemeral volumes."""
    found = []
    for volume in pod.spec.volumes:
        if volume.persistentVolumeClaim is not None:
            found.append(ObjectKey(pod.metadata.namespace, volume.persistentVolumeClaim.claimName))
        elif volume.ephemeral is not None:
            found.append(ObjectKey(pod.metadata.namespace, f"{pod.metadata.name}-{volume.name}"))
    return found


def index_by_claim(pods: Informer[Pod]) -> None:
    """Let the informer of pods find those that mount a claim."""
    pods.add_index(CLAIM_INDEX, lambda pod: [str(key) for key in claims_of_pod(pod)])
