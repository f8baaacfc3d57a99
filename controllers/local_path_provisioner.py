"""The provisioner of the storage class `local-path`: folders on the nodes, for claims as their pods get a node.

What is written stands in local_path.py; here is the I/O.
"""

import contextlib
from typing import Any

from controllers import local_path
from controllers.informers import InformerFactory
from controllers.local_path import HELPER_LABEL, HELPER_NAMESPACE, PROVISIONER, Settings
from controllers.ownership import reference
from controllers.reconciler import DONE, Controller, Result
from controllers.storage_views import PersistentVolume, PersistentVolumeClaim, StorageClass
from controllers.views import Node, Pod, condition_of
from controllers.volume_binder import PROVISIONED_BY, SELECTED_NODE, Item
from controllers.volume_binder import PROVISIONER as PROVISIONER_ANNOTATION
from machinery.api.meta import ObjectKey
from machinery.api.resources import NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES
from machinery.client.events import EventRecorder
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import AlreadyExists, APIError, NotFound


class ProvisioningFailed(APIError):
    """A helper pod failed; it is tried again."""


class LocalPathProvisioner(Controller[Item]):
    """Makes and removes volumes that are folders."""

    name = "local-path-provisioner"

    def __init__(
        self, client: Client, informers: InformerFactory, recorder: EventRecorder, *, settings: Settings
    ) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._settings = settings
        self._claims = informers.informer(PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim)
        self._volumes = informers.informer(PERSISTENT_VOLUMES, PersistentVolume)
        self._classes = informers.informer(STORAGE_CLASSES, StorageClass)
        self._nodes = informers.informer(NODES, Node)
        self._pods = informers.informer(PODS, Pod)
        self._claims.add_handler(self._claim_changed)
        self._volumes.add_handler(self._volume_changed)
        self._pods.add_handler(self._pod_changed)

    async def run(self) -> None:
        """Offer the class, then work."""
        with contextlib.suppress(AlreadyExists, ConnectionFailed):
            await self._client.create(STORAGE_CLASSES, local_path.storage_class())
        await super().run()

    # ---- what wakes it

    def _claim_changed(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        if new is not None and new.metadata.annotations.get(PROVISIONER_ANNOTATION) == PROVISIONER:
            self.queue.add(Item(PERSISTENT_VOLUME_CLAIMS, new.metadata.key))

    def _volume_changed(self, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        changed = new or old
        if changed is not None and changed.metadata.annotations.get(PROVISIONED_BY) == PROVISIONER:
            self.queue.add(Item(PERSISTENT_VOLUMES, changed.metadata.key))

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        if pod is None or pod.metadata.namespace != HELPER_NAMESPACE or HELPER_LABEL not in pod.metadata.labels:
            return
        if claim := pod.metadata.annotations.get("wherry/claim"):
            self.queue.add(Item(PERSISTENT_VOLUME_CLAIMS, ObjectKey(*claim.split("/", 1))))
        else:
            self.queue.add(Item(PERSISTENT_VOLUMES, ObjectKey("", pod.metadata.labels[HELPER_LABEL])))

    # ---- what it does

    async def reconcile(self, key: Item) -> Result:
        """Make the volume of a claim, or remove one that was released."""
        if key.resource is PERSISTENT_VOLUMES:
            volume = self._volumes.get(key.key)
            if volume is None or not _has_folder(volume):
                await self._done_with(f"remove-{key.key.name}")
            elif _may_be_removed(volume):
                await self._remove(volume)
            return DONE
        claim = self._claims.get(key.key)
        if claim is not None and not claim.spec.volumeName and claim.metadata.deletionTimestamp is None:
            await self._provide(claim)
        else:
            await self._done_with_claim(key.key)
        return DONE

    async def _provide(self, claim: PersistentVolumeClaim) -> None:
        storage_class = self._classes.get(ObjectKey("", claim.class_name))
        node = self._node_for(claim)
        name = local_path.volume_name(claim)
        if storage_class is None or node is None or self._volumes.get(ObjectKey("", name)) is not None:
            return
        if why := local_path.refusal(claim):
            await self._tell_failed(claim, why)
            return
        if local_path.SIMULATED not in node.metadata.labels:
            body = local_path.maker(claim, node.metadata.name, self._settings)
            if self._pods.get(ObjectKey(HELPER_NAMESPACE, body["metadata"]["name"])) is None:
                message = f'Provisioner is provisioning volume for claim "{claim.metadata.key}"'
                await self._tell(claim, "Normal", "Provisioning", message)
            try:
                if not await self._helped(body):
                    return
            except ProvisioningFailed as error:
                await self._tell_failed(claim, str(error))
                raise
        host = node.metadata.labels.get(local_path.HOST_NAME, node.metadata.name)
        volume = local_path.volume_of(claim, storage_class, node.metadata.name, host, self._settings)
        with contextlib.suppress(AlreadyExists):
            await self._client.create(PERSISTENT_VOLUMES, volume)
        await self._tell(claim, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {name}")

    def _node_for(self, claim: PersistentVolumeClaim) -> Node | None:
        """Return the node asked for; for a class that binds at once, the ready one with the fewest folders."""
        if name := claim.metadata.annotations.get(SELECTED_NODE):
            return self._nodes.get(ObjectKey("", name))
        held: dict[str, int] = {}
        for volume in self._volumes.list():
            node = local_path.node_of(volume)
            held[node] = held.get(node, 0) + 1
        ready = [node for node in self._nodes.list() if _is_ready(node)]
        return min(ready, key=lambda node: (held.get(node.metadata.name, 0), node.metadata.name), default=None)

    async def _remove(self, volume: PersistentVolume) -> None:
        node = self._nodes.get(ObjectKey("", local_path.node_of(volume)))
        is_kept = volume.spec.persistentVolumeReclaimPolicy != "Delete"
        # The folder of a node that is gone is gone with it.
        if node is not None and local_path.SIMULATED not in node.metadata.labels and not is_kept:
            try:
                if not await self._helped(local_path.remover(volume, self._settings)):
                    return
            except ProvisioningFailed as error:
                involved = reference(PERSISTENT_VOLUMES, volume.metadata)
                await self._recorder.event(involved, "Warning", "VolumeFailedDelete", str(error))
                raise
        metadata = volume.metadata
        with contextlib.suppress(NotFound):
            if metadata.deletionTimestamp is None:
                await self._client.delete(
                    PERSISTENT_VOLUMES, metadata.name, options={"preconditions": {"uid": metadata.uid}}
                )
            if local_path.FINALIZER in metadata.finalizers:
                fresh = (await self._client.get(PERSISTENT_VOLUMES, metadata.name))["metadata"]
                left = [one for one in fresh.get("finalizers") or () if one != local_path.FINALIZER]
                guarded = {"uid": metadata.uid, "resourceVersion": fresh["resourceVersion"], "finalizers": left or None}
                await self._client.patch(PERSISTENT_VOLUMES, metadata.name, {"metadata": guarded})

    # ---- helper pods

    async def _helped(self, body: dict[str, Any]) -> bool:
        """Return whether a helper pod has done its work; started if it is not there. Raises: ProvisioningFailed."""
        name = body["metadata"]["name"]
        pod = self._pods.get(ObjectKey(HELPER_NAMESPACE, name))
        if pod is None:
            with contextlib.suppress(AlreadyExists):
                await self._client.create(PODS, body, HELPER_NAMESPACE)
            return False
        if why := local_path.ended_badly(pod):
            await self._done_with(name)
            raise ProvisioningFailed(why)
        return pod.status.phase == "Succeeded"

    async def _done_with_claim(self, claim: ObjectKey) -> None:
        for pod in self._pods.list(HELPER_NAMESPACE):
            if pod.metadata.annotations.get("wherry/claim") == str(claim):
                await self._done_with(pod.metadata.name)

    async def _done_with(self, name: str) -> None:
        if self._pods.get(ObjectKey(HELPER_NAMESPACE, name)) is None:
            return
        with contextlib.suppress(NotFound):
            await self._client.delete(PODS, name, HELPER_NAMESPACE, options={"gracePeriodSeconds": 0})

    async def _tell(self, claim: PersistentVolumeClaim, kind: Any, reason: str, message: str) -> None:
        await self._recorder.event(reference(PERSISTENT_VOLUME_CLAIMS, claim.metadata), kind, reason, message)

    async def _tell_failed(self, claim: PersistentVolumeClaim, why: str) -> None:
        message = f'failed to provision volume with StorageClass "{claim.class_name}": {why}'
        await self._tell(claim, "Warning", "ProvisioningFailed", message)


def _is_ready(node: Node) -> bool:
    ready = condition_of(node.status.conditions, "Ready")
    return ready is not None and ready.status == "True" and not node.spec.unschedulable


def _has_folder(volume: PersistentVolume) -> bool:
    """Whether the folder of a volume may still be there; one being deleted says so by our finalizer."""
    return volume.metadata.deletionTimestamp is None or local_path.FINALIZER in volume.metadata.finalizers


def _may_be_removed(volume: PersistentVolume) -> bool:
    """Whether a volume and its folder go: when its claim is gone, also where a user deleted the volume first."""
    if volume.metadata.deletionTimestamp is not None:
        return volume.status.phase != "Bound"
    return volume.status.phase == "Released" and volume.spec.persistentVolumeReclaimPolicy == "Delete"
