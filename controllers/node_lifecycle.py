"""Nodes that fall silent: their conditions become Unknown, they are tainted, and their pods stop serving.

Source: https://kubernetes.io/docs/concepts/architecture/nodes/#heartbeats
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from controllers.informers import NODE_INDEX, InformerFactory, index_by_node
from controllers.node_taints import AWAY, NO_EXECUTE, TaintId, ready_status, taints_after, wanted_taints
from controllers.node_zones import EvictionRates, Zones, zone_of
from controllers.ownership import reference
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Lease, Node, Pod, condition_of
from machinery.api.meta import ObjectKey, now
from machinery.api.resources import LEASES, NODES, PODS
from machinery.client.events import EventRecorder
from machinery.client.rest import Client, ConnectionFailed, PatchType
from machinery.errors import APIError, NotFound

LEASE_NAMESPACE = "kube-node-lease"
GRACE_SECONDS = 40.0
STARTUP_GRACE_SECONDS = 60.0
_RECHECK_SECONDS = 10.0
"""Nodes of a zone where nobody may be driven away are looked at again so often."""
_REPORTED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(slots=True)
class _Health:
    """When we last saw a sign of life, by our own clock: the agents' clocks are not trusted."""

    seen_at: float
    sign: tuple[object, ...] = ()
    mark_pods: bool = False
    registered: bool = False


