"""Deployments: a ReplicaSet per template, and the orderly passage from one to the next.

What is done when stands in rollout.py, what is said about it in deployment_status.py; here is the I/O.
Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from controllers import conditions, deployment_status, rollout
from controllers.informers import InformerFactory
from controllers.ownership import (
    OWNER_INDEX,
    Claimer,
    candidates,
    controller_key,
    index_by_controller,
    owner_reference,
    reference,
)
from controllers.reconciler import DONE, Controller, Result
from controllers.rollout import Resize
from controllers.views import Deployment, Pod, ReplicaSet
from machinery.api.meta import ObjectKey
from machinery.api.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from machinery.api.selectors import from_label_selector
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, APIError, NotFound


@dataclass(frozen=True)
class _Rollout:
    """A deployment and its sets, as this step knows them: the cache, and what it wrote since."""

    deployment: Deployment
    new: ReplicaSet | None
    old: Sequence[ReplicaSet]
    known: conditions.Conditions

    @property
    def sets(self) -> list[ReplicaSet]:
        return [*self.old, *([self.new] if self.new is not None else [])]


class DeploymentController(Controller[ObjectKey]):
    """Makes ReplicaSets and sizes them; pods are the ReplicaSet controller's."""

    name = "deployment"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._deployments = informers.informer(DEPLOYMENTS, Deployment)
        self._sets = informers.informer(REPLICA_SETS, ReplicaSet)
        self._pods = informers.informer(PODS, Pod)
        self._claimer = Claimer(client, DEPLOYMENTS, REPLICA_SETS)
        index_by_controller(self._sets)
        index_by_controller(self._pods)
        self._deployments.add_handler(self._deployment_changed)
        self._sets.add_handler(self._set_changed)
        self._pods.add_handler(self._pod_changed)

    # ---- what wakes it

    def _deployment_changed(self, old: Deployment | None, new: Deployment | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    def _set_changed(self, old: ReplicaSet | None, new: ReplicaSet | None) -> None:
        for rs in (old, new):
            if rs is not None and (key := controller_key(rs, "Deployment")) is not None:
                self.queue.add(key)
        if new is not None and new.metadata.controller is None:
            for deployment in self._deployments.list(new.metadata.namespace):
                if from_label_selector(deployment.spec.selector).matches(new.metadata.labels):
                    self.queue.add(deployment.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        """Wake a Recreate when an old pod is gone, or at its end: it waits for the last."""
        if old is None or (new is not None and not new.is_terminal):
            return
        set_key = controller_key(old, "ReplicaSet")
        rs = self._sets.get(set_key) if set_key is not None else None
        key = controller_key(rs, "Deployment") if rs is not None else None
        deployment = self._deployments.get(key) if key is not None else None
        if key is not None and deployment is not None and deployment.spec.strategy.type == "Recreate":
            self.queue.add(key)

    # ---- what it does

    async def reconcile(self, key: ObjectKey) -> Result:
        """Take one step of the rollout, then write the status."""
        deployment = self._deployments.get(key)
        if deployment is None:
            return DONE
        selector = from_label_selector(deployment.spec.selector)
        sets = await self._claimer.claim(deployment.metadata, selector, candidates(self._sets, deployment.metadata))
        new = rollout.find_new(deployment, sets)
        old = [rs for rs in sets if rs is not new]
        at = datetime.now(UTC)
        known = deployment_status.with_pause(deployment, deployment.status.conditions, at=at)
        step = _Rollout(deployment, new, old, known)
        if deployment.metadata.deletionTimestamp is not None:
            return await self._write_status(step, rolling_out=False)
        if deployment.spec.paused or rollout.is_resized(deployment, sets):
            step = await self._sync_revision(step)
            step = await self._resize(step, rollout.resize_step(deployment, step.new, step.old))
            if deployment.spec.paused:
                await self._trim_history(step)
            return await self._write_status(step, rolling_out=False)
        return await self._write_status(await self._roll_out(step), rolling_out=True)

    async def _roll_out(self, step: _Rollout) -> _Rollout:
        deployment = step.deployment
        resizes: list[Resize] | None
        if deployment.spec.strategy.type == "Recreate":
            step = await self._sync_revision(step)
            old_pods = self._pods_of(step.old)
            if step.new is None and not rollout.wanted(step.old) and rollout.may_create(step.old, old_pods):
                step = await self._create_new(step)
            resizes = rollout.recreate_step(deployment, step.new, step.old, old_pods)
        else:
            step = await self._create_new(step) if step.new is None else await self._sync_revision(step)
            resizes = rollout.rolling_step(deployment, step.new, step.old) if step.new is not None else []
        if resizes:
            return await self._resize(step, resizes)
        if deployment_status.is_complete(deployment, deployment_status.counts(deployment, step.new, step.sets)):
            await self._trim_history(step)
        return step

    def _pods_of(self, sets: Sequence[ReplicaSet]) -> list[Pod]:
        return [pod for rs in sets for pod in self._pods.by_index(OWNER_INDEX, rs.metadata.uid)]

    async def _resize(self, step: _Rollout, resizes: Sequence[Resize]) -> _Rollout:
        annotations = rollout.size_annotations(step.deployment)
        for rs, size in resizes:
            same_annotations = annotations.items() <= rs.metadata.annotations.items()
            if size == rs.spec.replicas and same_annotations:
                continue
            patch = {"metadata": {"annotations": annotations}, "spec": {"replicas": size}}
            step = _with_set(step, rs, await self._patch_set(rs, patch))
            if size != rs.spec.replicas:
                await self._report_scaling(step.deployment, rs.metadata.name, rs.spec.replicas, size)
        return step

    async def _report_scaling(self, deployment: Deployment, name: str, before: int, after: int) -> None:
        direction = "up" if after > before else "down"
        message = f"Scaled {direction} replica set {name} from {before} to {after}"
        involved = reference(DEPLOYMENTS, deployment.metadata)
        await self._recorder.event(involved, "Normal", "ScalingReplicaSet", message)

    async def _patch_set(self, rs: ReplicaSet, patch: dict[str, Any]) -> ReplicaSet:
        # With the version read, a set that changed meanwhile is refused rather than sized from a stale view.
        guarded = {**patch, "metadata": {**patch["metadata"], "resourceVersion": rs.metadata.resourceVersion}}
        written = await self._client.patch(REPLICA_SETS, rs.metadata.name, guarded, rs.metadata.namespace)
        return msgspec.convert(written, ReplicaSet)

    async def _sync_revision(self, step: _Rollout) -> _Rollout:
        """Give the set of the present template the highest revision, and the deployment the same."""
        if step.new is None:
            return step
        deployment, rs = step.deployment, step.new
        wanted = {
            **rollout.inherited_annotations(deployment),
            **rollout.revision_annotations(rs, rollout.next_revision(step.old)),
        }
        patch: dict[str, Any] = {"metadata": {"annotations": wanted}}
        stale_annotations = not wanted.items() <= rs.metadata.annotations.items()
        if rs.spec.minReadySeconds != deployment.spec.minReadySeconds:
            patch["spec"] = {"minReadySeconds": deployment.spec.minReadySeconds}
        if stale_annotations or "spec" in patch:
            step = _with_set(step, rs, await self._patch_set(rs, patch))
        if deployment_status.has_deadline(deployment) and conditions.find(step.known, "Progressing") is None:
            message = f'Found new replica set "{rs.metadata.name}"'
            step = _with_progress(step, "True", deployment_status.FOUND, message)
        return await self._sync_own_revision(step)

    async def _sync_own_revision(self, step: _Rollout) -> _Rollout:
        deployment = step.deployment.metadata
        revision = step.new.metadata.annotations.get(rollout.REVISION, "") if step.new is not None else ""
        if not revision or deployment.annotations.get(rollout.REVISION) == revision:
            return step
        patch = {
            "metadata": {"annotations": {rollout.REVISION: revision}, "resourceVersion": deployment.resourceVersion}
        }
        written = await self._client.patch(DEPLOYMENTS, deployment.name, patch, deployment.namespace)
        return replace(step, deployment=msgspec.convert(written, Deployment))

    # ---- a new set

    async def _create_new(self, step: _Rollout) -> _Rollout:
        """Make the set of the present template, at its first size."""
        deployment = step.deployment
        body = new_set(deployment, step.old)
        name, size = body["metadata"]["name"], body["spec"]["replicas"]
        try:
            created = await self._client.create(REPLICA_SETS, body, deployment.metadata.namespace)
        except AlreadyExists:
            rs = await self._existing(deployment, name)
            return await self._sync_revision(replace(step, new=rs))
        except APIError as error:
            await self._report_failed_creation(step, name, error)
            raise
        step = replace(step, new=msgspec.convert(created, ReplicaSet))
        if deployment_status.has_deadline(deployment):
            step = _with_progress(step, "True", deployment_status.CREATED, f'Created new replica set "{name}"')
        if size:
            await self._report_scaling(deployment, name, 0, size)
        return await self._sync_own_revision(step)

    async def _existing(self, deployment: Deployment, name: str) -> ReplicaSet:
        """Return the set that has our name already: our own, which the cache has not seen yet.

        Raises: AlreadyExists when it is another's: two templates have one hash. The next try uses another.
        """
        found = await self._client.get(REPLICA_SETS, name, deployment.metadata.namespace)
        rs = msgspec.convert(found, ReplicaSet)
        owner = rs.metadata.controller
        template = deployment.spec.template
        is_ours = owner is not None and owner.uid == deployment.metadata.uid
        if is_ours and rollout.same_template(rs.spec.template, template):
            return rs
        count = (deployment.status.collisionCount or 0) + 1
        patch = {"metadata": {"uid": deployment.metadata.uid}, "status": {"collisionCount": count}}
        metadata = deployment.metadata
        await self._client.patch(DEPLOYMENTS, metadata.name, patch, metadata.namespace, subresource="status")
        raise AlreadyExists(f'replicasets.apps "{name}" already exists', group="apps", kind="replicasets", name=name)

    async def _report_failed_creation(self, step: _Rollout, name: str, error: APIError) -> None:
        message = f'Failed to create new replica set "{name}": {error}'
        involved = reference(DEPLOYMENTS, step.deployment.metadata)
        await self._recorder.event(involved, "Warning", deployment_status.CREATE_FAILED, message)
        if deployment_status.has_deadline(step.deployment):
            failed = _with_progress(step, "False", deployment_status.CREATE_FAILED, message)
            await self._write_status(failed, rolling_out=False)

    # ---- what is left over

    async def _trim_history(self, step: _Rollout) -> None:
        for rs in rollout.surplus_history(step.deployment, step.old):
            options = {"preconditions": {"uid": rs.metadata.uid, "resourceVersion": rs.metadata.resourceVersion}}
            try:
                await self._client.delete(REPLICA_SETS, rs.metadata.name, rs.metadata.namespace, options=options)
            except NotFound:
                continue

    async def _write_status(self, step: _Rollout, *, rolling_out: bool) -> Result:
        deployment, at = step.deployment, datetime.now(UTC)
        status = deployment_status.status_of(
            deployment, step.new, step.sets, step.known, rolling_out=rolling_out, at=at
        )
        if status != deployment_status.present(deployment):
            metadata = deployment.metadata
            # Zero counts are absent on the wire, as upstream's are.
            # The version guards conditions computed from a stale view: lost is only this try.
            patch = {
                "metadata": {"resourceVersion": metadata.resourceVersion},
                "status": {
                    field: value if field == "terminatingReplicas" else value or None for field, value in status.items()
                },
            }
            try:
                await self._client.patch(DEPLOYMENTS, metadata.name, patch, metadata.namespace, subresource="status")
            except NotFound:
                return DONE
        current = conditions.find(status["conditions"], "Progressing")
        left = deployment_status.seconds_left(deployment, current, at=at)
        if deployment.spec.paused or left is None or (left < 0 and not rolling_out):
            return DONE
        return Result(requeue_after=max(0.0, left) + 1)


def _with_set(step: _Rollout, before: ReplicaSet, after: ReplicaSet) -> _Rollout:
    if before is step.new:
        return replace(step, new=after)
    return replace(step, old=[after if rs is before else rs for rs in step.old])


def _with_progress(step: _Rollout, status: str, reason: str, message: str) -> _Rollout:
    new = deployment_status.condition("Progressing", status, reason, message, at=datetime.now(UTC))
    return replace(step, known=conditions.with_condition(step.known, new))


def new_set(deployment: Deployment, old: Sequence[ReplicaSet]) -> dict[str, Any]:
    """Return the ReplicaSet to create for the deployment's template, beside the sets it has."""
    metadata, spec = deployment.metadata, deployment.spec
    digest = rollout.template_hash(spec.template, deployment.status.collisionCount or 0)
    template_metadata = spec.template.get("metadata") or {}
    labels = {**(template_metadata.get("labels") or {}), rollout.HASH_LABEL: digest}
    selector = spec.selector or {}
    return {
        "apiVersion": REPLICA_SETS.api_version,
        "kind": REPLICA_SETS.kind,
        "metadata": {
            "name": f"{metadata.name}-{digest}",
            "namespace": metadata.namespace,
            "labels": labels,
            "annotations": {
                **rollout.inherited_annotations(deployment),
                **rollout.size_annotations(deployment),
                rollout.REVISION: str(rollout.next_revision(old)),
            },
            "ownerReferences": [owner_reference(DEPLOYMENTS, metadata)],
        },
        "spec": {
            "replicas": rollout.new_size(deployment, 0, rollout.wanted(old)),
            "minReadySeconds": spec.minReadySeconds,
            "selector": {
                **selector,
                "matchLabels": {**(selector.get("matchLabels") or {}), rollout.HASH_LABEL: digest},
            },
            "template": {**spec.template, "metadata": {**template_metadata, "labels": labels}},
        },
    }
