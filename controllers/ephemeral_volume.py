"""Generic ephemeral volumes: a claim made with its pod, and gone with it.

Source: https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes
"""

import copy
from typing import Any

from controllers.informers import InformerFactory
from controllers.ownership import owner_reference, reference
from controllers.reconciler import DONE, Controller, Result
from controllers.storage_views import PersistentVolumeClaim
from controllers.views import Pod
from machinery.api.meta import ObjectKey
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PODS
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, APIError


class EphemeralVolumeController(Controller[ObjectKey]):
    """Makes the claims of pods' ephemeral volumes. Keys are those of pods."""

    name = "ephemeral-volume"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._pods = informers.informer(PODS, Pod)
        self._claims = informers.informer(PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim)
        self._pods.add_handler(self._pod_changed)
        self._claims.add_handler(self._claim_changed)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old is None and new is not None and any(volume.ephemeral for volume in new.spec.volumes):
            self.queue.add(new.metadata.key)

    def _claim_changed(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        owner = old.metadata.controller if old is not None and new is None else None
        if old is not None and owner is not None and owner.kind == "Pod":
            self.queue.add(ObjectKey(old.metadata.namespace, owner.name))

    async def reconcile(self, key: ObjectKey) -> Result:
        """Make the claims of one pod that are missing."""
        pod = self._pods.get(key)
        if pod is None or pod.metadata.deletionTimestamp is not None or pod.is_terminal:
            return DONE
        for volume in pod.spec.volumes:
            if volume.ephemeral is not None:
                await self._ensure(pod, volume.name, volume.ephemeral)
        return DONE

    async def _ensure(self, pod: Pod, volume: str, source: dict[str, Any]) -> None:
        name = f"{pod.metadata.name}-{volume}"
        present = self._claims.get(ObjectKey(pod.metadata.namespace, name))
        if present is not None:
            owner = present.metadata.controller
            if owner is None or owner.uid != pod.metadata.uid:
                message = f"PVC {pod.metadata.namespace}/{name} was not created for pod {pod.metadata.namespace}/"
                await self._tell(pod, f"{message}{pod.metadata.name} (pod is not owner)")
            return
        template = source.get("volumeClaimTemplate") or {}
        given = template.get("metadata") or {}
        body = {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": name, "namespace": pod.metadata.namespace, "labels": dict(given.get("labels") or {}),
                "annotations": dict(given.get("annotations") or {}),
                "ownerReferences": [owner_reference(PODS, pod.metadata)],
            },
            "spec": copy.deepcopy(template.get("spec") or {}),
        }  # fmt: skip
        try:
            await self._client.create(PERSISTENT_VOLUME_CLAIMS, body, pod.metadata.namespace)
        except AlreadyExists:
            raise  # the cache was behind: look whose it is
        except APIError as error:
            await self._tell(pod, f"create PVC {name}: {error}")
            raise

    async def _tell(self, pod: Pod, message: str) -> None:
        message = f"ephemeral volume controller: {message}"
        await self._recorder.event(reference(PODS, pod.metadata), "Warning", "EphemeralVolumeCreationFailed", message)
