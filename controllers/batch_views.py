"""The fields of Jobs and CronJobs that controllers read."""

from controllers.views import JSON, ObjectMeta, View


class JobSpec(View, frozen=True):
    """What a Job asks for."""

    parallelism: int = 1
    completions: int | None = None
    backoffLimit: int = 6
    backoffLimitPerIndex: int | None = None
    maxFailedIndexes: int | None = None
    activeDeadlineSeconds: int | None = None
    ttlSecondsAfterFinished: int | None = None
    completionMode: str = "NonIndexed"
    suspend: bool = False
    podReplacementPolicy: str = "TerminatingOrFailed"
    podFailurePolicy: JSON | None = None
    successPolicy: JSON | None = None
    managedBy: str | None = None
    selector: JSON | None = None
    template: JSON = {}


class Uncounted(View, frozen=True):
    """Pods that ended, by uid, whose finalizer may still be there and that the counters do not hold yet."""

    succeeded: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class JobStatus(View, frozen=True):
    """What a Job says is."""

    active: int = 0
    ready: int | None = None
    terminating: int | None = None
    succeeded: int = 0
    failed: int = 0
    startTime: str | None = None
    completionTime: str | None = None
    completedIndexes: str = ""
    failedIndexes: str | None = None
    uncountedTerminatedPods: Uncounted | None = None
    conditions: tuple[JSON, ...] = ()


class Job(View, frozen=True):
    """A Job."""

    metadata: ObjectMeta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    def condition(self, kind: str) -> JSON | None:
        """Return the condition of a type where it is true."""
        return next((c for c in self.status.conditions if c["type"] == kind and c["status"] == "True"), None)

    @property
    def finished(self) -> JSON | None:
        """The condition that says the Job is over, if it is."""
        return self.condition("Complete") or self.condition("Failed")

    @property
    def is_indexed(self) -> bool:
        """Whether each of its pods has a number."""
        return self.spec.completionMode == "Indexed"


class CronJobSpec(View, frozen=True):
    """What a CronJob asks for."""

    schedule: str = ""
    timeZone: str | None = None
    startingDeadlineSeconds: int | None = None
    concurrencyPolicy: str = "Allow"
    suspend: bool = False
    jobTemplate: JSON = {}
    successfulJobsHistoryLimit: int | None = 3
    failedJobsHistoryLimit: int | None = 1


class CronJobStatus(View, frozen=True):
    """What a CronJob says is."""

    active: tuple[JSON, ...] = ()
    lastScheduleTime: str | None = None
    lastSuccessfulTime: str | None = None


class CronJob(View, frozen=True):
    """A CronJob."""

    metadata: ObjectMeta
    spec: CronJobSpec = CronJobSpec()
    status: CronJobStatus = CronJobStatus()
