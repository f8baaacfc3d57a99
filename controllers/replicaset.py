"""ReplicaSets: as many pods of a template as asked for, no fewer and no more.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from controllers import conditions
from controllers.informers import InformerFactory
from controllers.ownership import (
    OWNER_INDEX,
    Claimer,
    candidates,
    controller_key,
    index_by_controller,
)
from controllers.pod_control import PodControl, namespace_is_terminating, pod_of_template, slow_start
from controllers.pod_ranking import pods_to_delete
from controllers.reconciler import Controller, Expectations, Result
from controllers.views import Pod, ReplicaSet
from machinery.api.meta import ObjectKey, parse_time
from machinery.api.resources import PODS, REPLICA_SETS, REPLICATION_CONTROLLERS
from machinery.api.selectors import LabelSelector, SelectorError, from_label_selector, from_labels
from machinery.client.events import EventRecorder
from machinery.client.rest import Client, PatchType
from machinery.errors import NotFound

BURST_REPLICAS = 500
"""The most pods made or deleted for one ReplicaSet in one step."""


class Failure(NamedTuple):
    """A step that went wrong: the reason users read in the condition, and the first error."""

    reason: str
    error: BaseException


class ReplicaSetController(Controller[ObjectKey]):
    """Makes and deletes pods until a ReplicaSet has its number, and says in its status how many there are."""

    name = "replicaset"
    resource = REPLICA_SETS

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._control = PodControl(client, recorder, self.resource)
        self._sets = informers.informer(self.resource, ReplicaSet)
        self._pods = informers.informer(PODS, Pod)
        self._expectations = Expectations()
        self._claimer = Claimer(client, self.resource, PODS)
        index_by_controller(self._sets)
        index_by_controller(self._pods)
        self._sets.add_handler(self._set_changed)
        self._pods.add_handler(self._pod_changed)

    # ---- what wakes it

    def _set_changed(self, old: ReplicaSet | None, new: ReplicaSet | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)
        elif old is not None:
            self._expectations.forget(old.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        owners = {key for pod in (old, new) if pod is not None and (key := self._owner_of(pod)) is not None}
        new_owner = self._owner_of(new) if new is not None else None
        if old is None and new_owner is not None:
            self._expectations.creation_observed(new_owner)
        gone = old if new is None else new if new.metadata.deletionTimestamp else None
        if gone is not None and (owner := self._owner_of(gone)) is not None:
            self._expectations.deletion_observed(owner, gone.metadata.uid)
        if new is not None and new.metadata.controller is None:
            owners |= self._sets_matching(new)
        for key in owners:
            self.queue.add(key)

    def _owner_of(self, pod: Pod) -> ObjectKey | None:
        return controller_key(pod, self.resource.kind)

    def _sets_matching(self, pod: Pod) -> set[ObjectKey]:
        return {
            found.metadata.key
            for found in self._sets.list(pod.metadata.namespace)
            if self.selector_of(found).matches(pod.metadata.labels)
        }

    def selector_of(self, rs: ReplicaSet) -> LabelSelector:
        """Return which pods are the set's. Raises: SelectorError."""
        return from_label_selector(rs.spec.selector)

    # ---- what it does

    async def reconcile(self, key: ObjectKey) -> Result:
        """Bring the number of pods a step closer, then write the status."""
        rs = self._sets.get(key)
        if rs is None:
            self._expectations.forget(key)
            return Result()
        # Asked before the pods are listed: a write seen in between would be made twice.
        may_act = self._expectations.satisfied(key) and rs.metadata.deletionTimestamp is None
        pods = await self._claim(rs)
        failure = await self._scale(rs, pods) if may_act else None
        at = datetime.now(UTC)
        going = self._count_going(rs)
        await self._write_status(rs, status_of(rs, pods, going, failure, at=at))
        if failure is not None:
            raise failure.error
        return Result(requeue_after=seconds_until_available(rs, pods, at=at))

    def _count_going(self, rs: ReplicaSet) -> int | None:
        """Return how many pods are on their way out; None where the kind does not tell."""
        return sum(_is_going(pod) for pod in self._pods.by_index(OWNER_INDEX, rs.metadata.uid))

    async def _claim(self, rs: ReplicaSet) -> list[Pod]:
        try:
            selector = self.selector_of(rs)
        except SelectorError:
            return []  # validation lets none through
        found = (pod for pod in candidates(self._pods, rs.metadata) if pod.is_active)
        return await self._claimer.claim(rs.metadata, selector, found)

    async def _scale(self, rs: ReplicaSet, pods: Sequence[Pod]) -> Failure | None:
        """Make or delete pods. Return what went wrong."""
        missing = rs.spec.replicas - len(pods)
        if missing > 0:
            return await self._create_pods(rs, min(missing, BURST_REPLICAS))
        if missing < 0:
            return await self._delete_pods(rs, pods, min(-missing, BURST_REPLICAS))
        return None

    async def _create_pods(self, rs: ReplicaSet, count: int) -> Failure | None:
        key = rs.metadata.key
        self._expectations.expect_creations(key, count)
        body = pod_of_template(self.resource, rs.metadata, rs.spec.template)
        done, errors = await slow_start(count, lambda: self._control.create(rs.metadata, body))
        self._expectations.creation_observed(key, count - done)
        errors = [error for error in errors if not namespace_is_terminating(error)]
        return Failure("FailedCreate", errors[0]) if errors else None

    async def _delete_pods(self, rs: ReplicaSet, pods: Sequence[Pod], count: int) -> Failure | None:
        key = rs.metadata.key
        chosen = pods_to_delete(pods, self._related(rs, pods), count, at=datetime.now(UTC))
        self._expectations.expect_deletions(key, (pod.metadata.uid for pod in chosen))
        deletions = (self._control.delete(rs.metadata, pod) for pod in chosen)
        results = await asyncio.gather(*deletions, return_exceptions=True)
        failed = [(pod, error) for pod, error in zip(chosen, results, strict=True) if error is not None]
        for pod, _ in failed:
            self._expectations.deletion_observed(key, pod.metadata.uid)
        refused = [error for _, error in failed if not isinstance(error, NotFound)]
        return Failure("FailedDelete", refused[0]) if refused else None

    def _related(self, rs: ReplicaSet, pods: Sequence[Pod]) -> list[Pod]:
        """Return the active pods of all ReplicaSets with the same owner."""
        owner = rs.metadata.controller
        if owner is None:
            return list(pods)
        siblings = self._sets.by_index(OWNER_INDEX, owner.uid)
        found = (pod for sibling in siblings for pod in self._pods.by_index(OWNER_INDEX, sibling.metadata.uid))
        return [pod for pod in found if pod.is_active]

    async def _write_status(self, rs: ReplicaSet, status: dict[str, Any]) -> None:
        present = _present_status(rs)
        if status == {field: present[field] for field in status}:
            return
        # No resourceVersion: nobody else writes this status, and a stale one is followed by the event that mends it.
        shown = conditions.without_zeros(status, "fullyLabeledReplicas", "readyReplicas", "availableReplicas")
        shown["conditions"] = status["conditions"] or None
        patch = {"metadata": {"uid": rs.metadata.uid}, "status": shown}
        try:
            path = self.resource.path(rs.metadata.namespace, rs.metadata.name, "status")
            await self._client.send("PATCH", path, patch, content_type=PatchType.MERGE)
        except NotFound:
            return


