"""Pods leave nodes whose NoExecute taints they do not tolerate, or tolerate only for a time.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions
"""

import time

from controllers.informers import NODE_INDEX, InformerFactory, index_by_node
from controllers.node_taints import evict_at, evicting_taints
from controllers.ownership import reference
from controllers.pod_control import disrupt
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Node, Pod
from machinery.api.meta import ObjectKey
from machinery.api.resources import NODES, PODS
from machinery.client.events import EventRecorder
from machinery.client.rest import Client


class TaintEvictionController(Controller[ObjectKey]):
    """Deletes pods when their time on a tainted node is up. Keys are those of pods."""

    name = "taint-eviction"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._nodes = informers.informer(NODES, Node)
        self._pods = informers.informer(PODS, Pod)
        self._seen_at: dict[ObjectKey, float] = {}
        index_by_node(self._pods)
        self._nodes.add_handler(self._node_changed)
        self._pods.add_handler(self._pod_changed)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if new is None or (old is not None and evicting_taints(old) == evicting_taints(new)):
            return
        if old is None and not evicting_taints(new):
            return
        for pod in self._pods.by_index(NODE_INDEX, new.metadata.name):
            self.queue.add(pod.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if new is None:
            if old is not None:
                self._seen_at.pop(old.metadata.key, None)
        elif new.spec.nodeName and (
            old is None or old.spec.nodeName != new.spec.nodeName or old.spec.tolerations != new.spec.tolerations
        ):
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Delete the pod if its time is up, else come back when it is."""
        pod = self._pods.get(key)
        node = self._nodes.get(ObjectKey("", pod.spec.nodeName)) if pod is not None else None
        taints = evicting_taints(node) if node is not None else []
        if pod is None or not taints or pod.metadata.deletionTimestamp is not None:
            waited = self._seen_at.pop(key, None) is not None
            if pod is not None and waited and not taints and pod.metadata.deletionTimestamp is None:
                await self._tell(pod, f"Cancelling deletion of Pod {key}")
            return DONE
        seen_at = self._seen_at.setdefault(key, time.time())
        leaves_at = evict_at(taints, pod.spec.tolerations, seen_at=seen_at)
        if leaves_at is None:
            self._seen_at.pop(key, None)
            return DONE
        left = leaves_at - time.time()
        if left > 0:
            return Result(requeue_after=left)
        await self._tell(pod, f"Marking for deletion Pod {pod.metadata.key}")
        await disrupt(self._client, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        return DONE

    async def _tell(self, pod: Pod, message: str) -> None:
        await self._recorder.event(reference(PODS, pod.metadata), "Normal", "TaintManagerEviction", message)
