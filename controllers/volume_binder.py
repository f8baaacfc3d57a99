"""Volumes and claims find each other: each claim gets a volume of its own, and a volume whose claim is gone is freed.

A binding is written in four steps (volume, its status, claim, its status), any of which may be the last before a
crash: each look at a claim or a volume goes on from what is there. The volume's `claimRef` is what decides.
Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#lifecycle-of-a-volume-and-claim
"""

import contextlib
from typing import Any, NamedTuple

import msgspec

from controllers import volume_recycle
from controllers.informers import InformerFactory
from controllers.ownership import reference
from controllers.reconciler import DONE, Controller, Result
from controllers.storage_views import (
    CLAIM_INDEX,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    claims_of_pod,
    index_by_claim,
)
from controllers.views import Node, Pod
from controllers.volume_match import best_volume, is_meant_for, mismatch, waits_for_consumer
from machinery.api.meta import ObjectKey, Resource
from machinery.api.resources import NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, NotFound

BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
PROVISIONER, OLD_PROVISIONER = (
    "volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"
)  # fmt: skip
SELECTED_NODE = "volume.kubernetes.io/selected-node"
NO_PROVISIONER = "kubernetes.io/no-provisioner"
_RETRY_SECONDS = 15.0
"""A claim that found nothing is looked at again so often, as upstream's resync does."""


class Item(NamedTuple):
    """What is looked at: a claim or a volume."""

    resource: Resource
    key: ObjectKey


