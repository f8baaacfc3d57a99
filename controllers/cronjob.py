"""CronJobs: a Job at each time of a schedule.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/
"""

import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from controllers.batch_views import CronJob, Job
from controllers.informers import InformerFactory
from controllers.ownership import OWNER_INDEX, controller_key, index_by_controller, owner_reference, reference
from controllers.reconciler import DONE, Controller, Result
from machinery.api.cron import BadSchedule, Schedule
from machinery.api.meta import ObjectKey, parse_time
from machinery.api.resources import CRON_JOBS, JOBS
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, APIError, NotFound

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_MANY_MISSED = 100
_DEADLINE_NAP_SECONDS = 0.1


class UnknownZone(BadSchedule):
    """The time zone is none."""


@dataclass(frozen=True, slots=True)
class Due:
    """Which run of a schedule is due now, and when the next one is."""

    run: datetime | None
    missed: int
    next: datetime | None


def due(cron_job: CronJob, *, at: datetime) -> Due:
    """Return the latest run that should have been and was not. Raises: BadSchedule."""
    spec = cron_job.spec
    try:
        zone = ZoneInfo(spec.timeZone) if spec.timeZone else UTC
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise UnknownZone(f'invalid timeZone: "{spec.timeZone}": unknown time zone {spec.timeZone}') from error
    schedule = Schedule(spec.schedule)
    earliest = parse_time(cron_job.status.lastScheduleTime or cron_job.metadata.creationTimestamp)
    if spec.startingDeadlineSeconds is not None:
        earliest = max(earliest, at - timedelta(seconds=spec.startingDeadlineSeconds))
    run, missed = None, 0
    for moment in schedule.after(earliest.astimezone(zone)):
        if moment > at:
            return Due(run, missed, moment)
        run, missed = moment.astimezone(UTC), missed + 1
        if missed > _MANY_MISSED:  # from here on only the latest matters; come nearer in a leap
            return Due(
                _latest(schedule, run, at.astimezone(zone)), missed, next(schedule.after(at.astimezone(zone)), None)
            )
    return Due(run, missed, None)


def _latest(schedule: Schedule, known: datetime, at: datetime) -> datetime:
    """Return the last time of a schedule that is not after `at`, looking back in ever longer spans."""
    span = timedelta(hours=1)
    while at - span > known:
        found = _until(schedule, at - span, at)
        if found:
            return found[-1].astimezone(UTC)
        span *= 4
    return [known, *_until(schedule, known.astimezone(at.tzinfo), at)][-1].astimezone(UTC)


def _until(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    found = []
    for moment in schedule.after(start):
        if moment > end:
            break
        found.append(moment)
    return found


def job_of(cron_job: CronJob, run: datetime) -> dict[str, Any]:
    """Return the Job of a run; its name tells the run's minute, so that no run has two."""
    template = cron_job.spec.jobTemplate
    given = template.get("metadata") or {}
    zone = cron_job.spec.timeZone
    stamp = run.astimezone(ZoneInfo(zone)).isoformat(timespec="seconds") if zone else _text(run)
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": f"{cron_job.metadata.name}-{int(run.timestamp()) // 60}", "namespace": cron_job.metadata.namespace,
            "labels": dict(given.get("labels") or {}),
            "annotations": {**(given.get("annotations") or {}), SCHEDULED_AT: stamp},
            "ownerReferences": [owner_reference(CRON_JOBS, cron_job.metadata)],
        },
        "spec": copy.deepcopy(template.get("spec") or {}),
    }  # fmt: skip


