"""Claims and volumes in use are not deleted under their users: a finalizer holds them until nobody uses them.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection
"""

from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.storage_views import (
    CLAIM_INDEX,
    PersistentVolume,
    PersistentVolumeClaim,
    claims_of_pod,
    index_by_claim,
)
from controllers.views import ObjectMeta, Pod
from machinery.api.meta import ObjectKey, Resource
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS
from machinery.client.rest import Client
from machinery.errors import NotFound

CLAIM_FINALIZER, VOLUME_FINALIZER = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"


async def _set_finalizer(
    client: Client, resource: Resource, found: ObjectMeta, finalizer: str, *, in_use: bool
) -> None:
    """Add the finalizer to an object that stays, take it off one that may go."""
    has, going = finalizer in found.finalizers, found.deletionTimestamp is not None
    if has == (not going or in_use) or (going and not has):
        return
    kept = [one for one in found.finalizers if one != finalizer]
    wanted = kept if going else [*kept, finalizer]
    patch = {"metadata": {"resourceVersion": found.resourceVersion, "finalizers": wanted or None}}
    try:
        await client.patch(resource, found.name, patch, found.namespace)
    except NotFound:
        return


class ClaimProtectionController(Controller[ObjectKey]):
    """Holds claims that pods mount."""

    name = "persistentvolumeclaim-protection"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._claims = informers.informer(PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim)
        self._pods = informers.informer(PODS, Pod)
        index_by_claim(self._pods)
        self._claims.add_handler(self._claim_changed)
        self._pods.add_handler(self._pod_changed)

    def _claim_changed(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and (new is None or new.is_terminal):
            for key in claims_of_pod(old):
                self.queue.add(key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Bring the finalizer of one claim in order."""
        claim = self._claims.get(key)
        if claim is None:
            return DONE
        in_use = claim.metadata.deletionTimestamp is not None and await self._is_used(key)
        await _set_finalizer(self._client, PERSISTENT_VOLUME_CLAIMS, claim.metadata, CLAIM_FINALIZER, in_use=in_use)
        return DONE

    async def _is_used(self, key: ObjectKey) -> bool:
        if any(_uses(pod) for pod in self._pods.by_index(CLAIM_INDEX, str(key))):
            return True
        # The cache may not show a pod that was made a moment ago.
        for pod in (await self._client.list(PODS, key.namespace))["items"]:
            names = {(volume.get("persistentVolumeClaim") or {}).get("claimName") for volume in _volumes(pod)}
            ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            if key.name in names and pod["spec"].get("nodeName") and not ended:
                return True
        return False


def _uses(pod: Pod) -> bool:
    """Whether a pod that mounts a claim is, or may be, running: it has a node and has not ended."""
    return bool(pod.spec.nodeName) and not pod.is_terminal


def _volumes(pod: dict[str, object]) -> list[dict[str, dict[str, str]]]:
    spec = pod["spec"]
    return list(spec.get("volumes") or ()) if isinstance(spec, dict) else []


class VolumeProtectionController(Controller[ObjectKey]):
    """Holds volumes that are bound to a claim."""

    name = "persistentvolume-protection"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._volumes = informers.informer(PERSISTENT_VOLUMES, PersistentVolume)
        self._volumes.add_handler(self._volume_changed)

    def _volume_changed(self, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Bring the finalizer of one volume in order."""
        volume = self._volumes.get(key)
        if volume is None:
            return DONE
        in_use = volume.status.phase == "Bound"
        await _set_finalizer(self._client, PERSISTENT_VOLUMES, volume.metadata, VOLUME_FINALIZER, in_use=in_use)
        return DONE
