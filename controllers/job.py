"""Jobs: pods that run to their end, counted once each.

A pod carries a finalizer until its end is in the Job's counters, so that none is lost and none is counted twice. First
its uid is written into `uncountedTerminatedPods`, then its finalizer goes, then the uid moves into the counter: a crash
between any two of these leaves a state the next step goes on from.
What the pods mean stands in job_plan.py; here is the I/O.
Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from controllers import conditions, job_plan
from controllers.batch_views import Job, JobStatus
from controllers.informers import InformerFactory
from controllers.job_indexes import format_indexes
from controllers.job_pods import Backoff, index_wait_seconds, indexed_pod, plain_pod
from controllers.ownership import Claimer, candidates, controller_key, index_by_controller, reference
from controllers.pod_control import PodControl, namespace_is_terminating, slow_start
from controllers.pod_ranking import pods_to_delete
from controllers.reconciler import DONE, Controller, Expectations, Result
from controllers.views import Pod
from machinery.api.meta import ObjectKey, now
from machinery.api.resources import JOBS, PODS
from machinery.api.selectors import SelectorError, from_label_selector
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import APIError, NotFound

_TRACKED_INDEX = "tracked-by-job"
MANAGER = "kubernetes.io/job-controller"
MAX_CHANGES = 500
"""The most pods made or deleted for one Job in one step."""
MAX_UNCOUNTED = 500
"""The most pods counted in one step, whose uids stand in the status meanwhile."""
_AT_ONCE = 32
_ORPHAN = "/"
"""Before the name of a pod, which no Job's name begins with: the key of a pod that has no Job."""