class NodeLifecycleController(Controller[ObjectKey]):
    """Watches Leases and Node statuses for signs of life, and keeps conditions and taints true to them."""

    name = "node-lifecycle"

    def __init__(
        self,
        client: Client,
        informers: InformerFactory,
        recorder: EventRecorder,
        *,
        grace_seconds: float = GRACE_SECONDS,
        startup_grace_seconds: float = STARTUP_GRACE_SECONDS,
        rates: EvictionRates | None = None,
    ) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._grace_seconds = grace_seconds
        self._startup_grace_seconds = startup_grace_seconds
        self._health: dict[str, _Health] = {}
        self._zones = Zones(rates or EvictionRates())
        self._nodes = informers.informer(NODES, Node)
        self._leases = informers.informer(LEASES, Lease)
        self._pods = informers.informer(PODS, Pod)
        index_by_node(self._pods)
        self._nodes.add_handler(self._node_changed)
        self._leases.add_handler(self._lease_changed)

    # ---- what wakes it

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        zones = {zone_of(node) for node in (old, new) if node is not None}
        before = self._zones.any_ready, [self._zones.rate(zone) for zone in zones]
        if new is None:
            if old is not None:
                self._health.pop(old.metadata.name, None)
                message = f"Node {old.metadata.name} event: Removing Node {old.metadata.name} from Controller"
                self._recorder.later(reference(NODES, old.metadata), "Normal", "RemovingNode", message)
                self._zones.forget(old.metadata.name)
        else:
            self._note(new)
            if old is not None and ready_status(old) == "True" and ready_status(new) != "True":
                self._health[new.metadata.name].mark_pods = True
            self.queue.add(new.metadata.key)
        after = self._zones.any_ready, [self._zones.rate(zone) for zone in zones]
        if before != after:
            for node in self._nodes.list():
                if before[0] != after[0] or zone_of(node) in zones:
                    self.queue.add(node.metadata.key)

    def _note(self, node: Node) -> None:
        name, ready = node.metadata.name, condition_of(node.status.conditions, "Ready")
        self._zones.note(name, zone_of(node), ready=ready_status(node) == "True")
        # Only an agent moves the heartbeat: our own Unknown leaves it where it was.
        beat = getattr(ready, "lastHeartbeatTime", None)
        self._sign(name, 1, beat)

    def _lease_changed(self, old: Lease | None, new: Lease | None) -> None:
        if new is not None and new.metadata.namespace == LEASE_NAMESPACE:
            self._sign(new.metadata.name, 0, new.spec.renewTime)

    def _sign(self, name: str, place: int, value: object) -> None:
        time = asyncio.get_running_loop().time()
        health = self._health.setdefault(name, _Health(time, (None, None)))
        if health.sign[place] != value:
            health.sign = (value, health.sign[1]) if place == 0 else (health.sign[0], value)
            health.seen_at = time

    # ---- what it does

    async def reconcile(self, key: ObjectKey) -> Result:
        """Judge one node by its last sign of life, and come back when the next is overdue."""
        node = self._nodes.get(key)
        if node is None or node.metadata.deletionTimestamp is not None:
            return DONE
        health = self._health[key.name]
        if not health.registered:
            health.registered = True
            message = f"Node {key.name} event: Registered Node {key.name} in Controller"
            await self._recorder.event(reference(NODES, node.metadata), "Normal", "RegisteredNode", message)
        grace = self._grace_seconds if ready_status(node) else self._startup_grace_seconds
        left = health.seen_at + grace - asyncio.get_running_loop().time()
        if left <= 0 and ready_status(node) != "Unknown":
            if await self._lives_after_all(key.name, health):
                return Result(requeue_after=grace)
            await self._mark_unknown(node)
            return DONE  # the change just made brings the node back here
        turn = await self._taint(node)
        if ready_status(node) == "Unknown" or health.mark_pods:
            await self._mark_pods(node)
            health.mark_pods = False
        waits = [wait for wait in (left, turn) if wait > 0]
        return Result(requeue_after=min(waits)) if waits else DONE

    async def _lives_after_all(self, name: str, health: _Health) -> bool:
        """Ask the server once more before a node is called dead: perhaps it is us who saw nothing.

        Time in which the server can't be reached counts for no node: the agents could not report either.
        """
        try:
            lease = await self._client.get(LEASES, name, LEASE_NAMESPACE)
        except NotFound:
            return False
        except (APIError, ConnectionFailed):
            time = asyncio.get_running_loop().time()
            for other in self._health.values():
                other.seen_at = time
            return True
        before = health.sign
        self._sign(name, 0, lease.get("spec", {}).get("renewTime"))
        return health.sign != before

    async def _mark_unknown(self, node: Node) -> None:
        conditions = unknown_conditions(node, time=now())
        # Strategic: conditions are merged by type, so that one an agent writes at this moment is not lost.
        patch = {"status": {"conditions": conditions}, "metadata": {"resourceVersion": node.metadata.resourceVersion}}
        await self._client.patch(NODES, node.metadata.name, patch, type=PatchType.STRATEGIC, subresource="status")
        message = f"Node {node.metadata.name} status is now: NodeNotReady"
        await self._recorder.event(reference(NODES, node.metadata), "Normal", "NodeNotReady", message)

    async def _taint(self, node: Node) -> float:
        """Bring the taints in order. Return how long the one that drives pods away has to wait for its turn."""
        wanted, wait = wanted_taints(node, all_away=not self._zones.any_ready), 0.0
        evicts = {taint for taint in wanted if taint.effect == NO_EXECUTE}
        has = any(TaintId(one["key"], one.get("effect", "")) in AWAY for one in node.spec.taints)
        if evicts and not has:
            wait = self._zones.wait_seconds(node.metadata.name, at=asyncio.get_running_loop().time())
            if wait > 0:
                wanted -= evicts
        taints = taints_after(node, wanted, time=now())
        if taints != list(node.spec.taints):
            metadata = {"resourceVersion": node.metadata.resourceVersion}
            patch = {"metadata": metadata, "spec": {"taints": taints or None}}
            await self._client.patch(NODES, node.metadata.name, patch)
        return min(wait, _RECHECK_SECONDS)

    async def _mark_pods(self, node: Node) -> None:
        """Take the node's pods out of service: whoever asks them gets no answer."""
        for pod in self._pods.by_index(NODE_INDEX, node.metadata.name):
            if not pod.is_ready:
                continue
            condition = {"type": "Ready", "status": "False", "lastTransitionTime": now()}
            patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
            name, namespace = pod.metadata.name, pod.metadata.namespace
            try:
                await self._client.patch(PODS, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")
            except NotFound:
                continue
            await self._recorder.event(reference(PODS, pod.metadata), "Warning", "NodeNotReady", "Node is not ready")


def unknown_conditions(node: Node, *, time: str) -> list[dict[str, Any]]:
    """Return the conditions of a node nothing is heard of."""
    found = []
    for kind in _REPORTED:
        present = condition_of(node.status.conditions, kind)
        reason, message = "NodeStatusUnknown", "Kubelet stopped posting node status."
        if present is None:
            reason, message = "NodeStatusNeverUpdated", "Kubelet never posted node status."
        elif present.status == "Unknown":
            continue
        condition = {
            "type": kind,
            "status": "Unknown",
            "reason": reason,
            "message": message,
            "lastTransitionTime": time,
        }
        if present is None:
            condition["lastHeartbeatTime"] = node.metadata.creationTimestamp
        found.append(condition)
    return found
