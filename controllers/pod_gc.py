"""Pods nobody else will clear away: bound to a node that is gone, or ended and too many.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection
"""

import asyncio
import heapq
from collections.abc import Sequence
from typing import Any

from controllers.informers import NODE_INDEX, InformerFactory, index_by_node
from controllers.node_taints import OUT_OF_SERVICE, ready_status
from controllers.pod_control import disruption
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Node, Pod
from machinery.api.meta import ObjectKey
from machinery.api.resources import NODES, PODS
from machinery.client.rest import Client, PatchType
from machinery.errors import NotFound

TERMINATED_THRESHOLD = 12_500
_EVICTED = "Evicted"
QUARANTINE_SECONDS = 40.0
"""A node may be deleted and register anew; its pods wait this long for it."""


class PodGCController(Controller[ObjectKey]):
    """Deletes pods whose node vanished, and the oldest of too many ended ones. Keys are those of pods."""

    name = "pod-gc"

    def __init__(
        self,
        client: Client,
        informers: InformerFactory,
        *,
        terminated_threshold: int = TERMINATED_THRESHOLD,
        quarantine_seconds: float = QUARANTINE_SECONDS,
    ) -> None:
        """Args: `terminated_threshold` is how many ended pods are kept; 0 keeps all."""
        super().__init__()
        self._client = client
        self._threshold = terminated_threshold
        self._quarantine_seconds = quarantine_seconds
        self._nodes = informers.informer(NODES, Node)
        self._pods = informers.informer(PODS, Pod)
        self._ended: dict[ObjectKey, tuple[bool, str]] = {}  # -> whether it was not evicted, creationTimestamp
        self._missed_since: dict[str, float] = {}  # node name -> loop time
        index_by_node(self._pods)
        self._nodes.add_handler(self._node_changed)
        self._pods.add_handler(self._pod_changed)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if new is not None:
            self._missed_since.pop(new.metadata.name, None)
            if _is_out_of_service(new):
                for pod in self._pods.by_index(NODE_INDEX, new.metadata.name):
                    self.queue.add(pod.metadata.key)
        elif old is not None:
            for pod in self._pods.by_index(NODE_INDEX, old.metadata.name):
                self.queue.add(pod.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if new is None:
            if old is not None:
                self._ended.pop(old.metadata.key, None)
            return
        metadata, node = new.metadata, new.spec.nodeName
        if new.is_terminal and metadata.key not in self._ended:
            self._ended[metadata.key] = new.status.reason != _EVICTED, metadata.creationTimestamp
            for key in self._surplus():
                self.queue.add(key)
        place = self._nodes.get(ObjectKey("", node)) if node else None
        if (node and place is None) or (metadata.deletionTimestamp and (place is None or _is_out_of_service(place))):
            self.queue.add(metadata.key)

    def _surplus(self) -> list[ObjectKey]:
        count = len(self._ended) - self._threshold
        if not self._threshold or count <= 0:
            return []
        # Evicted pods first: controllers count those that ended by themselves.
        return heapq.nsmallest(count, self._ended, key=lambda key: (*self._ended[key], key.name))

    async def reconcile(self, key: ObjectKey) -> Result:
        """Delete the pod if nobody else will."""
        pod = self._pods.get(key)
        if pod is None:
            return DONE
        if not pod.spec.nodeName:
            if pod.metadata.deletionTimestamp is not None:
                await self._give_up(pod)
            return DONE
        node = self._nodes.get(ObjectKey("", pod.spec.nodeName))
        if node is None:
            return await self._orphaned(pod)
        if pod.metadata.deletionTimestamp is not None and _is_out_of_service(node):
            await self._give_up(pod)
            return DONE
        if key in self._surplus():
            await self._delete(pod)
        return DONE

    async def _orphaned(self, pod: Pod) -> Result:
        time = asyncio.get_running_loop().time()
        since = self._missed_since.setdefault(pod.spec.nodeName, time)
        left = since + self._quarantine_seconds - time
        if left > 0:
            return Result(requeue_after=left)
        try:
            await self._client.get(NODES, pod.spec.nodeName)
        except NotFound:
            await self._give_up(pod, disruption("DeletionByPodGC", "PodGC: node no longer exists"))
        return DONE

    async def _give_up(self, pod: Pod, *conditions: dict[str, Any]) -> None:
        """Delete a pod that no agent ends; it is called failed first, for those who count."""
        if not pod.is_terminal:
            await self._fail(pod, conditions)
        await self._delete(pod)

    async def _fail(self, pod: Pod, conditions: Sequence[dict[str, Any]]) -> None:
        status: dict[str, Any] = {"phase": "Failed"}
        if conditions:
            status["conditions"] = list(conditions)
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": status}
        name, namespace = pod.metadata.name, pod.metadata.namespace
        try:
            await self._client.patch(PODS, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")
        except NotFound:
            return

    async def _delete(self, pod: Pod) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.metadata.uid}}
        try:
            await self._client.delete(PODS, pod.metadata.name, pod.metadata.namespace, options=options)
        except NotFound:
            return


def _is_out_of_service(node: Node) -> bool:
    """Whether a node is away and somebody said that its machine is off."""
    return ready_status(node) != "True" and any(taint["key"] == OUT_OF_SERVICE for taint in node.spec.taints)
