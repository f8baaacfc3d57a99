"""The fields of StatefulSets, DaemonSets and their revisions that controllers read."""

from controllers.views import JSON, ObjectMeta, RollingUpdate, View


class ControllerRevision(View, frozen=True):
    """One state of a template."""

    metadata: ObjectMeta
    data: JSON = {}
    revision: int = 0


class StatefulRollingUpdate(View, frozen=True):
    """Which pods of a StatefulSet follow a new template, and how many at once."""

    partition: int = 0
    maxUnavailable: int | str | None = None


class StatefulStrategy(View, frozen=True):
    """How a StatefulSet's pods follow a new template."""

    type: str = "RollingUpdate"
    rollingUpdate: StatefulRollingUpdate | None = None


class Ordinals(View, frozen=True):
    """The number of the first pod."""

    start: int = 0


class ClaimRetention(View, frozen=True):
    """What becomes of claims: Retain or Delete."""

    whenDeleted: str = "Retain"
    whenScaled: str = "Retain"


class StatefulSetSpec(View, frozen=True):
    """What a StatefulSet asks for."""

    replicas: int = 1
    serviceName: str = ""
    selector: JSON | None = None
    template: JSON = {}
    volumeClaimTemplates: tuple[JSON, ...] = ()
    podManagementPolicy: str = "OrderedReady"
    updateStrategy: StatefulStrategy = StatefulStrategy()
    revisionHistoryLimit: int | None = 10
    minReadySeconds: int = 0
    persistentVolumeClaimRetentionPolicy: ClaimRetention | None = None
    ordinals: Ordinals | None = None


class StatefulSetStatus(View, frozen=True):
    """What a StatefulSet says is."""

    observedGeneration: int = 0
    replicas: int = 0
    readyReplicas: int = 0
    availableReplicas: int = 0
    currentReplicas: int = 0
    updatedReplicas: int = 0
    currentRevision: str = ""
    updateRevision: str = ""
    collisionCount: int | None = None


class StatefulSet(View, frozen=True):
    """A StatefulSet."""

    metadata: ObjectMeta
    spec: StatefulSetSpec = StatefulSetSpec()
    status: StatefulSetStatus = StatefulSetStatus()


class DaemonStrategy(View, frozen=True):
    """How a DaemonSet's pods follow a new template."""

    type: str = "RollingUpdate"
    rollingUpdate: RollingUpdate | None = None


class DaemonSetSpec(View, frozen=True):
    """What a DaemonSet asks for."""

    selector: JSON | None = None
    template: JSON = {}
    updateStrategy: DaemonStrategy = DaemonStrategy()
    minReadySeconds: int = 0
    revisionHistoryLimit: int | None = 10


class DaemonSetStatus(View, frozen=True):
    """What a DaemonSet says is."""

    observedGeneration: int = 0
    currentNumberScheduled: int = 0
    desiredNumberScheduled: int = 0
    numberMisscheduled: int = 0
    numberReady: int = 0
    numberAvailable: int = 0
    numberUnavailable: int = 0
    updatedNumberScheduled: int = 0
    collisionCount: int | None = None


class DaemonSet(View, frozen=True):
    """A DaemonSet."""

    metadata: ObjectMeta
    spec: DaemonSetSpec = DaemonSetSpec()
    status: DaemonSetStatus = DaemonSetStatus()
