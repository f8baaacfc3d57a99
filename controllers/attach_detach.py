"""Volumes of CSI drivers are attached to the nodes of the pods that mount them, and detached when none does any more.

The attaching itself is the driver's, which watches VolumeAttachments. Here they are made and removed, and a node's
`volumesAttached` is kept. A volume is not taken from under a node that says it still uses it, but for a node that is
gone, or that somebody declared out of service, or after six minutes.
Source: https://kubernetes-csi.github.io/docs/external-attacher.html
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from controllers.informers import NODE_INDEX, InformerFactory, index_by_node
from controllers.node_taints import OUT_OF_SERVICE
from controllers.ownership import reference
from controllers.reconciler import DONE, Controller, Result
from controllers.storage_views import PersistentVolume, PersistentVolumeClaim, claims_of_pod
from controllers.views import JSON, Node, ObjectMeta, Pod, View
from machinery.api.meta import ObjectKey
from machinery.api.resources import (
    CSI_DRIVERS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    VOLUME_ATTACHMENTS,
)
from machinery.client.events import EventRecorder, EventType
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, NotFound

UNMOUNT_SECONDS = 360.0
_RECHECK_SECONDS = 5.0
_SHARED = frozenset(("ReadWriteMany", "ReadOnlyMany"))


class DriverSpec(View, frozen=True):
    """Whether a driver's volumes are attached at all."""

    attachRequired: bool = True


class Driver(View, frozen=True):
    """A CSIDriver."""

    metadata: ObjectMeta
    spec: DriverSpec = DriverSpec()


class AttachmentSource(View, frozen=True):
    """The volume to attach."""

    persistentVolumeName: str | None = None


class AttachmentSpec(View, frozen=True):
    """What is attached where, by whom."""

    attacher: str = ""
    nodeName: str = ""
    source: AttachmentSource = AttachmentSource()


class AttachmentStatus(View, frozen=True):
    """Whether it is."""

    attached: bool = False
    attachError: JSON | None = None


class Attachment(View, frozen=True):
    """A VolumeAttachment."""

    metadata: ObjectMeta
    spec: AttachmentSpec = AttachmentSpec()
    status: AttachmentStatus = AttachmentStatus()


class Wanted(NamedTuple):
    """A volume that a pod needs on its node."""

    volume: PersistentVolume
    pod: Pod


