"""ResourceQuotas: what a namespace uses, counted anew.

The API server adds to `used` when it admits an object; here it is put right when objects go, change or end.
Source: https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

import asyncio
from decimal import Decimal
from typing import Any

from controllers.informers import InformerFactory
from controllers.policy_views import ResourceQuota
from controllers.reconciler import DONE, Controller, Result
from controllers.storage_views import PersistentVolumeClaim
from controllers.views import Pod, Service
from machinery.api.meta import ObjectKey, Resource
from machinery.api.quantity import canonical, format_quantity, parse_quantity
from machinery.api.quota import falls_under, resource_names, usage_of
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PODS, RESOURCE_QUOTAS, SERVICES
from machinery.client.discovery import deletable, discover
from machinery.client.rest import Client
from machinery.errors import NotFound

RESYNC_SECONDS = 300.0
UNWATCHED_SECONDS = 10.0
"""Objects that no watch here follows are counted anew so often."""
_REPLENISH_SECONDS = 0.2
_CHARGED_SECONDS = 2.0
_DISCOVERY_SECONDS = 30.0
_WATCHED = frozenset({"pods", "services", "persistentvolumeclaims"})


class ResourceQuotaController(Controller[ObjectKey]):
    """Keeps the status of each ResourceQuota."""

    name = "resourcequota"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._known: tuple[float, list[Resource]] = (float("-inf"), [])
        self._quotas = informers.informer(RESOURCE_QUOTAS, ResourceQuota)
        self._pods = informers.informer(PODS, Pod)
        self._quotas.add_handler(self._quota_changed)
        self._pods.add_handler(self._pod_changed)
        for informer in (
            informers.informer(SERVICES, Service), informers.informer(PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim),
        ):  # fmt: skip
            informer.add_handler(self._object_changed)

    def _quota_changed(self, old: ResourceQuota | None, new: ResourceQuota | None) -> None:
        """Look at a new quota, or a new limit; not at a charge, for what it is for may not be stored yet."""
        if new is not None and (old is None or old.spec != new.spec):
            self.queue.add(new.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        """Give back what a pod held that is gone or has ended; count a new one, should its charge have been lost."""
        if old is None:
            if new is not None:
                self._wake(new.metadata.namespace, _CHARGED_SECONDS)
        elif new is None or new.is_terminal != old.is_terminal:
            self._wake(old.metadata.namespace, _REPLENISH_SECONDS)

    def _object_changed(self, old: Any, new: Any) -> None:
        if old is not None and (new is None or new.spec != old.spec):
            self._wake(old.metadata.namespace, _REPLENISH_SECONDS)

    def _wake(self, namespace: str, seconds: float) -> None:
        for quota in self._quotas.list(namespace):
            self.queue.add_after(quota.metadata.key, seconds)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Count what the namespace uses, and write it where it differs."""
        quota = self._quotas.get(key)
        if quota is None or quota.metadata.deletionTimestamp is not None:
            return DONE
        hard = {name: canonical(value) for name, value in quota.spec.hard.items()}
        used = {name: format_quantity(value) for name, value in (await self._used(quota, hard)).items()}
        unwatched = resource_names(hard) - _WATCHED
        again = Result(requeue_after=UNWATCHED_SECONDS if unwatched else RESYNC_SECONDS)
        if hard == quota.status.hard and _equal(used, quota.status.used):
            return again
        removed = dict.fromkeys(set(quota.status.used) - set(used)), dict.fromkeys(set(quota.status.hard) - set(hard))
        patch = {
            "metadata": {"uid": quota.metadata.uid, "resourceVersion": quota.metadata.resourceVersion},
            "status": {"hard": {**hard, **removed[1]}, "used": {**used, **removed[0]}},
        }
        try:
            await self._client.patch(RESOURCE_QUOTAS, key.name, patch, key.namespace, subresource="status")
        except NotFound:
            return DONE
        return again

    async def _used(self, quota: ResourceQuota, hard: dict[str, str]) -> dict[str, Decimal]:
        used = dict.fromkeys(hard, Decimal())
        spec: dict[str, Any] = {"scopes": quota.spec.scopes, "scopeSelector": quota.spec.scopeSelector}
        for group_resource in resource_names(hard):
            resource = await self._resource(group_resource)
            if resource is None:
                continue
            for obj in (await self._client.list(resource, quota.metadata.namespace))["items"]:
                if not falls_under(spec, resource, obj):
                    continue
                for name, value in usage_of(resource, obj).items():
                    if name in used:
                        used[name] += value
        return used

    async def _resource(self, group_resource: str) -> Resource | None:
        """Return the resource of a name such as "pods" or "jobs.batch"; None when it is not served."""
        now = asyncio.get_running_loop().time()
        if now - self._known[0] > _DISCOVERY_SECONDS:
            self._known = now, deletable(await discover(self._client))
        return next((one for one in self._known[1] if one.group_resource == group_resource), None)


def _equal(ours: dict[str, str], theirs: dict[str, str]) -> bool:
    return ours.keys() == theirs.keys() and all(
        parse_quantity(value) == parse_quantity(theirs[name]) for name, value in ours.items()
    )
