"""StatefulSets: pods with names and volumes of their own, made and ended in order.

What is done when stands in stateful_plan.py, what a pod looks like in stateful_pods.py; here is the I/O.
Source: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from controllers import conditions, stateful_plan
from controllers.apps_views import ControllerRevision, StatefulSet
from controllers.informers import InformerFactory
from controllers.ownership import Claimer, candidates, controller_key, index_by_controller, reference
from controllers.reconciler import DONE, Controller, Result
from controllers.revisions import History, template_of
from controllers.stateful_pods import claim_name, claim_owner, claims_of, identity_of, pod_name, pod_of
from controllers.storage_views import PersistentVolumeClaim
from controllers.views import Pod
from machinery.api.meta import ObjectKey
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS
from machinery.api.selectors import LabelSelector, SelectorError, from_label_selector
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, APIError, NotFound


class StatefulSetController(Controller[ObjectKey]):
    """Keeps each StatefulSet's pods in their places."""

    name = "statefulset"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._sets = informers.informer(STATEFUL_SETS, StatefulSet)
        self._pods = informers.informer(PODS, Pod)
        self._claims = informers.informer(PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim)
        self._claimer = Claimer(client, STATEFUL_SETS, PODS)
        self._history = History(client, informers, STATEFUL_SETS)
        index_by_controller(self._pods)
        self._sets.add_handler(self._set_changed)
        self._pods.add_handler(self._pod_changed)
        self._claims.add_handler(self._claim_changed)

    # ---- what wakes it

    def _set_changed(self, old: StatefulSet | None, new: StatefulSet | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        for pod in (old, new):
            if pod is not None and (key := controller_key(pod, "StatefulSet")) is not None:
                self.queue.add(key)
        if new is not None and new.metadata.controller is None:
            for found in self._sets.list(new.metadata.namespace):
                if from_label_selector(found.spec.selector).matches(new.metadata.labels):
                    self.queue.add(found.metadata.key)

    def _claim_changed(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        """Wake the set of a claim that is gone: a pod may wait for it to be made anew."""
        if old is None or new is not None:
            return
        for found in self._sets.list(old.metadata.namespace):
            for template in found.spec.volumeClaimTemplates:
                if old.metadata.name.startswith(f"{template['metadata']['name']}-{found.metadata.name}-"):
                    self.queue.add(found.metadata.key)

    # ---- what it does

    async def reconcile(self, key: ObjectKey) -> Result:
        """Take one step towards the pods asked for, then write the status."""
        found = self._sets.get(key)
        if found is None:
            return DONE
        try:
            selector = from_label_selector(found.spec.selector)
        except SelectorError:
            return DONE  # validation lets none through
        pods = await self._claim(found, selector)
        known = await self._history.list(found.metadata, selector)
        update, collisions = await self._history.current(
            found.metadata, found.spec.template, known, found.status.collisionCount or 0
        )
        names = {one.metadata.name: one for one in (*known, update)}
        current = names.get(found.status.currentRevision, update)
        at = datetime.now(UTC)
        wait: float | None = None
        error: APIError | None = None
        if found.metadata.deletionTimestamp is None:
            step = stateful_plan.plan(found, pods, update.metadata.name, at=at)
            wait = step.wait_seconds
            try:
                await self._carry_out(found, step, pods, current, update)
            except APIError as problem:
                error = problem
        status = stateful_plan.status_of(found, pods, current.metadata.name, update.metadata.name, at=at)
        await self._write(found, status, collisions)
        live = {stateful_plan.revision_of(pod) for pod in pods}
        live |= {current.metadata.name, update.metadata.name}
        await self._history.trim(list(names.values()), live, found.spec.revisionHistoryLimit)
        if error is not None:
            raise error
        return Result(requeue_after=wait)

    async def _claim(self, found: StatefulSet, selector: LabelSelector) -> list[Pod]:
        pods = await self._claimer.claim(
            found.metadata, selector, candidates(self._pods, found.metadata),
            wanted=lambda pod: stateful_plan.ordinal_of(found, pod) is not None,
        )  # fmt: skip
        return [pod for pod in pods if stateful_plan.ordinal_of(found, pod) is not None]

    async def _carry_out(
        self, found: StatefulSet, step: stateful_plan.Plan, pods: Sequence[Pod], current: ControllerRevision,
        update: ControllerRevision,
    ) -> None:  # fmt: skip
        await self._keep_claims(found, pods)
        for pod in pods:
            ordinal = stateful_plan.ordinal_of(found, pod)
            if pod.metadata.deletionTimestamp is not None or ordinal is None:
                continue
            if pod.status.phase == "Pending":
                await self._ensure_claims(found, ordinal, pod.metadata.uid)  # a user may have taken them from under it
            if not identity_of(pod.metadata.name, ordinal).items() <= pod.metadata.labels.items():
                await self._name(found, pod, ordinal)
        for pod in step.delete:
            await self._delete(found, pod)
        for ordinal in step.create:
            revision = current if stateful_plan.follows_current(found, ordinal) else update
            await self._create(found, ordinal, revision)

    # ---- pods

    async def _create(self, found: StatefulSet, ordinal: int, revision: ControllerRevision) -> None:
        name, owner = pod_name(found, ordinal), found.metadata
        if not await self._ensure_claims(found, ordinal, ""):
            return  # one is on its way out: its end brings the set back here
        template = template_of(revision) or found.spec.template
        body = pod_of(found, ordinal, template, revision.metadata.name)
        involved, subject = reference(STATEFUL_SETS, owner), f"Pod {name} in StatefulSet {owner.name}"
        try:
            await self._client.create(PODS, body, owner.namespace)
        except AlreadyExists:
            return
        except APIError as error:
            message = f"create {subject} failed error: {error}"
            await self._recorder.event(involved, "Warning", "FailedCreate", message)
            raise
        await self._recorder.event(involved, "Normal", "SuccessfulCreate", f"create {subject} successful")

    async def _name(self, found: StatefulSet, pod: Pod, ordinal: int) -> None:
        """Give a pod that was adopted, or whose labels somebody took, the labels that tell who it is."""
        owner, name = found.metadata, pod.metadata.name
        patch = {"metadata": {"uid": pod.metadata.uid, "labels": identity_of(name, ordinal)}}
        try:
            await self._client.patch(PODS, name, patch, owner.namespace)
        except NotFound:
            return
        message = f"update Pod {name} in StatefulSet {owner.name} successful"
        await self._recorder.event(reference(STATEFUL_SETS, owner), "Normal", "SuccessfulUpdate", message)

    async def _ensure_claims(self, found: StatefulSet, ordinal: int, pod_uid: str) -> bool:
        """Make the claims of a pod that are missing. Return whether all are there to stay.

        Those that belong to the pod's predecessor will be collected now that it is gone.
        """
        stay = True
        for claim in claims_of(found, ordinal):
            present = self._claims.get(ObjectKey(found.metadata.namespace, claim["metadata"]["name"]))
            if present is None:
                await self._create_claim(found, pod_name(found, ordinal), claim)
            elif present.metadata.deletionTimestamp is not None or _is_of_predecessor(
                present, pod_name(found, ordinal), pod_uid
            ):
                stay = False
        return stay

    async def _create_claim(self, found: StatefulSet, pod: str, claim: dict[str, Any]) -> None:
        owner, name = found.metadata, claim["metadata"]["name"]
        involved = reference(STATEFUL_SETS, owner)
        subject = f"Claim {name} Pod {pod} in StatefulSet {owner.name}"
        try:
            await self._client.create(PERSISTENT_VOLUME_CLAIMS, claim, owner.namespace)
        except AlreadyExists:
            return
        except APIError as error:
            message = f"create {subject} failed error: {error}"
            await self._recorder.event(involved, "Warning", "FailedCreate", message)
            raise
        await self._recorder.event(involved, "Normal", "SuccessfulCreate", f"create {subject} success")

    async def _delete(self, found: StatefulSet, pod: Pod) -> None:
        owner, name = found.metadata, pod.metadata.name
        involved, subject = reference(STATEFUL_SETS, owner), f"Pod {name} in StatefulSet {owner.name}"
        if pod.is_terminal:
            subject_set = f"StatefulSet {owner.namespace}/{owner.name}"
            if pod.status.phase == "Failed":
                message = f"{subject_set} is recreating failed Pod {name}"
                await self._recorder.event(involved, "Warning", "RecreatingFailedPod", message)
            else:
                message = f"{subject_set} is recreating terminated Pod {name}"
                await self._recorder.event(involved, "Normal", "RecreatingTerminatedPod", message)
        options = {"preconditions": {"uid": pod.metadata.uid}}
        try:
            await self._client.delete(PODS, name, owner.namespace, options=options)
        except NotFound:
            return
        except APIError as error:
            message = f"delete {subject} failed error: {error}"
            await self._recorder.event(involved, "Warning", "FailedDelete", message)
            raise
        await self._recorder.event(involved, "Normal", "SuccessfulDelete", f"delete {subject} successful")

    async def _keep_claims(self, found: StatefulSet, pods: Sequence[Pod]) -> None:
        """Let claims belong to the set, or to a pod that is too many, where they are to go with it."""
        if found.spec.persistentVolumeClaimRetentionPolicy is None:
            return
        for pod in pods:
            ordinal = stateful_plan.ordinal_of(found, pod)
            if ordinal is None:
                continue
            for template in found.spec.volumeClaimTemplates:
                key = ObjectKey(found.metadata.namespace, claim_name(found, template, ordinal))
                await self._own_claim(key, claim_owner(found, pod, ordinal))

    async def _own_claim(self, key: ObjectKey, owner: dict[str, Any] | None) -> None:
        claim = self._claims.get(key)
        if claim is None:
            return
        owners = [msgspec.to_builtins(one) for one in claim.metadata.ownerReferences]
        wanted = [one for one in owners if one["kind"] not in (PODS.kind, STATEFUL_SETS.kind)]
        if owner is not None:
            wanted.append(owner)
        if [one["uid"] for one in wanted] == [one["uid"] for one in owners]:
            return
        patch = {"metadata": {"uid": claim.metadata.uid, "ownerReferences": wanted or None}}
        try:
            await self._client.patch(PERSISTENT_VOLUME_CLAIMS, key.name, patch, key.namespace)
        except NotFound:
            return

    # ---- the status

    async def _write(self, found: StatefulSet, status: dict[str, Any], collisions: int) -> None:
        present: dict[str, Any] = msgspec.to_builtins(found.status)
        wanted = {**status, "collisionCount": collisions}
        if wanted == {**present, "collisionCount": present["collisionCount"] or 0}:
            return
        shown = conditions.without_zeros(wanted, "readyReplicas", "currentReplicas", "updatedReplicas")
        patch = {"metadata": {"uid": found.metadata.uid}, "status": shown}
        key = found.metadata.key
        try:
            await self._client.patch(STATEFUL_SETS, key.name, patch, key.namespace, subresource="status")
        except NotFound:
            return


def _is_of_predecessor(claim: PersistentVolumeClaim, name: str, uid: str) -> bool:
    """Whether a claim goes with a pod that bore this name before the one of this uid."""
    owners = claim.metadata.ownerReferences
    return any((owner.kind, owner.name) == (PODS.kind, name) and owner.uid != uid for owner in owners)
