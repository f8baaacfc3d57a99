"""The scheduler, put together: watches nodes and pods, chooses, binds.

A chosen pod is counted on its node at once, and bound while the next one is being placed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from machinery.api.meta import ObjectKey, key_of, now
from machinery.api.resources import NODES, PODS
from machinery.client.events import EventRecorder, EventType
from machinery.client.informer import Informer
from machinery.client.kubeconfig import ClientConfig
from machinery.client.leaderelection import LeaderElector
from machinery.client.rest import Client, ConnectionFailed, PatchType
from machinery.errors import APIError, Conflict, NotFound
from scheduler.metrics import ATTEMPTS, DURATION, PENDING
from scheduler.queue import SchedulingQueue
from scheduler.schedule_one import Chooser, Unschedulable
from scheduler.table import NodeTable, PlacedPod, requests_of

log = logging.getLogger(__name__)

Object = dict[str, Any]
NAME = "default-scheduler"
LEASE_NAME = "kube-scheduler"
_BINDERS = 64
_TELLERS = 4
# The loop is given back after so many choices, so that bindings and news go on.
_BURST = 16


async def run(
    config: ClientConfig, *, leader_elect: bool = True, identity: str = "", scheduler_name: str = NAME
) -> None:
    """Place pods until cancelled; with `leader_elect`, only while we hold the lease."""
    async with Client(config, user_agent="wherry-scheduler") as client:
        if not leader_elect:
            await Scheduler(client, scheduler_name).run()
            return
        await LeaderElector(client, LEASE_NAME, identity=identity).run(lambda: Scheduler(client, scheduler_name).run())


class Scheduler:
    """One scheduler over one cluster."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._recorder = EventRecorder(client, name)
        self._table = NodeTable()
        self._chooser = Chooser(self._table)
        self._queue = SchedulingQueue()
        self._news = asyncio.Event()
        self._assumed: dict[str, str] = {}  # uid: node, of pods whose binding we have not seen in the API yet
        self._counted: dict[str, str] = {}  # uid: node
        self._told: dict[ObjectKey, str] = {}
        self._binding = asyncio.Semaphore(_BINDERS)
        self._tasks: set[asyncio.Task[None]] = set()
        # Events wait their turn: a pod that waits to be bound comes before the news of one that was.
        self._said: asyncio.Queue[tuple[Mapping[str, Any], EventType, str, str]] = asyncio.Queue()

    async def run(self) -> None:
        """Place pods until cancelled."""
        nodes: Informer[Object] = Informer(self._client, NODES, dict)
        pods: Informer[Object] = Informer(self._client, PODS, dict)
        nodes.add_handler(self._on_node)
        pods.add_handler(self._on_pod)
        async with asyncio.TaskGroup() as group:
            group.create_task(nodes.run())
            await nodes.synced()  # a pod on a node we do not know would not be counted
            group.create_task(pods.run())
            await pods.synced()
            group.create_task(self._place())
            for _ in range(_TELLERS):
                group.create_task(self._tell())

    # ---- news

    def _on_node(self, _: Object | None, new: Object | None) -> None:
        if new is None:
            if _ is not None:
                self._table.remove_node(_["metadata"]["name"])
            return
        known = new["metadata"]["name"] in self._table.rows
        if self._table.put_node(new):
            if not known:
                self._recount(new["metadata"]["name"])
            self._something_changed()

    def _recount(self, name: str) -> None:
        """A node that comes after its pods: they are told again by the next change of theirs; keep what we assumed."""
        for uid, node in list(self._counted.items()):
            if node == name and uid not in self._table.rows[name].pods:
                del self._counted[uid]

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None:
                self._forget(old)
            return
        uid, node = new["metadata"]["uid"], new["spec"].get("nodeName")
        if old is not None and old["metadata"]["uid"] != uid:
            self._forget(old)
        if (new.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            self._forget(new)
        elif node:
            self._count(new, node)
            self._queue.remove(key_of(new))
        elif self._is_ours(new):
            if uid not in self._assumed:
                self._queue.put(new)
                self._news.set()
        else:
            self._queue.remove(key_of(new))
        PENDING.set(len(self._queue))

    def _is_ours(self, pod: Object) -> bool:
        spec = pod["spec"]
        if spec.get("schedulerName", NAME) != self._name or pod["metadata"].get("deletionTimestamp"):
            return False
        return not spec.get("schedulingGates")

    def _count(self, pod: Object, node: str) -> None:
        uid = pod["metadata"]["uid"]
        self._assumed.pop(uid, None)
        before = self._counted.get(uid)
        if before is not None and before != node:
            self._table.remove_pod(before, uid)
        self._table.put_pod(PlacedPod(pod, requests_of(pod), node))
        self._counted[uid] = node

    def _forget(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        node = self._counted.pop(uid, None)
        self._assumed.pop(uid, None)
        self._queue.remove(key_of(pod))
        self._told.pop(key_of(pod), None)
        if node is not None:
            self._table.remove_pod(node, uid)
            self._something_changed()

    def _something_changed(self) -> None:
        self._queue.something_changed(asyncio.get_running_loop().time())
        self._news.set()

    # ---- placing

    async def _place(self) -> None:
        loop = asyncio.get_running_loop()
        done = 0
        while True:
            pod = self._queue.pop(loop.time())
            if pod is None:
                self._news.clear()
                at = self._queue.next_time()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(at):
                        await self._news.wait()
                continue
            await self._binding.acquire()
            self._place_one(pod)
            done += 1
            if done % _BURST == 0:
                await asyncio.sleep(0)

    def _place_one(self, pod: Mapping[str, Any]) -> None:
        key, uid = key_of(pod), pod["metadata"]["uid"]
        with DURATION.time():
            try:
                node = self._chooser.choose(pod)
            except Unschedulable as error:
                self._binding.release()
                ATTEMPTS.labels("unschedulable").inc()
                self._queue.put_aside(key, asyncio.get_running_loop().time())
                self._spawn(self._tell_unschedulable(pod, str(error)))
                return
        self._assumed[uid] = node
        self._table.put_pod(PlacedPod(pod, requests_of(pod), node))
        self._counted[uid] = node
        self._spawn(self._bind(pod, node))

    async def _tell(self) -> None:
        while True:
            await self._recorder.event(*await self._said.get())

    async def _bind(self, pod: Mapping[str, Any], node: str) -> None:
        key, uid = key_of(pod), pod["metadata"]["uid"]
        binding = {
            "kind": "Binding", "apiVersion": "v1",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            "target": {"kind": "Node", "apiVersion": "v1", "name": node},
        }  # fmt: skip
        try:
            await self._client.create(PODS, binding, key.namespace, subresource="binding", name=key.name)
        except (NotFound, Conflict):
            self._unassume(key, uid, node)  # gone, or placed by another: the API tells which
            self._queue.back_off(key, asyncio.get_running_loop().time())
        except (APIError, ConnectionFailed) as error:
            log.warning("binding %s to %s: %s", key, node, error)
            self._unassume(key, uid, node)
            ATTEMPTS.labels("error").inc()
            self._queue.back_off(key, asyncio.get_running_loop().time())
            self._news.set()
        else:
            ATTEMPTS.labels("scheduled").inc()
            self._told.pop(key, None)
            self._queue.remove(key)
            self._said.put_nowait((pod, "Normal", "Scheduled", f"Successfully assigned {key} to {node}"))
        finally:
            self._binding.release()

    def _unassume(self, key: ObjectKey, uid: str, node: str) -> None:
        if self._assumed.pop(uid, None) is not None:
            self._table.remove_pod(node, uid)
            self._counted.pop(uid, None)

    async def _tell_unschedulable(self, pod: Mapping[str, Any], text: str) -> None:
        key = key_of(pod)
        self._said.put_nowait((pod, "Warning", "FailedScheduling", text))
        if self._told.get(key) == text:
            return
        condition = {
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text,
            "lastProbeTime": None, "lastTransitionTime": now(),
        }  # fmt: skip
        patch = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [condition]}}
        try:
            await self._client.patch(
                PODS, key.name, patch, key.namespace, type=PatchType.STRATEGIC, subresource="status"
            )
            self._told[key] = text
        except (APIError, ConnectionFailed) as error:
            log.info("the condition of %s was not written: %s", key, error)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
