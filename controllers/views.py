"""The fields of objects that controllers read, in the wire's spelling. Never sent back: writes are creates and patches.

What a controller copies whole (templates, selectors, statuses it patches) stays the plain value of its JSON.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from machinery.api.meta import ObjectKey

JSON: TypeAlias = dict[str, Any]


class Word(StrEnum):
    """A text out of few, of which all views share one copy; others are shared too, up to a number.

    A cluster's ten thousand pods say "Ready" ten thousand times; decoded as plain texts each would be an object.
    """

    TRUE, FALSE, UNKNOWN, EMPTY = "True", "False", "Unknown", ""
    READY, INITIALIZED, CONTAINERS_READY = "Ready", "Initialized", "ContainersReady"
    SCHEDULED, READY_TO_START = "PodScheduled", "PodReadyToStartContainers"
    RUNNING, PENDING, SUCCEEDED, FAILED = "Running", "Pending", "Succeeded", "Failed"
    ALWAYS, NEVER, ON_FAILURE = "Always", "Never", "OnFailure"
    EXISTS, EQUAL, NO_EXECUTE, NO_SCHEDULE = "Exists", "Equal", "NoExecute", "NoSchedule"
    NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
    TCP, UDP = "TCP", "UDP"
    V1, APPS, BATCH = "v1", "apps/v1", "batch/v1"
    REPLICA_SET, DEPLOYMENT, STATEFUL_SET, DAEMON_SET = "ReplicaSet", "Deployment", "StatefulSet", "DaemonSet"
    JOB, CRON_JOB, SERVICE, NODE = "Job", "CronJob", "Service", "Node"

    @classmethod
    def _missing_(cls, value: object) -> "Word":
        text = str(value)
        found = _words.get(text)
        if found is None:
            found = str.__new__(cls, text)
            found._name_ = found._value_ = text
            if len(_words) >= _MAX_WORDS:
                _words.clear()
            _words[text] = found
        return found


_MAX_WORDS = 4096
_words: dict[str, Word] = {}


class View(msgspec.Struct, frozen=True, gc=False):
    """Base of all views: immutable, and out of the garbage collector's sight because no view can hold a cycle."""


class OwnerReference(View, frozen=True):
    """Who an object belongs to."""

    apiVersion: Word
    kind: Word
    name: Word
    uid: Word
    controller: bool = False
    blockOwnerDeletion: bool = False


class ObjectMeta(View, frozen=True):
    """The metadata all controllers read."""

    name: str
    uid: str
    namespace: str = ""
    resourceVersion: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    ownerReferences: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    creationTimestamp: str = ""
    deletionTimestamp: str | None = None
    deletionGracePeriodSeconds: int | None = None

    @property
    def key(self) -> ObjectKey:
        """The object's namespace and name."""
        return ObjectKey(self.namespace, self.name)

    @property
    def controller(self) -> OwnerReference | None:
        """The one owner that manages the object, if any."""
        for owner in self.ownerReferences:  # asked for with each change of each pod: a generator costs thrice as much
            if owner.controller:
                return owner
        return None


class GraphMeta(View, frozen=True):
    """The metadata of an object no controller but the garbage collector looks at."""

    name: str
    uid: str
    namespace: str = ""
    ownerReferences: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    deletionTimestamp: str | None = None


class PartialObject(View, frozen=True):
    """Any object, reduced to its place in the graph of owners."""

    metadata: GraphMeta


class Condition(View, frozen=True):
    """One condition of a status, as far as it is read here."""

    type: Word
    status: Word
    reason: Word = Word.EMPTY
    message: str = ""
    lastTransitionTime: Word | None = None