class CronJobController(Controller[ObjectKey]):
    """Makes Jobs in time, forgets those that ended, and clears away the oldest."""

    name = "cronjob"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._cron_jobs = informers.informer(CRON_JOBS, CronJob)
        self._jobs = informers.informer(JOBS, Job)
        index_by_controller(self._jobs)
        self._cron_jobs.add_handler(self._cron_job_changed)
        self._jobs.add_handler(self._job_changed)

    def _cron_job_changed(self, old: CronJob | None, new: CronJob | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    def _job_changed(self, old: Job | None, new: Job | None) -> None:
        for job in (old, new):
            if job is not None and (key := controller_key(job, "CronJob")) is not None:
                self.queue.add(key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Make the Job that is due, and bring status and history up to date."""
        cron_job = self._cron_jobs.get(key)
        if cron_job is None or cron_job.metadata.deletionTimestamp is not None:
            return DONE
        jobs = self._jobs.by_index(OWNER_INDEX, cron_job.metadata.uid)
        status = await self._refreshed(cron_job, jobs)
        await self._clear_history(cron_job, jobs)
        result = DONE
        if not cron_job.spec.suspend:
            result = await self._run_due(cron_job, jobs, status)
        await self._write(cron_job, status)
        return result

    async def _refreshed(self, cron_job: CronJob, jobs: list[Job]) -> dict[str, Any]:
        """Return the status with the Jobs that still run, and the last success."""
        status: dict[str, Any] = msgspec.to_builtins(cron_job.status)
        by_uid = {job.metadata.uid: job for job in jobs}
        active = []
        involved = reference(CRON_JOBS, cron_job.metadata)
        for known in cron_job.status.active:
            job = by_uid.get(known.get("uid", ""))
            if job is None and await self._is_there(known):
                active.append(dict(known))
            elif job is None:
                message = f"Active job went missing: {known.get('name')}"
                await self._recorder.event(involved, "Normal", "MissingJob", message)
            elif (end := job.finished) is not None:
                message = f"Saw completed job: {job.metadata.name}, condition: {end['type']}"
                await self._recorder.event(involved, "Normal", "SawCompletedJob", message)
            else:
                active.append(dict(known))
        listed = {known["uid"] for known in active}
        unlisted = [job for job in jobs if job.finished is None and job.metadata.uid not in listed]
        # What was made a moment ago may stand in the status that is stored and not yet in the one known here.
        stored = await self._active_as_stored(cron_job) if unlisted else frozenset()
        for job in unlisted:
            if job.metadata.uid not in stored:
                message = f"Saw a job that the controller did not create or forgot: {job.metadata.name}"
                await self._recorder.event(involved, "Warning", "UnexpectedJob", message)
            active.append(_reference(job))
        ends = [job.status.completionTime for job in jobs if job.condition("Complete") and job.status.completionTime]
        status["active"] = active
        status["lastSuccessfulTime"] = max([*ends, cron_job.status.lastSuccessfulTime or ""]) or None
        return status

    async def _is_there(self, known: dict[str, str]) -> bool:
        """Ask the server: a Job made a moment ago may be in the status before it is in the cache."""
        try:
            found = await self._client.get(JOBS, known.get("name", ""), known.get("namespace", ""))
        except NotFound:
            return False
        return found["metadata"]["uid"] == known.get("uid")

    async def _active_as_stored(self, cron_job: CronJob) -> frozenset[str]:
        """Return the uids of the Jobs that the stored status tells of."""
        metadata = cron_job.metadata
        try:
            found = await self._client.get(CRON_JOBS, metadata.name, metadata.namespace)
        except NotFound:
            return frozenset()
        return frozenset(one.get("uid", "") for one in (found.get("status") or {}).get("active") or ())

    async def _run_due(self, cron_job: CronJob, jobs: list[Job], status: dict[str, Any]) -> Result:
        at = datetime.now(UTC)
        involved = reference(CRON_JOBS, cron_job.metadata)
        try:
            found = due(cron_job, at=at)
        except UnknownZone as error:
            await self._recorder.event(involved, "Warning", "UnknownTimeZone", str(error))
            return DONE
        except BadSchedule as error:
            message = f'unparseable schedule: "{cron_job.spec.schedule}" : {error}'
            await self._recorder.event(involved, "Warning", "UnparseableSchedule", message)
            return DONE
        if found.missed > _MANY_MISSED:
            message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            await self._recorder.event(involved, "Warning", "TooManyMissedTimes", message)
        if found.run is not None:
            await self._run(cron_job, jobs, status, found.run)
        if found.next is None:
            return DONE
        return Result(requeue_after=(found.next - at).total_seconds() + _DEADLINE_NAP_SECONDS)

    async def _run(self, cron_job: CronJob, jobs: list[Job], status: dict[str, Any], run: datetime) -> None:
        involved, policy = reference(CRON_JOBS, cron_job.metadata), cron_job.spec.concurrencyPolicy
        body = job_of(cron_job, run)
        name = body["metadata"]["name"]
        running = {known["name"] for known in status["active"]}
        if name in running or any(job.metadata.name == name for job in jobs):
            status["lastScheduleTime"] = _text(run)
            return
        if policy == "Forbid" and running:
            message = "Not starting job because prior execution is running and concurrency policy is Forbid"
            await self._recorder.event(involved, "Normal", "JobAlreadyActive", message)
            return
        if policy == "Replace":
            for job in jobs:
                if job.finished is None:
                    await self._delete(cron_job, job)
            status["active"] = []
        try:
            made = await self._client.create(JOBS, body, cron_job.metadata.namespace)
        except AlreadyExists:
            status["lastScheduleTime"] = _text(run)
            return
        except APIError as error:
            await self._recorder.event(involved, "Warning", "FailedCreate", f"Error creating job: {error}")
            raise
        await self._recorder.event(involved, "Normal", "SuccessfulCreate", f"Created job {name}")
        status["active"].append(_reference(msgspec.convert(made, Job)))
        status["lastScheduleTime"] = _text(run)

    async def _clear_history(self, cron_job: CronJob, jobs: list[Job]) -> None:
        for kind, limit in (
            ("Complete", cron_job.spec.successfulJobsHistoryLimit),
            ("Failed", cron_job.spec.failedJobsHistoryLimit),
        ):
            if limit is None:
                continue
            ended = sorted((job for job in jobs if job.condition(kind)), key=_started)
            for job in ended[: max(len(ended) - limit, 0)]:
                await self._delete(cron_job, job)

    async def _delete(self, cron_job: CronJob, job: Job) -> None:
        options = {"propagationPolicy": "Background", "preconditions": {"uid": job.metadata.uid}}
        involved = reference(CRON_JOBS, cron_job.metadata)
        try:
            await self._client.delete(JOBS, job.metadata.name, job.metadata.namespace, options=options)
        except NotFound:
            return
        except APIError as error:
            await self._recorder.event(involved, "Warning", "FailedDelete", f"Deleted job: {error}")
            raise
        await self._recorder.event(involved, "Normal", "SuccessfulDelete", f"Deleted job {job.metadata.name}")

    async def _write(self, cron_job: CronJob, status: dict[str, Any]) -> None:
        present: dict[str, Any] = msgspec.to_builtins(cron_job.status)
        present["active"] = [dict(known) for known in cron_job.status.active]
        if status == present:
            return
        metadata = {"uid": cron_job.metadata.uid, "resourceVersion": cron_job.metadata.resourceVersion}
        key = cron_job.metadata.key
        patch = {"metadata": metadata, "status": {**status, "active": status["active"] or None}}
        try:
            await self._client.patch(CRON_JOBS, key.name, patch, key.namespace, subresource="status")
        except NotFound:
            return


def _reference(job: Job) -> dict[str, str]:
    return reference(JOBS, job.metadata)


def _started(job: Job) -> str:
    return job.status.startTime or job.metadata.creationTimestamp


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
