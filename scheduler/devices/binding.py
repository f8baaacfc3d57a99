"""Writing claims: what they were given, for whom; and taking that back."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from machinery.api.meta import now
from machinery.api.resources import PODS, RESOURCE_CLAIMS
from machinery.client.rest import ConnectionFailed, PatchType
from machinery.errors import APIError, Conflict, NotFound
from scheduler.devices.extended import Wanted
from scheduler.framework.plugin import Cycle, Rejected
from scheduler.pods import Pod

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
FINALIZER = "resource.kubernetes.io/delete-protection"
_ATTEMPTS = 5
_SEEN_SECONDS = 120.0
_BROKEN = (APIError, ConnectionFailed)


def is_reserved_for(claim: Object, pod: Pod) -> bool:
    """Say whether a pod may use a claim."""
    return any(one["uid"] == pod.uid for one in (claim.get("status") or {}).get("reservedFor") or ())


def is_ready(claim: Object) -> bool:
    """Say whether all devices of a claim are ready for the pod to be bound. Raises: Rejected when one has failed."""
    status = claim.get("status") or {}
    for result in _waited_for(claim):
        conditions = _conditions(status, result)
        for name in result.get("bindingFailureConditions") or ():
            failed = conditions.get(name) or {}
            if failed.get("status") == "True":
                why = f'reason={failed.get("reason", "")}, message="{failed.get("message", "")}"'
                raise Rejected(f"claim {claim['metadata']['name']} binding failed: {why}")
        if any((conditions.get(name) or {}).get("status") != "True" for name in result["bindingConditions"]):
            return False
    return True


def is_timed_out(claim: Object, seconds: float) -> bool:
    """Say whether a claim's devices have had their time to become ready."""
    given = ((claim.get("status") or {}).get("allocation") or {}).get("allocationTimestamp")
    if not given or not _waited_for(claim):
        return False
    return datetime.fromisoformat(given).timestamp() + seconds < time.time()


def _waited_for(claim: Object) -> list[Object]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or ()
    return [one for one in results if one.get("bindingConditions")]


def _conditions(status: Object, result: Object) -> dict[str, Object]:
    fields = ("driver", "pool", "device", "shareID")
    for one in status.get("devices") or ():
        if all(one.get(field) == result.get(field) for field in fields):
            return {condition["type"]: condition for condition in one.get("conditions") or ()}
    return {}


