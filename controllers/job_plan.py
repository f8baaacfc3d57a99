"""What a Job's pods mean for it: what counts, whether it is over and why, how many pods it wants. Pure.

Sources: https://kubernetes.io/docs/concepts/workloads/controllers/job/,
https://kubernetes.io/docs/tasks/job/pod-failure-policy/
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from controllers.batch_views import Job
from controllers.job_indexes import parse_indexes
from controllers.views import ContainerStatus, Pod
from machinery.api.meta import parse_time

FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
INDEX_FAILURES = "batch.kubernetes.io/job-index-failure-count"
INDEX_IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"


class Verdict(NamedTuple):
    """Why a Job is over: the reason and message of its condition."""

    reason: str
    message: str


@dataclass(slots=True)
class Pods:
    """A Job's pods, sorted by what they mean."""

    active: list[Pod] = field(default_factory=list)
    terminating: list[Pod] = field(default_factory=list)
    succeeded: list[Pod] = field(default_factory=list)
    """Ended well and not counted yet."""
    failed: list[Pod] = field(default_factory=list)
    """Ended badly and not counted yet."""
    ignored: list[Pod] = field(default_factory=list)
    """Ended badly in a way the failure policy passes over."""
    ended: list[Pod] = field(default_factory=list)
    """All that ended, counted or not."""


def index_of(pod: Pod) -> int | None:
    """Return a pod's index in its Job, None when it has none."""
    text = pod.metadata.annotations.get(INDEX, "")
    return int(text) if text.isdigit() else None


def sort_pods(job: Job, pods: Iterable[Pod], released: Set[str] = frozenset()) -> Pods:
    """Sort a Job's pods; those `released`, by uid, are counted already though they may not show it."""
    counted = job.status.uncountedTerminatedPods
    known = {*released, *(counted.succeeded if counted else ()), *(counted.failed if counted else ())}
    found = Pods()
    for pod in pods:
        deleted = pod.metadata.deletionTimestamp is not None
        if not pod.is_terminal:
            (found.terminating if deleted else found.active).append(pod)
        failed = has_failed(job, pod)
        if pod.is_terminal or failed:
            found.ended.append(pod)
        if FINALIZER not in pod.metadata.finalizers or pod.metadata.uid in known:
            continue
        if pod.status.phase == "Succeeded":
            found.succeeded.append(pod)
        elif failed:
            match = matched_rule(job, pod)
            (found.ignored if match is not None and match[0] == "Ignore" else found.failed).append(pod)
    return found


def limit_uncounted(pods: Pods, room: int) -> None:
    """Leave pods for a later step, where more have ended than one step counts."""
    room = max(room, 0)
    del pods.succeeded[room:]
    del pods.failed[max(room - len(pods.succeeded), 0) :]


def has_failed(job: Job, pod: Pod) -> bool:
    """Whether a pod counts as failed; one being deleted does at once, unless it is only replaced after its end."""
    if pod.status.phase in ("Failed", "Succeeded"):
        return pod.status.phase == "Failed"
    return pod.metadata.deletionTimestamp is not None and job.spec.podReplacementPolicy != "Failed"


# -- the policy on failures


def matched_rule(job: Job, pod: Pod) -> tuple[str, str] | None:
    """Return the action of the first rule of the failure policy a failed pod meets, and the message about it."""
    if pod.status.phase != "Failed":
        return None
    for index, rule in enumerate((job.spec.podFailurePolicy or {}).get("rules") or ()):
        action = rule["action"]
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        if (codes := rule.get("onExitCodes")) and (container := _matching_container(codes, pod)):
            code = container.state.terminated.exitCode if container.state.terminated else 0
            what = f"Container {container.name} for pod {name} failed with exit code {code}"
            return action, f"{what} matching {action} rule at index {index}"
        for pattern in rule.get("onPodConditions") or ():
            wanted = pattern["type"], pattern.get("status", "True")
            if any((c.type, c.status) == wanted for c in pod.status.conditions):
                return action, f"Pod {name} has condition {pattern['type']} matching {action} rule at index {index}"
    return None


