"""Pods as the scheduler sees them: small, shared where they are alike, decoded straight from the wire.

A cluster holds many pods and few kinds of them. What the placing of a pod depends on is its *shape*, and pods of one
template share one object for it; a pod itself is a name, a uid, a node and a pointer. Two levels of sharing:

- `Needs`: what a pod asks of a node by itself (requests, selectors, tolerations, ports, volumes). Masks and scores
  over nodes are kept for each.
- `Shape`: needs, what other pods see of it (namespace, labels, owner), and what it asks of others (affinity, spread).
"""

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import orjson

from machinery.api.meta import ObjectKey
from scheduler.devices.extended import asks_of
from scheduler.requests import Amounts, Running, larger, requests_of, scored_requests_of
from scheduler.terms import AffinityTerms, SpreadConstraint, read_affinity, read_constraints

DEFAULT_SCHEDULER = "default-scheduler"
GROUP, GROUP_MIN = "scheduling.wherry.dev/pod-group", "scheduling.wherry.dev/pod-group-min-member"
"""Annotations: pods of one namespace with the same GROUP are bound once GROUP_MIN of them have a place."""
RESTART_ALL_FEATURE = "RestartAllContainersOnContainerExits"
_RESTART_ALL = "RestartAllContainers"
Port = tuple[str, str, int]
"""Address, protocol, number; the address is 0.0.0.0 when a pod takes the port on all of them."""

_NOTHING = msgspec.Raw()
_MAX_STRINGS = 50_000
_TERMINAL = ("Succeeded", "Failed")


# ---- the wire


class _Owner(msgspec.Struct):
    uid: str = ""
    kind: str = ""
    name: str = ""
    controller: bool = False


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    deletionTimestamp: str | None = None
    labels: msgspec.Raw = _NOTHING
    annotations: dict[str, str] | None = None
    ownerReferences: list[_Owner] | None = None


class PortView(msgspec.Struct, omit_defaults=True):
    """A container's port."""

    hostPort: int = 0
    hostIP: str = ""
    protocol: str = "TCP"


class ResourcesView(msgspec.Struct, omit_defaults=True):
    """What a container, or a whole pod, asks for."""

    requests: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None


class _RestartRule(msgspec.Struct, omit_defaults=True):
    action: str = ""


class ContainerView(msgspec.Struct, omit_defaults=True):
    """A container, as far as it matters where it runs."""

    name: str = ""
    image: str = ""
    restartPolicy: str | None = None
    restartPolicyRules: list[_RestartRule] | None = None
    resources: ResourcesView | None = None
    ports: list[PortView] | None = None


class _Claim(msgspec.Struct, omit_defaults=True):
    claimName: str = ""
    readOnly: bool = False


class VolumeView(msgspec.Struct, omit_defaults=True):
    """A volume, of the kinds that tie a pod to places; others (projected, config maps) are left out."""

    name: str = ""
    persistentVolumeClaim: _Claim | None = None
    ephemeral: dict[str, Any] | None = None
    gcePersistentDisk: dict[str, Any] | None = None
    awsElasticBlockStore: dict[str, Any] | None = None
    iscsi: dict[str, Any] | None = None
    rbd: dict[str, Any] | None = None
    azureDisk: dict[str, Any] | None = None

    def claim_of(self, pod_name: str) -> str:
        """Return the name of the PersistentVolumeClaim the volume stands for; nothing when it is none."""
        if self.persistentVolumeClaim is not None:
            return self.persistentVolumeClaim.claimName
        return f"{pod_name}-{self.name}" if self.ephemeral is not None else ""

    def disk(self) -> tuple[tuple[str, ...], bool] | None:
        """Return what names a disk that is attached to one node at a time, and whether it is only read."""
        if (gce := self.gcePersistentDisk) is not None:
            return ("gce", str(gce.get("pdName"))), bool(gce.get("readOnly"))
        if (ebs := self.awsElasticBlockStore) is not None:
            return ("ebs", str(ebs.get("volumeID"))), False
        if (iscsi := self.iscsi) is not None:
            return ("iscsi", str(iscsi.get("iqn"))), bool(iscsi.get("readOnly"))
        if (rbd := self.rbd) is not None:
            # Of the monitors one in common would do; a cluster lists them all, and in one order.
            monitors = ",".join(sorted(rbd.get("monitors") or ()))
            return ("rbd", monitors, str(rbd.get("pool") or "rbd"), str(rbd.get("image"))), bool(rbd.get("readOnly"))
        return None

    def ties(self) -> bool:
        """Say whether the volume matters for placing its pod."""
        return any(getattr(self, field) is not None for field in self.__struct_fields__[1:])


