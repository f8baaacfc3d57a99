"""Pods leave devices whose NoExecute taints their claims do not tolerate, or tolerate only for a time.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#device-taints-and-tolerations
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from controllers.device_views import ResourceClaim, ResourceSlice
from controllers.informers import InformerFactory
from controllers.ownership import reference
from controllers.pod_control import disrupt
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Pod
from machinery.api.meta import ObjectKey
from machinery.api.placement import tolerates
from machinery.api.resources import PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from machinery.client.events import EventRecorder
from machinery.client.rest import Client

_EFFECT = "NoExecute"


class DeviceTaintEvictionController(Controller[ObjectKey]):
    """Deletes pods when their time on a tainted device is up. Keys are those of pods."""

    name = "device-taint-eviction"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._pods = informers.informer(PODS, Pod)
        self._claims = informers.informer(RESOURCE_CLAIMS, ResourceClaim)
        self._slices = informers.informer(RESOURCE_SLICES, ResourceSlice)
        self._waiting: set[ObjectKey] = set()
        self._pods.add_handler(self._pod_changed)
        self._claims.add_handler(self._claim_changed)
        self._slices.add_handler(self._slice_changed)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if new is None:
            if old is not None:
                self._waiting.discard(old.metadata.key)
        elif (new.spec.resourceClaims or new.status.extendedResourceClaimStatus) and new.spec.nodeName:
            self.queue.add(new.metadata.key)

    def _claim_changed(self, old: ResourceClaim | None, new: ResourceClaim | None) -> None:
        for claim in (old, new):
            if claim is not None:
                self._queue_users(claim)

    def _slice_changed(self, old: ResourceSlice | None, new: ResourceSlice | None) -> None:
        pools = {_pool(one) for one in (old, new) if one is not None}
        tainted = [_tainted(one) if one is not None else [] for one in (old, new)]
        if tainted[0] == tainted[1]:
            return
        for claim in self._claims.list():
            if any((one["driver"], one["pool"]) in pools for one in _results(claim)):
                self._queue_users(claim)

    def _queue_users(self, claim: ResourceClaim) -> None:
        for one in claim.status.reservedFor:
            if one.get("resource") == PODS.plural and not one.get("apiGroup"):
                self.queue.add(ObjectKey(claim.metadata.namespace, str(one.get("name", ""))))

    async def reconcile(self, key: ObjectKey) -> Result:
        """Delete the pod if its time is up, else come back when it is."""
        pod = self._pods.get(key)
        if pod is None or pod.is_terminal or pod.metadata.deletionTimestamp is not None or not pod.spec.nodeName:
            self._waiting.discard(key)
            return DONE
        times = [at for claim in self._claims_of(pod) for at in self._ends(claim)]
        if not times:
            if key in self._waiting:
                self._waiting.discard(key)
                await self._tell(pod, "Cancelling deletion")
            return DONE
        left = min(times) - time.time()
        if left > 0:
            self._waiting.add(key)
            return Result(requeue_after=left)
        await self._tell(pod, "Marking for deletion")
        await disrupt(
            self._client, pod, "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint"
        )
        self._waiting.discard(key)
        return DONE

    def _claims_of(self, pod: Pod) -> Iterator[ResourceClaim]:
        """Yield the claims that a pod may use."""
        made = {one["name"]: one.get("resourceClaimName") for one in pod.status.resourceClaimStatuses}
        names = [one.get("resourceClaimName") or made.get(one["name"]) for one in pod.spec.resourceClaims]
        names.append((pod.status.extendedResourceClaimStatus or {}).get("resourceClaimName"))
        for name in names:
            claim = self._claims.get(ObjectKey(pod.metadata.namespace, name)) if name else None
            if claim is not None and any(one.get("uid") == pod.metadata.uid for one in claim.status.reservedFor):
                yield claim

    def _ends(self, claim: ResourceClaim) -> Iterator[float]:
        """Yield when each taint of its devices ends a claim's use, in seconds since 1970."""
        for result in _results(claim):
            for taint in self._taints(result):
                at = ends_at(taint, result.get("tolerations") or ())
                if at is not None:
                    yield at

    def _taints(self, result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        pool = (result["driver"], result["pool"])
        slices = [one for one in self._slices.list() if _pool(one) == pool]
        newest = max((_generation(one) for one in slices), default=0)
        for one in slices:
            if _generation(one) == newest:
                yield from (taint for name, taint in _tainted(one) if name == result["device"])

    async def _tell(self, pod: Pod, message: str) -> None:
        await self._recorder.event(reference(PODS, pod.metadata), "Normal", "DeviceTaintManagerEviction", message)


def ends_at(taint: Mapping[str, Any], tolerations: Iterable[Mapping[str, Any]]) -> float | None:
    """Return when a taint ends the use of its device, in seconds since 1970; None when it is tolerated for good.

    Of several tolerations, the one that lasts for the shortest time counts.
    """
    seconds = []
    for one in tolerations:
        if tolerates(one, taint):
            if one.get("effect") != _EFFECT or one.get("tolerationSeconds") is None:
                return None
            seconds.append(max(0, int(one["tolerationSeconds"])))
    added = datetime.fromisoformat(taint["timeAdded"]).timestamp() if taint.get("timeAdded") else 0.0
    return added + min(seconds, default=0)


def _results(claim: ResourceClaim) -> list[Mapping[str, Any]]:
    return ((claim.status.allocation or {}).get("devices") or {}).get("results") or []


def _pool(one: ResourceSlice) -> tuple[str, str]:
    return one.spec["driver"], one.spec["pool"]["name"]


def _generation(one: ResourceSlice) -> int:
    return int(one.spec["pool"].get("generation") or 0)


def _tainted(one: ResourceSlice) -> list[tuple[str, Mapping[str, Any]]]:
    """Return name and taint, for each taint that ends the use of a device."""
    return [
        (device["name"], taint)
        for device in one.spec.get("devices") or ()
        for taint in device.get("taints") or ()
        if taint["effect"] == _EFFECT
    ]