class VolumeBinder(Controller[Item]):
    """Binds claims to volumes and keeps the phases of both."""

    name = "persistentvolume-binder"

    def __init__(
        self, client: Client, informers: InformerFactory, recorder: EventRecorder, *, own_provisioners: frozenset[str],
        recycler_image: str,
    ) -> None:  # fmt: skip
        """Make the binder.

        Args: `own_provisioners` are those that run in this process, which need not be waited for aloud;
        `recycler_image` is an image with sh and find.
        """
        super().__init__()
        self._recycler_image = recycler_image
        self._client = client
        self._recorder = recorder
        self._own_provisioners = own_provisioners
        self._claims = informers.informer(PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim)
        self._volumes = informers.informer(PERSISTENT_VOLUMES, PersistentVolume)
        self._classes = informers.informer(STORAGE_CLASSES, StorageClass)
        self._nodes = informers.informer(NODES, Node)
        self._pods = informers.informer(PODS, Pod)
        index_by_claim(self._pods)
        self._claims.add_handler(self._claim_changed)
        self._volumes.add_handler(self._volume_changed)
        self._classes.add_handler(self._class_changed)
        self._pods.add_handler(self._pod_changed)

    # ---- what wakes it

    def _claim_changed(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        for claim in (old, new):
            if claim is not None and claim.spec.volumeName:
                self.queue.add(Item(PERSISTENT_VOLUMES, ObjectKey("", claim.spec.volumeName)))
        if new is not None:
            self.queue.add(Item(PERSISTENT_VOLUME_CLAIMS, new.metadata.key))
        elif old is not None:
            for volume in self._volumes.list():
                if volume.claim == old.metadata.key:
                    self.queue.add(Item(PERSISTENT_VOLUMES, volume.metadata.key))

    def _volume_changed(self, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        for volume in (old, new):
            if volume is not None and volume.claim is not None:
                self.queue.add(Item(PERSISTENT_VOLUME_CLAIMS, volume.claim))
        if new is not None:
            self.queue.add(Item(PERSISTENT_VOLUMES, new.metadata.key))
            if new.spec.claimRef is None and new.status.phase == "Available":
                self._wake_waiting(new.class_name)

    def _class_changed(self, old: StorageClass | None, new: StorageClass | None) -> None:
        if old is None and new is not None:
            self._wake_waiting(new.metadata.name)

    def _wake_waiting(self, class_name: str) -> None:
        for claim in self._claims.list():
            if not claim.spec.volumeName and claim.class_name == class_name:
                self.queue.add(Item(PERSISTENT_VOLUME_CLAIMS, claim.metadata.key))

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        """Wake claims whose pod now has a node: it may not have been a scheduler that knows of volumes."""
        changed = new or old
        if changed is not None and (name := volume_recycle.volume_of(changed.metadata.key)):
            self.queue.add(Item(PERSISTENT_VOLUMES, ObjectKey("", name)))
        if new is None or not new.spec.nodeName or (old is not None and old.spec.nodeName):
            return
        for key in claims_of_pod(new):
            self.queue.add(Item(PERSISTENT_VOLUME_CLAIMS, key))

    # ---- what it does

    async def reconcile(self, key: Item) -> Result:
        """Take one step for a claim or a volume."""
        if key.resource is PERSISTENT_VOLUMES:
            volume = self._volumes.get(key.key)
            return await self._sync_volume(volume) if volume is not None else DONE
        claim = self._claims.get(key.key)
        if claim is None:
            return DONE
        if claim.spec.volumeName:
            return await self._sync_named(claim)
        return await self._sync_unbound(claim)

    # ---- claims

    async def _sync_unbound(self, claim: PersistentVolumeClaim) -> Result:
        storage_class = self._classes.get(ObjectKey("", claim.class_name)) if claim.class_name else None
        node = self._node_of(claim)
        waits = waits_for_consumer(storage_class) and node is None
        found = best_volume(claim, self._volumes.list(), node=node, kept_only=waits)
        if found is not None:
            await self._bind(found, claim)
            return DONE
        if claim.metadata.deletionTimestamp is None:
            await self._provide(claim, storage_class, node, waits=waits)
        await self._write_claim(claim, phase="Pending")
        return Result(requeue_after=_RETRY_SECONDS)

    def _node_of(self, claim: PersistentVolumeClaim) -> Node | None:
        """Return the node a claim's volume is needed on, where the scheduler said so or a pod is there already."""
        name = claim.metadata.annotations.get(SELECTED_NODE, "")
        if not name:
            pods = self._pods.by_index(CLAIM_INDEX, str(claim.metadata.key))
            name = next((pod.spec.nodeName for pod in pods if pod.spec.nodeName and pod.is_active), "")
        return self._nodes.get(ObjectKey("", name)) if name else None

    async def _provide(
        self, claim: PersistentVolumeClaim, storage_class: StorageClass | None, node: Node | None, *, waits: bool
    ) -> None:
        """Ask a provisioner for a volume, or say why none is asked."""
        if not claim.class_name:
            message = "no persistent volumes available for this claim and no storage class is set"
            await self._tell(claim, "Normal", "FailedBinding", message)
        elif storage_class is None:
            message = f'storageclass.storage.k8s.io "{claim.class_name}" not found'
            await self._tell(claim, "Warning", "ProvisioningFailed", message)
        elif waits:
            await self._tell_waiting(claim)
        elif storage_class.provisioner == NO_PROVISIONER:
            message = f'storageclass "{claim.class_name}" has no provisioner and no persistent volume matches'
            await self._tell(claim, "Normal", "FailedBinding", message)
        else:
            await self._ask(claim, storage_class.provisioner, node)

    async def _tell_waiting(self, claim: PersistentVolumeClaim) -> None:
        waiting = [pod for pod in self._pods.by_index(CLAIM_INDEX, str(claim.metadata.key)) if not pod.spec.nodeName]
        if waiting:
            names = ",".join(sorted(pod.metadata.name for pod in waiting))
            message = f"waiting for pod {names} to be scheduled"
            await self._tell(claim, "Normal", "WaitForPodScheduled", message)
            return
        message = "waiting for first consumer to be created before binding"
        await self._tell(claim, "Normal", "WaitForFirstConsumer", message)

    async def _ask(self, claim: PersistentVolumeClaim, provisioner: str, node: Node | None) -> None:
        wanted = {PROVISIONER: provisioner, OLD_PROVISIONER: provisioner}
        if node is not None:
            wanted[SELECTED_NODE] = node.metadata.name
        if not wanted.items() <= claim.metadata.annotations.items():
            await self._patch(PERSISTENT_VOLUME_CLAIMS, claim.metadata.key, {"metadata": {"annotations": wanted}})
        if provisioner not in self._own_provisioners:
            message = (
                f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually "
                "by the system administrator. If volume creation is delayed, please verify that the provisioner is "
                "running and correctly registered."
            )
            await self._tell(claim, "Normal", "ExternalProvisioning", message)

    async def _sync_named(self, claim: PersistentVolumeClaim) -> Result:
        """Bind a claim to the volume it names, or say what became of that."""
        volume = self._volumes.get(ObjectKey("", claim.spec.volumeName))
        was_bound = BIND_COMPLETED in claim.metadata.annotations
        if volume is None:
            if was_bound:
                message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
                await self._lose(claim, "ClaimLost", message)
            else:
                await self._write_claim(claim, phase="Pending")
            return DONE
        if volume.spec.claimRef is None or is_meant_for(volume, claim):
            why = mismatch(volume, claim) if not was_bound else ""
            if why:
                message = f'Cannot bind to requested volume "{volume.metadata.name}": {why}'
                await self._tell(claim, "Warning", "VolumeMismatch", message)
                await self._write_claim(claim, phase="Pending")
                return DONE
            await self._bind(volume, claim)
        elif was_bound:
            message = "Two claims are bound to the same volume, this one is bound incorrectly"
            await self._lose(claim, "ClaimMisbound", message)
        else:
            message = f'volume "{volume.metadata.name}" already bound to a different claim.'
            await self._tell(claim, "Warning", "FailedBinding", message)
            await self._write_claim(claim, phase="Pending")
        return DONE

    async def _lose(self, claim: PersistentVolumeClaim, reason: str, message: str) -> None:
        if claim.status.phase != "Lost":
            await self._tell(claim, "Warning", reason, message)
        status = {"phase": "Lost", "accessModes": None, "capacity": None}
        if claim.status.phase != "Lost":
            await self._patch(PERSISTENT_VOLUME_CLAIMS, claim.metadata.key, {"status": status}, "status")

    # ---- the binding

    async def _bind(self, volume: PersistentVolume, claim: PersistentVolumeClaim) -> None:
        """Write what of a binding is not written yet. Raises: Conflict when somebody else was at the volume."""
        metadata, present = volume.metadata, volume.spec.claimRef
        if present is None or present.uid != claim.metadata.uid:
            claim_ref = {**reference(PERSISTENT_VOLUME_CLAIMS, claim.metadata)}
            patch: dict[str, Any] = {
                "metadata": {"resourceVersion": metadata.resourceVersion}, "spec": {"claimRef": claim_ref},
            }  # fmt: skip
            if present is None:
                patch["metadata"]["annotations"] = {BOUND_BY_CONTROLLER: "yes"}
            await self._client.patch(PERSISTENT_VOLUMES, metadata.name, patch)
        await self._write_volume(volume, "Bound")
        annotations = {BIND_COMPLETED: "yes"}
        if not claim.spec.volumeName:
            annotations[BOUND_BY_CONTROLLER] = "yes"
        if claim.spec.volumeName != metadata.name or BIND_COMPLETED not in claim.metadata.annotations:
            await self._client.patch(
                PERSISTENT_VOLUME_CLAIMS, claim.metadata.name,
                {
                    "metadata": {"resourceVersion": claim.metadata.resourceVersion, "annotations": annotations},
                    "spec": {"volumeName": metadata.name},
                },
                claim.metadata.namespace,
            )  # fmt: skip
        capacity = claim.status.capacity if claim.status.phase == "Bound" else volume.spec.capacity
        modes = list(volume.spec.accessModes)
        await self._write_claim(claim, phase="Bound", accessModes=modes, capacity=dict(capacity))

    # ---- volumes

    async def _sync_volume(self, volume: PersistentVolume) -> Result:
        found = volume.spec.claimRef
        if found is None or not found.uid:
            await self._write_volume(volume, "Available")
            await self._sweep(volume)
            return DONE
        claim = self._claims.get(ObjectKey(found.namespace, found.name))
        if claim is None or claim.metadata.uid != found.uid:
            claim = await self._live_claim(found.namespace, found.name)
        if claim is None or claim.metadata.uid != found.uid:
            return await self._release(volume)
        if claim.spec.volumeName == volume.metadata.name:
            await self._write_volume(volume, "Bound")
        elif claim.spec.volumeName:
            await self._let_go(volume)
        else:
            self.queue.add(Item(PERSISTENT_VOLUME_CLAIMS, claim.metadata.key))
        return DONE

    async def _live_claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        """Ask the server: a volume is not released for a claim the cache has not seen yet."""
        try:
            found = await self._client.get(PERSISTENT_VOLUME_CLAIMS, name, namespace)
        except NotFound:
            return None
        return msgspec.convert(found, PersistentVolumeClaim)

    async def _let_go(self, volume: PersistentVolume) -> None:
        """Free a volume that was bound to a claim which then took another."""
        dynamic = PROVISIONED_BY in volume.metadata.annotations
        if dynamic and volume.spec.persistentVolumeReclaimPolicy == "Delete":
            await self._release(volume)
            return
        await self._unbind(volume)

    async def _unbind(self, volume: PersistentVolume) -> None:
        ours = BOUND_BY_CONTROLLER in volume.metadata.annotations
        patch: dict[str, Any] = {"metadata": {"resourceVersion": volume.metadata.resourceVersion}}
        if ours:
            patch["metadata"]["annotations"] = {BOUND_BY_CONTROLLER: None}
            patch["spec"] = {"claimRef": None}
        else:  # a user keeps it for that claim
            patch["spec"] = {"claimRef": {"uid": None}}
        await self._patch(PERSISTENT_VOLUMES, volume.metadata.key, patch)

    async def _release(self, volume: PersistentVolume) -> Result:
        policy = volume.spec.persistentVolumeReclaimPolicy
        if volume.status.phase not in ("Released", "Failed"):
            await self._write_volume(volume, "Released")
        if volume.status.phase == "Failed":
            await self._sweep(volume)
            return DONE
        if policy == "Retain":
            return DONE
        if PROVISIONED_BY in volume.metadata.annotations or volume.spec.csi is not None:
            return DONE  # its provisioner deletes it
        if policy == "Recycle":
            return await self._recycle(volume)
        why = f'error getting deleter volume plugin for volume "{volume.metadata.name}": no volume plugin matched'
        await self._fail(volume, "VolumeFailedDelete", why)
        return DONE

    async def _recycle(self, volume: PersistentVolume) -> Result:
        """Have a volume emptied, then offer it again."""
        if not volume_recycle.source_of(volume):
            await self._fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
            return DONE
        involved, key = reference(PERSISTENT_VOLUMES, volume.metadata), volume_recycle.pod_key(volume.metadata.name)
        pod = self._pods.get(key)
        if pod is None:
            users = [one for one in self._pods.by_index(CLAIM_INDEX, str(volume.claim)) if not one.is_terminal]
            if users:
                names = ",".join(sorted(str(one.metadata.key) for one in users))
                message = f"Volume is used by pods: {names}"
                await self._recorder.event(involved, "Normal", "VolumeFailedRecycle", message)
                return Result(requeue_after=_RETRY_SECONDS)
            with contextlib.suppress(AlreadyExists):
                await self._client.create(PODS, volume_recycle.scrubber(volume, self._recycler_image))
        elif not volume_recycle.is_for(pod, volume):
            await self._sweep(volume)  # left over from another claim: this one's data are still there
        elif pod.status.phase == "Succeeded":
            await self._unbind(volume)
            await self._recorder.event(involved, "Normal", "VolumeRecycled", "Volume recycled")
        elif pod.status.phase == "Failed":
            why = "Recycle failed: pod failed, pod.Status.Message unknown"
            await self._fail(volume, "VolumeFailedRecycle", why)
        return DONE

    async def _sweep(self, volume: PersistentVolume) -> None:
        """Remove the pod that emptied a volume: only when the outcome is written, else it would be made again."""
        pod = self._pods.get(volume_recycle.pod_key(volume.metadata.name))
        if pod is not None and pod.metadata.deletionTimestamp is None:
            options = {"preconditions": {"uid": pod.metadata.uid}}
            with contextlib.suppress(NotFound):
                await self._client.delete(PODS, pod.metadata.name, pod.metadata.namespace, options=options)

    async def _fail(self, volume: PersistentVolume, reason: str, message: str) -> None:
        await self._recorder.event(reference(PERSISTENT_VOLUMES, volume.metadata), "Warning", reason, message)
        status = {"phase": "Failed", "message": message}
        await self._patch(PERSISTENT_VOLUMES, volume.metadata.key, {"status": status}, "status")

    # ---- writing

    async def _write_volume(self, volume: PersistentVolume, phase: str) -> None:
        if volume.status.phase != phase:
            status = {"phase": phase, "message": None, "reason": None}
            await self._patch(PERSISTENT_VOLUMES, volume.metadata.key, {"status": status}, "status")

    async def _write_claim(self, claim: PersistentVolumeClaim, **status: Any) -> None:
        present = {
            "phase": claim.status.phase, "accessModes": list(claim.status.accessModes),
            "capacity": dict(claim.status.capacity),
        }  # fmt: skip
        if status.items() <= present.items():
            return
        await self._patch(PERSISTENT_VOLUME_CLAIMS, claim.metadata.key, {"status": status}, "status")

    async def _patch(self, resource: Resource, key: ObjectKey, patch: dict[str, Any], subresource: str = "") -> None:
        try:
            await self._client.patch(resource, key.name, patch, key.namespace, subresource=subresource)
        except NotFound:
            return

    async def _tell(self, claim: PersistentVolumeClaim, kind: Any, reason: str, message: str) -> None:
        await self._recorder.event(reference(PERSISTENT_VOLUME_CLAIMS, claim.metadata), kind, reason, message)
