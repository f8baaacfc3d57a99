"""Claims that ask for more than they have.

Volumes that are folders have no size to change: what is asked is granted at once. For others a driver is waited for.
Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
"""

from controllers.informers import InformerFactory
from controllers.ownership import reference
from controllers.reconciler import DONE, Controller, Result
from controllers.storage_views import PersistentVolume, PersistentVolumeClaim
from machinery.api.meta import ObjectKey
from machinery.api.quantity import parse_quantity
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import NotFound


class VolumeExpandController(Controller[ObjectKey]):
    """Lets volumes grow to what their claims ask. Keys are those of claims."""

    name = "persistentvolume-expander"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._claims = informers.informer(PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim)
        self._volumes = informers.informer(PERSISTENT_VOLUMES, PersistentVolume)
        self._claims.add_handler(self._claim_changed)

    def _claim_changed(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        if new is not None and _wants_more(new):
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Grant what a claim asks for."""
        claim = self._claims.get(key)
        if claim is None or not _wants_more(claim):
            return DONE
        volume = self._volumes.get(ObjectKey("", claim.spec.volumeName))
        if volume is None or volume.claim != key:
            return DONE
        involved = reference(PERSISTENT_VOLUME_CLAIMS, claim.metadata)
        if volume.spec.hostPath is None and volume.spec.local is None:
            message = "waiting for an external controller to expand this PVC"
            await self._recorder.event(involved, "Normal", "ExternalExpanding", message)
            return DONE
        size = {"storage": claim.spec.request}
        try:
            if parse_quantity(str(volume.spec.capacity.get("storage", "0"))) < parse_quantity(claim.spec.request):
                await self._client.patch(PERSISTENT_VOLUMES, volume.metadata.name, {"spec": {"capacity": size}})
            patch = {"status": {"capacity": size}}
            await self._client.patch(PERSISTENT_VOLUME_CLAIMS, key.name, patch, key.namespace, subresource="status")
        except NotFound:
            return DONE
        message = f"ExpandVolume succeeded for volume {key}"
        await self._recorder.event(involved, "Normal", "VolumeResizeSuccessful", message)
        return DONE


def _wants_more(claim: PersistentVolumeClaim) -> bool:
    has = claim.status.capacity.get("storage")
    if claim.status.phase != "Bound" or has is None:
        return False
    return parse_quantity(claim.spec.request) > parse_quantity(str(has))