def condition_of(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Return the condition of a type, if it is there."""
    return next((condition for condition in conditions if condition.type == kind), None)


# ---- pods


class ContainerPort(View, frozen=True):
    """A port a container names."""

    containerPort: int
    name: str = ""
    protocol: str = "TCP"


class Requests(View, frozen=True):
    """How much of what autoscalers measure is asked for, as quantities."""

    cpu: str | float | None = None
    memory: str | float | None = None


class Resources(View, frozen=True):
    """What a container asks for."""

    requests: Requests | None = None


class ClaimSource(View, frozen=True):
    """The claim a volume is of."""

    claimName: str = ""


class Volume(View, frozen=True):
    """A pod's volume, as far as claims are concerned."""

    name: str
    persistentVolumeClaim: ClaimSource | None = None
    ephemeral: JSON | None = None


class Container(View, frozen=True):
    """A container, as far as Services and autoscalers look into it."""

    name: str
    ports: tuple[ContainerPort, ...] = ()
    restartPolicy: str = ""
    resources: Resources | None = None


class Toleration(View, frozen=True):
    """A taint a pod puts up with, and for how long."""

    key: Word = Word.EMPTY
    operator: Word = Word.EMPTY
    value: str = ""
    effect: Word = Word.EMPTY
    tolerationSeconds: int | None = None


class PodSpec(View, frozen=True):
    """The part of a pod's spec that controllers read."""

    nodeName: Word = Word.EMPTY
    hostname: str = ""
    subdomain: str = ""
    containers: tuple[Container, ...] = ()
    initContainers: tuple[Container, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    affinity: JSON | None = None
    restartPolicy: str = "Always"
    volumes: tuple[Volume, ...] = ()
    resourceClaims: tuple[JSON, ...] = ()
    resources: Resources | None = None


class Terminated(View, frozen=True):
    """How a container ended."""

    exitCode: int = 0
    finishedAt: str | None = None


class ContainerState(View, frozen=True):
    """What a container does now, as far as it has ended."""

    terminated: Terminated | None = None


class ContainerStatus(View, frozen=True):
    """How often a container was restarted, and how it ended."""

    name: str = ""
    restartCount: int = 0
    state: ContainerState = ContainerState()


class PodIP(View, frozen=True):
    """One address of a pod."""

    ip: str = ""


class PodStatus(View, frozen=True):
    """The part of a pod's status that controllers read."""

    phase: Word = Word.EMPTY
    reason: Word = Word.EMPTY
    startTime: Word | None = None
    podIP: str = ""
    podIPs: tuple[PodIP, ...] = ()
    conditions: tuple[Condition, ...] = ()
    containerStatuses: tuple[ContainerStatus, ...] = ()
    initContainerStatuses: tuple[ContainerStatus, ...] = ()
    resourceClaimStatuses: tuple[JSON, ...] = ()
    extendedResourceClaimStatus: JSON | None = None


class Pod(View, frozen=True):
    """A pod."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_terminal(self) -> bool:
        """Whether it has run to its end and will not run again."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def is_active(self) -> bool:
        """Whether it counts as one of its owner's replicas."""
        return not self.is_terminal and self.metadata.deletionTimestamp is None

    @property
    def ready_condition(self) -> Condition | None:
        """Its Ready condition."""
        return condition_of(self.status.conditions, "Ready")

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        ready = self.ready_condition
        return ready is not None and ready.status == "True"


# ---- workloads


class ReplicaSetSpec(View, frozen=True):
    """What a ReplicaSet asks for."""

    replicas: int = 1
    minReadySeconds: int = 0
    selector: JSON | None = None
    template: JSON = {}


class ReplicaSetStatus(View, frozen=True):
    """What a ReplicaSet says is."""

    replicas: int = 0
    fullyLabeledReplicas: int = 0
    readyReplicas: int = 0
    availableReplicas: int = 0
    terminatingReplicas: int | None = None
    observedGeneration: int = 0
    conditions: tuple[JSON, ...] = ()


class ReplicaSet(View, frozen=True):
    """A ReplicaSet."""

    metadata: ObjectMeta
    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()


class RollingUpdate(View, frozen=True):
    """How far a rolling update may stray from the number asked for: numbers or percentages."""

    maxSurge: int | str | None = None
    maxUnavailable: int | str | None = None


class DeploymentStrategy(View, frozen=True):
    """How pods of an old template give way to those of a new one."""

    type: str = "RollingUpdate"
    rollingUpdate: RollingUpdate | None = None


class DeploymentSpec(View, frozen=True):
    """What a Deployment asks for."""

    replicas: int = 1
    selector: JSON | None = None
    template: JSON = {}
    strategy: DeploymentStrategy = DeploymentStrategy()
    minReadySeconds: int = 0
    revisionHistoryLimit: int | None = None
    paused: bool = False
    progressDeadlineSeconds: int | None = None


class DeploymentStatus(View, frozen=True):
    """What a Deployment says is."""

    observedGeneration: int = 0
    replicas: int = 0
    updatedReplicas: int = 0
    readyReplicas: int = 0
    availableReplicas: int = 0
    unavailableReplicas: int = 0
    terminatingReplicas: int | None = None
    collisionCount: int | None = None
    conditions: tuple[JSON, ...] = ()


class Deployment(View, frozen=True):
    """A Deployment."""

    metadata: ObjectMeta
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


# ---- services


class ServicePort(View, frozen=True):
    """A port of a Service and where it leads."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    targetPort: int | str = 0
    appProtocol: str | None = None


class ServiceSpec(View, frozen=True):
    """The part of a Service that says where its traffic goes."""

    selector: dict[str, str] | None = None
    ports: tuple[ServicePort, ...] = ()
    clusterIP: str = ""
    type: str = "ClusterIP"
    ipFamilies: tuple[str, ...] = ()
    publishNotReadyAddresses: bool = False
    trafficDistribution: str | None = None
    clusterIPs: tuple[str, ...] = ()
    loadBalancerClass: str | None = None
    loadBalancerIP: str = ""


class BalancerStatus(View, frozen=True):
    """Where a load balancer is reached."""

    ingress: tuple[JSON, ...] = ()


class ServiceStatus(View, frozen=True):
    """What is known of a Service."""

    loadBalancer: BalancerStatus = BalancerStatus()


class Service(View, frozen=True):
    """A Service."""

    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class Endpoints(View, frozen=True):
    """An Endpoints object; its subsets are compared and replaced whole."""

    metadata: ObjectMeta
    subsets: tuple[JSON, ...] = ()


class EndpointSlice(View, frozen=True):
    """An EndpointSlice; its endpoints and ports are compared and replaced whole."""

    metadata: ObjectMeta
    addressType: str = "IPv4"
    endpoints: tuple[JSON, ...] = ()
    ports: tuple[JSON, ...] | None = None


# ---- nodes, namespaces


class Taint(View, frozen=True):
    """What keeps pods off a node."""

    key: str
    effect: str
    value: str = ""
    timeAdded: str | None = None


class NodeSpec(View, frozen=True):
    """The part of a Node's spec that controllers read."""

    unschedulable: bool = False
    taints: tuple[JSON, ...] = ()
    podCIDRs: tuple[str, ...] = ()


class NodeCondition(Condition, frozen=True):
    """A condition of a Node and when the agent last spoke of it."""

    lastHeartbeatTime: str | None = None


class NodeStatus(View, frozen=True):
    """The part of a Node's status that controllers read."""

    conditions: tuple[NodeCondition, ...] = ()
    volumesAttached: tuple[JSON, ...] = ()
    volumesInUse: tuple[str, ...] = ()
    addresses: tuple[JSON, ...] = ()
    allocatable: JSON = {}
    daemonEndpoints: JSON = {}


class Node(View, frozen=True):
    """A Node."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class LeaseSpec(View, frozen=True):
    """When a Lease was last renewed, and by whom."""

    holderIdentity: str | None = None
    renewTime: str | None = None


class Lease(View, frozen=True):
    """A Lease."""

    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()


class NamespaceSpec(View, frozen=True):
    """What must be done before a Namespace may go."""

    finalizers: tuple[str, ...] = ()


class NamespaceStatus(View, frozen=True):
    """Whether a Namespace is on its way out, and how far."""

    phase: str = "Active"
    conditions: tuple[JSON, ...] = ()


class Namespace(View, frozen=True):
    """A Namespace."""

    metadata: ObjectMeta
    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class ServiceAccount(View, frozen=True):
    """A ServiceAccount; that it is there is all that is asked."""

    metadata: ObjectMeta


class ConfigMap(View, frozen=True):
    """A ConfigMap, its contents included."""

    metadata: ObjectMeta
    data: dict[str, str] = {}


class Secret(View, frozen=True):
    """A Secret, its contents included."""

    metadata: ObjectMeta
    data: dict[str, str] = {}
