"""Disruption budgets: how many of the pods a budget selects may go now.

Source: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from controllers import conditions
from controllers.apps_views import StatefulSet
from controllers.informers import InformerFactory
from controllers.kinds import KindFinder
from controllers.ownership import reference
from controllers.policy_views import Budget
from controllers.reconciler import DONE, Controller, Result
from controllers.rollout import scaled
from controllers.views import Deployment, OwnerReference, Pod, ReplicaSet
from machinery.api.meta import ObjectKey, parse_time
from machinery.api.resources import (
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    STATEFUL_SETS,
)
from machinery.api.selectors import from_label_selector
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import APIError, NotFound

_UNMANAGED = (
    "Pods selected by this PodDisruptionBudget (selector: %s) were found to be unmanaged. As a result, the status of "
    "the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please "
    'set ".spec.minAvailable" field of the PDB to an integer value.'
)
_FORGET_SECONDS = 120.0
"""A pod that was to be evicted and is still there after so long is counted again."""


class CannotCount(ValueError):
    """How many pods there should be can't be told; the message says why."""


class DisruptionController(Controller[ObjectKey]):
    """Keeps the status of each PodDisruptionBudget."""

    name = "disruption"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._kinds = KindFinder(client)
        self._budgets = informers.informer(POD_DISRUPTION_BUDGETS, Budget)
        self._pods = informers.informer(PODS, Pod)
        self._deployments = informers.informer(DEPLOYMENTS, Deployment)
        self._sets = informers.informer(REPLICA_SETS, ReplicaSet)
        self._replication = informers.informer(REPLICATION_CONTROLLERS, ReplicaSet)
        self._stateful = informers.informer(STATEFUL_SETS, StatefulSet)
        self._budgets.add_handler(self._budget_changed)
        self._pods.add_handler(self._pod_changed)

    def _budget_changed(self, old: Budget | None, new: Budget | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            for budget in self._budgets.list(pod.metadata.namespace):
                if _selects(budget, pod):
                    self.queue.add(budget.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Bring the budget's status up to date."""
        budget = self._budgets.get(key)
        if budget is None:
            return DONE
        at = datetime.now(UTC)
        pods = [pod for pod in self._pods.list(key.namespace) if _selects(budget, pod) and not pod.is_terminal]
        if not pods:
            await self._tell(budget, "Normal", "NoPods", "No matching pods found")
        disrupted, wait, stayed = _still_disrupted(budget, pods, at=at)
        for pod in stayed:
            namespace = budget.metadata.namespace  # twice, as upstream has it
            message = f"Pod was expected by PDB {namespace}/{namespace} to be deleted but it wasn't"
            await self._recorder.event(reference(PODS, pod.metadata), "Warning", "NotDeleted", message)
        try:
            expected, desired = await self._expected(budget, pods)
        except CannotCount as error:
            message = f"Failed to calculate the number of expected pods: {error}"
            await self._tell(budget, "Warning", "CalculateExpectedPodCountFailed", message)
            return await self._fail_safe(budget, str(error))
        if _needs_scales(budget) and any(pod.metadata.controller is None for pod in pods):
            await self._tell(budget, "Warning", "UnmanagedPods", _UNMANAGED % in_gos_words(budget.spec.selector or {}))
        staying = [pod for pod in pods if pod.metadata.deletionTimestamp is None and pod.metadata.name not in disrupted]
        healthy = sum(pod.is_ready for pod in staying)
        allowed = max(healthy - desired, 0) if expected > 0 else 0
        await self._write(
            budget,
            {
                "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected,
                "disruptionsAllowed": allowed, "disruptedPods": disrupted,
            },
            ("True", "SufficientPods", "") if allowed > 0 else ("False", "InsufficientPods", ""),
        )  # fmt: skip
        return Result(requeue_after=wait)

    async def _expected(self, budget: Budget, pods: Sequence[Pod]) -> tuple[int, int]:
        """Return how many pods there should be, and how many of them healthy. Raises: CannotCount."""
        spec = budget.spec
        if spec.maxUnavailable is not None:
            expected = await self._scale_of_all(pods)
            return expected, max(expected - scaled(spec.maxUnavailable, expected, up=True), 0)
        if isinstance(spec.minAvailable, str):
            expected = await self._scale_of_all(pods)
            return expected, scaled(spec.minAvailable, expected, up=True)
        if spec.minAvailable is not None:
            return len(pods), spec.minAvailable
        return 0, 0

    async def _scale_of_all(self, pods: Iterable[Pod]) -> int:
        """Return the sum of the replicas of all controllers of these pods."""
        owners = {pod.metadata.controller.uid: pod for pod in pods if pod.metadata.controller is not None}
        found: dict[str, int] = {}
        for pod in owners.values():
            if pod.metadata.controller is not None:
                uid, replicas = await self._scale_of(pod.metadata.namespace, pod.metadata.controller)
                found[uid] = replicas
        return sum(found.values())

    async def _scale_of(self, namespace: str, owner: OwnerReference) -> tuple[str, int]:
        """Return the uid and the replicas of what scales a pod's owner."""
        key = ObjectKey(namespace, owner.name)
        if owner.kind == "ReplicaSet" and (rs := self._sets.get(key)) is not None:
            above = rs.metadata.controller
            if above is not None and above.kind == "Deployment":
                deployment = self._deployments.get(ObjectKey(namespace, above.name))
                if deployment is not None:
                    return deployment.metadata.uid, deployment.spec.replicas
            return owner.uid, rs.spec.replicas
        if owner.kind == "ReplicationController" and (rc := self._replication.get(key)) is not None:
            return owner.uid, rc.spec.replicas
        if owner.kind == "StatefulSet" and (found := self._stateful.get(key)) is not None:
            return owner.uid, found.spec.replicas
        return owner.uid, await self._scale_subresource(namespace, owner)

    async def _scale_subresource(self, namespace: str, owner: OwnerReference) -> int:
        """Ask an owner of any other kind for its scale, as custom resources may have one."""
        resource = await self._kinds.find(owner.apiVersion, owner.kind)
        if resource is None:
            raise CannotCount(f'no matches for kind "{owner.kind}" in group "{owner.apiVersion.rpartition("/")[0]}"')
        try:
            scale = await self._client.get(resource, owner.name, namespace, subresource="scale")
        except APIError as error:
            raise CannotCount(f"{resource.group_resource} does not implement the scale subresource") from error
        return int(scale.get("spec", {}).get("replicas", 0))

    async def _tell(self, budget: Budget, kind: Any, reason: str, message: str) -> None:
        await self._recorder.event(reference(POD_DISRUPTION_BUDGETS, budget.metadata), kind, reason, message)

    async def _fail_safe(self, budget: Budget, why: str) -> Result:
        await self._write(budget, {"disruptionsAllowed": 0}, ("False", "SyncFailed", why))
        return DONE

    async def _write(self, budget: Budget, changes: dict[str, Any], allowed: tuple[str, str, str]) -> None:
        generation = budget.metadata.generation
        condition = {**conditions.made("DisruptionAllowed", *allowed), "observedGeneration": generation}
        known = list(conditions.with_condition(budget.status.conditions, condition))
        present = msgspec.to_builtins(budget.status)
        wanted = {**present, **changes, "observedGeneration": generation, "conditions": known}
        if wanted == {**present, "conditions": list(budget.status.conditions)}:
            return
        gone = dict.fromkeys(set(budget.status.disruptedPods) - set(wanted["disruptedPods"]))
        metadata = {"uid": budget.metadata.uid, "resourceVersion": budget.metadata.resourceVersion}
        status = {**wanted, "disruptedPods": {**wanted["disruptedPods"], **gone} or None}
        patch = {"metadata": metadata, "status": status}
        key = budget.metadata.key
        try:
            await self._client.patch(POD_DISRUPTION_BUDGETS, key.name, patch, key.namespace, subresource="status")
        except NotFound:
            return


def _selects(budget: Budget, pod: Pod) -> bool:
    if budget.spec.selector is None or pod.metadata.namespace != budget.metadata.namespace:
        return False
    return from_label_selector(budget.spec.selector).matches(pod.metadata.labels)


def _needs_scales(budget: Budget) -> bool:
    """Whether what a budget asks for is told by the scales of its pods' controllers."""
    return budget.spec.maxUnavailable is not None or isinstance(budget.spec.minAvailable, str)


def _still_disrupted(
    budget: Budget, pods: Iterable[Pod], *, at: datetime
) -> tuple[dict[str, str], float | None, list[Pod]]:
    """Return the pods that were to be evicted and whose deletion is not seen yet, and when to look again.

    Those whose deletion is not awaited any longer come last.
    """
    kept, wait, stayed = {}, None, []
    for pod in pods:
        since = budget.status.disruptedPods.get(pod.metadata.name)
        if since is None or pod.metadata.deletionTimestamp is not None:
            continue
        left = parse_time(since) + timedelta(seconds=_FORGET_SECONDS) - at
        if left > timedelta():
            kept[pod.metadata.name] = since
            wait = min(left.total_seconds(), wait or _FORGET_SECONDS)
        else:
            stayed.append(pod)
    return kept, wait, stayed


def in_gos_words(selector: Mapping[str, Any]) -> str:
    """Return a label selector as Go prints its type, which is how upstream's events show it."""
    labels = "".join(f"{key}: {value}," for key, value in sorted((selector.get("matchLabels") or {}).items()))
    rules = "".join(
        f"LabelSelectorRequirement{{Key:{one['key']},Operator:{one['operator']},"
        f"Values:[{' '.join(one.get('values') or ())}],}},"
        for one in selector.get("matchExpressions") or ()
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{labels}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{rules}}},}}"
    )