class ClaimBinder:
    """Writes the claims of the pod of one cycle."""

    def __init__(self, cycle: Cycle) -> None:
        self._pod, self._cluster, self._client = cycle.pod, cycle.cluster, cycle.cluster.client

    async def make(self, claim: Object, promise: Object) -> Object:
        """Make the claim for a pod's extended resources. Raises: APIError."""
        metadata = {key: value for key, value in claim["metadata"].items() if key != "uid"}
        namespace = metadata["namespace"]
        made: Object = await self._client.create(RESOURCE_CLAIMS, {**claim, "metadata": metadata}, namespace)
        self._cluster.promised[made["metadata"]["uid"]] = promise
        return made

    async def reserve(self, claim: Object, promise: Object | None) -> None:
        """Say in a claim's status what it got and that the pod uses it. Raises: Rejected, APIError."""
        for attempt in range(_ATTEMPTS):
            try:
                await self._reserve(claim, promise)
                return
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                claim = await self._client.get(RESOURCE_CLAIMS, claim["metadata"]["name"], self._pod.key.namespace)

    async def _reserve(self, claim: Object, promise: Object | None) -> None:
        metadata, status, pod = claim["metadata"], claim.get("status") or {}, self._pod
        if is_reserved_for(claim, pod) and promise is None:
            return
        name = f"{metadata['namespace']}/{metadata['name']}"
        if metadata.get("deletionTimestamp"):
            raise Rejected(f"claim {name} got deleted in the meantime")
        version = metadata["resourceVersion"]
        if promise is not None:
            if status.get("allocation"):
                raise Rejected(f"claim {name} got allocated elsewhere in the meantime")
            version = await self._protect(metadata)
        allocation = promise or status.get("allocation")
        if allocation is None:
            raise Rejected(f"claim {name} lost its devices in the meantime")
        users = [*(status.get("reservedFor") or ()), {"resource": "pods", "name": pod.name, "uid": pod.uid}]
        given = {"allocationTimestamp": now(), **allocation}
        patch = {"metadata": {"resourceVersion": version}, "status": {"allocation": given, "reservedFor": users}}
        await self._patch(metadata, patch, subresource="status")

    async def _protect(self, metadata: Object) -> str:
        """Keep a claim from being removed while it has devices; returns its version."""
        finalizers = metadata.get("finalizers") or []
        version = str(metadata["resourceVersion"])
        if FINALIZER in finalizers:
            return version
        patch = {"metadata": {"resourceVersion": version, "finalizers": [*finalizers, FINALIZER]}}
        return str((await self._patch(metadata, patch))["metadata"]["resourceVersion"])

    async def tell_of(self, claim: Object, wanted: Wanted | None) -> None:
        """Say in the pod's status which claim its extended resources come from. Raises: APIError."""
        status = {
            "extendedResourceClaimStatus": {
                "resourceClaimName": claim["metadata"]["name"], "requestMappings": wanted.mappings if wanted else [],
            },
        }  # fmt: skip
        patch = {"metadata": {"uid": self._pod.uid}, "status": status}
        namespace, name = self._pod.key
        await self._client.patch(PODS, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")

    async def settle(self, claims: Sequence[Object], node: str, timeout_seconds: float) -> None:
        """Wait until we have seen what was written, and until all devices are ready. Raises: Rejected."""
        try:
            async with asyncio.timeout(_SEEN_SECONDS):
                await self._cluster.until(lambda: all(is_reserved_for(self._now(one), self._pod) for one in claims))
        except TimeoutError:
            raise Rejected("the claims were not seen as they were written") from None
        if not any(_waited_for(self._now(one)) for one in claims):
            return
        text = f"waiting for binding conditions for device on node {node}"
        self._cluster.tell(self._pod, "Normal", "BindingConditionsPending", text)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._cluster.until(lambda: all(is_ready(self._now(one)) for one in claims))
        except TimeoutError:
            raise Rejected("device binding timeout") from None

    def _now(self, claim: Object) -> Object:
        """Return a claim as it is now. Raises: Rejected when it is gone."""
        metadata = claim["metadata"]
        found = self._cluster.device_claim(metadata["namespace"], metadata["name"])
        if found is not None:
            return found
        if metadata["uid"] in self._cluster.promised and "generateName" in metadata:
            return claim  # just made, and not seen yet
        raise Rejected(f'resourceclaim "{metadata["name"]}" not found')

    async def give_back(self, claims: Sequence[Object], made: Object | None) -> None:
        """Let go of claims for a pod that was not bound after all; unless somebody else has bound it."""
        namespace, name = self._pod.key
        try:
            live = await self._client.get(PODS, name, namespace)
            if live["metadata"]["uid"] != self._pod.uid or live["spec"].get("nodeName"):
                return
        except NotFound:
            return  # whoever looks after claims frees those of pods that are gone
        except _BROKEN as error:
            log.info("claims of %s were not given back: %s", self._pod.key, error)
            return
        for claim in claims:
            current = self._cluster.device_claim(namespace, claim["metadata"]["name"])
            if current is not None and is_reserved_for(current, self._pod):
                await self._let_go(current)
        if made is not None and "resourceVersion" in made["metadata"]:
            await self.delete(made)

    async def _let_go(self, claim: Object) -> None:
        users = [one for one in claim["status"]["reservedFor"] if one["uid"] != self._pod.uid]
        version = {"resourceVersion": claim["metadata"]["resourceVersion"]}
        await self._try(claim, {"metadata": version, "status": {"reservedFor": users or None}}, subresource="status")

    async def deallocate(self, claim: Object) -> None:
        """Take a claim's devices from it."""
        version = {"resourceVersion": claim["metadata"]["resourceVersion"]}
        status = {"reservedFor": None, "allocation": None, "devices": None}
        await self._try(claim, {"metadata": version, "status": status}, subresource="status")

    async def delete(self, claim: Object) -> None:
        """Remove a claim that was made for extended resources."""
        name, namespace = claim["metadata"]["name"], claim["metadata"]["namespace"]
        try:
            live = await self._client.get(RESOURCE_CLAIMS, name, namespace)
            left = [one for one in live["metadata"].get("finalizers") or () if one != FINALIZER]
            await self._patch(live["metadata"], {"metadata": {"finalizers": left or None}})
            await self._client.delete(RESOURCE_CLAIMS, name, namespace)
        except NotFound:
            return
        except _BROKEN as error:
            log.warning("the claim %s/%s was not deleted: %s", namespace, name, error)

    async def _try(self, claim: Object, patch: Object, *, subresource: str = "") -> None:
        try:
            await self._patch(claim["metadata"], patch, subresource=subresource)
        except _BROKEN as error:
            log.info("the claim %s was not given back: %s", claim["metadata"]["name"], error)

    async def _patch(self, metadata: Object, patch: Object, *, subresource: str = "") -> Any:
        return await self._client.patch(
            RESOURCE_CLAIMS, metadata["name"], patch, metadata["namespace"], subresource=subresource
        )