class _Spec(msgspec.Struct):
    nodeName: str = ""
    schedulerName: str = DEFAULT_SCHEDULER
    priority: int | None = None
    preemptionPolicy: str | None = None
    containers: list[ContainerView] = []
    initContainers: list[ContainerView] | None = None
    volumes: list[VolumeView] | None = None
    nodeSelector: msgspec.Raw = _NOTHING
    affinity: msgspec.Raw = _NOTHING
    tolerations: msgspec.Raw = _NOTHING
    topologySpreadConstraints: msgspec.Raw = _NOTHING
    overhead: msgspec.Raw = _NOTHING
    resources: msgspec.Raw = _NOTHING
    resourceClaims: msgspec.Raw = _NOTHING
    schedulingGates: list[dict[str, Any]] | None = None


class _ContainerStatus(msgspec.Struct):
    name: str = ""
    allocatedResources: dict[str, Any] | None = None
    resources: ResourcesView | None = None


class _Condition(msgspec.Struct):
    type: str
    status: str = ""
    reason: str | None = None
    message: str | None = None
    lastTransitionTime: str | None = None


class _ClaimStatus(msgspec.Struct):
    name: str = ""
    resourceClaimName: str | None = None


class _Status(msgspec.Struct):
    phase: str = ""
    nominatedNodeName: str = ""
    startTime: str | None = None
    containerStatuses: list[_ContainerStatus] | None = None
    initContainerStatuses: list[_ContainerStatus] | None = None
    conditions: list[_Condition] | None = None
    resources: ResourcesView | None = None
    allocatedResources: dict[str, Any] | None = None
    resourceClaimStatuses: list[_ClaimStatus] | None = None


class PodView(msgspec.Struct):
    """A pod on the wire, as far as the scheduler reads it."""

    metadata: _Metadata
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


# ---- what is kept


class Needs:
    """What a pod asks of a node by itself. Shared by all pods that ask the same; never changed."""

    __slots__ = (
        "__weakref__", "affinity", "claims", "devices", "features", "images", "key", "node_selector", "policy", "ports",
        "priority", "requests", "scored", "tolerations", "volumes",
    )  # fmt: skip

    def __init__(self, key: tuple[Any, ...], spec: _Spec, affinity: Mapping[str, Any], amounts: Amounts) -> None:
        self.key = key
        self.priority = spec.priority or 0
        self.policy = spec.preemptionPolicy or "PreemptLowerPriority"
        self.requests = amounts
        containers = [*spec.containers, *(spec.initContainers or ())]
        self.scored = scored_requests_of(spec.containers, spec.initContainers or (), _json(spec.overhead) or {})
        self.node_selector: Mapping[str, str] = _json(spec.nodeSelector) or {}
        self.affinity: Mapping[str, Any] = affinity
        self.tolerations: list[Mapping[str, Any]] = _json(spec.tolerations) or []
        self.ports = _ports(spec)
        self.images = tuple(container.image for container in containers)
        self.volumes = tuple(volume for volume in spec.volumes or () if volume.ties())
        self.claims: list[Mapping[str, Any]] = _json(spec.resourceClaims) or []
        self.features = _features(containers)
        self.devices = asks_of(spec.initContainers or (), spec.containers)


class Shape:
    """All that the placing of a pod depends on. Shared by the pods of a template; never changed."""

    __slots__ = ("__weakref__", "affinity", "constraints", "key", "labels", "namespace", "needs", "owner")

    def __init__(self, key: tuple[Any, ...], view: PodView, needs: Needs, affinity: Mapping[str, Any]) -> None:
        metadata = view.metadata
        self.key = key
        self.needs = needs
        self.namespace = metadata.namespace
        self.labels: Mapping[str, str] = _json(metadata.labels) or {}
        self.owner = _controller(metadata)
        self.affinity: AffinityTerms | None = read_affinity(affinity, self.namespace, self.labels)
        self.constraints: tuple[SpreadConstraint, ...] = read_constraints(
            _json(view.spec.topologySpreadConstraints) or (), self.labels
        )


