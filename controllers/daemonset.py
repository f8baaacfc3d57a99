"""DaemonSets: one pod on each node that is meant for it.

What is done when stands in daemon_plan.py; here is the I/O.
Source: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/
"""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from controllers import conditions, daemon_plan
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


class FailureBackoff:
    """How long a pod that failed is left where it is, so that a node that fails every pod is not kept busy by it.

    Keys are the uid of a set and the name of a node. The first is deleted at once, each next one after twice as long.
    """

    FIRST_SECONDS, MOST_SECONDS = 1.0, 900.0

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, float]] = {}  # -> when it was noted, how long the next waits

    def note(self, key: tuple[str, str]) -> None:
        """Note that a failed pod is deleted now."""
        at = asyncio.get_running_loop().time()
        noted, wait = self._known.get(key, (-math.inf, 0.0))
        again = at - noted <= 2 * self.MOST_SECONDS
        self._known[key] = at, min(2 * wait, self.MOST_SECONDS) if again else self.FIRST_SECONDS

    def seconds_left(self, key: tuple[str, str]) -> float:
        """Return how long the next has to wait still."""
        noted, wait = self._known.get(key, (-math.inf, 0.0))
        return noted + wait - asyncio.get_running_loop().time()

    def forget(self, uid: str) -> None:
        """Drop a set that is gone."""
        for key in [key for key in self._known if key[0] == uid]:
            del self._known[key]


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
        self._failures = FailureBackoff()
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
            self._failures.forget(old.metadata.uid)

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
            pause = await self._give_up_ended(found, step)
            wait = min((one for one in (step.wait_seconds, pause) if one is not None), default=None)
            error = await self._carry_out(found, step, digest)
        await self._write(found, daemon_plan.status_of(found, nodes, pods, digest, at=at), collisions)
        await self._trim(found, [*known, newest], pods)
        if error is not None:
            raise error
        return Result(requeue_after=wait)

    async def _give_up_ended(self, found: DaemonSet, step: daemon_plan.Plan) -> float | None:
        """Tell of pods that ended, and have them deleted; those that fail again and again on a node, ever later.

        Returns: in how many seconds the next of them may be deleted.
        """
        involved, waits = reference(DAEMON_SETS, found.metadata), []
        for pod in step.ended:
            node = daemon_plan.node_of(pod)
            where = f"daemon pod {pod.metadata.namespace}/{pod.metadata.name} on node {node}"
            if pod.status.phase == "Failed":
                left = self._failures.seconds_left((found.metadata.uid, node))
                if left > 0:
                    waits.append(left)
                    continue
                self._failures.note((found.metadata.uid, node))
                message = f"Found failed {where}, will try to kill it"
                await self._recorder.event(involved, "Warning", "FailedDaemonPod", message)
            else:
                message = f"Found succeeded {where}, will try to delete it"
                await self._recorder.event(involved, "Normal", "SucceededDaemonPod", message)
            step.delete.append(pod)
        return min(waits, default=None)

    async def _carry_out(self, found: DaemonSet, step: daemon_plan.Plan, digest: str) -> BaseException | None:
        """Make and delete pods. Return what went wrong."""
        key, owner = found.metadata.key, found.metadata
        doomed = step.delete[:BURST_REPLICAS]
        if doomed:
            self._expectations.expect_deletions(key, (pod.metadata.uid for pod in doomed))
            results = await asyncio.gather(
                *(self._control.delete(owner, pod) for pod in doomed), return_exceptions=True
            )  # fmt: skip
            for pod, problem in zip(doomed, results, strict=True):
                if problem is not None:
                    self._expectations.deletion_observed(key, pod.metadata.uid)
            # What is made now could meet what is going: in the next step.
            return next((one for one in results if one is not None and not isinstance(one, NotFound)), None)
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
        shown = conditions.without_zeros(wanted, "updatedNumberScheduled", "numberAvailable", "numberUnavailable")
        patch = {"metadata": {"uid": found.metadata.uid}, "status": shown}
        key = found.metadata.key
        try:
            await self._client.patch(DAEMON_SETS, key.name, patch, key.namespace, subresource="status")
        except NotFound:
            return


def _place(node: Node) -> tuple[Any, ...]:
    """Return what of a node decides whether a pod may be there."""
    return node.metadata.labels, node.spec.taints, node.spec.unschedulable