class ReplicationControllerController(ReplicaSetController):
    """The same for ReplicationControllers, whose selector is a plain map of labels."""

    name = "replicationcontroller"
    resource = REPLICATION_CONTROLLERS

    def selector_of(self, rs: ReplicaSet) -> LabelSelector:
        """Return which pods are the controller's."""
        return from_labels(rs.spec.selector or {})

    def _count_going(self, rs: ReplicaSet) -> int | None:
        return None


def available_at(pod: Pod, min_ready_seconds: int, *, at: datetime) -> float | None:
    """Return in how many seconds a pod counts as available (0: it does now), or None while it is not ready."""
    ready = pod.ready_condition
    if ready is None or ready.status != "True":
        return None
    if not min_ready_seconds or not ready.lastTransitionTime:
        return 0.0
    return max(0.0, min_ready_seconds - (at - parse_time(ready.lastTransitionTime)).total_seconds())


def seconds_until_available(rs: ReplicaSet, pods: Iterable[Pod], *, at: datetime) -> float | None:
    """Return when the next pod becomes available by time alone, if one does."""
    waits = (available_at(pod, rs.spec.minReadySeconds, at=at) for pod in pods)
    return min((wait for wait in waits if wait), default=None)


def _is_going(pod: Pod) -> bool:
    return pod.metadata.deletionTimestamp is not None and not pod.is_terminal


def status_of(
    rs: ReplicaSet, pods: Sequence[Pod], going: int | None, failure: Failure | None, *, at: datetime
) -> dict[str, Any]:
    """Return the status of a set with these active pods, so many that are going, after a step that may have failed."""
    labels = (rs.spec.template.get("metadata") or {}).get("labels") or {}
    kept: conditions.Conditions = rs.status.conditions
    if failure is None:
        kept = conditions.without(kept, "ReplicaFailure")
    else:
        kept = conditions.with_condition(
            kept, conditions.made("ReplicaFailure", "True", failure.reason, str(failure.error))
        )
    return {
        "replicas": len(pods),
        "fullyLabeledReplicas": sum(labels.items() <= pod.metadata.labels.items() for pod in pods),
        "readyReplicas": sum(pod.is_ready for pod in pods),
        "availableReplicas": sum(available_at(pod, rs.spec.minReadySeconds, at=at) == 0 for pod in pods),
        **({} if going is None else {"terminatingReplicas": going}),
        "observedGeneration": rs.metadata.generation,
        "conditions": list(kept),
    }


def _present_status(rs: ReplicaSet) -> dict[str, Any]:
    status = rs.status
    return {
        "replicas": status.replicas,
        "fullyLabeledReplicas": status.fullyLabeledReplicas,
        "readyReplicas": status.readyReplicas,
        "availableReplicas": status.availableReplicas,
        "terminatingReplicas": status.terminatingReplicas,
        "observedGeneration": status.observedGeneration,
        "conditions": list(status.conditions),
    }