class AttachDetachController(Controller[str]):
    """Keeps the VolumeAttachments of nodes. Keys are names of nodes."""

    name = "persistentvolume-attach-detach"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._unwanted_since: dict[str, float] = {}  # attachment -> loop time
        self._pods = informers.informer(PODS, Pod)
        self._nodes = informers.informer(NODES, Node)
        self._claims = informers.informer(PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim)
        self._volumes = informers.informer(PERSISTENT_VOLUMES, PersistentVolume)
        self._drivers = informers.informer(CSI_DRIVERS, Driver)
        self._attachments = informers.informer(VOLUME_ATTACHMENTS, Attachment)
        index_by_node(self._pods)
        self._attachments.add_index("node", lambda found: [found.spec.nodeName])
        self._pods.add_handler(self._pod_changed)
        self._claims.add_handler(self._claim_changed)
        self._attachments.add_handler(self._attachment_changed)
        self._nodes.add_handler(self._node_changed)

    # ---- what wakes it

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        for pod in (old, new):
            if pod is not None and pod.spec.nodeName and any(claims_of_pod(pod)):
                self.queue.add(pod.spec.nodeName)

    def _claim_changed(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        """Wake the nodes of pods whose claim has just been bound."""
        if new is None or not new.spec.volumeName or (old is not None and old.spec.volumeName):
            return
        for pod in self._pods.list(new.metadata.namespace):
            if pod.spec.nodeName and new.metadata.key in claims_of_pod(pod):
                self.queue.add(pod.spec.nodeName)

    def _attachment_changed(self, old: Attachment | None, new: Attachment | None) -> None:
        for found in (old, new):
            if found is not None:
                self.queue.add(found.spec.nodeName)
        if old is not None and new is not None and old.status != new.status:
            self._tell_pods(new, failed_before=old.status.attachError)

    def _tell_pods(self, found: Attachment, *, failed_before: JSON | None) -> None:
        """Tell the pods that wait for a volume what its driver says of it now."""
        name = found.spec.source.persistentVolumeName
        error = found.status.attachError
        kind: EventType = "Normal"
        reason, message = "SuccessfulAttachVolume", f'AttachVolume.Attach succeeded for volume "{name}" '
        if not found.status.attached:
            if error is None or error == failed_before:
                return
            kind, reason = "Warning", "FailedAttachVolume"
            message = f'AttachVolume.Attach failed for volume "{name}" : {error.get("message", "")}'
        for need in self._needs(found.spec.nodeName):
            if need.volume.metadata.name == name:
                self._recorder.later(reference(PODS, need.pod.metadata), kind, reason, message)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        changed = new or old
        if changed is not None and self._attachments.by_index("node", changed.metadata.name):
            self.queue.add(changed.metadata.name)

    # ---- what it does

    async def reconcile(self, key: str) -> Result:
        """Attach what the pods of one node need, detach the rest."""
        node = self._nodes.get(ObjectKey("", key))
        wanted = self._wanted(key)
        present = {found.metadata.name: found for found in self._attachments.by_index("node", key)}
        for name, need in wanted.items():
            self._unwanted_since.pop(name, None)
            if name not in present and node is not None:
                await self._attach(name, need, key)
        waits = [await self._detach(node, found) for name, found in present.items() if name not in wanted]
        if node is not None:
            await self._tell_node(node, [found for found in present.values() if found.status.attached])
        wait = min((one for one in waits if one > 0), default=None)
        return Result(requeue_after=wait) if wait is not None else DONE

    def _wanted(self, node: str) -> dict[str, Wanted]:
        """Return what the pods of a node need attached, by the name of the attachment."""
        return {attachment_name(need.volume, node): need for need in self._needs(node)}

    def _needs(self, node: str) -> Iterator[Wanted]:
        for pod in self._pods.by_index(NODE_INDEX, node):
            if pod.is_terminal:
                continue
            for key in claims_of_pod(pod):
                claim = self._claims.get(key)
                volume = self._volumes.get(ObjectKey("", claim.spec.volumeName)) if claim is not None else None
                if volume is not None and volume.claim == key and self._is_attachable(volume):
                    yield Wanted(volume, pod)

    def _is_attachable(self, volume: PersistentVolume) -> bool:
        if volume.spec.csi is None:
            return False
        driver = self._drivers.get(ObjectKey("", volume.spec.csi["driver"]))
        return driver is None or driver.spec.attachRequired

    async def _attach(self, name: str, need: Wanted, node: str) -> None:
        volume = need.volume
        elsewhere = [
            found.spec.nodeName for found in self._attachments.list()
            if found.spec.source.persistentVolumeName == volume.metadata.name and found.spec.nodeName != node
        ]  # fmt: skip
        if elsewhere and not _SHARED & set(volume.spec.accessModes):
            users = {one.pod.metadata.name for other in elsewhere for one in self._needs(other) if one.volume is volume}
            why = "Volume is already exclusively attached to one node and can't be attached to another"
            if users:  # they can only be of the claim's own namespace
                why = f"Volume is already used by pod(s) {', '.join(sorted(users))}"
            message = f'Multi-Attach error for volume "{volume.metadata.name}" {why}'
            await self._recorder.event(reference(PODS, need.pod.metadata), "Warning", "FailedAttachVolume", message)
            self.queue.add_after(node, _RECHECK_SECONDS)
            return
        driver = (volume.spec.csi or {})["driver"]
        source = {"persistentVolumeName": volume.metadata.name}
        spec = {"attacher": driver, "nodeName": node, "source": source}
        with contextlib.suppress(AlreadyExists):
            await self._client.create(VOLUME_ATTACHMENTS, {"metadata": {"name": name}, "spec": spec})

    async def _detach(self, node: Node | None, found: Attachment) -> float:
        """Remove an attachment. Return how long it has to be waited for still."""
        if found.metadata.deletionTimestamp is not None:
            return 0.0
        time, name = asyncio.get_running_loop().time(), found.metadata.name
        left = self._unwanted_since.setdefault(name, time) + UNMOUNT_SECONDS - time
        if node is not None and left > 0 and self._is_used(node, found):
            return min(left, _RECHECK_SECONDS)
        self._unwanted_since.pop(name, None)
        with contextlib.suppress(NotFound):
            await self._client.delete(VOLUME_ATTACHMENTS, name, options={"preconditions": {"uid": found.metadata.uid}})
        return 0.0

    def _is_used(self, node: Node, found: Attachment) -> bool:
        """Whether a node says that it still uses a volume; one that was declared off does not."""
        is_off = any(taint["key"] == OUT_OF_SERVICE for taint in node.spec.taints)
        return not is_off and self._unique_name(found) in node.status.volumesInUse

    def _unique_name(self, found: Attachment) -> str:
        volume = self._volumes.get(ObjectKey("", found.spec.source.persistentVolumeName or ""))
        handle = (volume.spec.csi or {}).get("volumeHandle", "") if volume is not None else ""
        return f"kubernetes.io/csi/{found.spec.attacher}^{handle}"

    async def _tell_node(self, node: Node, attached: list[Attachment]) -> None:
        ours = [{"name": self._unique_name(found), "devicePath": ""} for found in attached]
        ours.sort(key=lambda one: one["name"])
        kept = [one for one in node.status.volumesAttached if not str(one["name"]).startswith("kubernetes.io/csi/")]
        wanted: list[dict[str, Any]] = [*kept, *ours]
        if wanted == list(node.status.volumesAttached):
            return
        patch = {"metadata": {"uid": node.metadata.uid}, "status": {"volumesAttached": wanted or None}}
        with contextlib.suppress(NotFound):
            await self._client.patch(NODES, node.metadata.name, patch, subresource="status")


def attachment_name(volume: PersistentVolume, node: str) -> str:
    """Return the name of a volume's attachment to a node, as drivers' helpers compute it too."""
    csi = volume.spec.csi or {}
    digest = hashlib.sha256(f"{csi.get('volumeHandle', '')}{csi.get('driver', '')}{node}".encode()).hexdigest()
    return f"csi-{digest}"