class Pod:
    """One pod."""

    __slots__ = (
        "claims", "condition", "deleting", "done", "gates", "group", "group_min", "key", "made_claims", "name", "node",
        "nominated", "preempted", "scheduler", "shape", "started", "uid", "unplaced_since", "version",
    )  # fmt: skip

    def __init__(self, view: PodView, shape: Shape) -> None:
        metadata, spec, status = view.metadata, view.spec, view.status
        self.key = ObjectKey(metadata.namespace, metadata.name)
        self.name = metadata.name
        self.uid = metadata.uid
        self.version = metadata.resourceVersion
        self.deleting = metadata.deletionTimestamp is not None
        self.group, self.group_min = _group(metadata.annotations) if metadata.annotations else ("", 0)
        self.node = spec.nodeName
        self.scheduler = spec.schedulerName
        self.gates = tuple(gate.get("name", "") for gate in spec.schedulingGates or ())
        self.nominated = status.nominatedNodeName
        self.started = status.startTime or ""
        self.done = status.phase in _TERMINAL
        self.claims = _claims(view, shape) if shape.needs.claims else ()
        self.made_claims = _made_claims(shape) if shape.needs.claims else ()
        self.condition, self.unplaced_since = _unschedulable(status)
        self.preempted = self.deleting and _is_preempted(status)
        self.shape = shape

    @property
    def priority(self) -> int:
        """Its priority; larger goes first."""
        return self.shape.needs.priority

    @property
    def reference(self) -> dict[str, str]:
        """The ObjectReference events are about."""
        return {
            "apiVersion": "v1", "kind": "Pod", "namespace": self.key.namespace, "name": self.key.name, "uid": self.uid,
            "resourceVersion": self.version,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Pod({self.key}, {self.uid}, node={self.node!r})"


_decode = msgspec.json.Decoder(PodView).decode
_encode = msgspec.json.Encoder().encode


class PodReader:
    """Makes pods of bytes; those of one shape share it."""

    def __init__(self) -> None:
        self._shapes: WeakValueDictionary[tuple[Any, ...], Shape] = WeakValueDictionary()
        self._needs: WeakValueDictionary[tuple[Any, ...], Needs] = WeakValueDictionary()
        self._strings: dict[str, str] = {}

    def read(self, raw: bytes | msgspec.Raw) -> Pod:
        """Return the pod that the JSON of an object says. Raises: msgspec.DecodeError."""
        view = _decode(raw)
        self._share(view)
        return Pod(view, self._shape(view))

    def _share(self, view: PodView) -> None:
        """Let pods have strings in common that many of them have: one copy instead of 50,000."""
        known = self._strings
        if len(known) > _MAX_STRINGS:
            known.clear()
        spec, status = view.spec, view.status
        view.metadata.namespace = known.setdefault(view.metadata.namespace, view.metadata.namespace)
        spec.nodeName = known.setdefault(spec.nodeName, spec.nodeName)
        spec.schedulerName = known.setdefault(spec.schedulerName, spec.schedulerName)
        if status.startTime:
            status.startTime = known.setdefault(status.startTime, status.startTime)

    def read_object(self, obj: Mapping[str, Any]) -> Pod:
        """Return the pod that an object given as a dict says."""
        return self.read(orjson.dumps(obj))

    def _shape(self, view: PodView) -> Shape:
        metadata, spec = view.metadata, view.spec
        owner = next((one.uid for one in metadata.ownerReferences or () if one.controller), "")
        volumes = [one for one in spec.volumes or () if one.ties()]
        claims = bytes(spec.resourceClaims)
        resized = _resized(view)
        key = (
            metadata.namespace, bytes(metadata.labels), owner, spec.priority, spec.preemptionPolicy,
            bytes(spec.nodeSelector), bytes(spec.affinity), bytes(spec.tolerations),
            bytes(spec.topologySpreadConstraints), bytes(spec.overhead), bytes(spec.resources),
            _encode((spec.containers, spec.initContainers)),
            # A volume or claim made for this pod alone bears its name.
            (_encode(volumes), metadata.name if any(one.ephemeral for one in volumes) else "") if volumes else None,
            (claims, metadata.name) if claims else None,
            resized,
        )  # fmt: skip
        shape = self._shapes.get(key)
        if shape is None:
            affinity = _json(spec.affinity) or {}
            shape = Shape(key, view, self._make_needs(view, affinity, key), affinity)
            self._shapes[key] = shape
        return shape

    def _make_needs(self, view: PodView, affinity: Mapping[str, Any], whole: tuple[Any, ...]) -> Needs:
        spec = view.spec
        node_affinity = affinity.get("nodeAffinity") or {}
        volumes, claims, resized = whole[12:15]
        key = (
            spec.priority, spec.preemptionPolicy, whole[5], orjson.dumps(node_affinity), *whole[7:8], *whole[9:12],
            volumes, claims, resized, view.metadata.namespace if volumes or claims else "",
        )  # fmt: skip
        needs = self._needs.get(key)
        if needs is None:
            amounts = requests_of(
                spec.containers, spec.initContainers or (), overhead=_json(spec.overhead) or {},
                whole=(_json(spec.resources) or {}).get("requests") or {}, running=_running(view) if resized else None,
            )  # fmt: skip
            needs = self._needs[key] = Needs(key, spec, node_affinity, amounts)
        return needs


def _json(raw: msgspec.Raw) -> Any:
    text = bytes(raw)
    return orjson.loads(text) if text else None


def _controller(metadata: _Metadata) -> tuple[str, str, str] | None:
    """Return kind, name and uid of the owner that controls the pod."""
    found = next((one for one in metadata.ownerReferences or () if one.controller), None)
    return None if found is None else (found.kind, found.name, found.uid)


def _features(containers: Iterable[ContainerView]) -> frozenset[str]:
    """Return what a node must declare it can do. Few pods need any such thing."""
    rules = [rule for one in containers for rule in one.restartPolicyRules or ()]
    return frozenset({RESTART_ALL_FEATURE} if any(rule.action == _RESTART_ALL for rule in rules) else ())


def _ports(spec: _Spec) -> tuple[Port, ...]:
    """Return the node's ports a pod takes; sidecars take theirs too."""
    sidecars = [one for one in spec.initContainers or () if one.restartPolicy == "Always"]
    return tuple(
        (port.hostIP or "0.0.0.0", port.protocol or "TCP", port.hostPort)  # noqa: S104 - the address that means all
        for container in (*spec.containers, *sidecars)
        for port in container.ports or ()
        if port.hostPort
    )


def _resized(view: PodView) -> bytes:
    """Return what the node gave the containers where that is not what they now ask for (in-place resize)."""
    running, spec = _running(view), view.spec
    if not running.containers and not running.whole:
        return b""
    asked = {
        one.name: (one.resources.requests if one.resources else None) or {}
        for one in (*spec.containers, *(spec.initContainers or ()))
    }
    whole = (_json(spec.resources) or {}).get("requests") or {}
    differs = any(asked.get(name, {}) != given for name, given in running.containers.items())
    return orjson.dumps(running) if differs or (running.whole and running.whole != whole) else b""


def _running(view: PodView) -> Running:
    """Return the larger of what a node has allotted and what is in effect, of each container and of the whole."""
    status = view.status
    found: dict[str, dict[str, Any]] = {}
    for one in (*(status.containerStatuses or ()), *(status.initContainerStatuses or ())):
        if given := larger(one.allocatedResources, one.resources.requests if one.resources else None):
            found[one.name] = given
    whole = larger(status.allocatedResources, status.resources.requests if status.resources else None)
    impossible = any(
        one.type == "PodResizePending" and one.status == "True" and one.reason == "Infeasible"
        for one in status.conditions or ()
    )
    return Running(found, whole, impossible)


def _claims(view: PodView, shape: Shape) -> tuple[tuple[str, str], ...]:
    """Return the names a pod has for its claims of devices, and the claims' own; nothing where it is not made yet."""
    made = {one.name: one.resourceClaimName for one in view.status.resourceClaimStatuses or ()}
    found = ((one["name"], one.get("resourceClaimName") or made.get(one["name"], "")) for one in shape.needs.claims)
    return tuple((name, claim) for name, claim in found if claim is not None)  # None: it turned out to need none


def _made_claims(shape: Shape) -> tuple[str, ...]:
    """Return which of a pod's claims are made for it alone."""
    return tuple(one["name"] for one in shape.needs.claims if not one.get("resourceClaimName"))


def _group(annotations: Mapping[str, str]) -> tuple[str, int]:
    name, least = annotations.get(GROUP, ""), annotations.get(GROUP_MIN, "")
    return (name, int(least)) if name and least.isdigit() else ("", 0)


def _is_preempted(status: _Status) -> bool:
    found = next((one for one in status.conditions or () if one.type == "DisruptionTarget"), None)
    return found is not None and found.status == "True" and found.reason == "PreemptionByScheduler"


def _unschedulable(status: _Status) -> tuple[str, str]:
    """Return what its condition says of a pod that is not placed, and since when."""
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.message or "", condition.lastTransitionTime or ""
    return "", ""
