"""DaemonSets: one pod on each node that is meant for it.

What is done when stands in daemon_plan.py; here is the I/O.
Source: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from controllers import daemon_plan
from controllers.apps_views import ControllerRevision, DaemonSet
from controllers.informers import InformerFactory
from controllers.ownership import Claimer, candidates, controller_key, index_by_controller, reference
from controllers.pod_control import PodControl, namespace_is_terminating, slow_start
from controllers.reconciler import DONE, Controller, Expectations, Result
from controllers.revisions import HASH_LABEL, History
from controllers.views import Node, Pod
from machinery.api.meta import ObjectKey
from machinery.api.resources import DAEMON_SETS, NODES, PODS
from machinery.api.selectors import SelectorError, from_label_selector
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import NotFound

BURST_REPLICAS = 250
"""The most pods made or deleted for one DaemonSet in one step."""


class DaemonSetController(Controller[ObjectKey]):
    """Keeps one pod of each DaemonSet on each node it selects."""

    name = "daemonset"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._control = PodControl(client, recorder, DAEMON_SETS)
        self._sets = informers.informer(DAEMON_SETS, DaemonSet)
        self._pods = informers.informer(PODS, Pod)
        self._nodes = informers.informer(NODES, Node)
        self._claimer = Claimer(client, DAEMON_SETS, PODS)
        self._history = History(client, informers, DAEMON_SETS)
        self._expectations = Expectations()
        index_by_controller(self._pods)
        self._sets.add_handler(self._set_changed)
        self._pods.add_handler(self._pod_changed)
        self._nodes.add_handler(self._node_changed)

    # ---- what wakes it

    def _set_changed(self, old: DaemonSet | None, new: DaemonSet | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)
        elif old is not None:
            self._expectations.forget(old.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old is None and new is not None and (key := controller_key(new, "DaemonSet")) is not None:
            self._expectations.creation_observed(key)
        for pod in (old, new):
            if pod is not None and (key := controller_key(pod, "DaemonSet")) is not None:
                if new is None or new.metadata.deletionTimestamp is not None:
                    self._expectations.deletion_observed(key, pod.metadata.uid)
                self.queue.add(key)
        if new is not None and new.metadata.controller is None:
            for found in self._sets.list(new.metadata.namespace):
                if from_label_selector(found.spec.selector).matches(new.metadata.labels):
                    self.queue.add(found.metadata.key)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if old is not None and new is not None and _place(old) == _place(new):
            return  # a heartbeat
        for found in self._sets.list():
            fits = {daemon_plan.should_run(found, node) for node in (old, new) if node is not None}
            if len(fits) > 1 or old is None or new is None:
                self.queue.add(found.metadata.key)

    # ---- what it does

    async def reconcile(self, key: ObjectKey) -> Result:
        """Make and delete pods until each node has what it shall have, then write the status."""
        found = self._sets.get(key)
        if found is None or found.metadata.deletionTimestamp is not None:
            return DONE
        try:
            selector = from_label_selector(found.spec.selector)
        except SelectorError:
            return DONE  # validation lets none through
        may_act = self._expectations.satisfied(key)
        pods = await self._claimer.claim(found.metadata, selector, candidates(self._pods, found.metadata))
        known = await self._history.list(found.metadata, selector)
        newest, collisions = await self._history.current(
            found.metadata, found.spec.template, known, found.status.collisionCount or 0
        )
        digest = newest.metadata.labels.get(HASH_LABEL, "")
        nodes, at = self._nodes.list(), datetime.now(UTC)
        wait: float | None = None
        error: BaseException | None = None
        if may_act:
            step = daemon_plan.plan(found, nodes, pods, digest, at=at)
            wait = step.wait_seconds
            error = await self._carry_out(found, step, digest)
        await self._write(found, daemon_plan.status_of(found, nodes, pods, digest, at=at), collisions)
        await self._trim(found, [*known, newest], pods)
        if error is not None:
            raise error
        return Result(requeue_after=wait)

    async def _carry_out(self, found: DaemonSet, step: daemon_plan.Plan, digest: str) -> BaseException | None:
        """Make and delete pods. Return what went wrong."""
        key, owner = found.metadata.key, found.metadata
        involved = reference(DAEMON_SETS, owner)
        for pod in step.ended:
            where = f"daemon pod {owner.namespace}/{pod.metadata.name} on node {daemon_plan.node_of(pod)}"
            if pod.status.phase == "Failed":
                message = f"Found failed {where}, will try to kill it"
                await self._recorder.event(involved, "Warning", "FailedDaemonPod", message)
            else:
                message = f"Found succeeded {where}, will try to delete it"
                await self._recorder.event(involved, "Normal", "SucceededDaemonPod", message)
        doomed = step.delete[:BURST_REPLICAS]
        if doomed:
            self._expectations.expect_deletions(key, (pod.metadata.uid for pod in doomed))
            for pod in doomed:
                try:
                    await self._control.delete(owner, pod)
                except NotFound:
                    self._expectations.deletion_observed(key, pod.metadata.uid)
            return None  # what is made now could meet what is going: in the next step
        if not step.create:
            return None
        nodes = iter(step.create[:BURST_REPLICAS])
        count = min(len(step.create), BURST_REPLICAS)
        self._expectations.expect_creations(key, count)
        done, errors = await slow_start(
            count, lambda: self._control.create(owner, daemon_plan.pod_for(found, next(nodes), digest))
        )
        self._expectations.creation_observed(key, count - done)
        return next((one for one in errors if not namespace_is_terminating(one)), None)

    async def _trim(self, found: DaemonSet, known: Sequence[ControllerRevision], pods: Sequence[Pod]) -> None:
        used = {pod.metadata.labels.get(HASH_LABEL, "") for pod in pods}
        live = [one.metadata.name for one in known if one.metadata.labels.get(HASH_LABEL, "") in used]
        unique = list({one.metadata.name: one for one in known}.values())
        await self._history.trim(unique, [*live, known[-1].metadata.name], found.spec.revisionHistoryLimit)

    async def _write(self, found: DaemonSet, status: dict[str, Any], collisions: int) -> None:
        present: dict[str, Any] = msgspec.to_builtins(found.status)
        wanted = {**status, "collisionCount": collisions or present["collisionCount"]}
        if wanted == present:
            return
        patch = {"metadata": {"uid": found.metadata.uid}, "status": wanted}
        key = found.metadata.key
        try:
            await self._client.patch(DAEMON_SETS, key.name, patch, key.namespace, subresource="status")
        except NotFound:
            return


def _place(node: Node) -> tuple[Any, ...]:
    """Return what of a node decides whether a pod may be there."""
    return node.metadata.labels, node.spec.taints, node.spec.unschedulable
