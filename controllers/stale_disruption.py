"""Pods that were to be disrupted and were not: after a while their condition says so no longer.

Whoever ends a pod writes the condition DisruptionTarget first; if it is then kept from deleting the pod, the condition
would speak of a disruption for ever, and a Job's failure policy would believe it.
Source: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
"""

from datetime import UTC, datetime

from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Condition, Pod, condition_of
from machinery.api.meta import ObjectKey, now, parse_time
from machinery.api.resources import PODS
from machinery.client.rest import Client, PatchType
from machinery.errors import NotFound

STALE_SECONDS = 120.0
_BY_AGENT = "TerminationByKubelet"
"""An agent may take any time between the condition and the end."""


class StaleDisruptionController(Controller[ObjectKey]):
    """Takes back what was said of pods that stayed. Keys are those of pods."""

    name = "stale-disruption"
    workers = 1

    def __init__(self, client: Client, informers: InformerFactory, *, stale_seconds: float = STALE_SECONDS) -> None:
        super().__init__()
        self._client = client
        self._stale_seconds = stale_seconds
        self._pods = informers.informer(PODS, Pod)
        self._pods.add_handler(self._pod_changed)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if new is not None and _disruption(new) is not None:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Set the condition to False once it is old."""
        pod = self._pods.get(key)
        found = _disruption(pod) if pod is not None else None
        if pod is None or found is None:
            return DONE
        age = datetime.now(UTC) - parse_time(found.lastTransitionTime or now())
        left = self._stale_seconds - age.total_seconds()
        if left > 0:
            return Result(requeue_after=left)
        condition = {
            "type": "DisruptionTarget", "status": "False", "reason": None, "message": None, "lastTransitionTime": now(),
        }  # fmt: skip
        # With the version read: what is being deleted by now keeps its condition.
        metadata = {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resourceVersion}
        patch = {"metadata": metadata, "status": {"conditions": [condition]}}
        try:
            await self._client.patch(
                PODS, key.name, patch, key.namespace, type=PatchType.STRATEGIC, subresource="status"
            )
        except NotFound:
            return DONE
        return DONE


def _disruption(pod: Pod) -> Condition | None:
    """Return the condition of a pod that may have been left behind."""
    found = condition_of(pod.status.conditions, "DisruptionTarget")
    if found is None or found.status != "True" or found.reason == _BY_AGENT:
        return None
    return found if pod.is_active else None