def _matching_container(codes: dict[str, Any], pod: Pod) -> ContainerStatus | None:
    for status in (*pod.status.containerStatuses, *pod.status.initContainerStatuses):
        ended = status.state.terminated
        if ended is None or ended.exitCode == 0 or codes.get("containerName") not in (None, "", status.name):
            continue
        if (ended.exitCode in codes["values"]) == (codes["operator"] == "In"):
            return status
    return None


# -- indexes


@dataclass(frozen=True, slots=True)
class Indexes:
    """Which indexes of a Job are done, and which have failed for good."""

    completed: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()


def indexes_of(job: Job, pods: Pods) -> Indexes:
    """Return how far an indexed Job is; nothing for another one."""
    if not job.is_indexed:
        return Indexes()
    limit = job.spec.completions or 0
    completed = parse_indexes(job.status.completedIndexes, limit)
    completed |= {i for pod in pods.ended if pod.status.phase == "Succeeded" and (i := index_of(pod)) is not None}
    completed = {index for index in completed if index < limit}
    failed: set[int] = set()
    if job.spec.backoffLimitPerIndex is not None:
        failed = parse_indexes(job.status.failedIndexes, limit)
        failed |= {i for pod in pods.ended if (i := index_of(pod)) is not None and _fails_index(job, pod)}
    return Indexes(frozenset(completed), frozenset(failed - completed))


def _fails_index(job: Job, pod: Pod) -> bool:
    if not has_failed(job, pod):
        return False
    match = matched_rule(job, pod)
    if match is not None and match[0] in ("FailIndex", "Ignore"):
        return match[0] == "FailIndex"
    return index_failures(pod) >= (job.spec.backoffLimitPerIndex or 0)


def index_failures(pod: Pod) -> int:
    """Return how often the pod's index had failed before this pod."""
    text = pod.metadata.annotations.get(INDEX_FAILURES, "0")
    return int(text) if text.isdigit() else 0


class IndexFailures(NamedTuple):
    """How often an index has failed: in a way that counts, in one that is passed over, and which pod was the last."""

    counted: int = 0
    ignored: int = 0
    last: Pod | None = None


def index_failures_of(job: Job, index: int, ended: Iterable[Pod]) -> IndexFailures:
    """Return the failures of an index, as its next pod is told of them."""
    found = IndexFailures()
    for pod in ended:
        if index_of(pod) != index or not has_failed(job, pod):
            continue
        match = matched_rule(job, pod)
        ignored = match is not None and match[0] == "Ignore"
        text = pod.metadata.annotations.get(INDEX_IGNORED, "0")
        before = int(text) if text.isdigit() else 0
        one = IndexFailures(index_failures(pod) + (not ignored), before + ignored, pod)
        found = max(found, one, key=lambda failures: failures.counted + failures.ignored)
    return found


def missing_indexes(job: Job, indexes: Indexes, busy: Iterable[Pod], count: int) -> list[int]:
    """Return the `count` lowest indexes that are neither done nor failed nor have a pod."""
    taken = {*indexes.completed, *indexes.failed, *(i for pod in busy if (i := index_of(pod)) is not None)}
    found: list[int] = []
    for index in range(job.spec.completions or 0):
        if len(found) == count:
            break
        if index not in taken:
            found.append(index)
    return found


def surplus_pods(job: Job, active: Sequence[Pod]) -> list[Pod]:
    """Return active pods that have no place: without an index, beyond the last, or second of an index."""
    seen: set[int] = set()
    surplus = []
    for pod in sorted(active, key=lambda one: one.metadata.creationTimestamp):
        index = index_of(pod)
        if index is None or index >= (job.spec.completions or 0) or index in seen:
            surplus.append(pod)
        else:
            seen.add(index)
    return surplus


