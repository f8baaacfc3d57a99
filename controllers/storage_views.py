"""The fields of claims, volumes and storage classes that controllers read."""

from controllers.views import JSON, ObjectMeta, View


class ClaimSpec(View, frozen=True):
    """What a claim asks for."""

    accessModes: tuple[str, ...] = ()
    volumeName: str = ""
    storageClassName: str | None = None
    volumeMode: str = "Filesystem"
    resources: JSON = {}
    selector: JSON | None = None


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


class VolumeStatus(View, frozen=True):
    """What a volume does."""

    phase: str = ""
    reason: str = ""


class PersistentVolume(View, frozen=True):
    """A PersistentVolume."""

    metadata: ObjectMeta
    spec: VolumeSpec = VolumeSpec()
    status: VolumeStatus = VolumeStatus()


class StorageClass(View, frozen=True):
    """A StorageClass."""

    metadata: ObjectMeta
    provisioner: str
    parameters: dict[str, str] = {}
    reclaimPolicy: str = "Delete"
    volumeBindingMode: str = "Immediate"
    mountOptions: tuple[str, ...] = ()
    allowVolumeExpansion: bool = False
