"""HorizontalPodAutoscalers: as many replicas as metrics call for, within bounds and not too fast.

What metrics call for stands in hpa_replicas.py, how fast it may be in hpa_behavior.py; here is the I/O.
Source: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from controllers import conditions
from controllers.hpa_behavior import Change, Memory, decide, rules_of
from controllers.hpa_metric_values import MetricValues, Proposal, ScaleTarget
from controllers.hpa_metrics import MetricsReader
from controllers.hpa_replicas import Unknown
from controllers.hpa_views import Autoscaler
from controllers.informers import InformerFactory
from controllers.kinds import KindFinder
from controllers.ownership import reference
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Pod
from machinery.api.meta import ObjectKey, Resource, now
from machinery.api.resources import HORIZONTAL_POD_AUTOSCALERS, PODS
from machinery.api.selectors import parse_label_selector
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import APIError, Conflict, NotFound

SYNC_SECONDS = 15.0
_MEMORY_SECONDS = 3600.0
_REASONS = {
    "Resource": "FailedGetResourceMetric", "ContainerResource": "FailedGetContainerResourceMetric",
    "Pods": "FailedGetPodsMetric", "Object": "FailedGetObjectMetric", "External": "FailedGetExternalMetric",
}  # fmt: skip


@dataclass(slots=True)
class _Draft:
    """A status in the making."""

    known: conditions.Conditions
    current: int = 0
    desired: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    last_scale: str | None = None

    def say(self, kind: str, status: str, reason: str, message: str) -> None:
        """Set a condition, its message too."""
        old = conditions.find(self.known, kind)
        new = conditions.made(kind, status, reason, message)
        if old is not None and old["status"] == status:
            new["lastTransitionTime"] = old.get("lastTransitionTime", new["lastTransitionTime"])
        self.known = (*conditions.without(self.known, kind), new)


class HorizontalPodAutoscalerController(Controller[ObjectKey]):
    """Looks at each autoscaler every 15 seconds."""

    name = "horizontal-pod-autoscaler"

    def __init__(
        self, client: Client, informers: InformerFactory, recorder: EventRecorder, *,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:  # fmt: skip
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._sync_seconds = sync_seconds
        self._values = MetricValues(MetricsReader(client), self.resource_of)
        self._memories: dict[ObjectKey, Memory] = {}
        self._selectors: dict[ObjectKey, str] = {}  # what the target of each autoscaler selects
        self._kinds = KindFinder(client)
        self._autoscalers = informers.informer(HORIZONTAL_POD_AUTOSCALERS, Autoscaler)
        self._pods = informers.informer(PODS, Pod)
        self._autoscalers.add_handler(self._changed)

    def _changed(self, old: Autoscaler | None, new: Autoscaler | None) -> None:
        if new is None:
            if old is not None:
                self._memories.pop(old.metadata.key, None)
                self._selectors.pop(old.metadata.key, None)
        elif old is None or old.metadata.generation != new.metadata.generation:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Look at one autoscaler, and scale its target if it must be."""
        autoscaler = self._autoscalers.get(key)
        if autoscaler is None or autoscaler.metadata.deletionTimestamp is not None:
            return DONE
        status = autoscaler.status
        draft = _Draft(status.conditions, last_scale=status.lastScaleTime)
        draft.metrics = [dict(one) for one in status.currentMetrics or ()]
        try:
            await self._scale(autoscaler, draft)
        finally:
            await self._write(autoscaler, draft)
        return Result(requeue_after=self._sync_seconds)

    # ---- scaling

    async def _scale(self, autoscaler: Autoscaler, draft: _Draft) -> None:
        spec = autoscaler.spec
        draft.current, draft.desired = autoscaler.status.currentReplicas or 0, autoscaler.status.desiredReplicas
        target = await self._target(autoscaler, draft)
        if target is None:
            return
        draft.current = draft.desired = current = target.replicas
        least = 1 if spec.minReplicas is None else spec.minReplicas
        at = asyncio.get_running_loop().time()
        memory = self._memories.get(autoscaler.metadata.key)
        if memory is None:  # what is there is the first recommendation: no fall right after a restart
            memory = self._memories[autoscaler.metadata.key] = Memory([Change(at, current)])
        memory.forget_before(at - _MEMORY_SECONDS)
        if current == 0 and least != 0:
            message = "scaling is disabled since the replica count of the target is zero"
            draft.say("ScalingActive", "False", "ScalingDisabled", message)
            return
        if current > spec.maxReplicas:
            desired, why = spec.maxReplicas, "Current number of replicas above Spec.MaxReplicas"
        elif current < least:
            desired, why = least, "Current number of replicas below Spec.MinReplicas"
        else:
            proposal = await self._proposal(autoscaler, target, draft)
            if proposal is None:
                return
            verdict = decide(autoscaler, memory, current, proposal.replicas, at=at)
            for condition in verdict.conditions:
                draft.say(*condition)
            desired = verdict.replicas
            why = f"{proposal.name} above target" if proposal.replicas > current else "All metrics below target"
        if desired != current:
            await self._rescale(autoscaler, target, desired, why, draft)
            memory.scaled(current, desired, at=at)

    async def _target(self, autoscaler: Autoscaler, draft: _Draft) -> ScaleTarget | None:
        """Return what is scaled and its present size; None, after saying why, when it can't be told."""
        spec, namespace = autoscaler.spec.scaleTargetRef, autoscaler.metadata.namespace
        try:
            resource = await self.resource_of(spec.apiVersion, spec.kind)
            scale = await self._client.get(resource, spec.name, namespace, subresource="scale")
        except (APIError, Unknown) as error:
            message = f"the HPA controller was unable to get the target's current scale: {error}"
            draft.say("AbleToScale", "False", "FailedGetScale", message)
            await self._tell(autoscaler, "Warning", "FailedGetScale", str(error))
            return None
        message = "the HPA controller was able to get the target's current scale"
        draft.say("AbleToScale", "True", "SucceededGetScale", message)
        status = scale.get("status") or {}
        selector = str(status.get("selector") or "")
        replicas = int((scale.get("spec") or {}).get("replicas") or 0)
        pods = []
        if selector:
            matches = parse_label_selector(selector).matches
            pods = [pod for pod in self._pods.list(namespace) if matches(pod.metadata.labels)]
        return ScaleTarget(resource, spec.name, namespace, selector, replicas, int(status.get("replicas") or 0), pods)

    async def resource_of(self, api_version: str, kind: str) -> Resource:
        """Return the resource of a kind. Raises: Unknown when it is not served; APIError."""
        resource = await self._kinds.find(api_version, kind)
        if resource is None:
            raise Unknown(f'no matches for kind "{kind}" in group "{api_version.rpartition("/")[0]}"')
        return resource

    async def _proposal(self, autoscaler: Autoscaler, target: ScaleTarget, draft: _Draft) -> Proposal | None:
        """Return what the metric that asks for most calls for; None, after saying why, when nothing can be told."""
        if not target.selector:
            message = "the HPA target's scale is missing a selector"
            draft.say("ScalingActive", "False", "InvalidSelector", message)
            await self._tell(autoscaler, "Warning", "SelectorRequired", "selector is required")
            return None
        if len(rivals := self._rivals(autoscaler.metadata.key, target)) > 1:
            names = " ".join(f"{{{key.name} {key.namespace}}}" for key in sorted(rivals))
            message = f"pods by selector {target.selector} are controlled by multiple HPAs: [{names}]"
            draft.say("ScalingActive", "False", "AmbiguousSelector", message)
            await self._tell(autoscaler, "Warning", "AmbiguousSelector", message)
            return None
        proposals: list[Proposal] = []
        failures: list[tuple[str, str]] = []
        rules = rules_of(autoscaler)
        for metric in autoscaler.spec.metrics:
            try:
                proposals.append(await self._values.propose(metric, target, rules, at=datetime.now(UTC)))
            except (Unknown, APIError) as error:
                failures.append((_REASONS.get(metric["type"], "InvalidMetricSourceType"), str(error)))
        draft.metrics = [one.status for one in proposals]
        best = max(proposals, key=lambda one: one.replicas, default=None)
        # While something is unknown nothing is taken away: that metric might have asked for more.
        if failures and (best is None or best.replicas < target.replicas):
            await self._tell_failures(autoscaler, draft, failures)
            return None
        if best is not None:
            message = f"the HPA was able to successfully calculate a replica count from {best.name}"
            draft.say("ScalingActive", "True", "ValidMetricFound", message)
        return best

    def _rivals(self, key: ObjectKey, target: ScaleTarget) -> set[ObjectKey]:
        """Return the autoscalers, this one among them, whose targets select the same pods and who undo each other."""
        self._selectors[key] = target.selector
        found = {key}
        for other, selector in self._selectors.items():
            if other != key and other.namespace == key.namespace:
                matches = parse_label_selector(selector).matches
                if any(matches(pod.metadata.labels) for pod in target.pods):
                    found.add(other)
        return found

    async def _tell_failures(self, autoscaler: Autoscaler, draft: _Draft, failures: Sequence[tuple[str, str]]) -> None:
        for reason, message in failures:
            await self._tell(autoscaler, "Warning", reason, message)
        reason, first = failures[0]
        draft.say("ScalingActive", "False", reason, f"the HPA was unable to compute the replica count: {first}")
        message = f"invalid metrics ({len(failures)} invalid out of {len(autoscaler.spec.metrics)}), first error is: "
        await self._tell(autoscaler, "Warning", "FailedComputeMetricsReplicas", message + first)

    async def _rescale(
        self, autoscaler: Autoscaler, target: ScaleTarget, desired: int, why: str, draft: _Draft
    ) -> None:
        patch = {"spec": {"replicas": desired}}
        said = f"New size: {desired}; reason: {why}"
        try:
            await self._client.patch(target.resource, target.name, patch, target.namespace, subresource="scale")
        except APIError as error:
            message = f"the HPA controller was unable to update the target scale: {error}"
            draft.say("AbleToScale", "False", "FailedUpdateScale", message)
            await self._tell(autoscaler, "Warning", "FailedRescale", f"{said}; error: {error}")
            raise
        message = f"the HPA controller was able to update the target scale to {desired}"
        draft.say("AbleToScale", "True", "SucceededRescale", message)
        draft.desired, draft.last_scale = desired, now()
        await self._tell(autoscaler, "Normal", "SuccessfulRescale", said)

    # ---- telling

    async def _tell(self, autoscaler: Autoscaler, kind: Any, reason: str, message: str) -> None:
        involved = reference(HORIZONTAL_POD_AUTOSCALERS, autoscaler.metadata)
        await self._recorder.event(involved, kind, reason, message)

    async def _write(self, autoscaler: Autoscaler, draft: _Draft) -> None:
        status, generation = autoscaler.status, autoscaler.metadata.generation
        wanted: dict[str, Any] = {
            "observedGeneration": generation, "currentReplicas": draft.current, "desiredReplicas": draft.desired,
            "currentMetrics": draft.metrics or None, "conditions": list(draft.known), "lastScaleTime": draft.last_scale,
        }  # fmt: skip
        present: dict[str, Any] = {
            "observedGeneration": status.observedGeneration, "currentReplicas": status.currentReplicas,
            "desiredReplicas": status.desiredReplicas, "currentMetrics": list(status.currentMetrics or ()) or None,
            "conditions": list(status.conditions), "lastScaleTime": status.lastScaleTime,
        }  # fmt: skip
        if wanted == present:
            return
        patch = {"metadata": {"uid": autoscaler.metadata.uid}, "status": wanted}
        key = autoscaler.metadata.key
        try:
            await self._client.patch(HORIZONTAL_POD_AUTOSCALERS, key.name, patch, key.namespace, subresource="status")
        except (NotFound, Conflict):
            return