# -- is it over


def failure_of(job: Job, pods: Pods, indexes: Indexes, failed: int, *, at: datetime) -> Verdict | None:
    """Return why a Job has failed, None while it has not. `failed` is the number of failed pods in all."""
    target = job.condition("FailureTarget")
    if target is not None:
        return Verdict(target.get("reason", ""), target.get("message", ""))
    for pod in pods.failed:
        match = matched_rule(job, pod)
        if match is not None and match[0] == "FailJob":
            return Verdict("PodFailurePolicy", match[1])
    spec = job.spec
    if failed > spec.backoffLimit or _restarted_too_often(job, pods.active):
        return Verdict("BackoffLimitExceeded", "Job has reached the specified backoff limit")
    if seconds_to_deadline(job, at=at) == 0:
        return Verdict("DeadlineExceeded", "Job was active longer than specified deadline")
    if not indexes.failed:
        return None
    if spec.maxFailedIndexes is not None and len(indexes.failed) > spec.maxFailedIndexes:
        return Verdict("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes")
    if len(indexes.failed) + len(indexes.completed) >= (spec.completions or 0):
        return Verdict("FailedIndexes", "Job has failed indexes")
    return None


def _restarted_too_often(job: Job, active: Iterable[Pod]) -> bool:
    if (job.spec.template.get("spec") or {}).get("restartPolicy") != "OnFailure":
        return False
    restarts = sum(
        status.restartCount
        for pod in active
        if pod.status.phase in ("Running", "Pending")
        for status in (*pod.status.containerStatuses, *pod.status.initContainerStatuses)
    )
    return restarts > 0 if job.spec.backoffLimit == 0 else restarts >= job.spec.backoffLimit


def seconds_to_deadline(job: Job, *, at: datetime) -> float | None:
    """Return how long a Job may still run: 0 when its time is over, None when there is no limit."""
    limit, started = job.spec.activeDeadlineSeconds, job.status.startTime
    if limit is None or started is None or job.spec.suspend:
        return None
    return max(0.0, limit - (at - parse_time(started)).total_seconds())


def success_of(job: Job, pods: Pods, indexes: Indexes, succeeded: int) -> Verdict | None:
    """Return why a Job has succeeded, None while it has not. `succeeded` is the number of succeeded pods in all."""
    met = job.condition("SuccessCriteriaMet")
    if met is not None:
        return Verdict(met.get("reason", ""), met.get("message", ""))
    reached = Verdict("CompletionsReached", "Reached expected number of succeeded pods")
    if job.is_indexed:
        for number, rule in enumerate((job.spec.successPolicy or {}).get("rules") or ()):
            if _rule_met(rule, indexes.completed):
                return Verdict("SuccessPolicy", f"Matched rules at index {number}")
        return reached if len(indexes.completed) >= (job.spec.completions or 0) else None
    if job.spec.completions is None:  # a queue: one that succeeds says there is no more work
        return reached if succeeded > 0 and not pods.active and not pods.terminating else None
    return reached if succeeded >= job.spec.completions else None


def _rule_met(rule: dict[str, Any], completed: frozenset[int]) -> bool:
    among = parse_indexes(rule["succeededIndexes"]) if rule.get("succeededIndexes") else None
    done = completed if among is None else completed & among
    wanted = rule.get("succeededCount")
    if wanted is not None:
        return len(done) >= int(wanted)
    return among is not None and among <= completed


def wanted_active(job: Job, pods: Pods, indexes: Indexes, succeeded: int) -> int:
    """Return how many pods should be active."""
    spec, active = job.spec, len(pods.active)
    if job.is_indexed:
        return min(spec.parallelism, (spec.completions or 0) - len(indexes.completed) - len(indexes.failed))
    if spec.completions is None:
        return active if succeeded > 0 else spec.parallelism
    return max(min(spec.parallelism, spec.completions - succeeded), 0)