class _Draft:
    """A Job whose status is being brought up to date: what the server has, and what it shall have."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._written = _plain(job.status)
        self._version = job.metadata.resourceVersion
        self.status = dict(self._written)

    @property
    def job(self) -> Job:
        """The Job with the status it shall have."""
        return msgspec.structs.replace(self._job, status=msgspec.convert(self.status, JobStatus))

    @property
    def uncounted(self) -> dict[str, list[str]]:
        """The uids of ended pods that are in no counter yet."""
        found = self.status.get("uncountedTerminatedPods") or {}
        return {field: list(found.get(field) or ()) for field in ("succeeded", "failed")}

    def set_condition(self, kind: str, status: str, reason: str, message: str) -> None:
        """Set a condition."""
        known = tuple(self.status.get("conditions") or ())
        new = conditions.made(kind, status, reason, message)
        new["lastProbeTime"] = new["lastTransitionTime"]
        self.status["conditions"] = list(conditions.with_condition(known, new))

    async def write(self, client: Client) -> None:
        """Write what changed. Raises: Conflict when our cache was behind; NotFound."""
        changed = {
            name: self.status.get(name)
            for name in {*self.status, *self._written}
            if self.status.get(name) != self._written.get(name)
        }
        if not changed:
            return
        if "uncountedTerminatedPods" in changed:  # a merge would keep a list that is now absent
            changed["uncountedTerminatedPods"] = {name: uids or None for name, uids in self.uncounted.items()}
        metadata = {"uid": self._job.metadata.uid, "resourceVersion": self._version}
        key = self._job.metadata.key
        shown = conditions.without_zeros(changed, "active", "succeeded", "failed")
        patch = {"metadata": metadata, "status": shown}
        found = await client.patch(JOBS, key.name, patch, key.namespace, subresource="status")
        self._version = found["metadata"]["resourceVersion"]
        self._written = dict(self.status)


class JobController(Controller[ObjectKey]):
    """Runs pods until enough of them have succeeded, or too many have failed."""

    name = "job"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._control = PodControl(client, recorder, JOBS)
        self._jobs = informers.informer(JOBS, Job)
        self._pods = informers.informer(PODS, Pod)
        self._claimer = Claimer(client, JOBS, PODS, finalizer=job_plan.FINALIZER)
        self._expectations = Expectations()
        self._backoff = Backoff()
        # Pods whose finalizer we took and whose change the cache does not show yet: they must not count again.
        self._released: dict[ObjectKey, set[str]] = {}
        index_by_controller(self._pods)
        self._pods.add_index(_TRACKED_INDEX, _tracked_by)
        self._jobs.add_handler(self._job_changed)
        self._pods.add_handler(self._pod_changed)

    # ---- what wakes it

    def _job_changed(self, old: Job | None, new: Job | None) -> None:
        found = new or old
        if found is not None:
            self.queue.add(found.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and (new is None or not _is_tracked(new)):
            key = controller_key(old, "Job")
            if key in self._released:
                self._released[key].discard(old.metadata.uid)
        if new is not None and old is None and (key := controller_key(new, "Job")) is not None:
            self._expectations.creation_observed(key)
        for pod in (old, new):
            if pod is not None and (key := controller_key(pod, "Job")) is not None:
                gone = new is None or new.metadata.deletionTimestamp is not None
                if gone:
                    self._expectations.deletion_observed(key, pod.metadata.uid)
                self.queue.add(key)
        if new is not None and new.metadata.controller is None:
            self._orphan_seen(new)

    def _orphan_seen(self, pod: Pod) -> None:
        if _is_tracked(pod):
            self.queue.add(ObjectKey(pod.metadata.namespace, _ORPHAN + pod.metadata.name))
        for job in self._jobs.list(pod.metadata.namespace):
            if from_label_selector(job.spec.selector).matches(pod.metadata.labels):
                self.queue.add(job.metadata.key)

    # ---- what it does

    async def reconcile(self, key: ObjectKey) -> Result:
        """Count pods that ended, say whether the Job is over, make or delete pods, write the status."""
        if key.name.startswith(_ORPHAN):
            await self._free_orphan(ObjectKey(key.namespace, key.name.removeprefix(_ORPHAN)))
            return DONE
        job = self._jobs.get(key)
        if job is None or job.metadata.deletionTimestamp is not None:
            self._expectations.forget(key)
            self._backoff.forget(key)
            self._released.pop(key, None)
            await self._release(self._pods.by_index(_TRACKED_INDEX, str(key)))
            return DONE
        if job.spec.managedBy not in (None, MANAGER):
            return DONE
        if job.finished is not None:
            await self._release(self._pods.by_index(_TRACKED_INDEX, str(key)))
            return DONE
        if not self._expectations.satisfied(key):
            return DONE
        try:
            selector = from_label_selector(job.spec.selector)
        except SelectorError:
            return DONE  # validation lets none through
        owned = await self._claimer.claim(job.metadata, selector, candidates(self._pods, job.metadata))
        draft = _Draft(job)
        with contextlib.suppress(NotFound):
            counted = await self._count(draft, owned)
            return await self._act(draft, owned, counted)
        return DONE

    async def _free_orphan(self, key: ObjectKey) -> None:
        """Take the finalizer off a pod whose Job is gone and left it behind, or let go of it."""
        pod = self._pods.get(key)
        if pod is None or pod.metadata.controller is not None or not _is_tracked(pod):
            return
        for job in self._jobs.list(key.namespace):
            wanted = job.metadata.deletionTimestamp is None and job.finished is None
            if wanted and from_label_selector(job.spec.selector).matches(pod.metadata.labels):
                return  # it will be adopted
        await self._release([pod])

    async def _count(self, draft: _Draft, owned: Sequence[Pod]) -> set[str]:
        """Bring pods that ended into the counters. Return the uids of those that are there now."""
        job = draft.job
        key = job.metadata.key
        pods = job_plan.sort_pods(job, owned, self._released.get(key, set()))
        uncounted = draft.uncounted
        job_plan.limit_uncounted(pods, MAX_UNCOUNTED - sum(map(len, uncounted.values())))
        self._backoff.note(key, pods.succeeded, pods.failed)
        uncounted["succeeded"] += [pod.metadata.uid for pod in pods.succeeded]
        uncounted["failed"] += [pod.metadata.uid for pod in pods.failed]
        ended = {*uncounted["succeeded"], *uncounted["failed"], *(pod.metadata.uid for pod in pods.ignored)}
        if not ended:
            return set()
        draft.status["uncountedTerminatedPods"] = uncounted
        # A verdict reached by pods whose finalizer goes now is written before they are forgotten.
        failed = draft.status.get("failed", 0) + len(uncounted["failed"])
        verdict = job_plan.failure_of(job, pods, job_plan.indexes_of(job, pods), failed, at=datetime.now(UTC))
        if verdict is not None:
            draft.set_condition("FailureTarget", "True", *verdict)
        self._count_indexes(draft, pods)
        await draft.write(self._client)
        kept = await self._release(pod for pod in owned if pod.metadata.uid in ended)
        left = {pod.metadata.uid for pod in kept}
        for field, uids in uncounted.items():
            draft.status[field] = draft.status.get(field, 0) + sum(uid not in left for uid in uids)
        draft.status["uncountedTerminatedPods"] = {
            field: [uid for uid in uids if uid in left] for field, uids in uncounted.items()
        }
        return ended - left

    @staticmethod
    def _count_indexes(draft: _Draft, pods: job_plan.Pods) -> job_plan.Indexes:
        job = draft.job
        indexes = job_plan.indexes_of(job, pods)
        if job.is_indexed:
            draft.status["completedIndexes"] = format_indexes(indexes.completed)
            if job.spec.backoffLimitPerIndex is not None:
                draft.status["failedIndexes"] = format_indexes(indexes.failed)
        return indexes

    async def _act(self, draft: _Draft, owned: Sequence[Pod], counted: set[str]) -> Result:
        at = datetime.now(UTC)
        job = draft.job
        pods = job_plan.sort_pods(job, owned, counted | self._released.get(job.metadata.key, set()))
        indexes = self._count_indexes(draft, pods)
        if job.is_indexed:
            draft.status["succeeded"] = len(indexes.completed)
        # Those beyond what one step counts have ended all the same.
        succeeded = draft.status.get("succeeded", 0)
        succeeded += 0 if job.is_indexed else len(draft.uncounted["succeeded"]) + len(pods.succeeded)
        failed = draft.status.get("failed", 0) + len(draft.uncounted["failed"]) + len(pods.failed)
        draft.status |= {
            "active": len(pods.active), "ready": sum(pod.is_ready for pod in pods.active),
            "terminating": len(pods.terminating), "uncountedTerminatedPods": draft.uncounted,
        }  # fmt: skip
        if job.status.startTime is None and not job.spec.suspend:
            draft.status["startTime"] = now()
        failure = job_plan.failure_of(job, pods, indexes, failed, at=at)
        success = job_plan.success_of(job, pods, indexes, succeeded) if failure is None else None
        wait: float | None = None
        error: BaseException | None = None
        if failure is not None or success is not None:
            await self._end(draft, pods, failure, success)
        elif job.spec.suspend:
            await self._suspend(draft, pods)
        else:
            await self._resume(draft)
            wait, error = await self._manage(job, pods, indexes, succeeded, at)
        await draft.write(self._client)
        if error is not None:
            raise error
        deadline = job_plan.seconds_to_deadline(draft.job, at=at)
        waits = [one for one in (wait, deadline) if one is not None]
        return Result(requeue_after=min(waits)) if waits else DONE

    # ---- the end

    async def _end(
        self, draft: _Draft, pods: job_plan.Pods, failure: job_plan.Verdict | None, success: job_plan.Verdict | None
    ) -> None:
        """End what still runs; once nothing does, the Job is over."""
        verdict = failure or success
        assert verdict is not None  # noqa: S101 - one of the two brought us here
        draft.set_condition("FailureTarget" if failure is not None else "SuccessCriteriaMet", "True", *verdict)
        job = draft.job
        if pods.active:
            await self._delete(job, pods.active, release=failure is None)
            return
        if pods.terminating or pods.succeeded or pods.failed or any(draft.uncounted.values()):
            return
        involved = reference(JOBS, job.metadata)
        if failure is not None:
            draft.set_condition("Failed", "True", *verdict)
            await self._recorder.event(involved, "Warning", failure.reason, failure.message)
        else:
            draft.set_condition("Complete", "True", *verdict)
            draft.status["completionTime"] = now()
            if job.spec.completions is not None and draft.status.get("succeeded", 0) > job.spec.completions:
                message = "Too many succeeded pods running after completion count reached"
                await self._recorder.event(involved, "Warning", "TooManySucceededPods", message)
            await self._recorder.event(involved, "Normal", "Completed", "Job completed")

    async def _suspend(self, draft: _Draft, pods: job_plan.Pods) -> None:
        job = draft.job
        if pods.active:
            await self._delete(job, pods.active, release=True)
        if job.condition("Suspended") is None:
            await self._recorder.event(reference(JOBS, job.metadata), "Normal", "Suspended", "Job suspended")
            draft.set_condition("Suspended", "True", "JobSuspended", "Job suspended")
        draft.status.pop("startTime", None)

    async def _resume(self, draft: _Draft) -> None:
        if draft.job.condition("Suspended") is None:
            return
        draft.status["startTime"] = now()
        await self._recorder.event(reference(JOBS, draft.job.metadata), "Normal", "Resumed", "Job resumed")
        draft.set_condition("Suspended", "False", "JobResumed", "Job resumed")

    # ---- pods

    async def _manage(
        self, job: Job, pods: job_plan.Pods, indexes: job_plan.Indexes, succeeded: int, at: datetime
    ) -> tuple[float | None, BaseException | None]:
        """Make or delete pods. Return when to look again, and what went wrong."""
        surplus = job_plan.surplus_pods(job, pods.active) if job.is_indexed else []
        wanted = job_plan.wanted_active(job, pods, indexes, succeeded)
        keep = [pod for pod in pods.active if pod not in surplus]
        if len(keep) > wanted:
            surplus += pods_to_delete(keep, (), len(keep) - wanted, at=at)
        if surplus:
            await self._delete(job, surplus[:MAX_CHANGES], release=True)
            return None, None
        missing = wanted - len(pods.active)
        if job.spec.podReplacementPolicy == "Failed":
            missing -= len(pods.terminating)
        if missing <= 0:
            return None, None
        wait = self._backoff.seconds(job.metadata.key, at=at)
        if wait > 0 and job.spec.backoffLimitPerIndex is None:
            return wait, None
        missing = min(missing, MAX_CHANGES)
        if not job.is_indexed:
            return None, await self._create(job, [plain_pod(job)] * missing)
        busy = pods.active + (pods.terminating if job.spec.podReplacementPolicy == "Failed" else [])
        numbers = job_plan.missing_indexes(job, indexes, busy, missing)
        if job.spec.backoffLimitPerIndex is None:
            return None, await self._create(job, [indexed_pod(job, index, None) for index in numbers])
        found = {index: job_plan.index_failures_of(job, index, pods.ended) for index in numbers}
        waits = {index: index_wait_seconds(failures, at=at) for index, failures in found.items()}
        ready = [index for index in numbers if waits[index] == 0]
        error = await self._create(job, [indexed_pod(job, index, found[index]) for index in ready])
        return min((wait for wait in waits.values() if wait > 0), default=None), error

    async def _create(self, job: Job, bodies: Sequence[dict[str, Any]]) -> BaseException | None:
        if not bodies:
            return None
        key = job.metadata.key
        self._expectations.expect_creations(key, len(bodies))
        todo = iter(bodies)
        done, errors = await slow_start(len(bodies), lambda: self._control.create(job.metadata, next(todo)))
        self._expectations.creation_observed(key, len(bodies) - done)
        return next((error for error in errors if not namespace_is_terminating(error)), None)

    async def _delete(self, job: Job, pods: Sequence[Pod], *, release: bool) -> None:
        """Delete pods; with `release` they count as nothing."""
        if release:
            await self._release(pods)
        self._expectations.expect_deletions(job.metadata.key, (pod.metadata.uid for pod in pods))
        results = await asyncio.gather(
            *(self._control.delete(job.metadata, pod) for pod in pods), return_exceptions=True
        )
        for pod, error in zip(pods, results, strict=True):
            if error is not None:
                self._expectations.deletion_observed(job.metadata.key, pod.metadata.uid)
                if not isinstance(error, NotFound):
                    raise error

    async def _release(self, pods: Iterable[Pod]) -> list[Pod]:
        """Take the finalizer off pods. Return those that still have it."""
        limit, kept = asyncio.Semaphore(_AT_ONCE), []

        async def release(pod: Pod) -> None:
            left = [one for one in pod.metadata.finalizers if one != job_plan.FINALIZER]
            if len(left) == len(pod.metadata.finalizers):
                return
            patch = {"metadata": {"uid": pod.metadata.uid, "finalizers": left or None}}
            key = controller_key(pod, "Job")
            async with limit:
                try:
                    await self._client.patch(PODS, pod.metadata.name, patch, pod.metadata.namespace)
                except NotFound:
                    return
                except APIError:
                    kept.append(pod)
                    return
            current = self._pods.get(pod.metadata.key)
            if key is not None and current is not None and _is_tracked(current):
                self._released.setdefault(key, set()).add(pod.metadata.uid)

        await asyncio.gather(*(release(pod) for pod in pods))
        return kept


def _tracked_by(pod: Pod) -> list[str]:
    key = controller_key(pod, "Job")
    return [str(key)] if key is not None and _is_tracked(pod) else []


def _is_tracked(pod: Pod) -> bool:
    return job_plan.FINALIZER in pod.metadata.finalizers


def _plain(status: JobStatus) -> dict[str, Any]:
    """Return a status as its JSON; what is absent stays absent."""
    found: dict[str, Any] = msgspec.to_builtins(status)
    return {name: value for name, value in found.items() if value not in (None, "")}
