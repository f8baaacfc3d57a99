"""Claims of devices: made from templates for the pods that name one, freed when their pods are through.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

import contextlib
import copy
from typing import Any

from controllers.device_views import ResourceClaim
from controllers.informers import InformerFactory
from controllers.ownership import owner_reference, reference
from controllers.reconciler import DONE, Controller, Result
from controllers.views import JSON, OwnerReference, Pod
from machinery.api.meta import ObjectKey
from machinery.api.resources import PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS
from machinery.client.events import EventRecorder
from machinery.client.rest import Client, PatchType
from machinery.errors import APIError, NotFound

POD_CLAIM_NAME = "resource.kubernetes.io/pod-claim-name"
FINALIZER = "resource.kubernetes.io/delete-protection"
_OWNER_INDEX = "claims-of-pod"


class ResourceClaimController(Controller[tuple[str, ObjectKey]]):
    """Keys are pods and claims: (plural, key)."""

    name = "resourceclaim"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._pods = informers.informer(PODS, Pod)
        self._claims = informers.informer(RESOURCE_CLAIMS, ResourceClaim)
        self._claims.add_index(_OWNER_INDEX, _owner_uid)
        self._pods.add_handler(self._pod_changed)
        self._claims.add_handler(self._claim_changed)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        if pod is None or not (pod.spec.resourceClaims or pod.status.extendedResourceClaimStatus):
            return
        self.queue.add((PODS.plural, pod.metadata.key))
        if new is None or new.is_terminal:
            for claim in self._claims.list(pod.metadata.namespace):
                if any(one.get("uid") == pod.metadata.uid for one in claim.status.reservedFor):
                    self.queue.add((RESOURCE_CLAIMS.plural, claim.metadata.key))

    def _claim_changed(self, old: ResourceClaim | None, new: ResourceClaim | None) -> None:
        for claim in (old, new):
            if claim is None:
                continue
            self.queue.add((RESOURCE_CLAIMS.plural, claim.metadata.key))
            owner = claim.metadata.controller
            if owner is not None and owner.kind == PODS.kind:
                self.queue.add((PODS.plural, ObjectKey(claim.metadata.namespace, owner.name)))

    async def reconcile(self, key: tuple[str, ObjectKey]) -> Result:
        """Take one step for a pod or a claim."""
        plural, name = key
        if plural == PODS.plural:
            pod = self._pods.get(name)
            if pod is not None and pod.is_active:
                await self._serve(pod)
            return DONE
        claim = self._claims.get(name)
        if claim is not None:
            await self._free(claim)
        return DONE

    # ---- pods

    async def _serve(self, pod: Pod) -> None:
        """Make the claims a pod's templates ask for, and tell their names in its status."""
        known = {one["name"]: one.get("resourceClaimName") for one in pod.status.resourceClaimStatuses}
        found: list[dict[str, Any]] = []
        for asked in pod.spec.resourceClaims:
            template = asked.get("resourceClaimTemplateName")
            if not template:
                continue
            name = known.get(asked["name"]) or await self._claim_for(pod, asked["name"], template)
            found.append({"name": asked["name"], "resourceClaimName": name})
        if not found or {one["name"]: one["resourceClaimName"] for one in found} == known:
            return
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"resourceClaimStatuses": found}}
        with contextlib.suppress(NotFound):
            await self._client.patch(
                PODS, pod.metadata.name, patch, pod.metadata.namespace, type=PatchType.STRATEGIC, subresource="status"
            )

    async def _claim_for(self, pod: Pod, asked: str, template: str) -> str:
        """Return the name of the claim made for one of a pod's wishes; made if it is not there."""
        for claim in self._claims.by_index(_OWNER_INDEX, pod.metadata.uid):
            if claim.metadata.annotations.get(POD_CLAIM_NAME) == asked:
                return claim.metadata.name
        namespace = pod.metadata.namespace
        try:
            found = await self._client.get(RESOURCE_CLAIM_TEMPLATES, template, namespace)
        except NotFound:
            message = f'PodResourceClaim {asked}: resource claim template "{template}" not found'
            await self._recorder.event(reference(PODS, pod.metadata), "Warning", "FailedResourceClaimCreation", message)
            raise
        spec, given = found["spec"], found["spec"].get("metadata") or {}
        body = {
            "metadata": {
                "generateName": f"{pod.metadata.name}-{asked}-", "namespace": namespace,
                "labels": dict(given.get("labels") or {}),
                "annotations": {**(given.get("annotations") or {}), POD_CLAIM_NAME: asked},
                "ownerReferences": [owner_reference(PODS, pod.metadata)],
            },
            "spec": copy.deepcopy(spec.get("spec") or {}),
        }  # fmt: skip
        # Asked of the server, for the cache may not show the one just made.
        for live in (await self._client.list(RESOURCE_CLAIMS, namespace))["items"]:
            annotations = live["metadata"].get("annotations") or {}
            owners = {owner["uid"] for owner in live["metadata"].get("ownerReferences") or ()}
            if pod.metadata.uid in owners and annotations.get(POD_CLAIM_NAME) == asked:
                return str(live["metadata"]["name"])
        try:
            made = await self._client.create(RESOURCE_CLAIMS, body, namespace)
        except APIError as error:
            message = f"PodResourceClaim {asked}: {error}"
            await self._recorder.event(reference(PODS, pod.metadata), "Warning", "FailedResourceClaimCreation", message)
            raise
        return str(made["metadata"]["name"])

    # ---- claims

    async def _free(self, claim: ResourceClaim) -> None:
        """Take a claim from pods that are through with it, and give its devices back when nobody is left."""
        kept = [one for one in claim.status.reservedFor if not await self._is_through(claim, one)]
        going = claim.metadata.deletionTimestamp is not None
        owner = claim.metadata.controller
        own = owner is not None and owner.kind == PODS.kind
        status: dict[str, Any] = {}
        if len(kept) < len(claim.status.reservedFor):
            status["reservedFor"] = kept or None
        if not kept and claim.status.allocation is not None and (going or (own and claim.status.reservedFor)):
            status["allocation"] = None
        if status:
            await self._patch(claim, {"status": status}, "status")
        elif going and not kept and claim.status.allocation is None and FINALIZER in claim.metadata.finalizers:
            left = [one for one in claim.metadata.finalizers if one != FINALIZER]
            await self._patch(claim, {"metadata": {"finalizers": left or None}}, "")
        elif own and not going and not kept and owner is not None and await self._is_over(claim, owner):
            with contextlib.suppress(NotFound):
                await self._client.delete(RESOURCE_CLAIMS, claim.metadata.name, claim.metadata.namespace)

    async def _is_through(self, claim: ResourceClaim, holder: JSON) -> bool:
        if holder.get("resource") != PODS.plural or holder.get("apiGroup"):
            return False
        key = ObjectKey(claim.metadata.namespace, str(holder.get("name", "")))
        pod = self._pods.get(key)
        if pod is not None and pod.metadata.uid == holder.get("uid"):
            return pod.is_terminal
        try:
            live = await self._client.get(PODS, key.name, key.namespace)
        except NotFound:
            return True
        return bool(live["metadata"]["uid"] != holder.get("uid"))

    async def _is_over(self, claim: ResourceClaim, owner: OwnerReference) -> bool:
        """Say whether the pod that a claim was made for will never use it any more."""
        pod = self._pods.get(ObjectKey(claim.metadata.namespace, owner.name))
        return pod is not None and pod.metadata.uid == owner.uid and pod.is_terminal

    async def _patch(self, claim: ResourceClaim, patch: dict[str, Any], subresource: str) -> None:
        metadata = {"resourceVersion": claim.metadata.resourceVersion, **patch.get("metadata", {})}
        key = claim.metadata.key
        with contextlib.suppress(NotFound):
            await self._client.patch(
                RESOURCE_CLAIMS, key.name, {**patch, "metadata": metadata}, key.namespace, subresource=subresource
            )


def _owner_uid(claim: ResourceClaim) -> list[str]:
    owner = claim.metadata.controller
    return [owner.uid] if owner is not None else []
